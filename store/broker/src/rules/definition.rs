//! What a rule may ask, and the words for what it may not (RabbitMQ, `rabbit_policies.erl`).

use mainstem_schemas::{Table, Value};

use super::{Authority, QueueType};

/// How a key's value is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    AtLeast(i64),
    OneOf(&'static [&'static str]),
    Age,
    /// It has no meaning on one machine, or only to a plugin.
    Any,
}

/// Every key: its name, what its value is called in an error, its form, and whether operators may
/// ask it too.
const KEYS: [(&str, &str, Form, bool); 33] = [
    ("alternate-exchange", "alternate exchange name", Form::Text, false),
    ("dead-letter-exchange", "dead letter exchange name", Form::Text, false),
    ("dead-letter-routing-key", "dead letter routing key", Form::Text, false),
    (
        "dead-letter-strategy",
        "dead letter strategy",
        Form::OneOf(&["at-most-once", "at-least-once"]),
        false,
    ),
    ("message-ttl", "message TTL", Form::AtLeast(0), true),
    ("expires", "queue expiry", Form::AtLeast(1), true),
    ("max-length", "maximum length", Form::AtLeast(0), true),
    ("max-length-bytes", "maximum length in bytes", Form::AtLeast(0), true),
    ("max-in-memory-length", "maximum memory in bytes", Form::AtLeast(0), true),
    ("max-in-memory-bytes", "maximum memory in bytes", Form::AtLeast(0), true),
    (
        "overflow",
        "overflow value",
        Form::OneOf(&["drop-head", "reject-publish", "reject-publish-dlx"]),
        true,
    ),
    ("delivery-limit", "delivery limit", Form::AtLeast(-1), true),
    ("consumer-timeout", "consumer timeout", Form::AtLeast(0), true),
    ("max-age", "max age", Form::Age, false),
    ("queue-mode", "queue-mode value", Form::OneOf(&["default", "lazy"]), false),
    ("queue-version", "queue-version value", Form::AtLeast(1), true),
    ("max-segment-size", "segment size", Form::AtLeast(0), false),
    ("stream-max-segment-size-bytes", "segment size", Form::AtLeast(0), false),
    ("stream-filter-size-bytes", "filter size", Form::AtLeast(16), false),
    (
        "queue-leader-locator",
        "queue leader locator value",
        Form::OneOf(&["client-local", "balanced", "random", "least-leaders"]),
        false,
    ),
    ("queue-master-locator", "queue master locator", Form::Text, false),
    ("initial-cluster-size", "cluster size", Form::AtLeast(0), false),
    ("target-group-size", "target group size", Form::AtLeast(1), true),
    ("address", "address", Form::OneOf(&["none"]), false),
    ("ha-mode", "ha-mode", Form::Any, false),
    ("ha-params", "ha-params", Form::Any, false),
    ("ha-sync-mode", "ha-sync-mode", Form::Any, false),
    ("ha-sync-batch-size", "ha-sync-batch-size", Form::Any, false),
    ("ha-promote-on-shutdown", "ha-promote-on-shutdown", Form::Any, false),
    ("ha-promote-on-failure", "ha-promote-on-failure", Form::Any, false),
    ("federation-upstream", "federation upstream", Form::Any, false),
    ("federation-upstream-set", "federation upstream set", Form::Any, false),
    ("shards-per-node", "number of shards", Form::AtLeast(0), false),
];

/// Errors: a key that this authority has not, or a value of another form.
pub(super) fn check_definition(authority: Authority, definition: &Table) -> Result<(), String> {
    let find = |key: &str| {
        let found = KEYS.iter().find(|(name, ..)| *name == key);
        found.filter(|(.., is_operators)| authority == Authority::User || *is_operators)
    };
    if definition.is_empty() {
        return Err("no policy provided".to_owned());
    }
    let unknown: Vec<String> = definition
        .iter()
        .filter(|(key, _)| find(key).is_none())
        .map(|(key, value)| format!("{{<<\"{key}\">>,{}}}", shown(value)))
        .collect();
    if !unknown.is_empty() {
        return Err(format!("[{}] are not recognised policy settings", unknown.join(",")));
    }
    for (key, value) in definition {
        if let Some((_, called, form, _)) = find(key)
            && !has_form(value, *form)
        {
            return Err(format!("{} is not a valid {called}", shown(value)));
        }
    }
    Ok(())
}

fn has_form(value: &Value, form: Form) -> bool {
    match (form, value) {
        (Form::Any, _) | (Form::Text, Value::Text(_)) => true,
        (Form::AtLeast(least), Value::Int(number)) => *number >= least,
        (Form::OneOf(words), Value::Text(word)) => words.contains(&word.as_str()),
        (Form::Age, Value::Text(age)) => age_ms(age).is_some(),
        _ => false,
    }
}

/// As Erlang prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("<<\"{text}\">>"),
        Value::Int(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Float(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// An age such as `7D`: a number and one of Y, M, D, h, m, s.
#[must_use]
pub fn age_ms(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds: u64 = match unit {
        'Y' => 365 * 24 * 3600,
        'M' => 30 * 24 * 3600,
        'D' => 24 * 3600,
        'h' => 3600,
        'm' => 60,
        's' => 1,
        _ => return None,
    };
    number.checked_mul(seconds)?.checked_mul(1000)
}

/// Keys that a type of queue does not know; a rule with one of them is not for it
/// (`unsupported_policies` of RabbitMQ's queue types).
pub(super) fn unknown_to(kind: QueueType, key: &str) -> bool {
    match kind {
        QueueType::Classic => matches!(
            key,
            "max-age"
                | "stream-max-segment-size-bytes"
                | "max-segment-size"
                | "initial-cluster-size"
                | "delivery-limit"
                | "dead-letter-strategy"
                | "max-in-memory-length"
                | "max-in-memory-bytes"
                | "target-group-size"
        ),
        QueueType::Quorum => {
            matches!(
                key,
                "queue-mode"
                    | "queue-master-locator"
                    | "max-age"
                    | "stream-max-segment-size-bytes"
                    | "max-segment-size"
                    | "initial-cluster-size"
            ) || key.starts_with("ha-")
        }
        QueueType::Stream => {
            matches!(
                key,
                "expires"
                    | "message-ttl"
                    | "dead-letter-exchange"
                    | "dead-letter-routing-key"
                    | "dead-letter-strategy"
                    | "max-length"
                    | "max-in-memory-length"
                    | "max-in-memory-bytes"
                    | "overflow"
                    | "queue-mode"
                    | "delivery-limit"
                    | "queue-master-locator"
                    | "target-group-size"
            ) || key.starts_with("ha-")
        }
    }
}
