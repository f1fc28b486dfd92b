//! What is done while the disk is full.

use mainstem_schemas::{Address, Verdict};

use super::desk::Desk;
use crate::{
    command::{
        Bind, Command, DeclareExchange, ExchangeDef, ExchangeKind, Publish, Published, Retention,
    },
    error::Refusal,
    inbox::Notice,
    policy::{DeadLetter, DeliveryPolicy, Policy},
    state::HOME_BYTES,
};

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

/// What the log may be at most in the tests below.
const LOG_BYTES_MAX: u64 = 16 * (64 << 10);
const KIB: usize = 1000;

/// A stop while a checkpoint waits for the log to be synced, whose last sync comes with word of the
/// disk's space.
#[test]
fn a_stop_while_the_disk_gets_space_leaves_an_index_that_knows_all() {
    let mut desk = full();
    let delivery = desk.get("q");
    let ready = desk.ready("q");
    desk.give_back(delivery.id, Verdict::Accept);
    desk.world.turn().unwrap();
    desk.pass(10);
    let _hash = desk.begin(|_, reply| Command::Checkpoint { reply });
    desk.world.turn().unwrap();
    desk.free_disk();
    let mut desk = desk.restart();
    assert_eq!(desk.ready("q"), ready);
    desk.rebuilt();
}

fn bounded() -> Desk {
    Desk::new(|config| {
        config.log_bytes_max = LOG_BYTES_MAX;
        config.checkpoint_bytes = 64 << 10;
    })
}

fn log_bytes(desk: &Desk) -> u64 {
    desk.world.reader.files() * (64 << 10)
}

#[test]
fn a_log_at_its_bound_drops_the_oldest_of_streams_and_nothing_else() {
    let mut desk = bounded();
    let stream = desk.declare_as("s", Policy::default(), Retention::Time, true);
    let brief = desk.declare_as("brief", Policy::default(), Retention::Time, false);
    desk.declare("q", Policy::default());
    for _ in 0..100 {
        desk.fill("s", 30, KIB);
        desk.fill("q", 1, KIB);
        desk.fill("brief", 1, 10);
        desk.turns(10);
        assert!(log_bytes(&desk) <= LOG_BYTES_MAX, "{} bytes", log_bytes(&desk));
    }
    desk.settle_down();
    assert_eq!(desk.ready("q"), 100, "what a queue holds stays");
    let left = |desk: &mut Desk| {
        let queue = desk.world.commit.state.queues.get(stream).unwrap();
        (queue.first(), queue.next(), queue.live)
    };
    let (first, next, live) = left(&mut desk);
    assert_eq!((next, live), (3000, next - first), "the newest stay, without a gap");
    let bytes = live * KIB as u64;
    assert!((LOG_BYTES_MAX / 4..LOG_BYTES_MAX).contains(&bytes), "{bytes} bytes are kept");
    assert!(desk.world.commit.state.queues.get(brief).is_some_and(|brief| brief.live > 0));
    let mut desk = desk.rebuilt();
    assert_eq!(left(&mut desk), (first, next, live));
    for _ in 0..100 {
        let delivery = desk.get("q");
        assert!(desk.settle(delivery.id, Verdict::Accept));
    }
}

#[test]
fn an_old_body_that_comes_late_to_a_stream_takes_nothing_with_it() {
    let mut desk = bounded();
    let stream = desk.declare_as("s", Policy::default(), Retention::Time, true);
    let dead = DeadLetter::Exchange { name: String::new(), key: Some("s".into()) };
    let delivery = DeliveryPolicy { dead_letter: Some(dead), ..DeliveryPolicy::default() };
    desk.declare("q", Policy { delivery, ..Policy::default() });
    desk.fill("q", 100, 10);
    let live = |desk: &mut Desk| desk.world.commit.state.queues.get(stream).unwrap().live;
    for round in 0..100 {
        desk.fill("s", 30, KIB);
        let delivery = desk.get("q");
        assert!(desk.settle(delivery.id, Verdict::Reject));
        desk.turns(10);
        let kept = live(&mut desk);
        assert!(round < 20 || kept * KIB as u64 > LOG_BYTES_MAX / 4, "{kept} left");
    }
    desk.settle_down();
    let mut desk = desk.rebuilt();
    assert!(live(&mut desk) * KIB as u64 > LOG_BYTES_MAX / 4);
}

