//! The codec against amq-protocol, an independent one, and against bytes made to hurt.

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue, tx},
    types::{AMQPValue, ByteArray, FieldArray, FieldTable, ShortString},
};
use bytes::BufMut;
use mainstem_schemas::{Table, Value, value::DEPTH_MAX};

use super::{
    frame::OVERHEAD,
    method::{BasicConsume, BasicPublish, Binding, ExchangeDeclare, QueueDeclare},
    reply::Close,
    *,
};

const FRAME_MAX: usize = 131_072;

fn theirs(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new())).unwrap().into_inner().0
}

fn split(bytes: &[u8]) -> Frame {
    let mut buffer = BytesMut::from(bytes);
    let frame = Frame::split(&mut buffer, FRAME_MAX).unwrap().unwrap();
    assert!(buffer.is_empty());
    frame
}

fn check(class: AMQPClass, expected: &Method) {
    let frame = split(&theirs(&AMQPFrame::Method(3, class)));
    assert_eq!((frame.kind, frame.channel), (Kind::Method, 3));
    assert_eq!(Method::decode(&frame.payload).as_ref(), Ok(expected));
    for len in 4..frame.payload.len() {
        let cut = frame.payload.slice(..len);
        assert_eq!(Method::decode(&cut), Err(MethodFault::Truncated), "{expected:?} cut at {len}");
    }
}

fn one_header() -> (FieldTable, Bytes) {
    let mut table = FieldTable::default();
    table.insert("k".into(), AMQPValue::LongString("v".into()));
    (table, Bytes::from_static(b"\x01kS\x00\x00\x00\x01v"))
}

#[test]
fn connection_and_channel_methods_read_as_their_writer_meant() {
    use connection::AMQPMethod as M;
    let (client_properties, raw) = one_header();
    let start_ok = connection::StartOk {
        client_properties,
        mechanism: "PLAIN".into(),
        response: "\0u\0p".into(),
        locale: "en_US".into(),
    };
    let expected = Method::StartOk {
        client_properties: raw,
        mechanism: "PLAIN".into(),
        response: "\0u\0p".into(),
    };
    check(AMQPClass::Connection(M::StartOk(start_ok)), &expected);
    let tune_ok = connection::TuneOk { channel_max: 7, frame_max: 4096, heartbeat: 60 };
    let expected = Method::TuneOk { channel_max: 7, frame_max: 4096, heartbeat: 60 };
    check(AMQPClass::Connection(M::TuneOk(tune_ok)), &expected);
    let open = connection::Open { virtual_host: "/".into() };
    let frame = split(&theirs(&AMQPFrame::Method(0, AMQPClass::Connection(M::Open(open)))));
    assert_eq!(Method::decode(&frame.payload), Ok(Method::Open { vhost: "/".into() }));
    check(AMQPClass::Connection(M::CloseOk(connection::CloseOk {})), &Method::CloseOk);
    let flow = channel::AMQPMethod::Flow(channel::Flow { active: true });
    check(AMQPClass::Channel(flow), &Method::ChannelFlow { active: true });
    let open = channel::AMQPMethod::Open(channel::Open {});
    let frame = split(&theirs(&AMQPFrame::Method(1, AMQPClass::Channel(open))));
    assert_eq!(Method::decode(&frame.payload), Ok(Method::ChannelOpen));
    let select = confirm::AMQPMethod::Select(confirm::Select { nowait: true });
    check(AMQPClass::Confirm(select), &Method::ConfirmSelect { no_wait: true });
    check(AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {})), &Method::TxCommit);
}

