//! What a session wants done: the closed list of everything that leaves it.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_broker::{
    Bind, Consume, Declared, Delivery, ExchangeDef, QueueDef, QueueStats, Refusal,
};
use mainstem_schemas::{ConsumerId, Secret, Settlement};

use crate::codec::Reply;

/// One thing to do. They are done in order; nothing more is handed to the session before all are.
#[derive(Debug)]
pub enum Effect {
    /// Write this method.
    Write {
        channel: u16,
        reply: Reply,
    },
    /// Verify who the peer is, then [`super::Session::logged_in`].
    Login(Secret),
    /// Go on by this secret, then [`super::Session::renewed`].
    Renew(Bytes),
    /// Enter this namespace, then [`super::Session::entered`].
    Enter {
        vhost: String,
    },
    /// Publish; what becomes of it comes back through [`super::Session::published`].
    Publish {
        ticket: Ticket,
        content: Content,
    },
    Settle(Settlement),
    /// A channel was opened besides so many others: count it, then
    /// [`super::Session::channel_counted`].
    CountChannel {
        channel: u16,
        others: usize,
    },
    SetPool {
        pool: u16,
        limit: u32,
    },
    /// End a consumer; nobody waits for the answer.
    Drop(ConsumerId),
    /// Ask the store, then [`super::Session::answered`]. Everything published and settled before
    /// takes effect first.
    Ask(Ask),
    /// Write a get-ok with this record.
    WriteGot {
        channel: u16,
        delivery_tag: u64,
        delivery: Box<Delivery>,
        /// The client is told how often the record came back.
        counts_returns: bool,
        message_count: u32,
    },
    /// Give back everything that the store holds for the connection, once what was published has
    /// its outcome.
    Leave,
    /// Close the socket when everything written has been sent and this long has passed.
    Hangup {
        after_ms: u64,
    },
}

/// What ties the outcome of a publish to its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub channel: u16,
    /// Which opening of the channel's number it was.
    pub life: u32,
    /// The confirm's sequence number, on a channel that asked for confirms.
    pub confirm: Option<u64>,
    /// Return it if nobody wants it.
    pub mandatory: bool,
}

/// A message as published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub exchange: Bytes,
    pub routing_key: Bytes,
    /// Property flags and fields, verbatim.
    pub properties: Bytes,
    pub body: Bytes,
    /// The queue that "reply to me directly" stands for on its channel.
    pub reply_queue: Option<Bytes>,
}

impl Content {
    /// The same in memory of its own: a slice keeps all alive that was read together with it.
    pub(super) fn detached(self) -> Self {
        let own = |slice: &Bytes| Bytes::copy_from_slice(slice);
        Self {
            exchange: own(&self.exchange),
            routing_key: own(&self.routing_key),
            properties: own(&self.properties),
            body: own(&self.body),
            reply_queue: self.reply_queue,
        }
    }

    /// What it takes in memory besides itself.
    pub(super) fn bytes(&self) -> usize {
        let Self { exchange, routing_key, properties, body, reply_queue: _ } = self;
        let parts = [exchange, routing_key, properties, body];
        parts.into_iter().map(Bytes::len).sum()
    }
}

/// A question to the store, and what its answer is for.
#[derive(Debug)]
pub struct Ask {
    pub channel: u16,
    pub request: Request,
    pub then: Then,
}

/// The question: one variant per call that a method can need.
#[derive(Debug)]
pub enum Request {
    DeclareExchange(ExchangeDef),
    FindExchange(String),
    DeleteExchange {
        name: String,
        if_unused: bool,
    },
    DeclareQueue(QueueDef),
    FindQueue(String),
    DeleteQueue {
        name: String,
        if_unused: bool,
        if_empty: bool,
    },
    PurgeQueue(String),
    Bind(Bind),
    Unbind(Bind),
    Consume(Consume),
    Cancel(ConsumerId),
    Get {
        queue: String,
        settle_at_once: bool,
    },
    /// Nothing but the outcome of everything before.
    Barrier,
}

