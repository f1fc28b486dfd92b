//! The same by the names of RabbitMQ's `rabbitmq_prometheus`, for the dashboards that were made for it.
//! Where RabbitMQ tells protocols and kinds of queues apart, all of them are together here.

use mainstem_broker::Did;

use super::{
    facts::Facts,
    own,
    page::{Kind, Page},
};
use crate::http::Gate;

const HANDED_OUT: [Did; 4] = [Did::Deliver, Did::DeliverNoAck, Did::Get, Did::GetNoAck];

pub(super) fn put(gate: &Gate, facts: &Facts, page: &mut Page, with_queues: bool) {
    put_identity(gate, page);
    for (name, value) in counters(facts) {
        let help = "as RabbitMQ counts it, of all protocols together";
        page.one(&format!("rabbitmq_{name}"), Kind::Counter, help, &[], value);
    }
    let totals = &facts.totals;
    let of_queues = [
        ("queue_messages_ready", totals.ready),
        ("queue_messages_unacked", totals.unsettled),
        ("queue_messages", totals.ready + totals.unsettled),
        ("queue_consumers", totals.consumers),
    ];
    let of_queues = of_queues.into_iter().filter(|_| with_queues);
    for (name, value) in gauges(gate, facts).into_iter().chain(of_queues) {
        page.one(&format!("rabbitmq_{name}"), Kind::Gauge, "as RabbitMQ tells it", &[], value);
    }
    if with_queues {
        let (name, help) =
            ("rabbitmq_queue_messages_published_total", "how often one came to a queue");
        page.one(name, Kind::Counter, help, &[], facts.count(Did::Route));
    }
    own::put_sizes(page, "rabbitmq_message_size_bytes", &facts.all);
}

/// Who this is: dashboards join everything with it.
fn put_identity(gate: &Gate, page: &mut Page) {
    let config = &gate.config;
    let (node, cluster) = (&*gate.node.name, &*config.amqp.cluster_name);
    let labels = [
        ("rabbitmq_node", node),
        ("rabbitmq_cluster", cluster),
        ("rabbitmq_cluster_permanent_id", cluster),
        ("rabbitmq_endpoint", "aggregated"),
    ];
    page.one("rabbitmq_identity_info", Kind::Gauge, "which node and cluster", &labels, 1);
    let version = &*config.interop.rabbitmq_version;
    let labels = [
        ("rabbitmq_version", version),
        ("prometheus_plugin_version", version),
        ("prometheus_client_version", ""),
        ("erlang_version", ""),
        ("product_name", "Mainstem"),
        ("product_version", env!("CARGO_PKG_VERSION")),
    ];
    page.one("rabbitmq_build_info", Kind::Gauge, "which versions", &labels, 1);
}

fn counters(facts: &Facts) -> [(&'static str, u64); 24] {
    let did = |did| facts.count(did);
    [
        ("connections_opened_total", facts.all.opened),
        ("connections_closed_total", facts.all.closed),
        ("channels_opened_total", did(Did::OpenChannel)),
        ("channels_closed_total", did(Did::CloseChannel)),
        ("queues_declared_total", did(Did::DeclareQueue)),
        ("queues_created_total", did(Did::CreateQueue)),
        ("queues_deleted_total", did(Did::DeleteQueue)),
        ("auth_attempts_total", facts.counted(&[Did::LogIn, Did::FailLogin])),
        ("auth_attempts_succeeded_total", did(Did::LogIn)),
        ("auth_attempts_failed_total", did(Did::FailLogin)),
        ("global_messages_received_total", did(Did::Publish)),
        ("global_messages_received_confirm_total", did(Did::AwaitConfirm)),
        ("global_messages_confirmed_total", did(Did::Confirm)),
        ("global_messages_routed_total", did(Did::Route)),
        ("global_messages_unroutable_returned_total", did(Did::Return)),
        ("global_messages_unroutable_dropped_total", did(Did::Drop)),
        ("global_messages_delivered_total", facts.counted(&HANDED_OUT)),
        ("global_messages_delivered_consume_manual_ack_total", did(Did::Deliver)),
        ("global_messages_delivered_consume_auto_ack_total", did(Did::DeliverNoAck)),
        ("global_messages_delivered_get_manual_ack_total", did(Did::Get)),
        ("global_messages_delivered_get_auto_ack_total", did(Did::GetNoAck)),
        ("global_messages_get_empty_total", did(Did::GetEmpty)),
        ("global_messages_redelivered_total", did(Did::Redeliver)),
        ("global_messages_acknowledged_total", did(Did::Ack)),
    ]
}

fn gauges(gate: &Gate, facts: &Facts) -> [(&'static str, u64); 19] {
    let totals = &facts.totals;
    let (open, may_be_open) = facts.descriptors;
    [
        ("connections", facts.connections),
        ("channels", facts.channels),
        ("consumers", totals.consumers),
        ("queues", totals.queues),
        ("global_consumers", totals.consumers),
        ("global_publishers", facts.all.publishers),
        ("process_open_fds", open),
        ("process_max_fds", may_be_open),
        ("process_open_tcp_sockets", facts.connections),
        ("process_max_tcp_sockets", may_be_open),
        ("process_resident_memory_bytes", facts.memory_bytes),
        ("resident_memory_limit_bytes", facts.machine_bytes),
        ("disk_space_available_bytes", facts.disk_free_bytes),
        ("disk_space_available_limit_bytes", gate.config.store.segment_bytes),
        ("erlang_processes_used", facts.threads),
        ("erlang_uptime_seconds", facts.uptime_s),
        ("alarms_free_disk_space_watermark", facts.is_out_of_room.into()),
        ("alarms_memory_used_watermark", 0),
        ("alarms_file_descriptor_limit", (open >= may_be_open).into()),
    ]
}
