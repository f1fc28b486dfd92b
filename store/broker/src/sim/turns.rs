//! Large requests take several turns, and others are served in between.

use mainstem_schemas::{Address, ConsumerId, Filter, QueueId, Settlement, Verdict, flags};

use super::{desk::Desk, world::now};
use crate::{
    command::{
        Bind, ClientId, Command, Consume, DeclareExchange, ExchangeDef, ExchangeKind, OpenSession,
        Publish, Published, Retention, Source, Subscribe, Subscribed,
    },
    inbox::Notice,
    policy::{DeadLetter, DeliveryPolicy, Policy},
};

/// More than any turn does.
pub(super) const MANY: usize = 30_000;

/// Turns that somebody else's question takes, who asks while something large is going on.
pub(super) fn turns_of_another(desk: &mut Desk) -> usize {
    let name = "other".to_owned();
    let find = |client, reply| Command::FindQueue { client, name, reply };
    let (found, turns) = desk.count_turns(find);
    found.unwrap();
    turns
}

pub(super) fn live(desk: &mut Desk, queue: QueueId) -> u64 {
    desk.world.commit.state.queues.get(queue).map_or(0, |queue| queue.live)
}

/// Records whose time is over in a second, and one whose time is not.
fn expiring(desk: &mut Desk, queue: &str, count: usize) {
    let expiry = now().plus(1000);
    let address = Address::amqp(bytes::Bytes::new(), queue.to_owned().into());
    for _ in 0..count / 1000 {
        let one = |desk: &Desk| {
            let mut draft = desk.draft(&address, b"x");
            draft.expiry = expiry;
            Publish::new(draft.encode().unwrap())
        };
        let batch = (0..1000).map(|_| one(desk)).collect();
        desk.publish(batch);
    }
    let last = desk.direct(queue, b"last");
    desk.publish(vec![last]);
    assert!(now() < expiry, "it took too long to publish");
    desk.pass(2000);
}

#[test]
fn a_get_comes_to_what_is_behind_many_expired_records() {
    let mut desk = Desk::new(|_| {});
    desk.declare("other", Policy::default());
    desk.declare("dead", Policy::default());
    let dead = DeadLetter::Exchange { name: String::new(), key: Some("dead".into()) };
    let delivery = DeliveryPolicy { dead_letter: Some(dead), ..DeliveryPolicy::default() };
    let queue = desk.declare("q", Policy { delivery, ..Policy::default() });
    expiring(&mut desk, "q", 5000);
    let name = "q".to_owned();
    let answer = desk.begin(|client, reply| Command::Get {
        client,
        queue: name,
        settle_at_once: false,
        reply,
    });
    assert_eq!(turns_of_another(&mut desk), 1);
    let left = live(&mut desk, queue);
    assert!((3000..5001).contains(&left), "one turn ended all but {left} of 5,000");
    let (got, turns) = desk.wait_for(answer);
    let (delivery, _) = got.unwrap().expect("the last one is there");
    assert_eq!(delivery.record.unwrap().data(), "last");
    assert!((4..30).contains(&turns), "{turns} turns");
    desk.turns(2);
    assert_eq!((live(&mut desk, queue), desk.ready("dead")), (1, 5000));
}

#[test]
fn a_consumer_comes_to_what_is_behind_many_expired_records() {
    let mut desk = Desk::new(|_| {});
    desk.declare("other", Policy::default());
    let queue = desk.declare("q", Policy::default());
    expiring(&mut desk, "q", 5000);
    let consume = Consume {
        source: Source::Queue("q".to_owned()),
        consumer: ConsumerId(1),
        options: 0,
        pool: 1,
        limit: 0,
        settle_at_once: false,
        exclusive: false,
        priority: 0,
    };
    let _answer = desk.begin(|client, reply| Command::Consume { client, consume, reply });
    assert_eq!(turns_of_another(&mut desk), 1);
    assert!(live(&mut desk, queue) > 3000, "one turn ended all but {}", live(&mut desk, queue));
    let mut turns = 0;
    let notices = loop {
        turns += 1;
        assert!(turns < 30, "nothing comes");
        desk.turn();
        let notices = desk.notices();
        if !notices.is_empty() {
            break notices;
        }
    };
    let [Notice::Delivery(delivery)] = notices.as_slice() else { panic!("{notices:?}") };
    assert_eq!(delivery.record.as_ref().unwrap().data(), "last");
    desk.turns(2);
    assert_eq!(live(&mut desk, queue), 1);
}

