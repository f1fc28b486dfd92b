//! Lite topics: made when they are first used, read by those who subscribed them.

mod everything;

use bytes::Bytes;
use mainstem_broker::Publish;
use mainstem_schemas::{Address, RecordDraft};
use tokio::time::Instant;

use super::*;
use crate::codec::proto::{
    ChangeInvisibleDurationRequest, ClientType, LiteSubscriptionAction as Action, OffsetOption,
    Settings, Subscription, SyncLiteSubscriptionRequest, TelemetryCommand, offset_option,
    settings::PubSub, telemetry_command::Command,
};

fn lite(id: &str, name: &str) -> Message {
    let mut message = message(id, MessageType::Lite);
    message.system_properties.as_mut().unwrap().lite_topic = Some(name.to_owned());
    message
}

fn names(messages: &[Message]) -> Vec<&str> {
    let system = messages.iter().filter_map(|message| message.system_properties.as_ref());
    system.map(|system| system.lite_topic()).collect()
}

impl Peer {
    async fn sync(&mut self, action: Action, lites: &[&str]) -> Code {
        self.sync_from(action, lites, None).await
    }

    async fn sync_from(
        &mut self,
        action: Action,
        lites: &[&str],
        offset_option: Option<OffsetOption>,
    ) -> Code {
        let request = self.request(SyncLiteSubscriptionRequest {
            action: action as i32,
            topic: Some(resource(TOPIC)),
            group: Some(resource(GROUP)),
            lite_topic_set: lites.iter().map(|lite| (*lite).to_owned()).collect(),
            version: None,
            offset_option,
        });
        let answer = self.grpc.sync_lite_subscription(request).await.unwrap().into_inner();
        answer.status.unwrap().code()
    }

    async fn send_lite(&mut self, id: &str, name: &str) {
        self.send(lite(id, name)).await.unwrap();
    }

    async fn put_off(&mut self, message: &Message, ms: u64, suspend: bool) -> Code {
        let system = message.system_properties.as_ref().unwrap();
        let request = self.request(ChangeInvisibleDurationRequest {
            group: Some(resource(GROUP)),
            topic: Some(resource(TOPIC)),
            receipt_handle: system.receipt_handle().to_owned(),
            invisible_duration: Some(duration(ms)),
            suspend: Some(suspend),
            ..Default::default()
        });
        let answer = self.grpc.change_invisible_duration(request).await.unwrap().into_inner();
        answer.status.unwrap().code()
    }
}

async fn listed(server: &Server) -> Vec<String> {
    let (client, _inbox) = server.client().await;
    client.list_branches(TOPIC.to_owned(), None, 1000).await.unwrap()
}

fn attempts(messages: &[Message]) -> Vec<i32> {
    messages.iter().map(|m| m.system_properties.as_ref().unwrap().delivery_attempt()).collect()
}

