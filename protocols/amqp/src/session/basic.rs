//! Consuming: consumers, single gets, credit, deliveries.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_broker::{
    Consume, Delivery, Did, QueueDef, QueueStats, Refusal, Retention, Source, Start, age_ms,
};
use mainstem_schemas::{
    ConsumerId, DeliveryId, Offset, QueueId, Settlement, Table, UnixMillis, Value, Verdict,
    address::REPLY_QUEUE_PREFIX,
};

use super::{
    Ask, Code, Effect, Effects, Fault, Reader, Request, Session, Then,
    channel::{DirectReply, Known},
    effect::Wish,
    equivalence,
    sieve::{FILTER, MATCH_UNFILTERED, Sieve},
    topology::{count, is_stream, name_of},
    unsettled::Held,
};
use crate::codec::{Reply, method::BasicConsume, table};

/// What a client names to get replies without declaring a queue, and what our names for such
/// queues begin with.
pub(crate) const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to";
pub(super) const DIRECT_REPLY_PREFIX: &str = REPLY_QUEUE_PREFIX;

/// Where a delivery goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handing<'a> {
    /// To this channel, under these tags; with the offset when the consumer reads a stream.
    Write {
        channel: u16,
        consumer_tag: &'a Bytes,
        delivery_tag: u64,
        stream_offset: Option<Offset>,
        /// The client is told how often the record came back.
        counts_returns: bool,
    },
    /// Its consumer is gone; nobody saw it.
    Unread,
}

impl Session {
    /// basic.qos. `global` is RabbitMQ 3's: a limit of the channel's consumers together; without
    /// it, a limit of each consumer that comes.
    pub(super) fn qos(
        &mut self,
        channel: u16,
        prefetch_size: u32,
        prefetch_count: u16,
        global: bool,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        if prefetch_size != 0 {
            return Err(Fault::not_implemented(format!("prefetch_size!=0 ({prefetch_size})")));
        }
        let Some(open) = self.channels.get_mut(&channel) else { return Ok(()) };
        if global {
            open.shared_prefetch = prefetch_count;
            let limit = u32::from(prefetch_count);
            effects.push_back(Effect::SetPool { pool: channel, limit });
        } else {
            open.prefetch = prefetch_count;
        }
        effects.push_back(Effect::Ask(Ask::reply(channel, Reply::QosOk)));
        Ok(())
    }

    pub(super) fn consume(&mut self, channel: u16, method: BasicConsume) -> Result<Ask, Fault> {
        let queue = self.queue_name(channel, &method.queue)?;
        let consumer_tag = if method.consumer_tag.is_empty() {
            Bytes::from(self.random_name("amq.ctag-"))
        } else {
            // It is kept for long, and what was read together with it should not be.
            Bytes::copy_from_slice(&method.consumer_tag)
        };
        let taken = |open: &super::Channel| open.consumers.contains_key(&consumer_tag);
        if self.channels.get(&channel).is_some_and(taken) {
            let tag = String::from_utf8_lossy(&consumer_tag);
            let text = format!("attempt to reuse consumer tag '{tag}'");
            return Err(Fault::new(Code::NotAllowed, text));
        }
        if queue == DIRECT_REPLY {
            return self.consume_replies(channel, consumer_tag, method.no_ack, method.no_wait);
        }
        let arguments = table::parse(&method.arguments)
            .map_err(|_| Fault::malformed("the table of consumer arguments"))?;
        let wish = Wish {
            queue: queue.clone(),
            consumer_tag,
            no_ack: method.no_ack,
            exclusive: method.exclusive,
            no_wait: method.no_wait,
            priority: i32::default(),
            start: None,
            timeout_ms: None,
            sieve: Sieve::default(),
        };
        let resource = format!("queue '{queue}' in vhost '{}'", self.vhost);
        let wish = wish_for(wish, &arguments, &resource, self.now)?;
        Ok(Ask { channel, request: Request::FindQueue(queue), then: Then::Consume(wish) })
    }

