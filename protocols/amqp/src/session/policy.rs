//! What a queue's arguments ask the store to do (RabbitMQ: queue length limit, TTL, priority, dead
//! lettering, single active consumer, quorum delivery limit, stream retention).

use bytes::Bytes;
use mainstem_broker::{
    DeadLetter, DeliveryPolicy, Overflow, Policy, age_ms, attempts_max, keeps_dead,
};
use mainstem_schemas::{Table, Value, value::find};

use super::topology::text;

/// The rules that checked arguments ask for.
pub(super) fn of(arguments: &Table) -> Policy {
    let number = |name| number(arguments, name);
    let is_true = |name| find(arguments, name) == Some(&Value::Bool(true));
    let overflow = text(arguments, "x-overflow").map(Overflow::from_word).unwrap_or_default();
    let dead_letter = text(arguments, "x-dead-letter-exchange").map(|name| DeadLetter::Exchange {
        name: name.to_owned(),
        key: text(arguments, "x-dead-letter-routing-key")
            .map(|key| Bytes::copy_from_slice(key.as_bytes())),
    });
    let is_quorum = text(arguments, "x-queue-type") == Some("quorum");
    // A quorum queue has a limit if it asks for none (RabbitMQ 4).
    let returns_max = match find(arguments, "x-delivery-limit") {
        Some(limit) => limit.as_int(),
        None => is_quorum.then_some(QUORUM_RETURNS_MAX),
    };
    Policy {
        ttl_ms: number("x-message-ttl"),
        expires_ms: number("x-expires"),
        len_max: number("x-max-length"),
        bytes_max: number("x-max-length-bytes"),
        overflow,
        priority_max: number("x-max-priority")
            .map_or(0, |max| u8::try_from(max).unwrap_or(u8::MAX)),
        age_max_ms: text(arguments, "x-max-age").and_then(age_ms),
        settle_max_ms: number("x-consumer-timeout"),
        delivery: DeliveryPolicy {
            dead_letter,
            keeps_dead: keeps_dead(is_quorum, overflow, text(arguments, "x-dead-letter-strategy")),
            attempts_max: returns_max.and_then(attempts_max),
            single_active: is_true("x-single-active-consumer"),
            backoff_ms: backoff_ms(arguments),
            ..DeliveryPolicy::default()
        },
    }
}

/// A number argument that is not below zero.
fn number(arguments: &Table, name: &str) -> Option<u64> {
    u64::try_from(find(arguments, name)?.as_int()?).ok()
}

const QUORUM_RETURNS_MAX: i64 = 20;
/// Attempts whose rests are told apart; later ones rest as long as the last.
const RESTS_MAX: u64 = 256;

/// How long returned records rest, by attempt (RabbitMQ 4.3, delayed retries of quorum queues): the
/// least time for each attempt so far, up to the greatest. All returns count alike here.
fn backoff_ms(arguments: &Table) -> Vec<u64> {
    let number = |name| number(arguments, name);
    let is_on = text(arguments, "x-delayed-retry-type").is_some_and(|kind| kind != "disabled");
    let Some(least) = number("x-delayed-retry-min").filter(|least| is_on && *least > 0) else {
        return Vec::new();
    };
    let most = number("x-delayed-retry-max").unwrap_or(u64::MAX).max(least);
    let mut rests = Vec::new();
    for attempt in 1..=RESTS_MAX {
        let rest = least.saturating_mul(attempt).min(most);
        rests.push(rest);
        if rest == most {
            break;
        }
    }
    rests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_become_rules() {
        let text = |text: &str| Value::Text(text.to_owned());
        let arguments = vec![
            ("x-message-ttl".to_owned(), Value::Int(5)),
            ("x-max-length".to_owned(), Value::Int(7)),
            ("x-overflow".to_owned(), text("reject-publish")),
            ("x-dead-letter-exchange".to_owned(), text("dlx")),
            ("x-max-priority".to_owned(), Value::Int(255)),
            ("x-single-active-consumer".to_owned(), Value::Bool(true)),
            ("x-delivery-limit".to_owned(), Value::Int(3)),
        ];
        let policy = of(&arguments);
        assert_eq!((policy.ttl_ms, policy.len_max, policy.priority_max), (Some(5), Some(7), 255));
        assert_eq!(policy.overflow, Overflow::Refuse);
        assert_eq!(policy.delivery.attempts_max, Some(4));
        assert!(policy.delivery.single_active);
        let name = "dlx".to_owned();
        let dead_letter = Some(DeadLetter::Exchange { name, key: None });
        assert_eq!(policy.delivery.dead_letter, dead_letter);
        assert_eq!(of(&Table::new()), Policy::default());
        let mut quorum = vec![("x-queue-type".to_owned(), text("quorum"))];
        assert_eq!(of(&quorum).delivery.attempts_max, Some(21));
        quorum.push(("x-delivery-limit".to_owned(), Value::Int(-1)));
        assert_eq!(of(&quorum).delivery.attempts_max, None);
        let retry = |kind: &str, most: i64| {
            of(&vec![
                ("x-delayed-retry-type".to_owned(), text(kind)),
                ("x-delayed-retry-min".to_owned(), Value::Int(100)),
                ("x-delayed-retry-max".to_owned(), Value::Int(most)),
            ])
        };
        assert_eq!(retry("all", 250).delivery.backoff_ms, [100, 200, 250]);
        assert_eq!(retry("failed", 50).delivery.backoff_ms, [100]);
        assert_eq!(retry("all", i64::MAX).delivery.backoff_ms.len(), 256);
        assert!(retry("disabled", 250).delivery.backoff_ms.is_empty());
        let age = |age: &str| of(&vec![("x-max-age".to_owned(), text(age))]).age_max_ms;
        assert_eq!(age("7D"), Some(7 * 24 * 3_600_000));
        assert_eq!(age("7"), None);
    }
}
