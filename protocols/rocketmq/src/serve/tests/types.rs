//! Topics of one type.

use super::*;
use crate::{
    codec::proto::{Address, AddressScheme, Endpoints, QueryRouteRequest},
    limits::{TopicType, TypedTopic},
    normalize::timestamp,
};

const KINDS: [MessageType; 6] = [
    MessageType::Normal,
    MessageType::Fifo,
    MessageType::Delay,
    MessageType::Transaction,
    MessageType::Priority,
    MessageType::Lite,
];

fn of(kind: MessageType, topic: &str, now: mainstem_schemas::UnixMillis) -> Message {
    let mut message = message("m", kind);
    message.topic = Some(resource(topic));
    let system = message.system_properties.as_mut().unwrap();
    match kind {
        MessageType::Fifo => system.message_group = Some("g".to_owned()),
        MessageType::Delay => system.delivery_timestamp = Some(timestamp(now)),
        MessageType::Priority => system.priority = Some(1),
        MessageType::Lite => system.lite_topic = Some("l".to_owned()),
        _ => {}
    }
    message
}

impl Peer {
    async fn accepted(&mut self, topic: &str) -> Result<Vec<i32>, Code> {
        let address = Address { host: "localhost".to_owned(), port: 1 };
        let scheme = AddressScheme::DomainName as i32;
        let request = self.request(QueryRouteRequest {
            topic: Some(resource(topic)),
            endpoints: Some(Endpoints { scheme, addresses: vec![address] }),
        });
        let answer = self.grpc.query_route(request).await.unwrap().into_inner();
        match answer.status.unwrap().code() {
            Code::Ok => Ok(answer.message_queues[0].accept_message_types.clone()),
            code => Err(code),
        }
    }
}

#[tokio::test]
async fn a_topic_of_one_type_takes_no_other() {
    let types = [
        ("NORMAL", TopicType::Normal),
        ("FIFO", TopicType::Fifo),
        ("DELAY", TopicType::Delay),
        ("TRANSACTION", TopicType::Transaction),
        ("PRIORITY", TopicType::Priority),
        ("LITE", TopicType::Lite),
    ];
    let topics = types.map(|(name, kind)| TypedTopic { name: name.to_owned(), kind }).to_vec();
    // They are made though others are not.
    let limits = Limits { topics, auto_create_topics: false, ..Limits::default() };
    let server = Server::start(limits).await;
    let mut peer = server.peer("one").await;
    for kind in KINDS {
        for topic in KINDS {
            let name = topic.as_str_name();
            let sent = peer.send(of(kind, name, server.broker().now())).await.map(drop);
            let expected = Err(Code::MessagePropertyConflictWithType);
            assert_eq!(sent, if kind == topic { Ok(()) } else { expected }, "{kind:?} {name}");
        }
        assert_eq!(peer.accepted(kind.as_str_name()).await, Ok(vec![kind as i32]));
    }
    assert_eq!(peer.accepted("other").await, Err(Code::TopicNotFound));
}

#[tokio::test]
async fn a_topic_of_no_declared_type_takes_everything() {
    let server = Server::start(Limits::default()).await;
    let mut peer = server.peer("one").await;
    for kind in KINDS {
        let sent = peer.send(of(kind, TOPIC, server.broker().now())).await;
        assert!(sent.is_ok(), "{kind:?}: {sent:?}");
    }
    // Those that every client knows.
    assert_eq!(peer.accepted(TOPIC).await, Ok(vec![1, 2, 3, 4]));
}
