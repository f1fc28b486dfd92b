//! What a message tells of its earlier life: deaths, returns, delays.

use mainstem_broker::{Death, Reason};

use super::*;

const EXPIRING: Properties<'static> = Properties {
    delivery_mode: Some(2),
    expiration: Some(b"50"),
    content_type: None,
    content_encoding: None,
    headers: None,
    priority: None,
    correlation_id: None,
    reply_to: None,
    message_id: None,
    timestamp: None,
    kind: None,
    user_id: None,
    app_id: None,
    cluster_id: None,
};

fn amqp(exchange: &str, key: &str) -> Address {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Address::amqp(bytes(exchange), bytes(key))
}

fn death(queue: &str, reason: Reason, address: Address, after_ms: u64, count: u64) -> Death {
    let had_expiry = reason == Reason::Expired && address == amqp("orders", "eu.new");
    Death { queue: queue.to_owned(), reason, address, count, time: NOW.plus(after_ms), had_expiry }
}

fn tell(record: &Record, told: &Told<'_>) -> (String, String, bool, Table) {
    let out = outgoing(record, told, NOW, view);
    let properties = Properties::parse(&out.properties).unwrap();
    let headers = Bytes::copy_from_slice(properties.headers.unwrap_or_default());
    let own = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let expires = properties.expiration.is_some();
    (own(&out.exchange), own(&out.routing_key), expires, table::parse(&headers).unwrap())
}

fn keys(keys: &[&str]) -> Value {
    Value::Array(keys.iter().map(|key| text(key)).collect())
}

