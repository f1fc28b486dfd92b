//! MQTT's column of the mapping, cell by cell.

use bytes::{BufMut, Bytes, BytesMut};
use mainstem_broker::Stamp;
use mainstem_schemas::{
    Address, Correlation, Origin, Record, RecordDraft, RecordId, ReplyTo, UnixMillis, Value, View,
    flags,
};

use super::{time::parse_rfc3339, *};
use crate::codec::{Qos, Reason, Text, Version, output::put_binary, property::id};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn sender(version: Version) -> Sender<'static> {
    Sender { version, namespace: "/", publisher: 5, topic_levels_max: 4, delay_max_s: 100 }
}

fn message(topic: &'static str, native: Bytes) -> Message {
    Message {
        qos: Qos::AtLeastOnce,
        retain: true,
        topic: Text::from(topic),
        native,
        expiry_s: Some(7),
        payload: Bytes::from_static(b"hi"),
    }
}

fn stamp() -> Stamp {
    Stamp { now: NOW, id: RecordId::new(NOW, 1) }
}

fn user(pairs: &[(&str, &str)]) -> Bytes {
    let mut out = BytesMut::new();
    for (name, value) in pairs {
        out.put_u8(id::USER);
        put_binary(&mut out, name.as_bytes());
        put_binary(&mut out, value.as_bytes());
    }
    out.freeze()
}

fn text(id: u8, text: &str) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(id);
    put_binary(&mut out, text.as_bytes());
    out.freeze()
}

fn born(native: Bytes) -> Record {
    message("a/b", native).record(&sender(Version::V5), stamp()).unwrap()
}

#[test]
fn a_message_becomes_a_record() {
    let record = born(user(&[("priority", "9")]));
    assert_eq!(record.address(), Address::mqtt("a/b".into()));
    assert_eq!(record.flags(), flags::DURABLE | flags::RETAIN);
    assert_eq!((record.qos(), record.priority(), record.publisher()), (1, 9, 5));
    assert_eq!(record.expiry(), NOW.plus(7000));
    assert_eq!(native_properties(&record.native()), user(&[("priority", "9")]));
    assert_eq!(record.data(), "hi");
    let early = message("a/b", Bytes::new()).record(&sender(Version::V311), stamp()).unwrap();
    assert!(early.native().is_empty());
}

#[test]
fn a_delayed_topic_is_a_time_and_a_topic() {
    let record = |topic| message(topic, Bytes::new()).record(&sender(Version::V5), stamp());
    let delayed = record("$delayed/5/a/b").unwrap();
    assert_eq!(delayed.address(), Address::mqtt("a/b".into()));
    assert_eq!(delayed.deliver_at(), NOW.plus(5000));
    for bad in ["$delayed/5", "$delayed/x/a", "$delayed/5/", "$delayed/101/a", "$delayed/-1/a"] {
        assert_eq!(record(bad).unwrap_err().reason, Reason::TOPIC_INVALID, "{bad}");
    }
    assert!(record("1/2/3/4").is_ok());
    assert_eq!(record("1/2/3/4/5").unwrap_err().reason, Reason::TOPIC_INVALID);
}

#[test]
fn expiry_left_is_rounded_up_and_never_below_zero_mqtt_3_3_2_6() {
    let record = born(Bytes::new());
    assert_eq!(expiry_left_s(record.expiry(), NOW), Some(7));
    assert_eq!(expiry_left_s(record.expiry(), NOW.plus(6001)), Some(1));
    assert_eq!(expiry_left_s(record.expiry(), NOW.plus(9000)), Some(0));
    let kept = Message { expiry_s: None, ..message("a", Bytes::new()) };
    assert_eq!(
        expiry_left_s(kept.record(&sender(Version::V5), stamp()).unwrap().expiry(), NOW),
        None
    );
}

