//! Records are found by their keys, wherever they went.

use bytes::Bytes;
use mainstem_schemas::Address;

use super::{desk::Desk, world::now};
use crate::command::{Command, HeldId, Publish, Published, Terms};

fn key(number: usize) -> Bytes {
    Bytes::from(format!("key {number}"))
}

/// A record of the topic `t` with a key, due in some time.
fn keyed(desk: &mut Desk, number: usize, due_ms: u64, undecided: bool) -> Published {
    let address = Address::http("t/a".into());
    let body = number.to_string();
    let mut draft = desk.draft(&address, body.as_bytes());
    if due_ms > 0 {
        draft.deliver_at = now().plus(due_ms);
    }
    let publish = Publish::new(draft.encode().unwrap());
    let terms = Terms { keys: vec![key(number)], undecided, ..Terms::default() };
    desk.publish(vec![publish.on(terms)]).remove(0)
}

/// The records that are found by a key.
fn find(desk: &mut Desk, number: usize) -> Vec<String> {
    let look_up = |client, reply| {
        let (topic, key, max) = ("t".to_owned(), key(number), 10);
        Command::Lookup { client, topic, key, max, reply }
    };
    let found = desk.ask(look_up).unwrap();
    let read = |(_, position, size)| {
        let (record, _) = crate::open::read(&desk.world.reader, position, size).unwrap();
        String::from_utf8(record.data().to_vec()).unwrap()
    };
    found.into_iter().map(read).collect()
}

/// A store with the topic.
fn topic() -> Desk {
    let mut desk = Desk::new(|config| config.checkpoint_bytes = 64 << 10);
    let topic = "t".to_owned();
    desk.ask(|client, reply| Command::OpenTopic { client, topic, create: true, reply }).unwrap();
    desk
}

#[test]
fn a_moved_record_is_found_by_its_key() {
    let mut desk = topic();
    for number in 0..20 {
        keyed(&mut desk, number, 0, false);
    }
    desk.turn_over();
    for rebuilds in [true, false, true] {
        for number in 0..20 {
            assert_eq!(find(&mut desk, number), [number.to_string()], "rebuilds {rebuilds}");
        }
        desk = if rebuilds { desk.rebuilt() } else { desk.crash(false) };
    }
}

#[test]
fn a_record_that_was_held_back_is_found_by_its_key_when_it_is_let_go() {
    for moves in [false, true] {
        let mut desk = topic();
        keyed(&mut desk, 0, 1, false);
        for number in 1..10 {
            keyed(&mut desk, number, 3_600_000, false);
        }
        let Published::Held(HeldId { due, origin }) = keyed(&mut desk, 10, 0, true) else {
            panic!("it is undecided")
        };
        assert_eq!(find(&mut desk, 5), [""; 0], "nobody sees it yet");
        if moves {
            desk.turn_over();
            desk = desk.rebuilt();
        }
        let id = HeldId { due, origin };
        let decide =
            |client, reply| Command::Decide { client, id, record: None, publish: true, reply };
        assert!(desk.ask(decide));
        desk.pass(3_600_000);
        desk.settle_down();
        for number in 0..11 {
            assert_eq!(find(&mut desk, number), [number.to_string()], "moves {moves}");
        }
        desk.turn_over();
        let mut desk = desk.rebuilt();
        for number in 0..11 {
            assert_eq!(find(&mut desk, number), [number.to_string()], "moves {moves}");
        }
    }
}

#[test]
fn a_record_that_was_due_before_it_was_written_is_found_by_its_key() {
    let mut desk = topic();
    let address = Address::http("t/a".into());
    let mut draft = desk.draft(&address, b"1");
    draft.deliver_at = now().plus(1);
    let publish = Publish::new(draft.encode().unwrap());
    let publish = publish.on(Terms { keys: vec![key(1)], ..Terms::default() });
    let permit = desk.permit();
    let batch = vec![publish];
    let _answer = desk.begin(|client, reply| Command::Publish { client, batch, permit, reply });
    desk.world.turn().unwrap();
    desk.pass(1);
    desk.world.turn().unwrap();
    desk.settle_down();
    assert_eq!(find(&mut desk, 1), ["1"]);
}