#[test]
fn declarations_and_bindings_read_as_their_writer_meant() {
    let (table, raw) = one_header();
    let declare = exchange::Declare {
        exchange: "x".into(),
        kind: "topic".into(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: true,
        nowait: false,
        arguments: table.clone(),
    };
    let expected = Method::ExchangeDeclare(ExchangeDeclare {
        exchange: "x".into(),
        kind: "topic".into(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: true,
        no_wait: false,
        arguments: raw.clone(),
    });
    check(AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)), &expected);
    let declare = queue::Declare {
        queue: "q".into(),
        passive: true,
        durable: false,
        exclusive: true,
        auto_delete: false,
        nowait: true,
        arguments: table.clone(),
    };
    let expected = Method::QueueDeclare(QueueDeclare {
        queue: "q".into(),
        passive: true,
        durable: false,
        exclusive: true,
        auto_delete: false,
        no_wait: true,
        arguments: raw.clone(),
    });
    check(AMQPClass::Queue(queue::AMQPMethod::Declare(declare)), &expected);
    let binding = |no_wait| Binding {
        destination: "q".into(),
        source: "x".into(),
        routing_key: "a.b".into(),
        no_wait,
        arguments: raw.clone(),
    };
    let bind = queue::Bind {
        queue: "q".into(),
        exchange: "x".into(),
        routing_key: "a.b".into(),
        nowait: true,
        arguments: table.clone(),
    };
    let expected = Method::QueueBind(binding(true));
    check(AMQPClass::Queue(queue::AMQPMethod::Bind(bind)), &expected);
    let unbind = exchange::Unbind {
        destination: "q".into(),
        source: "x".into(),
        routing_key: "a.b".into(),
        nowait: true,
        arguments: table,
    };
    let expected = Method::ExchangeUnbind(binding(true));
    check(AMQPClass::Exchange(exchange::AMQPMethod::Unbind(unbind)), &expected);
}

#[test]
fn basic_methods_read_as_their_writer_meant() {
    use basic::AMQPMethod as M;
    let (arguments, raw) = one_header();
    let consume = basic::Consume {
        queue: "q".into(),
        consumer_tag: "c".into(),
        no_local: true,
        no_ack: false,
        exclusive: true,
        nowait: false,
        arguments,
    };
    let expected = Method::Consume(BasicConsume {
        queue: "q".into(),
        consumer_tag: "c".into(),
        no_ack: false,
        exclusive: true,
        no_wait: false,
        arguments: raw,
    });
    check(AMQPClass::Basic(M::Consume(consume)), &expected);
    let publish = basic::Publish {
        exchange: "x".into(),
        routing_key: "k".into(),
        mandatory: true,
        immediate: false,
    };
    let expected = Method::Publish(BasicPublish {
        exchange: "x".into(),
        routing_key: "k".into(),
        mandatory: true,
        immediate: false,
    });
    check(AMQPClass::Basic(M::Publish(publish)), &expected);
    let nack = basic::Nack { delivery_tag: 1 << 40, multiple: false, requeue: true };
    let expected = Method::Nack { delivery_tag: 1 << 40, multiple: false, requeue: true };
    check(AMQPClass::Basic(M::Nack(nack)), &expected);
    let ack = basic::Ack { delivery_tag: 9, multiple: true };
    check(AMQPClass::Basic(M::Ack(ack)), &Method::Ack { delivery_tag: 9, multiple: true });
    let qos = basic::Qos { prefetch_count: 5, global: true };
    let expected = Method::Qos { prefetch_size: 0, prefetch_count: 5, global: true };
    check(AMQPClass::Basic(M::Qos(qos)), &expected);
    let get = basic::Get { queue: "q".into(), no_ack: true };
    check(AMQPClass::Basic(M::Get(get)), &Method::Get { queue: "q".into(), no_ack: true });
}

#[test]
fn every_reply_is_what_their_reader_would_write() {
    let close = || Close { code: 404, text: "NOT_FOUND - no".to_owned(), class: 50, method: 10 };
    let replies = [
        Reply::Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 },
        Reply::OpenOk,
        Reply::Close(close()),
        Reply::CloseOk,
        Reply::Blocked { reason: "low on disk" },
        Reply::Unblocked,
        Reply::UpdateSecretOk,
        Reply::ChannelOpenOk,
        Reply::ChannelFlowOk { active: true },
        Reply::ChannelClose(close()),
        Reply::ChannelCloseOk,
        Reply::ExchangeDeclareOk,
        Reply::ExchangeDeleteOk,
        Reply::ExchangeBindOk,
        Reply::ExchangeUnbindOk,
        Reply::QueueDeclareOk { queue: "q".to_owned(), message_count: 7, consumer_count: 2 },
        Reply::QueueBindOk,
        Reply::QueuePurgeOk { message_count: 3 },
        Reply::QueueDeleteOk { message_count: 4 },
        Reply::QueueUnbindOk,
        Reply::QosOk,
        Reply::ConsumeOk { consumer_tag: "c".into() },
        Reply::CancelOk { consumer_tag: "c".into() },
        Reply::Cancel { consumer_tag: "c".into() },
        Reply::GetEmpty,
        Reply::RecoverOk,
        Reply::Ack { delivery_tag: 5, multiple: true },
        Reply::Nack { delivery_tag: 6 },
        Reply::ConfirmSelectOk,
        Reply::TxSelectOk,
        Reply::TxCommitOk,
        Reply::TxRollbackOk,
    ];
    for reply in replies {
        let mut ours = BytesMut::new();
        reply.put(&mut ours, 2);
        let (rest, read) = parse_frame(&ours[..]).unwrap_or_else(|error| {
            panic!("{reply:?}: {error:?}");
        });
        assert!(rest.is_empty());
        assert_eq!(theirs(&read), &ours[..], "{reply:?}");
    }
}

