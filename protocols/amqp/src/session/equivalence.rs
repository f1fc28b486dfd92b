//! Whether a declaration fits what is there, in RabbitMQ's exact words.

use mainstem_broker::{ExchangeDef, ExchangeKind, QueueDef, Retention};
use mainstem_schemas::{Table, Value};

use super::{Code, Fault, topology::text};

const QUEUE_TYPE: &str = "x-queue-type";

/// The arguments that count; others may differ.
const COMPARED: [&str; 15] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-single-active-consumer",
    "x-delivery-limit",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-quorum-initial-group-size",
    "x-initial-cluster-size",
];

/// Arguments that are kept and compared, but that nothing acts on. Whoever declares with one is
/// told in the server's log.
pub(crate) const WITHOUT_EFFECT: [&str; 8] = [
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-single-active-consumer",
    "x-delivery-limit",
    "x-max-age",
];

/// What a queue with these arguments keeps.
pub(super) fn retention(arguments: &Table) -> Retention {
    if text(arguments, QUEUE_TYPE) == Some("stream") {
        Retention::Time
    } else {
        Retention::Unsettled
    }
}

/// Errors: an argument is of the wrong type or out of its range.
pub(super) fn check_queue_arguments(arguments: &Table, resource: &str) -> Result<(), Fault> {
    for (name, value) in arguments {
        let why = match name.as_str() {
            "x-message-ttl" | "x-max-length" | "x-max-length-bytes" => not_at_least(value, 0),
            "x-expires" => not_at_least(value, 1),
            "x-max-priority" => match value {
                Value::Int(256..) => Some("{max_value_exceeded,255}".to_owned()),
                value => not_at_least(value, 0),
            },
            "x-dead-letter-exchange" => not_text(value),
            "x-delivery-limit" => not_at_least(value, 0),
            "x-dead-letter-routing-key" => not_text(value).or_else(|| {
                let lacks = text(arguments, "x-dead-letter-exchange").is_none();
                lacks.then(|| "routing_key_but_no_dlx_defined".to_owned())
            }),
            "x-overflow" => {
                not_one_of(value, &["drop-head", "reject-publish", "reject-publish-dlx"])
            }
            QUEUE_TYPE => not_one_of(value, &["classic", "quorum", "stream"]),
            "x-single-active-consumer" => match value {
                Value::Bool(_) => None,
                other => Some(unacceptable(other)),
            },
            _ => None,
        };
        if let Some(why) = why {
            let text = format!("invalid arg '{name}' for {resource}: {why}");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
    }
    Ok(())
}

/// A stream outlives its users.
pub(super) fn check_stream(def: &QueueDef, resource: &str) -> Result<(), Fault> {
    if def.retention != Retention::Time {
        return Ok(());
    }
    let wrong = match def {
        QueueDef { exclusive: true, .. } => "exclusive",
        QueueDef { auto_delete: true, .. } => "auto-delete",
        QueueDef { durable: false, .. } => "non-durable",
        QueueDef { .. } => return Ok(()),
    };
    let text = format!("invalid property '{wrong}' for {resource}");
    Err(Fault::new(Code::PreconditionFailed, text))
}

/// Errors: the exchange that is there is another one than wanted.
pub(super) fn exchange(
    wanted: &ExchangeDef,
    found: &ExchangeDef,
    vhost: &str,
) -> Result<(), Fault> {
    let resource = format!("exchange '{}' in vhost '{vhost}'", wanted.name);
    same("type", &resource, kind_name(wanted.kind), kind_name(found.kind))?;
    same_flag("durable", &resource, wanted.durable, found.durable)?;
    same_flag("auto_delete", &resource, wanted.auto_delete, found.auto_delete)?;
    same_flag("internal", &resource, wanted.internal, found.internal)?;
    same_argument("alternate-exchange", &resource, &wanted.arguments, &found.arguments)
}

/// Errors: the queue that is there is another one than wanted. Whether it is exclusive is a
/// matter of access, 405; the rest is 406.
pub(super) fn queue(wanted: &QueueDef, found: &QueueDef, vhost: &str) -> Result<(), Fault> {
    if wanted.exclusive != found.exclusive {
        return Err(Fault::locked(&wanted.name, vhost));
    }
    let resource = format!("queue '{}' in vhost '{vhost}'", wanted.name);
    let kind = |def: &QueueDef| text(&def.arguments, QUEUE_TYPE).unwrap_or("classic").to_owned();
    same(QUEUE_TYPE, &resource, &kind(wanted), &kind(found))?;
    same_flag("durable", &resource, wanted.durable, found.durable)?;
    same_flag("auto_delete", &resource, wanted.auto_delete, found.auto_delete)?;
    for name in COMPARED {
        same_argument(name, &resource, &wanted.arguments, &found.arguments)?;
    }
    Ok(())
}

fn kind_name(kind: ExchangeKind) -> &'static str {
    match kind {
        ExchangeKind::Direct => "direct",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Topic => "topic",
        ExchangeKind::Headers => "headers",
    }
}

