//! Dead letters: what a group could not cope with, moved by the store.

use mainstem_broker::{Notice, OpenSession, Subscribe};
use mainstem_schemas::Filter;

use super::*;
use crate::codec::proto::{
    ChangeInvisibleDurationRequest, DeadLetterQueue, ForwardMessageToDeadLetterQueueRequest,
};

const DEAD: &str = "%DLQ%g";

fn limits() -> Limits {
    // The shortest poll waits for what comes late.
    Limits { attempts_max: 2, invisible_ms_min: 100, ..Limits::default() }
}

fn handle(message: &Message) -> String {
    message.system_properties.as_ref().unwrap().receipt_handle().to_owned()
}

fn attempt(message: &Message) -> i32 {
    message.system_properties.as_ref().unwrap().delivery_attempt()
}

/// The only dead letter, as an undertaker gets it.
async fn bury(peer: &mut Peer) -> Message {
    let mut dead = peer.take(DEAD, "undertaker", 10_000, 5_000).await;
    assert_eq!(dead.len(), 1);
    let dead = dead.remove(0);
    let system = dead.system_properties.as_ref().unwrap();
    let origin = DeadLetterQueue { topic: TOPIC.to_owned(), message_id: "poison".to_owned() };
    assert_eq!(system.dead_letter_queue, Some(origin));
    assert_eq!((system.message_id.as_str(), system.delivery_attempt()), ("poison", 1));
    assert_eq!((dead.topic.as_ref().unwrap().name.as_str(), &dead.body[..]), (DEAD, &b"body"[..]));
    dead
}

#[tokio::test]
async fn what_comes_back_too_often_is_a_dead_letter_over_a_restart() {
    let mut server = Server::start(limits()).await;
    let mut peer = server.peer("a").await;
    peer.send(message("poison", MessageType::Normal)).await.unwrap();
    for number in 1..=2 {
        let taken = peer.take(TOPIC, GROUP, 10_000, 5_000).await;
        assert_eq!(taken.iter().map(attempt).collect::<Vec<_>>(), [number]);
        let request = peer.request(ChangeInvisibleDurationRequest {
            group: Some(resource(GROUP)),
            topic: Some(resource(TOPIC)),
            receipt_handle: handle(&taken[0]),
            invisible_duration: Some(duration(0)),
            ..Default::default()
        });
        let answer = peer.grpc.change_invisible_duration(request).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code(), Code::Ok);
        server.restart().await;
        peer = server.peer("a").await;
    }
    bury(&mut peer).await;
    assert!(peer.take(TOPIC, GROUP, 10_000, 100).await.is_empty());
}

#[tokio::test]
async fn a_lease_that_ends_when_no_client_is_there_makes_a_dead_letter_too() {
    let limits = Limits { attempts_max: 1, ..limits() };
    let mut server = Server::start(limits).await;
    let mut peer = server.peer("a").await;
    peer.send(message("poison", MessageType::Normal)).await.unwrap();
    assert_eq!(peer.take(TOPIC, GROUP, 200, 5_000).await.len(), 1);
    drop(peer);
    tokio::time::sleep(Duration::from_millis(600)).await;
    // Nobody of the group asks again.
    bury(&mut server.peer("undertaker").await).await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_forwarded_is_a_dead_letter_at_once() {
    let server = Server::start(limits()).await;
    let (client, mut inbox) = server.client().await;
    let session = OpenSession { id: "s".to_owned(), clean: true, expiry_s: 60, limit: 9 };
    client.open_session(session).await.unwrap();
    let filter = Filter::parse("%DLQ%g/#").unwrap();
    let subscribe = Subscribe { filter, share: None, options: 0, live: false };
    client.subscribe(subscribe).await.unwrap();
    let mut peer = server.peer("a").await;
    peer.send(message("poison", MessageType::Normal)).await.unwrap();
    let taken = peer.take(TOPIC, GROUP, 10_000, 5_000).await;
    for code in [Code::Ok, Code::InvalidReceiptHandle] {
        let request = peer.request(ForwardMessageToDeadLetterQueueRequest {
            group: Some(resource(GROUP)),
            topic: Some(resource(TOPIC)),
            receipt_handle: handle(&taken[0]),
            message_id: "poison".to_owned(),
            ..Default::default()
        });
        let answer = peer.grpc.forward_message_to_dead_letter_queue(request).await.unwrap();
        assert_eq!(answer.into_inner().status.unwrap().code(), code);
    }
    bury(&mut peer).await;
    assert!(peer.take(TOPIC, GROUP, 10_000, 100).await.is_empty());
    // It comes to readers of other protocols, too.
    let mut notices = Vec::new();
    client.recv(&mut inbox, &mut notices).await;
    assert!(matches!(&notices[..], [Notice::Delivery(_)]), "{notices:?}");
}

#[tokio::test]
async fn a_group_that_fails_at_its_own_dead_letters_loses_none() {
    let limits = Limits { attempts_max: 1, ..limits() };
    let server = Server::start(limits).await;
    let mut peer = server.peer("a").await;
    peer.send(message("poison", MessageType::Normal)).await.unwrap();
    assert_eq!(peer.take(TOPIC, GROUP, 200, 5_000).await.len(), 1);
    for round in 0..3 {
        let dead = peer.take(DEAD, GROUP, 200, 5_000).await;
        assert_eq!(dead.len(), 1, "in round {round}");
    }
}

#[tokio::test]
async fn what_expires_is_no_dead_letter() {
    let server = Server::start(limits()).await;
    let mut peer = server.peer("a").await;
    let mut brief = message("brief", MessageType::Normal);
    brief.user_properties.insert("expirytime".to_owned(), "2020-01-01T00:00:00Z".to_owned());
    peer.send(brief).await.unwrap();
    assert!(peer.take(TOPIC, GROUP, 10_000, 200).await.is_empty());
    assert!(peer.take(DEAD, "undertaker", 10_000, 200).await.is_empty());
}
