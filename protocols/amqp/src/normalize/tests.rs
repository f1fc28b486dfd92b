//! The mapping's cells, one by one.

use bytes::{Bytes, BytesMut};
use mainstem_broker::Stamp;
use mainstem_schemas::{
    Address, Correlation, Offset, Record, RecordDraft, RecordId, ReplyTo, Table, UnixMillis, Value,
    View, flags,
};

use super::{Delaying, Told, delay_ms, outgoing, record, routing, view};
use crate::{
    codec::{Properties, table},
    session::{Content, Fault},
};

mod deaths;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn encoded(properties: &Properties<'_>, headers: &[(&str, Value)]) -> Bytes {
    let headers: Table = headers.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
    let mut entries = BytesMut::new();
    table::put(&mut entries, &headers);
    let mut out = BytesMut::new();
    properties.put_with(&mut out, |out| out.extend_from_slice(&entries[4..]));
    out.freeze()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn publish(
    properties: &Properties<'_>,
    headers: &[(&str, Value)],
) -> Result<mainstem_broker::Publish, Fault> {
    let content = Content {
        exchange: "orders".into(),
        routing_key: "eu.new".into(),
        properties: encoded(properties, headers),
        body: "body".into(),
        reply_queue: None,
    };
    let delaying = if delay_ms(&content).is_some() { Delaying::ByHeader } else { Delaying::Never };
    record(&content, Stamp { now: NOW, id: RecordId([7; 16]) }, "/", "guest", delaying)
}

fn kept(properties: &Properties<'_>, headers: &[(&str, Value)]) -> Record {
    publish(properties, headers).unwrap().record
}

fn refused(properties: &Properties<'_>, headers: &[(&str, Value)]) -> String {
    publish(properties, headers).unwrap_err().to_string()
}

/// What a client reads of a record, as properties and headers.
fn read(record: &Record, view: View) -> (String, String, Bytes, Table) {
    let out = outgoing(record, &Told::default(), NOW, |_| view);
    let headers = Properties::parse(&out.properties).unwrap().headers.unwrap_or_default();
    let headers = table::parse(&Bytes::copy_from_slice(headers)).unwrap();
    let own = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (own(&out.exchange), own(&out.routing_key), out.properties, headers)
}

fn mqtt(topic: &str) -> Record {
    let address = Address::mqtt(Bytes::copy_from_slice(topic.as_bytes()));
    let mut draft = RecordDraft::new(&address, "/", b"", b"payload");
    draft.flags = flags::DURABLE;
    draft.now = NOW;
    draft.expiry = NOW.plus(5000);
    draft.encode().unwrap()
}

fn find<'a>(headers: &'a Table, name: &str) -> Option<&'a Value> {
    headers.iter().find(|(other, _)| other == name).map(|(_, value)| value)
}

#[test]
fn what_came_by_amqp_leaves_as_it_came() {
    let properties = Properties {
        content_type: Some(b"text/plain"),
        delivery_mode: Some(2),
        priority: Some(4),
        expiration: Some(b"60000"),
        ..Properties::default()
    };
    let headers = [("b", Value::Int(1)), ("a", text("x")), ("b", Value::Void)];
    let record = kept(&properties, &headers);
    assert!(record.is_durable());
    assert_eq!((record.qos(), record.priority()), (1, 4));
    assert_eq!(record.expiry(), NOW.plus(60_000));
    assert_eq!(record.id(), RecordId([7; 16]));
    let out = outgoing(&record, &Told::default(), NOW.plus(1000), |_| panic!("no view is needed"));
    assert_eq!(out.properties, encoded(&properties, &headers));
    assert_eq!((out.exchange, out.routing_key), ("orders".into(), "eu.new".into()));
    assert_eq!(out.body, "body");
}

#[test]
fn bcc_reaches_queues_but_no_reader() {
    let keys = |keys: &[&str]| Value::Array(keys.iter().map(|key| text(key)).collect());
    let headers = [("CC", keys(&["c1", "c2"])), ("BCC", keys(&["b1"])), ("k", text("v"))];
    let publish = publish(&Properties::default(), &headers).unwrap();
    assert_eq!(publish.extra_keys, ["c1", "c2", "b1"]);
    let expected =
        encoded(&Properties::default(), &[("CC", keys(&["c1", "c2"])), ("k", text("v"))]);
    let out = outgoing(&publish.record, &Told::default(), NOW, |_| panic!("no view is needed"));
    assert_eq!(out.properties, expected);
    assert!(view(&publish.record).props.iter().all(|(name, _)| name != "BCC"));
    let routing = routing(&publish.record);
    assert_eq!(routing.further_keys, ["c1", "c2", "b1"]);
    assert!(routing.headers.iter().all(|(name, _)| name != "BCC"));
}

