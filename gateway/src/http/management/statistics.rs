//! Counts of messages, by RabbitMQ's names and in its shapes.

use mainstem_broker::{Count, Did};
use serde_json::{Map, Value as Json, json};

/// RabbitMQ's names of what is counted.
const NAMES: [(&str, Did); 11] = [
    ("publish", Did::Publish),
    ("confirm", Did::Confirm),
    ("return_unroutable", Did::Return),
    ("drop_unroutable", Did::Drop),
    ("deliver", Did::Deliver),
    ("deliver_no_ack", Did::DeliverNoAck),
    ("get", Did::Get),
    ("get_no_ack", Did::GetNoAck),
    ("get_empty", Did::GetEmpty),
    ("ack", Did::Ack),
    ("redeliver", Did::Redeliver),
];
/// What together is `deliver_get`.
const HANDED_OUT: [Did; 4] = [Did::Deliver, Did::DeliverNoAck, Did::Get, Did::GetNoAck];

/// What is told of a queue, a channel, or everything: the first kinds that there are, by number.
pub(in crate::http) fn of(counts: &[Count]) -> Json {
    let mut stats = Map::new();
    let get = |did: Did| counts.get(did as usize).copied();
    for (name, count) in NAMES.iter().filter_map(|(name, did)| Some((*name, get(*did)?))) {
        put(&mut stats, name, count.total, count.per_second());
    }
    let handed_out = HANDED_OUT.into_iter().filter_map(get).fold(Count::default(), |all, one| {
        Count { total: all.total + one.total, lately: all.lately + one.lately }
    });
    put(&mut stats, "deliver_get", handed_out.total, handed_out.per_second());
    Json::Object(stats)
}

/// The same of an exchange; nothing if nothing came to it.
pub(super) fn of_exchange([came, went]: [Count; 2]) -> Option<Json> {
    let mut stats = Map::new();
    put(&mut stats, "publish_in", came.total, came.per_second());
    put(&mut stats, "publish_out", went.total, went.per_second());
    (came.total > 0).then_some(Json::Object(stats))
}

/// Puts a number there, and how fast it grows by the second.
pub(in crate::http) fn put(fields: &mut Map<String, Json>, name: &str, total: u64, rate: f64) {
    fields.insert(name.to_owned(), json!(total));
    put_rate(fields, name, rate);
}

/// Puts there how fast a number grows by the second.
pub(in crate::http) fn put_rate(fields: &mut Map<String, Json>, name: &str, rate: f64) {
    fields.insert(format!("{name}_details"), json!({ "rate": rate }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_out_is_told_together_and_what_is_not_counted_is_left_out() {
        let counts: Vec<Count> =
            (1..=8).map(|n| Count { total: n, lately: i64::try_from(n).unwrap() }).collect();
        let stats = of(&counts);
        // Deliver, deliver_no_ack, get and get_no_ack are the second to the fifth kind.
        assert_eq!(stats["deliver_get"], 2 + 3 + 4 + 5);
        assert_eq!(stats["deliver_get_details"]["rate"], 14.0 / 5.0);
        assert_eq!((&stats["publish"], &stats["ack"]), (&json!(1), &json!(8)));
        assert_eq!(stats.get("confirm"), None);
        assert_eq!(of_exchange([Count::default(); 2]), None);
    }
}
