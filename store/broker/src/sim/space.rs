//! What is done while the disk is full.

use mainstem_schemas::Verdict;

use super::desk::Desk;
use crate::{inbox::Notice, policy::Policy};

/// A queue with one record, on a disk that is full.
fn full() -> Desk {
    let mut desk = Desk::new(|_| {});
    desk.declare("q", Policy::default());
    desk.fill("q", 1, 10);
    desk.fill_disk();
    // Over half of a segment, so that the next one is wanted.
    desk.fill("q", 5, 7 << 10);
    for _ in 0..5 {
        desk.pass(1000);
        desk.turns(2);
    }
    assert!(desk.refuses("q"), "the disk is full");
    desk
}

#[test]
fn what_comes_back_again_and_again_is_said_once_to_a_full_disk() {
    let mut desk = full();
    let before = desk.world.reader.end().0;
    for attempt in 1..=500 {
        let delivery = desk.get("q");
        assert_eq!(delivery.attempt, attempt, "attempts count all the same");
        desk.give_back(delivery.id, Verdict::Release);
        desk.turn();
        desk.pass(10);
    }
    let grown = desk.world.reader.end().0 - before;
    assert!(grown < 200, "{grown} bytes of the last room");
    // A checkpoint says only what the log says.
    desk.free_disk();
    let mut desk = desk.rebuilt();
    assert_eq!(desk.get("q").attempt, 501);
}

#[test]
fn attempts_are_said_when_there_is_space_again() {
    let mut desk = full();
    let delivery = desk.get("q");
    desk.give_back(delivery.id, Verdict::Release);
    desk.turn();
    desk.free_disk();
    for _ in 0..5 {
        desk.pass(1000);
        desk.turns(2);
    }
    assert!(!desk.refuses("q"), "there is space");
    let notices = desk.notices();
    assert!(matches!(notices.as_slice(), [Notice::Blocked, Notice::Unblocked]), "{notices:?}");
    let mut desk = desk.crash(true);
    assert_eq!(desk.get("q").attempt, 2, "it was handed out before");
}
