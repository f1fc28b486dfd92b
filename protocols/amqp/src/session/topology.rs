//! Exchanges, queues and bindings: what is asked of the store, and how its answers are told.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_broker::{
    Bind, Declared, ExchangeDef, ExchangeKind, QueueDef, QueueStats, Refusal, Retention,
};
use mainstem_schemas::{QueueId, Table, Value, value::find};

use super::{
    Answer, Answered, Ask, Code, Effect, Effects, Fault, Reader, Request, Session, Then,
    basic::DIRECT_REPLY_PREFIX,
    effect::Wish,
    equivalence::{self, KIND_WORDS, NAME_PREFIX},
    policy,
};
use crate::codec::{
    Method, Reply,
    method::{Binding, ExchangeDeclare, QueueDeclare},
    table,
};

pub(super) const RESERVED_PREFIX: &str = "amq.";
const DELAYED: &[u8] = equivalence::DELAYED.as_bytes();

impl Session {
    /// The question behind a method about exchanges, queues or bindings.
    pub(super) fn topology(&mut self, channel: u16, method: Method) -> Result<Ask, Fault> {
        let (request, then) = match method {
            Method::ExchangeDeclare(declare) => self.exchange_declare(&declare)?,
            Method::ExchangeDelete { exchange, if_unused, no_wait } => {
                let name = deletable_exchange(&exchange, &self.vhost)?;
                let request = Request::DeleteExchange { name, if_unused };
                (request, Then::ExchangeDeleted { no_wait })
            }
            Method::ExchangeBind(binding) => {
                let no_wait = binding.no_wait;
                let bind = exchange_binding(&binding)?;
                (Request::Bind(bind), Then::ExchangeBound { no_wait })
            }
            Method::ExchangeUnbind(binding) => {
                let no_wait = binding.no_wait;
                let bind = exchange_binding(&binding)?;
                (Request::Unbind(bind), Then::ExchangeUnbound { no_wait })
            }
            Method::QueueDeclare(declare) => self.queue_declare(&declare)?,
            Method::QueueBind(binding) => {
                let no_wait = binding.no_wait;
                let bind = self.queue_binding(channel, &binding)?;
                (Request::Bind(bind), Then::QueueBound { no_wait })
            }
            Method::QueueUnbind(binding) => {
                (Request::Unbind(self.queue_binding(channel, &binding)?), Then::QueueUnbound)
            }
            Method::QueuePurge { queue, no_wait } => {
                let queue = self.queue_name(channel, &queue)?;
                (Request::FindQueue(queue), Then::Purge { no_wait })
            }
            Method::QueueDelete { queue, if_unused, if_empty, no_wait } => {
                let name = self.queue_name(channel, &queue)?;
                let then = Then::QueueDeleted { name: name.clone(), no_wait };
                (Request::DeleteQueue { name, if_unused, if_empty }, then)
            }
            other => {
                let (class, method) = other.id();
                let text = format!("unexpected method {class}.{method}");
                return Err(Fault::new(Code::CommandInvalid, text));
            }
        };
        Ok(Ask { channel, request, then })
    }

    fn exchange_declare(&self, declare: &ExchangeDeclare) -> Result<(Request, Then), Fault> {
        let name = name_of(&declare.exchange)?;
        let no_wait = declare.no_wait;
        if name.is_empty() {
            return Err(Fault::default_exchange());
        }
        if declare.passive {
            let then = Then::ExchangeDeclared {
                name: name.clone(),
                wanted: None,
                reserved: false,
                no_wait,
            };
            return Ok((Request::FindExchange(name), then));
        }
        let terms = ExchangeTerms {
            name: name.clone(),
            kind: declare.kind.clone(),
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: arguments(&declare.arguments)?,
        };
        let def = terms.def()?;
        let request = exchange_request(&def);
        let reserved = is_reserved(&name);
        Ok((request, Then::ExchangeDeclared { name, wanted: Some(def), reserved, no_wait }))
    }

    fn queue_declare(&mut self, declare: &QueueDeclare) -> Result<(Request, Then), Fault> {
        let no_wait = declare.no_wait;
        let given = name_of(&declare.queue)?;
        if declare.passive {
            // RabbitMQ takes no name for none, not for the last one.
            let then =
                Then::QueueDeclared { name: given.clone(), wanted: None, reserved: false, no_wait };
            return Ok((Request::FindQueue(given), then));
        }
        let reserved = is_reserved(&given);
        let arguments = arguments(&declare.arguments)?;
        let name = match given.is_empty() {
            true => match text(&arguments, NAME_PREFIX) {
                Some(prefix) => {
                    let prefix = name_of(prefix.as_bytes())?;
                    self.random_name(&prefix)
                }
                None => self.random_name("amq.gen-"),
            },
            false => given,
        };
        let terms = QueueTerms {
            name: name.clone(),
            durable: declare.durable,
            exclusive: declare.exclusive,
            auto_delete: declare.auto_delete,
            arguments,
        };
        let def = terms.def(&self.vhost)?;
        let request = queue_request(&def, reserved);
        Ok((request, Then::QueueDeclared { name, wanted: Some(def), reserved, no_wait }))
    }

