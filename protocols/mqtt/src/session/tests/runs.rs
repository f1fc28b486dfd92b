//! Runs of packet identifiers, over restarts of the server.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::session::runs::{RUN_IDS, Run};

fn wide() -> Session {
    Session::new(Terms { client_receive_max: u16::MAX, ..terms() }, Duration::ZERO)
}

/// The same offset of another cursor.
fn elsewhere(offset: u64) -> Copy {
    let id = DeliveryId { cursor: CursorId(2), ..delivery(offset) };
    Copy { deliveries: smallvec![id], ..copy(Qos::ExactlyOnce, offset) }
}

fn ranges(unsettled: &[(u64, u64)]) -> Vec<(Offset, Offset)> {
    unsettled.iter().map(|(from, to)| (Offset(*from), Offset(*to))).collect()
}

/// The session as it goes on after the server was started, of what was noted of it.
fn restarted(noted: Noted, unsettled: &[(u64, u64)], next: u64) -> Session {
    let mut session = wide();
    session.outbound.remember_run(noted, &ranges(unsettled), Offset(next));
    session
}

/// What was noted of a whole run of which nothing was completed.
fn noted(from: u64, first_id: u16) -> Noted {
    let run = Run { queue: QueueId(1), cursor: CursorId(1), from, first_id };
    Noted { run, completed: 0, limit: RUN_IDS }
}

#[test]
fn messages_of_a_cursor_have_their_identifiers_by_their_places() {
    let mut session = wide();
    for offset in [7, 8, 11] {
        session.outbound.push(copy(Qos::ExactlyOnce, offset));
    }
    session.outbound.push(elsewhere(8));
    session.outbound.push(copy(Qos::AtLeastOnce, 9));
    let sent = sent(&mut session);
    let ids: Vec<u16> = sent.iter().map(|(id, ..)| *id).collect();
    let second = RUN_IDS + 1;
    assert_eq!(ids, [1, 2, 5, second, second + RUN_IDS]);
    let runs = session.outbound.take_begun_runs();
    assert!(runs.iter().all(|one| (one.completed, one.limit) == (0, 8)));
    let noted: Vec<_> =
        runs.iter().map(|one| (one.run.cursor.0, one.run.from, one.run.first_id)).collect();
    assert_eq!(noted, [(1, 7, 1), (2, 8, second)], "once for all of them");
    assert!(ids.iter().all(|id| session.outbound.take_note(*id).is_none()));
    assert_eq!(session.outbound.take_begun_runs(), []);
}

#[test]
fn after_a_restart_each_goes_on_under_its_identifier_or_is_released_mqtt_4_4_0_1() {
    let mut first = wide();
    for offset in 7..12 {
        first.outbound.push(copy(Qos::ExactlyOnce, offset));
    }
    sent(&mut first);
    let runs = first.outbound.take_begun_runs();
    tell(&mut first, Packet::PubRec(ack(2)));
    // 8 is settled, 12 was published and not sent.
    let mut second = restarted(runs[0], &[(7, 8), (9, 13)], 13);
    assert_eq!(sent(&mut second), [(2, true, Stage::Released)]);
    for offset in [7, 9, 10, 11, 12, 13] {
        assert!(second.outbound.push(copy(Qos::ExactlyOnce, offset)).is_empty());
    }
    let stage = Stage::Published;
    assert_eq!(
        sent(&mut second),
        [1, 3, 4, 5, 6]
            .map(|id| (id, true, stage))
            .into_iter()
            .chain([(7, false, stage)])
            .collect::<Vec<_>>()
    );
    assert_eq!(second.outbound.take_begun_runs(), [], "the run goes on");
    assert_eq!(tell(&mut second, Packet::PubComp(ack(2))), "[]");
    assert_eq!(tell(&mut second, Packet::PubRec(ack(3))), "[settle [9], pubrel 3]");
    assert!(second.outbound.is_in_run(3));
    assert_eq!(second.outbound.note_released(3), None);
}

