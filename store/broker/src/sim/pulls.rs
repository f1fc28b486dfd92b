//! Many readers by place at one topic, and clients that take over from each other.

use bytes::Bytes;
use mainstem_schemas::{Address, Offset, QueueId, Verdict};
use tokio::sync::oneshot;

use super::desk::Desk;
use crate::{
    command::{
        BranchTerms, Claim, ClientId, Command, Fetch, GroupRef, Publish, Pull, TopicCommand,
    },
    inbox::{self, Delivery},
    policy::DeliveryPolicy,
};

fn topic(desk: &mut Desk, topic: &str) -> QueueId {
    let topic = topic.to_owned();
    let create = true;
    desk.ask(|client, reply| Command::OpenTopic { client, topic, create, reply }).unwrap()
}

fn branch(desk: &mut Desk, name: &str) {
    let (name, terms) = (name.to_owned(), BranchTerms { idle_ms: Some(60_000), max: 9_999 });
    let ask = |client, reply| {
        let ask = TopicCommand::OpenBranch { name, terms, reply };
        Command::Topic { client, ask }
    };
    desk.ask(ask).unwrap();
}

fn group(desk: &mut Desk, topic: &str) -> GroupRef {
    let (topic, group) = (topic.to_owned(), "g".to_owned());
    let policy = DeliveryPolicy { batched: true, ..DeliveryPolicy::default() };
    let ask = |client, reply| Command::OpenGroup { client, topic, group, policy, reply };
    desk.ask(ask).unwrap()
}

fn send(desk: &mut Desk, topic: &str) {
    let address = Address::http(Bytes::copy_from_slice(topic.as_bytes()));
    let record = desk.draft(&address, b"x").encode().unwrap();
    desk.publish(vec![Publish::new(record)]);
}

fn pull(desk: &mut Desk, queue: QueueId) -> oneshot::Receiver<Vec<Delivery>> {
    let pull = Pull { queue, from: Offset(0), max: 1, wait_ms: 20_000 };
    desk.begin(|client, reply| {
        let ask = TopicCommand::Pull { pull, reply };
        Command::Topic { client, ask }
    })
}

fn fetch(desk: &mut Desk, group: GroupRef, claim: Claim) -> Vec<Delivery> {
    let fetch = Fetch { group, max: 9, claim, wait_ms: 0 };
    desk.ask(|client, reply| Command::Fetch { client, fetch, reply })
}

#[test]
fn pulls_that_nobody_waits_for_do_not_pile_up() {
    let mut desk = Desk::new(|_| {});
    let queue = topic(&mut desk, "t");
    let waits = pull(&mut desk, queue);
    for _ in 0..30 {
        let left: Vec<_> = (0..100).map(|_| pull(&mut desk, queue)).collect();
        desk.turn();
        drop(left);
    }
    let waiting = desk.world.commit.waiting_pulls(queue);
    assert!(waiting <= 200, "{waiting}");
    send(&mut desk, "t");
    assert_eq!(desk.wait_for(waits).0.len(), 1);
}

#[test]
fn what_many_pulls_wait_for_is_given_out_a_part_in_each_turn() {
    const PULLS: usize = 5000;
    let mut desk = Desk::new(|_| {});
    let queue = topic(&mut desk, "t");
    let mut waiting: Vec<_> = (0..PULLS).map(|_| pull(&mut desk, queue)).collect();
    desk.turns(2);
    send(&mut desk, "t");
    for _ in 0..20 {
        let before = waiting.len();
        waiting.retain_mut(|answer| match answer.try_recv() {
            Ok(got) => {
                assert_eq!(got.len(), 1);
                false
            }
            Err(_) => true,
        });
        // It took two turns until the record was down.
        assert!(before - waiting.len() <= 2 * 1024, "{} at once", before - waiting.len());
        desk.turn();
    }
    assert_eq!(waiting.len(), 0);
    assert_eq!(desk.world.commit.waiting_pulls(queue), 0);
    desk.world.check_wakes().unwrap();
}

