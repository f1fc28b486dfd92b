//! Transactions: what is published, what is not, and who is asked when nobody decides.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::pin,
    task::{Context, Waker},
};

use mainstem_broker::{HeldPlace, Line};
use mainstem_schemas::Position;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    super::{Front, incoming::Peer as Whence},
    *,
};
use crate::codec::proto::{
    EndTransactionRequest, Publishing, RecoverOrphanedTransactionCommand, Settings,
    TelemetryCommand, TransactionResolution, settings::PubSub, telemetry_command::Command,
};

pub(super) const COMMIT: TransactionResolution = TransactionResolution::Commit;
pub(super) const ROLLBACK: TransactionResolution = TransactionResolution::Rollback;

pub(super) fn half(id: &str) -> Message {
    message(id, MessageType::Transaction)
}

pub(super) async fn end(peer: &mut Peer, id: &str, resolution: TransactionResolution) -> Code {
    let request = peer.request(EndTransactionRequest {
        topic: Some(resource(TOPIC)),
        message_id: id.to_owned(),
        transaction_id: id.to_owned(),
        resolution: resolution as i32,
        ..Default::default()
    });
    peer.grpc.end_transaction(request).await.unwrap().into_inner().status.unwrap().code()
}

/// What the store holds until a decision.
pub(super) async fn undecided(client: &Client) -> Vec<HeldPlace> {
    client.undecided(Position::default(), 99).await.unwrap().0
}