#[test]
fn a_run_is_over_when_all_of_it_is_done_and_the_next_has_begun() {
    let mut session = wide();
    let ids = u64::from(RUN_IDS);
    for offset in 0..=ids {
        session.outbound.push(copy(Qos::ExactlyOnce, offset));
    }
    let sent: Vec<u16> = sent(&mut session).into_iter().map(|(id, ..)| id).collect();
    let noted = session.outbound.take_begun_runs();
    let limits: Vec<u16> = noted.iter().map(|one| one.limit).collect();
    assert_eq!(limits, [8, 32, 128, RUN_IDS, RUN_IDS], "the next one is noted at once");
    let runs = [noted[0].run, noted[4].run];
    assert_eq!((runs[0].from, runs[1].from), (0, ids));
    for id in sent {
        assert_eq!(session.outbound.take_over_runs(), []);
        assert_eq!(session.outbound.take_run_news(), []);
        tell(&mut session, Packet::PubRec(ack(id)));
        tell(&mut session, Packet::PubComp(ack(id)));
        if id == RUN_IDS {
            assert_eq!(session.outbound.take_over_runs(), [runs[0]]);
        } else {
            let run = runs[usize::from(id > RUN_IDS)];
            let (completed, limit) = (id - run.first_id + 1, RUN_IDS);
            assert_eq!(session.outbound.take_run_news(), [Noted { run, completed, limit }]);
        }
    }
    assert_eq!(session.outbound.take_over_runs(), [], "the last one goes on");
}

#[test]
fn what_comes_late_has_no_place_among_what_was_completed() {
    let mut first = wide();
    first.outbound.push(copy(Qos::ExactlyOnce, 5));
    first.outbound.push(copy(Qos::ExactlyOnce, 8));
    sent(&mut first);
    let run = first.outbound.take_begun_runs()[0].run;
    for id in [1, 4] {
        tell(&mut first, Packet::PubRec(ack(id)));
        tell(&mut first, Packet::PubComp(ack(id)));
    }
    assert_eq!(first.outbound.take_run_news(), [Noted { run, completed: 4, limit: 8 }]);
    first.outbound.push(copy(Qos::ExactlyOnce, 6));
    first.outbound.push(copy(Qos::ExactlyOnce, 5));
    let ids: Vec<u16> = sent(&mut first).into_iter().map(|(id, ..)| id).collect();
    let next = RUN_IDS + 1;
    assert_eq!(ids, [next, next + RUN_IDS]);
    assert_eq!(first.outbound.take_over_runs(), [run]);
    let begun = first.outbound.take_begun_runs();
    let begun: Vec<_> = begun.iter().map(|one| (one.run.from, one.run.first_id)).collect();
    assert_eq!(begun, [(6, next)]);
    assert!(first.outbound.take_note(next + RUN_IDS).is_some(), "it has a note of its own");
}

#[test]
fn a_guess_is_made_once_also_of_a_run_that_is_over() {
    let (one, two) = (noted(5, 1), noted(5 + u64::from(RUN_IDS), RUN_IDS + 1));
    let next = Offset(two.run.from + 1);
    let mut first = wide();
    // Notes are in no order.
    first.outbound.remember_run(two, &[], next);
    first.outbound.remember_run(Noted { completed: RUN_IDS - 1, ..one }, &[], next);
    let guesses = [RUN_IDS + 1, RUN_IDS];
    assert_eq!(sent(&mut first), guesses.map(|id| (id, true, Stage::Released)));
    let mut second = wide();
    second.resume(first.park().0);
    // The first run is over, and its note still there.
    second.outbound.remember_run(two, &[], next);
    second.outbound.remember_run(Noted { completed: RUN_IDS - 1, ..one }, &[], next);
    assert_eq!(sent(&mut second), [], "some clients end the connection at it");
    assert_eq!(second.outbound.take_over_runs(), [one.run]);
}

#[test]
fn what_was_never_sent_is_not_released() {
    let few = Noted { limit: 8, ..noted(5, 1) };
    let mut session = restarted(few, &[], 600);
    assert_eq!(sent(&mut session).len(), 8);
}

#[test]
fn what_comes_no_more_keeps_no_run_for_ever() {
    let mut session = restarted(noted(5, 1), &[(5, 8)], 8);
    assert_eq!(sent(&mut session), []);
    // One was no message of QoS 2 after all; another expired, and is passed over.
    session.outbound.pass(&delivery(5));
    let others = |session: &mut Session, from: u64| {
        for other in from..from + 40 {
            let id = DeliveryId { cursor: CursorId(100 + other), ..delivery(0) };
            let deliveries = smallvec![id];
            session.outbound.push(Copy { deliveries, ..copy(Qos::ExactlyOnce, 0) });
        }
        let mut released = sent(session);
        released.retain(|(.., stage)| *stage == Stage::Released);
        released
    };
    assert_eq!(others(&mut session, 0), [], "both may still come");
    session.outbound.push(copy(Qos::ExactlyOnce, 7));
    assert_eq!(sent(&mut session), [(3, true, Stage::Published)]);
    assert_eq!(others(&mut session, 40), [(2, true, Stage::Released)], "a later one came");
    tell(&mut session, Packet::PubComp(ack(2)));
}