#[test]
fn branches_that_come_and_go_leave_nothing_behind_and_a_leaving_client_wakes_none() {
    const BRANCHES: usize = 400;
    let mut desk = Desk::new(|_| {});
    topic(&mut desk, "t");
    let names: Vec<String> = (0..BRANCHES).map(|number| format!("t/{number}")).collect();
    for name in &names {
        branch(&mut desk, name);
    }
    let groups: Vec<GroupRef> = names.iter().map(|name| group(&mut desk, name)).collect();
    for _ in 0..6 {
        for (name, group) in names.iter().zip(&groups) {
            send(&mut desk, name);
            let got = fetch(&mut desk, *group, Claim::Client);
            assert_eq!(got.len(), 1);
            desk.settle(got[0].id, Verdict::Accept);
        }
        desk.checkpoint();
        desk.turns(50);
    }
    let queues = &desk.world.commit.state.queues;
    let (resident, idle) = (queues.len(), queues.idle_len());
    assert!(resident < 10, "{resident}");
    assert!(idle < 1500, "{idle}");
    let client = desk.client;
    desk.world.commands.push(Command::Detach { client, reply: None });
    desk.world.turn().unwrap();
    assert_eq!(desk.world.commit.state.queues.len(), resident);
}

#[test]
fn what_is_handed_out_after_a_branch_left_memory_has_a_name_of_its_own() {
    let mut desk = Desk::new(|_| {});
    topic(&mut desk, "t");
    branch(&mut desk, "t/a");
    let group = group(&mut desk, "t/a");
    send(&mut desk, "t/a");
    let before = fetch(&mut desk, group, Claim::Client);
    desk.give_back(before[0].id, Verdict::Unread);
    desk.checkpoint();
    desk.turns(50);
    assert!(desk.world.commit.state.queues.peek(group.queue).is_none());
    let after = fetch(&mut desk, group, Claim::Client);
    assert_eq!(before[0].id.offset, after[0].id.offset);
    assert_ne!(before[0].id, after[0].id);
}

#[test]
fn a_batch_that_cannot_be_read_lets_the_next_one_go() {
    let mut desk = Desk::new(|_| {});
    topic(&mut desk, "t");
    let group = group(&mut desk, "t");
    send(&mut desk, "t");
    let got = fetch(&mut desk, group, Claim::Client);
    send(&mut desk, "t");
    let watch = Fetch { group, max: 0, claim: Claim::Client, wait_ms: 60_000 };
    let mut told = desk.begin(|client, reply| Command::Fetch { client, fetch: watch, reply });
    desk.turns(3);
    assert!(told.try_recv().is_err(), "the batch is out");
    let (client, id) = (desk.client, got[0].id);
    desk.world.commands.push(Command::Unreadable { client, id });
    desk.turns(3);
    assert!(told.try_recv().is_ok(), "nobody is told");
}

#[test]
fn who_takes_a_lease_over_for_as_long_as_it_is_there_has_it() {
    let mut desk = Desk::new(|_| {});
    topic(&mut desk, "t");
    let group = group(&mut desk, "t");
    send(&mut desk, "t");
    let first = desk.client;
    let got = fetch(&mut desk, group, Claim::Lease { ms: 60_000 });
    let [second, third] = [ClientId(2), ClientId(3)];
    let mut inboxes = Vec::new();
    for client in [second, third] {
        let (outbox, inbox) = inbox::pair(1 << 20, 1 << 30);
        inboxes.push(inbox);
        desk.world.commands.push(Command::Attach { client, namespace: "/".into(), outbox });
    }
    desk.client = second;
    let (id, claim) = (got[0].id, Claim::Client);
    desk.ask(|client, reply| Command::Renew { client, id, claim, reply }).unwrap();
    desk.client = third;
    for (leaving, comes_back) in [(first, 0), (second, 1)] {
        desk.world.commands.push(Command::Detach { client: leaving, reply: None });
        desk.turns(3);
        assert_eq!(fetch(&mut desk, group, claim).len(), comes_back, "{leaving:?}");
    }
}
