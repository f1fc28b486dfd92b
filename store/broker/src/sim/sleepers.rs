//! Very many sessions whose holders are away: what they take, and how their time ends.

use mainstem_schemas::{Address, Filter, Verdict};

use super::desk::Desk;
use crate::{
    command::{ClientId, Command, OpenSession, Publish, SessionOpened, Subscribe},
    inbox::{self, Notice},
};

fn open(desk: &mut Desk, id: &str, expiry_s: u32) -> SessionOpened {
    let open = OpenSession { id: id.to_owned(), clean: false, expiry_s, limit: 1000 };
    desk.ask(|client, reply| Command::OpenSession { client, open, reply }).unwrap()
}

fn subscribe(desk: &mut Desk, filter: &str) {
    let filter = Filter::parse(filter).unwrap();
    let subscribe = Subscribe { filter, share: None, options: 0, live: false };
    desk.ask(|client, reply| Command::Subscribe { client, subscribe, reply }).unwrap();
}

fn close(desk: &mut Desk) {
    desk.ask(|client, reply| Command::CloseSession { client, expiry_s: None, parcel: None, reply });
}

fn publish(desk: &mut Desk, topic: &str) {
    let address = Address::http(topic.to_owned().into());
    let record = desk.draft(&address, topic.as_bytes()).encode().unwrap();
    desk.publish(vec![Publish::new(record)]);
}

/// The topics of what a session gets that comes back.
fn received(desk: &mut Desk, id: &str) -> Vec<String> {
    assert!(open(desk, id, u32::MAX).present);
    desk.turns(5);
    let mut topics = Vec::new();
    for notice in desk.notices() {
        let Notice::Delivery(delivery) = notice else { continue };
        let record = delivery.record.as_ref().expect("it is in the tail cache");
        topics.push(String::from_utf8_lossy(&record.data()).into_owned());
        desk.give_back(delivery.id, Verdict::Accept);
    }
    close(desk);
    topics
}

fn resident(desk: &Desk) -> usize {
    desk.world.commit.state.queues.len()
}

/// Its queue is in the index; what comes for it fetches it, and it goes again.
#[test]
fn what_a_sleeping_session_waits_on_leaves_memory_with_the_next_checkpoint() {
    let mut desk = Desk::new(|_| {});
    for id in ["a", "b"] {
        open(&mut desk, id, u32::MAX);
        subscribe(&mut desk, &format!("t/{id}"));
        close(&mut desk);
    }
    // Somebody is there while the checkpoint is written, and goes then.
    open(&mut desk, "c", u32::MAX);
    subscribe(&mut desk, "t/c");
    assert_eq!(resident(&desk), 3);
    desk.checkpoint();
    desk.turns(5);
    assert_eq!(resident(&desk), 1);
    close(&mut desk);
    desk.checkpoint();
    desk.turns(5);
    assert_eq!(resident(&desk), 0);
    publish(&mut desk, "t/a");
    publish(&mut desk, "t/c");
    assert_eq!(resident(&desk), 2);
    desk.checkpoint();
    desk.turns(5);
    assert_eq!(resident(&desk), 0);
    publish(&mut desk, "t/a");
    assert_eq!(received(&mut desk, "a"), ["t/a", "t/a"]);
    assert_eq!(received(&mut desk, "b"), [""; 0]);
    assert_eq!(received(&mut desk, "c"), ["t/c"]);
    desk.rebuilt();
}

/// Sessions come back with all their subscriptions, each its own, whatever their names are.
#[test]
fn sessions_come_back_with_what_is_theirs() {
    let mut desk = Desk::new(|_| {});
    let names = ["", "a", "a\0", "a\0b", "aa", "b", "\u{7f}", "ä"];
    for (number, name) in names.iter().enumerate() {
        open(&mut desk, name, u32::MAX);
        for filter in 0..number {
            subscribe(&mut desk, &format!("{number}/{filter}"));
        }
        close(&mut desk);
    }
    desk.checkpoint();
    let mut desk = desk.restart();
    for (number, name) in names.iter().enumerate() {
        let opened = open(&mut desk, name, u32::MAX);
        assert!(opened.present, "{name:?}");
        let mut found: Vec<String> = opened
            .subscriptions
            .iter()
            .map(|one| String::from_utf8_lossy(&one.subscribe.filter.render()).into_owned())
            .collect();
        found.sort_unstable();
        let wanted: Vec<_> = (0..number).map(|filter| format!("{number}/{filter}")).collect();
        assert_eq!(found, wanted, "{name:?}");
        close(&mut desk);
    }
    desk.rebuilt();
}

/// Their time ends in all namespaces, some of them with each tick; whoever asks finds it ended before.
#[test]
fn very_many_sessions_end_bit_by_bit() {
    const MANY: usize = 12_000;
    let mut desk = Desk::new(|_| {});
    for (client, namespace) in [(2, "one"), (3, "two")] {
        desk.client = ClientId(client);
        let (outbox, _inbox) = inbox::pair(1, 1);
        let (client, namespace) = (desk.client, namespace.into());
        desk.world.commands.push(Command::Attach { client, namespace, outbox });
        for number in 0..MANY {
            open(&mut desk, &format!("s{number:05}"), 60);
            close(&mut desk);
        }
    }
    let count = |desk: &Desk| {
        let spaces = desk.world.commit.state.namespaces.values();
        spaces.map(|space| space.sessions.len()).sum::<usize>()
    };
    assert_eq!(count(&desk), 2 * MANY);
    desk.pass(61_000);
    desk.turn();
    let left = count(&desk);
    assert!(left > 0 && left < MANY, "{left} left");
    desk.client = ClientId(3);
    assert!(!open(&mut desk, &format!("s{:05}", MANY - 1), 60).present, "its time is over");
    for _ in 0..2 {
        desk.pass(1100);
        desk.turns(3);
    }
    assert_eq!(count(&desk), 1, "but for the one that is back");
}

/// What is not asked for is written down although it is not much, once nothing else is to be done.
#[test]
fn queues_of_sleeping_sessions_leave_memory_when_nothing_happens() {
    let mut desk = Desk::new(|_| {});
    for number in 0..5000 {
        open(&mut desk, &number.to_string(), u32::MAX);
        subscribe(&mut desk, &format!("t/{number}"));
        close(&mut desk);
    }
    assert_eq!(resident(&desk), 5000);
    desk.settle_down();
    assert_eq!(resident(&desk), 0);
}

/// A restart applies again what the index on the disk does not have; of small entries very many would go
/// into the bytes between two checkpoints.
#[test]
fn the_index_is_on_the_disk_before_very_many_entries_wait_for_it() {
    const BATCH: usize = 1 << 14;
    let mut desk = Desk::new(|config| {
        config.segment_bytes = 64 << 20;
        config.checkpoint_bytes = 1 << 40;
    });
    open(&mut desk, "s", u32::MAX);
    subscribe(&mut desk, "t");
    let address = Address::http("t".to_owned().into());
    for batch in 0..64 {
        assert_eq!(desk.world.commit.flushed().0, 0, "after {batch} batches");
        let one = |_| Publish::new(desk.draft(&address, b"").encode().unwrap());
        let all = (0..BATCH).map(one).collect();
        desk.publish(all);
    }
    desk.turns(5);
    assert!(desk.world.commit.flushed().0 > 0);
}
