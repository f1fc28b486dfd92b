//! Bounds and settings of the RocketMQ front-end, as the configuration names them. The defaults
//! are those of the reference.

use serde::Deserialize;

use crate::codec::proto::MessageType;

/// What a topic takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TopicType {
    Normal,
    Fifo,
    Delay,
    Transaction,
    Priority,
    Lite,
}

impl TopicType {
    /// The protocol's word for its messages.
    #[must_use]
    pub fn message_type(self) -> MessageType {
        match self {
            Self::Normal => MessageType::Normal,
            Self::Fifo => MessageType::Fifo,
            Self::Delay => MessageType::Delay,
            Self::Transaction => MessageType::Transaction,
            Self::Priority => MessageType::Priority,
            Self::Lite => MessageType::Lite,
        }
    }
}

/// A topic that takes messages of one type.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypedTopic {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: TopicType,
}

/// Bounds and settings of the RocketMQ front-end.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Make a topic when a client asks for its route or sends to it.
    pub auto_create_topics: bool,
    /// `host:port` that routes name instead of the address the client was configured with.
    pub advertised_address: Option<String>,
    /// Groups whose members get the records of a topic one batch at a time, in order, whether the
    /// records have a message group or not.
    pub ordered_groups: Vec<String>,
    /// Topics of one type each: they are made when they are first named, and refuse messages of any
    /// other type. Other topics take everything.
    pub topics: Vec<TypedTopic>,
    /// Groups of which one consumer at a time has a lite topic, the one that subscribed last.
    pub exclusive_lite_groups: Vec<String>,

    pub connections_max: usize,
    /// A connection that has not finished its TLS handshake by then is closed.
    pub handshake_ms: u64,
    pub streams_per_connection_max: u32,
    /// Largest request in bytes, all its messages together.
    pub request_bytes_max: usize,
    /// How long connections may take to end after shutdown began.
    pub drain_ms: u64,

    /// Clients known at a time.
    pub clients_max: usize,
    /// A client that sent nothing for this long is forgotten, and what it had in hand released.
    pub client_expiry_ms: u64,
    /// Receive requests that may wait for messages at a time.
    pub polls_max: usize,
    pub poll_ms_min: u64,
    pub poll_ms_max: u64,
    /// Messages in one receive answer.
    pub receive_batch_max: usize,
    /// Names of topics remembered as existing, and of groups remembered as ordered.
    pub names_max: usize,

    pub topic_chars_max: usize,
    pub group_chars_max: usize,
    /// Largest body in bytes, as sent.
    pub body_bytes_max: usize,
    pub properties_max: usize,
    /// Names and values of the user properties, the tag and the keys together.
    pub properties_bytes_max: usize,
    pub message_group_bytes_max: usize,
    pub filter_bytes_max: usize,
    pub delay_ms_max: u64,
    pub invisible_ms_min: u64,
    pub invisible_ms_max: u64,
    /// How long a client may keep a message that it asked the server to renew.
    pub renewed_ms_max: u64,
    /// Node clients send a nack delay in wrong units; theirs is at least this.
    pub node_nack_ms_min: u64,
    /// Deliveries of a message to a group before it goes to the group's dead letters.
    pub attempts_max: u32,
    /// A producer that has not decided about a transaction for this long is asked, unless its
    /// message says how long; which may be at most `transaction_patience_ms_max`.
    pub transaction_patience_ms: u64,
    pub transaction_patience_ms_max: u64,
    /// Between one asking and the next.
    pub transaction_ask_interval_ms: u64,
    /// Times that producers are asked about a transaction before it is rolled back.
    pub transaction_asks_max: u32,
    /// A transaction is rolled back after this long, though there was no producer to be asked, when
    /// some client of its namespace is connected.
    pub transaction_age_ms_max: u64,

    /// Lite topics in a namespace.
    pub lite_topics_max: usize,
    pub lite_topic_chars_max: usize,
    /// A lite topic goes when nothing was sent to it for this long, every group has read it, and
    /// nobody waits at it.
    pub lite_topic_idle_ms: u64,
    /// Lite topics that one client may subscribe.
    pub lite_subscriptions_max: usize,
    /// Lite topics that all clients together may subscribe.
    pub lite_subscriptions_total_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            auto_create_topics: true,
            advertised_address: None,
            ordered_groups: Vec::new(),
            topics: Vec::new(),
            exclusive_lite_groups: Vec::new(),
            connections_max: 65_536,
            handshake_ms: 10_000,
            streams_per_connection_max: 4096,
            request_bytes_max: 130 << 20,
            drain_ms: 5_000,
            clients_max: 65_536,
            client_expiry_ms: 120_000,
            polls_max: 100_000,
            poll_ms_min: 5_000,
            poll_ms_max: 20_000,
            receive_batch_max: 32,
            names_max: 65_536,
            topic_chars_max: 127,
            group_chars_max: 120,
            body_bytes_max: 4 << 20,
            properties_max: 128,
            properties_bytes_max: 16 << 10,
            message_group_bytes_max: 63,
            filter_bytes_max: 16 << 10,
            delay_ms_max: 24 * 3_600_000,
            invisible_ms_min: 10_000,
            invisible_ms_max: 12 * 3_600_000,
            renewed_ms_max: 3 * 3_600_000,
            node_nack_ms_min: 1_000,
            attempts_max: 17,
            transaction_patience_ms: 6_000,
            transaction_patience_ms_max: 3_600_000,
            transaction_ask_interval_ms: 30_000,
            transaction_asks_max: 15,
            transaction_age_ms_max: 72 * 3_600_000,
            lite_topics_max: 2_000_000,
            lite_topic_chars_max: 64,
            lite_topic_idle_ms: 72 * 3_600_000,
            lite_subscriptions_max: 2000,
            lite_subscriptions_total_max: 1_000_000,
        }
    }
}
