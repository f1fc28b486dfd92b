//! The exchanges, bindings and named queues of a namespace, as an operator sees them.

use std::sync::Arc;

use mainstem_schemas::UnixMillis;
use tokio::sync::oneshot;

use crate::{
    client::Broker,
    command::{Bind, Command, ExchangeDef, ListCommand, QueueDef, QueueStats, Reply, Ruled},
    error::Refusal,
    exchange::BindingKey,
    meter::{Count, KINDS_OF_QUEUES},
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

impl Broker {
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
