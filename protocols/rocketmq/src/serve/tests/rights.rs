//! Who may do little does no more by way of a transaction or a recall.

use super::{
    delays::{delayed, recall},
    transactions::{COMMIT, ROLLBACK, asked, end, half, listen, undecided},
    *,
};

/// A topic that the bounded may write.
const MINE: &str = "mine";

fn to(topic: &str, message: Message) -> Message {
    Message { topic: Some(resource(topic)), ..message }
}

#[tokio::test]
async fn a_half_message_needs_the_right_to_send_and_leaves_nothing_behind_without_it() {
    let mut server = Server::start(Limits::default()).await;
    let (client, _inbox) = server.client().await;
    let mut owner = server.peer("owner").await;
    owner.send(message("there", MessageType::Normal)).await.unwrap();
    let mut bounded = server.peer_of("bounded", "bounded").await;
    for message in [half("h"), delayed("d", server.now_ms() + 60_000)] {
        assert_eq!(bounded.send(message).await.unwrap_err(), Code::Forbidden);
    }
    assert!(undecided(&client).await.is_empty());
    bounded.send(to(MINE, half("h"))).await.unwrap();
    assert_eq!(undecided(&client).await.len(), 1);
    drop((client, _inbox));
    server.stop().await;
}

#[tokio::test]
async fn a_transaction_is_ended_only_by_who_may_send_to_its_topic() {
    let server = Server::start(Limits::default()).await;
    let mut owner = server.peer("owner").await;
    for id in ["kept", "gone"] {
        owner.send(half(id)).await.unwrap();
    }
    // By the same client id, too.
    for client_id in ["bounded", "owner"] {
        let mut bounded = server.peer_of(client_id, "bounded").await;
        assert_eq!(end(&mut bounded, "kept", ROLLBACK).await, Code::Forbidden);
        assert_eq!(end(&mut bounded, "gone", COMMIT).await, Code::Forbidden);
        // Nor does it learn what is there.
        assert_eq!(end(&mut bounded, "unheard-of", COMMIT).await, Code::Forbidden);
    }
    assert!(owner.receive(200).await.is_empty(), "nothing was published");
    assert_eq!(end(&mut owner, "kept", COMMIT).await, Code::Ok);
    assert_eq!(end(&mut owner, "gone", ROLLBACK).await, Code::Ok);
    assert_eq!(ids(&owner.receive(5_000).await), ["kept"]);
}

#[tokio::test]
async fn nobody_is_asked_about_a_transaction_of_a_topic_that_it_may_not_send_to() {
    let limits = Limits {
        transaction_patience_ms: 100,
        transaction_ask_interval_ms: 100,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut bounded = server.peer_of("bounded", "bounded").await;
    let (_keep, mut commands) = listen(&mut bounded, TOPIC).await;
    let mut owner = server.peer("owner").await;
    owner.send(half("secret")).await.unwrap();
    assert!(asked(&mut commands).await.is_none(), "the message would be shown to it");
    // One that may is asked, so that there was something to ask.
    let (_kept, mut commands) = listen(&mut owner, TOPIC).await;
    assert_eq!(asked(&mut commands).await.unwrap().transaction_id, "secret");
}

#[tokio::test]
async fn a_message_is_recalled_only_by_who_may_send_to_its_topic() {
    let server = Server::start(Limits::default()).await;
    let mut owner = server.peer("owner").await;
    let due = server.now_ms() + 1_500;
    let handle = owner.send(delayed("kept", due)).await.unwrap().recall_handle;
    let mut bounded = server.peer_of("bounded", "bounded").await;
    assert_eq!(recall(&mut bounded, TOPIC, &handle).await, (Code::Forbidden, String::new()));
    // A handle is its topic's, so that no other name gets around that.
    assert_eq!(recall(&mut bounded, MINE, &handle).await.0, Code::BadRequest);
    assert_eq!(ids(&owner.receive(10_000).await), ["kept"]);
}