#[test]
fn a_log_full_of_what_must_stay_refuses_until_some_of_it_goes() {
    let mut desk = bounded();
    desk.declare_as("s", Policy::default(), Retention::Time, true);
    desk.declare("q", Policy::default());
    desk.fill("s", 10, KIB);
    let mut taken = 0;
    let refusal = loop {
        let publish = desk.direct("q", &[7; KIB]);
        match desk.publish(vec![publish]).as_slice() {
            [Published::Taken { .. }] => taken += 1,
            [Published::Refused(refusal)] => break refusal.clone(),
            other => panic!("{other:?}"),
        }
        desk.turns(2);
        assert!(taken < 2000, "nothing is refused");
    };
    assert_eq!(refusal, Refusal::Limit { name: "log_bytes_max", max: LOG_BYTES_MAX });
    let notices = desk.notices();
    assert!(matches!(notices.last(), Some(Notice::Blocked)), "{notices:?}");
    // What stays is not moved round and round.
    let end = desk.world.reader.end().0;
    for _ in 0..2000 {
        desk.pass(100);
        desk.turn();
    }
    let moved = desk.world.reader.end().0 - end;
    assert!(moved <= 2 * LOG_BYTES_MAX, "{moved} bytes moved");
    assert_eq!(desk.ready("q"), taken, "nothing is lost");
    for _ in 0..taken {
        let delivery = desk.get("q");
        assert!(desk.settle(delivery.id, Verdict::Accept));
    }
    desk.settle_down();
    let notices = desk.notices();
    assert!(matches!(notices.last(), Some(Notice::Unblocked)), "{notices:?}");
    assert!(notices.len() < 4, "{notices:?}");
    desk.fill("q", 10, KIB);
    desk.rebuilt();
}

#[test]
fn what_an_exchange_remembers_is_not_written_to_a_full_disk() {
    let mut desk = Desk::new(|_| {});
    let def = ExchangeDef {
        name: "x".to_owned(),
        kind: ExchangeKind::RecentHistory,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Vec::new(),
    };
    let request = DeclareExchange { def };
    desk.ask(|client, reply| Command::DeclareExchange { client, request, reply }).unwrap();
    let bind = |destination: &str| Bind {
        source: "x".to_owned(),
        destination: destination.to_owned(),
        to_exchange: false,
        key: "".into(),
        arguments: Vec::new(),
    };
    for name in ["old", "new", "q"] {
        desk.declare(name, Policy::default());
    }
    let known = bind("old");
    desk.ask(|client, reply| Command::Bind { client, bind: known, reply }).unwrap();
    let address = Address::amqp("x".into(), "".into());
    let publish = Publish::new(desk.draft(&address, b"remembered").encode().unwrap());
    desk.publish(vec![publish]);
    desk.fill_disk();
    desk.fill("q", 5, 7 << 10);
    for _ in 0..5 {
        desk.pass(1000);
        desk.turns(2);
    }
    assert!(desk.refuses("q"), "the disk is full");
    let bound = |desk: &mut Desk, to: &str| {
        let bind = bind(to);
        desk.ask(|client, reply| Command::Bind { client, bind, reply })
    };
    assert_eq!(bound(&mut desk, "new"), Err(Refusal::DiskFull));
    assert_eq!(bound(&mut desk, "old"), Ok(()), "who was bound before gets nothing");
    desk.free_disk();
    for _ in 0..5 {
        desk.pass(1000);
        desk.turns(2);
    }
    assert_eq!(bound(&mut desk, "new"), Ok(()));
    assert_eq!((desk.ready("old"), desk.ready("new")), (1, 1));
}