#[test]
fn copies_that_went_by_themselves_are_not_merged_after_a_restart() {
    let session = restarted(noted(5, 1), &[(5, 7)], 7);
    assert!(session.outbound.was_alone(&copy(Qos::ExactlyOnce, 6)));
    assert!(!session.outbound.was_alone(&copy(Qos::ExactlyOnce, 7)));
    assert!(!session.outbound.was_alone(&elsewhere(6)));
}

/// A client that keeps the rules, and what the store knows.
#[derive(Default)]
struct World {
    /// Identifiers that the client received and that were not released.
    held: BTreeSet<u16>,
    had: BTreeMap<u64, u32>,
    settled: BTreeSet<u64>,
    runs: Vec<Noted>,
}

impl World {
    fn restart(&self, next: u64) -> Session {
        let mut session = wide();
        let unsettled: Vec<_> =
            (0..next).filter(|at| !self.settled.contains(at)).map(|at| (at, at + 1)).collect();
        for run in &self.runs {
            session.outbound.remember_run(*run, &ranges(&unsettled), Offset(next));
        }
        for (offset, _) in unsettled {
            session.outbound.push(copy(Qos::ExactlyOnce, offset));
        }
        session
    }

    /// Sends one packet; the client hears it, and perhaps its answer is heard.
    fn step(&mut self, session: &mut Session, hears_answer: bool) -> bool {
        let Some((flight, _)) = session.outbound.next_to_send() else { return false };
        let (id, stage) = (flight.packet_id, flight.stage);
        let offset = flight.copy.as_ref().map(|copy| copy.deliveries[0].offset.0);
        let begun = session.outbound.take_begun_runs();
        self.note(begun);
        if stage == Stage::Published && self.held.insert(id) {
            *self.had.entry(offset.unwrap()).or_default() += 1;
        }
        if stage == Stage::Released {
            self.held.remove(&id);
            if hears_answer {
                tell(session, Packet::PubComp(ack(id)));
            }
        } else if hears_answer {
            tell(session, Packet::PubRec(ack(id)));
            self.settled.extend(offset);
        }
        for over in session.outbound.take_over_runs() {
            self.runs.retain(|one| one.run != over);
        }
        // What is noted in passing may be lost.
        if hears_answer {
            let news = session.outbound.take_run_news();
            self.note(news);
        }
        true
    }

    fn note(&mut self, news: Vec<Noted>) {
        for noted in news {
            self.runs.retain(|other| other.run != noted.run);
            self.runs.push(noted);
        }
    }

    /// PUBREL goes out for some of what is settled.
    fn release(&mut self, session: &mut Session, ids: &[u16], hears_answer: bool) {
        for id in ids {
            self.held.remove(id);
            if hears_answer {
                tell(session, Packet::PubComp(ack(*id)));
            }
        }
    }
}

#[test]
fn whatever_is_lost_each_message_is_had_once_and_each_identifier_released() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::default();
        let mut next = 0;
        for _ in 0..6 {
            let mut session = world.restart(next);
            for _ in 0..random.usize(..400) {
                session.outbound.push(copy(Qos::ExactlyOnce, next));
                next += 1;
            }
            for _ in 0..random.usize(..500) {
                let was_settled = world.settled.len();
                world.step(&mut session, random.u8(..8) > 0);
                if world.settled.len() > was_settled && random.bool() {
                    let released: Vec<u16> = world
                        .held
                        .iter()
                        .copied()
                        .filter(|id| session.outbound.is_in_run(*id))
                        .filter(|id| {
                            let flight = session.outbound.flight(*id).unwrap();
                            flight.stage == Stage::Released
                        })
                        .collect();
                    world.release(&mut session, &released, random.bool());
                }
            }
        }
        let mut session = world.restart(next);
        while world.step(&mut session, true) {}
        // What was received in this connection is released in the next.
        let mut session = world.restart(next);
        while world.step(&mut session, true) {}
        let twice: Vec<_> = world.had.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "seed {seed}: {twice:?}");
        assert_eq!(world.had.len() as u64, next, "seed {seed}: some were lost");
        assert!(world.held.is_empty(), "seed {seed}: never released {:?}", world.held);
    }
}
