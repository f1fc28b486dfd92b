//! The same by the names of a RocketMQ 5 broker (its `BrokerMetricsConstant`). Counts are of all topics
//! and groups together: those of each are not kept.

use mainstem_broker::Traffic;

use super::{
    facts::Facts,
    page::{Kind, Page},
};
use crate::http::Gate;

/// What the protocol's traffic is counted under.
const PROTOCOL: &str = "rocketmq";

pub(super) fn put(gate: &Gate, facts: &Facts, page: &mut Page) {
    let cluster = &*gate.config.amqp.cluster_name;
    let labels = [("cluster", cluster), ("node_type", "broker"), ("node_id", &*gate.node.name)];
    let own = facts.spoken.get(PROTOCOL).copied().unwrap_or_default();
    let Traffic { records_in, bytes_in, records_out, bytes_out, .. } = own;
    for (name, help, value) in [
        ("rocketmq_messages_in_total", "messages that producers sent", records_in),
        ("rocketmq_messages_out_total", "messages handed to consumers", records_out),
        ("rocketmq_throughput_in_total", "bytes that producers sent", bytes_in),
        ("rocketmq_throughput_out_total", "bytes handed to consumers", bytes_out),
    ] {
        page.one(name, Kind::Counter, help, &labels, value);
    }
    let producers = own.publishers;
    let consumers = own.opened.saturating_sub(own.closed).saturating_sub(producers);
    for (name, help, value) in [
        ("rocketmq_producer_connections", "clients that have sent", producers),
        ("rocketmq_consumer_connections", "clients that have not", consumers),
    ] {
        page.one(name, Kind::Gauge, help, &labels, value);
    }
}
