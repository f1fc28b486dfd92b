//! What there is, in the columns that a call asks for: RabbitMQ's info items, found in what the API lists.

use serde_json::{Value as Json, json};

use super::{
    Failure, Session, USAGE,
    output::{Output, Rows},
    set_field,
};
use crate::remote::segment;

type Done = Result<Output, Failure>;

/// The items of a kind of thing: their name, and the field of the API that has it (as a JSON pointer). Empty
/// is what this server knows nothing about.
type Items = &'static [(&'static str, &'static str)];

const QUEUE: Items = &[
    ("name", "/name"),
    ("durable", "/durable"),
    ("auto_delete", "/auto_delete"),
    ("arguments", "/arguments"),
    ("policy", "/policy"),
    ("pid", ""),
    ("owner_pid", ""),
    ("exclusive", "/exclusive"),
    ("exclusive_consumer_pid", ""),
    ("exclusive_consumer_tag", ""),
    ("messages_ready", "/messages_ready"),
    ("messages_unacknowledged", "/messages_unacknowledged"),
    ("messages", "/messages"),
    ("messages_ready_ram", ""),
    ("messages_unacknowledged_ram", ""),
    ("messages_ram", ""),
    ("messages_persistent", ""),
    ("message_bytes", "/message_bytes"),
    ("message_bytes_ready", "/message_bytes_ready"),
    ("message_bytes_unacknowledged", "/message_bytes_unacknowledged"),
    ("message_bytes_ram", ""),
    ("message_bytes_persistent", ""),
    ("head_message_timestamp", "/head_message_timestamp"),
    ("disk_reads", ""),
    ("disk_writes", ""),
    ("consumers", "/consumers"),
    ("consumer_utilisation", ""),
    ("consumer_capacity", ""),
    ("memory", ""),
    ("slave_pids", ""),
    ("synchronised_slave_pids", ""),
    ("state", "/state"),
    ("type", "/type"),
    ("leader", "/leader"),
    ("members", "/members"),
    ("online", "/online"),
];

const EXCHANGE: Items = &[
    ("name", "/name"),
    ("type", "/type"),
    ("durable", "/durable"),
    ("auto_delete", "/auto_delete"),
    ("internal", "/internal"),
    ("arguments", "/arguments"),
    ("policy", "/policy"),
];

const BINDING: Items = &[
    ("source_name", "/source"),
    ("source_kind", "/source_kind"),
    ("destination_name", "/destination"),
    ("destination_kind", "/destination_type"),
    ("routing_key", "/routing_key"),
    ("arguments", "/arguments"),
];

const CONNECTION: Items = &[
    ("pid", "/pid"),
    ("name", "/name"),
    ("port", "/port"),
    ("host", "/host"),
    ("peer_port", "/peer_port"),
    ("peer_host", "/peer_host"),
    ("ssl", "/ssl"),
    ("ssl_protocol", ""),
    ("ssl_key_exchange", ""),
    ("ssl_cipher", ""),
    ("ssl_hash", ""),
    ("peer_cert_subject", ""),
    ("peer_cert_issuer", ""),
    ("peer_cert_validity", ""),
    ("state", "/state"),
    ("channels", "/channels"),
    ("protocol", "/protocol"),
    ("auth_mechanism", "/auth_mechanism"),
    ("user", "/user"),
    ("vhost", "/vhost"),
    ("timeout", "/timeout"),
    ("frame_max", "/frame_max"),
    ("channel_max", "/channel_max"),
    ("client_properties", "/client_properties"),
    ("connected_at", "/connected_at"),
    ("recv_oct", "/recv_oct"),
    ("recv_cnt", "/recv_cnt"),
    ("send_oct", "/send_oct"),
    ("send_cnt", "/send_cnt"),
    ("send_pend", "/send_pend"),
];

const CHANNEL: Items = &[
    ("pid", "/pid"),
    ("connection", "/connection"),
    ("name", "/name"),
    ("number", "/number"),
    ("user", "/user"),
    ("vhost", "/vhost"),
    ("transactional", "/transactional"),
    ("confirm", "/confirm"),
    ("consumer_count", "/consumer_count"),
    ("messages_unacknowledged", "/messages_unacknowledged"),
    ("messages_uncommitted", "/messages_uncommitted"),
    ("acks_uncommitted", "/acks_uncommitted"),
    ("messages_unconfirmed", ""),
    ("prefetch_count", "/prefetch_count"),
    ("global_prefetch_count", "/global_prefetch_count"),
];

const CONSUMER: Items = &[
    ("queue_name", "/queue/name"),
    ("channel_pid", "/pid"),
    ("consumer_tag", "/consumer_tag"),
    ("ack_required", "/ack_required"),
    ("prefetch_count", "/prefetch_count"),
    ("active", "/active"),
    ("activity_status", "/activity_status"),
    ("arguments", "/arguments"),
];

const VHOST: Items = &[
    ("name", "/name"),
    ("tracing", "/tracing"),
    ("description", "/description"),
    ("tags", "/tags"),
    ("default_queue_type", "/default_queue_type"),
    ("cluster_state", "/cluster_state"),
];

const FEATURE_FLAG: Items =
    &[("name", "/name"), ("state", "/state"), ("stability", "/stability"), ("desc", "/desc")];

