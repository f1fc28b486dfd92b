//! Topics below a topic, and being told that there is something.

use bytes::Bytes;
use mainstem_schemas::{Address, Settlement, Verdict};

use super::desk::Desk;
use crate::{
    command::{
        BranchTerms, Claim, Command, Fetch, GroupRef, Publish, Published, Start, TopicCommand,
    },
    error::Refusal,
    inbox::Delivery,
    policy::DeliveryPolicy,
};

const IDLE_MS: u64 = 60_000;

fn open(desk: &mut Desk, name: &str, max: usize) -> Result<(), Refusal> {
    let (name, terms) = (name.to_owned(), BranchTerms { idle_ms: Some(IDLE_MS), max });
    desk.ask(|client, reply| Command::Topic {
        client,
        ask: TopicCommand::OpenBranch { name, terms, reply },
    })
    .map(drop)
}

fn topic(desk: &mut Desk, topic: &str) {
    let topic = topic.to_owned();
    let create = true;
    desk.ask(|client, reply| Command::OpenTopic { client, topic, create, reply }).unwrap();
}

fn group(desk: &mut Desk, topic: &str) -> GroupRef {
    let (topic, group) = (topic.to_owned(), "g".to_owned());
    let policy = DeliveryPolicy { batched: true, ..DeliveryPolicy::default() };
    let opened =
        desk.ask(|client, reply| Command::OpenGroup { client, topic, group, policy, reply });
    opened.unwrap()
}

fn send(desk: &mut Desk, topic: &str, body: &[u8]) -> u32 {
    let address = Address::http(Bytes::copy_from_slice(topic.as_bytes()));
    let record = desk.draft(&address, body).encode().unwrap();
    match desk.publish(vec![Publish::new(record)]).pop() {
        Some(Published::Taken { readers, .. }) => readers,
        other => panic!("{other:?}"),
    }
}

fn names(desk: &mut Desk, after: Option<&str>, max: usize) -> Vec<String> {
    let (topic, after) = ("t".to_owned(), after.map(str::to_owned));
    desk.ask(|client, reply| Command::Topic {
        client,
        ask: TopicCommand::Branches { topic, after, max, reply },
    })
}

fn fetch(desk: &mut Desk, group: GroupRef, max: usize, wait_ms: u64) -> Vec<Delivery> {
    let fetch = Fetch { group, max, claim: Claim::Client, wait_ms };
    desk.ask(|client, reply| Command::Fetch { client, fetch, reply })
}

/// Time passes, a second at a time.
fn wait(desk: &mut Desk, ms: u64) {
    for _ in 0..ms / 1000 {
        desk.pass(1000);
        desk.turns(3);
    }
}

#[test]
fn a_branch_keeps_its_own_path_beside_the_topic_and_is_listed() {
    let mut desk = Desk::new(|_| {});
    topic(&mut desk, "t");
    for name in ["t/b", "t/a", "t/a/x"] {
        open(&mut desk, name, 3).unwrap();
        open(&mut desk, name, 3).unwrap();
    }
    assert!(matches!(open(&mut desk, "t/d", 3), Err(Refusal::Limit { max: 3, .. })));
    // The topic keeps all of them; a branch only what is at its very path.
    for (path, readers) in [("t/a", 2), ("t/a/x", 2), ("t/a/y", 1), ("t/b", 2), ("t", 1)] {
        assert_eq!(send(&mut desk, path, b"x"), readers, "{path}");
    }
    let mut desk = desk.rebuilt();
    assert_eq!(names(&mut desk, None, 9), ["a", "a/x", "b"]);
    assert_eq!(names(&mut desk, None, 1), ["a"]);
    assert_eq!(names(&mut desk, Some("a"), 9), ["a/x", "b"]);
    let at = group(&mut desk, "t/a");
    let got = fetch(&mut desk, at, 9, 0);
    assert_eq!(got.len(), 1);
}

#[test]
fn an_idle_branch_goes_when_it_is_read_and_nobody_waits() {
    let mut desk = Desk::new(|_| {});
    topic(&mut desk, "t");
    for name in ["t/idle", "t/unread", "t/waited", "t/busy"] {
        open(&mut desk, name, 9).unwrap();
        send(&mut desk, name, b"x");
    }
    let (unread, waited) = (group(&mut desk, "t/unread"), group(&mut desk, "t/waited"));
    let got = fetch(&mut desk, waited, 9, 0);
    let batch = vec![Settlement { id: got[0].id, verdict: Verdict::Accept }];
    desk.ask(|client, reply| Command::Settle { client, batch, reply: Some(reply) });
    let waits = Fetch { group: waited, max: 0, claim: Claim::Client, wait_ms: 5 * IDLE_MS };
    let told = desk.begin(|client, reply| Command::Fetch { client, fetch: waits, reply });
    wait(&mut desk, IDLE_MS / 2);
    send(&mut desk, "t/busy", b"x");
    wait(&mut desk, IDLE_MS / 2 + 2000);
    assert_eq!(names(&mut desk, None, 9), ["busy", "unread", "waited"]);
    wait(&mut desk, IDLE_MS / 2);
    assert_eq!(names(&mut desk, None, 9), ["unread", "waited"]);
    // Those that were kept go when what kept them is over.
    drop(told);
    let got = fetch(&mut desk, unread, 9, 0);
    let batch = vec![Settlement { id: got[0].id, verdict: Verdict::Accept }];
    desk.ask(|client, reply| Command::Settle { client, batch, reply: Some(reply) });
    wait(&mut desk, 2000);
    assert_eq!(names(&mut desk, None, 9), ["waited"]);
    wait(&mut desk, 5 * IDLE_MS);
    assert_eq!(names(&mut desk, None, 9), [""; 0]);
    let mut desk = desk.rebuilt();
    assert_eq!(names(&mut desk, None, 9), [""; 0]);
}