#[test]
fn properties_become_a_view() {
    let native = [
        Bytes::from_static(&[id::PAYLOAD_FORMAT, 1]),
        text(id::CONTENT_TYPE, "text/csv"),
        text(id::RESPONSE_TOPIC, "re/ply"),
        text(id::CORRELATION_DATA, "c-1"),
        user(&[
            ("tag", "G"),
            ("keys", "k1"),
            ("keys", "k2"),
            ("partitionkey", "p"),
            ("traceparent", "00-1"),
            ("content-encoding", "gzip"),
            ("priority", "3"),
            ("x", "1"),
            ("x", "2"),
        ]),
    ]
    .concat();
    let view = view(&born(native.into()));
    assert_eq!(view.content_type.as_deref(), Some("text/csv"));
    assert_eq!(view.is_text, Some(true));
    assert_eq!(view.reply_to, Some(ReplyTo::Topic("re/ply".to_owned())));
    assert_eq!(view.correlation, Some(Correlation::Text("c-1".to_owned())));
    assert_eq!((view.tag.as_deref(), view.partition_key.as_deref()), (Some("G"), Some("p")));
    assert_eq!(view.keys, ["k1", "k2"]);
    assert_eq!(view.trace_parent.as_deref(), Some("00-1"));
    assert_eq!(view.content_encoding.as_deref(), Some("gzip"));
    assert_eq!(view.priority, Some(3));
    let x = |value: &str| ("x".to_owned(), Value::Text(value.to_owned()));
    assert_eq!(view.props, [x("1"), x("2")]);
    assert!(view.event.is_empty());
}

#[test]
fn a_queue_as_response_topic_is_a_queue() {
    let view = view(&born(text(id::RESPONSE_TOPIC, "$queue/answers")));
    assert_eq!(view.reply_to, Some(ReplyTo::Queue("answers".to_owned())));
}

#[test]
fn correlation_that_is_no_text_stays_bytes() {
    let mut native = BytesMut::new();
    native.put_u8(id::CORRELATION_DATA);
    put_binary(&mut native, &[0xff, 0]);
    let view = view(&born(native.freeze()));
    assert_eq!(view.correlation, Some(Correlation::Data(Bytes::from_static(&[0xff, 0]))));
}

#[test]
fn text_without_a_type_is_plain_text() {
    let view = view(&born(Bytes::from_static(&[id::PAYLOAD_FORMAT, 1])));
    assert_eq!(view.content_type.as_deref(), Some("text/plain; charset=utf-8"));
}

#[test]
fn a_cloud_event_keeps_what_its_sender_said() {
    let pairs = [
        ("specversion", "1.0"),
        ("id", "e1"),
        ("source", "/s"),
        ("type", "t.x"),
        ("time", "2023-11-14T22:13:20Z"),
        ("Other-Header", "h"),
    ];
    let view = view(&born(user(&pairs)));
    assert_eq!((view.id.as_deref(), view.kind.as_deref()), (Some("e1"), Some("t.x")));
    assert_eq!(view.time, NOW);
    assert_eq!(view.event.len(), 5);
    assert_eq!(view.props.len(), 1);
    // One required attribute short, it is a plain message.
    assert!(super::view(&born(user(&pairs[1..]))).event.is_empty());
}

#[test]
fn rfc_3339_times_are_read() {
    assert_eq!(parse_rfc3339("2023-11-14T22:13:20Z"), Some(NOW));
    assert_eq!(parse_rfc3339("2023-11-14T23:13:20.25+01:00"), Some(NOW.plus(250)));
    assert_eq!(parse_rfc3339("2024-02-29T00:00:00Z"), Some(UnixMillis(1_709_164_800_000)));
    for bad in
        ["", "2023-11-14", "2023-13-14T22:13:20Z", "2023-11-14T22:13:20", "1969-01-01T00:00:00Z"]
    {
        assert_eq!(parse_rfc3339(bad), None, "{bad}");
    }
}

fn foreign(address: &Address, view: &View, with_props: bool) -> Foreign {
    let mut draft = RecordDraft::new(address, "/", b"", b"{\"a\":1}");
    draft.now = NOW;
    let record = draft.encode().unwrap();
    Foreign::new(&record, &record.address(), view, with_props)
}