#[test]
fn keys_that_are_no_list_are_refused_in_rabbitmqs_words() {
    let bytes = || Bytes::from_static(b"\xff");
    for (value, kind) in [
        (Value::Int(1), "long"),
        (Value::Bool(true), "bool"),
        (Value::Void, "void"),
        (text("c"), "longstr"),
        (Value::Bytes(bytes()), "binary"),
        (Value::Table(Vec::new()), "table"),
        (Value::Time(1), "timestamp"),
        (Value::Decimal(1, 15), "decimal"),
        (Value::Float(1.5), "double"),
    ] {
        for name in ["CC", "BCC"] {
            let said = refused(&Properties::default(), &[(name, value.clone())]);
            let wanted = format!(
                "PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}"
            );
            assert_eq!(said, wanted);
        }
    }
}

#[test]
fn a_bad_expiration_is_a_406_trap_9() {
    let check = |expiration: &str, why: &str| {
        let expiration = Some(expiration.as_bytes());
        let fault = refused(&Properties { expiration, ..Properties::default() }, &[]);
        assert!(fault.starts_with("PRECONDITION_FAILED - invalid expiration '"), "{fault}");
        assert!(fault.ends_with(why), "{fault}");
    };
    check("soon", "': no_integer");
    check("", "': no_integer");
    check("12x", "': {leftover_string,\"x\"}");
    check("-5", "': {value_negative,-5}");
    check("315360000001", "': {value_too_large,315360000001}");
    check("99999999999999999999999", "': {value_too_large,99999999999999999999999}");
    // What is left over is said as Erlang shows it.
    check("5\n", "': {leftover_string,\"\\n\"}");
    check("3\"\\", "': {leftover_string,\"\\\"\\\\\"}");
    check("12\u{1}\u{e9}", "': {leftover_string,[1,195,169]}");
    check("12\u{e9}", "': {leftover_string,\"\u{e9}\"}");
    let longest = Properties { expiration: Some(b"315360000000"), ..Properties::default() };
    assert_eq!(kept(&longest, &[]).expiry(), NOW.plus(315_360_000_000));
    let at_once = Properties { expiration: Some(b"0"), ..Properties::default() };
    assert_eq!(kept(&at_once, &[]).expiry(), NOW);
}

#[test]
fn a_foreign_user_id_is_a_406_trap_9() {
    let properties = Properties { user_id: Some(b"root"), ..Properties::default() };
    let expected = "PRECONDITION_FAILED - user_id property set to 'root' but authenticated user \
                    was 'guest'";
    assert_eq!(refused(&properties, &[]), expected);
    let properties = Properties { user_id: Some(b"guest"), ..Properties::default() };
    assert!(publish(&properties, &[]).is_ok());
}

#[test]
fn a_direct_reply_carries_the_consumers_own_name() {
    let properties =
        Properties { reply_to: Some(b"amq.rabbitmq.reply-to"), ..Properties::default() };
    let expected = "PRECONDITION_FAILED - fast reply consumer does not exist";
    assert_eq!(refused(&properties, &[]), expected);
    let content = Content {
        exchange: Bytes::new(),
        routing_key: "rpc".into(),
        properties: encoded(&properties, &[]),
        body: Bytes::new(),
        reply_queue: Some("amq.rabbitmq.reply-to.x".into()),
    };
    let stamp = Stamp { now: NOW, id: RecordId::default() };
    let kept = record(&content, stamp, "/", "guest", Delaying::Never).unwrap().record;
    let properties = Properties { reply_to: Some(b"amq.rabbitmq.reply-to.x"), ..properties };
    assert_eq!(kept.native(), encoded(&properties, &[]));
}

#[test]
fn headers_drive_delay_and_partition() {
    let headers = [("x-delay", Value::Int(1500)), ("x-partition-key", text("k"))];
    let record = kept(&Properties::default(), &headers);
    assert_eq!(record.deliver_at(), NOW.plus(1501));
    assert_ne!(record.partition(), 0);
    assert_eq!(kept(&Properties::default(), &[("x-delay", Value::Int(-1))]).deliver_at().0, 0);
}

