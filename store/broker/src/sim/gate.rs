//! Deliveries that meet a record which is not down yet.

use mainstem_schemas::{ConsumerId, Verdict};

use super::desk::Desk;
use crate::{
    command::{Command, Consume, Source},
    inbox::{Delivery, Notice},
    policy::Policy,
};

/// Records of the queue whose reader is watched.
const RECORDS: usize = 40;

fn deliveries(desk: &mut Desk) -> Vec<Delivery> {
    let delivery = |notice| match notice {
        Notice::Delivery(delivery) => delivery,
        other => panic!("{other:?}"),
    };
    desk.notices().into_iter().map(delivery).collect()
}

/// The only consumer of a queue comes to records that are just being moved to the log's end, and
/// nobody publishes to the queue.
#[test]
fn a_reader_waits_for_what_is_moved_and_is_woken_when_it_is_down() {
    let mut desk = Desk::new(|_| {});
    desk.declare("q", Policy::default());
    desk.declare("traffic", Policy { len_max: Some(1), ..Policy::default() });
    desk.fill("q", RECORDS, 100);
    let consume = Consume {
        source: Source::Queue("q".into()),
        consumer: ConsumerId(1),
        options: 0,
        pool: 0,
        limit: 1,
        settle_at_once: false,
        exclusive: false,
        priority: 0,
    };
    desk.ask(|client, reply| Command::Consume { client, consume, reply }).unwrap();
    let mut waits = deliveries(&mut desk);
    let mut read = 0;
    for _ in 0..20_000 {
        let (batch, permit) = (vec![desk.direct("traffic", &[7; 7000])], desk.permit());
        let _confirm =
            desk.begin(|client, reply| Command::Publish { client, batch, permit, reply });
        let moved = desk.moved();
        // The disk is busy, so that what is moved in this turn is not down in the next.
        desk.world.turn().unwrap();
        if desk.moved() > moved {
            let [delivery] = waits.as_slice() else { panic!("not one at a time: {waits:?}") };
            desk.give_back(delivery.id, Verdict::Accept);
            desk.world.turn().unwrap();
            read += 1;
            if read == RECORDS {
                return;
            }
            desk.turns(3);
            waits = deliveries(&mut desk);
            assert_eq!(waits.len(), 1, "after {read}, nothing comes");
        }
        while desk.world.work().unwrap() {}
        while desk.world.hear_of_index().unwrap() {}
        desk.pass(20);
    }
    panic!("nothing is moved");
}
