//! The codec against the specification: what must be read, what must be refused and with which
//! code, and that nothing a peer sends makes it panic.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::{
    output::{put_binary, put_varint},
    property::id,
    reply::Ears,
    *,
};

const V3: Version = Version::V311;
const V5: Version = Version::V5;

fn read(bytes: &[u8], version: Version) -> Result<Packet, Fault> {
    let mut buffer = BytesMut::from(bytes);
    let frame = frame::next(&mut buffer, 1 << 20)?.expect("a test vector is a whole packet");
    assert!(buffer.is_empty(), "a test vector is one packet");
    decode(&frame, version)
}

#[track_caller]
fn refused(bytes: &[u8], version: Version, reason: Reason) {
    match read(bytes, version) {
        Err(fault) => assert_eq!(fault.reason, reason, "{}", fault.text),
        Ok(packet) => panic!("{packet:?} was read"),
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u8(first);
    put_varint(&mut out, body.len());
    out.put_slice(body);
    out.to_vec()
}

fn connect_body(level: u8, flags: u8, tail: &[u8]) -> Vec<u8> {
    [b"\x00\x04MQTT", [level, flags, 0, 60].as_slice(), tail].concat()
}

fn connect(bytes: &[u8]) -> Result<Connect, (Option<Version>, Fault)> {
    let mut buffer = BytesMut::from(bytes);
    let frame = frame::next(&mut buffer, 1 << 20).expect("a frame").expect("a whole packet");
    connect::decode(&frame)
}

#[track_caller]
fn connect_refused(body: &[u8], reason: Reason) {
    match connect(&packet(0x10, body)) {
        Err((_, fault)) => assert_eq!(fault.reason, reason, "{}", fault.text),
        Ok(connect) => panic!("{connect:?} was read"),
    }
}

#[test]
fn connect_of_every_version_is_read() {
    let v31 = [b"\x00\x06MQIsdp\x03\x02\x00\x3c".as_slice(), b"\x00\x01a"].concat();
    assert_eq!(connect(&packet(0x10, &v31)).unwrap().version, Version::V31);
    let v311 = connect(&packet(0x10, &connect_body(4, 0xc2, b"\0\x01a\0\x01u\0\x02p\0"))).unwrap();
    assert_eq!(v311.version, V3);
    assert_eq!(v311.username, Some("u".into()));
    // A password is bytes, not text.
    assert_eq!(v311.password.as_deref(), Some(b"p\0".as_slice()));
    let v5 = connect_body(5, 0x02, b"\x08\x11\0\0\0\x0a\x21\0\x14\0\x01a");
    let v5 = connect(&packet(0x10, &v5)).unwrap();
    assert_eq!((v5.properties.session_expiry_s, v5.properties.receive_max), (10, 20));
}

#[test]
fn a_will_is_read_with_its_delay_apart_mqtt_3_1_3_1() {
    let will = b"\0\0\x01a\x0a\x18\0\0\0\x05\x02\0\0\0\x09\0\x01w\0\x02hi";
    let connect = connect(&packet(0x10, &connect_body(5, 0x2e, will))).unwrap();
    let will = connect.will.unwrap();
    assert_eq!((will.qos, will.retain), (Qos::AtLeastOnce, true));
    assert_eq!((will.properties.will_delay_s, will.properties.expiry_s), (5, Some(9)));
    assert!(will.properties.native.is_empty());
    assert_eq!((will.topic.as_str(), &will.payload[..]), ("w", b"hi".as_slice()));
}

#[test]
fn a_bad_connect_is_refused() {
    let check = |flags, tail: &[u8], reason| connect_refused(&connect_body(4, flags, tail), reason);
    check(0x03, b"\0\x01a", Reason::MALFORMED); // [MQTT-3.1.2-3]
    check(0x0a, b"\0\x01a", Reason::MALFORMED); // [MQTT-3.1.2-11]
    check(0x22, b"\0\x01a", Reason::MALFORMED); // [MQTT-3.1.2-11], will retain without a will
    check(0x1e, b"\0\x01a\0\x01w\0\0", Reason::MALFORMED); // [MQTT-3.1.2-12]
    check(0x42, b"\0\x01a\0\x01p", Reason::MALFORMED); // [MQTT-3.1.2-22] of 3.1.1
    check(0x02, b"\0\x01a!", Reason::MALFORMED); // trailing byte
    check(0x02, b"\0\x01\0", Reason::MALFORMED); // [MQTT-1.5.3-2]
    check(0x02, b"\0\x02a", Reason::MALFORMED); // short
    connect_refused(&connect_body(6, 2, b"\0\x01a"), Reason::UNSUPPORTED_VERSION);
    connect_refused(b"\0\x04MQTX\x04\x02\0\x3c\0\x01a", Reason::MALFORMED); // [MQTT-3.1.2-1]
}

#[test]
fn a_bad_connect_property_is_refused() {
    let check = |properties: &[u8], reason| {
        let tail = [&[u8::try_from(properties.len()).unwrap()], properties, b"\0\x01a"].concat();
        connect_refused(&connect_body(5, 2, &tail), reason);
    };
    check(&[0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 1], Reason::PROTOCOL_ERROR); // twice
    check(&[0x21, 0, 0], Reason::PROTOCOL_ERROR); // receive maximum 0
    check(&[0x27, 0, 0, 0, 0], Reason::PROTOCOL_ERROR); // maximum packet size 0
    check(&[0x17, 2], Reason::PROTOCOL_ERROR); // neither 0 nor 1
    check(&[0x23, 0, 1], Reason::MALFORMED); // a topic alias has no place here
    check(&[0x7f, 0], Reason::MALFORMED); // unknown
    check(&[0x16, 0, 0], Reason::PROTOCOL_ERROR); // authentication data without a method
    check(&[0x26, 0, 1, b'a', 0, 1, 0], Reason::MALFORMED); // U+0000 in a user property
}

#[test]
fn the_first_packet_must_be_connect_mqtt_3_1_0_1() {
    let (version, fault) = connect(&[0xc0, 0]).unwrap_err();
    assert_eq!((version, fault.reason), (None, Reason::PROTOCOL_ERROR));
}

#[test]
fn a_second_connect_is_a_protocol_error_mqtt_3_1_0_2() {
    refused(&packet(0x10, &connect_body(4, 2, b"\0\x01a")), V3, Reason::PROTOCOL_ERROR);
}

#[test]
fn packets_of_servers_are_protocol_errors() {
    for first in [0x20, 0x90, 0xb0, 0xd0] {
        refused(&[first, 0], V5, Reason::PROTOCOL_ERROR);
    }
    refused(&[0x00, 0], V5, Reason::MALFORMED);
    refused(&[0xf0, 0], V3, Reason::MALFORMED);
    refused(&[0xf0, 0], V5, Reason::PROTOCOL_ERROR);
}

#[test]
fn reserved_header_flags_are_malformed_mqtt_2_1_3_1() {
    for first in [0x41, 0x50 | 8, 0x60, 0x63, 0x72, 0x80, 0x8a, 0xa0, 0xc1, 0xe4] {
        refused(&[first, 2, 0, 1], V3, Reason::MALFORMED);
    }
    // MQTT 3.1 had DUP in PUBREL.
    assert_eq!(
        read(&[0x6a, 2, 0, 1], Version::V31),
        Ok(Packet::PubRel(Ack { packet_id: 1, reason: Reason::SUCCESS }))
    );
}

#[test]
fn a_length_is_as_short_as_can_be_mqtt_1_5_5_1() {
    let next = |bytes: &[u8]| frame::next(&mut BytesMut::from(bytes), 1 << 20);
    assert_eq!(next(&[0xc0, 0x80, 0x00]).unwrap_err().reason, Reason::MALFORMED);
    assert_eq!(next(&[0x30, 0xff, 0xff, 0xff, 0xff]).unwrap_err().reason, Reason::MALFORMED);
    assert!(next(&[0x30, 0xff]).unwrap().is_none());
    assert!(next(&[0x30]).unwrap().is_none());
    assert!(next(&[]).unwrap().is_none());
    // Told before the body arrives.
    assert_eq!(next(&[0x30, 0xff, 0xff, 0xff, 0x7f]).unwrap_err().reason, Reason::PACKET_TOO_LARGE);
}

#[test]
fn a_publish_is_read_without_its_alias_and_expiry() {
    let body = b"\0\x03a/b\0\x07\x10\x01\x01\x23\0\x05\x02\0\0\0\x0a\x26\0\x01k\0\0payload";
    let Packet::Publish(publish) = read(&packet(0x3d, body), V5).unwrap() else { panic!() };
    assert_eq!((publish.dup, publish.qos, publish.retain), (true, Qos::ExactlyOnce, true));
    assert_eq!((publish.topic.as_str(), publish.packet_id), ("a/b", 7));
    assert_eq!(publish.properties.topic_alias, Some(5));
    assert_eq!(publish.properties.expiry_s, Some(10));
    assert_eq!(&publish.properties.native[..], b"\x01\x01\x26\0\x01k\0\0");
    assert_eq!(&publish.payload[..], b"payload");
}

#[test]
fn a_bad_publish_is_refused() {
    refused(&packet(0x36, b"\0\x01a\0\x01\0"), V5, Reason::MALFORMED); // [MQTT-3.3.1-4]
    refused(&packet(0x38, b"\0\x01a\0"), V5, Reason::MALFORMED); // [MQTT-3.3.1-2]
    refused(&packet(0x30, b"\0\x01#\0"), V5, Reason::MALFORMED); // [MQTT-3.3.2-2]
    refused(&packet(0x30, b"\0\x03a/+\0"), V5, Reason::MALFORMED); // [MQTT-3.3.2-2]
    refused(&packet(0x30, b"\0\x01\0\0"), V5, Reason::MALFORMED); // [MQTT-1.5.4-2]
    refused(&packet(0x30, b"\0\x02\xc3\x28\0"), V5, Reason::MALFORMED); // [MQTT-1.5.4-1]
    refused(&packet(0x30, b"\0\x03\xed\xa0\x80\0"), V5, Reason::MALFORMED); // a surrogate
    refused(&packet(0x32, b"\0\x01a\0\0\0"), V5, Reason::MALFORMED); // [MQTT-2.2.1-3]
    refused(&packet(0x30, b"\0\0"), V3, Reason::MALFORMED); // [MQTT-4.7.3-1]
    refused(&packet(0x30, b"\0\0\0"), V5, Reason::PROTOCOL_ERROR); // neither topic nor alias
    refused(&packet(0x30, b"\0\x01a"), V5, Reason::MALFORMED); // no property length
    refused(&packet(0x30, b"\0\x01a\x05\x01\x01"), V5, Reason::MALFORMED); // overrun
    let with = |properties: &[u8]| {
        let len = u8::try_from(properties.len()).unwrap();
        packet(0x30, &[b"\0\x01a".as_slice(), &[len], properties].concat())
    };
    refused(&with(&[0x23, 0, 0]), V5, Reason::TOPIC_ALIAS_INVALID); // [MQTT-3.3.2-8]
    refused(&with(&[0x0b, 1]), V5, Reason::PROTOCOL_ERROR); // [MQTT-3.3.4-6]
    refused(&with(&[0x01, 2]), V5, Reason::PROTOCOL_ERROR);
    refused(&with(&[0x01, 1, 0x01, 1]), V5, Reason::PROTOCOL_ERROR);
    refused(&with(b"\x08\0\x01#"), V5, Reason::PROTOCOL_ERROR); // [MQTT-3.3.2-14]
    refused(&with(&[0x11, 0, 0, 0, 1]), V5, Reason::MALFORMED); // not one of PUBLISH
}

#[test]
fn a_byte_order_mark_stays_mqtt_1_5_4_3() {
    let Packet::Publish(publish) = read(&packet(0x30, b"\0\x04\xef\xbb\xbfa"), V3).unwrap() else {
        panic!()
    };
    assert_eq!(publish.topic.as_str(), "\u{feff}a");
}

#[test]
fn filters_are_told_apart() {
    let parse = |text: &'static str| TopicFilter::parse(&text.into());
    let plain = |text: &str| TopicFilter::Plain(mainstem_schemas::Filter::parse(text).unwrap());
    assert_eq!(parse("a/+/#"), Ok(plain("a/+/#")));
    assert_eq!(parse("$queue/jobs"), Ok(TopicFilter::Queue("jobs".to_owned())));
    assert_eq!(parse("$queue/a%2Fb"), Ok(TopicFilter::Queue("a/b".to_owned())));
    assert_eq!(parse("$queue/+"), Ok(TopicFilter::Unserved));
    assert_eq!(parse("$queue/a/b"), Ok(TopicFilter::Unserved));
    assert_eq!(parse("$share/g/$queue/a"), Ok(TopicFilter::Unserved));
    assert_eq!(parse("$queued/a"), Ok(plain("$queued/a")));
    assert_eq!(parse("%24SYS/a"), Ok(plain("$SYS/a")));
    // However it is written.
    for ours in ["%24queue/#", "%24queue/a", "$queue", "%24mainstem-queue/a", "$mainstem-x/#"] {
        for kind in ["", "$share/g/", "$exclusive/"] {
            let text: &'static str = format!("{kind}{ours}").leak();
            assert_eq!(parse(text), Ok(TopicFilter::Unserved), "{text}");
        }
    }
    assert_eq!(parse("$exclusive/%24SYS/a"), Ok(TopicFilter::Unserved));
    let shared = parse("$share/g/a/b").unwrap();
    let filter = mainstem_schemas::Filter::parse("a/b").unwrap();
    assert_eq!(shared, TopicFilter::Shared { group: "g".to_owned(), filter });
    // [MQTT-4.8.2-1], [MQTT-4.8.2-2], [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.3-1]
    for bad in ["$share/g", "$share//a", "$share/+/a", "$share/g/", "a/#/b", "a#", "a+/b", ""] {
        assert_eq!(parse(bad).unwrap_err().reason, Reason::MALFORMED, "{bad}");
    }
}

#[test]
fn subscribe_options_are_read_and_checked() {
    let body = b"\0\x01\x02\x0b\x07\0\x01a\x2e";
    let Packet::Subscribe(subscribe) = read(&packet(0x82, body), V5).unwrap() else { panic!() };
    assert_eq!((subscribe.packet_id, subscribe.subscription_id), (1, Some(7)));
    let wish = &subscribe.wishes[0];
    assert_eq!((wish.qos, wish.no_local), (Qos::ExactlyOnce, true));
    assert_eq!(wish.retain_handling, RetainHandling::Never);
    let with = |filter: &[u8], bits: u8| {
        let len = u8::try_from(filter.len()).unwrap();
        packet(0x82, &[b"\0\x01\0\0".as_slice(), &[len], filter, &[bits]].concat())
    };
    refused(&with(b"a", 0x40), V5, Reason::MALFORMED); // [MQTT-3.8.3-5]
    refused(&with(b"a", 0x03), V5, Reason::PROTOCOL_ERROR);
    refused(&with(b"a", 0x30), V5, Reason::PROTOCOL_ERROR);
    refused(&with(b"$share/g/a", 0x04), V5, Reason::PROTOCOL_ERROR); // [MQTT-3.8.3-4]
    refused(&packet(0x82, b"\0\x01\0"), V5, Reason::PROTOCOL_ERROR); // [MQTT-3.8.3-2]
    refused(&packet(0x82, b"\0\x01\x02\x0b\0\0\x01a\0"), V5, Reason::PROTOCOL_ERROR); // id 0
    refused(&packet(0x82, b"\0\x01\0\x01a\x04"), V3, Reason::MALFORMED);
    refused(&packet(0x82, b"\0\0\0\x01a\0"), V3, Reason::MALFORMED); // [MQTT-2.3.1-1]
    refused(&packet(0xa2, b"\0\x01\0"), V5, Reason::PROTOCOL_ERROR); // [MQTT-3.10.3-2]
}

#[test]
fn acknowledgements_are_read_in_all_lengths() {
    let ack = |reason| Ack { packet_id: 9, reason };
    assert_eq!(read(&[0x40, 2, 0, 9], V5), Ok(Packet::PubAck(ack(Reason::SUCCESS))));
    assert_eq!(read(&[0x50, 3, 0, 9, 0x97], V5), Ok(Packet::PubRec(ack(Reason::QUOTA_EXCEEDED))));
    assert_eq!(
        read(&[0x62, 4, 0, 9, 0x92, 0], V5),
        Ok(Packet::PubRel(ack(Reason::PACKET_ID_NOT_FOUND)))
    );
    refused(&[0x40, 3, 0, 9, 0x92], V5, Reason::PROTOCOL_ERROR);
    refused(&[0x40, 3, 0, 9, 0], V3, Reason::MALFORMED);
    refused(&[0x40, 2, 0, 0], V3, Reason::MALFORMED);
    refused(&[0x40, 1, 0], V3, Reason::MALFORMED);
    refused(&[0xc0, 1, 0], V3, Reason::MALFORMED);
}

#[test]
fn a_disconnect_is_read() {
    let farewell = |reason, session_expiry_s| Disconnect { reason, session_expiry_s };
    assert_eq!(read(&[0xe0, 0], V5), Ok(Packet::Disconnect(farewell(Reason::SUCCESS, None))));
    assert_eq!(
        read(&[0xe0, 7, 4, 5, 0x11, 0, 0, 0, 3], V5),
        Ok(Packet::Disconnect(farewell(Reason::DISCONNECT_WITH_WILL, Some(3))))
    );
    refused(&[0xe0, 1, 0x8e], V5, Reason::PROTOCOL_ERROR); // only servers say it
    refused(&[0xe0, 1, 0], V3, Reason::MALFORMED);
}

#[test]
fn replies_are_written_byte_by_byte() {
    let ears = Ears { version: V5, packet_bytes_max: 100, wants_problem_info: true };
    let check = |reply: Reply, ears: &Ears, expected: &[u8]| {
        let mut out = BytesMut::new();
        reply.encode(ears, &mut out);
        assert_eq!(&out[..], expected, "{reply:?}");
    };
    let puback = |text: &str| Reply::PubAck {
        packet_id: 1,
        reason: Reason::QUOTA_EXCEEDED,
        text: Some(text.to_owned()),
    };
    check(puback("no"), &ears, b"\x40\x09\0\x01\x97\x05\x1f\0\x02no");
    // [MQTT-3.4.2-2]: a text that does not fit stays behind.
    check(puback(&"x".repeat(100)), &ears, b"\x40\x03\0\x01\x97");
    check(puback("no"), &Ears { wants_problem_info: false, ..ears }, b"\x40\x03\0\x01\x97");
    let v3 = Ears { version: V3, ..ears };
    check(puback("no"), &v3, b"\x40\x02\0\x01");
    let suback = Reply::SubAck { packet_id: 2, codes: vec![Reason(1), Reason::FILTER_INVALID] };
    check(suback.clone(), &ears, b"\x90\x05\0\x02\0\x01\x8f");
    check(suback, &v3, b"\x90\x04\0\x02\x01\x80");
    let unsuback = Reply::UnsubAck { packet_id: 3, codes: vec![Reason::SUCCESS] };
    check(unsuback.clone(), &ears, b"\xb0\x04\0\x03\0\0");
    check(unsuback, &v3, b"\xb0\x02\0\x03");
    let disconnect = Reply::Disconnect { reason: Reason::TAKEN_OVER, text: None };
    check(disconnect.clone(), &ears, b"\xe0\x01\x8e");
    check(disconnect, &v3, b"");
}

#[test]
fn a_refusal_never_claims_a_session_mqtt_3_2_2_6() {
    let mut out = BytesMut::new();
    let connack =
        ConnAck { session_present: true, ..ConnAck::refused(Reason::BAD_CREDENTIALS, "no") };
    connack.encode(V3, usize::MAX, &mut out).unwrap();
    assert_eq!(&out[..], b"\x20\x02\0\x04");
}

#[test]
fn a_message_over_the_clients_maximum_is_not_written_mqtt_3_1_2_24() {
    let mut out = BytesMut::new();
    let outgoing = Outgoing {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic: b"a",
        packet_id: 0,
        properties: OutgoingProperties::default(),
        payload: &[0; 10],
    };
    // Fixed header 2, topic 3, property length 1, payload 10.
    assert_eq!(outgoing.encode(V5, 16, &mut out), Ok(()));
    assert_eq!(out.len(), 16);
    assert_eq!(outgoing.encode(V5, 15, &mut out), Err(publish::TooLarge));
    assert_eq!(out.len(), 16);
}

fn native_block() -> impl Strategy<Value = Vec<u8>> {
    let user = ("[a-z]{0,5}", "[^\0]{0,5}").prop_map(|(name, value)| {
        let mut out = BytesMut::new();
        out.put_u8(id::USER);
        put_binary(&mut out, name.as_bytes());
        put_binary(&mut out, value.as_bytes());
        out.to_vec()
    });
    proptest::collection::vec(user, 0..4).prop_map(|pairs| pairs.concat())
}

proptest! {
    #[test]
    fn a_publish_reads_back(
        bits in 0_u8..3,
        (dup, retain, is_v5) in any::<(bool, bool, bool)>(),
        topic in "[^\0+#]{1,20}",
        id in 1_u16..,
        native in native_block(),
        expiry_s in any::<Option<u32>>(),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let version = if is_v5 { V5 } else { V3 };
        let qos = Qos::from_bits(bits).unwrap();
        let packet_id = if bits == 0 { 0 } else { id };
        let dup = dup && bits > 0;
        let properties =
            OutgoingProperties { native: &native, expiry_s, ..OutgoingProperties::default() };
        let topic = topic.as_bytes();
        let payload = &payload[..];
        let mut out = BytesMut::new();
        let outgoing = Outgoing { dup, qos, retain, topic, packet_id, properties, payload };
        outgoing.encode(version, usize::MAX, &mut out).unwrap();
        let Packet::Publish(publish) = read(&out, version).unwrap() else { panic!() };
        prop_assert_eq!((publish.dup, publish.qos, publish.retain), (dup, qos, retain));
        prop_assert_eq!(&publish.topic.as_bytes()[..], topic);
        prop_assert_eq!(publish.packet_id, packet_id);
        prop_assert_eq!(&publish.payload[..], payload);
        if is_v5 {
            prop_assert_eq!(&publish.properties.native[..], &native[..]);
            prop_assert_eq!(publish.properties.expiry_s, expiry_s);
        }
    }

    #[test]
    fn a_varint_reads_back(value in 0_usize..=output::VARINT_MAX) {
        let mut out = BytesMut::new();
        put_varint(&mut out, value);
        prop_assert_eq!(out.len(), output::varint_len(value));
        let read = input::varint(&out).unwrap();
        prop_assert_eq!(read.map(|(value, len)| (value as usize, len)), Some((value, out.len())));
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(
        first in any::<u8>(),
        body in proptest::collection::vec(any::<u8>(), 0..80),
        is_v5 in any::<bool>(),
    ) {
        let frame = Frame { first, body: Bytes::from(body) };
        let _answer = decode(&frame, if is_v5 { V5 } else { V3 });
        let _greeting = connect::decode(&frame);
    }
}

/// Whole conversations with a few bytes changed: what a fuzzer would find first.
#[test]
fn mutated_conversations_do_not_panic() {
    let seeds: [Vec<u8>; 2] = [
        [
            packet(
                0x10,
                &connect_body(
                    5,
                    0xee,
                    b"\x05\x11\0\0\0\x0a\0\x01a\x05\x18\0\0\0\x05\0\x01w\0\x02hi\0\x01u\0\x01p",
                ),
            ),
            packet(
                0x3d,
                b"\0\x03a/b\0\x07\x10\x01\x01\x23\0\x05\x02\0\0\0\x0a\x26\0\x01k\0\0payload",
            ),
            packet(0x82, b"\0\x01\x02\x0b\x07\0\x01a\x2e\0\x0a$share/g/a\x01"),
            packet(0xa2, b"\0\x01\0\0\x03a/#"),
            packet(0x62, b"\0\x09\x92\0"),
            packet(0xe0, b"\x04\x05\x11\0\0\0\x03"),
        ]
        .concat(),
        [
            packet(0x10, &connect_body(4, 0x02, b"\0\x01a")),
            packet(0x32, b"\0\x03a/b\0\x07payload"),
            packet(0x82, b"\0\x01\0\x01a\x01"),
            packet(0xe0, b""),
        ]
        .concat(),
    ];
    assert_eq!(fuzz(&seeds[0]), 6);
    assert_eq!(fuzz(&seeds[1]), 4);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    };
    let mut refused = 0;
    for round in 0..200_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=random() % 3 {
            let at = random() % bytes.len();
            bytes[at] = u8::try_from(random() & 0xff).unwrap();
        }
        bytes.truncate(bytes.len() - random() % 4);
        refused += usize::from(fuzz(&bytes) < 4);
    }
    assert!(refused > 10_000, "the mutations do not bite: {refused}");
}
