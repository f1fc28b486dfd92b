//! Reading a topic by its places, and moving its groups.

use mainstem_schemas::{Offset, QueueId};
use tokio::sync::oneshot;

use super::{Act, Client, sending::Fetching};
use crate::{
    command::{
        BranchTerms, Command, GroupRef, Moved, Pull, Sought, Start, TopicCommand, TopicTerms,
    },
    error::Refusal,
    inbox::Delivery,
    policy::DeliveryPolicy,
};

impl Client {
    /// Finds a topic, or with `create` makes it: its queue keeps every record below its name from
    /// then on, and an exchange of the same name appears.
    pub async fn open_topic(&self, topic: String, create: bool) -> Result<QueueId, Refusal> {
        if create && self.check_topic(Act::Configure, &topic).is_err() {
            // One that is there need not be made.
            let found = self.open_topic_as(topic.clone(), false).await;
            if !matches!(found, Err(Refusal::NoTopic(_))) {
                return found;
            }
            self.check_topic(Act::Configure, &topic)?;
        }
        self.open_topic_as(topic, create).await
    }

    async fn open_topic_as(&self, topic: String, create: bool) -> Result<QueueId, Refusal> {
        self.ask(|reply| Command::OpenTopic { client: self.id, topic, create, reply }).await?
    }

    /// Makes a topic, or lets one that is there go by other terms; tells whether it is new. Returns when
    /// that is durable.
    pub async fn declare_topic(&self, topic: String, terms: TopicTerms) -> Result<bool, Refusal> {
        self.check_topic(Act::Configure, &topic)?;
        self.ask_topic(|reply| TopicCommand::Declare { topic, terms, reply }).await?
    }

    /// Deletes a topic with all it keeps, the topics below it, and the exchange of its name unless something
    /// is bound to that. Returns when that is durable. Errors: [`Refusal::NoTopic`].
    pub async fn delete_topic(&self, topic: String) -> Result<(), Refusal> {
        self.check_topic(Act::Configure, &topic)?;
        let mut was_there = false;
        loop {
            let name = topic.clone();
            let goes_on = self.ask_topic(|reply| TopicCommand::Delete { topic: name, reply });
            if !goes_on.await?? {
                return was_there.then_some(()).ok_or(Refusal::NoTopic(topic));
            }
            was_there = true;
        }
    }

    /// Forgets how far a group has read a topic; tells whether it had. What it had in hand is its own no
    /// more. Errors: [`Refusal::NoTopic`].
    pub async fn delete_group(&self, topic: String, group: String) -> Result<bool, Refusal> {
        self.check_group_configuration(&group)?;
        self.ask_topic(|reply| TopicCommand::DeleteGroup { topic, group, reply }).await?
    }

    /// Finds a group's cursor on a topic, or makes it: at the topic's first record while nothing
    /// of the topic has been dropped yet, else at its end. It is served by `policy` from now on.
    /// Errors: [`Refusal::NoTopic`].
    pub async fn open_group(
        &self,
        topic: String,
        group: String,
        policy: DeliveryPolicy,
    ) -> Result<GroupRef, Refusal> {
        self.check_group(&topic, &group)?;
        self.ask(|reply| Command::OpenGroup { client: self.id, topic, group, policy, reply })
            .await?
    }

    /// Where a place is in a topic, and what the topic has: true after a crash as well. A place
    /// outside is moved in. Errors: [`Refusal::NoTopic`].
    pub async fn seek(&self, topic: String, to: Start) -> Result<Sought, Refusal> {
        self.check_topic(Act::Read, &topic)?;
        self.ask_topic(|reply| TopicCommand::Seek { topic, to, reply }).await?
    }

    /// Reads a topic from a place on without taking anything, waiting for the first record. Empty
    /// when the wait ended.
    pub async fn pull(&self, pull: Pull) -> Result<Vec<Delivery>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let (client, ask) = (self.id, TopicCommand::Pull { pull, reply });
        self.shared.room().await?.send(Command::Topic { client, ask });
        let mut fetching = Fetching { client: self, answer };
        (&mut fetching.answer).await.map_err(|_| Refusal::Closed)
    }

    /// The place before which a group has settled everything; `None` for a group that never read the
    /// topic. Errors: [`Refusal::NoTopic`].
    pub async fn find_group(
        &self,
        topic: String,
        group: String,
    ) -> Result<Option<Offset>, Refusal> {
        self.check_group(&topic, &group)?;
        self.ask_topic(|reply| TopicCommand::FindGroup { topic, group, reply }).await?
    }

    /// Makes a group go on elsewhere in a topic, be it back or ahead. What it had in hand is its own
    /// no more, and what it settled behind that place comes again. Serves a group that is new by
    /// `policy`. Returns when that is durable. Errors: [`Refusal::NoTopic`].
    pub async fn move_group(
        &self,
        topic: String,
        group: String,
        to: Start,
        policy: DeliveryPolicy,
    ) -> Result<Moved, Refusal> {
        self.check_group(&topic, &group)?;
        self.ask_topic(|reply| TopicCommand::MoveGroup { topic, group, to, policy, reply }).await?
    }

    /// Finds a topic below a topic, or makes it: its queue keeps every record of exactly this path,
    /// besides what the topic above keeps. Its name has `/` between segments, and serves like any
    /// topic's. Errors: [`Refusal::Limit`], when there are as many as there may be.
    pub async fn open_branch(&self, name: String, terms: BranchTerms) -> Result<QueueId, Refusal> {
        self.check_topic(Act::Write, &name).or_else(|_| self.check_topic(Act::Read, &name))?;
        self.ask_topic(|reply| TopicCommand::OpenBranch { name, terms, reply }).await?
    }

    /// Up to `max` names of topics below a topic, in order, from behind `after` on; each without the
    /// name of the topic above.
    pub async fn list_branches(
        &self,
        topic: String,
        after: Option<String>,
        max: usize,
    ) -> Result<Vec<String>, Refusal> {
        self.check_topic(Act::Read, &topic)?;
        self.ask_topic(|reply| TopicCommand::Branches { topic, after, max, reply }).await
    }

    async fn ask_topic<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<T>) -> TopicCommand,
    ) -> Result<T, Refusal> {
        self.ask(|reply| Command::Topic { client: self.id, ask: ask(reply) }).await
    }
}