#[test]
fn a_queue_far_over_its_bounds_comes_back_to_them_in_turns() {
    const HELD: u64 = 5000;
    let mut desk = Desk::new(|_| {});
    desk.declare("other", Policy::default());
    desk.declare("dead", Policy::default());
    let dead = DeadLetter::Exchange { name: String::new(), key: Some("dead".into()) };
    let delivery = DeliveryPolicy { dead_letter: Some(dead), ..DeliveryPolicy::default() };
    let policy = Policy { len_max: Some(HELD), delivery, ..Policy::default() };
    let queue = desk.declare("q", policy);
    desk.fill("q", 5000, 10);
    let held: Vec<_> = (0..HELD).map(|_| desk.get("q").id).collect();
    desk.fill("q", 5000, 10);
    assert_eq!(live(&mut desk, queue), 2 * HELD);
    let batch = held.into_iter().map(|id| Settlement { id, verdict: Verdict::Release }).collect();
    let _given_back =
        desk.begin(|client, reply| Command::Settle { client, batch, reply: Some(reply) });
    assert_eq!(turns_of_another(&mut desk), 1);
    let left = live(&mut desk, queue);
    assert!(left > 2 * HELD - 2000, "one turn dropped all but {left}");
    // Publishes do not wait for it, nor does it grow.
    desk.fill("q", 2, 10);
    assert!(live(&mut desk, queue) < left);
    desk.turns(30);
    assert_eq!((desk.ready("q"), desk.ready("dead")), (HELD, HELD + 2));
}

#[test]
fn what_exchanges_remember_is_written_no_faster_than_the_disk_takes_it() {
    const UNCOMMITTED_MAX: u64 = 1 << 20;
    let mut desk = Desk::new(|config| {
        config.uncommitted_bytes_max = 1 << 20;
        config.segment_bytes = 16 << 20;
        config.message_bytes_max = 64 << 10;
    });
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
    let address = Address::amqp("x".into(), "".into());
    for _ in 0..10 {
        let body = vec![7; 50_000];
        let publish = Publish::new(desk.draft(&address, &body).encode().unwrap());
        let published = desk.publish(vec![publish]);
        assert!(matches!(published.as_slice(), [Published::Taken { .. }]), "{published:?}");
    }
    let names: Vec<String> = (0..20).map(|number| format!("q{number}")).collect();
    for name in &names {
        desk.declare(name, Policy::default());
    }
    let bind = |name: &String| Bind {
        source: "x".to_owned(),
        destination: name.clone(),
        to_exchange: false,
        key: "".into(),
        arguments: Vec::new(),
    };
    let answers: Vec<_> = names
        .iter()
        .map(|name| {
            let bind = bind(name);
            desk.begin(|client, reply| Command::Bind { client, bind, reply })
        })
        .collect();
    desk.world.turn().unwrap();
    let planned = desk.world.commit.unwritten_bytes();
    assert!(planned < 2 * UNCOMMITTED_MAX, "one turn planned {planned} bytes");
    for answer in answers {
        desk.wait_for(answer).0.unwrap();
    }
    for name in &names {
        assert_eq!(desk.ready(name), 10, "{name}");
    }
}

#[test]
fn a_purge_around_something_unsettled_takes_turns() {
    let mut desk = Desk::new(|config| config.queues_resident_max = 1);
    desk.declare("other", Policy::default());
    let queue = desk.declare("q", Policy::default());
    desk.fill("q", MANY, 10);
    let held = desk.get("q");
    let name = "q".to_owned();
    let answer = desk.begin(|client, reply| Command::PurgeQueue { client, name, reply });
    assert_eq!(turns_of_another(&mut desk), 1);
    let left = live(&mut desk, queue);
    assert!(left > MANY as u64 / 3, "one turn purged all but {left}");
    assert!(desk.try_get("q", true).is_none(), "nobody gets what is being purged");
    desk.fill("q", 1, 10);
    let (purged, turns) = desk.wait_for(answer);
    assert_eq!(purged.unwrap(), MANY as u64 - 1);
    assert!(turns < 30, "{turns} turns");
    assert_eq!((live(&mut desk, queue), desk.ready("q")), (2, 1), "what came later stays");
    assert!(desk.settle(held.id, Verdict::Accept));
    assert_eq!(desk.rebuilt().ready("q"), 1);
}

#[test]
fn a_purge_of_all_there_is_takes_one_turn() {
    let mut desk = Desk::new(|_| {});
    let queue = desk.declare("q", Policy::default());
    desk.fill("q", MANY, 10);
    let delivery = desk.get("q");
    assert!(desk.settle(delivery.id, Verdict::Unread));
    let name = "q".to_owned();
    let _purged = desk.begin(|client, reply| Command::PurgeQueue { client, name, reply });
    desk.turn();
    assert_eq!(live(&mut desk, queue), 0);
}

