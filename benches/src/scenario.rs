//! What is measured, and on whom.

use crate::{
    amqp,
    load::{Load, Measured, Result},
    mqtt::{self, packet::Qos},
    rocketmq,
    server::{Kind, Ports},
};

pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    pub contenders: &'static [Contender],
    pub port: fn(&Ports) -> u16,
    pub run: fn(Load) -> Result<Measured>,
    /// What Mainstem promises in it.
    pub bars: &'static [Bar],
}

/// A server, in one of the ways it can be asked to work.
pub struct Contender {
    pub kind: Kind,
    pub name: &'static str,
    pub queue_type: Option<&'static str>,
}

/// At least `rate` times a contender's messages per second, at most `cpu` times its processor
/// time per message.
pub struct Bar {
    pub against: &'static str,
    pub rate: f64,
    pub cpu: Option<f64>,
}

const fn plain(kind: Kind, name: &'static str) -> Contender {
    Contender { kind, name, queue_type: None }
}

const MAINSTEM: Contender = plain(Kind::Mainstem, "Mainstem");
const NULL_SYNC: Contender = plain(Kind::NullSync, "null+sync");
const MQTT: &[Contender] = &[
    MAINSTEM,
    plain(Kind::Mosquitto, "Mosquitto"),
    #[cfg(feature = "rumqttd")]
    plain(Kind::Rumqttd, "rumqttd"),
    NULL_SYNC,
];

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "amqp-1-1",
        what: "AMQP 1 -> 1: 1 KiB persistent messages, durable queue, confirms window 500, each \
               message acknowledged by itself, prefetch 500",
        contenders: &[
            MAINSTEM,
            Contender {
                kind: Kind::RabbitMq,
                name: "RabbitMQ classic",
                queue_type: Some("classic"),
            },
            Contender { kind: Kind::RabbitMq, name: "RabbitMQ quorum", queue_type: Some("quorum") },
            NULL_SYNC,
        ],
        port: |ports| ports.amqp,
        run: amqp::one_to_one,
        bars: &[Bar { against: "RabbitMQ classic", rate: 3.0, cpu: Some(0.2) }],
    },
    Scenario {
        name: "mqtt-1-1-qos1",
        what: "MQTT QoS 1 1 -> 1: 256 B, 100 publishes on their way, the subscriber's session \
               persistent (clean_session=0)",
        contenders: MQTT,
        port: |ports| ports.mqtt,
        run: mqtt::one_to_one,
        bars: &[Bar { against: "Mosquitto", rate: 1.0, cpu: None }],
    },
    Scenario {
        name: "mqtt-1-100-qos1",
        what: "MQTT QoS 1 1 -> 100: 256 B, 100 publishes on their way, persistent sessions; \
               rates count deliveries",
        contenders: MQTT,
        port: |ports| ports.mqtt,
        run: |load| mqtt::one_to_many(load, Qos::AtLeastOnce),
        bars: &[],
    },
    Scenario {
        name: "mqtt-1-100-qos0",
        what: "MQTT QoS 0 1 -> 100: 256 B, 100 publishes on their way, clean sessions; rates \
               count deliveries",
        contenders: MQTT,
        port: |ports| ports.mqtt,
        run: |load| mqtt::one_to_many(load, Qos::AtMostOnce),
        bars: &[],
    },
    Scenario {
        name: "grpc-send",
        what: "RocketMQ gRPC send: 1 KiB, 64 calls on their way over one connection, one message \
               each",
        contenders: &[MAINSTEM],
        port: |ports| ports.grpc,
        run: rocketmq::send,
        bars: &[],
    },
    Scenario {
        name: "grpc-receive",
        what: "RocketMQ gRPC receive and acknowledge: 1 KiB, 4 receivers over one connection, up \
               to 32 messages a call, acknowledged by one call; the confirm latency is that of \
               both calls",
        contenders: &[MAINSTEM],
        port: |ports| ports.grpc,
        run: rocketmq::receive,
        bars: &[],
    },
];
