//! Dead letters in chains, in circles and in queues that are not in the log.

use mainstem_schemas::{Address, CursorId, Verdict};

use super::desk::Desk;
use crate::{
    command::{
        Bind, Claim, Command, DeclareExchange, ExchangeDef, ExchangeKind, Fetch, GroupRef, Publish,
        Published, Retention,
    },
    commit::DEATHS_MAX,
    error::Refusal,
    inbox::Delivery,
    passage::{Passage, Reason},
    policy::{DeadLetter, DeliveryPolicy, Overflow, Policy},
};

fn dying_into(exchange: &str, key: Option<String>) -> DeliveryPolicy {
    let key = key.map(Into::into);
    let dead_letter = Some(DeadLetter::Exchange { name: exchange.to_owned(), key });
    DeliveryPolicy { dead_letter, ..DeliveryPolicy::default() }
}

/// A record's payload and how it came to where it was taken from.
fn read(desk: &Desk, delivery: &Delivery) -> (String, Passage) {
    let read = crate::open::read(&desk.world.reader, delivery.position, delivery.size);
    let (record, passage) = read.unwrap();
    (String::from_utf8(record.data().to_vec()).unwrap(), (*passage.unwrap()).clone())
}

/// An exchange that leads to a queue in the log and to one that is not.
fn two_ends() -> Desk {
    let mut desk = Desk::new(|config| config.checkpoint_bytes = 64 << 10);
    let def = ExchangeDef {
        name: "x".to_owned(),
        kind: ExchangeKind::Fanout,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Vec::new(),
    };
    let request = DeclareExchange { def };
    desk.ask(|client, reply| Command::DeclareExchange { client, request, reply }).unwrap();
    for (name, durable) in [("kept", true), ("brief", false)] {
        desk.declare_as(name, Policy::default(), Retention::Unsettled, durable);
        let bind = Bind {
            source: "x".to_owned(),
            to_exchange: false,
            destination: name.to_owned(),
            key: "".into(),
            arguments: Vec::new(),
        };
        desk.ask(|client, reply| Command::Bind { client, bind, reply }).unwrap();
    }
    let delivery = dying_into("x", None);
    desk.declare("q", Policy { delivery, ..Policy::default() });
    desk
}

#[test]
fn a_dead_letter_in_a_brief_queue_moves_with_its_body() {
    for keeps in [true, false] {
        let mut desk = two_ends();
        for number in 0..10 {
            let publish = desk.direct("q", number.to_string().as_bytes());
            desk.publish(vec![publish]);
            let delivery = desk.get("q");
            assert!(desk.settle(delivery.id, Verdict::Reject));
        }
        if !keeps {
            // Only the brief queue is left to need them.
            for _ in 0..10 {
                assert!(desk.try_get("kept", true).is_some());
            }
        }
        desk.turn_over();
        let queues: &[&str] = if keeps { &["brief", "kept"] } else { &["brief"] };
        for queue in queues {
            for number in 0..10 {
                let delivery = desk.get(queue);
                let (body, passage) = read(&desk, &delivery);
                assert_eq!(body, number.to_string(), "{queue}");
                let death = passage.deaths.first().unwrap();
                assert_eq!((death.queue.as_str(), death.reason), ("q", Reason::Rejected));
                assert!(desk.settle(delivery.id, Verdict::Accept));
            }
        }
        desk.turn_over();
        desk.rebuilt();
    }
}

/// Queues of one record each, whose overflow dies into the next one, and of the last one into
/// `end`.
fn chain(desk: &mut Desk, len: usize, end: Option<String>) {
    for number in 0..len {
        let next = if number + 1 < len { Some(format!("q{}", number + 1)) } else { end.clone() };
        let delivery = match next {
            Some(next) => dying_into("", Some(next)),
            None => DeliveryPolicy::default(),
        };
        let policy = Policy { len_max: Some(1), delivery, ..Policy::default() };
        desk.declare(&format!("q{number}"), policy);
        let publish = desk.direct(&format!("q{number}"), number.to_string().as_bytes());
        desk.publish(vec![publish]);
    }
}

fn body_of(desk: &mut Desk, queue: &str) -> String {
    let delivery = desk.get(queue);
    let read = crate::open::read(&desk.world.reader, delivery.position, delivery.size);
    String::from_utf8(read.unwrap().0.data().to_vec()).unwrap()
}