    /// Direct replies: a queue of the consumer's own, whose name stands in its requests in place
    /// of [`DIRECT_REPLY`].
    fn consume_replies(
        &mut self,
        channel: u16,
        consumer_tag: Bytes,
        no_ack: bool,
        no_wait: bool,
    ) -> Result<Ask, Fault> {
        let refuse = |text: &str| Err(Fault::new(Code::PreconditionFailed, text));
        if !no_ack {
            return refuse("reply consumer cannot acknowledge");
        }
        let queue = self.random_name(DIRECT_REPLY_PREFIX);
        let Some(open) = self.channels.get_mut(&channel) else {
            return refuse("the channel is closed");
        };
        if open.direct_reply.is_some() {
            return refuse("reply consumer already set");
        }
        let direct_reply =
            DirectReply { queue: queue.clone().into(), consumer_tag: consumer_tag.clone() };
        open.direct_reply = Some(direct_reply);
        let def = QueueDef {
            id: QueueId::default(),
            name: queue.clone(),
            durable: false,
            exclusive: true,
            auto_delete: true,
            retention: Retention::Unsettled,
            policy: Arc::default(),
            arguments: Table::new(),
        };
        let wish = Wish {
            queue,
            consumer_tag,
            no_ack,
            exclusive: false,
            no_wait,
            priority: 0,
            start: None,
            timeout_ms: None,
            sieve: Sieve::default(),
        };
        Ok(Ask { channel, request: Request::DeclareQueue(def), then: Then::Consume(wish) })
    }