/// A producer's telemetry stream. It lasts as long as the sender.
pub(super) async fn listen(
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
pub(super) async fn asked(
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

#[tokio::test]
async fn what_the_store_let_go_of_cannot_be_committed() {
    let server = Server::start(Limits::default()).await;
    let mut peer = server.peer("a").await;
    let (client, _inbox) = server.client().await;
    for (id, resolution) in [("1", COMMIT), ("2", ROLLBACK)] {
        peer.send(half(id)).await.unwrap();
        let held = undecided(&client).await;
        assert!(client.decide(held[0].0, false).await.unwrap());
        for _ in 0..2 {
            assert_eq!(end(&mut peer, id, resolution).await, Code::InvalidTransactionId, "{id}");
        }
    }
    assert!(peer.receive(100).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_decisions_that_come_together_one_counts_for_all() {
    let server = Server::start(Limits::default()).await;
    let mut peer = server.peer("a").await;
    for round in 0..20 {
        let id = format!("tx-{round}");
        peer.send(half(&id)).await.unwrap();
        let mut ends = Vec::new();
        for client in ["a", "b", "c", "d"] {
            let (mut peer, id) = (server.peer(client).await, id.clone());
            ends.push(tokio::spawn(async move { end(&mut peer, &id, COMMIT).await }));
        }
        for end in ends {
            assert_eq!(end.await.unwrap(), Code::Ok, "{id}");
        }
        assert_eq!(ids(&peer.receive(1_000).await), [id]);
    }
    assert!(peer.receive(100).await.is_empty());
}

#[tokio::test]
async fn what_a_sender_left_behind_is_known() {
    let server = Server::start(Limits::default()).await;
    let limits = Arc::new(Limits::default());
    let front = Front::new(server.broker().clone(), limits, CancellationToken::new(), |_| Ok(()));
    let request = |message| {
        let mut request = Request::new(SendMessageRequest { messages: vec![message] });
        request.metadata_mut().insert("x-mq-client-id", MetadataValue::from_static("a"));
        let at = "127.0.0.1:1".parse().unwrap();
        request.extensions_mut().insert(Whence(Line::new(at, at, false)));
        request
    };
    // The topic is there, so that a send has nothing to wait for but itself.
    front.on_send_message(request(message("m", MessageType::Normal))).await.unwrap();
    let (client, _inbox) = server.client().await;
    for polls in 1..8 {
        {
            let mut sending = pin!(front.on_send_message(request(half(&format!("tx-{polls}")))));
            for _ in 0..polls {
                let mut context = Context::from_waker(Waker::noop());
                if sending.as_mut().poll(&mut context).is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let held = undecided(&client).await.len();
        assert_eq!((held, front.transactions.waiting()), (polls, polls));
    }
}

#[tokio::test]
async fn a_message_sent_again_and_again_is_kept_so_often_and_published_once() {
    let server = Server::start(Limits::default()).await;
    let mut peer = server.peer("a").await;
    for _ in 0..20 {
        assert_eq!(peer.send(half("again")).await.unwrap().transaction_id, "again");
    }
    let (client, _inbox) = server.client().await;
    assert_eq!(undecided(&client).await.len(), 16);
    assert_eq!(end(&mut peer, "again", COMMIT).await, Code::Ok);
    assert!(undecided(&client).await.is_empty());
    assert_eq!(ids(&peer.receive(1_000).await), ["again"]);
    assert!(peer.receive(100).await.is_empty());
}

#[tokio::test]
async fn without_a_producer_a_transaction_ends_by_its_age() {
    let limits =
        Limits { transaction_patience_ms: 100, transaction_age_ms_max: 1_500, ..Limits::default() };
    let server = Server::start(limits).await;
    let mut peer = server.peer("a").await;
    peer.send(half("old")).await.unwrap();
    let (client, _inbox) = server.client().await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(undecided(&client).await.len(), 1);
    for _ in 0..100 {
        if undecided(&client).await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(undecided(&client).await.is_empty(), "it waits for ever");
    assert_eq!(end(&mut peer, "old", COMMIT).await, Code::InvalidTransactionId);
}

#[tokio::test]
async fn who_does_not_know_is_asked_again_and_who_is_gone_is_not() {
    let limits = Limits {
        transaction_patience_ms: 100,
        transaction_ask_interval_ms: 100,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut gone = server.peer("gone").await;
    let (ends, commands) = listen(&mut gone, TOPIC).await;
    gone.send(half("open")).await.unwrap();
    drop((ends, commands));
    let mut heir = server.peer("heir").await;
    let (_open, mut commands) = listen(&mut heir, TOPIC).await;
    for _ in 0..3 {
        assert_eq!(asked(&mut commands).await.unwrap().transaction_id, "open");
        assert_eq!(end(&mut heir, "open", TransactionResolution::Unspecified).await, Code::Ok);
    }
    assert_eq!(end(&mut heir, "open", ROLLBACK).await, Code::Ok);
    // One asking may have been on its way.
    let _late = asked(&mut commands).await;
    assert!(asked(&mut commands).await.is_none());
    assert!(heir.receive(100).await.is_empty());
}

#[tokio::test]
async fn producers_that_do_not_read_are_passed_over() {
    const COUNT: usize = 60;
    const STUCK: [&str; 7] = ["s1", "s2", "s3", "s4", "s5", "s6", "s7"];
    let limits = Limits {
        transaction_patience_ms: 500,
        transaction_ask_interval_ms: 300,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut unread = Vec::new();
    for client in STUCK {
        unread.push(listen(&mut server.peer(client).await, TOPIC).await);
    }
    let mut heir = server.peer("heir").await;
    let (_open, mut commands) = listen(&mut heir, TOPIC).await;
    // More than a connection and a stream take in, as long as nobody reads.
    for n in 0..COUNT {
        let mut message = half(&format!("tx-{n}"));
        message.body = vec![7; 1 << 20].into();
        heir.send(message).await.unwrap();
    }
    let mut heard = BTreeSet::new();
    while heard.len() < COUNT {
        let command = asked(&mut commands).await;
        let command = command.unwrap_or_else(|| panic!("{} of {COUNT}", heard.len()));
        assert_eq!(end(&mut heir, &command.transaction_id, COMMIT).await, Code::Ok);
        heard.insert(command.transaction_id);
    }
}
