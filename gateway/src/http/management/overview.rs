//! The server as a whole: `/api/overview`, `/api/nodes`, and what else says what it is.

use std::thread;

use axum::{Json as Answered, extract::Path, http::StatusCode, response::IntoResponse};
use mainstem_amqp::session::kind_words;
use serde_json::{Map, Value as Json, json};

use super::{
    answer::{Answer, Failure},
    caller::Caller,
    gathering::{self, Gathering},
    health,
    node::{
        descriptors, disk_free_bytes, machine_bytes, memory_bytes, runnable, threads, threads_max,
    },
};
use crate::Protocol;

/// What clients may look for before they use it; all of it is there.
const FEATURES: [(&str, &str); 6] = [
    ("classic_mirrored_queue_version", "Support setting version for classic mirrored queues"),
    ("direct_exchange_routing_v2", "v2 direct exchange routing implementation"),
    ("implicit_default_bindings", "Default bindings are now implicit"),
    ("quorum_queue", "Support queues of type `quorum`"),
    ("stream_queue", "Support queues of type `stream`"),
    ("virtual_host_metadata", "Virtual host metadata (description, tags, etc)"),
];

pub(super) async fn overview(caller: Caller) -> Answer {
    let gate = &caller.gate;
    let (totals, [ready_rate, unsettled_rate]) =
        gate.node.totals(gate, &caller.namespaces()).await?;
    let mut churn = Map::new();
    gate.node.put_churn(&gate.broker, &mut churn);
    let (connections, channels) = gate.broker.occupancy();
    let version = &gate.config.interop.rabbitmq_version;
    let types =
        kind_words().map(|word| json!({ "name": word, "description": "", "enabled": true }));
    let overview = json!({
        "management_version": version,
        "rabbitmq_version": version,
        "product_name": "Mainstem",
        "product_version": env!("CARGO_PKG_VERSION"),
        "rates_mode": "basic",
        "sample_retention_policies": { "global": [], "basic": [], "detailed": [] },
        "exchange_types": types.collect::<Vec<_>>(),
        "cluster_name": gate.config.amqp.cluster_name,
        "erlang_version": "",
        "erlang_full_version": "",
        "release_series_support_status": "supported",
        "disable_stats": false,
        "enable_queue_totals": false,
        "message_stats": gate.node.message_stats(&gate.broker),
        "churn_rates": churn,
        "queue_totals": {
            "messages": totals.ready + totals.unsettled,
            "messages_ready": totals.ready,
            "messages_unacknowledged": totals.unsettled,
            "messages_details": { "rate": ready_rate + unsettled_rate },
            "messages_ready_details": { "rate": ready_rate },
            "messages_unacknowledged_details": { "rate": unsettled_rate },
        },
        "object_totals": {
            "channels": channels,
            "connections": connections,
            "consumers": totals.consumers,
            "exchanges": totals.exchanges,
            "queues": totals.queues,
        },
        "statistics_db_event_queue": 0,
        "node": gate.node.name,
        "listeners": listeners(&caller),
        "contexts": contexts(&caller),
    });
    gathering::show(&caller.query, overview)
}

fn listeners(caller: &Caller) -> Json {
    let gate = &caller.gate;
    let all = gate.addresses.iter().map(|(protocol, address)| {
        json!({
            "node": gate.node.name,
            "protocol": health::word(*protocol),
            "ip_address": address.ip().to_string(),
            "port": address.port(),
            "socket_opts": {},
        })
    });
    all.collect()
}

fn contexts(caller: &Caller) -> Json {
    let gate = &caller.gate;
    let is_http = |protocol: &Protocol| matches!(protocol, Protocol::Http | Protocol::Https);
    let http = gate.addresses.iter().filter(|(protocol, _)| is_http(protocol));
    let all = http.map(|(_, address)| {
        json!({
            "node": gate.node.name,
            "description": "RabbitMQ Management",
            "path": "/",
            "ip": address.ip().to_string(),
            "port": address.port().to_string(),
        })
    });
    all.collect()
}

