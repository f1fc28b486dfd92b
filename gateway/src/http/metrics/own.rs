//! What everything together is, by names of our own.

use mainstem_broker::{Did, Traffic, meter::SIZES};

use super::{
    facts::Facts,
    page::{Kind, Page, number},
};

/// What there is for each protocol, and how it is told.
type ByProtocol = (&'static str, Kind, &'static str, fn(&Traffic) -> u64);

const BY_PROTOCOL: [ByProtocol; 8] = [
    ("mainstem_connections", Kind::Gauge, "connections that were let in and have not gone", |it| {
        it.opened.saturating_sub(it.closed)
    }),
    ("mainstem_connections_opened_total", Kind::Counter, "connections that were let in", |it| {
        it.opened
    }),
    ("mainstem_connections_closed_total", Kind::Counter, "of those, the ones that went", |it| {
        it.closed
    }),
    ("mainstem_publishers", Kind::Gauge, "connections that have published", |it| it.publishers),
    ("mainstem_messages_in_total", Kind::Counter, "messages that clients published", |it| {
        it.records_in
    }),
    ("mainstem_bytes_in_total", Kind::Counter, "their bytes, with all properties", |it| {
        it.bytes_in
    }),
    ("mainstem_messages_out_total", Kind::Counter, "messages handed to clients", |it| {
        it.records_out
    }),
    ("mainstem_bytes_out_total", Kind::Counter, "their bytes in the log", |it| it.bytes_out),
];

/// What is counted, by its name.
const COUNTED: [(&str, &str, Did); 13] = [
    ("mainstem_routed_total", "how often a message came to a queue", Did::Route),
    ("mainstem_acked_total", "deliveries that were settled as done", Did::Ack),
    ("mainstem_redelivered_total", "deliveries that may have been made before", Did::Redeliver),
    ("mainstem_get_empty_total", "gets that found nothing", Did::GetEmpty),
    ("mainstem_confirm_wanted_total", "AMQP publishes to be confirmed", Did::AwaitConfirm),
    ("mainstem_confirmed_total", "AMQP publishes that were confirmed", Did::Confirm),
    ("mainstem_returned_total", "AMQP messages that nobody wanted, returned", Did::Return),
    ("mainstem_unwanted_total", "AMQP messages that nobody wanted, not returned", Did::Drop),
    ("mainstem_queues_declared_total", "declarations of queues", Did::DeclareQueue),
    ("mainstem_queues_created_total", "queues made", Did::CreateQueue),
    ("mainstem_queues_deleted_total", "queues deleted", Did::DeleteQueue),
    ("mainstem_channels_opened_total", "AMQP channels opened", Did::OpenChannel),
    ("mainstem_channels_closed_total", "AMQP channels closed", Did::CloseChannel),
];

const HANDED_OUT: [(&str, Did); 4] = [
    ("consume", Did::Deliver),
    ("consume_auto_ack", Did::DeliverNoAck),
    ("get", Did::Get),
    ("get_auto_ack", Did::GetNoAck),
];

pub(super) fn put(facts: &Facts, page: &mut Page) {
    for (name, kind, help, of) in BY_PROTOCOL {
        page.family(name, kind, help);
        for (protocol, traffic) in &facts.spoken {
            page.sample(name, &[("proto", protocol)], number(of(traffic)));
        }
    }
    put_sizes(page, "mainstem_message_size_bytes", &facts.all);
    for (name, help, did) in COUNTED {
        page.one(name, Kind::Counter, help, &[], facts.count(did));
    }
    let name = "mainstem_handed_out_total";
    page.family(name, Kind::Counter, "deliveries, by how they were asked for");
    for (how, did) in HANDED_OUT {
        page.sample(name, &[("how", how)], number(facts.count(did)));
    }
    let name = "mainstem_auth_attempts_total";
    page.family(name, Kind::Counter, "proofs of who somebody is, by how that went");
    for (result, did) in [("succeeded", Did::LogIn), ("failed", Did::FailLogin)] {
        page.sample(name, &[("result", result)], number(facts.count(did)));
    }
    put_gauges(facts, page);
}

fn put_gauges(facts: &Facts, page: &mut Page) {
    let totals = &facts.totals;
    for (name, help, value) in [
        ("mainstem_channels", "AMQP channels that are open", facts.channels),
        ("mainstem_queues", "queues with names", totals.queues),
        ("mainstem_exchanges", "exchanges", totals.exchanges),
        ("mainstem_consumers", "consumers of queues with names", totals.consumers),
        ("mainstem_queue_messages_ready", "messages ready in queues with names", totals.ready),
        ("mainstem_queue_messages_unacked", "messages of theirs in hand", totals.unsettled),
        ("mainstem_disk_free_bytes", "bytes free where the data is", facts.disk_free_bytes),
        ("process_resident_memory_bytes", "memory of the process", facts.memory_bytes),
        ("process_open_fds", "descriptors that are open", facts.descriptors.0),
        ("process_max_fds", "descriptors that may be open", facts.descriptors.1),
        ("process_threads", "threads of the process", facts.threads),
        ("process_start_time_seconds", "Unix time of the start", facts.started_s),
    ] {
        page.one(name, Kind::Gauge, help, &[], value);
    }
    let help = "1 while publishes are refused for want of it";
    let labels = [("resource", "disk")];
    page.one("mainstem_resource_alarm", Kind::Gauge, help, &labels, facts.is_out_of_room.into());
    let name = "process_cpu_seconds_total";
    page.family(name, Kind::Counter, "processor time of the process");
    page.sample(name, &[], facts.cpu_seconds);
}

/// How large the messages were that clients published.
pub(super) fn put_sizes(page: &mut Page, name: &str, traffic: &Traffic) {
    page.family(name, Kind::Histogram, "bytes of published messages, with all properties");
    let bucket = format!("{name}_bucket");
    let mut below = 0;
    for (max, count) in SIZES.iter().zip(traffic.sizes) {
        below += count;
        page.sample(&bucket, &[("le", &max.to_string())], number(below));
    }
    page.sample(&bucket, &[("le", "+Inf")], number(traffic.records_in));
    page.sample(&format!("{name}_sum"), &[], number(traffic.bytes_in));
    page.sample(&format!("{name}_count"), &[], number(traffic.records_in));
}