#[test]
fn a_long_chain_of_full_queues_passes_everything_on() {
    const LEN: usize = 4000;
    let mut desk = Desk::new(|_| {});
    chain(&mut desk, LEN, None);
    let publish = desk.direct("q0", b"first");
    desk.publish(vec![publish]);
    desk.turns(5);
    assert_eq!(body_of(&mut desk, "q0"), "first");
    for number in 1..LEN {
        assert_eq!(body_of(&mut desk, &format!("q{number}")), (number - 1).to_string());
    }
}

#[test]
fn a_circle_of_full_queues_comes_to_an_end() {
    const LEN: usize = 20;
    let mut desk = Desk::new(|_| {});
    chain(&mut desk, LEN, Some("q0".to_owned()));
    let publish = desk.direct("q0", b"first");
    desk.publish(vec![publish]);
    desk.settle_down();
    for number in 0..LEN {
        assert_eq!(desk.ready(&format!("q{number}")), 1, "q{number}");
    }
}

#[test]
fn a_record_that_died_in_too_many_queues_ends() {
    for (deaths, arrives) in [(DEATHS_MAX, 1), (DEATHS_MAX + 1, 0)] {
        let mut desk = Desk::new(|_| {});
        for number in 0..deaths {
            let delivery = dying_into("", Some(format!("q{}", number + 1)));
            let policy = Policy { ttl_ms: Some(1), delivery, ..Policy::default() };
            desk.declare(&format!("q{number}"), policy);
        }
        desk.declare(&format!("q{deaths}"), Policy::default());
        let address = Address::amqp("".into(), "q0".into());
        let publish = Publish::new(desk.draft(&address, b"x").encode().unwrap());
        desk.publish(vec![publish]);
        for _ in 0..deaths * 10 {
            desk.pass(5);
            desk.turn();
        }
        assert_eq!(desk.ready(&format!("q{deaths}")), arrives, "{deaths} deaths");
        for number in 0..deaths {
            assert_eq!(desk.ready(&format!("q{number}")), 0);
        }
    }
}

#[test]
fn a_dead_record_waits_for_somebody_to_take_it_where_that_is_wanted() {
    let mut desk = Desk::new(|_| {});
    let delivery = DeliveryPolicy {
        keeps_dead: true,
        attempts_max: Some(1),
        ..dying_into("", Some("dead".to_owned()))
    };
    let policy = Policy { ttl_ms: Some(10_000), delivery, ..Policy::default() };
    let queue = desk.declare("q", policy);
    let live = |desk: &mut Desk| desk.world.commit.state.queues.get(queue).unwrap().live;
    let wait = |desk: &mut Desk| {
        for _ in 0..10 {
            desk.pass(50);
            desk.turns(2);
        }
    };
    desk.fill("q", 2, 1);
    for verdict in [Verdict::Reject, Verdict::Release] {
        let delivery = desk.get("q");
        desk.give_back(delivery.id, verdict);
    }
    wait(&mut desk);
    assert_eq!((live(&mut desk), desk.ready("q")), (2, 0), "nobody is there to take them");
    let mut desk = desk.crash(false);
    assert_eq!((live(&mut desk), desk.ready("q")), (2, 2), "they wait to be looked at again");
    for verdict in [Verdict::Reject, Verdict::Release] {
        let delivery = desk.get("q");
        desk.give_back(delivery.id, verdict);
    }
    desk.turn();
    let died_at = super::world::now();
    // Room for one.
    let len_max = Some(1);
    desk.declare("dead", Policy { len_max, overflow: Overflow::Refuse, ..Policy::default() });
    wait(&mut desk);
    assert_eq!((live(&mut desk), desk.ready("dead")), (1, 1));
    let taken = desk.get("dead");
    let (_, passage) = read(&desk, &taken);
    let [death] = passage.deaths.as_slice() else { panic!("{:?}", passage.deaths) };
    assert_eq!((death.reason, death.count), (Reason::Rejected, 1));
    assert!(death.time <= died_at, "it died when it was rejected");
    assert!(desk.settle(taken.id, Verdict::Accept));
    wait(&mut desk);
    assert_eq!((live(&mut desk), desk.ready("dead")), (0, 1));
    // One whose time is over waits as well, and what waits in a queue that goes does not matter.
    desk.fill("q", 1, 1);
    desk.pass(10_000);
    wait(&mut desk);
    assert_eq!((live(&mut desk), desk.ready("q"), desk.ready("dead")), (1, 0, 1));
    let name = "q".to_owned();
    let delete = |client, reply| {
        let (if_unused, if_empty) = (false, false);
        Command::DeleteQueue { client, name, if_unused, if_empty, reply }
    };
    desk.ask(delete).unwrap();
    wait(&mut desk);
    assert!(desk.world.commit.doomed_is_empty());
    desk.rebuilt();
}

