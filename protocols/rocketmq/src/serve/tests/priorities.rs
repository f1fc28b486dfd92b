//! Messages of type PRIORITY: the highest of those that wait comes first.

use super::*;
use crate::{
    codec::proto::{
        GetOffsetRequest, PullMessageRequest, QueryOffsetRequest, UpdateOffsetRequest,
        pull_message_response,
    },
    limits::{TopicType, TypedTopic},
};

fn ranked(id: &str, priority: i32) -> Message {
    let mut message = message(id, MessageType::Priority);
    message.system_properties.as_mut().unwrap().priority = Some(priority);
    message
}

fn limits() -> Limits {
    let topic = TypedTopic { name: TOPIC.to_owned(), kind: TopicType::Priority };
    Limits { topics: vec![topic], ..Limits::default() }
}

#[tokio::test]
async fn the_highest_priority_of_those_that_wait_is_given_first_over_a_restart() {
    let mut server = Server::start(limits()).await;
    let mut peer = server.peer("a").await;
    for (id, priority) in [("l1", 0), ("m1", 7), ("h1", 15), ("l2", 0), ("top", 3000), ("m2", 7)] {
        peer.send(ranked(id, priority)).await.unwrap();
    }
    let mut request = poll(TOPIC, GROUP, 5_000);
    (request.batch_size, request.invisible_duration) = (3, Some(duration(10_000)));
    let first = peer.take_by(request).await;
    assert_eq!(ids(&first), ["h1", "top", "m1"]);
    let system = first.first().unwrap().system_properties.as_ref().unwrap();
    assert_eq!((system.message_type(), system.priority), (MessageType::Priority, Some(15)));
    peer.send(ranked("h2", 9)).await.unwrap();
    server.restart().await;
    let mut peer = server.peer("a").await;
    // What was in hand when the server went is given out again, and before the others: it is higher.
    let all = peer.receive(5_000).await;
    assert_eq!(ids(&all), ["h1", "top", "h2", "m1", "m2", "l1", "l2"]);
    // Acknowledged ones stay so, and a group that is new has them all.
    peer.send(ranked("l3", 0)).await.unwrap();
    peer.send(ranked("m3", 7)).await.unwrap();
    assert_eq!(ids(&peer.receive(5_000).await), ["m3", "l3"]);
    let other = peer.take(TOPIC, "other", 10_000, 5_000).await;
    assert_eq!(ids(&other), ["h1", "top", "h2", "m1", "m2", "m3", "l1", "l2", "l3"]);
}

#[tokio::test]
async fn a_poll_that_waits_gets_what_comes_and_a_nack_comes_back_by_its_priority() {
    let server = Server::start(limits()).await;
    let (mut peer, mut sender) = (server.peer("a").await, server.peer("s").await);
    let waits = tokio::spawn(async move { (peer.take(TOPIC, GROUP, 10_000, 10_000).await, peer) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    sender.send(ranked("first", 3)).await.unwrap();
    let (taken, mut peer) = waits.await.unwrap();
    assert_eq!(ids(&taken), ["first"]);
    for (id, priority) in [("low", 1), ("high", 5)] {
        sender.send(ranked(id, priority)).await.unwrap();
    }
    let system = taken.first().unwrap().system_properties.as_ref().unwrap();
    let request = peer.request(crate::codec::proto::ChangeInvisibleDurationRequest {
        group: Some(resource(GROUP)),
        topic: Some(resource(TOPIC)),
        receipt_handle: system.receipt_handle().to_owned(),
        invisible_duration: Some(duration(0)),
        ..Default::default()
    });
    peer.grpc.change_invisible_duration(request).await.unwrap();
    assert_eq!(ids(&peer.receive(5_000).await), ["high", "first", "low"]);
}

#[tokio::test]
async fn a_topic_that_was_there_before_it_was_listed_gives_out_by_priority_then() {
    let mut server = Server::start(Limits::default()).await;
    let mut peer = server.peer("a").await;
    for (id, priority) in [("old1", 0), ("old2", 9)] {
        peer.send(ranked(id, priority)).await.unwrap();
    }
    server.limits = limits();
    server.restart().await;
    let mut peer = server.peer("a").await;
    for (id, priority) in [("low", 0), ("high", 9)] {
        peer.send(ranked(id, priority)).await.unwrap();
    }
    assert_eq!(ids(&peer.receive(5_000).await), ["old1", "old2", "high", "low"]);
}

#[tokio::test]
async fn by_offset_a_topic_with_priorities_is_not_read() {
    let server = Server::start(limits()).await;
    let mut peer = server.peer("a").await;
    peer.send(ranked("m", 1)).await.unwrap();
    let queue = Some(MessageQueue { topic: Some(resource(TOPIC)), ..Default::default() });
    let (group, message_queue) = (Some(resource(GROUP)), queue.clone());
    let request = peer.request(GetOffsetRequest { group, message_queue });
    let got = peer.grpc.get_offset(request).await.unwrap().into_inner().status;
    let (group, message_queue) = (Some(resource(GROUP)), queue.clone());
    let request = peer.request(UpdateOffsetRequest { group, message_queue, offset: 0 });
    let updated = peer.grpc.update_offset(request).await.unwrap().into_inner().status;
    let message_queue = queue.clone();
    let request = peer.request(QueryOffsetRequest { message_queue, ..Default::default() });
    let queried = peer.grpc.query_offset(request).await.unwrap().into_inner().status;
    let request = peer.request(PullMessageRequest {
        group: Some(resource(GROUP)),
        message_queue: queue,
        long_polling_timeout: Some(duration(0)),
        ..Default::default()
    });
    let mut parts = peer.grpc.pull_message(request).await.unwrap().into_inner();
    let pulled = match parts.message().await.unwrap().unwrap().content.unwrap() {
        pull_message_response::Content::Status(status) => Some(status),
        other => panic!("{other:?}"),
    };
    for status in [got, updated, queried, pulled] {
        assert_eq!(status.unwrap().code(), Code::Unsupported);
    }
    assert_eq!(ids(&peer.receive(5_000).await), ["m"]);
}