/// The store's answer.
#[derive(Debug)]
pub enum Answer {
    Exchange(Declared<ExchangeDef>),
    ExchangeFound(Option<Arc<ExchangeDef>>),
    Queue(Declared<QueueDef>),
    Count(u64),
    Got(Option<(Delivery, QueueStats)>),
    Done,
}

/// What came of a question.
pub type Answered = Result<Answer, Refusal>;

/// What to make of an answer.
#[derive(Debug)]
pub enum Then {
    /// `wanted` is `None` for a passive declare. A `reserved` name must exist already.
    ExchangeDeclared {
        name: String,
        wanted: Option<ExchangeDef>,
        reserved: bool,
        no_wait: bool,
    },
    ExchangeDeleted {
        no_wait: bool,
    },
    ExchangeBound {
        no_wait: bool,
    },
    ExchangeUnbound {
        no_wait: bool,
    },
    /// As for exchanges.
    QueueDeclared {
        name: String,
        wanted: Option<QueueDef>,
        reserved: bool,
        no_wait: bool,
    },
    QueueDeleted {
        name: String,
        no_wait: bool,
    },
    QueueBound {
        no_wait: bool,
    },
    QueueUnbound,
    /// The queue is known now; purge it if it is no stream.
    Purge {
        no_wait: bool,
    },
    Purged {
        no_wait: bool,
    },
    /// The queue is known now; consume from it.
    Consume(Wish),
    Consuming {
        wish: Wish,
        consumer: ConsumerId,
        is_stream: bool,
        counts_returns: bool,
        timeout_ms: u64,
    },
    Cancelled {
        consumer_tag: Bytes,
        no_wait: bool,
    },
    /// The queue is known now; get from it if it is no stream.
    Get {
        queue: String,
        no_ack: bool,
    },
    Got {
        counts_returns: bool,
        timeout_ms: u64,
    },
    Committed,
    /// Nothing is asked: the answer stands, and comes after the faults of what was published before.
    Replying(Reply),
}

/// What basic.consume asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    pub queue: String,
    pub consumer_tag: Bytes,
    pub no_ack: bool,
    pub exclusive: bool,
    pub no_wait: bool,
    pub priority: i32,
    /// Where to begin to read; only a stream can be asked.
    pub start: Option<mainstem_broker::Start>,
    /// How long a delivery may stay unsettled, if the consumer has a wish.
    pub timeout_ms: Option<u64>,
    /// What it wants; only a stream can be asked.
    pub sieve: super::Sieve,
}

impl Ask {
    /// Answers a method that needs nothing of the store, in the order in which methods came: RabbitMQ
    /// has refused a publish before it answers the next method, and clients wait for that answer to
    /// see whether it did.
    pub(super) fn reply(channel: u16, reply: Reply) -> Self {
        Self { channel, request: Request::Barrier, then: Then::Replying(reply) }
    }
}

impl Then {
    /// The class and method that a fault in the answer is blamed on.
    #[must_use]
    pub fn method(&self) -> (u16, u16) {
        match self {
            Self::ExchangeDeclared { .. } => (40, 10),
            Self::ExchangeDeleted { .. } => (40, 20),
            Self::ExchangeBound { .. } => (40, 30),
            Self::ExchangeUnbound { .. } => (40, 40),
            Self::QueueDeclared { .. } => (50, 10),
            Self::QueueBound { .. } => (50, 20),
            Self::Purge { .. } | Self::Purged { .. } => (50, 30),
            Self::QueueDeleted { .. } => (50, 40),
            Self::QueueUnbound => (50, 50),
            Self::Consume(_) | Self::Consuming { .. } => (60, 20),
            Self::Cancelled { .. } => (60, 30),
            Self::Get { .. } | Self::Got { .. } => (60, 70),
            Self::Committed => (90, 20),
            Self::Replying(_) => (0, 0),
        }
    }
}