fn same(name: &str, resource: &str, wanted: &str, found: &str) -> Result<(), Fault> {
    if wanted == found {
        return Ok(());
    }
    Err(inequivalent(name, resource, &format!("'{wanted}'"), &format!("'{found}'")))
}

fn same_flag(name: &str, resource: &str, wanted: bool, found: bool) -> Result<(), Fault> {
    let word = |flag: bool| if flag { "true" } else { "false" };
    same(name, resource, word(wanted), word(found))
}

fn same_argument(name: &str, resource: &str, wanted: &Table, found: &Table) -> Result<(), Fault> {
    let of = |table: &Table| {
        table.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    };
    let (wanted, found) = match (of(wanted), of(found)) {
        (wanted, found) if wanted == found => return Ok(()),
        (Some(wanted), Some(found)) => {
            (format!("'{}'", content(&wanted)), format!("'{}'", content(&found)))
        }
        (wanted, found) => (typed(wanted.as_ref()), typed(found.as_ref())),
    };
    Err(inequivalent(name, resource, &wanted, &found))
}

fn inequivalent(name: &str, resource: &str, wanted: &str, found: &str) -> Fault {
    let text = format!(
        "inequivalent arg '{name}' for {resource}: received {wanted} but current is {found}"
    );
    Fault::new(Code::PreconditionFailed, text)
}

fn typed(value: Option<&Value>) -> String {
    match value {
        Some(value) => format!("the value '{}' of type '{}'", content(value), type_name(value)),
        None => "none".to_owned(),
    }
}

fn content(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => text.clone(),
        Value::Time(seconds) => seconds.to_string(),
        Value::Void | Value::Decimal(..) | Value::Bytes(_) | Value::Array(_) | Value::Table(_) => {
            format!("{value:?}")
        }
    }
}

/// RabbitMQ's names. An integer's width is not kept; clients write the shortest of these two.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Void => "void",
        Value::Bool(_) => "bool",
        Value::Int(value) if i32::try_from(*value).is_ok() => "signedint",
        Value::Int(_) => "long",
        Value::Float(_) => "double",
        Value::Decimal(..) => "decimal",
        Value::Time(_) => "timestamp",
        Value::Text(_) => "longstr",
        Value::Bytes(_) => "binary",
        Value::Array(_) => "array",
        Value::Table(_) => "table",
    }
}

fn unacceptable(value: &Value) -> String {
    format!("{{unacceptable_type,{}}}", type_name(value))
}

fn not_at_least(value: &Value, least: i64) -> Option<String> {
    match value {
        Value::Int(value) if *value >= least => None,
        Value::Int(0) => Some("{value_zero,0}".to_owned()),
        Value::Int(value) => Some(format!("{{value_negative,{value}}}")),
        other => Some(unacceptable(other)),
    }
}

fn not_text(value: &Value) -> Option<String> {
    value.as_text().is_none().then(|| unacceptable(value))
}

fn not_one_of(value: &Value, words: &[&str]) -> Option<String> {
    match value.as_text() {
        Some(word) if words.contains(&word) => None,
        Some(word) => Some(format!("{{invalid_value,<<\"{word}\">>}}")),
        None => Some(unacceptable(value)),
    }
}
