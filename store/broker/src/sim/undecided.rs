//! Records that wait for a decision: whose they are, where they stand, and who may end their waiting.

use mainstem_schemas::{Address, Position, RecordId};

use super::{desk::Desk, world::now};
use crate::{
    command::{ClientId, Command, HeldId, HeldPlace, Publish, Published, Terms},
    inbox,
    policy::Policy,
};

/// More than one look goes through.
const MANY: usize = 10_000;

/// Publishes records to the queue `q` that wait, and tells their ids.
fn hold(desk: &mut Desk, count: usize) -> Vec<HeldId> {
    let publish = desk.direct("q", b"x");
    let terms = Terms { undecided: true, ..Terms::default() };
    let mut ids = Vec::new();
    while ids.len() < count {
        let batch = vec![publish.clone().on(terms.clone()); (count - ids.len()).min(1000)];
        ids.extend(desk.publish(batch).into_iter().map(|published| {
            let Published::Held(id) = published else { panic!("{published:?}") };
            id
        }));
    }
    ids
}

fn look(desk: &mut Desk, from: Position, max: usize) -> (Vec<HeldPlace>, Option<Position>) {
    desk.ask(|client, reply| Command::Undecided { client, from, max, reply })
}

fn ids(places: &[HeldPlace]) -> Vec<HeldId> {
    places.iter().map(|(id, ..)| *id).collect()
}

#[test]
fn many_that_wait_are_listed_bit_by_bit_and_each_sees_its_own() {
    let mut desk = Desk::new(|_| {});
    let other = ClientId(2);
    let (outbox, _inbox) = inbox::pair(10, 1000);
    let attach = Command::Attach { client: other, namespace: "other".into(), outbox };
    desk.world.commands.push(attach);
    let held = hold(&mut desk, MANY);
    for loses_index in [None, Some(false), Some(true)] {
        if let Some(loses_index) = loses_index {
            desk.checkpoint();
            desk = desk.crash(loses_index);
        }
        let (mut found, mut next, mut looks) = (Vec::new(), Some(Position::default()), 0);
        while let Some(from) = next {
            let (some, then) = look(&mut desk, from, usize::MAX);
            assert!(some.len() < MANY / 2, "one look goes through {}", some.len());
            found.extend(some);
            (next, looks) = (then, looks + 1);
        }
        assert_eq!(ids(&found), held, "{looks} looks");
        let (some, next) = look(&mut desk, Position::default(), 10);
        assert_eq!((ids(&some).as_slice(), next), (&held[..10], Some(held[10].origin)));
        let (found, next) = look(&mut desk, held[MANY - 1].origin, 10);
        assert_eq!((ids(&found).as_slice(), next), (&held[MANY - 1..], None));
        for (_, position, size) in found {
            crate::open::read(&desk.world.reader, position, size).unwrap();
        }
    }
    let mut foreign = Vec::new();
    let mut next = Some(Position::default());
    desk.client = other;
    let (outbox, _inbox) = inbox::pair(10, 1000);
    let attach = Command::Attach { client: other, namespace: "other".into(), outbox };
    desk.world.commands.push(attach);
    while let Some(from) = next {
        let (some, then) = look(&mut desk, from, usize::MAX);
        foreign.extend(some);
        next = then;
    }
    assert_eq!(foreign, []);
    let asked = held[..3].to_vec();
    let found = desk.ask(|client, reply| Command::FindUndecided { client, ids: asked, reply });
    assert_eq!(found, []);
}

#[test]
fn nothing_is_read_to_list_what_waits() {
    let mut desk = Desk::new(|config| config.tail_cache_bytes = 0);
    let held = hold(&mut desk, 10);
    // The newest ones are in memory until then.
    let mut desk = desk.restart();
    // A body that cannot be read does not keep its place from being told.
    let damaged = held[5];
    desk.disk.flip("0000000000000000.seg", usize::try_from(damaged.origin.0).unwrap() + 60, 1);
    assert_eq!(ids(&look(&mut desk, Position::default(), 100).0), held);
    // It is published by nobody, and forgotten by whom it belongs to.
    let decide = |publish, record| {
        move |client, reply| Command::Decide { client, id: damaged, record, publish, reply }
    };
    assert!(!desk.ask(decide(true, None)));
    assert!(!desk.ask(decide(false, Some(RecordId([0; 16])))), "it may be another's");
    assert!(desk.ask(decide(false, None)));
    assert_eq!(look(&mut desk, Position::default(), 100).0.len(), 9);
}

#[test]
fn those_that_still_wait_are_found_where_they_were_moved() {
    let mut desk = Desk::new(|config| config.checkpoint_bytes = 64 << 10);
    desk.declare("q", Policy::default());
    let held = hold(&mut desk, 5);
    let decide = |publish, id| {
        move |client, reply| Command::Decide { client, id, record: None, publish, reply }
    };
    assert!(desk.ask(decide(true, held[0])));
    assert!(desk.ask(decide(false, held[1])));
    assert!(!desk.ask(decide(true, held[1])), "it waits no more");
    desk.turn_over();
    let mut delayed = held[3];
    delayed.due = now();
    for _ in 0..2 {
        let asked = vec![held[4], held[0], held[1], delayed, held[2]];
        let found = desk.ask(|client, reply| Command::FindUndecided { client, ids: asked, reply });
        assert_eq!(ids(&found), [held[4], held[2]]);
        for (id, position, size) in found {
            assert!(position > id.origin, "it was moved");
            crate::open::read(&desk.world.reader, position, size).unwrap();
        }
        desk = desk.rebuilt();
    }
    assert_eq!(desk.ready("q"), 1);
}

#[test]
fn only_who_knows_a_records_id_recalls_it() {
    let mut desk = Desk::new(|_| {});
    desk.declare("q", Policy::default());
    let address = Address::amqp("".into(), "q".into());
    let mut draft = desk.draft(&address, b"x");
    (draft.id, draft.deliver_at) = (RecordId([1; 16]), now().plus(1000));
    let publish = Publish::new(draft.encode().unwrap());
    let published = desk.publish(vec![publish]);
    let [Published::Held(id)] = published.as_slice() else { panic!("{published:?}") };
    let id = *id;
    let recall = |desk: &mut Desk, record| {
        let record = Some(RecordId(record));
        desk.ask(|client, reply| Command::Decide { client, id, record, publish: false, reply })
    };
    assert!(!recall(&mut desk, [2; 16]), "it is another");
    let mut desk = desk.crash(true);
    assert!(!recall(&mut desk, [0; 16]), "it is another");
    assert!(recall(&mut desk, [1; 16]));
    assert!(!recall(&mut desk, [1; 16]), "it is gone");
    desk.pass(2000);
    desk.turns(5);
    assert_eq!(desk.ready("q"), 0);
    desk.rebuilt();
}