#[tokio::test]
async fn a_lite_topic_is_made_when_it_is_first_used_and_read_by_who_subscribed_it() {
    let mut server = Server::start(Limits::default()).await;
    let (mut sender, mut reader) = (server.peer("sender").await, server.peer("reader").await);
    sender.send_lite("1", "a").await;
    sender.send_lite("2", "b").await;
    assert_eq!(listed(&server).await, ["a", "b"]);
    assert_eq!(reader.sync(Action::PartialAdd, &["a", "c"]).await, Code::Ok);
    assert_eq!(listed(&server).await, ["a", "b", "c"]);
    let got = reader.receive(5_000).await;
    assert_eq!((ids(&got), names(&got)), (vec!["1"], vec!["a"]));
    assert!(reader.receive(300).await.is_empty());
    // What came while it was away is there after a restart, and nothing else.
    sender.send_lite("3", "c").await;
    server.restart().await;
    let (mut sender, mut reader) = (server.peer("sender").await, server.peer("reader").await);
    assert_eq!(reader.sync(Action::CompleteAdd, &["a", "c"]).await, Code::Ok);
    assert_eq!(ids(&reader.receive(5_000).await), ["3"]);
    // A complete set is all there is.
    assert_eq!(reader.sync(Action::CompleteAdd, &["b"]).await, Code::Ok);
    sender.send_lite("4", "a").await;
    assert_eq!(ids(&reader.receive(5_000).await), ["2"]);
    assert!(reader.receive(300).await.is_empty());
    assert_eq!(reader.sync(Action::PartialRemove, &["b"]).await, Code::Ok);
    sender.send_lite("5", "b").await;
    assert!(reader.receive(300).await.is_empty());
    // The topic above has everything.
    let (mut other, settled) = (server.peer("other").await, &mut Vec::new());
    other.settings(ClientType::SimpleConsumer).await;
    while settled.len() < 5 {
        settled.extend(other.take(TOPIC, "whole", 10_000, 5_000).await);
    }
    assert_eq!(ids(settled), ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn one_poll_waits_for_all_of_them() {
    let server = Server::start(Limits::default()).await;
    let (mut sender, mut reader) = (server.peer("sender").await, server.peer("reader").await);
    let all: Vec<String> = (0..500).map(|number| format!("l{number}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(reader.sync(Action::CompleteAdd, &all).await, Code::Ok);
    for round in 0..3 {
        let began = Instant::now();
        let (got, ()) = tokio::join!(reader.receive(15_000), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            sender.send_lite("x", "l321").await;
        });
        assert_eq!(names(&got), ["l321"], "round {round}");
        let took = began.elapsed();
        assert!((300..3_000).contains(&took.as_millis()), "{took:?}");
    }
    // What several have comes in one answer.
    for name in ["l1", "l2", "l3"] {
        sender.send_lite("x", name).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(names(&reader.receive(5_000).await), ["l1", "l2", "l3"]);
}

#[tokio::test]
async fn each_lite_topic_is_read_in_order_and_holds_up_no_other() {
    let limits = Limits { invisible_ms_min: 100, ..Limits::default() };
    let server = Server::start(limits).await;
    let (mut sender, mut reader) = (server.peer("sender").await, server.peer("reader").await);
    assert_eq!(reader.sync(Action::PartialAdd, &["a", "b"]).await, Code::Ok);
    for id in ["1", "2"] {
        sender.send_lite(id, "a").await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let batch = reader.take(TOPIC, GROUP, 60_000, 5_000).await;
    assert_eq!(ids(&batch), ["1", "2"]);
    sender.send_lite("3", "a").await;
    sender.send_lite("other", "b").await;
    assert_eq!(ids(&reader.receive(5_000).await), ["other"]);
    assert!(reader.receive(300).await.is_empty(), "the batch is not settled");
    // Put off without an attempt, and with one.
    assert_eq!(reader.put_off(&batch[0], 0, true).await, Code::Ok);
    assert_eq!(reader.put_off(&batch[1], 0, false).await, Code::Ok);
    let again = reader.take(TOPIC, GROUP, 60_000, 5_000).await;
    assert_eq!((ids(&again), attempts(&again)), (vec!["1", "2", "3"], vec![1, 2, 1]));
    // The same for some time.
    assert_eq!(reader.put_off(&again[0], 500, true).await, Code::Ok);
    for message in &again[1..] {
        assert_eq!(reader.put_off(message, 0, true).await, Code::Ok);
    }
    assert!(reader.receive(200).await.is_empty(), "the first one rests");
    let again = reader.take(TOPIC, GROUP, 200, 5_000).await;
    assert_eq!((ids(&again), attempts(&again)), (vec!["1", "2", "3"], vec![1, 2, 1]));
    // A lease that ends is an attempt.
    let again = reader.take(TOPIC, GROUP, 60_000, 5_000).await;
    assert_eq!(attempts(&again), [2, 3, 2]);
}

#[tokio::test]
async fn members_share_a_lite_topic_or_the_newest_one_has_it() {
    for is_exclusive in [false, true] {
        let exclusive_lite_groups = if is_exclusive { vec![GROUP.to_owned()] } else { vec![] };
        let server = Server::start(Limits { exclusive_lite_groups, ..Limits::default() }).await;
        let mut sender = server.peer("sender").await;
        let (mut one, mut other) = (server.peer("one").await, server.peer("other").await);
        let mut told = one.settings(ClientType::LitePushConsumer).await;
        assert_eq!(one.sync(Action::PartialAdd, &["a"]).await, Code::Ok);
        assert_eq!(other.sync(Action::PartialAdd, &["a"]).await, Code::Ok);
        let mut counts = [0, 0];
        for id in 0..6 {
            sender.send_lite(&id.to_string(), "a").await;
            let (left, right) = tokio::join!(one.receive(400), other.receive(400));
            assert_eq!(left.len() + right.len(), 1, "{is_exclusive}");
            counts[0] += left.len();
            counts[1] += right.len();
        }
        if !is_exclusive {
            continue;
        }
        assert_eq!(counts, [0, 6]);
        let command = told.message().await.unwrap().unwrap().command;
        let Some(Command::NotifyUnsubscribeLiteCommand(lost)) = command else { panic!() };
        assert_eq!(lost.lite_topic, "a");
    }
}

#[tokio::test]
async fn quotas_and_names_have_their_codes() {
    let limits = Limits { lite_subscriptions_max: 2, lite_topics_max: 3, ..Limits::default() };
    let server = Server::start(limits).await;
    let mut peer = server.peer("one").await;
    assert_eq!(peer.sync(Action::PartialAdd, &["a", "b"]).await, Code::Ok);
    let quota = Code::LiteSubscriptionQuotaExceeded;
    assert_eq!(peer.sync(Action::PartialAdd, &["c"]).await, quota);
    assert_eq!(peer.sync(Action::PartialAdd, &["a", "b"]).await, Code::Ok);
    // What is refused changes nothing.
    assert_eq!(peer.sync(Action::CompleteAdd, &["b", "c", "d"]).await, quota);
    assert!(peer.send(lite("a", "a")).await.is_ok());
    assert_eq!(names(&peer.receive(5_000).await), ["a"]);
    assert_eq!(peer.sync(Action::CompleteAdd, &["b", "c"]).await, Code::Ok);
    for bad in ["", "a b", "a/b", &"x".repeat(65)] {
        assert_eq!(peer.sync(Action::PartialAdd, &[bad]).await, Code::IllegalLiteTopic, "{bad}");
        assert_eq!(peer.send(lite("m", bad)).await, Err(Code::IllegalLiteTopic), "{bad}");
    }
    assert_eq!(peer.send(lite("m", "d")).await, Err(Code::LiteTopicQuotaExceeded));
    assert_eq!(peer.sync(Action::CompleteAdd, &["d"]).await, Code::LiteTopicQuotaExceeded);
    assert!(peer.send(lite("m", "a")).await.is_ok());
}

#[tokio::test]
async fn subscriptions_that_come_together_are_bounded_and_so_are_those_of_all_clients() {
    let limits =
        Limits { lite_subscriptions_max: 3, lite_subscriptions_total_max: 5, ..Limits::default() };
    let server = Server::start(limits).await;
    let peer = server.peer("one").await;
    let syncs = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| {
        let mut peer =
            Peer { grpc: peer.grpc.clone(), client_id: peer.client_id.clone(), key: None };
        tokio::spawn(async move { peer.sync(Action::PartialAdd, &[name]).await })
    });
    let mut taken = 0;
    for sync in syncs {
        taken += usize::from(sync.await.unwrap() == Code::Ok);
    }
    assert_eq!((taken, listed(&server).await.len()), (3, 3));
    let quota = Code::LiteSubscriptionQuotaExceeded;
    let (mut one, mut two) = (peer, server.peer("two").await);
    assert_eq!(two.sync(Action::PartialAdd, &["x", "y", "z"]).await, quota);
    assert_eq!(two.sync(Action::PartialAdd, &["x", "y"]).await, Code::Ok);
    // What one gives up, others may have.
    assert_eq!(one.sync(Action::CompleteRemove, &[]).await, Code::Ok);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(two.sync(Action::PartialAdd, &["z"]).await, Code::Ok);
}

#[tokio::test]
async fn a_message_with_a_lite_topic_is_of_no_other_type() {
    let server = Server::start(Limits::default()).await;
    let mut peer = server.peer("one").await;
    let mut ordered = lite("m", "a");
    ordered.system_properties.as_mut().unwrap().message_group = Some("g".to_owned());
    let mut ranked = lite("m", "a");
    ranked.system_properties.as_mut().unwrap().priority = Some(1);
    for message in [ordered, ranked] {
        let sent = peer.send(message).await;
        assert_eq!(sent.err(), Some(Code::MessagePropertyConflictWithType));
    }
    assert!(listed(&server).await.is_empty());
}

#[tokio::test]
async fn what_another_client_takes_over_was_no_attempt() {
    let exclusive_lite_groups = vec![GROUP.to_owned()];
    let server = Server::start(Limits { exclusive_lite_groups, ..Limits::default() }).await;
    let mut sender = server.peer("sender").await;
    let (mut one, mut other) = (server.peer("one").await, server.peer("other").await);
    sender.send_lite("1", "a").await;
    for peer in [&mut one, &mut other] {
        assert_eq!(peer.sync(Action::PartialAdd, &["a"]).await, Code::Ok);
        let got = peer.take_kept().await;
        assert_eq!((ids(&got), attempts(&got)), (vec!["1"], vec![1]));
    }
}

#[tokio::test]
async fn an_empty_lite_topic_keeps_nothing_that_was_found_waiting() {
    let server = Server::start(Limits::default()).await;
    let (mut sender, mut reader) = (server.peer("sender").await, server.peer("reader").await);
    let mut other = server.peer("other").await;
    let all: Vec<String> = (0..400).map(|number| format!("l{number:03}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(reader.sync(Action::CompleteAdd, &all).await, Code::Ok);
    assert_eq!(other.sync(Action::CompleteAdd, &all).await, Code::Ok);
    for name in &all {
        sender.send_lite("x", name).await;
    }
    // Both are told of all of them, and the other one reads all but one.
    let mut got = 0;
    while got < 400 {
        got += other.receive(5_000).await.len();
    }
    let began = Instant::now();
    sender.send_lite("y", "l000").await;
    assert!(reader.receive(0).await.len() <= 1);
    assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_subscriber_begins_where_it_asks_to() {
    let server = Server::start(Limits::default()).await;
    let mut sender = server.peer("sender").await;
    for id in ["1", "2", "3"] {
        for name in ["tail", "max", "offset", "last"] {
            sender.send_lite(id, name).await;
        }
    }
    let option = |kind| Some(OffsetOption { offset_type: Some(kind) });
    let max = offset_option::Policy::Max as i32;
    for (name, option, expected) in [
        ("tail", option(offset_option::OffsetType::TailN(2)), &["2", "3"][..]),
        ("max", option(offset_option::OffsetType::Policy(max)), &[]),
        ("offset", option(offset_option::OffsetType::Offset(1)), &["2", "3"]),
        ("last", None, &["1", "2", "3"]),
        // The second time it goes on where it was.
        ("tail", option(offset_option::OffsetType::TailN(3)), &[]),
    ] {
        let mut reader = server.peer("reader").await;
        assert_eq!(reader.sync_from(Action::CompleteAdd, &[], None).await, Code::Ok);
        assert_eq!(reader.sync_from(Action::PartialAdd, &[name], option).await, Code::Ok);
        assert_eq!(ids(&reader.receive(400).await), expected, "{name}");
    }
}

#[tokio::test]
async fn what_other_protocols_send_comes_to_lite_topics() {
    let server = Server::start(Limits::default()).await;
    let mut reader = server.peer("reader").await;
    assert_eq!(reader.sync(Action::PartialAdd, &["dev1"]).await, Code::Ok);
    let (client, _inbox) = server.client().await;
    for topic in ["T/dev2", "T/dev1/temp", "T/dev1"] {
        let address = Address::mqtt(Bytes::from(topic));
        let draft = RecordDraft {
            now: server.broker().now(),
            ..RecordDraft::new(&address, "/", b"", topic.as_bytes())
        };
        let publish = Publish::new(draft.encode().unwrap());
        client.publish(vec![publish]).await.unwrap().await.unwrap();
    }
    let got = reader.receive(5_000).await;
    assert_eq!((names(&got), &got[0].body[..]), (vec!["dev1"], &b"T/dev1"[..]));
    assert!(reader.receive(300).await.is_empty());
}

#[tokio::test]
async fn an_idle_lite_topic_goes_and_comes_again() {
    let limits = Limits { lite_topic_idle_ms: 1_500, ..Limits::default() };
    let server = Server::start(limits).await;
    let (mut sender, mut reader) = (server.peer("sender").await, server.peer("reader").await);
    assert_eq!(reader.sync(Action::PartialAdd, &["kept"]).await, Code::Ok);
    sender.send_lite("1", "brief").await;
    sender.send_lite("1", "kept").await;
    assert_eq!(reader.receive(5_000).await.len(), 1);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(listed(&server).await, ["kept"]);
    // The sender knows that it may be gone.
    sender.send_lite("2", "brief").await;
    assert_eq!(reader.sync(Action::PartialAdd, &["brief"]).await, Code::Ok);
    assert_eq!(ids(&reader.receive(5_000).await), ["2"]);
}

#[tokio::test]
async fn a_client_that_did_not_say_what_it_is_gets_nothing_of_a_topic_with_lite_topics() {
    let server = Server::start(Limits::default()).await;
    let (mut sender, mut reader) = (server.peer("sender").await, server.peer("reader").await);
    sender.send_lite("1", "a").await;
    assert!(reader.take(TOPIC, GROUP, 10_000, 300).await.is_empty());
    reader.settings(ClientType::SimpleConsumer).await;
    assert_eq!(reader.take(TOPIC, GROUP, 10_000, 5_000).await.len(), 1);
}

impl Peer {
    /// What the group is given, for as long as the client is there.
    async fn take_kept(&mut self) -> Vec<Message> {
        let request = ReceiveMessageRequest { auto_renew: true, ..poll(TOPIC, GROUP, 5_000) };
        self.take_by(request).await
    }

    /// Says what kind of client it is; answers the stream on which it is told things.
    async fn settings(&mut self, kind: ClientType) -> tonic::Streaming<TelemetryCommand> {
        let subscription = Subscription { group: Some(resource(GROUP)), ..Default::default() };
        let settings = Settings {
            client_type: Some(kind as i32),
            pub_sub: Some(PubSub::Subscription(subscription)),
            ..Default::default()
        };
        let command = TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
        let (sender, commands) = tokio::sync::mpsc::channel(1);
        sender.send(command).await.unwrap();
        // Open for as long as the test.
        std::mem::forget(sender);
        let request = self.request(tokio_stream::wrappers::ReceiverStream::new(commands));
        let mut told = self.grpc.telemetry(request).await.unwrap().into_inner();
        let answer = told.message().await.unwrap().unwrap();
        let Some(Command::Settings(settings)) = answer.command else { panic!() };
        let Some(PubSub::Subscription(subscription)) = settings.pub_sub else { panic!() };
        let is_lite = kind != ClientType::SimpleConsumer;
        assert_eq!(subscription.fifo, Some(is_lite));
        assert_eq!(subscription.lite_subscription_quota, Some(2000));
        told
    }
}
