//! Who may do little does no more by any spelling of an address.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use mainstem_broker::{
    Act, AllRights, Authenticator, Bind, Broker, Client, DeclareExchange, DeclareQueue,
    DeliveryPolicy, ExchangeDef, ExchangeKind, Inbox, LoginError, OpenSession, Publish, Published,
    Refusal, Rights, Start, Subscribe,
};
use mainstem_schemas::{
    Address, Credentials, Doors, Filter, Principal, Record, Secret, Table, Views,
};
use tempfile::TempDir;

use super::{door, record};

/// Names that acts are allowed on, and at which exchange keys have to begin how.
#[derive(Clone, Debug, Default)]
struct Few {
    write: BTreeSet<String>,
    read: BTreeSet<String>,
    configure: BTreeSet<String>,
    keys: Option<(&'static str, &'static str)>,
}

impl Rights for Few {
    fn is_all(&self) -> bool {
        false
    }

    fn may(&self, act: Act, name: &str) -> bool {
        match act {
            Act::Write => self.write.contains(name),
            Act::Read => self.read.contains(name),
            Act::Configure => self.configure.contains(name),
        }
    }

    fn may_use_key(&self, _act: Act, exchange: &str, key: &[u8]) -> bool {
        self.keys.is_none_or(|(at, prefix)| at != exchange || key.starts_with(prefix.as_bytes()))
    }

    fn bounds_keys(&self, exchange: &str) -> bool {
        self.keys.is_some_and(|(at, _)| at == exchange)
    }
}

#[derive(Default)]
struct Office {
    clerk: Mutex<Few>,
    edition: AtomicU64,
}

impl Office {
    fn allow(&self, rights: Few) {
        *self.clerk.lock().unwrap() = rights;
        self.edition.fetch_add(1, Ordering::SeqCst);
    }
}

struct Door(Arc<Office>);

impl Authenticator for Door {
    fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError> {
        let Secret::Password { user, .. } = &credentials.secret else {
            return Err(LoginError::BadCredentials);
        };
        let namespace = credentials.namespace.as_str();
        Ok(Principal::named(user.as_str(), namespace))
    }

    fn rights(&self, principal: &Principal, _client_id: Option<&str>) -> Arc<dyn Rights> {
        match &*principal.name {
            "boss" => Arc::new(AllRights),
            _ => Arc::new(self.0.clerk.lock().unwrap().clone()),
        }
    }

    fn edition(&self) -> u64 {
        1 + self.0.edition.load(Ordering::SeqCst)
    }
}

/// A new office, and its broker.
fn office() -> (TempDir, Arc<Office>, Broker) {
    let dir = tempfile::tempdir().unwrap();
    let office = Arc::new(Office::default());
    let config = door::config(dir.path(), 4 << 20, 1 << 20);
    let broker = Broker::open(config, Arc::new(Door(office.clone())), Views::default()).unwrap();
    (dir, office, broker)
}

async fn login(broker: &Broker, user: &str) -> (Client, Inbox) {
    let secret = Secret::Password { user: user.to_owned(), password: Vec::new() };
    let peer = "127.0.0.1:1".parse().unwrap();
    broker.login(&Credentials { namespace: "/".to_owned(), secret, peer }).await.unwrap()
}

fn exchange(name: &str) -> DeclareExchange {
    let (durable, auto_delete, internal) = (true, false, false);
    let (name, kind, arguments) = (name.to_owned(), ExchangeKind::Topic, Table::new());
    DeclareExchange { def: ExchangeDef { name, kind, durable, auto_delete, internal, arguments } }
}

const EXCHANGES: [&str; 4] = ["amq.topic", "orders", "stock", "job"];

/// An office with a queue behind each exchange that gets all that enters there, a topic and a mailbox.
async fn furnish(broker: &Broker) -> (Client, Inbox) {
    let (boss, inbox) = login(broker, "boss").await;
    for name in EXCHANGES {
        if name != "amq.topic" {
            boss.declare_exchange(exchange(name)).await.unwrap();
        }
        let queue = format!("q.{name}");
        boss.declare_queue(DeclareQueue { def: door::queue(&queue) }).await.unwrap();
        let bind = Bind {
            source: name.to_owned(),
            destination: queue,
            to_exchange: false,
            key: Bytes::from_static(b"#"),
            arguments: Table::new(),
        };
        boss.bind(bind).await.unwrap();
    }
    boss.declare_queue(DeclareQueue { def: door::queue("mailbox") }).await.unwrap();
    boss.open_topic("job".to_owned(), true).await.unwrap();
    (boss, inbox)
}