    /// The queue is there: how to read it depends on what it keeps.
    pub(super) fn consume_from(
        &mut self,
        channel: u16,
        wish: Wish,
        queue: &QueueDef,
    ) -> Result<Option<Ask>, Fault> {
        let is_stream = is_stream(queue);
        let Some(open) = self.channels.get(&channel) else { return Ok(None) };
        if !is_stream && wish.start.is_some() {
            let resource = format!("queue '{}' in vhost '{}'", wish.queue, self.vhost);
            let kind = equivalence::type_of(&queue.arguments);
            return Err(equivalence::not_of_type(STREAM_OFFSET, &resource, kind));
        }
        if !is_stream && wish.sieve.is_set() {
            let resource = format!("queue '{}' in vhost '{}'", wish.queue, self.vhost);
            let kind = equivalence::type_of(&queue.arguments);
            return Err(equivalence::not_of_type(FILTER, &resource, kind));
        }
        if is_stream && wish.no_ack {
            return Err(Fault::not_implemented(format!(
                "automatic acknowledgement not supported by stream queues queue '{}' in vhost '{}'",
                wish.queue, self.vhost
            )));
        }
        if is_stream && open.prefetch == 0 {
            let text = format!(
                "consumer prefetch count is not set for 'queue '{}' in vhost '{}''",
                wish.queue, self.vhost
            );
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        // One that stands by would not be alone with the queue.
        if wish.exclusive && queue.policy.delivery.single_active {
            let refusal = Refusal::ExclusiveConsumer(wish.queue);
            return Err(Fault::refused(&refusal, "queue", &self.vhost));
        }
        self.last_consumer += 1;
        let consumer = ConsumerId(self.last_consumer);
        let source = if is_stream {
            Source::Stream(wish.queue.clone(), wish.start.unwrap_or(Start::Next))
        } else {
            Source::Queue(wish.queue.clone())
        };
        let consume = Consume {
            source,
            consumer,
            options: 0,
            pool: channel,
            limit: if wish.no_ack { 0 } else { u32::from(open.prefetch) },
            settle_at_once: wish.no_ack,
            exclusive: wish.exclusive,
            priority: wish.priority,
        };
        let timeout_ms = wish.timeout_ms.unwrap_or_else(|| self.timeout_of(queue));
        let counts_returns = counts_returns(queue);
        let then = Then::Consuming { wish, consumer, is_stream, counts_returns, timeout_ms };
        Ok(Some(Ask { channel, request: Request::Consume(consume), then }))
    }

    /// The store has the consumer. consume-ok is written before any delivery, which come later.
    pub(super) fn consuming(
        &mut self,
        reader: Reader,
        no_wait: bool,
        consumer: ConsumerId,
        effects: &mut Effects,
    ) {
        let channel = reader.channel;
        let Some(open) = self.channels.get_mut(&channel) else {
            effects.push_back(Effect::Drop(consumer));
            return;
        };
        let consumer_tag = reader.consumer_tag.clone();
        open.consumers.insert(consumer_tag.clone(), consumer);
        self.note_timeout(reader.timeout_ms);
        self.readers.insert(consumer, reader);
        if !no_wait {
            let reply = Reply::ConsumeOk { consumer_tag };
            effects.push_back(Effect::Write { channel, reply });
        }
    }

    /// basic.cancel. An unknown tag is answered at once, as if it were known.
    pub(super) fn cancel(
        &mut self,
        channel: u16,
        consumer_tag: Bytes,
        no_wait: bool,
        effects: &mut Effects,
    ) -> Option<Ask> {
        let open = self.channels.get_mut(&channel)?;
        let Some(consumer) = open.consumers.get(&consumer_tag).copied() else {
            if !no_wait {
                let reply = Reply::CancelOk { consumer_tag };
                effects.push_back(Effect::Write { channel, reply });
            }
            return None;
        };
        let then = Then::Cancelled { consumer_tag, no_wait };
        Some(Ask { channel, request: Request::Cancel(consumer), then })
    }

    /// Our own cancel took effect, and what was on its way has been handed on.
    pub(super) fn cancelled(
        &mut self,
        channel: u16,
        consumer_tag: Bytes,
        no_wait: bool,
        effects: &mut Effects,
    ) {
        let Some(open) = self.channels.get_mut(&channel) else { return };
        if let Some(consumer) = open.consumers.remove(&consumer_tag) {
            self.readers.remove(&consumer);
        }
        if open.direct_reply.as_ref().is_some_and(|direct| direct.consumer_tag == consumer_tag) {
            open.direct_reply = None;
        }
        if !no_wait {
            effects.push_back(Effect::Write { channel, reply: Reply::CancelOk { consumer_tag } });
        }
    }

    /// The store ended a consumer: its queue is gone. Clients that understand are told.
    pub fn consumer_gone(&mut self, consumer: ConsumerId, effects: &mut Effects) {
        let Some(Reader { channel, consumer_tag, .. }) = self.readers.remove(&consumer) else {
            return;
        };
        if let Some(open) = self.channels.get_mut(&channel) {
            open.consumers.remove(&consumer_tag);
        }
        if self.capabilities.consumer_cancel_notify {
            effects.push_back(Effect::Write { channel, reply: Reply::Cancel { consumer_tag } });
        }
    }

    /// A channel deleted a queue: consumers on the connection's other channels are told before the
    /// answer; those on its own, like everybody else, by the store's notice.
    pub(super) fn queue_gone(&mut self, channel: u16, queue: &str, effects: &mut Effects) {
        let others =
            self.readers.iter().filter(|(_, it)| it.channel != channel && it.queue == queue);
        let mut others: Vec<ConsumerId> = others.map(|(consumer, _)| *consumer).collect();
        others.sort_unstable();
        for consumer in others {
            self.consumer_gone(consumer, effects);
        }
    }

    /// basic.get. Streams refuse it; the queue last got from is known to be none.
    pub(super) fn get(&mut self, channel: u16, queue: &[u8], no_ack: bool) -> Result<Ask, Fault> {
        let queue = self.queue_name(channel, queue)?;
        let known = self.channels.get(&channel).and_then(|open| open.got_from.as_ref());
        if let Some(known) = known.filter(|known| known.queue == queue) {
            return Ok(got(channel, known.clone(), no_ack));
        }
        let request = Request::FindQueue(queue.clone());
        Ok(Ask { channel, request, then: Then::Get { queue, no_ack } })
    }

    pub(super) fn get_from(
        &mut self,
        channel: u16,
        queue: String,
        no_ack: bool,
        def: &QueueDef,
    ) -> Result<Ask, Fault> {
        check_gettable(def, &self.vhost)?;
        let timeout_ms = self.timeout_of(def);
        self.note_timeout(timeout_ms);
        let known = Known { queue, counts_returns: counts_returns(def), timeout_ms };
        if let Some(open) = self.channels.get_mut(&channel) {
            open.got_from = Some(known.clone());
        }
        Ok(got(channel, known, no_ack))
    }

    /// How long deliveries of a queue may stay unsettled; 0 for any time.
    fn timeout_of(&self, queue: &QueueDef) -> u64 {
        queue.policy.settle_max_ms.unwrap_or(self.limits.delivery_ack_timeout_ms)
    }

    /// The store answered a get: the record gets its tag.
    pub(super) fn got(
        &mut self,
        channel: u16,
        got: Option<(Delivery, QueueStats)>,
        counts_returns: bool,
        timeout_ms: u64,
        effects: &mut Effects,
    ) {
        let Some(open) = self.channels.get_mut(&channel) else { return };
        let Some((delivery, stats)) = got else {
            open.meter.add(self.now, Did::GetEmpty, 1);
            effects.push_back(Effect::Write { channel, reply: Reply::GetEmpty });
            return;
        };
        let delivery_tag = open.next_tag();
        let did = if delivery.needs_settle { Did::Get } else { Did::GetNoAck };
        open.meter.add(self.now, did, 1);
        if delivery.redelivered {
            open.meter.add(self.now, Did::Redeliver, 1);
        }
        if delivery.needs_settle {
            open.unsettled.push(delivery_tag, Held::new(delivery.id, self.now, timeout_ms));
        }
        let message_count = count(stats.ready);
        let delivery = Box::new(delivery);
        effects.push_back(Effect::WriteGot {
            channel,
            delivery_tag,
            delivery,
            counts_returns,
            message_count,
        });
    }

    /// What a consumer of a stream wants, if it does not want everything.
    #[must_use]
    pub fn sieve(&self, consumer: ConsumerId) -> Option<&Sieve> {
        let reader = self.readers.get(&consumer)?;
        Some(&reader.sieve).filter(|sieve| sieve.is_set())
    }

    /// Gives a delivery its channel and tag.
    pub fn deliver(
        &mut self,
        consumer: ConsumerId,
        id: DeliveryId,
        needs_settle: bool,
        now: UnixMillis,
    ) -> Handing<'_> {
        let Some(reader) = self.readers.get(&consumer) else { return Handing::Unread };
        let Some(open) = self.channels.get_mut(&reader.channel) else { return Handing::Unread };
        let delivery_tag = open.next_tag();
        let did = if needs_settle { Did::Deliver } else { Did::DeliverNoAck };
        open.meter.add(now, did, 1);
        if needs_settle {
            open.unsettled.push(delivery_tag, Held::new(id, now, reader.timeout_ms));
        }
        Handing::Write {
            channel: reader.channel,
            consumer_tag: &reader.consumer_tag,
            delivery_tag,
            stream_offset: reader.is_stream.then_some(id.offset),
            counts_returns: reader.counts_returns,
        }
    }

