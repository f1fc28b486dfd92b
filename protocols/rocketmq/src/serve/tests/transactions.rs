//! Transactions: what is published, what is not, and who is asked when nobody decides.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::*;
use crate::codec::proto::{
    EndTransactionRequest, Publishing, RecoverOrphanedTransactionCommand, Settings,
    TelemetryCommand, TransactionResolution, settings::PubSub, telemetry_command::Command,
};

const COMMIT: TransactionResolution = TransactionResolution::Commit;
const ROLLBACK: TransactionResolution = TransactionResolution::Rollback;

fn half(id: &str) -> Message {
    message(id, MessageType::Transaction)
}

async fn end(peer: &mut Peer, id: &str, resolution: TransactionResolution) -> Code {
    let request = peer.request(EndTransactionRequest {
        topic: Some(resource(TOPIC)),
        message_id: id.to_owned(),
        transaction_id: id.to_owned(),
        resolution: resolution as i32,
        ..Default::default()
    });
    peer.grpc.end_transaction(request).await.unwrap().into_inner().status.unwrap().code()
}

/// A producer's telemetry stream. It lasts as long as the sender.
async fn listen(
    peer: &mut Peer,
    topic: &str,
) -> (mpsc::Sender<TelemetryCommand>, Streaming<TelemetryCommand>) {
    let (sender, commands) = mpsc::channel(1);
    let publishing = Publishing { topics: vec![resource(topic)], ..Default::default() };
    let pub_sub = Some(PubSub::Publishing(publishing));
    let settings = Settings { pub_sub, ..Default::default() };
    let command = Some(Command::Settings(settings));
    sender.send(TelemetryCommand { status: None, command }).await.unwrap();
    let request = peer.request(ReceiverStream::new(commands));
    let mut answers = peer.grpc.telemetry(request).await.unwrap().into_inner();
    let settled = answers.message().await.unwrap().unwrap();
    assert!(matches!(settled.command, Some(Command::Settings(_))));
    (sender, answers)
}