/// Every way to say where to.
fn spellings() -> Vec<Address> {
    let amqp = |exchange: &str, key: &str| {
        Address::amqp(Bytes::from(exchange.to_owned()), Bytes::from(key.to_owned()))
    };
    let mut all = vec![
        amqp("", "mailbox"),
        amqp("", "$topic.orders.a"),
        amqp("", "$topic.x.a"),
        Address::mqtt(Bytes::from_static(b"$queue/mailbox")),
        Address::http(Bytes::from_static(b"$queue/mailbox")),
    ];
    for name in EXCHANGES {
        all.push(amqp(name, "a.b"));
        all.push(amqp("amq.topic", &format!("{name}.a")));
        for topic in [format!("{name}/a"), name.to_owned(), format!("x/{name}")] {
            all.push(Address::mqtt(topic.clone().into()));
            all.push(Address::http(topic.into()));
        }
        let (topic, tag) = (Bytes::from(name.to_owned()), Bytes::from_static(b"a"));
        all.push(Address::rocketmq(topic.clone(), tag.clone()));
        all.push(Address { lite: true, ..Address::rocketmq(topic, tag) });
    }
    all
}

/// Publishes, and tells whether it was refused as not allowed.
async fn publish(client: &Client, address: &Address, body: &str) -> bool {
    let batch = vec![Publish::new(record(address, body.as_bytes()))];
    let outcome = client.publish(batch).await.unwrap().await.unwrap().remove(0);
    matches!(outcome, Published::Refused(Refusal::Denied { .. }))
}

/// The bodies of all that a queue has.
async fn empty(boss: &Client, queue: &str) -> Vec<(Address, String)> {
    let mut got = Vec::new();
    while let Some((delivery, _)) = boss.get(queue.to_owned(), true).await.unwrap() {
        let mut one = vec![delivery];
        boss.resolve(&mut one).await.unwrap();
        let record = one.remove(0).record.unwrap();
        got.push((record.address(), String::from_utf8_lossy(&record.data()).into_owned()));
    }
    got
}

fn pick(rng: &mut fastrand::Rng, names: &[&str]) -> BTreeSet<String> {
    names.iter().filter(|_| rng.bool()).map(|name| (*name).to_owned()).collect()
}

/// Whatever its sender calls it, a record enters an exchange only whose name its sender may write, by a
/// key it may use; and what was refused comes to nobody.
#[tokio::test]
async fn no_spelling_of_an_address_leads_where_its_sender_may_not_write() {
    let (_dir, office, broker) = office();
    let (boss, _inbox) = furnish(&broker).await;
    let (clerk, _other) = login(&broker, "clerk").await;
    let names = ["amq.topic", "orders", "stock", "job", "x", "amq.default"];
    let (mut taken, mut denied) = (0, 0);
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let prefix = rng.bool().then(|| rng.choice(["orders.", "x."]).unwrap());
        let keys = prefix.map(|prefix| ("amq.topic", prefix));
        let write = pick(&mut rng, &names);
        let rights = Few { write, keys, ..Few::default() };
        office.allow(rights.clone());
        let mut refused = BTreeSet::new();
        for (number, address) in spellings().iter().enumerate() {
            if publish(&clerk, address, &number.to_string()).await {
                refused.insert(number.to_string());
            }
        }
        denied += refused.len();
        for name in EXCHANGES {
            for (address, body) in empty(&boss, &format!("q.{name}")).await {
                assert!(rights.write.contains(name), "{seed}: {address:?} came to {name}");
                assert!(!refused.contains(&body), "{seed}: {address:?} was refused and came");
                let key = match address.entrance() {
                    mainstem_schemas::Entrance::Exchange { key, .. } => key,
                    mainstem_schemas::Entrance::Path => {
                        address.path().render(mainstem_schemas::Dialect::Amqp)
                    }
                };
                let may = name != "amq.topic" || rights.may_use_key(Act::Write, name, &key);
                assert!(may, "{seed}: {address:?} by {key:?}");
                taken += 1;
            }
        }
        for (address, body) in empty(&boss, "mailbox").await {
            assert!(rights.write.contains("amq.default"), "{seed}: {address:?}");
            assert!(!refused.contains(&body));
        }
    }
    assert!(taken > 500 && denied > 500, "{taken} taken, {denied} denied");
}