    /// basic.recover: everything unsettled goes back to its queues.
    pub(super) fn recover(
        &mut self,
        channel: u16,
        requeue: bool,
        answer: bool,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        if !requeue {
            return Err(Fault::not_implemented("requeue=false"));
        }
        let Some(open) = self.channels.get_mut(&channel) else { return Ok(()) };
        for id in open.unsettled.take_all() {
            effects.push_back(Effect::Settle(Settlement { id, verdict: Verdict::Release }));
        }
        if answer {
            effects.push_back(Effect::Ask(Ask::reply(channel, Reply::RecoverOk)));
        }
        Ok(())
    }

    /// A queue's name: as given, or the one last declared on the channel.
    pub(super) fn queue_name(&self, channel: u16, given: &[u8]) -> Result<String, Fault> {
        if !given.is_empty() {
            return name_of(given);
        }
        let last = self.channels.get(&channel).and_then(|open| open.last_queue.clone());
        last.ok_or_else(|| Fault::new(Code::NotFound, "no previously declared queue"))
    }
}

fn got(channel: u16, known: Known, no_ack: bool) -> Ask {
    let Known { queue, counts_returns, timeout_ms } = known;
    let request = Request::Get { queue, settle_at_once: no_ack };
    Ask { channel, request, then: Then::Got { counts_returns, timeout_ms } }
}

