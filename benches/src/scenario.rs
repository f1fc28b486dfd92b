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
    /// It is long: one run and no warm-up.
    pub once: bool,
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
const CLASSIC: Contender =
    Contender { kind: Kind::RabbitMq, name: "RabbitMQ classic", queue_type: Some("classic") };
const QUORUM: Contender =
    Contender { kind: Kind::RabbitMq, name: "RabbitMQ quorum", queue_type: Some("quorum") };
const AMQP: &[Contender] = &[MAINSTEM, CLASSIC, QUORUM, NULL_SYNC];
/// Where the bare server would not know who is to get what.
const AMQP_BROKERS: &[Contender] = &[MAINSTEM, CLASSIC, QUORUM];
const MOSQUITTO: Contender = plain(Kind::Mosquitto, "Mosquitto");
#[cfg(feature = "rumqttd")]
const RUMQTTD: Contender = plain(Kind::Rumqttd, "rumqttd");
const MQTT: &[Contender] = &[
    MAINSTEM,
    MOSQUITTO,
    #[cfg(feature = "rumqttd")]
    RUMQTTD,
    NULL_SYNC,
];
/// Where the bare server would have nothing to say.
const MQTT_BROKERS: &[Contender] = &[
    MAINSTEM,
    MOSQUITTO,
    #[cfg(feature = "rumqttd")]
    RUMQTTD,
];
const OVER_MOSQUITTO: &[Bar] = &[Bar { against: "Mosquitto", rate: 3.0, cpu: Some(1.0 / 3.0) }];

/// One that tells no bars, and is short.
const fn scenario(
    name: &'static str,
    what: &'static str,
    contenders: &'static [Contender],
    port: fn(&Ports) -> u16,
    run: fn(Load) -> Result<Measured>,
) -> Scenario {
    Scenario { name, what, contenders, port, run, bars: &[], once: false }
}

const fn amqp(
    name: &'static str,
    what: &'static str,
    contenders: &'static [Contender],
    run: fn(Load) -> Result<Measured>,
) -> Scenario {
    scenario(name, what, contenders, |ports| ports.amqp, run)
}

const fn mqtt(
    name: &'static str,
    what: &'static str,
    contenders: &'static [Contender],
    run: fn(Load) -> Result<Measured>,
) -> Scenario {
    scenario(name, what, contenders, |ports| ports.mqtt, run)
}

const fn grpc(
    name: &'static str,
    what: &'static str,
    run: fn(Load) -> Result<Measured>,
) -> Scenario {
    scenario(name, what, &[MAINSTEM], |ports| ports.grpc, run)
}

