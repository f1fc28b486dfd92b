//! The store under measurement: opened in this process, without any protocol, with queues whose
//! names are numbers.

use std::{future::Future, ops::Range, path::Path, sync::Arc};

use bytes::Bytes;
use mainstem_broker::{
    Authenticator, Broker, Client, Config, Consume, DeclareQueue, Inbox, LoginError, Publish,
    QueueDef, Retention, Source,
};
use mainstem_schemas::{
    Address, ConsumerId, Credentials, Principal, QueueId, RecordDraft, Secret, Table, Views, flags,
};
use tokio::task::JoinSet;

use crate::load::Result;

const NAMESPACE: &str = "/";
/// Digits of a queue's name.
const NAME_BYTES: usize = 8;
/// Declarations and the like that are on their way together.
const PIPELINED: u16 = 1024;
/// As a server with many connections would have in all of them together.
const INBOX_DELIVERIES_MAX: usize = 1 << 16;
const INBOX_BYTES_MAX: usize = 64 << 20;

struct Everybody;

impl Authenticator for Everybody {
    fn verify(&self, _: &Credentials) -> std::result::Result<Principal, LoginError> {
        Ok(Principal::named("bench", NAMESPACE))
    }
}

/// The settings of every run: the defaults, but for one client taking the part of many.
pub(super) fn config(data: &Path) -> Config {
    let mut config = Config::new(data.to_owned());
    config.inbox_deliveries_max = INBOX_DELIVERIES_MAX;
    config.inbox_bytes_max = INBOX_BYTES_MAX;
    config
}

pub(super) fn open(data: &Path) -> Result<Broker> {
    Ok(Broker::open(config(data), Arc::new(Everybody), Views::default())?)
}

pub(super) async fn login(broker: &Broker) -> Result<(Arc<Client>, Inbox)> {
    let peer = "127.0.0.1:1".parse()?;
    let namespace = NAMESPACE.to_owned();
    let credentials = Credentials { namespace, secret: Secret::Anonymous, peer };
    let (client, inbox) = broker.login(&credentials).await?;
    Ok((Arc::new(client), inbox))
}

pub(super) fn queue_name(number: u64) -> String {
    format!("{number:0NAME_BYTES$}")
}

/// The names of some queues in one allocation, of which each record's address takes a slice,
/// as it does of a socket's buffer.
#[derive(Clone)]
pub(super) struct Names {
    all: Bytes,
    count: usize,
}

impl Names {
    pub(super) fn new(numbers: Range<u64>) -> Self {
        let all: String = numbers.map(queue_name).collect();
        Self { count: all.len() / NAME_BYTES, all: all.into() }
    }

    pub(super) fn any(&self) -> Bytes {
        let from = fastrand::usize(..self.count) * NAME_BYTES;
        self.all.slice(from..from + NAME_BYTES)
    }
}

/// A record made as a front-end makes it: stamped, and encoded into an allocation of its own.
pub(super) fn publish(
    client: &Client,
    exchange: Bytes,
    key: Bytes,
    data: &[u8],
) -> Result<Publish> {
    let address = Address::amqp(exchange, key);
    let stamp = client.stamp();
    let mut draft = RecordDraft::new(&address, NAMESPACE, b"", data);
    draft.flags = flags::DURABLE;
    draft.qos = 1;
    draft.id = stamp.id;
    draft.now = stamp.now;
    Ok(Publish::new(draft.encode()?))
}

/// Calls `act` for every number, many calls on their way at a time.
pub(super) async fn for_each<F, A>(numbers: Range<u64>, act: F) -> Result<()>
where
    F: Fn(u64) -> A + Clone + Send + 'static,
    A: Future<Output = Result<()>> + Send,
{
    let mut lanes: JoinSet<Result<()>> = JoinSet::new();
    for lane in 0..PIPELINED {
        let (act, mine) = (act.clone(), numbers.start + u64::from(lane)..numbers.end);
        let mine = mine.step_by(usize::from(PIPELINED));
        lanes.spawn(async move {
            for number in mine {
                act(number).await?;
            }
            Ok(())
        });
    }
    while let Some(ended) = lanes.join_next().await {
        ended??;
    }
    Ok(())
}

pub(super) async fn declare(client: &Client, number: u64) -> Result<()> {
    let def = QueueDef {
        id: QueueId::default(),
        name: queue_name(number),
        durable: true,
        exclusive: false,
        auto_delete: false,
        retention: Retention::Unsettled,
        policy: Arc::default(),
        arguments: Table::new(),
    };
    client.declare_queue(DeclareQueue { def }).await?;
    Ok(())
}

pub(super) async fn declare_all(client: &Arc<Client>, numbers: Range<u64>) -> Result<()> {
    let client = client.clone();
    for_each(numbers, move |number| {
        let client = client.clone();
        async move { declare(&client, number).await }
    })
    .await
}

pub(super) async fn consume(client: &Client, number: u64) -> Result<()> {
    let consume = Consume {
        source: Source::Queue(queue_name(number)),
        consumer: ConsumerId(number),
        options: 0,
        pool: 1,
        limit: 0,
        settle_at_once: false,
        exclusive: false,
        priority: 0,
    };
    Ok(client.consume(consume).await?)
}