#[test]
fn another_protocols_record_becomes_a_message() {
    let address = Address::amqp("orders".into(), "eu.new".into());
    let view = View {
        content_type: Some("application/json".to_owned()),
        correlation: Some(Correlation::Text("c".to_owned())),
        reply_to: Some(ReplyTo::Queue("q 1".to_owned())),
        tag: Some("G".to_owned()),
        keys: vec!["k".to_owned()],
        props: vec![
            ("n".to_owned(), Value::Int(-5)),
            ("b".to_owned(), Value::Bool(true)),
            ("f".to_owned(), Value::Float(1.5)),
            ("v".to_owned(), Value::Void),
            ("bytes".to_owned(), Value::Bytes(Bytes::from_static(b"x"))),
        ],
        ..View::default()
    };
    let message = foreign(&address, &view, true);
    assert_eq!(message.topic, "orders/eu/new");
    let expected = [
        Bytes::from_static(&[id::PAYLOAD_FORMAT, 1]),
        text(id::CONTENT_TYPE, "application/json"),
        text(id::RESPONSE_TOPIC, "$queue/q 1"),
        text(id::CORRELATION_DATA, "c"),
        user(&[("tag", "G"), ("keys", "k"), ("n", "-5"), ("b", "true"), ("f", "1.5"), ("v", "")]),
    ]
    .concat();
    assert_eq!(message.native, expected);
    assert!(foreign(&address, &view, false).native.len() < expected.len());
}

#[test]
fn the_written_block_is_one_a_client_may_read() {
    use crate::codec::property::{Context, read_properties};
    let view = View {
        reply_to: Some(ReplyTo::Topic("a/#".to_owned())),
        content_type: Some("x\0y".to_owned()),
        props: vec![("a\0".to_owned(), Value::Text("b".to_owned()))],
        event: vec![("id".to_owned(), "1".to_owned()), ("tag".to_owned(), "E".to_owned())],
        tag: Some("G".to_owned()),
        ..View::default()
    };
    let message = foreign(&Address::rocketmq("T".into(), "G".into()), &view, true);
    assert_eq!(message.topic, "T/G");
    assert_eq!(message.native, user(&[("id", "1"), ("tag", "E")]));
    assert_eq!(read_properties(message.native, Context::Publish, |_, _, _| Ok(())), Ok(()));
}

#[test]
fn an_address_without_a_topic_gives_none() {
    let address = Address::amqp("amq.topic".into(), "".into());
    assert!(foreign(&address, &View::default(), true).topic.is_empty());
}

#[test]
fn a_decompressed_payload_goes_without_its_encoding() {
    let view = View {
        content_encoding: Some("gzip".to_owned()),
        plain_data: Some(Bytes::from_static(b"plain")),
        ..View::default()
    };
    let message = foreign(&Address::rocketmq("T".into(), "".into()), &view, true);
    assert_eq!((message.payload, message.native), (Bytes::from_static(b"plain"), Bytes::new()));
}

#[test]
fn a_publisher_hash_never_changes() {
    // Stored in records: a change would let clients hear themselves.
    assert_eq!(publisher_hash("/", "a"), publisher_hash("/", "a"));
    assert_ne!(publisher_hash("/", "a"), publisher_hash("/", "b"));
    assert_ne!(publisher_hash("a", "b"), publisher_hash("", "ab"));
    assert_eq!(publisher_hash("", ""), 0xaf63_bd4c_8601_b7df);
}

#[test]
fn a_native_block_that_does_not_read_gives_an_empty_view() {
    let address = Address::mqtt("t".into());
    let record = RecordDraft::new(&address, "/", &[NATIVE_V5, 0x7f], b"").encode().unwrap();
    assert_eq!(record.origin(), Origin::Mqtt);
    assert_eq!(view(&record), View::default());
}

#[test]
fn the_servers_own_topics_are_not_written_however_they_are_named() {
    let reason = |topic| {
        let record = message(topic, Bytes::new()).record(&sender(Version::V5), stamp());
        record.err().map(|refused| refused.reason)
    };
    for own in [
        "$SYS/broker/version",
        "$delayed/1/$SYS/broker/version",
        "$queue/$mainstem-will%2F00",
        "%24queue/$mainstem-will%2F00",
        "$queue/%24mainstem-will%2F00",
        "$delayed/1/%24queue/%24mainstem-will%2F00",
    ] {
        assert_eq!(reason(own), Some(Reason::NOT_AUTHORIZED), "{own}");
    }
    for free in ["$queue/jobs", "$queue", "%24queue/jobs", "a/$mainstem-will%2F00"] {
        assert_eq!(reason(free), None, "{free}");
    }
}
