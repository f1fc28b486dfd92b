//! What may wait for subscriptions whose holders are away.

use mainstem_schemas::{Address, Filter, QueueId, Verdict};

use super::{desk::Desk, turns::live};
use crate::{
    command::{ClientId, Command, OpenSession, Publish, SessionOpened, Subscribe},
    config::{AwayBounds, Drops},
    inbox::Notice,
    parcel::Parcel,
};

fn open(desk: &mut Desk, session: &str) -> SessionOpened {
    let open =
        OpenSession { id: session.to_owned(), clean: false, expiry_s: u32::MAX, limit: 1000 };
    desk.ask(|client, reply| Command::OpenSession { client, open, reply }).unwrap()
}

fn close(desk: &mut Desk) {
    desk.ask(|client, reply| Command::CloseSession { client, expiry_s: None, parcel: None, reply });
}

fn subscribe(desk: &mut Desk, filter: &str) {
    let filter = Filter::parse(filter).unwrap();
    let subscribe = Subscribe { filter, share: None, options: 0, live: false };
    desk.ask(|client, reply| Command::Subscribe { client, subscribe, reply }).unwrap();
}

fn publish(desk: &mut Desk, numbers: std::ops::Range<u32>, bytes: usize) {
    let address = Address::http("t/a".to_owned().into());
    let one = |number: u32| {
        let mut body = number.to_string().into_bytes();
        body.resize(bytes.max(body.len()), b' ');
        Publish::new(desk.draft(&address, &body).encode().unwrap())
    };
    let batch = numbers.map(one).collect();
    desk.publish(batch);
}

/// What a session gets that comes back, settled as it comes.
fn received(desk: &mut Desk, session: &str) -> Vec<u32> {
    assert!(open(desk, session).present);
    let mut numbers = Vec::new();
    for _ in 0..10 {
        desk.turn();
        for notice in desk.notices() {
            let Notice::Delivery(delivery) = notice else { continue };
            // After a restart the records are in the log only; then they are told by their places.
            let number = delivery.record.as_ref().map_or(delivery.id.offset.0, |record| {
                String::from_utf8_lossy(&record.data()).trim().parse().unwrap()
            });
            numbers.push(u32::try_from(number).unwrap());
            desk.give_back(delivery.id, Verdict::Accept);
        }
    }
    close(desk);
    numbers
}

fn tick(desk: &mut Desk) {
    desk.pass(1100);
    desk.turns(5);
}

/// A session that went away, at a store with these bounds.
fn with_sleeper(away: AwayBounds) -> Desk {
    let mut desk = Desk::new(|config| config.away = away);
    open(&mut desk, "s");
    subscribe(&mut desk, "t/#");
    close(&mut desk);
    desk
}

fn queue(desk: &Desk) -> QueueId {
    let all = desk.world.commit.state.queues.resident().map(|(id, _)| id).collect::<Vec<_>>();
    let [only] = all.as_slice() else { panic!("{all:?}") };
    *only
}

#[test]
fn a_bound_of_records_is_kept_to_the_record() {
    for (drops, first) in [(Drops::Oldest, 15), (Drops::Newest, 0)] {
        for ticks in [false, true] {
            let away = AwayBounds { records_max: 10, drops, ..AwayBounds::default() };
            let mut desk = with_sleeper(away);
            publish(&mut desk, 0..10, 1);
            if ticks {
                tick(&mut desk);
            }
            publish(&mut desk, 10..25, 1);
            if ticks {
                tick(&mut desk);
                let id = queue(&desk);
                assert_eq!(live(&mut desk, id), 10, "what was dropped is let go");
            }
            let wanted: Vec<u32> = (first..first + 10).collect();
            assert_eq!(received(&mut desk, "s"), wanted, "{drops:?}");
            // As many as may be wait, and one more.
            publish(&mut desk, 0..10, 1);
            tick(&mut desk);
            assert_eq!(received(&mut desk, "s"), (0..10).collect::<Vec<_>>(), "{drops:?}");
            desk.rebuilt();
        }
    }
}

#[test]
fn a_bound_of_bytes_is_kept_to_the_byte() {
    for (drops, wanted) in [(Drops::Oldest, [2, 3, 4]), (Drops::Newest, [0, 1, 2])] {
        for (bytes_max, kept) in [(300, 3), (299, 2), (500, 5)] {
            let away = AwayBounds { bytes_max, drops, ..AwayBounds::default() };
            let mut desk = with_sleeper(away);
            publish(&mut desk, 0..5, 100);
            tick(&mut desk);
            let wanted: Vec<u32> = match (drops, kept) {
                (_, 5) => (0..5).collect(),
                (Drops::Oldest, kept) => wanted[3 - kept..].to_vec(),
                (Drops::Newest, kept) => wanted[..kept].to_vec(),
            };
            assert_eq!(received(&mut desk, "s"), wanted, "{drops:?} {bytes_max}");
            desk.rebuilt();
        }
    }
}

