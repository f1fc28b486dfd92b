//! The broker against the model: random exchanges' bindings, filters and publishes.

use std::{cell::Cell, collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use mainstem_broker::{
    Authenticator, Bind, Broker, Client, Config, DeclareExchange, DeclareQueue, ExchangeDef,
    ExchangeKind, Inbox, LoginError, Notice, OpenSession, Publish, Published, QueueDef, Retention,
    Subscribe, config::Durability,
};
use mainstem_schemas::{
    Address, ConsumerId, Credentials, Filter, Principal, QueueId, RecordDraft, Secret, Value, Views,
};
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any},
    prop_oneof,
    sample::select,
    test_runner::{Config as Cases, TestCaseError, TestRunner},
};
use tempfile::TempDir;

use crate::model::{Came, Exchange, Topology, key_words, words};

const CASES: u32 = 1000;
const QUEUES: [&str; 3] = ["q0", "q1", "q2"];
/// Name, and whether filters do not see it.
const EXCHANGES: [(&str, bool); 2] = [("a", false), ("b", true)];
/// Hidden from leading wildcards by its `$`.
const MARKER: &str = "$marker";

/// One publish, in its sender's words.
#[derive(Clone, Debug)]
enum Sent {
    Amqp(String, String),
    Mqtt(String),
    Http(String),
    Rocketmq(String, String),
}

impl Sent {
    fn came(&self) -> Came {
        match self {
            Self::Amqp(exchange, key) => Came::amqp(exchange, key),
            Self::Mqtt(topic) | Self::Http(topic) => Came::topic(topic),
            Self::Rocketmq(topic, tag) => Came::rocketmq(topic, tag),
        }
    }

    fn address(&self) -> Address {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        match self {
            Self::Amqp(exchange, key) => Address::amqp(bytes(exchange), bytes(key)),
            Self::Mqtt(topic) => Address::mqtt(bytes(topic)),
            Self::Http(topic) => Address::http(bytes(topic)),
            Self::Rocketmq(topic, tag) => Address::rocketmq(bytes(topic), bytes(tag)),
        }
    }
}

/// A topology and what is published into it.
#[derive(Clone, Debug)]
struct Case {
    /// Exchange, queue, key.
    binds: Vec<(&'static str, &'static str, String)>,
    filters: Vec<String>,
    sent: Vec<Sent>,
}

fn joined(
    alphabet: &'static [&'static str],
    separator: &'static str,
    most: usize,
) -> impl Strategy<Value = String> {
    vec(select(alphabet), 1..=most).prop_map(move |words| words.join(separator))
}

fn case() -> impl Strategy<Value = Case> {
    let exchange = || select(&["a", "b", "amq.topic"][..]);
    let key = || prop_oneof![1 => Just(String::new()), 6 => joined(&["a", "b", "c", ""], ".", 3)];
    let pattern = prop_oneof![1 => Just(String::new()), 8 => joined(&["a", "b", "*", "#"], ".", 3)];
    let binds = vec((exchange(), select(&QUEUES[..]), pattern), 0..8);
    let filter = (joined(&["a", "b", "+", "c", "$queue"], "/", 3), any::<bool>());
    let filter = filter.prop_map(|(text, rest)| if rest { text + "/#" } else { text });
    let filters = vec(prop_oneof![6 => filter, 1 => Just("#".to_owned())], 0..4);
    let topic = || joined(&["a", "b", "c", "", "$x"], "/", 4);
    let direct = select(&["q0", "q1", "$topic.a.b", "$topic.b", "nobody"][..]);
    let sent = prop_oneof![
        (exchange(), key()).prop_map(|(exchange, key)| Sent::Amqp(exchange.to_owned(), key)),
        direct.prop_map(|key| Sent::Amqp(String::new(), key.to_owned())),
        topic().prop_map(Sent::Mqtt),
        topic().prop_map(Sent::Http),
        Just(Sent::Mqtt("$queue/q0".to_owned())),
        (select(&["a", "b", "c"][..]), select(&["", "a", "b.c"][..]))
            .prop_map(|(topic, tag)| Sent::Rocketmq(topic.to_owned(), tag.to_owned())),
    ];
    (binds, filters, vec(sent, 1..8)).prop_map(|(binds, filters, sent)| {
        // An MQTT topic has at least one character.
        let sent = sent
            .into_iter()
            .filter(|sent| !matches!(sent, Sent::Mqtt(t) | Sent::Http(t) if t.is_empty()));
        Case { binds, filters, sent: sent.collect() }
    })
}

#[test]
fn the_broker_routes_as_the_model_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let data = TempDir::new().unwrap();
    let broker = open(data.path());
    let number = Cell::new(0);
    let cases = Cases { cases: CASES, failure_persistence: None, ..Cases::default() };
    let outcome = TestRunner::new(cases).run(&case(), |case| {
        number.set(number.get() + 1);
        let namespace = format!("case-{}", number.get());
        runtime.block_on(run(&broker, &namespace, &case)).map_err(TestCaseError::fail)
    });
    runtime.block_on(broker.stop());
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

struct Anyone;

impl Authenticator for Anyone {
    fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError> {
        let namespace = credentials.namespace.as_str();
        Ok(Principal::named("anyone", namespace))
    }
}

