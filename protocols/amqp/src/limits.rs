//! Settings of the AMQP front-end. Every count and size is a bound of something held in memory.

use serde::Deserialize;

/// The settings, each with its default.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Told to clients: what they take the server for.
    pub server_product: String,
    /// Told to clients, some of which act on it (3.x: global QoS is a channel's).
    pub server_version: String,
    /// Told to clients.
    pub cluster_name: String,
    /// Offer the mechanism ANONYMOUS to clients; who may use it is the server's rule.
    pub anonymous_mechanism: bool,
    /// Connections at a time.
    pub connections_max: usize,
    /// Open channels of one connection.
    pub channel_max: u16,
    /// Largest frame in bytes, overhead included.
    pub frame_max_bytes: u32,
    /// Proposed to clients; what they answer counts. 0 for none.
    pub heartbeat_s: u16,
    /// How long a peer may take until its connection is open.
    pub handshake_ms: u64,
    /// Pause before the silent close of a peer that failed to log in and cannot be told.
    pub login_refused_delay_ms: u64,
    /// How long a peer may take to answer our connection.close.
    pub close_wait_ms: u64,
    /// How long connections may take to end at shutdown.
    pub drain_ms: u64,
    /// Largest read from a socket in bytes.
    pub read_bytes_max: usize,
    /// Bytes that may wait for a slow reader before its consumers are served no further.
    pub write_pause_bytes: usize,
    /// Bytes that may wait for a slow reader before we read no more from it.
    pub write_bytes_max: usize,
    /// Batches of publishes of one connection that may wait to become durable.
    pub batches_unconfirmed_max: usize,
    /// How long a consumer may leave a delivery unsettled before its channel is closed; 0 for any
    /// time. A consumer's own argument goes before it (`x-consumer-timeout`), then the shorter one
    /// of its queue's argument and policies (`consumer-timeout`).
    pub delivery_ack_timeout_ms: u64,
    /// Bytes of memory for what one connection has sent and what is not published yet, on all its
    /// channels: messages of which more is to come, and transactions before their commit, with
    /// names, properties and bodies. One message always has room.
    pub unpublished_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            server_product: "RabbitMQ".to_owned(),
            server_version: "3.13.7".to_owned(),
            cluster_name: "mainstem".to_owned(),
            anonymous_mechanism: false,
            connections_max: 65_536,
            channel_max: 2047,
            frame_max_bytes: 131_072,
            heartbeat_s: 60,
            handshake_ms: 10_000,
            login_refused_delay_ms: 3000,
            close_wait_ms: 5000,
            drain_ms: 5000,
            read_bytes_max: 256 << 10,
            write_pause_bytes: 512 << 10,
            write_bytes_max: 16 << 20,
            batches_unconfirmed_max: 1024,
            delivery_ack_timeout_ms: 30 * 60 * 1000,
            unpublished_bytes_max: 128 << 20,
        }
    }
}