#[test]
fn a_malformed_table_is_a_syntax_error() {
    let mut content = Content {
        exchange: Bytes::new(),
        routing_key: Bytes::new(),
        properties: Bytes::from_static(b"\x20\x00\x00\x00\x00\x03\x01kQ"),
        body: Bytes::new(),
        reply_queue: None,
    };
    let stamp = Stamp { now: NOW, id: RecordId::default() };
    let fault = record(&content, stamp, "/", "guest", Delaying::Never).unwrap_err();
    assert_eq!(fault.to_string(), "SYNTAX_ERROR - the table of headers is malformed");
    content.properties = Bytes::from_static(b"\x80\x00\x09short");
    let fault = record(&content, stamp, "/", "guest", Delaying::Never).unwrap_err();
    assert_eq!(fault.to_string(), "SYNTAX_ERROR - the content header is malformed");
}

#[test]
fn every_field_has_its_place_in_the_view() {
    let properties = Properties {
        content_type: Some(b"application/json"),
        content_encoding: Some(b"gzip"),
        priority: Some(3),
        correlation_id: Some(b"c-1"),
        reply_to: Some(b"$topic.a.b"),
        message_id: Some(b"m-1"),
        timestamp: Some(1_600_000_000),
        kind: Some(b"order.created"),
        app_id: Some(b"shop"),
        ..Properties::default()
    };
    let headers = [
        ("tag", text("G")),
        ("keys", Value::Array(vec![text("k1"), text("k2")])),
        ("x-partition-key", text("p")),
        ("traceparent", text("00-1-2-01")),
        ("x-schema", text("http://s")),
        ("n", Value::Int(5)),
        ("n", Value::Bool(true)),
    ];
    let expected = View {
        id: Some("m-1".to_owned()),
        kind: Some("order.created".to_owned()),
        time: UnixMillis(1_600_000_000_000),
        content_type: Some("application/json".to_owned()),
        content_encoding: Some("gzip".to_owned()),
        data_schema: Some("http://s".to_owned()),
        correlation: Some(Correlation::Text("c-1".to_owned())),
        reply_to: Some(ReplyTo::Topic("a/b".to_owned())),
        priority: Some(3),
        app_id: Some("shop".to_owned()),
        tag: Some("G".to_owned()),
        keys: vec!["k1".to_owned(), "k2".to_owned()],
        partition_key: Some("p".to_owned()),
        trace_parent: Some("00-1-2-01".to_owned()),
        props: vec![("n".to_owned(), Value::Int(5)), ("n".to_owned(), Value::Bool(true))],
        ..View::default()
    };
    assert_eq!(view(&kept(&properties, &headers)), expected);
}

#[test]
fn values_that_do_not_fit_the_view_stay_headers_or_bytes() {
    let properties = Properties {
        content_type: Some(b"json"),
        correlation_id: Some(b"\xff\x00"),
        message_id: Some(b""),
        ..Properties::default()
    };
    let seen = view(&kept(&properties, &[("tag", text("a|b"))]));
    assert_eq!((seen.id, seen.content_type, seen.tag), (None, None, None));
    assert_eq!(seen.correlation, Some(Correlation::Data(Bytes::from_static(b"\xff\x00"))));
    assert_eq!(seen.props, [("tag".to_owned(), text("a|b"))]);
}

#[test]
fn an_event_is_seen_under_each_prefix_and_only_when_whole() {
    for prefix in ["ce-", "CE-", "cloudEvents:", "cloudEvents_", "ce_", "CE_"] {
        let named = |name: &str, value: &str| (format!("{prefix}{name}"), text(value));
        let attributes = [
            named("id", "1"),
            named("source", "/s"),
            named("specversion", "1.0"),
            named("type", "t"),
            named("myext", "e"),
        ];
        let headers: Vec<_> = attributes.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        let seen = view(&kept(&Properties::default(), &headers));
        let names: Vec<_> = seen.event.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["id", "source", "specversion", "type", "myext"], "{prefix}");
        assert!(seen.props.is_empty());
        let seen = view(&kept(&Properties::default(), &headers[1..]));
        assert!(seen.event.is_empty(), "{prefix}");
        assert_eq!(seen.props.len(), 4);
    }
}

