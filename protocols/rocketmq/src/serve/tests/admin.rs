//! What operators ask of topics, groups and offsets.

mod desk;

use prost_types::Timestamp;

use self::desk::{Operator, code};
use super::{transactions::listen, *};
use crate::{
    codec::{
        operator::{
            CreateGroupRequest, CreateTopicRequest, DeleteGroupRequest, DeleteTopicRequest,
            DeliveryOrder, DescribeGroupRequest, DescribeTopicRequest, GroupTerms,
            ListConsumersRequest, ListGroupsRequest, ListLiteTopicsRequest, ListOffsetsRequest,
            ListTopicsRequest, RedriveDeadLettersRequest, ResetOffsetRequest, Retention,
            UpdateGroupRequest, UpdateTopicRequest,
            reset_offset_request::{Place, To},
        },
        proto::{
            ChangeLogLevelRequest, ClientType, ExponentialBackoff, Language, QueryRouteRequest,
            RetryPolicy, Settings, Subscription, SubscriptionEntry, TelemetryCommand, Ua,
            admin_client::AdminClient, change_log_level_request::Level, retry_policy::Strategy,
            settings::PubSub, telemetry_command::Command,
        },
    },
    normalize::timestamp,
    serve::Front,
};

fn typed(topic: &str, kind: MessageType) -> CreateTopicRequest {
    CreateTopicRequest { topic: topic.to_owned(), r#type: kind as i32, retention: None }
}

fn named<T: Default>(set: impl FnOnce(&mut T)) -> T {
    let mut request = T::default();
    set(&mut request);
    request
}

#[tokio::test]
async fn a_topic_is_made_with_its_type_changed_listed_and_deleted() {
    let mut server = Server::start(Limits { auto_create_topics: false, ..Limits::default() }).await;
    let mut manager = Operator::of(&server, "manager").await;
    let mut peer = server.peer("a").await;
    let absent = peer.send(message("m", MessageType::Normal)).await;
    assert_eq!(absent.unwrap_err(), Code::TopicNotFound);
    let retention = Retention { age: Some(duration(60_000)), bytes: Some(1 << 20) };
    let fifo = CreateTopicRequest { retention: Some(retention), ..typed(TOPIC, MessageType::Fifo) };
    assert_eq!(manager.create_topic(fifo.clone()).await, Code::Ok);
    assert_eq!(manager.create_topic(fifo).await, Code::PreconditionFailed);
    let wrong = peer.send(message("m", MessageType::Normal)).await;
    assert_eq!(wrong.unwrap_err(), Code::MessagePropertyConflictWithType);
    let shown = manager.describe_topic(TOPIC).await.unwrap();
    assert_eq!((shown.r#type(), shown.retention), (MessageType::Fifo, Some(retention)));

    let update = UpdateTopicRequest {
        topic: TOPIC.to_owned(),
        r#type: Some(MessageType::Normal as i32),
        retention: None,
    };
    assert_eq!(manager.update_topic(update).await, Code::Ok);
    for id in ["one", "two"] {
        peer.send(message(id, MessageType::Normal)).await.unwrap();
    }
    assert_eq!(manager.create_topic(typed("U", MessageType::Unspecified)).await, Code::Ok);
    server.restart().await;
    let mut manager = Operator::of(&server, "manager").await;
    let shown = manager.describe_topic(TOPIC).await.unwrap();
    assert_eq!((shown.r#type(), shown.retention), (MessageType::Normal, Some(retention)));
    let place = (shown.messages, shown.first_offset, shown.next_offset, shown.groups);
    assert_eq!(place, (2, Some(0), Some(2), 0));
    let request = manager.request(ListTopicsRequest::default());
    let listed = manager.grpc.list_topics(request).await.unwrap().into_inner();
    let listed: Vec<_> =
        listed.topics.iter().map(|topic| (topic.name.as_str(), topic.r#type())).collect();
    assert_eq!(listed, [(TOPIC, MessageType::Normal), ("U", MessageType::Unspecified)]);
    // Producers are told the type.
    let mut peer = server.peer("a").await;
    let endpoints = crate::codec::proto::Endpoints {
        scheme: crate::codec::proto::AddressScheme::IPv4 as i32,
        addresses: vec![crate::codec::proto::Address { host: "127.0.0.1".into(), port: 8081 }],
    };
    let route = QueryRouteRequest { topic: Some(resource(TOPIC)), endpoints: Some(endpoints) };
    let request = peer.request(route);
    let route = peer.grpc.query_route(request).await.unwrap().into_inner();
    assert_eq!(route.message_queues[0].accept_message_types, [MessageType::Normal as i32]);

    let delete = |topic: &str| DeleteTopicRequest { topic: topic.to_owned() };
    assert_eq!(manager.delete_topic(delete(TOPIC)).await, Code::Ok);
    assert_eq!(manager.delete_topic(delete(TOPIC)).await, Code::TopicNotFound);
    let gone = peer.send(message("m", MessageType::Normal)).await;
    assert_eq!(gone.unwrap_err(), Code::TopicNotFound);
    // With its type, and what it kept.
    assert_eq!(manager.create_topic(typed(TOPIC, MessageType::Fifo)).await, Code::Ok);
    assert_eq!(manager.describe_topic(TOPIC).await.unwrap().messages, 0);
}

#[tokio::test]
async fn a_topic_of_type_priority_stays_one() {
    let server = Server::start(Limits::default()).await;
    let mut manager = Operator::of(&server, "manager").await;
    assert_eq!(manager.create_topic(typed(TOPIC, MessageType::Priority)).await, Code::Ok);
    let mut peer = server.peer("a").await;
    for (id, priority) in [("low", 0), ("high", 5)] {
        let mut message = message(id, MessageType::Priority);
        message.system_properties.as_mut().unwrap().priority = Some(priority);
        peer.send(message).await.unwrap();
    }
    let update = |kind: MessageType| UpdateTopicRequest {
        topic: TOPIC.to_owned(),
        r#type: Some(kind as i32),
        retention: None,
    };
    assert_eq!(manager.update_topic(update(MessageType::Fifo)).await, Code::PreconditionFailed);
    assert_eq!(manager.update_topic(update(MessageType::Priority)).await, Code::Ok);
    assert_eq!(ids(&peer.receive(5_000).await), ["high", "low"]);
    let shown = manager.describe_topic(TOPIC).await.unwrap();
    assert_eq!((shown.r#type(), shown.first_offset), (MessageType::Priority, None));
    let to = |to| ResetOffsetRequest {
        group: GROUP.to_owned(),
        topic: TOPIC.to_owned(),
        lite_topic: String::new(),
        to: Some(to),
    };
    assert_eq!(manager.reset(to(To::Offset(0))).await, Err(Code::Unsupported));
    assert_eq!(manager.reset(to(To::Place(Place::First as i32))).await, Ok(None));
    assert_eq!(ids(&peer.receive(5_000).await), ["high", "low"]);
}

/// A consumer's settings, as the server answers them.
async fn settings(peer: &mut Peer, language: Language) -> Settings {
    let entry = SubscriptionEntry { topic: Some(resource(TOPIC)), expression: None };
    let subscription = Subscription {
        group: Some(resource(GROUP)),
        subscriptions: vec![entry],
        ..Default::default()
    };
    let settings = Settings {
        client_type: Some(ClientType::PushConsumer as i32),
        user_agent: Some(Ua { language: language as i32, ..Default::default() }),
        pub_sub: Some(PubSub::Subscription(subscription)),
        ..Default::default()
    };
    let command = TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
    let request = peer.request(tokio_stream::iter([command]));
    let mut answers = peer.grpc.telemetry(request).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().command {
        Some(Command::Settings(settings)) => settings,
        other => panic!("{other:?}"),
    }
}

fn terms(order: DeliveryOrder, max_attempts: i32) -> Option<GroupTerms> {
    let backoff = ExponentialBackoff {
        initial: Some(duration(2_000)),
        max: Some(duration(5_000)),
        multiplier: 2.0,
    };
    let strategy = Some(Strategy::ExponentialBackoff(backoff));
    let retry = Some(RetryPolicy { max_attempts, strategy });
    Some(GroupTerms { order: order as i32, retry, exclusive_lite: None })
}

#[tokio::test]
async fn a_group_is_served_as_an_operator_says() {
    let mut server = Server::start(Limits { invisible_ms_min: 100, ..Limits::default() }).await;
    let mut manager = Operator::of(&server, "manager").await;
    let group = GROUP.to_owned();
    let create = CreateGroupRequest { group, terms: terms(DeliveryOrder::Orderly, 1) };
    let request = manager.request(create.clone());
    assert_eq!(code(manager.grpc.create_group(request).await), Code::Ok);
    let request = manager.request(create);
    assert_eq!(code(manager.grpc.create_group(request).await), Code::PreconditionFailed);
    server.restart().await;
    let mut manager = Operator::of(&server, "manager").await;
    let mut peer = server.peer("a").await;
    peer.send(message("poison", MessageType::Normal)).await.unwrap();
    for (language, delays) in [(Language::Java, 1), (Language::NodeJs, 0)] {
        let settings = settings(&mut peer, language).await;
        let Some(PubSub::Subscription(subscription)) = &settings.pub_sub else { panic!() };
        assert_eq!(subscription.fifo, Some(true));
        let backoff = settings.backoff_policy.unwrap();
        assert_eq!(backoff.max_attempts, 1);
        match backoff.strategy.unwrap() {
            Strategy::CustomizedBackoff(listed) => {
                assert_eq!(listed.next, vec![duration(2_000); delays], "{language:?}");
            }
            Strategy::ExponentialBackoff(growing) => {
                assert_eq!((growing.initial, delays), (Some(duration(2_000)), 0), "{language:?}");
            }
        }
    }
    // Once, and then it is dead.
    assert_eq!(peer.take(TOPIC, GROUP, 200, 5_000).await.len(), 1);
    assert_eq!(peer.take("%DLQ%g", "undertaker", 10_000, 5_000).await.len(), 1);

    let retry = Some(RetryPolicy { max_attempts: 3, strategy: None });
    let update = Some(GroupTerms { retry, ..GroupTerms::default() });
    let request = manager.request(UpdateGroupRequest { group: GROUP.to_owned(), terms: update });
    assert_eq!(code(manager.grpc.update_group(request).await), Code::Ok);
    let request = manager.request(DescribeGroupRequest { group: GROUP.to_owned() });
    let shown = manager.grpc.describe_group(request).await.unwrap().into_inner();
    let is = (shown.is_described, shown.consumers);
    assert_eq!(is, (true, 1), "{shown:?}");
    let said =
        GroupTerms { exclusive_lite: Some(false), ..terms(DeliveryOrder::Orderly, 3).unwrap() };
    assert_eq!(shown.terms, Some(said));

    let request = manager.request(UpdateGroupRequest { group: "new".to_owned(), terms: None });
    assert_eq!(code(manager.grpc.update_group(request).await), Code::ConsumerGroupNotFound);
    let request = manager.request(DescribeGroupRequest { group: "new".to_owned() });
    assert_eq!(code(manager.grpc.describe_group(request).await), Code::ConsumerGroupNotFound);
    let bad = terms(DeliveryOrder::Orderly, -1);
    let request = manager.request(CreateGroupRequest { group: "new".to_owned(), terms: bad });
    assert_eq!(code(manager.grpc.create_group(request).await), Code::BadRequest);
}

#[tokio::test]
async fn a_group_goes_with_how_far_it_has_read_when_nobody_is_in_it() {
    let server = Server::start(Limits::default()).await;
    let mut manager = Operator::of(&server, "manager").await;
    let mut peer = server.peer("a").await;
    peer.send(message("m", MessageType::Normal)).await.unwrap();
    let mut lite = message("l", MessageType::Lite);
    lite.system_properties.as_mut().unwrap().lite_topic = Some("x".to_owned());
    peer.send(lite).await.unwrap();
    let (client, _inbox) = server.client().await;
    for topic in ["T", "T/x"] {
        let (topic, policy) = (topic.to_owned(), mainstem_broker::DeliveryPolicy::default());
        client.open_group(topic, GROUP.to_owned(), policy).await.unwrap();
    }
    settings(&mut peer, Language::Java).await;
    let delete = || DeleteGroupRequest { group: GROUP.to_owned() };
    let request = manager.request(delete());
    assert_eq!(code(manager.grpc.delete_group(request).await), Code::PreconditionFailed);
    let request = manager.request(ListGroupsRequest {});
    let listed = manager.grpc.list_groups(request).await.unwrap().into_inner();
    assert_eq!(listed.groups, [GROUP]);

    let goodbye = peer.request(NotifyClientTerminationRequest::default());
    peer.grpc.notify_client_termination(goodbye).await.unwrap();
    let request = manager.request(delete());
    assert_eq!(code(manager.grpc.delete_group(request).await), Code::Ok);
    for topic in ["T", "T/x"] {
        assert_eq!(client.find_group(topic.to_owned(), GROUP.to_owned()).await, Ok(None));
    }
    let request = manager.request(delete());
    assert_eq!(code(manager.grpc.delete_group(request).await), Code::ConsumerGroupNotFound);
}

#[tokio::test]
async fn who_consumes_and_how_far_is_told() {
    let server = Server::start(Limits::default()).await;
    let mut manager = Operator::of(&server, "manager").await;
    let mut monitor = Operator::of(&server, "monitor").await;
    let mut peer = server.peer("job").await;
    for id in ["m0", "m1", "m2"] {
        peer.send(message(id, MessageType::Normal)).await.unwrap();
    }
    settings(&mut peer, Language::Java).await;
    let _producer = listen(&mut server.peer("producer").await, TOPIC).await;
    let mut request = poll(TOPIC, GROUP, 5_000);
    (request.batch_size, request.invisible_duration) = (2, Some(duration(60_000)));
    assert_eq!(peer.take_by(request).await.len(), 2);
    let group = || GROUP.to_owned();
    let request = monitor.request(ListConsumersRequest { group: group() });
    let seen = monitor.grpc.list_consumers(request).await.unwrap().into_inner().consumers;
    let [job] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((job.client_id.as_str(), job.user.as_str()), ("job", "anybody"));
    assert_eq!(job.client_type(), ClientType::PushConsumer);
    assert_eq!(job.subscriptions.len(), 1);
    assert!(job.address.starts_with("127.0.0.1:"), "{job:?}");
    // Who only manages sees its own.
    let request = manager.request(ListConsumersRequest { group: group() });
    assert_eq!(manager.grpc.list_consumers(request).await.unwrap().into_inner().consumers, []);

    let request = manager.request(ListOffsetsRequest { group: group(), ..Default::default() });
    let offsets = manager.grpc.list_offsets(request).await.unwrap().into_inner().offsets;
    let [at] = &offsets[..] else { panic!("{offsets:?}") };
    assert_eq!((at.topic.as_str(), at.offset), (TOPIC, Some(0)));
    assert_eq!((at.lag, at.in_flight, at.polls), (3, 2, 0));
}

#[tokio::test]
async fn a_group_is_moved_by_place_time_and_offset() {
    let server = Server::start(Limits::default()).await;
    let mut manager = Operator::of(&server, "manager").await;
    let mut peer = server.peer("a").await;
    let mut times = Vec::new();
    for id in ["m0", "m1", "m2"] {
        times.push(server.now_ms());
        peer.send(message(id, MessageType::Normal)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(peer.receive(5_000).await.len(), 3);
    let to = |to| ResetOffsetRequest {
        group: GROUP.to_owned(),
        topic: TOPIC.to_owned(),
        lite_topic: String::new(),
        to,
    };
    let time = |ms| To::Timestamp(timestamp(mainstem_schemas::UnixMillis(ms)));
    for (place, offset, comes) in [
        (To::Place(Place::First as i32), 0, &["m0", "m1", "m2"][..]),
        (time(times[1]), 1, &["m1", "m2"]),
        (To::Offset(2), 2, &["m2"]),
        (To::Place(Place::Last as i32), 3, &[]),
    ] {
        assert_eq!(manager.reset(to(Some(place))).await, Ok(Some(offset)));
        assert_eq!(ids(&peer.receive(300).await), comes);
    }
    for (request, refused) in [
        (to(None), Code::BadRequest),
        (to(Some(To::Place(7))), Code::BadRequest),
        (to(Some(To::Offset(4))), Code::IllegalOffset),
        (to(Some(To::Offset(-1))), Code::IllegalOffset),
        (to(Some(To::Timestamp(Timestamp { seconds: -9, nanos: 0 }))), Code::BadRequest),
        (ResetOffsetRequest { topic: "U".into(), ..to(Some(To::Offset(0))) }, Code::TopicNotFound),
        (
            ResetOffsetRequest { lite_topic: "x".into(), ..to(Some(To::Offset(0))) },
            Code::TopicNotFound,
        ),
    ] {
        assert_eq!(manager.reset(request).await, Err(refused));
    }
}

#[tokio::test]
async fn dead_letters_are_sent_to_their_topics_again_each_once() {
    let limits = Limits { attempts_max: 1, invisible_ms_min: 100, ..Limits::default() };
    let mut server = Server::start(limits).await;
    let mut manager = Operator::of(&server, "manager").await;
    let redrive =
        |messages_max| RedriveDeadLettersRequest { group: GROUP.to_owned(), messages_max };
    assert_eq!(manager.redrive(redrive(0)).await, (Code::TopicNotFound, 0));
    let mut peer = server.peer("a").await;
    for id in ["p0", "p1", "p2"] {
        let mut poison = message(id, MessageType::Normal);
        poison.system_properties.as_mut().unwrap().tag = Some("tag".to_owned());
        poison.user_properties.insert("n".to_owned(), id.to_owned());
        peer.send(poison).await.unwrap();
    }
    assert_eq!(peer.take(TOPIC, GROUP, 200, 5_000).await.len(), 3);
    assert_eq!(peer.take("%DLQ%g", "undertaker", 60_000, 5_000).await.len(), 3);
    assert_eq!(manager.redrive(redrive(2)).await, (Code::Ok, 2));
    server.restart().await;
    let mut manager = Operator::of(&server, "manager").await;
    let mut peer = server.peer("a").await;
    let again = peer.receive(5_000).await;
    assert_eq!(ids(&again), ["p0", "p1"]);
    let first = again.first().unwrap();
    let system = first.system_properties.as_ref().unwrap();
    assert_eq!((system.tag(), system.delivery_attempt()), ("tag", 1));
    assert_eq!((first.user_properties["n"].as_str(), &first.body[..]), ("p0", &b"body"[..]));
    assert_eq!(manager.redrive(redrive(0)).await, (Code::Ok, 1));
    assert_eq!(manager.redrive(redrive(0)).await, (Code::Ok, 0));
    assert_eq!(ids(&peer.receive(5_000).await), ["p2"]);
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_sent_stops_no_other() {
    let limits = Limits { attempts_max: 1, invisible_ms_min: 100, ..Limits::default() };
    let server = Server::start(limits).await;
    let mut peer = server.peer("a").await;
    for (id, topic) in [("refused", "other"), ("sent", "mine")] {
        let mut poison = message(id, MessageType::Normal);
        poison.topic = Some(resource(topic));
        peer.send(poison).await.unwrap();
        assert_eq!(peer.take(topic, "mine-g", 200, 5_000).await.len(), 1);
        assert_eq!(peer.take("%DLQ%mine-g", "undertaker", 60_000, 5_000).await.len(), 1);
    }
    let redrive = || RedriveDeadLettersRequest { group: "mine-g".to_owned(), messages_max: 0 };
    let mut bounded = Operator::of(&server, "bounded-manager").await;
    for sent in [1, 0] {
        let request = bounded.request(redrive());
        let told = bounded.grpc.redrive_dead_letters(request).await.unwrap().into_inner();
        let counts = (told.messages, told.refused);
        assert_eq!((told.status.unwrap().code(), counts), (Code::Forbidden, (sent, 1)));
    }
    let mut manager = Operator::of(&server, "manager").await;
    assert_eq!(manager.redrive(redrive()).await, (Code::Ok, 1));
    assert_eq!(manager.redrive(redrive()).await, (Code::Ok, 0));
}

#[tokio::test]
async fn what_was_said_is_kept_by_who_does_not_know_it_yet() {
    let server = Server::start(Limits::default()).await;
    let limits = Arc::new(Limits::default());
    for topic in ["one", "two"] {
        let stop = CancellationToken::new();
        let front = Front::new(server.broker().clone(), limits.clone(), stop, |_| Ok(()));
        let alone = front.terms.alone().await.unwrap();
        front.say_of_topic(&alone, ("/", topic), Some(MessageType::Fifo)).await.unwrap();
        assert_eq!(front.type_of("/", "one"), Some(MessageType::Fifo));
    }
}

#[tokio::test]
async fn of_those_who_make_a_topic_at_once_one_does() {
    let server = Server::start(Limits::default()).await;
    let mut making = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut manager = Operator::of(&server, "manager").await;
        making.spawn(async move { manager.create_topic(typed("U", MessageType::Fifo)).await });
    }
    let made = making.join_all().await;
    assert_eq!(made.iter().filter(|code| **code == Code::Ok).count(), 1, "{made:?}");
}

#[tokio::test]
async fn lite_topics_are_listed() {
    let server = Server::start(Limits::default()).await;
    let mut manager = Operator::of(&server, "manager").await;
    let (client, _inbox) = server.client().await;
    client.open_topic(TOPIC.to_owned(), true).await.unwrap();
    let terms = mainstem_broker::BranchTerms { idle_ms: None, max: 2000 };
    for at in 0..1001 {
        client.open_branch(format!("{TOPIC}/{at:04}"), terms).await.unwrap();
    }
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let topic = TOPIC.to_owned();
        let request = manager.request(ListLiteTopicsRequest { topic, page_token });
        let page = manager.grpc.list_lite_topics(request).await.unwrap().into_inner();
        all.extend(page.lite_topics);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(all, (0..1001).map(|at| format!("{at:04}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_may_not_is_refused_and_changes_nothing() {
    let server = Server::start(Limits::default()).await;
    let mut manager = Operator::of(&server, "manager").await;
    assert_eq!(manager.create_topic(typed("other", MessageType::Normal)).await, Code::Ok);
    let (client, _inbox) = server.client().await;
    let policy = mainstem_broker::DeliveryPolicy::default();
    for (topic, group) in [("other", "other-group"), ("other", "mine-group")] {
        client.open_group(topic.to_owned(), group.to_owned(), policy.clone()).await.unwrap();
    }
    // With no name, and with one that manages nothing.
    for (key, refused) in [("", Code::Unauthorized), ("anybody", Code::Forbidden)] {
        let mut nobody = Operator::of(&server, key).await;
        for answered in nobody.ask_everything("other", "other-group").await {
            assert_eq!(answered, refused, "{key}");
        }
    }
    // With rights at other things only.
    let mut bounded = Operator::of(&server, "bounded-manager").await;
    let answers = bounded.change_everything("other", "other-group").await;
    assert_eq!(answers, [Code::Forbidden; 8]);
    let read = bounded.ask_reset("other", "mine-group").await;
    assert_eq!(read, Code::Forbidden, "the group alone is not enough");
    assert_eq!(bounded.create_topic(typed("mine", MessageType::Normal)).await, Code::Ok);
    assert_eq!(bounded.describe_topic("other").await.unwrap_err(), Code::Forbidden);
    let request = bounded.request(DescribeGroupRequest { group: "other-group".to_owned() });
    assert_eq!(code(bounded.grpc.describe_group(request).await), Code::Forbidden);
    let request = bounded.request(ListConsumersRequest { group: "other-group".to_owned() });
    assert_eq!(code(bounded.grpc.list_consumers(request).await), Code::Forbidden);
    let request = bounded.request(ListTopicsRequest::default());
    let topics = bounded.grpc.list_topics(request).await.unwrap().into_inner().topics;
    assert_eq!(topics.iter().map(|topic| &topic.name[..]).collect::<Vec<_>>(), ["mine"]);
    let request = bounded.request(ListGroupsRequest {});
    let groups = bounded.grpc.list_groups(request).await.unwrap().into_inner().groups;
    assert_eq!(groups, ["mine-group"]);
    assert_eq!(manager.describe_topic("other").await.unwrap().groups, 2);
    assert_eq!(manager.describe_topic("fresh").await.unwrap_err(), Code::TopicNotFound);
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let server = Server::start(Limits::default()).await;
    let mut manager = Operator::of(&server, "manager").await;
    for name in ["", "a/b", "a.b", "TBW102", &"x".repeat(128)] {
        assert_eq!(
            manager.create_topic(typed(name, MessageType::Normal)).await,
            Code::IllegalTopic,
            "{name}"
        );
        assert_eq!(manager.describe_topic(name).await.unwrap_err(), Code::IllegalTopic, "{name}");
    }
    for name in ["", "a/b", "mainstem.redrive", "CID_RMQ_SYS_x", &"x".repeat(121)] {
        let group = name.to_owned();
        let request = manager.request(CreateGroupRequest { group, terms: None });
        let refused = code(manager.grpc.create_group(request).await);
        assert_eq!(refused, Code::IllegalConsumerGroup, "{name}");
    }
    let odd = CreateTopicRequest { r#type: 99, ..typed(TOPIC, MessageType::Normal) };
    assert_eq!(manager.create_topic(odd).await, Code::BadRequest);
    let retention = Some(Retention { age: None, bytes: Some(0) });
    let odd = CreateTopicRequest { retention, ..typed(TOPIC, MessageType::Normal) };
    assert_eq!(manager.create_topic(odd).await, Code::BadRequest);
    let unknown = named::<UpdateTopicRequest>(|it| it.topic = "absent".to_owned());
    assert_eq!(manager.update_topic(unknown).await, Code::TopicNotFound);
    let request = manager.request(DescribeTopicRequest { topic: "absent".to_owned() });
    let answer = manager.grpc.describe_topic(request).await.unwrap().into_inner().status.unwrap();
    assert!(answer.message.starts_with("CODE: 17"), "{answer:?}");
}

#[tokio::test]
async fn the_level_of_the_log_is_an_administrators() {
    let server = Server::start(Limits::default()).await;
    let port = server.running.as_ref().unwrap().port;
    let mut grpc = AdminClient::connect(format!("http://127.0.0.1:{port}")).await.unwrap();
    for (key, refused) in [
        ("", Some(tonic::Code::Unauthenticated)),
        ("monitor", Some(tonic::Code::PermissionDenied)),
        ("administrator", None),
    ] {
        let operator = Operator::of(&server, key).await;
        let request = operator.request(ChangeLogLevelRequest { level: Level::Debug as i32 });
        let answer = grpc.change_log_level(request).await;
        assert_eq!(answer.as_ref().err().map(tonic::Status::code), refused, "{key}");
        if let Ok(answer) = answer {
            assert_eq!(answer.into_inner().remark, "the log level is debug");
        }
        let request = operator.request(ChangeLogLevelRequest { level: 9 });
        assert!(grpc.change_log_level(request).await.is_err());
    }
}
