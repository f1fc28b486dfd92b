//! Topics: what they go by, who reads them, and how they end.

use mainstem_broker::{
    BranchTerms, Broker, GroupRef, GroupsOf, Keeps, Refusal, Sought, TopicTerms,
};
use mainstem_schemas::Offset;

use super::*;

fn ranked(body: &str, priority: u8) -> Record {
    let address = Address::rocketmq("t".into(), Bytes::new());
    let mut draft = RecordDraft::new(&address, "/", b"", body.as_bytes());
    draft.flags = flags::DURABLE;
    draft.now = UnixMillis(1 << 50);
    draft.priority = priority;
    draft.encode().unwrap()
}

async fn group(client: &Client, name: &str) -> GroupRef {
    let policy = DeliveryPolicy::default();
    client.open_group("t".to_owned(), name.to_owned(), policy).await.unwrap()
}

/// What a group is given, settled.
async fn given(client: &Client, group: GroupRef, max: usize) -> Vec<String> {
    let fetch = Fetch { group, max, claim: Claim::Client, wait_ms: 20 };
    let mut deliveries = client.fetch(fetch).await.unwrap();
    client.resolve(&mut deliveries).await.unwrap();
    settle(client, &deliveries, Verdict::Accept).await;
    bodies(&deliveries)
}

fn priorities(priority_max: u8) -> TopicTerms {
    TopicTerms { priority_max, keeps: None }
}

#[tokio::test]
async fn a_topic_with_priorities_gives_the_highest_first_to_each_group() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, _inbox) = login(&broker).await;
    assert_eq!(client.declare_topic("t".to_owned(), priorities(3)).await, Ok(true));
    let early = group(&client, "early").await;
    for (body, priority) in [("a0", 0), ("b2", 2), ("c0", 0), ("d200", 200), ("e2", 2)] {
        publish(&client, ranked(body, priority)).await;
    }
    assert_eq!(given(&client, early, 2).await, ["d200", "b2"]);
    let young = group(&client, "young").await;
    publish(&client, ranked("f1", 1)).await;
    assert_eq!(given(&client, early, 9).await, ["e2", "f1", "a0", "c0"]);
    assert_eq!(given(&client, young, 9).await, ["d200", "b2", "e2", "f1", "a0", "c0"]);
    // By offset there is no order to read in.
    let ranked_topic = Refusal::Ranked("t".to_owned());
    assert_eq!(client.seek("t".to_owned(), Start::First).await, Err(ranked_topic.clone()));
    let found = client.find_group("t".to_owned(), "early".to_owned()).await;
    assert_eq!(found, Err(ranked_topic.clone()));
    let moving = async |client: &Client, to| {
        let policy = DeliveryPolicy::default();
        client.move_group("t".to_owned(), "early".to_owned(), to, policy).await
    };
    assert_eq!(moving(&client, Start::Offset(Offset(1))).await, Err(ranked_topic));
    let again = moving(&client, Start::First).await.unwrap().group;
    assert_eq!(given(&client, again, 2).await, ["d200", "b2"]);
    broker.stop().await;
    drop((client, broker));

    let broker = open(&dir);
    let (client, _inbox) = login(&broker).await;
    let again = group(&client, "early").await;
    assert_eq!(given(&client, again, 9).await, ["e2", "f1", "a0", "c0"]);
    let end = moving(&client, Start::Next).await.unwrap().group;
    publish(&client, ranked("g1", 1)).await;
    assert_eq!(given(&client, end, 9).await, ["g1"]);
    broker.stop().await;
}

