//! The log is the truth: an index that was deleted comes back identical, compared by hash.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use mainstem_broker::{
    Authenticator, Bind, Broker, Client, Config, DeclareExchange, DeclareQueue, ExchangeDef,
    ExchangeKind, LoginError, OpenSession, Publish, Published, QueueDef, Retention, Subscribe,
};
use mainstem_schemas::{
    Address, Credentials, Filter, Principal, QueueId, RecordDraft, Secret, Settlement, Verdict,
    Views, flags,
};
use tempfile::TempDir;

struct Anyone;

impl Authenticator for Anyone {
    fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError> {
        let namespace = credentials.namespace.as_str();
        Ok(Principal::named("anyone", namespace))
    }
}

fn open(data_dir: &Path) -> Broker {
    let config = Config::new(data_dir.to_owned());
    Broker::open(config, Arc::new(Anyone), Views::default()).expect("an empty data directory")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_index_comes_back_identical() {
    let data = TempDir::new().unwrap();
    let broker = open(data.path());
    work(&broker).await;
    broker.stop().await;
    drop(broker);
    // The hash covers the end of the log, which moves with every opening; so the index is deleted
    // from a copy, and both are opened once.
    let copy = TempDir::new().unwrap();
    fs::create_dir(copy.path().join("log")).unwrap();
    for file in fs::read_dir(data.path().join("log")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join("log").join(file.file_name())).unwrap();
    }
    let (kept, rebuilt) = (open(data.path()), open(copy.path()));
    let hash = kept.checkpoint().await.unwrap();
    assert_eq!(rebuilt.checkpoint().await.unwrap(), hash, "a replay gave another state");
    // The hash covers what matters: one settlement more is another state.
    let (client, _inbox) = rebuilt.login(&credentials()).await.unwrap();
    let (delivery, stats) = client.get("jobs".to_owned(), false).await.unwrap().unwrap();
    assert_eq!(stats.ready, 229);
    let end = Settlement { id: delivery.id, verdict: Verdict::Accept };
    assert_eq!(client.settle_durably(vec![end]).await.unwrap(), [true]);
    assert_ne!(rebuilt.checkpoint().await.unwrap(), hash);
    client.close().await;
    kept.stop().await;
    rebuilt.stop().await;
}

fn credentials() -> Credentials {
    let peer = "127.0.0.1:1".parse().unwrap();
    Credentials { namespace: "/".to_owned(), secret: Secret::Anonymous, peer }
}

/// Something of everything that is durable.
async fn work(broker: &Broker) {
    let (client, _inbox) = broker.login(&credentials()).await.unwrap();
    declare(&client).await;
    let group = {
        client.open_topic("plant".to_owned(), true).await.unwrap();
        client
            .open_group(
                "plant".to_owned(),
                "group".to_owned(),
                mainstem_broker::DeliveryPolicy::default(),
            )
            .await
            .unwrap()
    };
    let (session, mut session_inbox) = broker.login(&credentials()).await.unwrap();
    let open =
        OpenSession { id: "device".to_owned(), clean: false, expiry_s: u32::MAX, limit: 100 };
    session.open_session(open).await.unwrap();
    let filter = Filter::parse("plant/#").unwrap();
    let subscribe = Subscribe { filter, share: None, options: 1, live: false };
    session.subscribe(subscribe).await.unwrap();
    publish(&client, Address::amqp("plant".into(), "a.b".into()), 300).await;
    publish(&client, Address::mqtt("plant/a".into()), 300).await;
    publish(&client, Address::rocketmq("plant".into(), "tag".into()), 300).await;
    publish(&client, Address::amqp(Bytes::new(), "jobs".into()), 300).await;
    retain(&client).await;
    for _ in 0..70 {
        let (delivery, _) = client.get("jobs".to_owned(), false).await.unwrap().unwrap();
        let end = Settlement { id: delivery.id, verdict: Verdict::Accept };
        client.settle_durably(vec![end]).await.unwrap();
    }
    let fetch = mainstem_broker::Fetch {
        group,
        max: 50,
        claim: mainstem_broker::Claim::Client,
        wait_ms: 1000,
    };
    let fetched = client.fetch(fetch).await.unwrap();
    assert_eq!(fetched.len(), 50);
    let every_second = fetched.iter().step_by(2);
    let ends = every_second.map(|d| Settlement { id: d.id, verdict: Verdict::Accept }).collect();
    client.settle_durably(ends).await.unwrap();
    let mut notices = Vec::new();
    session.recv(&mut session_inbox, &mut notices).await;
    let ends = notices.iter().filter_map(|notice| match notice {
        mainstem_broker::Notice::Delivery(delivery) => {
            Some(Settlement { id: delivery.id, verdict: Verdict::Accept })
        }
        _ => None,
    });
    session.settle_durably(ends.collect()).await.unwrap();
    client.delete_queue("short".to_owned(), false, false).await.unwrap();
    session.close_session(None, None).await.unwrap();
    session.close().await;
    client.close().await;
}

async fn declare(client: &Client) {
    let exchange = ExchangeDef {
        name: "plant".to_owned(),
        kind: ExchangeKind::Topic,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Vec::new(),
    };
    client.declare_exchange(DeclareExchange { def: exchange }).await.unwrap();
    for name in ["all", "jobs", "short"] {
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
    for destination in ["all", "short"] {
        let bind = Bind {
            source: "plant".to_owned(),
            destination: destination.to_owned(),
            to_exchange: false,
            key: Bytes::from_static(b"#"),
            arguments: Vec::new(),
        };
        client.bind(bind).await.unwrap();
    }
}

async fn publish(client: &Client, address: Address, count: usize) {
    let mut batch = Vec::new();
    for number in 0..count {
        let stamp = client.stamp();
        let body = format!("message {number}");
        let mut draft = RecordDraft::new(&address, "/", b"", body.as_bytes());
        draft.flags = flags::DURABLE;
        draft.qos = 1;
        (draft.id, draft.now) = (stamp.id, stamp.now);
        batch.push(Publish::new(draft.encode().unwrap()));
    }
    let outcome = client.publish(batch).await.unwrap().await.unwrap();
    assert!(outcome.iter().all(|one| matches!(one, Published::Taken { readers: 1.., .. })));
}

async fn retain(client: &Client) {
    for (topic, body) in [("state/a", "old"), ("state/a", "new"), ("state/b", "x"), ("state/b", "")]
    {
        let stamp = client.stamp();
        let address = Address::mqtt(topic.into());
        let mut draft = RecordDraft::new(&address, "/", b"", body.as_bytes());
        draft.flags = flags::DURABLE | flags::RETAIN;
        draft.qos = 1;
        (draft.id, draft.now) = (stamp.id, stamp.now);
        let batch = vec![Publish::new(draft.encode().unwrap())];
        client.publish(batch).await.unwrap().await.unwrap();
    }
}
