//! The one place that knows which protocols exist: one variant and one arm for each.

use std::{net::SocketAddr, sync::Arc};

use mainstem_broker::Broker;
use mainstem_schemas::{Origin, Views};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    access::registry::Registry,
    config::Config,
    http::{self, Gate, Node},
    logging,
    tls::Certificates,
};

/// A protocol that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Amqp,
    Amqps,
    Mqtt,
    Mqtts,
    Rocketmq,
    Http,
    Https,
    Metrics,
}

impl Protocol {
    /// All of them, in the order they are announced.
    pub const ALL: [Self; 8] = [
        Self::Amqp,
        Self::Amqps,
        Self::Mqtt,
        Self::Mqtts,
        Self::Rocketmq,
        Self::Http,
        Self::Https,
        Self::Metrics,
    ];

    /// What a person calls it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Amqp => "AMQP 0-9-1",
            Self::Amqps => "AMQPS 0-9-1",
            Self::Mqtt => "MQTT 3.1.1 and 5",
            Self::Mqtts => "MQTTS 3.1.1 and 5",
            Self::Rocketmq => "RocketMQ gRPC",
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Metrics => "Prometheus",
        }
    }

    /// The key that says where it listens.
    #[must_use]
    pub fn bind_key(self) -> &'static str {
        match self {
            Self::Amqp => "listeners.amqp.bind",
            Self::Amqps => "listeners.amqps.bind",
            Self::Mqtt => "listeners.mqtt.bind",
            Self::Mqtts => "listeners.mqtts.bind",
            Self::Rocketmq => "listeners.rocketmq.bind",
            Self::Http => "listeners.http.bind",
            Self::Https => "listeners.https.bind",
            Self::Metrics => "listeners.metrics.bind",
        }
    }

    /// Where it is to listen, if it is.
    #[must_use]
    pub fn bind(self, config: &Config) -> Option<SocketAddr> {
        match self {
            Self::Amqp => Some(config.listeners.amqp.bind),
            Self::Amqps => config.listeners.amqps.bind,
            Self::Mqtt => Some(config.listeners.mqtt.bind),
            Self::Mqtts => config.listeners.mqtts.bind,
            Self::Rocketmq => Some(config.listeners.rocketmq.bind),
            Self::Http => Some(config.listeners.http.bind),
            Self::Https => config.listeners.https.bind,
            Self::Metrics => config.listeners.metrics.bind,
        }
    }
}

/// What every protocol is given.
#[derive(Clone)]
pub struct Host {
    pub broker: Broker,
    pub registry: Registry,
    pub mqtt: mainstem_mqtt::Service,
    pub config: Arc<Config>,
    /// Where each protocol listens.
    pub addresses: Arc<[(Protocol, SocketAddr)]>,
    pub tls: Certificates,
    pub node: Arc<Node>,
    pub shutdown: CancellationToken,
}

impl Host {
    /// Serves a protocol until the shutdown, and returns when its connections have ended.
    pub async fn serve(self, protocol: Protocol, listener: TcpListener) {
        let Self { broker, registry, mqtt, config, addresses, tls, node, shutdown } = self;
        match protocol {
            Protocol::Amqp | Protocol::Amqps => {
                let limits = Arc::new(config.amqp.clone());
                let tls = (protocol == Protocol::Amqps).then_some(tls.amqps);
                mainstem_amqp::run(listener, broker, limits, shutdown, tls).await;
            }
            Protocol::Mqtt => mqtt.run(listener, None).await,
            Protocol::Mqtts => mqtt.run(listener, Some(tls.mqtts)).await,
            Protocol::Rocketmq => {
                let limits = Arc::new(config.rocketmq.clone());
                let (tls, set_level) = (Some(tls.rocketmq), logging::set_level);
                mainstem_rocketmq::run(listener, broker, limits, shutdown, tls, set_level).await;
            }
            Protocol::Http | Protocol::Https | Protocol::Metrics => {
                let gate = Gate { broker, registry, mqtt, config, addresses, node, shutdown };
                match protocol {
                    Protocol::Metrics => http::run_metrics(listener, gate).await,
                    Protocol::Https => http::run(listener, gate, Some(tls.https)).await,
                    _ => http::run(listener, gate, None).await,
                }
            }
        }
    }
}

/// How each protocol's records are read by the others.
#[must_use]
pub fn views() -> Views {
    Views::default()
        .with(Origin::Amqp, mainstem_amqp::view)
        .with_routing(Origin::Amqp, mainstem_amqp::routing)
        .with(Origin::Mqtt, mainstem_mqtt::view)
        .with(Origin::Rocketmq, mainstem_rocketmq::view)
        .with(Origin::Http, http::view)
}