pub const ALL: &[Scenario] = &[
    Scenario {
        bars: &[Bar { against: "RabbitMQ classic", rate: 3.0, cpu: Some(0.2) }],
        ..amqp(
            "amqp-1-1",
            "AMQP 1 -> 1: 1 KiB persistent messages, durable queue, confirms window 500, each message acknowledged by itself, prefetch 500",
            AMQP,
            |load| amqp::pairs(load, 1, 1024),
        )
    },
    amqp("amqp-1-1-small", "The same with 256 B", AMQP, |load| amqp::pairs(load, 1, 256)),
    amqp("amqp-1-1-large", "The same with 16 KiB", AMQP, |load| amqp::pairs(load, 1, 16 * 1024)),
    amqp(
        "amqp-paced",
        "AMQP 1 -> 1 with 1 KiB and 12,000 messages a second, which is half of what RabbitMQ's classic queue does here; what counts is the latency",
        AMQP,
        amqp::paced,
    ),
    amqp(
        "amqp-transient",
        "AMQP 1 -> 1: 1 KiB transient messages, automatic acknowledgement, no confirms, at most 500 on their way",
        AMQP,
        amqp::transient,
    ),
    amqp(
        "amqp-fan-out",
        "AMQP 1 -> 10: 1 KiB persistent messages by a fan-out exchange to 10 durable queues with a consumer each, confirms, at most 500 on their way; rates count deliveries",
        AMQP,
        amqp::fan_out,
    ),
    amqp(
        "amqp-50-50",
        "AMQP 50 -> 50: 50 publishers, each to a durable queue and a consumer of its own, 1 KiB persistent, 50 unconfirmed each, prefetch 500",
        AMQP_BROKERS,
        |load| amqp::pairs(load, 50, 1024),
    ),
    Scenario {
        once: true,
        ..amqp(
            "amqp-fill",
            "AMQP backlog: 1,000,000 persistent messages of 1 KiB to a durable queue that nobody consumes, confirms window 500",
            AMQP_BROKERS,
            amqp::fill,
        )
    },
    Scenario {
        once: true,
        ..amqp(
            "amqp-drain",
            "AMQP backlog: the same messages consumed with nothing being published, each acknowledged by itself, prefetch 500",
            AMQP_BROKERS,
            amqp::drain,
        )
    },
    Scenario {
        once: true,
        ..amqp(
            "amqp-churn",
            "AMQP churn: 2,000 connections, 8 at a time, each opens a channel, declares a reply queue of its own, asks one question of a service and leaves; the delivery latency is from question to answer",
            AMQP_BROKERS,
            amqp::churn,
        )
    },
    Scenario {
        bars: OVER_MOSQUITTO,
        ..mqtt(
            "mqtt-1-1-qos0",
            "MQTT QoS 0 1 -> 1: 256 B, clean sessions, at most 100 on their way",
            MQTT,
            |load| mqtt::one_to_one(load, Qos::AtMostOnce),
        )
    },
    Scenario {
        bars: OVER_MOSQUITTO,
        ..mqtt(
            "mqtt-1-1-qos1",
            "MQTT QoS 1 1 -> 1: 256 B, 100 publishes on their way, the subscriber's session persistent (clean_session=0)",
            MQTT,
            |load| mqtt::one_to_one(load, Qos::AtLeastOnce),
        )
    },
    Scenario {
        bars: OVER_MOSQUITTO,
        ..mqtt("mqtt-1-1-qos2", "The same with QoS 2", MQTT, |load| {
            mqtt::one_to_one(load, Qos::ExactlyOnce)
        })
    },
    Scenario {
        bars: OVER_MOSQUITTO,
        ..mqtt(
            "mqtt-50-1",
            "MQTT QoS 1 50 -> 1: 256 B, each publisher to a topic of its own with 20 on their way, the subscriber's session persistent",
            MQTT,
            mqtt::fan_in,
        )
    },
    Scenario {
        bars: OVER_MOSQUITTO,
        ..mqtt(
            "mqtt-1-100-qos1",
            "MQTT QoS 1 1 -> 100: 256 B, 100 publishes on their way, persistent sessions; rates count deliveries",
            MQTT,
            |load| mqtt::one_to_many(load, Qos::AtLeastOnce, 100),
        )
    },
    Scenario {
        bars: OVER_MOSQUITTO,
        ..mqtt(
            "mqtt-1-100-qos0",
            "MQTT QoS 0 1 -> 100: 256 B, 100 publishes on their way, clean sessions; rates count deliveries",
            MQTT,
            |load| mqtt::one_to_many(load, Qos::AtMostOnce, 100),
        )
    },
    Scenario {
        bars: OVER_MOSQUITTO,
        ..mqtt("mqtt-1-1000-qos1", "MQTT QoS 1 1 -> 1,000: otherwise the same", MQTT, |load| {
            mqtt::one_to_many(load, Qos::AtLeastOnce, 1000)
        })
    },
    Scenario {
        bars: OVER_MOSQUITTO,
        ..mqtt("mqtt-1-1000-qos0", "MQTT QoS 0 1 -> 1,000: otherwise the same", MQTT, |load| {
            mqtt::one_to_many(load, Qos::AtMostOnce, 1000)
        })
    },
    Scenario {
        bars: OVER_MOSQUITTO,
        ..mqtt(
            "mqtt-retained",
            "MQTT retained: 100,000 messages of 256 B, each of a topic of its own, to one subscription of QoS 1 to all of them",
            MQTT_BROKERS,
            mqtt::retained,
        )
    },
    Scenario {
        bars: OVER_MOSQUITTO,
        ..mqtt(
            "mqtt-resumed",
            "MQTT offline: 100,000 messages of 256 B and QoS 1 that waited for a session, from the moment it is back",
            MQTT_BROKERS,
            mqtt::resumed,
        )
    },
    grpc(
        "grpc-send",
        "RocketMQ gRPC send: 1 KiB, 64 calls on their way over one connection, one message each",
        rocketmq::send,
    ),
    grpc(
        "grpc-receive",
        "RocketMQ gRPC receive and acknowledge: 1 KiB, 4 receivers over one connection, up to 32 messages a call, acknowledged by one call; the confirm latency is that of both calls",
        rocketmq::receive,
    ),
];