#[test]
fn who_is_to_be_told_takes_nothing_and_a_batch_keeps_the_next_one_back() {
    let mut desk = Desk::new(|_| {});
    topic(&mut desk, "t");
    let group = group(&mut desk, "t");
    let watch = Fetch { group, max: 0, claim: Claim::Client, wait_ms: 60_000 };
    let mut told = desk.begin(|client, reply| Command::Fetch { client, fetch: watch, reply });
    desk.turns(3);
    assert!(told.try_recv().is_err());
    for body in [b"1", b"2", b"3"] {
        send(&mut desk, "t", body);
    }
    assert_eq!(desk.wait_for(told).0.len(), 0);
    let two = fetch(&mut desk, group, 2, 0);
    assert_eq!(two.iter().map(|one| one.attempt).collect::<Vec<_>>(), [1, 1]);
    let mut told = desk.begin(|client, reply| Command::Fetch { client, fetch: watch, reply });
    desk.settle(two[1].id, Verdict::Accept);
    desk.turns(3);
    assert!(told.try_recv().is_err(), "one of the batch is out");
    assert_eq!(fetch(&mut desk, group, 9, 10).len(), 0);
    desk.give_back(two[0].id, Verdict::Release);
    assert_eq!(desk.wait_for(told).0.len(), 0);
    let rest = fetch(&mut desk, group, 9, 0);
    let bodies: Vec<_> = rest.iter().map(|one| one.record.as_ref().unwrap().data()).collect();
    assert_eq!(bodies, ["1", "3"]);
    // A move needs no settling.
    let (topic, name, policy) = ("t".to_owned(), "g".to_owned(), DeliveryPolicy::default());
    let moved = desk.ask(|client, reply| {
        let to = Start::First;
        let ask = TopicCommand::MoveGroup { topic, group: name, to, policy, reply };
        Command::Topic { client, ask }
    });
    assert_eq!(fetch(&mut desk, moved.unwrap().group, 9, 0).len(), 3);
}

#[test]
fn a_branch_stays_for_what_it_was_sent_though_that_is_kept_no_longer() {
    let mut desk = Desk::new(|config| config.topic_retention_ms = 1000);
    topic(&mut desk, "t");
    open(&mut desk, "t/a", 9).unwrap();
    wait(&mut desk, IDLE_MS / 2);
    assert_eq!(send(&mut desk, "t/a", b"x"), 2);
    wait(&mut desk, IDLE_MS / 2 + 5000);
    assert_eq!(names(&mut desk, None, 9), ["a"]);
    wait(&mut desk, IDLE_MS);
    assert_eq!(names(&mut desk, None, 9), [""; 0]);
}

#[test]
fn a_branch_that_was_never_sent_to_goes_in_time_whatever_leaves_memory() {
    let mut desk = Desk::new(|_| {});
    topic(&mut desk, "t");
    for name in ["t/a", "t/b"] {
        open(&mut desk, name, 9).unwrap();
    }
    let pass = |desk: &mut Desk, ms| {
        for _ in 0..ms / (IDLE_MS / 6) {
            wait(desk, IDLE_MS / 6);
            desk.checkpoint();
            desk.turns(3);
        }
    };
    pass(&mut desk, IDLE_MS / 2);
    open(&mut desk, "t/b", 9).unwrap();
    pass(&mut desk, IDLE_MS / 2);
    wait(&mut desk, 2000);
    assert_eq!(names(&mut desk, None, 9), ["b"], "it was used again");
    pass(&mut desk, IDLE_MS / 2);
    wait(&mut desk, 2000);
    assert_eq!(names(&mut desk, None, 9), [""; 0]);
    // Who was there before a restart has as long to come back.
    open(&mut desk, "t/c", 9).unwrap();
    pass(&mut desk, IDLE_MS / 2);
    let mut desk = desk.restart();
    pass(&mut desk, IDLE_MS / 3);
    assert_eq!(names(&mut desk, None, 9), ["c"]);
    pass(&mut desk, 2 * IDLE_MS);
    assert_eq!(names(&mut desk, None, 9), [""; 0]);
}