/// Waits for what a topic keeps to be this many records.
async fn until_kept(broker: &Broker, records: u64) {
    for _ in 0..500 {
        if broker.show_topic("/", "t").await.unwrap().unwrap().records == records {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", broker.show_topic("/", "t").await);
}

#[tokio::test]
async fn what_a_topic_keeps_can_be_changed_and_all_priorities_are_bounded() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, _inbox) = login(&broker).await;
    client.declare_topic("t".to_owned(), priorities(1)).await.unwrap();
    let reader = group(&client, "g").await;
    for at in 10..30 {
        publish(&client, ranked(&at.to_string(), at % 2)).await;
    }
    let size = broker.show_topic("/", "t").await.unwrap().unwrap().bytes / 20;
    let keeps = Keeps { age_max_ms: None, bytes_max: Some(size * 6) };
    let terms = TopicTerms { priority_max: 0, keeps: Some(keeps) };
    assert_eq!(client.declare_topic("t".to_owned(), terms).await, Ok(false));
    until_kept(&broker, 6).await;
    assert_eq!(given(&client, reader, 9).await, ["25", "27", "29", "24", "26", "28"]);
    // A group that comes now finds the topic no more as it began.
    let late = group(&client, "late").await;
    assert_eq!(given(&client, late, 9).await, [""; 0]);
    broker.stop().await;
    drop((client, broker));

    // The same by the log alone.
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let broker = open(&dir);
    let (client, _inbox) = login(&broker).await;
    let shown = broker.show_topic("/", "t").await.unwrap().unwrap();
    let terms = TopicTerms { priority_max: 1, keeps: Some(keeps) };
    assert_eq!((shown.terms, shown.records, shown.groups), (terms, 6, 2));
    publish(&client, ranked("30", 0)).await;
    publish(&client, ranked("31", 1)).await;
    assert_eq!(given(&client, group(&client, "late").await, 9).await, ["31", "30"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_topic_goes_with_all_below_it_and_a_group_by_itself() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, _inbox) = login(&broker).await;
    client.open_topic("t".to_owned(), true).await.unwrap();
    client.open_topic("tt".to_owned(), true).await.unwrap();
    let terms = BranchTerms { idle_ms: None, max: 1000 };
    for at in 0..600 {
        client.open_branch(format!("t/{at}"), terms).await.unwrap();
    }
    client.open_branch("tt/0".to_owned(), terms).await.unwrap();
    for number in 0..3 {
        publish(&client, ranked(&number.to_string(), 0)).await;
    }
    let (one, other) = (group(&client, "one").await, group(&client, "other").await);
    assert_eq!(given(&client, one, 2).await, ["0", "1"]);
    let at = |topic: &str, group: Option<&str>| GroupsOf {
        topic: (!topic.is_empty()).then(|| topic.to_owned()),
        group: group.map(str::to_owned),
    };
    let groups = async |of| {
        let page = broker.list_groups("/", of, None).await.unwrap();
        let shown = page.items.into_iter();
        shown.map(|it| (it.topic, it.group, it.floor.0, it.unsettled)).collect::<Vec<_>>()
    };
    let is = |group: &str, floor, unsettled| ("t".to_owned(), group.to_owned(), floor, unsettled);
    assert_eq!(groups(at("t", None)).await, [is("one", 2, 1), is("other", 0, 3)]);
    assert_eq!(groups(at("", Some("other"))).await, [is("other", 0, 3)]);
    assert_eq!(groups(at("tt", None)).await, []);
    assert_eq!(client.delete_group("t".to_owned(), "one".to_owned()).await, Ok(true));
    assert_eq!(client.delete_group("t".to_owned(), "one".to_owned()).await, Ok(false));
    assert_eq!(given(&client, one, 2).await, [""; 0]);
    assert_eq!(given(&client, group(&client, "one").await, 1).await, ["0"]);

    let waits = client.fetch(Fetch { group: other, max: 0, claim: Claim::Client, wait_ms: 60_000 });
    client.delete_topic("t".to_owned()).await.unwrap();
    assert!(waits.await.unwrap().is_empty(), "who waits is told at once");
    let gone = Err(Refusal::NoTopic("t".to_owned()));
    assert_eq!(client.delete_topic("t".to_owned()).await, gone);
    assert_eq!(client.list_branches("t".to_owned(), None, 9).await, Ok(Vec::new()));
    assert_eq!(client.find_exchange("t".to_owned()).await, Ok(None));
    let left = broker.list_topics("/", None).await.unwrap().items;
    assert_eq!(left.iter().map(|topic| &topic.name).collect::<Vec<_>>(), ["tt"]);
    assert_eq!(client.list_branches("tt".to_owned(), None, 9).await, Ok(vec!["0".to_owned()]));
    let anew = client.open_topic("t".to_owned(), true).await.unwrap();
    let Sought { queue, next, .. } = client.seek("t".to_owned(), Start::Next).await.unwrap();
    assert_eq!((queue, next), (anew, Offset(0)));
    broker.stop().await;
}