    fn queue_binding(&self, channel: u16, binding: &Binding) -> Result<Bind, Fault> {
        let source = name_of(&binding.source)?;
        let destination = self.queue_name(channel, &binding.destination)?;
        if source.is_empty() {
            return Err(Fault::default_exchange());
        }
        let key = if binding.destination.is_empty() && binding.routing_key.is_empty() {
            Bytes::from(destination.clone())
        } else {
            binding.routing_key.clone()
        };
        let arguments = arguments(&binding.arguments)?;
        Ok(Bind { source, destination, to_exchange: false, key, arguments })
    }

    /// What the store answered to an [`Ask`].
    pub fn answered(&mut self, channel: u16, then: Then, answer: Answered, effects: &mut Effects) {
        let method = then.method();
        match self.answer(channel, then, answer, effects) {
            Ok(Some(ask)) => effects.push_back(Effect::Ask(ask)),
            Ok(None) => {}
            Err(fault) => self.fail(channel, &fault, method, effects),
        }
    }

    /// Whether a question of this channel is still worth asking.
    #[must_use]
    pub fn is_open(&self, channel: u16) -> bool {
        self.channels.get(&channel).is_some_and(|open| !open.closing)
    }

    fn answer(
        &mut self,
        channel: u16,
        then: Then,
        answer: Answered,
        effects: &mut Effects,
    ) -> Result<Option<Ask>, Fault> {
        let reserved = matches!(&then, Then::QueueDeclared { reserved: true, .. });
        let is_passive = matches!(&then, Then::QueueDeclared { wanted: None, .. });
        let answer = match answer {
            Ok(answer) => answer,
            // A server may look whether the one who asked is still there.
            Err(Refusal::Locked(name)) if is_passive && name.starts_with(DIRECT_REPLY_PREFIX) => {
                let reply =
                    Reply::QueueDeclareOk { queue: name, message_count: 0, consumer_count: 1 };
                effects.push_back(Effect::Write { channel, reply });
                return Ok(None);
            }
            Err(refusal) if let Then::QueueDeclared { name, .. } = &then => {
                return Err(queue_refused(&refusal, name, reserved, &self.vhost));
            }
            Err(refusal) => {
                let kind = match then.method().0 {
                    40 => "exchange",
                    _ => "queue",
                };
                return Err(Fault::refused(&refusal, kind, &self.vhost));
            }
        };
        let (reply, no_wait) = match (then, answer) {
            (Then::ExchangeDeclared { name, wanted, no_wait, .. }, answer) => {
                exchange_fits(&name, wanted.as_ref(), answer, &self.vhost)?;
                (Reply::ExchangeDeclareOk, no_wait)
            }
            (Then::ExchangeDeleted { no_wait }, _) => (Reply::ExchangeDeleteOk, no_wait),
            (Then::ExchangeBound { no_wait }, _) => (Reply::ExchangeBindOk, no_wait),
            (Then::ExchangeUnbound { no_wait }, _) => (Reply::ExchangeUnbindOk, no_wait),
            (Then::QueueDeclared { name, wanted, no_wait, .. }, Answer::Queue(found)) => {
                let reply = self.queue_declared(channel, name, wanted.as_ref(), &found)?;
                (reply, no_wait)
            }
            (Then::QueueDeleted { name, no_wait }, answer) => {
                self.queue_gone(channel, &name, effects);
                (Reply::QueueDeleteOk { message_count: counted(&answer) }, no_wait)
            }
            (Then::QueueBound { no_wait }, _) => (Reply::QueueBindOk, no_wait),
            (Then::QueueUnbound, _) => (Reply::QueueUnbindOk, false),
            (Then::Purge { no_wait }, Answer::Queue(found)) => {
                return self.purge(channel, &found, no_wait).map(Some);
            }
            (Then::Purged { no_wait }, answer) => {
                (Reply::QueuePurgeOk { message_count: counted(&answer) }, no_wait)
            }
            (Then::Replying(reply), _) => (reply, false),
            (Then::Committed, _) => (Reply::TxCommitOk, false),
            (then, answer) => return self.answer_basic(channel, then, answer, effects),
        };
        if !no_wait {
            effects.push_back(Effect::Write { channel, reply });
        }
        Ok(None)
    }

