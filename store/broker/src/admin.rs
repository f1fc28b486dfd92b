//! What an operator asks of the store, in any namespace.

use std::sync::atomic::Ordering;

use mainstem_index::ParameterKey;
use mainstem_schemas::Table;
use tokio::sync::oneshot;

use crate::{
    client::{Broker, Client},
    command::Command,
    error::Refusal,
    meter::{Did, Traffic},
    roll::Introduction,
    rules::{Authority, Rule},
    usage::{Bounded, Entered, Over, Scope, from_table, to_table},
};

impl Broker {
    /// Sets a rule, or replaces the one of that name. It holds for queues and exchanges that are
    /// there and for those to come; returns when it is durable. Errors: [`Refusal::BadArguments`].
    pub async fn set_policy(
        &self,
        namespace: &str,
        authority: Authority,
        rule: Rule,
    ) -> Result<(), Refusal> {
        rule.check(authority)?;
        let key = key(namespace, authority.component(), &rule.name);
        self.set_parameter(key, rule.to_table()).await
    }

    /// Takes a rule back; tells whether it was there.
    pub async fn delete_policy(
        &self,
        namespace: &str,
        authority: Authority,
        name: &str,
    ) -> Result<bool, Refusal> {
        self.delete_parameter(key(namespace, authority.component(), name)).await
    }

    /// All rules of a namespace, by name.
    pub async fn list_policies(
        &self,
        namespace: &str,
        authority: Authority,
    ) -> Result<Vec<Rule>, Refusal> {
        let all = self.parameters(namespace, authority.component()).await?;
        Ok(all.iter().filter_map(|(name, value)| Rule::from_table(name, value)).collect())
    }

    /// Sets a limit, or with `None` takes it back; returns when that is durable. Whoever has more than
    /// that keeps it. Errors: [`Refusal::BadArguments`], where nobody keeps to such a limit.
    pub async fn set_limit(
        &self,
        scope: &Scope,
        bounded: Bounded,
        max: Option<u64>,
    ) -> Result<(), Refusal> {
        if !scope.bounds(bounded) {
            let text = format!("there is no limit {} for {scope:?}", bounded.word());
            return Err(Refusal::BadArguments(text));
        }
        let (owner, component) = scope.place();
        let key = key(owner, component, bounded.word());
        match max {
            Some(max) => self.set_parameter(key, to_table(max)).await,
            None => self.delete_parameter(key).await.map(drop),
        }
    }

    /// The limits of a namespace or a user.
    pub async fn list_limits(&self, scope: &Scope) -> Result<Vec<(Bounded, u64)>, Refusal> {
        let (owner, component) = scope.place();
        let all = self.parameters(owner, component).await?;
        let limit =
            |(name, value): &(String, Table)| Some((Bounded::from_word(name)?, from_table(value)?));
        Ok(all.iter().filter_map(limit).collect())
    }

    /// Counts a client's connection and puts it on the roll, for as long as the answer lives. Errors:
    /// its namespace or its user has as many as it may.
    pub fn enter(&self, client: &Client, introduction: Introduction) -> Result<Entered, Over> {
        let (number, now) = (client.number(), self.now());
        client.speaks(introduction.protocol);
        self.shared.usage.enter(client.principal(), number, introduction, now)
    }

    /// Ends everything in a namespace: sessions, queues, topics, exchanges, what is retained and what is
    /// kept. Nobody should be let in meanwhile. Returns when that is durable.
    pub async fn empty(&self, namespace: &str) -> Result<(), Refusal> {
        loop {
            let (namespace, (reply, answer)) = (namespace.to_owned(), oneshot::channel());
            self.shared.room().await?.send(Command::Empty { namespace, reply });
            if answer.await.map_err(|_| Refusal::Closed)? {
                self.shared.emptied.fetch_add(1, Ordering::Release);
                return Ok(());
            }
        }
    }

    /// Keeps something under a name that is of no meaning to the store, or in place of what had that
    /// name. Returns when it is durable.
    pub async fn keep(
        &self,
        namespace: &str,
        component: &str,
        name: &str,
        value: Table,
    ) -> Result<(), Refusal> {
        self.set_parameter(key(namespace, component, name), value).await
    }

    /// Forgets what [`Broker::keep`] kept; tells whether it was there.
    pub async fn let_go(
        &self,
        namespace: &str,
        component: &str,
        name: &str,
    ) -> Result<bool, Refusal> {
        self.delete_parameter(key(namespace, component, name)).await
    }

    /// All that is kept under a component, by name.
    pub async fn kept(
        &self,
        namespace: &str,
        component: &str,
    ) -> Result<Vec<(String, Table)>, Refusal> {
        self.parameters(namespace, component).await
    }

    /// Grows when a namespace was taken away: what somebody knows of what was kept in it is no more.
    #[must_use]
    pub fn emptied(&self) -> u64 {
        self.shared.emptied.load(Ordering::Acquire)
    }

    /// How often it happened since the start. What the commit thread counts comes to it once a second.
    #[must_use]
    pub fn count(&self, did: Did) -> u64 {
        self.shared.usage.totals.get(did)
    }

    /// What came and went by each protocol that somebody came by, in the words of
    /// [`Introduction::protocol`].
    #[must_use]
    pub fn traffic(&self) -> Vec<(&'static str, Traffic)> {
        self.shared.usage.traffic()
    }

    /// How many connections are counted in, and channels of theirs.
    #[must_use]
    pub fn occupancy(&self) -> (u64, u64) {
        self.shared.usage.occupancy()
    }

    /// Whether publishes are refused because the disk, or the log's bound, has no room for them.
    #[must_use]
    pub fn is_out_of_room(&self) -> bool {
        self.shared.usage.is_out_of_room()
    }

    async fn set_parameter(&self, key: ParameterKey, value: Table) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        self.shared.room().await?.send(Command::SetParameter { key, value, reply });
        answer.await.map_err(|_| Refusal::Closed)
    }

    async fn delete_parameter(&self, key: ParameterKey) -> Result<bool, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.shared.room().await?.send(Command::DeleteParameter { key, reply });
        answer.await.map_err(|_| Refusal::Closed)
    }

    async fn parameters(
        &self,
        namespace: &str,
        component: &str,
    ) -> Result<Vec<(String, Table)>, Refusal> {
        let (namespace, component) = (namespace.to_owned(), component.to_owned());
        let (reply, answer) = oneshot::channel();
        self.shared.room().await?.send(Command::Parameters { namespace, component, reply });
        answer.await.map_err(|_| Refusal::Closed)
    }
}

fn key(namespace: &str, component: &str, name: &str) -> ParameterKey {
    ParameterKey {
        namespace: namespace.to_owned(),
        component: component.to_owned(),
        name: name.to_owned(),
    }
}
