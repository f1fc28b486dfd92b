//! Policies and limits as an AMQP client meets them: the store is told in this process, as the
//! server's own faces will tell it.

use std::{sync::Arc, time::Duration};

use lapin::{
    Connection, ConnectionProperties, ExchangeKind,
    options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use mainstem_amqp::Limits;
use mainstem_broker::{
    ApplyTo, Authenticator, Authority, Bounded, Broker, Config, LoginError, Refusal, Rule, Scope,
};
use mainstem_schemas::{Credentials, Origin, Principal, Secret, Table, Value, Views};
use mainstem_tests::{Amqp, Deadline, clients::reply_code};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

struct ByName;

impl Authenticator for ByName {
    fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError> {
        let Secret::Password { user, .. } = &credentials.secret else {
            return Err(LoginError::BadCredentials);
        };
        let namespace = credentials.namespace.as_str();
        Ok(Principal::named(user.as_str(), namespace))
    }
}

/// A store with an AMQP port.
struct House {
    _data: TempDir,
    broker: Broker,
    port: u16,
    shutdown: CancellationToken,
}

impl House {
    async fn open() -> Self {
        let data = TempDir::new().unwrap();
        let views = Views::default()
            .with(Origin::Amqp, mainstem_amqp::view)
            .with_routing(Origin::Amqp, mainstem_amqp::routing);
        let config = Config::new(data.path().to_owned());
        let broker = Broker::open(config, Arc::new(ByName), views).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shutdown = CancellationToken::new();
        let limits = Arc::new(Limits::default());
        let serve = mainstem_amqp::run(listener, broker.clone(), limits, shutdown.clone(), None);
        tokio::spawn(serve);
        Self { _data: data, broker, port, shutdown }
    }

    async fn set(&self, name: &str, pattern: &str, definition: &[(&str, Value)]) {
        let definition: Table =
            definition.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let rule = Rule {
            name: name.to_owned(),
            pattern: pattern.to_owned(),
            apply_to: ApplyTo::All,
            priority: 0,
            definition,
        };
        self.broker.set_policy("/", Authority::User, rule).await.unwrap();
    }

    async fn limit(&self, scope: Scope, bounded: Bounded, max: Option<u64>) {
        self.broker.set_limit(&scope, bounded, max).await.unwrap();
        let expected: Vec<_> = max.map(|max| (bounded, max)).into_iter().collect();
        assert_eq!(self.broker.list_limits(&scope).await.unwrap(), expected);
    }

    async fn connect(&self, user: &str) -> lapin::Result<Connection> {
        let uri = format!("amqp://{user}:x@127.0.0.1:{}/%2f", self.port);
        Connection::connect(&uri, ConnectionProperties::default()).await
    }

    async fn close(self) {
        self.shutdown.cancel();
        self.broker.stop().await;
    }
}

async fn until_ready(amqp: &Amqp, queue: &str, count: u32) {
    let deadline = Deadline::seconds(20);
    while amqp.ready(queue).await != count {
        assert!(!deadline.passed(), "{queue} has {}, not {count}", amqp.ready(queue).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_bounds_expires_and_dead_letters_what_a_client_declared() {
    let house = House::open().await;
    let amqp = Amqp::connect(house.port).await;
    for queue in ["work", "dead", "free"] {
        amqp.queue(queue, None).await;
    }
    for body in [b"1", b"2", b"3"] {
        amqp.publish("", "work", body).await;
        amqp.publish("", "free", body).await;
    }
    let text = |text: &str| Value::Text(text.to_owned());
    let dead = [
        ("max-length", Value::Int(1)),
        ("dead-letter-exchange", text("")),
        ("dead-letter-routing-key", text("dead")),
    ];
    house.set("bound", "^work$", &dead).await;
    until_ready(&amqp, "dead", 2).await;
    assert_eq!(amqp.take("dead").await.as_deref(), Some(b"1".as_slice()));
    assert_eq!((amqp.ready("work").await, amqp.ready("free").await), (1, 3));
    // What was declared is not changed by it: declared again, it is the same queue.
    amqp.queue("work", None).await;
    house.set("bound", "^work$", &[("message-ttl", Value::Int(50))]).await;
    until_ready(&amqp, "work", 0).await;
    house.broker.delete_policy("/", Authority::User, "bound").await.unwrap();
    for body in [b"4", b"5"] {
        amqp.publish("", "work", body).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(amqp.ready("work").await, 2);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alternate_by_policy_takes_what_an_exchange_leads_nowhere() {
    let house = House::open().await;
    let amqp = Amqp::connect(house.port).await;
    let none = FieldTable::default;
    let (kind, options) = (ExchangeKind::Direct, ExchangeDeclareOptions::default());
    amqp.channel.exchange_declare("in".into(), kind, options, none()).await.unwrap();
    amqp.queue("spare", Some(("amq.fanout", ""))).await;
    amqp.publish("in", "k", b"lost").await;
    let alternate = Value::Text("amq.fanout".to_owned());
    house.set("ae", "^in$", &[("alternate-exchange", alternate)]).await;
    amqp.publish("in", "k", b"kept").await;
    assert_eq!(amqp.take("spare").await.as_deref(), Some(b"kept".as_slice()));
    assert_eq!(amqp.ready("spare").await, 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_told_in_rabbitmqs_words() {
    let house = House::open().await;
    let (vhost, ann) = (Scope::Namespace("/".to_owned()), Scope::User("ann".to_owned()));
    let first = house.connect("ann").await.unwrap();
    house.limit(vhost.clone(), Bounded::Connections, Some(1)).await;
    let refused = house.connect("bob").await.unwrap_err();
    assert_eq!(reply_code(&refused), Some(530), "{refused}");
    let words = "NOT_ALLOWED - access to vhost '/' refused for user 'bob': connection limit (1) is";
    assert!(refused.to_string().contains(words), "{refused}");
    house.limit(vhost.clone(), Bounded::Connections, None).await;

    house.limit(ann.clone(), Bounded::Connections, Some(1)).await;
    let refused = house.connect("ann").await.unwrap_err();
    let words = "NOT_ALLOWED - connection refused for user 'ann': user connection limit (1) is";
    assert!(refused.to_string().contains(words), "{refused}");
    drop(house.connect("bob").await.unwrap());
    house.limit(ann.clone(), Bounded::Connections, None).await;

    house.limit(ann.clone(), Bounded::Channels, Some(2)).await;
    let _kept = first.create_channel().await.unwrap();
    let closed = first.create_channel().await.unwrap();
    closed.close(200, "".into()).await.unwrap();
    let _again = first.create_channel().await.unwrap();
    let refused = first.create_channel().await.unwrap_err();
    assert_eq!(reply_code(&refused), Some(530), "{refused}");
    let words = "number of channels opened for user 'ann' has reached the maximum allowed user \
                 limit of (2)";
    assert!(refused.to_string().contains(words), "{refused}");
    house.limit(ann.clone(), Bounded::Channels, None).await;

    // What nobody would keep to.
    for (scope, bounded) in [(&vhost, Bounded::Channels), (&ann, Bounded::Queues)] {
        let refused = house.broker.set_limit(scope, bounded, Some(1)).await;
        assert!(matches!(refused, Err(Refusal::BadArguments(_))), "{scope:?} {refused:?}");
    }

    let amqp = Amqp::connect(house.port).await;
    amqp.queue("one", None).await;
    house.limit(vhost.clone(), Bounded::Queues, Some(1)).await;
    // What is there is found.
    amqp.queue("one", None).await;
    let channel = amqp.connection.create_channel().await.unwrap();
    let declare =
        channel.queue_declare("two".into(), QueueDeclareOptions::default(), FieldTable::default());
    let refused = declare.await.unwrap_err();
    assert_eq!(reply_code(&refused), Some(406), "{refused}");
    let words = "cannot declare queue 'two': queue limit in vhost '/' (1) is reached";
    assert!(refused.to_string().contains(words), "{refused}");
    amqp.channel.queue_delete("one".into(), Default::default()).await.unwrap();
    amqp.queue("two", None).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_timeout_by_policy_is_its_queues_own() {
    let house = House::open().await;
    house.set("quick", "^work$", &[("consumer-timeout", Value::Int(100))]).await;
    let amqp = Amqp::connect(house.port).await;
    amqp.queue("work", None).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-consumer-timeout".into(), AMQPValue::LongInt(60_000));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    amqp.channel.queue_declare("slow".into(), durable, arguments).await.unwrap();
    for queue in ["work", "slow"] {
        amqp.publish("", queue, b"never settled").await;
    }
    let hold = async |queue: &str| {
        let channel = amqp.connection.create_channel().await.unwrap();
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consume = channel.basic_consume(queue.into(), "".into(), options, none);
        let mut consumer = consume.await.unwrap();
        consumer.next().await.unwrap().unwrap();
        (channel, consumer)
    };
    let (slow, _slow) = hold("slow").await;
    let (_, mut work) = hold("work").await;
    let next = tokio::time::timeout(Duration::from_secs(20), work.next()).await;
    let error = next.expect("the channel closes").expect("with an error").unwrap_err();
    assert_eq!(reply_code(&error), Some(406), "{error}");
    assert!(error.to_string().contains("Timeout value used: 100 ms"), "{error}");
    until_ready(&amqp, "work", 1).await;
    assert!(slow.status().connected(), "its own argument gives it a minute");
    house.close().await;
}