fn their_value(random: &mut fastrand::Rng, depth: usize) -> AMQPValue {
    let kinds = if depth == 0 { 11 } else { 13 };
    match random.u8(..kinds) {
        0 => AMQPValue::Boolean(random.bool()),
        1 => AMQPValue::ShortShortInt(random.i8(..)),
        2 => AMQPValue::ShortShortUInt(random.u8(..)),
        3 => AMQPValue::ShortInt(random.i16(..)),
        4 => AMQPValue::LongInt(random.i32(..)),
        5 => AMQPValue::LongUInt(random.u32(..)),
        6 => AMQPValue::LongLongInt(random.i64(..)),
        7 => AMQPValue::Double(random.f64()),
        8 => AMQPValue::Timestamp(random.u64(..)),
        9 => AMQPValue::Void,
        10 => AMQPValue::ByteArray(ByteArray::from(vec![random.u8(..); random.usize(..9)])),
        11 => {
            let mut array = FieldArray::default();
            (0..random.usize(..4)).for_each(|_| array.push(their_value(random, depth - 1)));
            AMQPValue::FieldArray(array)
        }
        _ => AMQPValue::FieldTable(their_table(random, depth - 1)),
    }
}

fn their_table(random: &mut fastrand::Rng, depth: usize) -> FieldTable {
    let mut table = FieldTable::default();
    for index in 0..random.usize(..5) {
        table.insert(format!("h{index}").into(), their_value(random, depth));
    }
    table
}

fn their_properties(random: &mut fastrand::Rng) -> basic::AMQPProperties {
    let mut properties = basic::AMQPProperties::default();
    let word = |random: &mut fastrand::Rng| -> ShortString {
        (0..random.usize(..20)).map(|_| random.alphanumeric()).collect::<String>().into()
    };
    if random.bool() {
        properties = properties.with_content_type(word(random));
    }
    if random.bool() {
        properties = properties.with_headers(their_table(random, 4));
    }
    if random.bool() {
        properties = properties.with_delivery_mode(2).with_priority(random.u8(..));
    }
    if random.bool() {
        properties = properties.with_correlation_id(word(random)).with_reply_to(word(random));
    }
    if random.bool() {
        properties = properties.with_expiration(word(random)).with_message_id(word(random));
    }
    if random.bool() {
        properties = properties.with_timestamp(random.u64(..)).with_type(word(random));
    }
    if random.bool() {
        properties = properties.with_user_id(word(random)).with_app_id(word(random));
    }
    properties
}

#[test]
fn properties_read_alike_and_are_written_back_byte_by_byte() {
    for seed in 0..2000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let properties = their_properties(&mut random);
        let header =
            AMQPContentHeader { class_id: 60, body_size: 12, properties: properties.clone() };
        let frame = split(&theirs(&AMQPFrame::Header(1, header)));
        let header = ContentHeader::decode(&frame.payload).unwrap();
        assert_eq!((header.class, header.body_size), (60, 12));
        let ours = Properties::parse(&header.properties).unwrap();
        let text = |text: &Option<ShortString>| text.as_ref().map(|t| t.as_str().to_owned());
        let own = |text: Option<&[u8]>| text.map(|t| String::from_utf8(t.to_vec()).unwrap());
        assert_eq!(own(ours.content_type), text(properties.content_type()), "seed {seed}");
        assert_eq!(own(ours.message_id), text(properties.message_id()), "seed {seed}");
        assert_eq!(own(ours.app_id), text(properties.app_id()), "seed {seed}");
        assert_eq!(ours.delivery_mode, *properties.delivery_mode(), "seed {seed}");
        assert_eq!(ours.timestamp, *properties.timestamp(), "seed {seed}");
        if let (Some(entries), Some(table)) = (ours.headers, properties.headers()) {
            assert_eq!(table::check(entries), Ok(()), "seed {seed}");
            let parsed = table::parse(&Bytes::copy_from_slice(entries)).unwrap();
            let names: Vec<_> = table.inner().keys().map(ShortString::as_str).collect();
            assert!(parsed.iter().map(|(name, _)| name.as_str()).eq(names), "seed {seed}");
        }
        let mut again = BytesMut::new();
        ours.put(&mut again);
        assert_eq!(again, header.properties, "seed {seed}");
    }
}