    fn answer_basic(
        &mut self,
        channel: u16,
        then: Then,
        answer: Answer,
        effects: &mut Effects,
    ) -> Result<Option<Ask>, Fault> {
        match (then, answer) {
            (Then::Consume(wish), Answer::Queue(found)) => {
                self.consume_from(channel, wish, &found.def)
            }
            (Then::Consuming { wish, consumer, is_stream, counts_returns, timeout_ms }, _) => {
                let Wish { queue, consumer_tag, no_wait, sieve, .. } = wish;
                let reader = Reader {
                    channel,
                    queue,
                    consumer_tag,
                    is_stream,
                    counts_returns,
                    timeout_ms,
                    sieve,
                };
                self.consuming(reader, no_wait, consumer, effects);
                Ok(None)
            }
            (Then::Cancelled { consumer_tag, no_wait }, _) => {
                self.cancelled(channel, consumer_tag, no_wait, effects);
                Ok(None)
            }
            (Then::Get { queue, no_ack }, Answer::Queue(found)) => {
                self.get_from(channel, queue, no_ack, &found.def).map(Some)
            }
            (Then::Got { counts_returns, timeout_ms }, Answer::Got(got)) => {
                self.got(channel, got, counts_returns, timeout_ms, effects);
                Ok(None)
            }
            (then, answer) => {
                let text = format!("the answer {answer:?} does not fit {then:?}");
                Err(Fault::new(Code::InternalError, text))
            }
        }
    }

    fn queue_declared(
        &mut self,
        channel: u16,
        name: String,
        wanted: Option<&QueueDef>,
        found: &Declared<QueueDef>,
    ) -> Result<Reply, Fault> {
        if let Some(wanted) = wanted
            && !found.created
        {
            equivalence::queue(wanted, &found.def, &self.vhost)?;
        }
        if let Some(open) = self.channels.get_mut(&channel) {
            open.last_queue = Some(name.clone());
            open.got_from = None;
        }
        let QueueStats { ready, consumers, .. } = found.stats;
        Ok(Reply::QueueDeclareOk {
            queue: name,
            message_count: count(ready),
            consumer_count: consumers,
        })
    }

    fn purge(&self, channel: u16, found: &Declared<QueueDef>, no_wait: bool) -> Result<Ask, Fault> {
        let request = purge_request(&found.def, &self.vhost)?;
        Ok(Ask { channel, request, then: Then::Purged { no_wait } })
    }
}

/// What an exchange is to be.
#[derive(Clone, Debug)]
pub struct ExchangeTerms {
    pub name: String,
    /// The word for its routing rule.
    pub kind: Bytes,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Table,
}

impl ExchangeTerms {
    /// Errors: it has no name, or there is no such type.
    pub(crate) fn def(self) -> Result<ExchangeDef, Fault> {
        let Self { name, kind, durable, auto_delete, internal, mut arguments } = self;
        if name.is_empty() {
            return Err(Fault::default_exchange());
        }
        let kind = if &*kind == DELAYED {
            delayed_kind(&arguments)?
        } else {
            arguments.retain(|(name, _)| name != equivalence::DELAYED_TYPE);
            exchange_kind(&kind)?
        };
        Ok(ExchangeDef { name, kind, durable, auto_delete, internal, arguments })
    }
}

/// What a queue is to be.
#[derive(Clone, Debug)]
pub struct QueueTerms {
    pub name: String,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub arguments: Table,
}

impl QueueTerms {
    /// Errors: an argument is wrong, or does not go with the others.
    pub(crate) fn def(self, vhost: &str) -> Result<QueueDef, Fault> {
        let Self { name, durable, exclusive, auto_delete, arguments } = self;
        let resource = format!("queue '{name}' in vhost '{vhost}'");
        equivalence::check_queue_arguments(&arguments, &resource)?;
        let def = QueueDef {
            id: QueueId::default(),
            name,
            durable: durable && !exclusive,
            exclusive,
            auto_delete,
            retention: equivalence::retention(&arguments),
            policy: Arc::new(policy::of(&arguments)),
            arguments,
        };
        equivalence::check_stream(&def, &resource)?;
        Ok(def)
    }
}

/// The question behind a declaration: one with a name of ours is there already, or will not be.
pub(crate) fn exchange_request(def: &ExchangeDef) -> Request {
    if is_reserved(&def.name) {
        Request::FindExchange(def.name.clone())
    } else {
        Request::DeclareExchange(def.clone())
    }
}

/// The same for a queue, whose name was `reserved` when it was given.
pub(crate) fn queue_request(def: &QueueDef, reserved: bool) -> Request {
    if reserved { Request::FindQueue(def.name.clone()) } else { Request::DeclareQueue(def.clone()) }
}

/// Whether only the server makes what has such a name.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED_PREFIX)
}