#[test]
fn the_dead_that_nobody_takes_count_as_what_the_queue_holds() {
    const BODY: usize = 100;
    let bounds = [(Some(10), None), (None, Some(10 * BODY as u64))];
    for (len_max, bytes_max) in bounds {
        let mut desk = Desk::new(|_| {});
        let delivery =
            DeliveryPolicy { keeps_dead: true, ..dying_into("", Some("dead".to_owned())) };
        let policy = Policy {
            len_max,
            bytes_max,
            overflow: Overflow::Refuse,
            delivery,
            ..Policy::default()
        };
        let queue = desk.declare("q", policy);
        let publish = |desk: &mut Desk| {
            let publish = desk.direct("q", &[7; BODY]);
            desk.publish(vec![publish])
        };
        for _ in 0..10 {
            let taken = publish(&mut desk);
            assert!(matches!(taken.as_slice(), [Published::Taken { .. }]), "{taken:?}");
            let delivery = desk.get("q");
            desk.give_back(delivery.id, Verdict::Reject);
            desk.turn();
        }
        let full = [Published::Refused(Refusal::QueueFull("q".to_owned()))];
        assert_eq!((desk.ready("q"), publish(&mut desk).as_slice()), (0, full.as_slice()));
        for _ in 0..10 {
            desk.pass(50);
            desk.turns(2);
        }
        assert_eq!(publish(&mut desk), full, "they are still there when they were tried again");
        desk.declare("dead", Policy::default());
        for _ in 0..10 {
            desk.pass(50);
            desk.turns(2);
        }
        assert_eq!(desk.ready("dead"), 10);
        let taken = publish(&mut desk);
        assert!(matches!(taken.as_slice(), [Published::Taken { .. }]), "{taken:?}");
        let live = desk.world.commit.state.queues.get(queue).unwrap().live;
        assert_eq!(live, 1);
    }
}

#[test]
fn the_dead_that_nobody_takes_are_tried_again_some_in_each_turn() {
    const QUEUES: usize = 200;
    const EACH: usize = 20;
    let mut desk = Desk::new(|_| {});
    let delivery = DeliveryPolicy { keeps_dead: true, ..dying_into("", Some("dead".to_owned())) };
    let policy = Policy { delivery, ..Policy::default() };
    let name = |number: usize| format!("q{number}");
    for number in 0..QUEUES {
        desk.declare(&name(number), policy.clone());
        desk.fill(&name(number), EACH, 1);
        for _ in 0..EACH {
            let delivery = desk.get(&name(number));
            desk.give_back(delivery.id, Verdict::Reject);
        }
    }
    desk.turn();
    assert_eq!(desk.world.commit.doomed_len(), QUEUES * EACH);
    desk.declare("dead", Policy::default());
    // All their times have come.
    desk.pass(50);
    let (mut before, mut turns) = (0, 0);
    while before < (QUEUES * EACH) as u64 {
        desk.turn();
        let dead = desk.world.commit.state.queues.resident();
        let live = dead.filter(|(_, queue)| queue.def.name == "dead").map(|(_, queue)| queue.live);
        let live = live.sum::<u64>();
        assert!(live - before < 500, "one turn buried {}", live - before);
        (before, turns) = (live, turns + 1);
        assert!(turns < 100, "{live} were buried");
    }
    assert!(desk.world.commit.doomed_is_empty());
    assert!((0..QUEUES).all(|number| desk.ready(&name(number)) == 0));
}

