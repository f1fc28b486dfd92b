//! Delayed messages: held until their time, and taken back before it.

use mainstem_schemas::{RecordId, UnixMillis};

use super::*;
use crate::{
    codec::{proto::RecallMessageRequest, recall as handle},
    normalize::timestamp,
};

pub(super) fn delayed(id: &str, at_ms: u64) -> Message {
    // Producers of old leave the type to the server.
    let mut message = message(id, MessageType::Normal);
    let system = message.system_properties.get_or_insert_default();
    system.delivery_timestamp = Some(timestamp(UnixMillis(at_ms)));
    message
}

pub(super) async fn recall(peer: &mut Peer, topic: &str, handle: &str) -> (Code, String) {
    let recall_handle = handle.to_owned();
    let message = RecallMessageRequest { topic: Some(resource(topic)), recall_handle };
    let request = peer.request(message);
    let answer = peer.grpc.recall_message(request).await.unwrap().into_inner();
    (answer.status.unwrap().code(), answer.message_id)
}

#[tokio::test]
async fn a_delayed_message_comes_at_its_time_and_not_before() {
    let server = Server::start(Limits::default()).await;
    let mut peer = server.peer("a").await;
    let due = server.now_ms() + 700;
    let sent = peer.send(delayed("late", due)).await.unwrap();
    assert_eq!((sent.message_id.as_str(), sent.transaction_id.as_str()), ("late", "late"));
    assert!(!sent.recall_handle.is_empty());
    let past = peer.send(delayed("past", server.now_ms() - 20_000)).await.unwrap();
    assert_eq!(past.recall_handle, "");
    assert_eq!(ids(&peer.receive(100).await), ["past"]);
    let late = peer.receive(5_000).await;
    assert!(server.now_ms() >= due);
    assert_eq!(ids(&late), ["late"]);
    let system = late.first().unwrap().system_properties.as_ref().unwrap();
    assert_eq!(system.message_type(), MessageType::Delay);
    assert_eq!(system.delivery_timestamp, Some(timestamp(UnixMillis(due))));
}

#[tokio::test]
async fn a_recalled_message_never_comes() {
    let mut server = Server::start(Limits::default()).await;
    let mut peer = server.peer("a").await;
    let due = server.now_ms() + 1_500;
    let gone = peer.send(delayed("gone", due)).await.unwrap().recall_handle;
    let kept = peer.send(delayed("kept", due)).await.unwrap().recall_handle;
    // Handles outlive the process.
    server.restart().await;
    let mut peer = server.peer("a").await;
    assert_eq!(recall(&mut peer, "U", &gone).await.0, Code::BadRequest);
    assert_eq!(recall(&mut peer, TOPIC, "junk").await.0, Code::BadRequest);
    for _ in 0..2 {
        assert_eq!(recall(&mut peer, TOPIC, &gone).await, (Code::Ok, "gone".to_owned()));
    }
    assert_eq!(ids(&peer.receive(10_000).await), ["kept"]);
    assert!(peer.receive(100).await.is_empty());
    assert_eq!(recall(&mut peer, TOPIC, &kept).await.0, Code::NotFound);
    assert_eq!(recall(&mut peer, TOPIC, &gone).await, (Code::Ok, "gone".to_owned()));
}

#[tokio::test]
async fn a_message_is_not_recalled_by_its_place_alone() {
    let server = Server::start(Limits::default()).await;
    let mut peer = server.peer("a").await;
    let sent = peer.send(delayed("kept", server.now_ms() + 700)).await.unwrap();
    let mut forged = handle::open(&sent.recall_handle, TOPIC).unwrap();
    forged.record = RecordId::new(UnixMillis(server.now_ms()), 7);
    for _ in 0..2 {
        let answer = recall(&mut peer, TOPIC, &handle::seal(&forged, TOPIC)).await;
        assert_eq!(answer.0, Code::NotFound);
    }
    assert_eq!(ids(&peer.receive(5_000).await), ["kept"]);
}

#[tokio::test]
async fn a_delay_over_the_limit_is_refused() {
    let server = Server::start(Limits { delay_ms_max: 1_000, ..Limits::default() }).await;
    let mut peer = server.peer("a").await;
    let far = delayed("far", server.now_ms() + 60_000);
    assert_eq!(peer.send(far).await.unwrap_err(), Code::IllegalDeliveryTime);
}