fn open(data_dir: &Path) -> Broker {
    let mut config = Config::new(data_dir.to_owned());
    config.durability = Durability::None;
    Broker::open(config, Arc::new(Anyone), Views::default()).expect("an empty data directory")
}

async fn login(broker: &Broker, namespace: &str) -> (Client, Inbox) {
    let peer = "127.0.0.1:1".parse().unwrap();
    let namespace = namespace.to_owned();
    let credentials = Credentials { namespace, secret: Secret::Anonymous, peer };
    broker.login(&credentials).await.unwrap()
}

/// Plays one case in a namespace of its own, and says where broker and model differ.
async fn run(broker: &Broker, namespace: &str, case: &Case) -> Result<(), String> {
    let (client, _inbox) = login(broker, namespace).await;
    let topology = declare(&client, case).await;
    let mut live = Vec::new();
    for (index, filter) in case.filters.iter().enumerate() {
        live.push(Live::start(broker, namespace, index, filter).await);
    }
    let mut ready: BTreeMap<&str, u64> = QUEUES.map(|queue| (queue, 0)).into();
    let mut wanted = vec![0; live.len()];
    for sent in &case.sent {
        let came = sent.came();
        let mut readers = 0;
        for queue in topology.queues(&came) {
            // A direct message to a queue that does not exist reaches nothing.
            if let Some(count) = ready.get_mut(queue) {
                *count += 1;
                readers += 1;
            }
        }
        for (index, filter) in case.filters.iter().enumerate() {
            if topology.is_wanted(&came, &words(filter, '/')) {
                wanted[index] += 1;
                readers += 1;
            }
        }
        let outcome = publish(&client, namespace, &sent.address()).await;
        match outcome {
            Published::Taken { readers: got, .. } if got == readers => {}
            other => return Err(format!("{sent:?}: {other:?}, the model has {readers} readers")),
        }
    }
    for (queue, expected) in &ready {
        let got = client.find_queue((*queue).to_owned()).await.unwrap().stats.ready;
        if got != *expected {
            return Err(format!("{queue} has {got}, the model {expected}"));
        }
    }
    publish(&client, namespace, &Address::mqtt(MARKER.into())).await;
    for (live, expected) in live.iter_mut().zip(wanted) {
        let got = live.count().await;
        if got != expected {
            return Err(format!("{} got {got}, the model says {expected}", live.filter));
        }
    }
    Ok(())
}

async fn declare(client: &Client, case: &Case) -> Topology {
    let mut topology = Topology::default();
    for (name, hidden) in EXCHANGES {
        topology.exchanges.insert(name.to_owned(), Exchange { hidden });
        let none = ("x-address".to_owned(), Value::Text("none".to_owned()));
        let def = ExchangeDef {
            name: name.to_owned(),
            kind: ExchangeKind::Topic,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: if hidden { vec![none] } else { Vec::new() },
        };
        client.declare_exchange(DeclareExchange { def }).await.unwrap();
    }
    for name in QUEUES {
        let def = QueueDef {
            id: QueueId::default(),
            name: name.to_owned(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            retention: Retention::Unsettled,
            policy: Arc::default(),
            arguments: Vec::new(),
        };
        client.declare_queue(DeclareQueue { def }).await.unwrap();
    }
    for (exchange, queue, key) in &case.binds {
        topology.bind(exchange, queue, key_words(key));
        let bind = Bind {
            source: (*exchange).to_owned(),
            destination: (*queue).to_owned(),
            to_exchange: false,
            key: Bytes::copy_from_slice(key.as_bytes()),
            arguments: Vec::new(),
        };
        client.bind(bind).await.unwrap();
    }
    topology
}

async fn publish(client: &Client, namespace: &str, address: &Address) -> Published {
    let stamp = client.stamp();
    let mut draft = RecordDraft::new(address, namespace, b"", b"body");
    (draft.id, draft.now) = (stamp.id, stamp.now);
    let batch = vec![Publish::new(draft.encode().unwrap())];
    client.publish(batch).await.unwrap().await.unwrap().remove(0)
}

/// A live reader of one filter, which also waits for the marker.
struct Live {
    filter: String,
    client: Client,
    inbox: Inbox,
    marker: ConsumerId,
}

impl Live {
    async fn start(broker: &Broker, namespace: &str, index: usize, filter: &str) -> Self {
        let (client, inbox) = login(broker, namespace).await;
        let open = OpenSession { id: format!("s{index}"), clean: true, expiry_s: 0, limit: 1000 };
        client.open_session(open).await.unwrap();
        let subscribe = |text: &str| {
            let filter = Filter::parse(text).unwrap();
            client.subscribe(Subscribe { filter, share: None, options: 0, live: true })
        };
        subscribe(filter).await.unwrap();
        let marker = subscribe(MARKER).await.unwrap().consumer;
        Self { filter: filter.to_owned(), client, inbox, marker }
    }

    /// How many records came before the marker.
    async fn count(&mut self) -> u64 {
        let mut count = 0;
        let mut notices = Vec::new();
        loop {
            notices.clear();
            self.client.recv(&mut self.inbox, &mut notices).await;
            let mut marked = false;
            for notice in &notices {
                if let Notice::Delivery(delivery) = notice {
                    marked |= delivery.consumer == self.marker;
                    count += u64::from(delivery.consumer != self.marker);
                }
            }
            if marked {
                return count;
            }
        }
    }
}