/// Who may write everywhere by name is refused nowhere.
#[tokio::test]
async fn who_may_write_all_of_it_is_not_in_the_way_of_itself() {
    let (_dir, office, broker) = office();
    let (boss, _inbox) = furnish(&broker).await;
    let (clerk, _other) = login(&broker, "clerk").await;
    let names = ["amq.topic", "orders", "stock", "job", "x", "amq.default"];
    let write: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();
    office.allow(Few { write, ..Few::default() });
    for address in spellings() {
        assert!(!publish(&clerk, &address, "x").await, "{address:?}");
        let by_clerk = {
            let mut all = Vec::new();
            for name in EXCHANGES {
                all.push(empty(&boss, &format!("q.{name}")).await.len());
            }
            all
        };
        publish(&boss, &address, "x").await;
        for (name, count) in EXCHANGES.into_iter().zip(by_clerk) {
            let by_boss = empty(&boss, &format!("q.{name}")).await.len();
            assert_eq!(by_boss, count, "{address:?} at {name}");
        }
        empty(&boss, "mailbox").await;
    }
}

/// A delayed record, too, enters where its sender might write when it was sent.
#[tokio::test]
async fn what_is_held_back_goes_no_further_than_what_is_not() {
    let (_dir, office, broker) = office();
    let (boss, _inbox) = furnish(&broker).await;
    let (clerk, _other) = login(&broker, "clerk").await;
    let write = ["amq.topic".to_owned()].into();
    office.allow(Few { write, ..Few::default() });
    let address = Address::mqtt(Bytes::from_static(b"orders/a"));
    let terms = mainstem_broker::Terms { undecided: true, ..Default::default() };
    let batch = vec![Publish::new(record(&address, b"late")).on(terms)];
    let outcome = clerk.publish(batch).await.unwrap().await.unwrap().remove(0);
    let Published::Held(held) = outcome else { panic!("{outcome:?}") };
    assert!(boss.decide(held, true).await.unwrap());
    assert_eq!(empty(&boss, "q.amq.topic").await.len(), 1);
    assert_eq!(empty(&boss, "q.orders").await.len(), 0);
}

#[tokio::test]
async fn readers_are_asked_for_every_way_to_read() {
    let (_dir, office, broker) = office();
    let (_boss, _inbox) = furnish(&broker).await;
    let (clerk, _other) = login(&broker, "clerk").await;
    let open = OpenSession { id: "c".to_owned(), clean: true, expiry_s: 0, limit: 10 };
    clerk.open_session(open).await.unwrap();
    let subscribe = |filter: &str, share: Option<&str>| Subscribe {
        filter: Filter::parse(filter).unwrap(),
        share: share.map(str::to_owned),
        options: 0,
        live: false,
    };
    let policy = DeliveryPolicy::default;
    for name in ["", "job", "amq.topic", "q.orders", "g"] {
        let read: BTreeSet<String> = [name.to_owned()].into();
        office.allow(Few { read, ..Few::default() });
        let denied = |outcome: Result<(), Refusal>| matches!(outcome, Err(Refusal::Denied { .. }));
        let got = clerk.get("q.orders".to_owned(), false).await.map(drop);
        assert_eq!(denied(got), name != "q.orders");
        let sought = clerk.seek("job".to_owned(), Start::First).await.map(drop);
        assert_eq!(denied(sought), name != "job");
        let opened = clerk.open_group("job".to_owned(), "g".to_owned(), policy()).await.map(drop);
        assert!(denied(opened), "it takes the topic and the group");
        let subscribed = clerk.subscribe(subscribe("a/#", None)).await.map(drop);
        assert_eq!(denied(subscribed), name != "amq.topic");
        let shared = clerk.subscribe(subscribe("job/#", Some("s"))).await.map(drop);
        assert!(denied(shared), "others of the group would lose what this one may not see");
        for (address, seen_by) in [
            (Address::mqtt(Bytes::from_static(b"orders/a")), "amq.topic"),
            (Address::amqp(Bytes::from_static(b"job"), Bytes::from_static(b"a")), "job"),
            (Address::rocketmq(Bytes::from_static(b"job"), Bytes::new()), "job"),
        ] {
            let sees = clerk.may_see(&record(&address, b""), None);
            assert_eq!(sees, name == seen_by, "{address:?} by {name}");
        }
    }
    office.allow(Few { read: ["job", "g"].map(str::to_owned).into(), ..Few::default() });
    clerk.open_group("job".to_owned(), "g".to_owned(), policy()).await.unwrap();
    let none = clerk.open_topic("new".to_owned(), true).await;
    assert!(matches!(none, Err(Refusal::Denied { .. })), "{none:?}");
    assert!(clerk.open_topic("job".to_owned(), true).await.is_ok(), "it is there");
}

