//! Who subscribes `*` reads all lite topics of a topic, those to come too.

use super::*;

#[tokio::test]
async fn everything_is_read_each_lite_topic_in_order_and_shared_by_the_group() {
    let mut server = Server::start(Limits::default()).await;
    let (mut sender, mut one) = (server.peer("sender").await, server.peer("one").await);
    assert_eq!(one.sync(Action::CompleteAdd, &["*"]).await, Code::Ok);
    for (id, name) in [("a1", "a"), ("b1", "b"), ("a2", "a"), ("c1", "c"), ("b2", "b")] {
        sender.send_lite(id, name).await;
    }
    // Of each lite topic one is out at a time, whoever asks.
    let first = one.take(TOPIC, GROUP, 30_000, 5_000).await;
    assert_eq!((ids(&first), names(&first)), (vec!["a1", "b1", "c1"], vec!["a", "b", "c"]));
    let mut two = server.peer("two").await;
    assert_eq!(two.sync(Action::PartialAdd, &["*"]).await, Code::Ok);
    assert!(two.receive(200).await.is_empty());
    // One that failed comes before the next one of its lite topic, and holds up no other.
    assert_eq!(one.put_off(&first[0], 0, false).await, Code::Ok);
    one.acknowledge(&first[1]).await;
    let second = two.take(TOPIC, GROUP, 30_000, 5_000).await;
    assert_eq!((ids(&second), attempts(&second)), (vec!["a1", "b2"], vec![2, 1]));
    for message in [&second[0], &second[1], &first[2]] {
        two.acknowledge(message).await;
    }
    assert_eq!(ids(&one.receive(5_000).await), ["a2"]);

    // What comes while nobody is there waits, over a restart too.
    sender.send_lite("d1", "d").await;
    server.restart().await;
    let (mut sender, mut one) = (server.peer("sender").await, server.peer("one").await);
    assert_eq!(one.sync(Action::CompleteAdd, &["*"]).await, Code::Ok);
    assert_eq!(ids(&one.receive(5_000).await), ["d1"]);
    // By name it is one of them again, where the group has not been: from its beginning.
    assert_eq!(one.sync(Action::CompleteAdd, &["d"]).await, Code::Ok);
    sender.send_lite("e1", "e").await;
    assert_eq!(ids(&one.receive(5_000).await), ["d1"]);
    assert!(one.receive(200).await.is_empty());
}

impl Peer {
    async fn acknowledge(&mut self, message: &Message) {
        let system = message.system_properties.as_ref().unwrap();
        let entry = AckMessageEntry {
            message_id: system.message_id.clone(),
            receipt_handle: system.receipt_handle().to_owned(),
            ..Default::default()
        };
        let request = self.request(AckMessageRequest {
            group: Some(resource(GROUP)),
            topic: Some(resource(TOPIC)),
            entries: vec![entry],
        });
        let answer = self.grpc.ack_message(request).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code(), Code::Ok);
    }
}

#[tokio::test]
async fn a_poll_that_waits_learns_that_everything_is_wanted_now_and_no_more() {
    let server = Server::start(Limits::default()).await;
    let (mut sender, mut one) = (server.peer("sender").await, server.peer("one").await);
    assert_eq!(one.sync(Action::CompleteAdd, &["a"]).await, Code::Ok);
    let mut waits = server.peer("one").await;
    let poll = tokio::spawn(async move { waits.receive(10_000).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(one.sync(Action::PartialAdd, &["*"]).await, Code::Ok);
    sender.send_lite("b1", "b").await;
    assert_eq!(ids(&poll.await.unwrap()), ["b1"]);
    // Publishers of other protocols reach lite topics by their paths.
    let (client, _inbox) = server.client().await;
    for (path, body) in [("T/c", "from afar"), ("T", "to no lite topic")] {
        let address = Address::mqtt(Bytes::copy_from_slice(path.as_bytes()));
        let draft = RecordDraft {
            now: server.broker().now(),
            ..RecordDraft::new(&address, "/", b"", body.as_bytes())
        };
        client.publish(vec![Publish::new(draft.encode().unwrap())]).await.unwrap().await.unwrap();
    }
    let came = one.receive(5_000).await;
    assert_eq!((names(&came), &came[0].body[..]), (vec!["c"], &b"from afar"[..]));
    assert_eq!(one.sync(Action::CompleteRemove, &[]).await, Code::Ok);
    sender.send_lite("b2", "b").await;
    assert!(one.receive(300).await.is_empty());
}

#[tokio::test]
async fn a_group_in_which_each_lite_topic_is_one_consumers_has_nobody_who_reads_everything() {
    let limits = Limits { exclusive_lite_groups: vec![GROUP.to_owned()], ..Limits::default() };
    let server = Server::start(limits).await;
    let mut peer = server.peer("one").await;
    assert_eq!(peer.sync(Action::CompleteAdd, &["*"]).await, Code::BadRequest);
}

#[tokio::test]
async fn everything_is_for_who_may_read_the_topic() {
    let server = Server::start(Limits::default()).await;
    server.peer("one").await.send_lite("a1", "a").await;
    let mut bounded = server.peer_of("two", "bounded").await;
    assert_eq!(bounded.sync(Action::CompleteAdd, &["*"]).await, Code::Forbidden);
}
