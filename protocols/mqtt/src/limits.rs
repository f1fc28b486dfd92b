//! The bounds and settings of the MQTT front-end.

use serde::Deserialize;

/// What goes when too much waits for a client that is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dropped {
    #[default]
    Oldest,
    Newest,
}

/// Settings of the MQTT front-end. What a client must know of them is told in CONNACK.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at a time, WebSockets among them. More wait in the listener's backlog; a
    /// WebSocket is refused with 503.
    pub connections_max: usize,
    /// Largest packet taken in, in bytes.
    pub packet_bytes_max: u32,
    /// Largest CONNECT taken in, in bytes: all that a stranger can make us hold.
    pub connect_bytes_max: u32,
    /// Messages above QoS 0 a client may have unacknowledged.
    pub receive_max: u16,
    /// Messages above QoS 0 sent to an MQTT 5 client without acknowledgement, if it allows as many.
    pub in_flight_max: u16,
    /// The same for clients of earlier versions, which cannot say how many they take.
    pub v3_in_flight_max: u16,
    /// Topic aliases a client may set, and that are set for a client if it allows as many.
    pub topic_alias_max: u16,
    /// Longest time a session is kept, in seconds; 4294967295 for ever.
    pub session_expiry_max_s: u32,
    /// How long the session of an earlier version's client without clean session is kept, in
    /// seconds: those clients cannot say it. Seven days.
    pub v3_session_expiry_s: u32,
    /// Longest keep alive in seconds; a client that asks for more or for none is told this one. 0
    /// leaves the choice to the client.
    pub keep_alive_max_s: u16,
    /// Levels a topic or a filter may have.
    pub topic_levels_max: usize,
    /// Subscriptions of one session.
    pub subscriptions_max: usize,
    /// Messages that may wait for one subscription, or one shared group, while nobody is connected
    /// for it; 0 for any number. Those under way when the client left are not counted.
    pub queued_messages_max: u64,
    /// The same in bytes of payload; 0 for any number.
    pub queued_bytes_max: u64,
    /// How long a message may wait for a subscription, in seconds; 0 for ever.
    pub queued_age_max_s: u64,
    /// What is dropped of too much.
    pub queued_drop: Dropped,
    /// Bytes of messages under way that are kept in memory for sessions whose clients are away, all
    /// together. The others come anew, as after a restart of the server.
    pub parked_bytes_max: usize,
    /// Messages a client may publish in a second; from one that is faster no message is taken for a
    /// while. 0 for any number.
    pub client_messages_per_s_max: u64,
    /// The same in bytes of payload.
    pub client_bytes_per_s_max: u64,
    /// The same for all clients of a namespace together.
    pub namespace_messages_per_s_max: u64,
    /// The same in bytes of payload.
    pub namespace_bytes_per_s_max: u64,
    /// What the response information begins with that a client gets which asks for it:
    /// `<this>/<client id>/`. Empty to give none.
    pub response_topic: String,
    /// A client whose connections end so often within `flap_window_s` is refused for `flap_ban_s`;
    /// 0 for no such rule.
    pub flaps_max: u32,
    /// See `flaps_max`, in seconds.
    pub flap_window_s: u64,
    /// See `flaps_max`, in seconds.
    pub flap_ban_s: u64,
    /// How often statistics are told to subscribers of `$SYS/broker/#`, in seconds; 0 for never.
    /// They are the whole server's, whatever the subscriber's namespace.
    pub sys_interval_s: u64,
    /// Longest delay of a message to `$delayed/<seconds>/<topic>`, in seconds.
    pub delay_max_s: u64,
    /// Wills that may wait for their delay, of which more are published at once, or for room in the
    /// store.
    pub wills_waiting_max: usize,
    /// Time a connection has for its CONNECT, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Time for farewells, when a connection or the server ends, in milliseconds.
    pub goodbye_ms: u64,
    /// Bytes read from a socket at a time.
    pub read_bytes_max: usize,
    /// Bytes that may wait to be written to a socket; above it, nothing more is read or delivered.
    pub write_bytes_max: usize,
    /// Retained messages read at a time for a new subscription.
    pub retained_chunk: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            packet_bytes_max: 16 << 20,
            connect_bytes_max: 256 << 10,
            receive_max: 1024,
            in_flight_max: 1024,
            v3_in_flight_max: 100,
            topic_alias_max: 64,
            session_expiry_max_s: u32::MAX,
            v3_session_expiry_s: 7 * 24 * 3600,
            keep_alive_max_s: 0,
            topic_levels_max: 256,
            subscriptions_max: 10_000,
            queued_messages_max: 0,
            queued_bytes_max: 0,
            queued_age_max_s: 0,
            queued_drop: Dropped::Oldest,
            parked_bytes_max: 64 << 20,
            client_messages_per_s_max: 0,
            client_bytes_per_s_max: 0,
            namespace_messages_per_s_max: 0,
            namespace_bytes_per_s_max: 0,
            response_topic: "response".to_owned(),
            flaps_max: 0,
            flap_window_s: 60,
            flap_ban_s: 300,
            sys_interval_s: 10,
            delay_max_s: 4_294_967,
            wills_waiting_max: 100_000,
            connect_timeout_ms: 10_000,
            goodbye_ms: 3_000,
            read_bytes_max: 64 << 10,
            write_bytes_max: 256 << 10,
            retained_chunk: 64,
        }
    }
}
