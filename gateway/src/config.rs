//! What an operator may set. The defaults are the file `deploy/mainstem.toml`, which is compiled
//! in: a key that is not in that file does not exist.

pub mod explain;
pub mod layers;
mod secret;
pub mod sources;

use std::{net::SocketAddr, path::PathBuf};

use axum::http::uri::Authority;
use mainstem_broker::{AwayBounds, Drops, config::Durability};
use serde::Deserialize;

pub use layers::{ConfigError, Layer};
pub use sources::Sources;

use crate::access::operator::OPERATOR;

use crate::access::tokens::Issuer;

/// The commented default configuration.
pub const DEFAULTS: &str = include_str!("../../deploy/mainstem.toml");

/// The settings of one process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Holds `log/`, `index/` and `tls/`.
    pub data_dir: PathBuf,
    pub anonymous: Anonymous,
    /// The namespaces that exist; a login to any other is refused.
    pub namespaces: Vec<String>,
    /// How long stopping may wait for connections to end, in milliseconds.
    pub drain_ms_max: u64,
    pub store: Store,
    pub listeners: Listeners,
    pub tls: Tls,
    pub http: Http,
    pub metrics: Metrics,
    pub interop: Interop,
    pub log: Log,
    pub users: Vec<User>,
    pub tokens: Issuer,
    pub amqp: mainstem_amqp::Limits,
    pub mqtt: mainstem_mqtt::Limits,
    pub rocketmq: mainstem_rocketmq::Limits,
}

/// Who may come in without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    Off,
    Loopback,
    Anywhere,
}

/// When a publish counts as kept; see [`Durability`] for what each level does not promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityLevel {
    Fsync,
    Interval,
    None,
}

/// The bounds of the store; the fields of [`mainstem_broker::Config`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    pub durability: DurabilityLevel,
    /// The time between two syncs at the level `interval`, in milliseconds.
    pub interval_ms: u64,
    pub segment_bytes: u64,
    pub message_bytes_max: usize,
    pub commands_max: usize,
    pub uncommitted_bytes_max: usize,
    pub tail_cache_bytes: usize,
    pub inbox_deliveries_max: usize,
    pub inbox_bytes_max: usize,
    pub checkpoint_bytes: u64,
    pub topic_retention_ms: u64,
    pub topic_retention_bytes: u64,
    pub log_bytes_max: u64,
    pub queues_resident_max: usize,
    pub parked_per_cursor_max: usize,
    pub writers_max: usize,
    pub writer_idle_ms: u64,
    pub undecided_max: usize,
}

/// One listener for each protocol.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listeners {
    pub amqp: Listener,
    pub amqps: TlsListener,
    pub mqtt: Listener,
    pub mqtts: TlsListener,
    pub rocketmq: Listener,
    pub http: Listener,
    pub https: OptionalListener,
    pub metrics: OptionalListener,
}

/// Where a protocol is served. Port 0 lets the system choose.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub bind: SocketAddr,
}

/// Where a protocol is served with TLS, if it is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsListener {
    #[serde(deserialize_with = "layers::address_or_none")]
    pub bind: Option<SocketAddr>,
    /// The authorities whose client certificates are verified; empty for none.
    pub client_ca: PathBuf,
    pub client_certificate_required: bool,
}

/// Where something is served, if it is.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionalListener {
    #[serde(deserialize_with = "layers::address_or_none")]
    pub bind: Option<SocketAddr>,
}

/// What is told to Prometheus.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Whose names there are besides our own.
    pub compat: Vec<Compat>,
    /// Queues that are told of one by one, and exchanges.
    pub objects_max: usize,
}

/// A server whose dashboards may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compat {
    Rabbitmq,
    Rocketmq,
}

/// The certificate of the ports with TLS. Both empty: one is made, signed by itself, and kept in
/// `data_dir/tls`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Bounds of the HTTP listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub connections_max: usize,
    /// How long a client may take to send a request's header, in milliseconds.
    pub header_ms_max: u64,
    /// Web pages that may publish and speak MQTT from this machine, besides its own.
    pub origins: Vec<String>,
}

/// What tools are told that were made for other servers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interop {
    /// The RabbitMQ that the HTTP API says it is.
    pub rabbitmq_version: String,
}

/// What is logged, and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// A level, or `tracing` directives such as `info,mainstem_amqp=debug`.
    pub level: String,
    pub format: LogFormat,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// Somebody who may log in.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    pub password: String,
    /// RabbitMQ's tags: what it may do over HTTP.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Refused from any other machine.
    #[serde(default)]
    pub loopback_only: bool,
    /// The key's name for protocols that sign instead of sending a password; empty for none.
    #[serde(default)]
    pub access_key: String,
    #[serde(default)]
    pub secret_key: String,
}