#[test]
fn what_is_being_consumed_is_not_moved_and_what_stays_is() {
    let mut desk = Desk::new(|config| config.checkpoint_bytes = 64 << 10);
    let queue = desk.declare("q", Policy::default());
    desk.fill("q", 18, 3000);
    let segment = |desk: &mut Desk, offset| {
        let place = desk.world.commit.state.queues.get(queue).unwrap();
        let index = desk.world.commit.state.index.clone();
        let place = place.get(offset, &index).unwrap().unwrap();
        desk.world.reader.segment_of(place.position)
    };
    assert_eq!(segment(&mut desk, 17), 0);
    desk.fill("q", 21, 3000);
    for offset in 0..15 {
        let delivery = desk.get("q");
        assert_eq!(delivery.id.offset.0, offset);
        assert!(desk.settle(delivery.id, Verdict::Accept));
    }
    // Little is left of the first segment, and each second it is less.
    for _ in 15..17 {
        desk.pass(1000);
        desk.turns(10);
        assert_eq!(segment(&mut desk, 17), 0);
        let delivery = desk.get("q");
        assert!(desk.settle(delivery.id, Verdict::Accept));
    }
    for _ in 0..4 {
        desk.pass(1000);
        desk.turns(10);
    }
    assert!(segment(&mut desk, 17) > 0, "it stayed, so it is moved");
    desk.rebuilt();
}

/// A backlog that was looked at while nobody consumed it.
#[test]
fn a_backlog_is_not_moved_while_a_reader_goes_through_it() {
    let mut desk = Desk::new(|config| config.checkpoint_bytes = 64 << 10);
    desk.declare("q", Policy::default());
    desk.fill("q", 39, 3000);
    for _ in 0..3 {
        desk.pass(1000);
        desk.turns(10);
    }
    for _ in 0..17 {
        let delivery = desk.get("q");
        desk.give_back(delivery.id, Verdict::Accept);
    }
    desk.turns(10);
    assert_eq!(desk.moved(), 0, "its reader is about to come to the rest");
    assert!(desk.world.commit.state.segments.usage(0).0.refs > 1);
    for _ in 0..3 {
        desk.pass(1000);
        desk.turns(10);
    }
    let left = desk.world.commit.state.segments.usage(0).0.refs;
    assert_eq!(left, 0, "the reader came no further, so it is moved");
}

#[test]
fn a_record_as_long_as_a_definition_counts_is_moved_as_others_are() {
    let mut desk = Desk::new(|config| config.checkpoint_bytes = 64 << 10);
    let queue = desk.declare("q", Policy::default());
    let size = |desk: &mut Desk, offset| {
        let index = desk.world.commit.state.index.clone();
        let found = desk.world.commit.state.queues.get(queue).unwrap();
        found.get(offset, &index).unwrap().unwrap().size
    };
    desk.fill("q", 1, 1);
    let bytes = 1 + usize::try_from(HOME_BYTES - size(&mut desk, 0)).unwrap();
    desk.fill("q", 1, bytes);
    assert_eq!(size(&mut desk, 1), HOME_BYTES);
    let delivery = desk.get("q");
    assert!(desk.settle(delivery.id, Verdict::Accept));
    let before = desk.world.reader.segment_of(desk.world.reader.first());
    desk.declare("traffic", Policy::default());
    desk.fill("traffic", 30, 3000);
    while desk.try_get("traffic", true).is_some() {}
    desk.settle_down();
    let first = desk.world.reader.segment_of(desk.world.reader.first());
    assert!(first > before, "the log keeps its beginning");
    assert_eq!(desk.get("q").id.offset.0, 1);
    desk.rebuilt();
}

#[test]
fn a_log_that_turns_over_fast_keeps_spare_segments_until_it_rests() {
    let mut desk = Desk::new(|config| config.checkpoint_bytes = 256 << 10);
    desk.declare("q", Policy::default());
    for _ in 0..5 {
        for _ in 0..5 {
            desk.fill("q", 20, 3000);
            while desk.try_get("q", true).is_some() {}
        }
        desk.pass(1000);
        desk.turns(5);
    }
    assert_eq!(desk.world.commit.spares(), 4, "as many as come free by one checkpoint");
    assert!(desk.disk.renames_max() >= 2, "no file was used three times");
    desk.settle_down();
    assert_eq!(desk.world.commit.spares(), 0);
    assert!(log_bytes(&desk) <= 3 * (64 << 10), "{} bytes", log_bytes(&desk));
}