/// Who shares a filter gets what the others do not, so that it has to be all theirs.
#[tokio::test]
async fn a_filter_is_shared_by_those_who_may_have_all_of_it() {
    let (_dir, office, broker) = office();
    let (_boss, _inbox) = furnish(&broker).await;
    let (clerk, _other) = login(&broker, "clerk").await;
    let open = || OpenSession { id: "c".to_owned(), clean: false, expiry_s: 60, limit: 10 };
    clerk.open_session(open()).await.unwrap();
    let share = |filter: &str| {
        let (filter, share) = (Filter::parse(filter).unwrap(), Some("g".to_owned()));
        clerk.subscribe(Subscribe { filter, share, options: 0, live: false })
    };
    let read: BTreeSet<String> = ["amq.topic", "orders"].map(str::to_owned).into();
    let bounded = Few { read: read.clone(), keys: Some(("orders", "eu.")), ..Few::default() };
    office.allow(bounded.clone());
    for (filter, is_allowed) in
        [("orders/#", false), ("orders/us/a", false), ("orders/eu/a", true), ("stock/#", false)]
    {
        assert_eq!(share(filter).await.is_ok(), is_allowed, "{filter}");
    }
    office.allow(Few { keys: None, ..bounded.clone() });
    share("orders/#").await.unwrap();
    // What its holder may not have any more, or another one never, a session does not keep.
    office.allow(bounded);
    let (heir, _his) = login(&broker, "clerk").await;
    let held = heir.open_session(open()).await.unwrap().subscriptions;
    let [only] = held.as_slice() else { panic!("{held:?}") };
    assert_eq!(only.subscribe.filter, Filter::parse("orders/eu/a").unwrap());
}

/// A will, and whatever else is published when its sender is gone.
#[tokio::test]
async fn what_the_server_publishes_for_somebody_goes_by_their_rights() {
    let (_dir, office, broker) = office();
    let path = record(&Address::mqtt(Bytes::from_static(b"orders/a")), b"");
    let mail = record(&Address::mqtt(Bytes::from_static(b"$queue/mailbox")), b"");
    let write = ["amq.topic".to_owned()].into();
    office.allow(Few { write, ..Few::default() });
    let permit = |user: &str, record: &Record| broker.permit(user, "/", "c", record.clone());
    assert_eq!(permit("clerk", &path).unwrap().doors(), Doors::Root);
    assert_eq!(permit("boss", &path).unwrap().doors(), Doors::Both);
    assert!(permit("boss", &mail).is_ok() && permit("clerk", &mail).is_err());
    office.allow(Few::default());
    assert!(permit("clerk", &path).is_err());
}

#[tokio::test]
async fn making_and_binding_are_asked_for() {
    let (_dir, office, broker) = office();
    let (_boss, _inbox) = furnish(&broker).await;
    let (clerk, _other) = login(&broker, "clerk").await;
    let bind = || Bind {
        source: "orders".to_owned(),
        destination: "mine".to_owned(),
        to_exchange: false,
        key: Bytes::from_static(b"#"),
        arguments: Table::new(),
    };
    let refused = |outcome: Result<(), Refusal>| outcome.unwrap_err().to_string();
    let declare = || clerk.declare_queue(DeclareQueue { def: door::queue("mine") });
    assert_eq!(
        refused(declare().await.map(drop)),
        "access to queue 'mine' refused for user 'clerk'"
    );
    let mut rights = Few { configure: ["mine".to_owned()].into(), ..Few::default() };
    office.allow(rights.clone());
    declare().await.unwrap();
    assert_eq!(
        refused(clerk.bind(bind()).await),
        "access to queue 'mine' refused for user 'clerk'"
    );
    rights.write.insert("mine".to_owned());
    office.allow(rights.clone());
    assert_eq!(
        refused(clerk.bind(bind()).await),
        "access to exchange 'orders' refused for user 'clerk'"
    );
    rights.read.insert("orders".to_owned());
    office.allow(rights);
    clerk.bind(bind()).await.unwrap();
    assert!(clerk.delete_exchange("orders".to_owned(), false).await.is_err());
    assert!(clerk.purge_queue("mine".to_owned()).await.is_err());
    clerk.delete_queue("mine".to_owned(), false, false).await.unwrap();
}