#[test]
fn a_table_reads_back_with_order_and_duplicates() {
    let table: Table = vec![
        ("z".to_owned(), Value::Int(-1)),
        ("a".to_owned(), Value::Text("t".to_owned())),
        ("z".to_owned(), Value::Array(vec![Value::Bool(true), Value::Void, Value::Float(0.5)])),
        ("t".to_owned(), Value::Table(vec![("b".to_owned(), Value::Bytes("\u{80}".into()))])),
        ("d".to_owned(), Value::Decimal(2, 314)),
        ("s".to_owned(), Value::Time(1_700_000_000)),
    ];
    let mut out = BytesMut::new();
    table::put(&mut out, &table);
    let entries = out.freeze().slice(4..);
    assert_eq!(table::check(&entries), Ok(()));
    assert_eq!(table::parse(&entries), Ok(table));
}

#[test]
fn type_tags_are_rabbitmqs_trap_25() {
    let check = |raw: &'static [u8], expected: Value| {
        let entry = [b"\x01k", raw].concat();
        let table = table::parse(&Bytes::from(entry)).unwrap();
        assert_eq!(table, [("k".to_owned(), expected)]);
    };
    check(b"s\xff\xfe", Value::Int(-2));
    check(b"U\xff\xfe", Value::Int(-2));
    check(b"u\xff\xfe", Value::Int(65_534));
    check(b"b\xff", Value::Int(-1));
    check(b"B\xff", Value::Int(255));
    check(b"i\xff\xff\xff\xff", Value::Int(u32::MAX.into()));
    check(b"L\xff\xff\xff\xff\xff\xff\xff\xff", Value::Int(-1));
    check(b"S\x00\x00\x00\x01\x80", Value::Bytes(Bytes::from_static(b"\x80")));
}

fn nested(depth: usize) -> Vec<u8> {
    let mut content = Vec::new();
    for _ in 0..depth {
        let mut outer = vec![b'A'];
        outer.put_u32(u32::try_from(content.len()).unwrap());
        outer.extend_from_slice(&content);
        content = outer;
    }
    [b"\x01h".as_slice(), &content].concat()
}