/// The columns of a call, or the usual ones. Errors: one of them is no item.
fn columns(session: &Session, items: Items, usual: &[&str]) -> Result<Vec<String>, Failure> {
    let asked = session.call.arguments.iter().flat_map(|argument| argument.split([',', ' ']));
    let asked: Vec<String> = asked.filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if asked.is_empty() {
        return Ok(usual.iter().map(|name| (*name).to_owned()).collect());
    }
    let is_known = |name: &String| items.iter().any(|(known, _)| known == name);
    let odd: Vec<String> = asked.iter().filter(|name| !is_known(name)).cloned().collect();
    if odd.is_empty() {
        return Ok(asked);
    }
    let reason = format!("Info key(s) {} are not supported", odd.join(", "));
    Err(Failure::misuse(USAGE, &session.call, &reason))
}

fn show(items: Items, columns: Vec<String>, objects: &[Json]) -> Output {
    let value = |object: &Json, column: &String| {
        let pointer = items.iter().find(|(name, _)| name == column).map_or("", |item| item.1);
        match pointer {
            "" => Json::Null,
            pointer => object.pointer(pointer).cloned().unwrap_or_default(),
        }
    };
    let row = |object: &Json| columns.iter().map(|column| value(object, column)).collect();
    let rows = objects.iter().map(row).collect();
    Output::Rows(Rows { columns, rows, has_line_for_none: false })
}

/// The things of a virtual host; of one that is not there, none.
fn of_vhost(session: &Session, kind: &str) -> Result<Vec<Json>, Failure> {
    let vhost = session.call.vhost();
    if !session.has_vhost(vhost)? {
        return Ok(Vec::new());
    }
    session.list(&format!("/api/{kind}/{}", segment(vhost)))
}

pub(super) fn queues(session: &Session) -> Done {
    let columns = columns(session, QUEUE, &["name", "messages"])?;
    // All of them are on the one node there is.
    let all = match session.call.has("--offline") {
        true => Vec::new(),
        false => of_vhost(session, "queues")?,
    };
    Ok(show(QUEUE, columns, &all))
}

pub(super) fn exchanges(session: &Session) -> Done {
    let columns = columns(session, EXCHANGE, &["name", "type"])?;
    Ok(show(EXCHANGE, columns, &of_vhost(session, "exchanges")?))
}

pub(super) fn bindings(session: &Session) -> Done {
    let usual = BINDING.iter().map(|(name, _)| *name);
    let columns = columns(session, BINDING, &usual.collect::<Vec<_>>())?;
    let mut all = of_vhost(session, "bindings")?;
    for binding in &mut all {
        set_field(binding, "source_kind", Json::from("exchange"));
    }
    Ok(show(BINDING, columns, &all))
}

pub(super) fn connections(session: &Session) -> Done {
    let columns = columns(session, CONNECTION, &["user", "peer_host", "peer_port", "state"])?;
    let mut all = session.list("/api/connections")?;
    for connection in &mut all {
        set_field(connection, "pid", pid(&connection["name"]));
    }
    Ok(show(CONNECTION, columns, &all))
}

pub(super) fn channels(session: &Session) -> Done {
    let usual = ["pid", "user", "consumer_count", "messages_unacknowledged"];
    let columns = columns(session, CHANNEL, &usual)?;
    let mut all = session.list("/api/channels")?;
    for channel in &mut all {
        set_field(channel, "pid", pid(&channel["name"]));
        set_field(channel, "connection", pid(&channel["connection_details"]["name"]));
    }
    Ok(show(CHANNEL, columns, &all))
}

pub(super) fn consumers(session: &Session) -> Done {
    let usual = [
        "queue_name",
        "channel_pid",
        "consumer_tag",
        "ack_required",
        "prefetch_count",
        "active",
        "arguments",
    ];
    let columns = columns(session, CONSUMER, &usual)?;
    let mut all = of_vhost(session, "consumers")?;
    for consumer in &mut all {
        set_field(consumer, "pid", pid(&consumer["channel_details"]["name"]));
    }
    Ok(show(CONSUMER, columns, &all))
}

pub(super) fn vhosts(session: &Session) -> Done {
    let columns = columns(session, VHOST, &["name"])?;
    Ok(show(VHOST, columns, &session.list("/api/vhosts")?))
}

pub(super) fn feature_flags(session: &Session) -> Done {
    let columns = columns(session, FEATURE_FLAG, &["name", "state"])?;
    Ok(show(FEATURE_FLAG, columns, &session.list("/api/feature-flags")?))
}

/// What stands in the place of a process identifier: the name, in one word.
fn pid(name: &Json) -> Json {
    let name = name.as_str().unwrap_or_default();
    json!(format!("<{}>", name.replace(' ', "")))
}

/// The name of the connection that such a word stands for.
pub(super) fn name_of(pid: &str) -> String {
    let name = pid.trim_start_matches('<').trim_end_matches('>');
    match name.contains(" -> ") {
        true => name.to_owned(),
        false => name.replacen("->", " -> ", 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_found_by_its_word_and_by_its_name() {
        let name = "127.0.0.1:5 -> [::1]:5672";
        let word = pid(&json!(name));
        assert_eq!(word, "<127.0.0.1:5->[::1]:5672>");
        assert_eq!(name_of(word.as_str().unwrap()), name);
        assert_eq!(name_of(name), name);
    }
}
