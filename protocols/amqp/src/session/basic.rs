//! Consuming: consumers, single gets, credit, deliveries.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_broker::{Consume, Delivery, QueueDef, QueueStats, Retention, Source, Start};
use mainstem_schemas::{
    ConsumerId, DeliveryId, Offset, QueueId, Settlement, Table, UnixMillis, Value, Verdict,
};

use super::{
    Ask, Code, Effect, Effects, Fault, Reader, Request, Session, Then,
    channel::DirectReply,
    effect::Wish,
    topology::{count, is_stream, name_of},
};
use crate::codec::{Reply, method::BasicConsume, table};

/// What a client names to get replies without declaring a queue, and what our names for such
/// queues begin with.
pub(crate) const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to";
pub(super) const DIRECT_REPLY_PREFIX: &str = "amq.rabbitmq.reply-to.";

/// Where a delivery goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handing<'a> {
    /// To this channel, under these tags; with the offset when the consumer reads a stream.
    Write {
        channel: u16,
        consumer_tag: &'a Bytes,
        delivery_tag: u64,
        stream_offset: Option<Offset>,
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
            open.pooled = prefetch_count > 0;
            let limit = u32::from(prefetch_count);
            effects.push_back(Effect::SetPool { pool: channel, limit });
        } else {
            open.prefetch = prefetch_count;
        }
        effects.push_back(Effect::Write { channel, reply: Reply::QosOk });
        Ok(())
    }

    pub(super) fn consume(&mut self, channel: u16, method: BasicConsume) -> Result<Ask, Fault> {
        let queue = self.queue_name(channel, &method.queue)?;
        let consumer_tag = if method.consumer_tag.is_empty() {
            Bytes::from(self.random_name("amq.ctag-"))
        } else {
            method.consumer_tag
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
            priority: priority(&arguments)?,
            start: stream_start(&arguments, self.now)?,
        };
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
            start: Start::Next,
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
        if is_stream && open.prefetch == 0 {
            let text = format!(
                "consumer prefetch count is not set for 'queue '{}' in vhost '{}''",
                wish.queue, self.vhost
            );
            return Err(Fault::new(Code::PreconditionFailed, text));
        }
        self.last_consumer += 1;
        let consumer = ConsumerId(self.last_consumer);
        let source = if is_stream {
            Source::Stream(wish.queue.clone(), wish.start)
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
        let then = Then::Consuming { wish, consumer, is_stream };
        Ok(Some(Ask { channel, request: Request::Consume(consume), then }))
    }

    /// The store has the consumer. consume-ok is written before any delivery, which come later.
    pub(super) fn consuming(
        &mut self,
        channel: u16,
        wish: Wish,
        consumer: ConsumerId,
        is_stream: bool,
        effects: &mut Effects,
    ) {
        let Some(open) = self.channels.get_mut(&channel) else {
            effects.push_back(Effect::Drop(consumer));
            return;
        };
        let consumer_tag = wish.consumer_tag;
        open.consumers.insert(consumer_tag.clone(), consumer);
        let reader = Reader { channel, consumer_tag: consumer_tag.clone(), is_stream };
        self.readers.insert(consumer, reader);
        if !wish.no_wait {
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

    /// basic.get. Streams refuse it; the queue last got from is known to be none.
    pub(super) fn get(&mut self, channel: u16, queue: &[u8], no_ack: bool) -> Result<Ask, Fault> {
        let queue = self.queue_name(channel, queue)?;
        let known = self.channels.get(&channel).and_then(|open| open.got_from.as_ref());
        if known == Some(&queue) {
            return Ok(got(channel, queue, no_ack));
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
        if is_stream(def) {
            return Err(Fault::not_implemented(format!(
                "basic.get not supported by stream queues queue '{queue}' in vhost '{}'",
                self.vhost
            )));
        }
        if let Some(open) = self.channels.get_mut(&channel) {
            open.got_from = Some(queue.clone());
        }
        Ok(got(channel, queue, no_ack))
    }

    /// The store answered a get: the record gets its tag.
    pub(super) fn got(
        &mut self,
        channel: u16,
        got: Option<(Delivery, QueueStats)>,
        effects: &mut Effects,
    ) {
        let Some(open) = self.channels.get_mut(&channel) else { return };
        let Some((delivery, stats)) = got else {
            effects.push_back(Effect::Write { channel, reply: Reply::GetEmpty });
            return;
        };
        let delivery_tag = open.next_tag();
        if delivery.needs_settle {
            open.unsettled.push(delivery_tag, delivery.id);
        }
        let message_count = count(stats.ready);
        let delivery = Box::new(delivery);
        effects.push_back(Effect::WriteGot { channel, delivery_tag, delivery, message_count });
    }

    /// Gives a delivery its channel and tag.
    pub fn deliver(
        &mut self,
        consumer: ConsumerId,
        id: DeliveryId,
        needs_settle: bool,
    ) -> Handing<'_> {
        let Some(reader) = self.readers.get(&consumer) else { return Handing::Unread };
        let Some(open) = self.channels.get_mut(&reader.channel) else { return Handing::Unread };
        let delivery_tag = open.next_tag();
        if needs_settle {
            open.unsettled.push(delivery_tag, id);
        }
        Handing::Write {
            channel: reader.channel,
            consumer_tag: &reader.consumer_tag,
            delivery_tag,
            stream_offset: reader.is_stream.then_some(id.offset),
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
            effects.push_back(Effect::Write { channel, reply: Reply::RecoverOk });
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

fn got(channel: u16, queue: String, no_ack: bool) -> Ask {
    let request = Request::Get { queue, settle_at_once: no_ack };
    Ask { channel, request, then: Then::Got }
}

fn priority(arguments: &Table) -> Result<i32, Fault> {
    match find(arguments, "x-priority") {
        None => Ok(0),
        Some(Value::Int(value)) => {
            let clamped = (*value).clamp(i32::MIN.into(), i32::MAX.into());
            Ok(i32::try_from(clamped).unwrap_or_default())
        }
        Some(_) => {
            let text = "invalid arg 'x-priority' for consumer: an integer is expected";
            Err(Fault::new(Code::PreconditionFailed, text))
        }
    }
}

/// `x-stream-offset`: a word, an offset, a time in seconds, or an interval before now.
fn stream_start(arguments: &Table, now: UnixMillis) -> Result<Start, Fault> {
    let bad = |what: &str| {
        let text = format!("x-stream-offset {what} is no offset");
        Fault::new(Code::PreconditionFailed, text)
    };
    Ok(match find(arguments, "x-stream-offset") {
        None => Start::Next,
        Some(Value::Int(offset)) => {
            Start::Offset(Offset(u64::try_from(*offset).map_err(|_| bad("below zero"))?))
        }
        Some(Value::Time(seconds)) => Start::Time(UnixMillis(seconds.saturating_mul(1000))),
        Some(Value::Text(word)) => match word.as_str() {
            "first" => Start::First,
            "last" => Start::Last,
            "next" => Start::Next,
            interval => {
                let back = interval_ms(interval).ok_or_else(|| bad(&format!("'{interval}'")))?;
                Start::Time(UnixMillis(now.0.saturating_sub(back)))
            }
        },
        Some(_) => return Err(bad("of this type")),
    })
}

/// `7D`, `90m`: a number and one of Y M D h m s.
fn interval_ms(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit_s: u64 = match unit {
        "Y" => 365 * 86_400,
        "M" => 30 * 86_400,
        "D" => 86_400,
        "h" => 3600,
        "m" => 60,
        "s" => 1,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_s)?.checked_mul(1000)
}

fn find<'a>(arguments: &'a Table, wanted: &str) -> Option<&'a Value> {
    arguments.iter().find(|(name, _)| name == wanted).map(|(_, value)| value)
}