#[test]
fn a_bound_of_age_drops_what_waited_longer() {
    for restarts in [false, true] {
        let away = AwayBounds { age_ms_max: 60_000, ..AwayBounds::default() };
        let mut desk = with_sleeper(away);
        publish(&mut desk, 0..3, 1);
        desk.pass(59_000);
        publish(&mut desk, 3..5, 1);
        if restarts {
            desk.checkpoint();
            desk = desk.crash(false);
        }
        desk.pass(1500);
        desk.turns(20);
        let id = queue(&desk);
        assert_eq!(live(&mut desk, id), 2, "the disk is given back while it sleeps");
        assert_eq!(received(&mut desk, "s"), [3, 4]);
    }
}

/// Who is there is not cut because it asks again, or comes by another connection.
#[test]
fn a_holder_who_stays_loses_nothing() {
    for again in [true, false] {
        let away = AwayBounds { records_max: 10, ..AwayBounds::default() };
        let mut desk = Desk::new(|config| config.away = away);
        let first = desk.client;
        desk.client = ClientId(2);
        let (outbox, _inbox) = crate::inbox::pair(1, 1);
        let attach = Command::Attach { client: desk.client, namespace: "/".into(), outbox };
        desk.world.commands.push(attach);
        open(&mut desk, "s");
        subscribe(&mut desk, "t/#");
        publish(&mut desk, 0..100, 1);
        tick(&mut desk);
        if again {
            subscribe(&mut desk, "t/#");
        } else {
            desk.client = first;
            open(&mut desk, "s");
        }
        tick(&mut desk);
        let id = queue(&desk);
        assert_eq!(live(&mut desk, id), 100);
    }
}

/// What was under way stays, and keeps nothing that was dropped behind it.
#[test]
fn what_is_dropped_is_let_go_behind_what_is_under_way() {
    for drops in [Drops::Oldest, Drops::Newest] {
        let away = AwayBounds { records_max: 10, drops, ..AwayBounds::default() };
        let mut desk = Desk::new(|config| config.away = away);
        open(&mut desk, "s");
        subscribe(&mut desk, "t/#");
        publish(&mut desk, 0..1, 1);
        desk.turns(3);
        let parcel = Some(Parcel(Box::new(())));
        desk.ask(|client, reply| Command::CloseSession { client, expiry_s: None, parcel, reply });
        publish(&mut desk, 1..101, 1);
        tick(&mut desk);
        let id = queue(&desk);
        assert_eq!(live(&mut desk, id), 11, "{drops:?}");
        desk.rebuilt();
    }
}

/// However many they are, and however much waits for them, a turn does a piece of it.
#[test]
fn a_crowd_is_cut_bit_by_bit() {
    let mut desk = with_sleeper(AwayBounds { bytes_max: 10, ..AwayBounds::default() });
    for n in 0..30 {
        open(&mut desk, &n.to_string());
        subscribe(&mut desk, "t/#");
        close(&mut desk);
    }
    for from in 0..20 {
        publish(&mut desk, from * 1000..(from + 1) * 1000, 1);
    }
    let id = queue(&desk);
    desk.pass(1100);
    let mut turns = 0;
    while live(&mut desk, id) > 10 {
        desk.turn();
        desk.pass(10);
        turns += 1;
        assert!(turns < 1000);
    }
    assert!(turns > 31, "{turns} turns for all of them");
    desk.rebuilt();
}

/// A holder who is there gets everything, however much waits; others of the same filter are cut.
#[test]
fn bounds_are_for_those_who_are_away() {
    for drops in [Drops::Oldest, Drops::Newest] {
        let away = AwayBounds { records_max: 10, drops, ..AwayBounds::default() };
        let mut desk = with_sleeper(away);
        let first = desk.client;
        desk.client = ClientId(2);
        let (outbox, _inbox) = crate::inbox::pair(1, 1);
        let attach = Command::Attach { client: desk.client, namespace: "/".into(), outbox };
        desk.world.commands.push(attach);
        open(&mut desk, "slow");
        subscribe(&mut desk, "t/#");
        desk.client = first;
        publish(&mut desk, 0..100, 1);
        tick(&mut desk);
        tick(&mut desk);
        let id = queue(&desk);
        assert_eq!(live(&mut desk, id), 100, "somebody is to get them");
        assert_eq!(received(&mut desk, "s").len(), 10, "{drops:?}");
        desk.rebuilt();
    }
}
