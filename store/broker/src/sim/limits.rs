//! Bounds and promises that only single turns show.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mainstem_schemas::{Address, Verdict};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::sync::oneshot::error::TryRecvError;

use super::{desk::Desk, world::now};
use crate::{
    command::{Command, DeclareQueue, Publish, Published, Terms},
    policy::Policy,
};

#[test]
fn queues_resident_max_sends_unused_queues_to_the_disk() {
    const RESIDENT_MAX: usize = 10;
    let mut desk = Desk::new(|config| config.queues_resident_max = RESIDENT_MAX);
    let name = |number: usize| format!("q{number}");
    for number in 0..200 {
        desk.declare(&name(number), Policy::default());
        let publish = desk.direct(&name(number), number.to_string().as_bytes());
        desk.publish(vec![publish]);
    }
    assert!(desk.world.commit.state.queues.len() >= 200, "what changed stays until it is written");
    let held = desk.get(&name(7));
    desk.checkpoint();
    desk.settle_down();
    let resident = desk.world.commit.state.queues.len();
    assert!((1..=RESIDENT_MAX).contains(&resident), "{resident} queues are in memory");
    assert!(desk.settle(held.id, Verdict::Accept), "what somebody has in hand is not forgotten");
    for number in (0..200).filter(|number| *number != 7) {
        let delivery = desk.get(&name(number));
        assert_eq!(delivery.record.unwrap().data(), number.to_string());
        assert!(desk.settle(delivery.id, Verdict::Accept));
    }
}

#[test]
fn what_was_taken_before_is_not_said_before_it_is_synced() {
    let mut desk = Desk::new(|_| {});
    desk.declare("q", Policy::default());
    let publish = |desk: &mut Desk| {
        let terms = Terms { once: Some(("w".to_owned(), 1)), ..Terms::default() };
        let batch = vec![desk.direct("q", b"x").on(terms)];
        let permit = desk.permit();
        desk.begin(|client, reply| Command::Publish { client, batch, permit, reply })
    };
    let mut first = publish(&mut desk);
    desk.world.turn().unwrap();
    let mut again = publish(&mut desk);
    desk.world.turn().unwrap();
    for _ in 0..5 {
        desk.pass(10);
        desk.world.turn().unwrap();
        assert_eq!(first.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(again.try_recv(), Err(TryRecvError::Empty), "the disk did nothing yet");
    }
    desk.turns(3);
    assert!(matches!(first.try_recv().unwrap().as_slice(), [Published::Taken { .. }]));
    assert_eq!(again.try_recv().unwrap(), [Published::Again]);
    assert_eq!(desk.ready("q"), 1);
}

#[test]
fn what_another_makes_is_not_said_to_be_there_before_it_is_synced() {
    let mut desk = Desk::new(|_| {});
    let declare = |desk: &mut Desk| {
        let request = DeclareQueue { def: Desk::queue("q", Policy::default()) };
        desk.begin(|client, reply| Command::DeclareQueue { client, request, reply })
    };
    let mut first = declare(&mut desk);
    // The batch with it goes to the disk, which does nothing yet.
    desk.world.turn().unwrap();
    let mut again = declare(&mut desk);
    desk.world.turn().unwrap();
    assert!(matches!(first.try_recv(), Err(TryRecvError::Empty)));
    assert!(matches!(again.try_recv(), Err(TryRecvError::Empty)));
    desk.turns(3);
    assert!(first.try_recv().unwrap().unwrap().created);
    assert!(!again.try_recv().unwrap().unwrap().created);
}

/// Keeps what one counter came to.
struct Count {
    name: &'static str,
    sum: Arc<AtomicU64>,
}

impl Recorder for Count {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() == self.name { Counter::from_arc(self.sum.clone()) } else { Counter::noop() }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn an_expired_record_is_counted_once() {
    let sum = Arc::new(AtomicU64::new(0));
    let count = Count { name: "mainstem_expired_total", sum: sum.clone() };
    metrics::with_local_recorder(&count, || {
        let mut desk = Desk::new(|_| {});
        for queue in ["q", "looked at"] {
            desk.declare(queue, Policy::default());
            let address = Address::amqp("".into(), queue.into());
            for _ in 0..5 {
                let mut draft = desk.draft(&address, b"x");
                draft.expiry = now().plus(500);
                let publish = Publish::new(draft.encode().unwrap());
                desk.publish(vec![publish]);
            }
        }
        desk.pass(500);
        assert!(desk.try_get("q", false).is_none());
        desk.settle_down();
        assert_eq!(desk.ready("q") + desk.ready("looked at"), 0);
    });
    assert_eq!(sum.load(Ordering::Relaxed), 10);
}

#[test]
fn what_is_moved_at_once_is_bounded_in_bytes() {
    let mut desk = Desk::new(|_| {});
    desk.declare("kept", Policy::default());
    desk.declare("traffic", Policy::default());
    desk.fill("kept", 100, 500);
    let (mut all, mut most) = (0, 0);
    for _ in 0..100 {
        desk.fill("traffic", 20, 7000);
        while let Some((delivery, _)) = desk.try_get("traffic", false) {
            desk.give_back(delivery.id, Verdict::Accept);
        }
        for _ in 0..100 {
            desk.pass(50);
            // While the disk writes one batch, there are many turns for the next one.
            let mut moved = 0;
            for _ in 0..20 {
                let before = desk.moved();
                desk.world.turn().unwrap();
                let told = desk.moved();
                moved += told.checked_sub(before).unwrap_or(told);
            }
            (all, most) = (all + moved, most.max(moved));
            while desk.world.work().unwrap() {}
            while desk.world.hear_of_index().unwrap() {}
        }
        if all >= 100 {
            break;
        }
    }
    // Two batches of 8 KiB, and the frames that are looked at together.
    assert!(all >= 100 && most <= 2 * (8192 / 500 + 8), "{all}, {most} at once");
}
