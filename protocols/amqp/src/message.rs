//! Single messages for somebody who has no connection: published, and got from queues.

use bytes::{Bytes, BytesMut};
use mainstem_broker::{Client, Delivery, Published, Refusal};
use mainstem_schemas::{DeliveryId, Table, Value};

use crate::{
    codec::{Properties, table},
    normalize::{Delaying, Outgoing, delay_ms, outgoing, record},
    serve::told,
    session::{Code, Content, Fault, check_gettable, counts_returns, equivalence::is_delayed},
    topology::check_short,
};

/// A message that was got, and is to be settled by its id.
#[derive(Debug)]
pub struct Got {
    pub id: DeliveryId,
    pub content: Outgoing,
    pub redelivered: bool,
    /// How many were ready behind it.
    pub left: u64,
}

/// Publishes, and returns when the message is as durable as it gets; tells whether anybody wanted it.
pub async fn publish(client: &Client, content: &Content) -> Result<bool, Fault> {
    let (namespace, user) = (&client.principal().namespace, &client.principal().name);
    let refused = |refusal: Refusal| Fault::refused(&refusal, "exchange", namespace);
    check_short("the routing key", &content.routing_key)?;
    let delaying = match delay_ms(content) {
        Some(_) => delaying(client, &content.exchange).await,
        None => Delaying::Never,
    };
    let publish = record(content, client.stamp(), namespace, user, delaying)?;
    let receipt = client.publish(vec![publish]).await.map_err(refused)?;
    match receipt.await.map_err(refused)?.into_iter().next() {
        Some(Published::Taken { readers, .. }) => Ok(readers > 0),
        Some(Published::Held(_) | Published::Again) => Ok(true),
        Some(Published::Refused(refusal)) => Err(refused(refusal)),
        None => Err(Fault::shutdown()),
    }
}

/// Takes the first message that is ready in a queue, to be settled by the client.
pub async fn get(client: &Client, queue: &str) -> Result<Option<Got>, Fault> {
    let vhost = &*client.principal().namespace;
    let refused = |refusal: Refusal| Fault::refused(&refusal, "queue", vhost);
    let def = client.find_queue(queue.to_owned()).await.map_err(refused)?.def;
    check_gettable(&def, vhost)?;
    loop {
        let got = client.get(queue.to_owned(), false).await.map_err(refused)?;
        let Some((delivery, stats)) = got else { return Ok(None) };
        let mut deliveries = vec![delivery];
        client.resolve(&mut deliveries).await.map_err(refused)?;
        // One that the disk does not give back is out of the queue now.
        if let Some(got) = deliveries.pop().and_then(|one| shown(client, &one, stats.ready, &def)) {
            return Ok(Some(got));
        }
    }
}

fn shown(
    client: &Client,
    delivery: &Delivery,
    left: u64,
    def: &mainstem_broker::QueueDef,
) -> Option<Got> {
    let broker = client.broker();
    let told = told(delivery, counts_returns(def));
    let content =
        outgoing(delivery.record.as_ref()?, &told, broker.now(), |record| broker.view(record));
    Some(Got { id: delivery.id, content, redelivered: delivery.redelivered, left })
}

/// Whether an exchange holds messages back.
pub(crate) async fn delaying(client: &Client, exchange: &Bytes) -> Delaying {
    let name = String::from_utf8_lossy(exchange).into_owned();
    let found = client.find_exchange(name).await.ok().flatten();
    match found.is_some_and(|exchange| is_delayed(&exchange)) {
        true => Delaying::ByHeader,
        false => Delaying::Never,
    }
}

/// The stored form of properties that are given by RabbitMQ's names; others are passed over. Errors:
/// one is of the wrong type.
pub fn properties(given: &Table) -> Result<Bytes, Fault> {
    let mut out = Properties::default();
    let mut headers = BytesMut::new();
    for (name, value) in given {
        let wrong = || {
            let text = format!("the property {name} is of the wrong type, or too long");
            Fault::new(Code::PreconditionFailed, text)
        };
        let octet = || value.as_int().and_then(|int| u8::try_from(int).ok()).ok_or_else(wrong);
        let short = || {
            let text = value.as_text().filter(|text| check_short(name, text.as_bytes()).is_ok());
            text.map(str::as_bytes).ok_or_else(wrong)
        };
        match name.as_str() {
            "content_type" => out.content_type = Some(short()?),
            "content_encoding" => out.content_encoding = Some(short()?),
            "headers" => {
                let Value::Table(table) = value else { return Err(wrong()) };
                headers.clear();
                for (name, value) in table {
                    table::put_short_string(&mut headers, name.as_bytes());
                    table::put_value(&mut headers, value);
                }
            }
            "delivery_mode" => out.delivery_mode = Some(octet()?),
            "priority" => out.priority = Some(octet()?),
            "correlation_id" => out.correlation_id = Some(short()?),
            "reply_to" => out.reply_to = Some(short()?),
            "expiration" => out.expiration = Some(short()?),
            "message_id" => out.message_id = Some(short()?),
            "timestamp" => {
                let seconds = value.as_int().and_then(|seconds| u64::try_from(seconds).ok());
                out.timestamp = Some(seconds.ok_or_else(wrong)?);
            }
            "type" => out.kind = Some(short()?),
            "user_id" => out.user_id = Some(short()?),
            "app_id" => out.app_id = Some(short()?),
            "cluster_id" => out.cluster_id = Some(short()?),
            _ => {}
        }
    }
    out.headers = Some(&*headers).filter(|headers| !headers.is_empty());
    let mut stored = BytesMut::new();
    out.put(&mut stored);
    Ok(stored.freeze())
}

/// The properties in their stored form, by RabbitMQ's names.
#[must_use]
pub fn told_properties(stored: &[u8]) -> Table {
    let Ok(properties) = Properties::parse(stored) else { return Table::new() };
    let text = |text: Option<&[u8]>| {
        text.map(|text| Value::Text(String::from_utf8_lossy(text).into_owned()))
    };
    let octet = |octet: Option<u8>| octet.map(|octet| Value::Int(octet.into()));
    let headers = properties
        .headers
        .and_then(|headers| table::parse(&Bytes::copy_from_slice(headers)).ok().map(Value::Table));
    let told = [
        ("content_type", text(properties.content_type)),
        ("content_encoding", text(properties.content_encoding)),
        ("headers", headers),
        ("delivery_mode", octet(properties.delivery_mode)),
        ("priority", octet(properties.priority)),
        ("correlation_id", text(properties.correlation_id)),
        ("reply_to", text(properties.reply_to)),
        ("expiration", text(properties.expiration)),
        ("message_id", text(properties.message_id)),
        ("timestamp", properties.timestamp.map(Value::Time)),
        ("type", text(properties.kind)),
        ("user_id", text(properties.user_id)),
        ("app_id", text(properties.app_id)),
        ("cluster_id", text(properties.cluster_id)),
    ];
    let given = told.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    given.collect()
}
