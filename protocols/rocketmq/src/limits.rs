//! Bounds and settings of the RocketMQ front-end, as the configuration names them. The defaults
//! are those of the reference.

use serde::Deserialize;

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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            auto_create_topics: true,
            advertised_address: None,
            ordered_groups: Vec::new(),
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
        }
    }
}
