//! What an operator asks of the store, in any namespace.

use mainstem_index::ParameterKey;
use mainstem_schemas::Table;
use tokio::sync::oneshot;

use crate::{
    client::Broker,
    command::Command,
    error::Refusal,
    rules::{Authority, Rule},
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

    async fn set_parameter(&self, key: ParameterKey, value: Table) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::SetParameter { key, value, reply }).await?;
        answer.await.map_err(|_| Refusal::Closed)
    }

    async fn delete_parameter(&self, key: ParameterKey) -> Result<bool, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::DeleteParameter { key, reply }).await?;
        answer.await.map_err(|_| Refusal::Closed)
    }

    async fn parameters(
        &self,
        namespace: &str,
        component: &str,
    ) -> Result<Vec<(String, Table)>, Refusal> {
        let (namespace, component) = (namespace.to_owned(), component.to_owned());
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::Parameters { namespace, component, reply }).await?;
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