/// The next thing that a producer is asked; `None` when it is not asked for some time.
async fn asked(
    commands: &mut Streaming<TelemetryCommand>,
) -> Option<RecoverOrphanedTransactionCommand> {
    let next = tokio::time::timeout(Duration::from_secs(4), commands.message()).await.ok()?;
    match next.unwrap().unwrap().command.unwrap() {
        Command::RecoverOrphanedTransactionCommand(command) => Some(command),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_what_is_committed_is_seen_and_the_first_decision_counts() {
    let mut server = Server::start(Limits::default()).await;
    let mut peer = server.peer("a").await;
    for id in ["committed", "rolled-back", "later"] {
        let sent = peer.send(half(id)).await.unwrap();
        assert_eq!((sent.transaction_id.as_str(), sent.recall_handle.as_str()), (id, ""));
    }
    // A producer that got no answer sends again.
    peer.send(half("committed")).await.unwrap();
    assert!(peer.receive(100).await.is_empty());
    assert_eq!(end(&mut peer, "committed", TransactionResolution::Unspecified).await, Code::Ok);
    assert!(peer.receive(100).await.is_empty());
    for (id, resolution) in [
        ("committed", COMMIT),
        ("committed", COMMIT),
        ("committed", ROLLBACK),
        ("rolled-back", ROLLBACK),
        ("rolled-back", COMMIT),
    ] {
        assert_eq!(end(&mut peer, id, resolution).await, Code::Ok, "{id}");
    }
    assert_eq!(end(&mut peer, "", COMMIT).await, Code::InvalidTransactionId);
    assert_eq!(end(&mut peer, "unheard-of", COMMIT).await, Code::InvalidTransactionId);
    let messages = peer.receive(1_000).await;
    assert_eq!(ids(&messages), ["committed"]);
    let message = messages.first().unwrap();
    assert_eq!(
        message.system_properties.as_ref().unwrap().message_type(),
        MessageType::Transaction
    );
    let id = message.user_properties.get("__transactionId__").map(String::as_str);
    assert_eq!(id, Some("committed"));

    server.restart().await;
    let mut peer = server.peer("a").await;
    assert!(peer.receive(100).await.is_empty());
    assert_eq!(end(&mut peer, "rolled-back", COMMIT).await, Code::InvalidTransactionId);
    assert_eq!(end(&mut peer, "later", COMMIT).await, Code::Ok);
    assert_eq!(ids(&peer.receive(1_000).await), ["later"]);
}

#[tokio::test]
async fn all_that_was_open_is_found_again() {
    const COUNT: usize = 600;
    let mut server = Server::start(Limits::default()).await;
    let mut peer = server.peer("a").await;
    let messages = (0..COUNT).map(|n| half(&format!("tx-{n}"))).collect();
    let request = peer.request(SendMessageRequest { messages });
    let sent = peer.grpc.send_message(request).await.unwrap().into_inner();
    assert_eq!(sent.entries.len(), COUNT);
    server.restart().await;
    let mut peer = server.peer("b").await;
    for n in 0..COUNT {
        assert_eq!(end(&mut peer, &format!("tx-{n}"), COMMIT).await, Code::Ok, "{n}");
    }
    let mut seen = 0;
    while seen < COUNT {
        let batch = peer.receive(2_000).await;
        assert!(!batch.is_empty(), "{seen} of {COUNT} came");
        seen += batch.len();
    }
}

#[tokio::test]
async fn a_producer_of_the_topic_is_asked_about_what_is_left_open() {
    let limits = Limits { transaction_patience_ms: 200, ..Limits::default() };
    let mut server = Server::start(limits).await;
    server.peer("gone").await.send(half("open")).await.unwrap();
    server.restart().await;
    let mut other = server.peer("other").await;
    let mut peer = server.peer("heir").await;
    let (_stays, mut elsewhere) = listen(&mut other, "U").await;
    let (_open, mut commands) = listen(&mut peer, TOPIC).await;
    let command = asked(&mut commands).await.unwrap();
    assert_eq!(command.transaction_id, "open");
    let message = command.message.unwrap();
    assert_eq!((name_of(&message), message.body.as_ref()), (TOPIC, b"body".as_slice()));
    assert_eq!(ids(std::slice::from_ref(&message)), ["open"]);
    assert!(message.system_properties.unwrap().body_digest.is_some());
    assert!(asked(&mut elsewhere).await.is_none());
    assert_eq!(end(&mut peer, "open", COMMIT).await, Code::Ok);
    assert_eq!(ids(&peer.receive(1_000).await), ["open"]);
    // The one that was asked is asked no more.
    assert!(asked(&mut commands).await.is_none());
}

fn name_of(message: &Message) -> &str {
    &message.topic.as_ref().unwrap().name
}

#[tokio::test]
async fn what_nobody_decides_is_rolled_back_after_the_last_asking() {
    let limits = Limits {
        transaction_patience_ms: 100,
        transaction_ask_interval_ms: 100,
        transaction_asks_max: 2,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut peer = server.peer("a").await;
    let (_open, mut commands) = listen(&mut peer, TOPIC).await;
    peer.send(half("forgotten")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(asked(&mut commands).await.unwrap().transaction_id, "forgotten");
    }
    assert!(asked(&mut commands).await.is_none());
    assert_eq!(end(&mut peer, "forgotten", COMMIT).await, Code::InvalidTransactionId);
    assert!(peer.receive(100).await.is_empty());
}

#[tokio::test]
async fn a_recovery_duration_over_the_limit_is_refused() {
    let server = Server::start(Limits::default()).await;
    let mut peer = server.peer("a").await;
    let mut patient = half("patient");
    let system = patient.system_properties.get_or_insert_default();
    system.orphaned_transaction_recovery_duration = Some(duration(3_600_001));
    assert_eq!(peer.send(patient).await.unwrap_err(), Code::BadRequest);
}
