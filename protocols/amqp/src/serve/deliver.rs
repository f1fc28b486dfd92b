//! Records on their way to the client's socket.

use bytes::BytesMut;
use mainstem_broker::{Broker, Delivery, Did};
use mainstem_schemas::{Record, Settlement, Verdict};

use crate::{
    codec::Envelope,
    normalize::{Outgoing, Told, filter_value, outgoing},
    session::{Handing, Session},
};

/// Reply code and text of a mandatory message that nobody wanted.
const NO_ROUTE: (u16, &[u8]) = (312, b"NO_ROUTE");

/// Writes a delivery to its consumer. What its consumer is not there to take any more comes back
/// as a settlement.
pub(super) fn put_delivery(
    out: &mut BytesMut,
    session: &mut Session,
    broker: &Broker,
    delivery: &Delivery,
) -> Option<Settlement> {
    let unread = Settlement { id: delivery.id, verdict: Verdict::Unread };
    let unread = delivery.needs_settle.then_some(unread);
    let Some(record) = &delivery.record else { return unread };
    if let Some(sieve) = session.sieve(delivery.consumer)
        && !sieve.wants(filter_value(record, |record| broker.view(record)).as_deref())
    {
        // It was looked at, and makes room for the next.
        return Some(Settlement { id: delivery.id, verdict: Verdict::Accept });
    }
    let frame_max = session.frame_max();
    let now = broker.now();
    match session.deliver(delivery.consumer, delivery.id, delivery.needs_settle, now) {
        Handing::Unread => unread,
        Handing::Write { channel, consumer_tag, delivery_tag, stream_offset, counts_returns } => {
            let told = Told { stream_offset, ..told(delivery, counts_returns) };
            let content = outgoing(record, &told, now, |record| broker.view(record));
            let envelope = Envelope::Deliver {
                consumer_tag,
                delivery_tag,
                redelivered: delivery.redelivered,
                exchange: &content.exchange,
                routing_key: &content.routing_key,
            };
            put(out, &envelope, channel, frame_max, &content);
            session.note(channel, Did::Redeliver, u64::from(delivery.redelivered));
            None
        }
    }
}

/// How the record came to its queue, and back to it if that is told at all.
pub(crate) fn told(delivery: &Delivery, counts_returns: bool) -> Told<'_> {
    let returns = if counts_returns { delivery.attempt.saturating_sub(1) } else { 0 };
    let passage = delivery.passage.as_deref();
    let address = passage.map(|passage| &passage.address);
    let deaths = passage.map(|passage| passage.deaths.as_slice()).unwrap_or_default();
    Told { address, deaths, stream_offset: None, returns }
}

/// Writes the answer to a get.
pub(super) fn put_got(
    out: &mut BytesMut,
    session: &Session,
    broker: &Broker,
    (channel, delivery_tag, message_count): (u16, u64, u32),
    delivery: &Delivery,
    counts_returns: bool,
) {
    let Some(record) = &delivery.record else { return };
    let told = told(delivery, counts_returns);
    let content = outgoing(record, &told, broker.now(), |record| broker.view(record));
    let envelope = Envelope::GetOk {
        delivery_tag,
        redelivered: delivery.redelivered,
        exchange: &content.exchange,
        routing_key: &content.routing_key,
        message_count,
    };
    put(out, &envelope, channel, session.frame_max(), &content);
}

/// Writes a mandatory message back to its publisher.
pub(super) fn put_return(
    out: &mut BytesMut,
    session: &Session,
    broker: &Broker,
    channel: u16,
    record: &Record,
) {
    let content = outgoing(record, &Told::default(), broker.now(), |record| broker.view(record));
    let (code, text) = NO_ROUTE;
    let envelope = Envelope::Return {
        code,
        text,
        exchange: &content.exchange,
        routing_key: &content.routing_key,
    };
    put(out, &envelope, channel, session.frame_max(), &content);
}

fn put(
    out: &mut BytesMut,
    envelope: &Envelope<'_>,
    channel: u16,
    frame_max: usize,
    content: &Outgoing,
) {
    let properties = |out: &mut BytesMut| out.extend_from_slice(&content.properties);
    envelope.put(out, channel, frame_max, properties, &content.body);
}