/// Written by hand so that no log line can show a password.
impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("loopback_only", &self.loopback_only)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// The defaults, with `layers` above them, the last one winning.
    pub fn load(layers: &[Layer]) -> Result<Self, ConfigError> {
        layers::merge(DEFAULTS, layers)?.config()?.checked()
    }

    /// The settings of the store.
    #[must_use]
    pub fn broker(&self) -> mainstem_broker::Config {
        let store = &self.store;
        let mut broker = mainstem_broker::Config::new(self.data_dir.clone());
        broker.durability = match store.durability {
            DurabilityLevel::Fsync => Durability::Fsync,
            DurabilityLevel::Interval => Durability::Interval { ms: store.interval_ms },
            DurabilityLevel::None => Durability::None,
        };
        broker.segment_bytes = store.segment_bytes;
        broker.message_bytes_max = store.message_bytes_max;
        broker.commands_max = store.commands_max;
        broker.uncommitted_bytes_max = store.uncommitted_bytes_max;
        broker.tail_cache_bytes = store.tail_cache_bytes;
        broker.inbox_deliveries_max = store.inbox_deliveries_max;
        broker.inbox_bytes_max = store.inbox_bytes_max;
        broker.checkpoint_bytes = store.checkpoint_bytes;
        broker.topic_retention_ms = store.topic_retention_ms;
        broker.topic_retention_bytes = store.topic_retention_bytes;
        broker.log_bytes_max = store.log_bytes_max;
        broker.queues_resident_max = store.queues_resident_max;
        broker.parked_per_cursor_max = store.parked_per_cursor_max;
        broker.writers_max = store.writers_max;
        broker.writer_idle_ms = store.writer_idle_ms;
        broker.undecided_max = store.undecided_max;
        let mqtt = &self.mqtt;
        broker.away = AwayBounds {
            records_max: mqtt.queued_messages_max,
            bytes_max: mqtt.queued_bytes_max,
            age_ms_max: mqtt.queued_age_max_s.saturating_mul(1000),
            drops: match mqtt.queued_drop {
                mainstem_mqtt::Dropped::Oldest => Drops::Oldest,
                mainstem_mqtt::Dropped::Newest => Drops::Newest,
            },
        };
        broker
    }

    /// Refuses values whose type is right and whose meaning is not.
    fn checked(mut self) -> Result<Self, ConfigError> {
        // TOML cannot say "none"; the file says it with an empty text.
        self.rocketmq.advertised_address.take_if(|address| address.is_empty());
        secret::resolve(&mut self.users)?;
        let wrong = |key: &str, reason: &str| {
            Err(ConfigError::Meaning { key: key.to_owned(), reason: reason.to_owned() })
        };
        let store = &self.store;
        if !store.segment_bytes.is_power_of_two() {
            return wrong("store.segment_bytes", "must be a power of two");
        }
        if u64::try_from(store.message_bytes_max).is_ok_and(|max| max > store.segment_bytes / 4) {
            return wrong(
                "store.message_bytes_max",
                "must be at most a quarter of store.segment_bytes",
            );
        }
        if store.durability == DurabilityLevel::Interval && store.interval_ms == 0 {
            return wrong("store.interval_ms", "must be at least 1");
        }
        for (key, bound) in [
            ("store.commands_max", store.commands_max),
            ("store.uncommitted_bytes_max", store.uncommitted_bytes_max),
            ("store.inbox_deliveries_max", store.inbox_deliveries_max),
            ("store.inbox_bytes_max", store.inbox_bytes_max),
            ("store.queues_resident_max", store.queues_resident_max),
            ("http.connections_max", self.http.connections_max),
        ] {
            if bound == 0 {
                return wrong(key, "must be at least 1");
            }
        }
        for (key, listener) in [
            ("listeners.amqps.client_ca", &self.listeners.amqps),
            ("listeners.mqtts.client_ca", &self.listeners.mqtts),
        ] {
            if listener.client_certificate_required && listener.client_ca.as_os_str().is_empty() {
                return wrong(key, "must be set if a certificate is required");
            }
        }
        if self.users.iter().any(|user| user.name == OPERATOR) {
            return wrong("users.name", "must not be the operator's own");
        }
        if self.tls.certificate.as_os_str().is_empty() != self.tls.key.as_os_str().is_empty() {
            return wrong("tls.key", "must be set together with tls.certificate");
        }
        let keys = &self.tokens.keys;
        let has_form = ["file:", "http://", "https://"].iter().any(|form| keys.starts_with(form));
        if !keys.is_empty() && !has_form {
            return wrong("tokens.keys", "must begin with https://, http:// or file:");
        }
        if let Some(odd) = self.http.origins.iter().find(|origin| !is_origin(origin)) {
            return wrong(
                "http.origins",
                &format!("must name pages as scheme://host or scheme://host:port, found '{odd}'"),
            );
        }
        Ok(self)
    }
}

/// Whether a browser names a page's origin so (RFC 6454 §6.2); what it never says is a mistake.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let Ok(authority) = rest.parse::<Authority>() else { return false };
    let host = authority.host();
    let port = authority.port().map_or(String::new(), |port| format!(":{port}"));
    is_scheme && !host.is_empty() && *rest == format!("{host}{port}")
}

/// The compiled-in defaults.
impl Default for Config {
    fn default() -> Self {
        Self::load(&[]).expect("the compiled-in defaults are checked by a test")
    }
}

#[cfg(test)]
mod tests;