#[test]
fn a_purge_of_many_priorities_takes_turns_but_for_the_last() {
    let mut desk = Desk::new(|_| {});
    desk.declare("other", Policy::default());
    let queue = desk.declare("q", Policy { priority_max: 2, ..Policy::default() });
    let address = Address::amqp(bytes::Bytes::new(), "q".into());
    for priority in [0, 1, 2] {
        for _ in 0..MANY / 1000 {
            let mut draft = desk.draft(&address, b"x");
            draft.priority = priority;
            let one = Publish::new(draft.encode().unwrap());
            desk.publish(vec![one; 1000]);
        }
    }
    let all = 3 * MANY as u64;
    assert_eq!(live(&mut desk, queue), all);
    let purge = || |client, reply| Command::PurgeQueue { client, name: "q".to_owned(), reply };
    let answer = desk.begin(purge());
    desk.turn();
    assert!(
        live(&mut desk, queue) > all - 20_000,
        "one turn purged all but {}",
        live(&mut desk, queue)
    );
    let again = desk.begin(purge());
    let (purged, turns) = desk.wait_for(answer);
    assert!((4..30).contains(&turns), "{turns} turns");
    assert_eq!((purged.unwrap(), live(&mut desk, queue)), (all, 0));
    assert_eq!(desk.wait_for(again).0.unwrap(), 0, "what is being purged is not purged twice");
    desk.rebuilt();
}

#[test]
fn a_purge_of_a_stream_takes_turns() {
    let mut desk = Desk::new(|_| {});
    desk.declare("other", Policy::default());
    let queue = desk.declare_as("s", Policy::default(), Retention::Time, true);
    desk.fill("s", MANY, 10);
    let name = "s".to_owned();
    let answer = desk.begin(|client, reply| Command::PurgeQueue { client, name, reply });
    assert_eq!(turns_of_another(&mut desk), 1);
    assert!(live(&mut desk, queue) > MANY as u64 / 3);
    desk.fill("s", 1, 10);
    let (_, turns) = desk.wait_for(answer);
    assert!(turns < 30, "{turns} turns");
    assert_eq!(live(&mut desk, queue), 1, "what came later stays");
}

fn subscribe(desk: &mut Desk, session: &str, filter: &str) -> Subscribed {
    let open = OpenSession { id: session.to_owned(), clean: false, expiry_s: u32::MAX, limit: 10 };
    desk.ask(|client, reply| Command::OpenSession { client, open, reply }).unwrap();
    let filter = Filter::parse(filter).unwrap();
    let subscribe = Subscribe { filter, share: None, options: 0, live: false };
    desk.ask(|client, reply| Command::Subscribe { client, subscribe, reply }).unwrap()
}

fn publish_to(desk: &mut Desk, path: &str, count: usize, flags: u16) {
    let address = Address::http(path.to_owned().into());
    let one = |desk: &Desk| {
        let mut draft = desk.draft(&address, b"x");
        draft.flags |= flags;
        Publish::new(draft.encode().unwrap())
    };
    let batch = (0..count).map(|_| one(desk)).collect();
    desk.publish(batch);
}

#[test]
fn what_only_a_gone_reader_needed_goes_bit_by_bit() {
    for loses_index in [false, true] {
        let mut desk = Desk::new(|_| {});
        desk.declare("other", Policy::default());
        let _behind = subscribe(&mut desk, "behind", "t/#");
        // The session is taken to another client, which must not get anything.
        let first = desk.client;
        for _ in 0..MANY / 1000 {
            publish_to(&mut desk, "t/a", 1000, 0);
        }
        let queues: Vec<QueueId> = (desk.world.commit.state.queues.resident())
            .filter(|(_, queue)| queue.live > 1000)
            .map(|(id, _)| id)
            .collect();
        let [queue] = queues.as_slice() else { panic!("{queues:?}") };
        desk.client = ClientId(2);
        let (outbox, _inbox) = crate::inbox::pair(10, 1000);
        let attach = Command::Attach { client: desk.client, namespace: "/".into(), outbox };
        desk.world.commands.push(attach);
        let _ahead = subscribe(&mut desk, "ahead", "t/#");
        desk.client = first;
        desk.checkpoint();
        assert_eq!(live(&mut desk, *queue), MANY as u64);
        let filter = Filter::parse("t/#").unwrap();
        let answer =
            desk.begin(|client, reply| Command::Unsubscribe { client, filter, share: None, reply });
        assert_eq!(turns_of_another(&mut desk), 1);
        assert!(live(&mut desk, *queue) > MANY as u64 / 2, "most of it is still there");
        assert!(desk.wait_for(answer).0.unwrap());
        // What is left goes after a restart too.
        desk.checkpoint();
        assert!(live(&mut desk, *queue) > 0);
        let mut desk = desk.crash(loses_index);
        for _ in 0..20 {
            desk.pass(10);
            desk.turn();
        }
        assert_eq!(live(&mut desk, *queue), 0);
        desk.rebuilt();
    }
}