#[test]
fn twenty_thousand_nested_arrays_are_refused_on_a_small_stack() {
    let test = || {
        let entries = Bytes::from(nested(20_000));
        assert_eq!(entries.len(), 100_002);
        assert_eq!(table::check(&entries), Err(Malformed));
        assert_eq!(table::parse(&entries), Err(Malformed));
        assert_eq!(table::entries(&entries).count(), 1);
        let mut frames = BytesMut::new();
        frame::put(&mut frames, Kind::Header, 1, |out| {
            out.put_slice(b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00");
            table::put_long_string(out, &entries);
        });
        assert_eq!(walk(&frames, FRAME_MAX), 1);
    };
    std::thread::Builder::new().stack_size(128 << 10).spawn(test).unwrap().join().unwrap();
}

#[test]
fn nesting_is_allowed_to_the_bound_and_no_further() {
    assert_eq!(table::check(&nested(DEPTH_MAX - 1)), Ok(()));
    assert!(table::parse(&Bytes::from(nested(DEPTH_MAX - 1))).is_ok());
    assert_eq!(table::check(&nested(DEPTH_MAX)), Err(Malformed));
    assert_eq!(table::parse(&Bytes::from(nested(DEPTH_MAX))), Err(Malformed));
}

#[test]
fn a_content_is_split_at_the_negotiated_frame_size_trap_7() {
    let mut out = BytesMut::new();
    let envelope = Envelope::Deliver {
        consumer_tag: b"c",
        delivery_tag: 1,
        redelivered: true,
        exchange: b"x",
        routing_key: b"k",
    };
    envelope.put(&mut out, 1, 8192, |out| out.put_u16(0), &[7; 20_000]);
    let mut sizes = Vec::new();
    while let Some(frame) = Frame::split(&mut out, 8192).unwrap() {
        sizes.push((frame.kind, frame.payload.len()));
    }
    let bodies: Vec<_> = sizes.iter().skip(2).copied().collect();
    assert_eq!(bodies, [(Kind::Body, 8184), (Kind::Body, 8184), (Kind::Body, 3632)]);
    envelope.put(&mut out, 1, 8192, |out| out.put_u16(0), &[]);
    assert!(Frame::split(&mut out, 8192).unwrap().is_some());
    assert!(Frame::split(&mut out, 8192).unwrap().is_some());
    assert!(out.is_empty(), "no body frame for an empty body");
}

#[test]
fn deliver_get_ok_and_return_read_as_meant() {
    let cases = [
        Envelope::Deliver {
            consumer_tag: b"c",
            delivery_tag: 77,
            redelivered: true,
            exchange: b"x",
            routing_key: b"k",
        },
        Envelope::GetOk {
            delivery_tag: 1,
            redelivered: false,
            exchange: b"",
            routing_key: b"q",
            message_count: 9,
        },
        Envelope::Return { code: 312, text: b"NO_ROUTE", exchange: b"x", routing_key: b"k" },
    ];
    for envelope in cases {
        let mut out = BytesMut::new();
        envelope.put(&mut out, 1, FRAME_MAX, |out| out.put_u16(0), b"body");
        let (rest, method) = parse_frame(&out[..]).unwrap();
        let (rest, header) = parse_frame(rest).unwrap();
        let (rest, body) = parse_frame(rest).unwrap();
        assert!(rest.is_empty());
        assert_eq!(body, AMQPFrame::Body(1, b"body".to_vec()));
        let again = [theirs(&method), theirs(&header), theirs(&body)].concat();
        assert_eq!(again, &out[..], "{envelope:?}");
    }
}

#[test]
fn a_frame_comes_whole_or_not_at_all() {
    let mut whole = BytesMut::new();
    frame::put(&mut whole, Kind::Body, 9, |out| out.put_slice(b"abc"));
    for len in 0..whole.len() {
        let mut part = BytesMut::from(&whole[..len]);
        assert_eq!(Frame::split(&mut part, FRAME_MAX), Ok(None));
        assert_eq!(part.len(), len);
    }
    let expected = Frame { kind: Kind::Body, channel: 9, payload: "abc".into() };
    assert_eq!(Frame::split(&mut whole, FRAME_MAX), Ok(Some(expected)));
}

#[test]
fn bad_frames_say_what_is_wrong_trap_7() {
    let check = |bytes: &[u8]| Frame::split(&mut BytesMut::from(bytes), 8192).unwrap_err();
    let large = check(b"\x03\x00\x01\x00\x00\x23\x28");
    assert_eq!(large, FrameFault::TooLarge { kind: 3, size: 9000, max: 8192 - OVERHEAD });
    assert!(large.to_string().ends_with("{frame_too_large,9000,8184}"));
    assert_eq!(check(b"\x08\x00\x00\x00\x00\x00\x00\x00"), FrameFault::BadEnd { kind: 8, end: 0 });
    assert_eq!(check(b"\x05\x00\x00\x00\x00\x00\x00\xce"), FrameFault::UnknownKind(5));
}

#[test]
fn altered_conversations_never_panic() {
    let (table, _) = one_header();
    let declare = queue::Declare {
        queue: "q".into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: table,
    };
    let method = AMQPClass::Queue(queue::AMQPMethod::Declare(declare));
    for seed in 0..5000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let header = AMQPContentHeader {
            class_id: 60,
            body_size: 1,
            properties: their_properties(&mut random),
        };
        let frames = [
            AMQPFrame::Method(1, method.clone()),
            AMQPFrame::Header(1, header),
            AMQPFrame::Heartbeat,
        ];
        let mut bytes: Vec<u8> = frames.iter().flat_map(theirs).collect();
        assert_eq!(walk(&bytes, FRAME_MAX), 3, "seed {seed}");
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let _frames = walk(&bytes, FRAME_MAX);
    }
}
