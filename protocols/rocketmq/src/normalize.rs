//! The RocketMQ column of the mapping: messages into records, records into messages, and the
//! CloudEvents reading of a record that came by RocketMQ.

mod inbound;
mod native;
mod outbound;
mod view;

pub use inbound::{Arrival, millis, record};
pub use native::Native;
pub use outbound::{dead_letters, message, tell_death, timestamp};
pub use view::view;

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, io::Write};

    use bytes::Bytes;
    use flate2::{Compression, write::GzEncoder};
    use mainstem_broker::Stamp;
    use mainstem_schemas::{
        Address, Correlation, Path, Record, RecordDraft, RecordId, ReplyTo, UnixMillis, Value, View,
    };

    use super::*;
    use crate::codec::proto::{
        Digest, DigestType, Encoding, Message, MessageType, Resource, SystemProperties,
    };

    const NOW: UnixMillis = UnixMillis(1_700_000_000_123);

    fn topic() -> Resource {
        Resource { name: "T".to_owned(), ..Default::default() }
    }

    fn stored(message: Message) -> Record {
        let stamp = Stamp { now: NOW, id: RecordId::new(NOW, 7) };
        let record = record(message, Arrival { namespace: "/", topic: "T", stamp }).unwrap();
        Record::decode(record.bytes().clone()).unwrap()
    }

    fn read_back(record: &Record) -> Message {
        message(record, topic(), |_| panic!("a RocketMQ record is replayed, not converted"))
    }

    fn sent() -> Message {
        let system = SystemProperties {
            tag: Some("G".to_owned()),
            keys: vec!["k1".to_owned(), "k 2".to_owned()],
            message_id: "01ABC".to_owned(),
            body_encoding: Encoding::Identity as i32,
            message_type: MessageType::Fifo as i32,
            born_timestamp: Some(prost_types::Timestamp { seconds: 1_600_000_000, nanos: 5 }),
            born_host: "host".to_owned(),
            message_group: Some("g1".to_owned()),
            trace_context: Some("00-trace".to_owned()),
            priority: Some(300),
            ..Default::default()
        };
        Message {
            topic: Some(topic()),
            user_properties: HashMap::from([("a".to_owned(), "ü".to_owned())]),
            system_properties: Some(system),
            body: "hello".into(),
        }
    }

    fn foreign(address: Address, view: View) -> Message {
        let draft = RecordDraft { now: NOW, ..RecordDraft::new(&address, "/", b"native", b"body") };
        message(&draft.encode().unwrap(), topic(), |_| view)
    }

    fn system(message: &Message) -> &SystemProperties {
        message.system_properties.as_ref().unwrap()
    }

    #[test]
    fn what_a_producer_sent_is_what_a_consumer_gets() {
        let mut noisy = sent();
        let system = noisy.system_properties.get_or_insert_default();
        system.receipt_handle = Some("x".to_owned());
        system.queue_id = 9;
        let out = read_back(&stored(noisy));

        let mut expected = sent();
        expected.user_properties.insert("__SHARDINGKEY".to_owned(), "g1".to_owned());
        let system = expected.system_properties.get_or_insert_default();
        system.store_timestamp = Some(timestamp(NOW));
        system.body_digest = Some(Digest {
            r#type: DigestType::Md5 as i32,
            checksum: "5D41402ABC4B2A76B9719D911017C592".to_owned(),
        });
        assert_eq!(out, expected);
    }

    #[test]
    fn an_unspecified_encoding_is_identity_and_every_record_is_durable() {
        let mut message = sent();
        message.system_properties.get_or_insert_default().body_encoding = 0;
        let record = stored(message);
        assert_eq!(system(&read_back(&record)).body_encoding, Encoding::Identity as i32);
        assert!(record.is_durable());
        assert_eq!((record.qos(), record.priority()), (1, 255));
        assert_ne!(record.partition(), 0);
        assert_eq!(record.address(), Address::rocketmq("T".into(), "G".into()));
    }

    #[test]
    fn a_lite_topic_is_part_of_the_path_and_leaves_the_tag_alone() {
        let mut message = sent();
        message.system_properties.get_or_insert_default().lite_topic = Some("l".to_owned());
        let record = stored(message);
        assert_eq!(record.address().path(), Path::of(["T", "l"]));
        let out = read_back(&record);
        assert_eq!((system(&out).tag(), system(&out).lite_topic()), ("G", "l"));
        assert_eq!(view(&record).tag.as_deref(), Some("G"));
        let mut untagged = sent();
        let parts = untagged.system_properties.get_or_insert_default();
        (parts.lite_topic, parts.tag) = (Some("l".to_owned()), None);
        let record = stored(untagged);
        assert_eq!(system(&read_back(&record)).tag, None);
        assert_eq!(view(&record).tag.as_deref(), Some("l"));
    }

    #[test]
    fn a_body_that_is_only_labelled_gzip_is_left_alone() {
        let mut message = sent();
        message.system_properties.get_or_insert_default().set_body_encoding(Encoding::Gzip);
        let record = stored(message);
        let out = read_back(&record);
        assert_eq!(out.body, "hello");
        assert_eq!(system(&out).body_encoding, Encoding::Gzip as i32);
        let view = view(&record);
        assert_eq!((view.plain_data, view.content_encoding), (None, None));
    }

    #[test]
    fn a_compressed_body_has_a_plain_reading_and_is_replayed_compressed() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(b"plain text").unwrap();
        let packed = Bytes::from(encoder.finish().unwrap());
        let mut message = sent();
        message.body = packed.clone();
        message.system_properties.get_or_insert_default().set_body_encoding(Encoding::Gzip);
        let record = stored(message);
        assert_eq!(read_back(&record).body, packed);
        assert_eq!(view(&record).plain_data, Some("plain text".into()));
    }

    #[test]
    fn properties_with_a_meaning_become_fields_of_the_view() {
        let mut message = sent();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("correlationid", "c1"),
            ("replyto", "t:a/b"),
            ("appid", "app"),
            ("tracestate", "s"),
            ("expirytime", "2099-01-01T00:00:00Z"),
        ] {
            message.user_properties.insert(name.to_owned(), value.to_owned());
        }
        let record = stored(message);
        assert_eq!(record.expiry(), UnixMillis(4_070_908_800_000));
        let view = view(&record);
        assert_eq!(view.id.as_deref(), Some("01ABC"));
        assert_eq!(view.time, UnixMillis(1_600_000_000_000));
        assert_eq!(view.content_type.as_deref(), Some("text/plain"));
        assert_eq!(view.correlation, Some(Correlation::Text("c1".to_owned())));
        assert_eq!(view.reply_to, Some(ReplyTo::Topic("a/b".to_owned())));
        assert_eq!(view.tag.as_deref(), Some("G"));
        assert_eq!(view.keys, ["k1", "k 2"]);
        assert_eq!(view.partition_key.as_deref(), Some("g1"));
        assert_eq!(view.trace_parent.as_deref(), Some("00-trace"));
        assert_eq!(view.priority, Some(255));
        let props: Vec<_> = view.props.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(props, ["a"]);
    }

    #[test]
    fn a_cloud_event_needs_all_required_attributes_under_one_prefix() {
        let with = |names: &[&str]| {
            let mut message = sent();
            message.user_properties =
                names.iter().map(|name| ((*name).to_owned(), "v".to_owned())).collect();
            view(&stored(message))
        };
        let event =
            with(&["CE_id", "CE_source", "CE_type", "CE_specversion", "CE_x", "CE_contenttype"]);
        let names: Vec<_> = event.event.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["id", "source", "specversion", "type", "x"]);
        assert_eq!(event.content_type.as_deref(), Some("v"));
        assert!(event.props.is_empty());
        let mixed = with(&["CE_id", "ce_source", "CE_type", "CE_specversion"]);
        assert!(mixed.event.is_empty());
        assert_eq!(mixed.props.len(), 4);
    }

    #[test]
    fn a_record_of_another_protocol_is_converted() {
        let view = View {
            content_type: Some("text/plain".to_owned()),
            correlation: Some(Correlation::Data(Bytes::from_static(&[0xff]))),
            reply_to: Some(ReplyTo::Queue("q".to_owned())),
            priority: Some(4),
            keys: vec!["k".to_owned()],
            props: vec![
                ("TTL".to_owned(), Value::Int(5)),
                ("n".to_owned(), Value::Text("first".to_owned())),
                ("n".to_owned(), Value::Text("second".to_owned())),
                ("f".to_owned(), Value::Float(1.5)),
                ("v".to_owned(), Value::Void),
                ("b".to_owned(), Value::Bytes("x".into())),
                ("c".to_owned(), Value::Text("\u{0}".to_owned())),
            ],
            ..View::default()
        };
        let out = foreign(Address::mqtt("T/dev1/temp".into()), view);
        let expected = [
            ("content-type", "text/plain"),
            ("correlationdata", "/w=="),
            ("replyto", "q:q"),
            ("x_TTL", "5"),
            ("n", "first"),
            ("f", "1.5"),
        ];
        let expected: HashMap<_, _> = expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(out.user_properties, expected);
        assert_eq!(out.body, "body");
        let system = system(&out);
        assert_eq!(system.tag(), "dev1/temp");
        assert_eq!(system.message_id, RecordId::default().to_string());
        assert_eq!(system.body_encoding(), Encoding::Identity);
        assert_eq!(system.message_type(), MessageType::Priority);
        assert_eq!(system.born_timestamp, Some(timestamp(NOW)));
        assert_eq!(system.body_digest.as_ref().unwrap().checksum.len(), 32);
    }

    #[test]
    fn a_record_that_was_held_back_says_until_when() {
        let mut message = sent();
        let system = message.system_properties.get_or_insert_default();
        system.set_message_type(MessageType::Delay);
        system.delivery_timestamp = Some(timestamp(NOW.plus(5)));
        assert_eq!(stored(message).deliver_at(), NOW.plus(5));

        let address = Address::amqp("T".into(), "k".into());
        let draft = RecordDraft::new(&address, "/", b"native", b"body");
        let record = RecordDraft { now: NOW, deliver_at: NOW.plus(5), ..draft }.encode().unwrap();
        let out = super::message(&record, topic(), |_| View::default());
        let system = self::system(&out);
        assert_eq!(system.message_type(), MessageType::Delay);
        assert_eq!(system.delivery_timestamp, Some(timestamp(NOW.plus(5))));
    }

    #[test]
    fn a_tag_of_its_own_goes_before_the_rest_of_the_path() {
        let tag = |tag: Option<&str>, address: Address| {
            let view = View { tag: tag.map(str::to_owned), ..View::default() };
            system(&foreign(address, view)).tag.clone()
        };
        let amqp = || Address::amqp("T".into(), "a.b".into());
        assert_eq!(tag(Some("own"), amqp()).as_deref(), Some("own"));
        assert_eq!(tag(Some("a|b"), amqp()).as_deref(), Some("a/b"));
        assert_eq!(tag(None, amqp()).as_deref(), Some("a/b"));
        assert_eq!(tag(None, Address::mqtt("T".into())), None);
        assert_eq!(tag(None, Address::amqp("".into(), "$topic.T.x".into())).as_deref(), Some("x"));
    }

    #[test]
    fn a_cloud_event_of_another_protocol_keeps_its_attributes() {
        let view = View {
            content_type: Some("application/json".to_owned()),
            event: vec![("id".to_owned(), "e1".to_owned()), ("x".to_owned(), "y".to_owned())],
            partition_key: Some("p".to_owned()),
            ..View::default()
        };
        let out = foreign(Address::http("T".into()), view);
        let property = |name: &str| out.user_properties.get(name).map(String::as_str);
        assert_eq!(property("CE_id"), Some("e1"));
        assert_eq!(property("CE_x"), Some("y"));
        assert_eq!(property("CE_contenttype"), Some("application/json"));
        assert_eq!(property("__SHARDINGKEY"), Some("p"));
        assert_eq!(system(&out).message_type(), MessageType::Fifo);
    }
}