/// What is told of a queue that was not declared.
pub(crate) fn queue_refused(refusal: &Refusal, name: &str, reserved: bool, vhost: &str) -> Fault {
    match refusal {
        Refusal::NoQueue(name) if reserved => Fault::reserved("queue", name),
        Refusal::Limit { max, .. } => Fault::queue_limit(name, vhost, *max),
        refusal => Fault::refused(refusal, "queue", vhost),
    }
}

/// Errors: what was found is not what is wanted, or nothing was.
pub(crate) fn exchange_fits(
    name: &str,
    wanted: Option<&ExchangeDef>,
    answer: Answer,
    vhost: &str,
) -> Result<(), Fault> {
    let found = match answer {
        Answer::Exchange(declared) if declared.created => return Ok(()),
        Answer::Exchange(declared) => Some(declared.def),
        Answer::ExchangeFound(found) => found,
        _ => None,
    };
    match (wanted, found) {
        (None, Some(_)) => Ok(()),
        (None, None) => Err(Fault::no_exchange(name, vhost)),
        (Some(wanted), Some(found)) => equivalence::exchange(wanted, &found, vhost),
        (Some(_), None) => Err(Fault::reserved("exchange", name)),
    }
}

/// Errors: the exchange is ours.
pub(crate) fn deletable_exchange(name: &[u8], vhost: &str) -> Result<String, Fault> {
    let name = name_of(name)?;
    if name.is_empty() {
        return Err(Fault::default_exchange());
    }
    if name.starts_with(RESERVED_PREFIX) {
        let text = format!("deletion of system exchange '{name}' in vhost '{vhost}' not allowed");
        return Err(Fault::new(Code::AccessRefused, text));
    }
    Ok(name)
}

/// Errors: a stream keeps what it has.
pub(crate) fn purge_request(def: &QueueDef, vhost: &str) -> Result<Request, Fault> {
    let name = def.name.clone();
    if is_stream(def) {
        return Err(Fault::not_implemented(format!(
            "queue.purge not supported by stream queues queue '{name}' in vhost '{vhost}'"
        )));
    }
    Ok(Request::PurgeQueue(name))
}

/// Whether a queue keeps everything and is read by offset.
pub(super) fn is_stream(queue: &QueueDef) -> bool {
    queue.retention == Retention::Time
}

/// A name as RabbitMQ reads it: line breaks are stripped. Errors: it is not UTF-8.
pub(super) fn name_of(given: &[u8]) -> Result<String, Fault> {
    let stripped = given.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n'));
    String::from_utf8(stripped.collect()).map_err(|_| Fault::malformed("a name"))
}

/// A count as the wire has it.
pub(super) fn count(records: u64) -> u32 {
    u32::try_from(records).unwrap_or(u32::MAX)
}

fn counted(answer: &Answer) -> u32 {
    if let Answer::Count(records) = answer { count(*records) } else { 0 }
}

fn arguments(table: &Bytes) -> Result<Table, Fault> {
    table::parse(table).map_err(|_| Fault::malformed("the table of arguments"))
}

/// The routing rule a type names.
fn exchange_kind(given: &[u8]) -> Result<ExchangeKind, Fault> {
    let found = KIND_WORDS.into_iter().find(|(word, _)| word.as_bytes() == given);
    found.map(|(_, kind)| kind).ok_or_else(|| {
        // Hard 503 in RabbitMQ 3, soft 406 in 4; the mild one suits clients of both.
        let text = format!("unknown exchange type '{}'", String::from_utf8_lossy(given));
        Fault::new(Code::PreconditionFailed, text)
    })
}

/// The routing rule of an exchange that delays (rabbitmq-delayed-message-exchange, validate/1).
fn delayed_kind(arguments: &Table) -> Result<ExchangeKind, Fault> {
    let fail = |text| Err(Fault::new(Code::PreconditionFailed, text));
    match text(arguments, equivalence::DELAYED_TYPE).map(str::as_bytes) {
        None => fail("Invalid argument, 'x-delayed-type' must be an existing exchange type"),
        Some(DELAYED) => {
            fail("Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'")
        }
        Some(kind) => exchange_kind(kind),
    }
}

fn exchange_binding(binding: &Binding) -> Result<Bind, Fault> {
    let (source, destination) = (name_of(&binding.source)?, name_of(&binding.destination)?);
    if source.is_empty() || destination.is_empty() {
        return Err(Fault::default_exchange());
    }
    let key = binding.routing_key.clone();
    let arguments = arguments(&binding.arguments)?;
    Ok(Bind { source, destination, to_exchange: true, key, arguments })
}

/// A text argument.
pub(super) fn text<'a>(arguments: &'a Table, wanted: &str) -> Option<&'a str> {
    find(arguments, wanted).and_then(Value::as_text)
}