#[test]
fn one_that_nobody_takes_does_not_keep_those_behind_it() {
    let mut desk = Desk::new(|_| {});
    let delivery = DeliveryPolicy { keeps_dead: true, ..dying_into("amq.direct", None) };
    desk.declare("q", Policy { delivery, ..Policy::default() });
    desk.declare("dead", Policy::default());
    let bind = |key: &str, destination: &str| Bind {
        source: "amq.direct".to_owned(),
        to_exchange: false,
        destination: destination.to_owned(),
        key: key.to_owned().into(),
        arguments: Vec::new(),
    };
    for key in ["nobody", "somebody"] {
        let bind = bind(key, "q");
        desk.ask(|client, reply| Command::Bind { client, bind, reply }).unwrap();
    }
    let keys = [["nobody"; 40].as_slice(), &["somebody"; 40]].concat();
    for key in keys {
        let address = Address::amqp("amq.direct".into(), key.into());
        let publish = Publish::new(desk.draft(&address, b"x").encode().unwrap());
        desk.publish(vec![publish]);
    }
    let held: Vec<_> = (0..80).map(|_| desk.get("q").id).collect();
    let unbind = |key: &str| {
        let bind = bind(key, "q");
        |client, reply| Command::Unbind { client, bind, reply }
    };
    for key in ["nobody", "somebody"] {
        desk.ask(unbind(key)).unwrap();
    }
    for id in held {
        desk.give_back(id, Verdict::Reject);
    }
    desk.turn();
    assert_eq!(desk.world.commit.doomed_len(), 80);
    let to_dead = bind("somebody", "dead");
    desk.ask(|client, reply| Command::Bind { client, bind: to_dead, reply }).unwrap();
    for _ in 0..10 {
        desk.pass(50);
        desk.turns(2);
    }
    assert_eq!((desk.ready("dead"), desk.world.commit.doomed_len()), (40, 40));
}

#[test]
fn the_dead_are_not_read_while_nothing_would_be_taken() {
    let mut desk = Desk::new(|config| config.tail_cache_bytes = 0);
    let delivery = DeliveryPolicy { keeps_dead: true, ..dying_into("x", None) };
    desk.declare("q", Policy { delivery, ..Policy::default() });
    desk.fill("q", 3, 100);
    let held: Vec<_> = (0..3).map(|_| desk.get("q")).collect();
    let damaged = usize::try_from(held[1].position.0).unwrap();
    desk.disk.flip("0000000000000000.seg", damaged + 100, 1);
    for delivery in held {
        desk.give_back(delivery.id, Verdict::Reject);
    }
    let wait = |desk: &mut Desk| {
        for _ in 0..10 {
            desk.pass(50);
            desk.turns(2);
        }
    };
    wait(&mut desk);
    assert_eq!(desk.world.commit.doomed_len(), 3, "there is no exchange");
    let def = ExchangeDef {
        name: "x".to_owned(),
        kind: ExchangeKind::Fanout,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Vec::new(),
    };
    let request = DeclareExchange { def };
    desk.ask(|client, reply| Command::DeclareExchange { client, request, reply }).unwrap();
    wait(&mut desk);
    assert_eq!(desk.world.commit.doomed_len(), 3, "nothing is bound to it");
    desk.declare("dead", Policy::default());
    let bind = Bind {
        source: "x".to_owned(),
        to_exchange: false,
        destination: "dead".to_owned(),
        key: "".into(),
        arguments: Vec::new(),
    };
    desk.ask(|client, reply| Command::Bind { client, bind, reply }).unwrap();
    wait(&mut desk);
    assert_eq!((desk.ready("dead"), desk.world.commit.doomed_len()), (2, 0));
}

#[test]
fn leases_that_run_out_together_make_dead_letters_in_several_turns() {
    const COUNT: usize = 2000;
    let mut desk = Desk::new(|_| {});
    let dead = desk.declare("dead", Policy::default());
    let delivery = dying_into("", Some("dead".to_owned()));
    let delivery = DeliveryPolicy { attempts_max: Some(1), ..delivery };
    let queue = desk.declare("q", Policy { delivery, ..Policy::default() });
    desk.fill("q", COUNT, 10);
    let group = GroupRef { queue, cursor: CursorId::MAIN };
    let fetch = Fetch { group, max: COUNT, claim: Claim::Lease { ms: 1000 }, wait_ms: 99 };
    let taken = desk.ask(|client, reply| Command::Fetch { client, fetch, reply });
    assert_eq!(taken.len(), COUNT);
    desk.pass(1500);
    desk.turn();
    let first = desk.world.commit.state.queues.get(dead).map_or(0, |queue| queue.live);
    assert!((1..COUNT as u64 / 2).contains(&first), "{first} in one turn");
    // One whose lease only goes on is its holder's still.
    let last = taken.last().expect("there are many");
    assert!(desk.settle(last.id, Verdict::Accept));
    for _ in 0..30 {
        desk.pass(10);
        desk.turn();
    }
    assert_eq!((desk.ready("dead"), desk.ready("q")), (COUNT as u64 - 1, 0));
}
