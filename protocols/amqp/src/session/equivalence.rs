//! Whether a declaration fits what is there, in RabbitMQ's exact words.

use mainstem_broker::{ExchangeDef, ExchangeKind, QueueDef, Retention, age_ms};
use mainstem_schemas::{Table, Value, value::find};

use super::{
    Code, Fault,
    topology::{RESERVED_PREFIX, name_of, text},
};

const QUEUE_TYPE: &str = "x-queue-type";

/// The arguments that count; others may differ.
const COMPARED: [&str; 18] = [
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
    "x-delayed-retry-type",
    "x-delayed-retry-min",
    "x-delayed-retry-max",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-quorum-initial-group-size",
    "x-initial-cluster-size",
];

/// What a stream has no use for: it keeps everything, for everybody, and ends nothing.
const NOT_FOR_STREAMS: [&str; 10] = [
    "x-expires",
    "x-message-ttl",
    "x-max-length",
    "x-overflow",
    "x-max-priority",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-single-active-consumer",
    "x-delivery-limit",
];

/// What the name of a server-named queue is to begin with.
pub(super) const NAME_PREFIX: &str = "x-name-prefix";
/// Bytes of it.
const NAME_PREFIX_MAX: usize = 64;

/// What only a stream has.
const FOR_STREAMS: [&str; 1] = ["x-max-age"];

/// What a queue with these arguments keeps.
pub(super) fn retention(arguments: &Table) -> Retention {
    if text(arguments, QUEUE_TYPE) == Some("stream") {
        Retention::Time
    } else {
        Retention::Unsettled
    }
}