fn entry(pairs: &[(&str, Value)]) -> Value {
    Value::Table(pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

#[test]
fn deaths_are_told_the_latest_first_with_the_first_and_the_last_by_themselves() {
    let theirs = [("CC", keys(&["cc"])), ("k", text("v")), ("x-death", text("a lie"))];
    let record = kept(&EXPIRING, &theirs);
    let deaths = [
        death("work", Reason::Rejected, amqp("dlx", "eu.new"), 2500, 3),
        death("wait", Reason::Expired, amqp("orders", "eu.new"), 1000, 1),
    ];
    let now = amqp("dlx", "eu.new");
    let told = Told { address: Some(&now), deaths: &deaths, ..Told::default() };
    let (exchange, key, expires, headers) = tell(&record, &told);
    assert_eq!((exchange.as_str(), key.as_str(), expires), ("dlx", "eu.new", false));
    assert_eq!(find(&headers, "k"), Some(&text("v")));
    assert_eq!(find(&headers, "CC"), Some(&keys(&["cc"])));
    let seconds = |ms: u64| Value::Time(NOW.plus(ms).0 / 1000);
    let expected = Value::Array(vec![
        entry(&[
            ("count", Value::Int(3)),
            ("reason", text("rejected")),
            ("queue", text("work")),
            ("time", seconds(2500)),
            ("exchange", text("dlx")),
            ("routing-keys", keys(&["eu.new", "cc"])),
        ]),
        entry(&[
            ("count", Value::Int(1)),
            ("reason", text("expired")),
            ("queue", text("wait")),
            ("time", seconds(1000)),
            ("exchange", text("orders")),
            ("routing-keys", keys(&["eu.new", "cc"])),
            ("original-expiration", text("50")),
        ]),
    ]);
    assert_eq!(find(&headers, "x-death"), Some(&expected));
    assert_eq!(headers.iter().filter(|(name, _)| name == "x-death").count(), 1);
    for (name, value) in [
        ("x-first-death-queue", "wait"),
        ("x-first-death-reason", "expired"),
        ("x-first-death-exchange", "orders"),
        ("x-last-death-queue", "work"),
        ("x-last-death-reason", "rejected"),
        ("x-last-death-exchange", "dlx"),
    ] {
        assert_eq!(find(&headers, name), Some(&text(value)), "{name}");
    }
}

#[test]
fn a_key_of_the_dead_letter_exchange_ends_the_further_keys() {
    let record = kept(&EXPIRING, &[("CC", keys(&["cc"]))]);
    let deaths = [death("wait", Reason::Overflow, amqp("orders", "eu.new"), 0, 1)];
    let now = amqp("", "parked");
    let told = Told { address: Some(&now), deaths: &deaths, ..Told::default() };
    let (_, key, expires, headers) = tell(&record, &told);
    assert_eq!((key.as_str(), expires), ("parked", false));
    assert_eq!(find(&headers, "CC"), None);
    assert_eq!(find(&headers, "x-first-death-reason"), Some(&text("maxlen")));
}

#[test]
fn what_came_by_path_dies_like_any_other() {
    let record = mqtt("plant/oven");
    let deaths = [death("q", Reason::Attempts, record.address(), 0, 1)];
    let now = amqp("dlx", "plant.oven");
    let told = Told { address: Some(&now), deaths: &deaths, ..Told::default() };
    let out = outgoing(&record, &told, NOW, |_| View::default());
    let properties = Properties::parse(&out.properties).unwrap();
    assert_eq!(properties.expiration, None);
    let headers = Bytes::copy_from_slice(properties.headers.unwrap_or_default());
    let headers = table::parse(&headers).unwrap();
    assert_eq!((out.exchange, out.routing_key), ("dlx".into(), "plant.oven".into()));
    let Some(Value::Array(deaths)) = find(&headers, "x-death") else { panic!("{headers:?}") };
    let Some(Value::Table(death)) = deaths.first() else { panic!("{deaths:?}") };
    assert_eq!(find(death, "exchange"), Some(&text("amq.topic")));
    assert_eq!(find(death, "routing-keys"), Some(&keys(&["plant.oven"])));
    assert_eq!(find(death, "reason"), Some(&text("delivery_limit")));
}

#[test]
fn returns_are_told_once_there_are_any() {
    let record = kept(&EXPIRING, &[("x-delivery-count", text("a lie"))]);
    let (_, _, expires, headers) = tell(&record, &Told { returns: 2, ..Told::default() });
    assert_eq!(find(&headers, "x-delivery-count"), Some(&Value::Int(2)));
    assert!(expires);
    assert_eq!(headers.len(), 1);
}

#[test]
fn a_delay_counts_where_the_exchange_delays_and_changes_its_sign() {
    let held = |value: Value| {
        let record = kept(&EXPIRING, &[("x-delay", value), ("k", text("v"))]);
        let (_, _, _, headers) = tell(&record, &Told::default());
        (record.deliver_at(), record.expiry(), find(&headers, "x-delay").cloned())
    };
    // A time to live begins when the message is let go.
    let due = NOW.plus(1501);
    let turned = Some(Value::Int(-1500));
    assert_eq!(held(Value::Int(1500)), (due, due.plus(50), turned.clone()));
    assert_eq!(held(text("1500")), (due, due.plus(50), turned.clone()));
    assert_eq!(held(Value::Float(1500.9)), (due, due.plus(50), turned));
    let years = 100 * 366 * 86_400_000;
    assert_eq!(held(Value::Int(years)).0, NOW.plus(years.unsigned_abs() + 1));
    for none in [Value::Int(0), Value::Int(-1500), text("soon"), Value::Void] {
        assert_eq!(held(none.clone()), (UnixMillis::NONE, NOW.plus(50), Some(none)));
    }
    let content = Content {
        exchange: "orders".into(),
        routing_key: "eu.new".into(),
        properties: encoded(&EXPIRING, &[("x-delay", Value::Int(1500))]),
        body: "body".into(),
        reply_queue: None,
    };
    let stamp = Stamp { now: NOW, id: RecordId([7; 16]) };
    let plain = record(&content, stamp, "/", "guest", Delaying::Never).unwrap().record;
    assert_eq!(plain.deliver_at(), UnixMillis::NONE);
    assert_eq!(plain.native(), content.properties);
}
