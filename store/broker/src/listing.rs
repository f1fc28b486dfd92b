//! The exchanges, bindings and named queues of a namespace, as an operator sees them.

use std::sync::Arc;

use mainstem_schemas::{Offset, UnixMillis};
use tokio::sync::oneshot;

use crate::{
    client::Broker,
    command::{
        Bind, Command, ExchangeDef, ListCommand, QueueDef, QueueStats, Reply, Ruled, TopicTerms,
    },
    error::Refusal,
    exchange::BindingKey,
    meter::{Count, KINDS_OF_QUEUES},
    policy::DeliveryPolicy,
};

/// What one answer lists at most.
pub(crate) const ITEMS_MAX: usize = 1000;

/// Some of what is there, in order.
#[derive(Clone, Debug)]
pub struct Page<T, A> {
    /// May be few, or none, though there is more.
    pub items: Vec<T>,
    /// What the next page is behind, if there may be one.
    pub next: Option<A>,
}

/// An exchange.
#[derive(Clone, Debug)]
pub struct ExchangeShown {
    pub def: Arc<ExchangeDef>,
    pub ruled: Ruled,
    /// Records that senders brought to it, and how often one went on to a queue.
    pub counts: [Count; 2],
}

/// What happened to a queue's records since it came to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCounts {
    /// By the first kinds of [`crate::Did`].
    pub did: [Count; KINDS_OF_QUEUES],
    pub ready: Count,
    pub unsettled: Count,
}

/// A named queue.
#[derive(Clone, Debug)]
pub struct QueueShown {
    pub def: Arc<QueueDef>,
    pub stats: QueueStats,
    /// Bytes of what is ready: of the bodies, or where everything is kept, of all that takes room.
    pub ready_bytes: u64,
    pub unsettled_bytes: u64,
    /// When the first record that is ready was appended. Only of a queue that was asked for alone.
    pub head: UnixMillis,
    pub ruled: Ruled,
    /// Nothing if nothing happened.
    pub counts: Option<QueueCounts>,
}

/// Which bindings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BindingsOf {
    /// Those of this exchange.
    pub source: Option<String>,
    /// Those to the queue of this name, or with `true` to the exchange.
    pub destination: Option<(String, bool)>,
}

/// A place in a list of bindings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingPlace {
    pub(crate) source: String,
    pub(crate) binding: BindingKey,
}

/// A topic.
#[derive(Clone, Debug)]
pub struct TopicShown {
    pub name: String,
    /// What it goes by; `None` for the store's own settings.
    pub terms: TopicTerms,
    /// Of the records that were not forgotten, and their bytes in the log.
    pub records: u64,
    pub bytes: u64,
    /// The oldest record that is still kept, and what the next one gets; of a topic with priorities those of
    /// the highest one.
    pub first: Offset,
    pub next: Offset,
    /// Groups that read it.
    pub groups: u64,
}

/// A group at a topic.
#[derive(Clone, Debug)]
pub struct GroupShown {
    pub topic: String,
    pub group: String,
    pub policy: DeliveryPolicy,
    /// Everything before is settled; of a topic with priorities, among those of the highest one.
    pub floor: Offset,
    /// Records that are kept and not settled, those in hand among them.
    pub unsettled: u64,
    pub in_hand: u64,
    /// Requests that wait for records.
    pub waiting: u64,
}

/// Which groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupsOf {
    /// Those at this topic, which may be one below a topic. `None` for those at all topics but these.
    pub topic: Option<String>,
    /// The one of this name.
    pub group: Option<String>,
}

/// A place in a list of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPlace {
    pub(crate) topic: String,
    pub(crate) group: String,
}

impl Broker {
    /// The topics of a namespace behind a name, by name; none of those below a topic.
    pub async fn list_topics(
        &self,
        namespace: &str,
        after: Option<String>,
    ) -> Result<Page<TopicShown, String>, Refusal> {
        self.list(namespace, |reply| ListCommand::Topics { after, reply }).await
    }

    /// The topic of that name, which may be one below a topic.
    pub async fn show_topic(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<TopicShown>, Refusal> {
        let name = name.to_owned();
        self.list(namespace, |reply| ListCommand::Topic { name, reply }).await
    }

    /// The groups of a namespace behind a place, by topic.
    pub async fn list_groups(
        &self,
        namespace: &str,
        of: GroupsOf,
        after: Option<GroupPlace>,
    ) -> Result<Page<GroupShown, GroupPlace>, Refusal> {
        self.list(namespace, |reply| ListCommand::Groups { of, after, reply }).await
    }

    /// The exchanges of a namespace behind a name, by name. The default one is not among them: it
    /// leads to every named queue.
    pub async fn list_exchanges(
        &self,
        namespace: &str,
        after: Option<String>,
    ) -> Result<Page<ExchangeShown, String>, Refusal> {
        self.list(namespace, |reply| ListCommand::Exchanges { after, reply }).await
    }

    /// The exchange of that name.
    pub async fn show_exchange(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ExchangeShown>, Refusal> {
        let name = name.to_owned();
        self.list(namespace, |reply| ListCommand::Exchange { name, reply }).await
    }

    /// See [`ExchangeShown::counts`], of the exchange without a name.
    pub async fn count_nameless(&self, namespace: &str) -> Result<[Count; 2], Refusal> {
        self.list(namespace, |reply| ListCommand::Nameless { reply }).await
    }

    /// The bindings of a namespace behind a place, by source.
    pub async fn list_bindings(
        &self,
        namespace: &str,
        of: BindingsOf,
        after: Option<BindingPlace>,
    ) -> Result<Page<Bind, BindingPlace>, Refusal> {
        self.list(namespace, |reply| ListCommand::Bindings { of, after, reply }).await
    }

    /// The named queues of a namespace behind a name, by name. Those that are not in memory do not come
    /// there for it.
    pub async fn list_queues(
        &self,
        namespace: &str,
        after: Option<String>,
    ) -> Result<Page<QueueShown, String>, Refusal> {
        self.list(namespace, |reply| ListCommand::Queues { after, reply }).await
    }

    /// The queue of that name, whoever's it is.
    pub async fn show_queue(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<QueueShown>, Refusal> {
        let name = name.to_owned();
        self.list(namespace, |reply| ListCommand::Queue { name, reply }).await
    }

    async fn list<T>(
        &self,
        namespace: &str,
        ask: impl FnOnce(Reply<T>) -> ListCommand,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let (namespace, ask) = (namespace.to_owned(), ask(reply));
        self.shared.room().await?.send(Command::List { namespace, ask });
        answer.await.map_err(|_| Refusal::Closed)
    }
}