#[test]
fn a_look_for_many_retained_records_takes_turns() {
    let mut desk = Desk::new(|_| {});
    desk.declare("other", Policy::default());
    for number in 0..MANY / 3 {
        publish_to(&mut desk, &format!("r/{}/{}", number % 100, number / 100), 1, flags::RETAIN);
    }
    let look = |filter: &str| {
        let filter = Filter::parse(filter).unwrap();
        |client, reply| Command::Retained { client, filter, reply }
    };
    let answer = desk.begin(look("#"));
    assert_eq!(turns_of_another(&mut desk), 1);
    let (found, turns) = desk.wait_for(answer);
    assert_eq!(found.len(), MANY / 3);
    assert!((2..30).contains(&turns), "{turns} turns");
    let (found, turns) = desk.count_turns(look("r/+/7"));
    assert_eq!((found.len(), turns), (100, 1), "the others are not looked at");
    let (found, turns) = desk.count_turns(look("r/42/#"));
    assert_eq!((found.len(), turns), (100, 1));
}

#[test]
fn a_turn_reads_some_mebibytes_of_what_dies_or_comes_due() {
    const COUNT: usize = 40;
    let mut desk = Desk::new(|config| {
        config.segment_bytes = 16 << 20;
        config.message_bytes_max = 1 << 20;
        config.uncommitted_bytes_max = 2 << 20;
        config.tail_cache_bytes = 0;
    });
    desk.declare("other", Policy::default());
    desk.declare("dead", Policy::default());
    let dead = DeadLetter::Exchange { name: String::new(), key: Some("dead".into()) };
    let delivery = DeliveryPolicy { dead_letter: Some(dead), ..DeliveryPolicy::default() };
    let brief = Policy { ttl_ms: Some(10_000), delivery: delivery.clone(), ..Policy::default() };
    desk.declare("brief", brief);
    desk.declare("small", Policy { len_max: Some(COUNT as u64), delivery, ..Policy::default() });
    let none_at_once = |desk: &mut Desk, what: &str, before: u64| {
        let some = desk.ready("dead") - before;
        assert!((1..25).contains(&some), "two turns moved {some} that {what}");
        for _ in 0..30 {
            desk.pass(2);
            desk.turn();
        }
        assert_eq!(desk.ready("dead"), before + COUNT as u64, "{what}");
    };
    // Over their time.
    for _ in 0..COUNT {
        desk.fill("brief", 1, 1 << 20);
    }
    desk.pass(20_000);
    desk.world.turn().unwrap();
    none_at_once(&mut desk, "expired", 0);
    // Over the bound, as they come back.
    let mut held = Vec::new();
    for _ in 0..COUNT {
        desk.fill("small", 1, 1 << 20);
        held.push(desk.get("small").id);
    }
    desk.fill("small", COUNT, 10);
    for id in held {
        desk.give_back(id, Verdict::Release);
    }
    none_at_once(&mut desk, "were too many", COUNT as u64);
    // Due.
    let address = Address::amqp(bytes::Bytes::new(), "dead".into());
    for _ in 0..COUNT {
        let body = vec![7; 1 << 20];
        let mut draft = desk.draft(&address, &body);
        draft.deliver_at = now().plus(20_000);
        let publish = Publish::new(draft.encode().unwrap());
        desk.publish(vec![publish]);
    }
    desk.pass(20_000);
    desk.turn();
    none_at_once(&mut desk, "came due", 2 * COUNT as u64);
}

#[test]
fn a_binding_that_is_known_is_not_put_off() {
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
    desk.declare("q", Policy::default());
    let bind = || Bind {
        source: "x".to_owned(),
        destination: "q".to_owned(),
        to_exchange: false,
        key: "".into(),
        arguments: Vec::new(),
    };
    desk.ask(|client, reply| Command::Bind { client, bind: bind(), reply }).unwrap();
    let address = Address::amqp("x".into(), "".into());
    let seen = |desk: &mut Desk| {
        let publish = Publish::new(desk.draft(&address, b"seen").encode().unwrap());
        desk.publish(vec![publish]);
        desk.ready("q")
    };
    assert_eq!(seen(&mut desk), 1);
    // More than the disk takes at once.
    let batch = (0..2).map(|_| desk.direct("q", &[7; 7000])).collect();
    let permit = desk.permit();
    let _answer = desk.begin(|client, reply| Command::Publish { client, batch, permit, reply });
    let _bound = desk.begin(|client, reply| Command::Bind { client, bind: bind(), reply });
    let unbound = desk.begin(|client, reply| Command::Unbind { client, bind: bind(), reply });
    desk.wait_for(unbound).0.unwrap();
    desk.turns(3);
    assert_eq!(seen(&mut desk), 3, "it is bound again");
}