#[test]
fn what_came_by_path_is_converted() {
    let source = View {
        content_type: Some("text/plain".to_owned()),
        correlation: Some(Correlation::Data(Bytes::from_static(b"\xff"))),
        reply_to: Some(ReplyTo::Topic("a/b.c".to_owned())),
        tag: Some("G".to_owned()),
        keys: vec!["k".to_owned()],
        partition_key: Some("p".to_owned()),
        time: UnixMillis(1_600_000_000_123),
        props: vec![("u".to_owned(), text("1")), ("u".to_owned(), text("2"))],
        ..View::default()
    };
    let record = mqtt("sensors/dev.1/temp");
    let (exchange, key, properties, headers) = read(&record, source);
    assert_eq!((exchange.as_str(), key.as_str()), ("amq.topic", "sensors.dev%2E1.temp"));
    let properties = Properties::parse(&properties).unwrap();
    assert_eq!(properties.content_type, Some(b"text/plain".as_slice()));
    assert_eq!(properties.delivery_mode, Some(2));
    assert_eq!(properties.expiration, Some(b"5000".as_slice()));
    assert_eq!(properties.reply_to, Some(b"$topic.a.b%2Ec".as_slice()));
    assert_eq!(properties.message_id, Some(record.id().to_string().as_bytes()));
    assert_eq!(properties.timestamp, Some(1_600_000_000));
    assert_eq!(properties.correlation_id, None);
    let expected: Table = [
        ("x-correlation-id", Value::Bytes(Bytes::from_static(b"\xff"))),
        ("x-reply-to-topic", text("a.b%2Ec")),
        ("timestamp_in_ms", Value::Int(1_600_000_000_123)),
        ("tag", text("G")),
        ("keys", Value::Array(vec![text("k")])),
        ("x-partition-key", text("p")),
        ("u", text("1")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    assert_eq!(headers, expected);
}

#[test]
fn a_queue_topic_arrives_as_from_the_default_exchange() {
    let (exchange, key, ..) = read(&mqtt("$queue/jobs"), View::default());
    assert_eq!((exchange.as_str(), key.as_str()), ("", "jobs"));
}

#[test]
fn a_long_path_is_cut_at_a_word_and_told_whole() {
    let topic = vec!["word"; 60].join("/");
    let (_, key, _, headers) = read(&mqtt(&topic), View::default());
    assert_eq!(key, vec!["word"; 51].join("."));
    assert_eq!(find(&headers, "x-address"), Some(&text(&topic.replace('/', "."))));
    let (_, key, ..) = read(&mqtt(&"w".repeat(300)), View::default());
    assert_eq!(key.len(), 255);
}

#[test]
fn an_event_born_elsewhere_arrives_in_binary_mode() {
    let event = ["id", "source", "specversion", "type", "datacontenttype", "myext"];
    let source = View {
        content_type: Some("application/json".to_owned()),
        event: event.map(|name| (name.to_owned(), format!("v-{name}"))).into(),
        ..View::default()
    };
    let (_, _, _, headers) = read(&mqtt("a"), source);
    assert_eq!(find(&headers, "ce-id"), Some(&text("v-id")));
    assert_eq!(find(&headers, "ce-myext"), Some(&text("v-myext")));
    assert_eq!(find(&headers, "ce-datacontenttype"), None);
}

fn at(offset: u64) -> Told<'static> {
    Told { stream_offset: Some(Offset(offset)), ..Told::default() }
}

#[test]
fn a_streams_reader_is_told_the_offset() {
    let record = kept(&Properties::default(), &[("k", text("v"))]);
    let out = outgoing(&record, &at(42), NOW, |_| View::default());
    let expected = [("k", text("v")), ("x-stream-offset", Value::Int(42))];
    assert_eq!(out.properties, encoded(&Properties::default(), &expected));
    let bare = kept(&Properties::default(), &[]);
    let out = outgoing(&bare, &at(0), NOW, |_| View::default());
    let expected = encoded(&Properties::default(), &[("x-stream-offset", Value::Int(0))]);
    assert_eq!(out.properties, expected);
}

#[test]
fn a_reply_topic_crosses_and_comes_back() {
    let topic = "dev/1.5/reply+";
    let source = View { reply_to: Some(ReplyTo::Topic(topic.to_owned())), ..View::default() };
    let (_, _, properties, _) = read(&mqtt("a"), source);
    let reply_to = Properties::parse(&properties).unwrap().reply_to.map(<[u8]>::to_vec).unwrap();
    let address = Address::amqp(Bytes::new(), reply_to.clone().into());
    assert_eq!(address.path(), mqtt_path("dev/1.5/reply+"));
    let echoed = Properties { reply_to: Some(&reply_to), ..Properties::default() };
    let back = view(&kept(&echoed, &[])).reply_to;
    // `+` is no topic's in MQTT; it comes back escaped.
    assert_eq!(back, Some(ReplyTo::Topic("dev/1.5/reply%2B".to_owned())));
}

fn mqtt_path(topic: &str) -> mainstem_schemas::Path {
    mainstem_schemas::Path::parse(topic.as_bytes(), mainstem_schemas::Dialect::Mqtt)
}