/// Errors: the queue is a stream.
pub(crate) fn check_gettable(def: &QueueDef, vhost: &str) -> Result<(), Fault> {
    if is_stream(def) {
        return Err(Fault::not_implemented(format!(
            "basic.get not supported by stream queues queue '{}' in vhost '{vhost}'",
            def.name
        )));
    }
    Ok(())
}

/// A quorum queue tells how often a record came back.
pub(crate) fn counts_returns(queue: &QueueDef) -> bool {
    equivalence::type_of(&queue.arguments) == "quorum"
}

const STREAM_OFFSET: &str = "x-stream-offset";

/// Reads the consumer's arguments. Errors: one is of the wrong type or out of its range.
fn wish_for(
    mut wish: Wish,
    arguments: &Table,
    resource: &str,
    now: UnixMillis,
) -> Result<Wish, Fault> {
    for (name, value) in arguments {
        let wrong = match name.as_str() {
            "x-priority" => match value {
                Value::Int(priority) => {
                    let clamped = (*priority).clamp(i32::MIN.into(), i32::MAX.into());
                    wish.priority = i32::try_from(clamped).unwrap_or_default();
                    None
                }
                other => Some(equivalence::not_integer(other)),
            },
            "x-consumer-timeout" => {
                wish.timeout_ms = value.as_int().and_then(|ms| u64::try_from(ms).ok());
                wish.timeout_ms.is_none().then(|| equivalence::not_integer(value))
            }
            "x-cancel-on-ha-failover" => equivalence::not_bool(value),
            FILTER | MATCH_UNFILTERED => wish.sieve.read(name, value),
            STREAM_OFFSET => {
                wish.start = stream_start(value, now);
                wish.start.is_none().then(|| wrong_offset(value))
            }
            _ => None,
        };
        if let Some(why) = wrong {
            let text = format!("invalid arg '{name}' for {resource}: {why}");
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
    }
    Ok(wish)
}

/// `x-stream-offset`: a word, an offset, a time in seconds, or an interval before now.
fn stream_start(value: &Value, now: UnixMillis) -> Option<Start> {
    Some(match value {
        // RabbitMQ begins at the first for what lies before it.
        Value::Int(offset) => Start::Offset(Offset(u64::try_from(*offset).unwrap_or(0))),
        Value::Time(seconds) => Start::Time(UnixMillis(seconds.saturating_mul(1000))),
        Value::Text(word) => match word.as_str() {
            "first" => Start::First,
            "last" => Start::Last,
            "next" => Start::Next,
            interval => Start::Time(UnixMillis(now.0.saturating_sub(age_ms(interval)?))),
        },
        _ => return None,
    })
}

fn wrong_offset(value: &Value) -> String {
    match value {
        Value::Text(word) => format!("{{invalid_stream_offset_arg,{{longstr,<<\"{word}\">>}}}}"),
        other => {
            format!("{{invalid_stream_offset_arg,{{{},..}}}}", equivalence::type_name(other))
        }
    }
}