/// As SIGTERM does; for whoever may send that one.
pub(super) async fn stop(caller: Caller) -> Result<StatusCode, Failure> {
    if !caller.is_operator() {
        return Err(Failure::unauthorized("Only the operator of the machine may stop the server"));
    }
    caller.gate.shutdown.cancel();
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn version(caller: Caller) -> Answer {
    Ok(Answered(json!(caller.gate.config.interop.rabbitmq_version)).into_response())
}

pub(super) async fn cluster_name(caller: Caller) -> Answer {
    Ok(Answered(json!({ "name": caller.gate.config.amqp.cluster_name })).into_response())
}

pub(super) async fn nodes(caller: Caller) -> Answer {
    caller.must_monitor()?;
    let mut all = Gathering::new(&caller.query)?;
    all.add(&caller.gate.node.name, || described(&caller));
    all.answer()
}

pub(super) async fn node(caller: Caller, Path(name): Path<String>) -> Answer {
    if name != caller.gate.node.name {
        return Err(Failure::not_found());
    }
    gathering::show(&caller.query, described(&caller))
}

/// Where there is no bound, it is 0: tools do not read the rest without these numbers. That of the disk
/// is kept to by the store, which wants room for its next file.
fn described(caller: &Caller) -> Json {
    let gate = &caller.gate;
    let (fd_used, fd_total) = descriptors();
    let (connections, _) = gate.broker.occupancy();
    let mut node = json!({
        "name": gate.node.name,
        "type": "disc",
        "running": true,
        "being_drained": gate.shutdown.is_cancelled(),
        "os_pid": std::process::id().to_string(),
        "uptime": gate.broker.now().since(gate.node.started),
        "processors": thread::available_parallelism().map_or(1, usize::from),
        "run_queue": runnable(),
        "mem_used": memory_bytes(),
        "mem_limit": machine_bytes(),
        "mem_alarm": false,
        "disk_free": disk_free_bytes(&gate.config.data_dir),
        "disk_free_limit": gate.config.store.segment_bytes,
        "disk_free_alarm": gate.broker.is_out_of_room(),
        "fd_used": fd_used,
        "fd_total": fd_total,
        "sockets_used": connections,
        "sockets_total": fd_total,
        "proc_used": threads(),
        "proc_total": threads_max(),
        "rates_mode": "basic",
        "net_ticktime": 60,
        "partitions": [],
        "cluster_links": [],
        "enabled_plugins": ["rabbitmq_management", "rabbitmq_mqtt"],
        "exchange_types": [],
        "auth_mechanisms": [],
        "applications": [],
        "contexts": contexts(caller),
        "config_files": [],
        "db_dir": gate.config.data_dir.display().to_string(),
        "log_files": [],
    });
    if let Some(fields) = node.as_object_mut() {
        gate.node.put_churn(&gate.broker, fields);
        gate.node.put_machine_rates(fields);
    }
    node
}

/// There are no pages of plugins.
pub(super) async fn extensions(_: Caller) -> Answer {
    Ok(Answered(json!([])).into_response())
}

pub(super) async fn feature_flags(caller: Caller) -> Answer {
    let mut all = Gathering::new(&caller.query)?;
    for (name, desc) in FEATURES {
        all.add(name, || {
            json!({
                "name": name,
                "desc": desc,
                "doc_url": "",
                "provided_by": "rabbit",
                "stability": "stable",
                "state": "enabled",
            })
        });
    }
    all.answer()
}

/// What there is, is enabled. Errors: there is no such feature.
pub(super) async fn enable_feature(caller: Caller, Path(name): Path<String>) -> Answer {
    caller.must_administrate()?;
    let is_known = FEATURES.iter().any(|(known, _)| *known == name);
    let unknown = || Failure::bad(format!("there is no feature '{name}'"));
    is_known.then(|| StatusCode::NO_CONTENT.into_response()).ok_or_else(unknown)
}

/// Links to other servers (federation and shovels), of which there are none.
pub(super) async fn links(caller: Caller) -> Answer {
    caller.must_monitor()?;
    Gathering::new(&caller.query)?.answer()
}

pub(super) async fn links_of(caller: Caller, Path(vhost): Path<String>) -> Answer {
    caller.check_namespace(&vhost)?;
    links(caller).await
}

/// Nothing that is there is to go.
pub(super) async fn deprecated_features(caller: Caller) -> Answer {
    Gathering::new(&caller.query)?.answer()
}