/// Errors: an argument is of the wrong type, out of its range, or without any effect on a queue of
/// this type.
pub(super) fn check_queue_arguments(arguments: &Table, resource: &str) -> Result<(), Fault> {
    let is_stream = retention(arguments) == Retention::Time;
    for (name, value) in arguments {
        let name = name.as_str();
        if name == "x-dead-letter-exchange" && value.as_text().is_none() {
            let kind = type_name(value);
            let text = format!("invalid type '{kind}' for arg '{name}' in {resource}");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        if let Some(why) = what_is_wrong(arguments, name, value) {
            let text = format!("invalid arg '{name}' for {resource}: {why}");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        let foreign: &[&str] = if is_stream { &NOT_FOR_STREAMS } else { &FOR_STREAMS };
        if foreign.contains(&name) {
            return Err(not_of_type(name, resource, type_of(arguments)));
        }
    }
    Ok(())
}

/// The queue's type does not know the argument.
pub(super) fn not_of_type(name: &str, resource: &str, kind: &str) -> Fault {
    let text = format!("invalid arg '{name}' for {resource} of queue type rabbit_{kind}_queue");
    Fault::new(Code::PreconditionFailed, text)
}

/// The type that the arguments name.
pub(super) fn type_of(arguments: &Table) -> &str {
    text(arguments, QUEUE_TYPE).unwrap_or("classic")
}

fn what_is_wrong(arguments: &Table, name: &str, value: &Value) -> Option<String> {
    match name {
        "x-message-ttl" | "x-max-length" | "x-max-length-bytes" => not_at_least(value, 0),
        "x-expires"
        | "x-consumer-timeout"
        | "x-initial-cluster-size"
        | "x-quorum-initial-group-size"
        | "x-quorum-target-group-size" => not_at_least(value, 1),
        "x-max-priority" => match value {
            Value::Int(over @ 256..) => Some(format!("{{max_value_exceeded,{over}}}")),
            value => not_at_least(value, 0),
        },
        // -1 is RabbitMQ 4's "no limit".
        "x-delivery-limit" => not_at_least(value, -1),
        "x-dead-letter-routing-key" => not_text(value).or_else(|| {
            let lacks = text(arguments, "x-dead-letter-exchange").is_none();
            lacks.then(|| "routing_key_but_no_dlx_defined".to_owned())
        }),
        "x-dead-letter-strategy" => {
            let words = ["at-most-once", "at-least-once"];
            not_one_of(value, &words, |_| "invalid_dlx_strategy".to_owned())
        }
        "x-overflow" => {
            let words = ["drop-head", "reject-publish", "reject-publish-dlx"];
            not_one_of(value, &words, |_| "invalid_overflow".to_owned())
        }
        "x-queue-mode" => not_one_of(value, &["default", "lazy"], |word| {
            format!("\"unsupported queue mode '{word}'\"")
        }),
        "x-queue-version" => match value {
            Value::Int(1 | 2) => None,
            Value::Int(other) => Some(format!("\"unsupported queue version '{other}'\"")),
            other => Some(not_integer(other)),
        },
        "x-max-age" => match value {
            Value::Text(age) if age_ms(age).is_some() => None,
            Value::Text(_) => Some("invalid_max_age".to_owned()),
            other => Some(unacceptable(other)),
        },
        QUEUE_TYPE => not_one_of(value, &["classic", "quorum", "stream"], |word| {
            format!("\"unsupported queue type '{word}'\"")
        }),
        "x-single-active-consumer" => not_bool(value),
        "x-delayed-retry-type" => {
            let words = ["disabled", "all", "failed", "returned"];
            not_one_of(value, &words, |_| "invalid_delayed_retry_type".to_owned())
        }
        "x-delayed-retry-min" | "x-delayed-retry-max" => not_at_least(value, 1),
        NAME_PREFIX => not_text(value).or_else(|| {
            let prefix = name_of(value.as_text().unwrap_or_default().as_bytes());
            let is_good = |prefix: &String| {
                prefix.len() <= NAME_PREFIX_MAX && !prefix.starts_with(RESERVED_PREFIX)
            };
            (!prefix.as_ref().is_ok_and(is_good)).then(|| "invalid_name_prefix".to_owned())
        }),
        _ => None,
    }
}

/// A stream outlives its users.
pub(super) fn check_stream(def: &QueueDef, resource: &str) -> Result<(), Fault> {
    if def.retention != Retention::Time {
        return Ok(());
    }
    let wrong = match def {
        QueueDef { exclusive: true, .. } => "exclusive-owner",
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
    same("type", &resource, type_word(wanted), type_word(found))?;
    if is_delayed(wanted) {
        same_argument(DELAYED_TYPE, &resource, &wanted.arguments, &found.arguments)?;
    }
    same_flag("durable", &resource, wanted.durable, found.durable)?;
    same_flag("auto_delete", &resource, wanted.auto_delete, found.auto_delete)?;
    same_flag("internal", &resource, wanted.internal, found.internal)?;
    same_argument("alternate-exchange", &resource, &wanted.arguments, &found.arguments)
}

/// Errors: the queue that is there is another one than wanted. Whether it is exclusive is a
/// matter of access, 405; the rest is 406.
pub(crate) fn queue(wanted: &QueueDef, found: &QueueDef, vhost: &str) -> Result<(), Fault> {
    if wanted.exclusive != found.exclusive {
        return Err(Fault::locked(&wanted.name, vhost));
    }
    let resource = format!("queue '{}' in vhost '{vhost}'", wanted.name);
    // No type and the default one are the same.
    if type_of(&wanted.arguments) != type_of(&found.arguments) {
        same_argument(QUEUE_TYPE, &resource, &wanted.arguments, &found.arguments)?;
    }
    same_flag("durable", &resource, wanted.durable, found.durable)?;
    same_flag("auto_delete", &resource, wanted.auto_delete, found.auto_delete)?;
    for name in COMPARED {
        same_argument(name, &resource, &wanted.arguments, &found.arguments)?;
    }
    Ok(())
}

/// The words for the routing rules.
pub(super) const KIND_WORDS: [(&str, ExchangeKind); 9] = [
    ("direct", ExchangeKind::Direct),
    ("fanout", ExchangeKind::Fanout),
    ("topic", ExchangeKind::Topic),
    ("headers", ExchangeKind::Headers),
    ("x-consistent-hash", ExchangeKind::ConsistentHash),
    ("x-modulus-hash", ExchangeKind::ModulusHash),
    ("x-random", ExchangeKind::Random),
    ("x-local-random", ExchangeKind::LocalRandom),
    ("x-recent-history", ExchangeKind::RecentHistory),
];
/// The type of exchange that the plugin of this name adds to RabbitMQ.
pub(super) const DELAYED: &str = "x-delayed-message";

/// The argument of an exchange that holds messages back for as long as their `x-delay` header says:
/// the routing rule it has besides. No other exchange keeps it.
pub(crate) const DELAYED_TYPE: &str = "x-delayed-type";

/// Whether the exchange was declared as `x-delayed-message`.
pub(crate) fn is_delayed(exchange: &ExchangeDef) -> bool {
    find(&exchange.arguments, DELAYED_TYPE).is_some()
}

/// The word for an exchange's type.
#[must_use]
pub fn type_word(exchange: &ExchangeDef) -> &'static str {
    if is_delayed(exchange) {
        return DELAYED;
    }
    let found = KIND_WORDS.into_iter().find(|(_, kind)| *kind == exchange.kind);
    found.map_or("", |(word, _)| word)
}

/// The words for all types of exchange.
pub fn kind_words() -> impl Iterator<Item = &'static str> {
    KIND_WORDS.into_iter().map(|(word, _)| word).chain([DELAYED])
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
    let (wanted, found) = match (find(wanted, name), find(found, name)) {
        (wanted, found) if wanted == found => return Ok(()),
        (Some(wanted), Some(found)) => {
            (format!("'{}'", content(wanted)), format!("'{}'", content(found)))
        }
        (wanted, found) => (typed(wanted), typed(found)),
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
pub(super) fn type_name(value: &Value) -> &'static str {
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

pub(super) fn not_integer(value: &Value) -> String {
    format!("\"expected integer, got {}\"", type_name(value))
}

fn not_at_least(value: &Value, least: i64) -> Option<String> {
    match value {
        Value::Int(value) if *value >= least => None,
        Value::Int(0) => Some("{value_zero,0}".to_owned()),
        Value::Int(value) => Some(format!("{{value_negative,{value}}}")),
        other => Some(not_integer(other)),
    }
}

pub(super) fn not_bool(value: &Value) -> Option<String> {
    if let Value::Bool(_) = value { None } else { Some(unacceptable(value)) }
}

fn not_text(value: &Value) -> Option<String> {
    value.as_text().is_none().then(|| unacceptable(value))
}

fn not_one_of(value: &Value, words: &[&str], wrong: impl FnOnce(&str) -> String) -> Option<String> {
    match value.as_text() {
        Some(word) if words.contains(&word) => None,
        Some(word) => Some(wrong(word)),
        None => Some(unacceptable(value)),
    }
}
