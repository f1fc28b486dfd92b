//! What a client may do, asked where it asks for it, whatever protocol it speaks.
//!
//! Exchanges, queues, topics and groups share the names of one namespace. An address is meant by more than
//! one name, and each of them is asked about:
//!
//! | what | needs |
//! | --- | --- |
//! | publish to an exchange | write on it, and its key where keys are bounded; on `amq.default` for the default one |
//! | publish to a path | the same on the root exchange, with the path as the key |
//! | publish to a topic | write on the topic, which is an exchange too |
//! | read a filter | read on the root exchange, with the filter as the key; what was published to an exchange or a topic by its name is seen by who may read that |
//! | read a queue, a topic, a group | read on it |
//! | make or delete something | configure on it |

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use mainstem_schemas::{
    Address, Dialect, Doors, Entrance, Filter, Path, Principal, Record, Value,
    address::{NOTE_PREFIX, REPLY_QUEUE_PREFIX, ROOT_EXCHANGE},
    filter::Step,
    value::find,
};

use super::{Broker, Client};
use crate::{
    command::{Bind, ExchangeDef, Publish, QueueDef, SessionOpened, Subscribe, Subscription},
    error::Refusal,
    policy::DeadLetter,
};

/// What may be done with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Make, change and delete it.
    Configure,
    /// Publish to it, or bind to it.
    Write,
    /// Consume from it, or bind from it.
    Read,
}

/// What an identity may do in its namespace.
pub trait Rights: Send + Sync {
    /// Nothing is refused, whatever is asked.
    fn is_all(&self) -> bool;

    /// Whether that may be done with what has this name.
    fn may(&self, act: Act, name: &str) -> bool;

    /// Whether keys like this may be written to, or read from, an exchange that it may be done with.
    fn may_use_key(&self, act: Act, exchange: &str, key: &[u8]) -> bool;

    /// Whether there is anything that [`Rights::may_use_key`] refuses at that exchange.
    fn bounds_keys(&self, exchange: &str) -> bool;
}

/// Everything.
pub struct AllRights;

impl Rights for AllRights {
    fn is_all(&self) -> bool {
        true
    }

    fn may(&self, _act: Act, _name: &str) -> bool {
        true
    }

    fn may_use_key(&self, _act: Act, _exchange: &str, _key: &[u8]) -> bool {
        true
    }

    fn bounds_keys(&self, _exchange: &str) -> bool {
        false
    }
}

/// The default exchange has no name to match patterns with (RabbitMQ's access control guide).
const DEFAULT_EXCHANGE: &str = "amq.default";

/// A client's rights as they were last asked for, and in which edition.
pub(super) type Known = Mutex<(u64, Arc<dyn Rights>)>;

/// Something with a name.
#[derive(Clone, Copy)]
enum Thing<'a> {
    Exchange(&'a str),
    Queue(&'a str),
    Topic(&'a str),
    Group(&'a str),
}

impl<'a> Thing<'a> {
    fn word(self) -> (&'static str, &'a str) {
        match self {
            Self::Exchange(name) => ("exchange", name),
            Self::Queue(name) => ("queue", name),
            Self::Topic(name) => ("topic", name),
            Self::Group(name) => ("group", name),
        }
    }
}

/// Rights, and whose they are.
struct Judge<'a> {
    rights: &'a dyn Rights,
    principal: &'a Principal,
}

impl Judge<'_> {
    fn check(&self, act: Act, thing: Thing<'_>) -> Result<(), Refusal> {
        let (kind, name) = thing.word();
        if matches!(thing, Thing::Queue(_)) && name.starts_with(REPLY_QUEUE_PREFIX) {
            // It is this connection's, or locked.
            return Ok(());
        }
        let name = if name.is_empty() { DEFAULT_EXCHANGE } else { name };
        if self.rights.may(act, name) {
            return Ok(());
        }
        Err(self.denied(format!("{kind} '{name}'")))
    }

    fn denied(&self, what: String) -> Refusal {
        Refusal::Denied { what, user: self.principal.name.to_string() }
    }

    /// An exchange, and a key at it.
    fn check_key(&self, act: Act, exchange: &str, key: &[u8]) -> Result<(), Refusal> {
        self.check(act, Thing::Exchange(exchange))?;
        if self.rights.may_use_key(act, exchange, key) {
            return Ok(());
        }
        let key = String::from_utf8_lossy(key);
        Err(self.denied(format!("topic '{key}' in exchange '{exchange}'")))
    }

    fn check_root(&self, act: Act, path: &Path) -> Result<(), Refusal> {
        self.check_key(act, ROOT_EXCHANGE, &path.render(Dialect::Amqp))
    }

    /// The exchange that a path's first segment names.
    fn check_named(&self, act: Act, path: &Path) -> Result<(), Refusal> {
        let Some((first, rest)) = path.split_first(Dialect::Amqp) else { return Ok(()) };
        self.check_key(act, &String::from_utf8_lossy(first), &rest)
    }

    /// The record as it may be published.
    fn let_in(&self, record: Record, extra_keys: &[Bytes]) -> Result<Record, Refusal> {
        let address = record.address();
        match address.entrance() {
            Entrance::Exchange { name, key } => {
                let name = String::from_utf8_lossy(&name);
                for key in std::iter::once(&key).chain(extra_keys) {
                    self.check_key(Act::Write, &name, key)?;
                }
                Ok(record)
            }
            Entrance::Path => {
                let path = address.path();
                let (root, named) =
                    (self.check_root(Act::Write, &path), self.check_named(Act::Write, &path));
                // A topic's name may stand where a queue's usually does.
                if address.is_at_default_exchange() {
                    self.check(Act::Write, Thing::Exchange(""))?;
                }
                if address.own_door() == Doors::Named { &named } else { &root }.clone()?;
                Ok(if root.is_ok() && named.is_ok() { record } else { record.confined() })
            }
        }
    }

    /// Whether a reader of filters may see what was published there.
    fn may_see(&self, address: &Address) -> bool {
        match address.entrance() {
            Entrance::Exchange { name, key } => {
                let name = String::from_utf8_lossy(&name);
                self.check_key(Act::Read, &name, &key).is_ok()
            }
            Entrance::Path if address.own_door() == Doors::Named => {
                self.check_named(Act::Read, &address.path()).is_ok()
            }
            Entrance::Path => self.check_root(Act::Read, &address.path()).is_ok(),
        }
    }

    /// The filter of a subscription. Those who share one get each other's records, so that all of them
    /// must be for everybody.
    fn check_filter(&self, filter: &Filter, is_shared: bool) -> Result<(), Refusal> {
        if let Some(Step::Exact(first)) = filter.steps().first()
            && first.starts_with(NOTE_PREFIX.as_bytes())
        {
            return Ok(());
        }
        self.check_key(Act::Read, ROOT_EXCHANGE, &filter.render_key())?;
        match filter.steps().first() {
            _ if !is_shared => Ok(()),
            // Where keys are bounded, only one that is a key can be judged.
            Some(Step::Exact(first))
                if filter.is_exact()
                    || !self.rights.bounds_keys(&String::from_utf8_lossy(first)) =>
            {
                let key = filter.render_key();
                let rest = key.iter().position(|byte| *byte == b'.').map_or(key.len(), |at| at + 1);
                let rest = key.get(rest..).unwrap_or_default();
                self.check_key(Act::Read, &String::from_utf8_lossy(first), rest)
            }
            _ => {
                let shown = String::from_utf8_lossy(&filter.render()).into_owned();
                Err(self.denied(format!("shared topic filter '{shown}'")))
            }
        }
    }

    /// A queue, and the exchange that takes what dies in it (RabbitMQ's access control guide).
    fn check_queue(&self, def: &QueueDef) -> Result<(), Refusal> {
        self.check(Act::Configure, Thing::Queue(&def.name))?;
        if let Some(DeadLetter::Exchange { name, .. }) = &def.policy.delivery.dead_letter {
            self.check(Act::Read, Thing::Queue(&def.name))?;
            self.check(Act::Write, Thing::Exchange(name))?;
        }
        Ok(())
    }

    fn check_exchange(&self, def: &ExchangeDef) -> Result<(), Refusal> {
        self.check(Act::Configure, Thing::Exchange(&def.name))?;
        if let Some(Value::Text(alternate)) = find(&def.arguments, "alternate-exchange") {
            self.check(Act::Read, Thing::Exchange(&def.name))?;
            self.check(Act::Write, Thing::Exchange(alternate))?;
        }
        Ok(())
    }

    fn check_bind(&self, bind: &Bind) -> Result<(), Refusal> {
        let to = match bind.to_exchange {
            true => Thing::Exchange(&bind.destination),
            false => Thing::Queue(&bind.destination),
        };
        self.check(Act::Write, to)?;
        self.check_key(Act::Read, &bind.source, &bind.key)
    }
}

/// Whether a record is a front-end's own note: no peer can make one.
fn is_note(record: &Record) -> bool {
    record.is_retain() && record.direct_queue().is_some()
}

impl Broker {
    /// The record as somebody may publish it now who is not here any more. Errors: [`Refusal::Denied`].
    pub fn permit(
        &self,
        user: &str,
        namespace: &str,
        client_id: &str,
        record: Record,
    ) -> Result<Record, Refusal> {
        let principal = Principal::named(user, namespace);
        let rights = self.shared.authenticator.rights(&principal, Some(client_id));
        if rights.is_all() {
            return Ok(record);
        }
        Judge { rights: &*rights, principal: &principal }.let_in(record, &[])
    }
}

impl Client {
    /// What a peer calls itself, which its rights may hang on. Call it once, before anything is asked.
    pub fn set_client_id(&self, client_id: &str) {
        // A second name is none.
        let _first = self.client_id.set(client_id.into());
    }

    /// What it may do now.
    fn rights(&self) -> Arc<dyn Rights> {
        let authenticator = &self.shared.authenticator;
        let edition = authenticator.edition();
        let mut known = self.rights.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != edition {
            let client_id = self.client_id.get().map(|id| &**id);
            *known = (edition, authenticator.rights(&self.principal, client_id));
        }
        known.1.clone()
    }

    /// Asks nothing of those who may do everything.
    fn check(&self, check: impl FnOnce(&Judge<'_>) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let rights = self.rights();
        if self.is_own || rights.is_all() {
            return Ok(());
        }
        check(&Judge { rights: &*rights, principal: &self.principal })
    }

    pub(super) fn check_exchange(&self, def: &ExchangeDef) -> Result<(), Refusal> {
        self.check(|judge| judge.check_exchange(def))
    }

    pub(super) fn check_queue(&self, def: &QueueDef) -> Result<(), Refusal> {
        self.check(|judge| judge.check_queue(def))
    }

    pub(super) fn check_deletion(&self, name: &str, is_exchange: bool) -> Result<(), Refusal> {
        let thing = if is_exchange { Thing::Exchange(name) } else { Thing::Queue(name) };
        self.check(|judge| judge.check(Act::Configure, thing))
    }

    pub(super) fn check_bind(&self, bind: &Bind) -> Result<(), Refusal> {
        self.check(|judge| judge.check_bind(bind))
    }

    pub(super) fn check_reading(&self, queue: &str) -> Result<(), Refusal> {
        self.check(|judge| judge.check(Act::Read, Thing::Queue(queue)))
    }

    pub(super) fn check_filter(&self, filter: &Filter, is_shared: bool) -> Result<(), Refusal> {
        self.check(|judge| judge.check_filter(filter, is_shared))
    }

    /// Takes out of a session what whoever holds it now may not subscribe to.
    pub(super) async fn give_up_forbidden(
        &self,
        mut opened: SessionOpened,
    ) -> Result<SessionOpened, Refusal> {
        let may_have = |held: &Subscription| {
            let Subscribe { filter, share, .. } = &held.subscribe;
            self.check_filter(filter, share.is_some()).is_ok()
        };
        let (kept, forbidden) = opened.subscriptions.into_iter().partition(may_have);
        opened.subscriptions = kept;
        let forbidden: Vec<Subscription> = forbidden;
        for Subscription { subscribe: Subscribe { filter, share, .. }, .. } in forbidden {
            self.unsubscribe(filter, share).await?;
        }
        Ok(opened)
    }

    /// A topic, or one below it, which goes by the name of the one above.
    pub(super) fn check_topic(&self, act: Act, name: &str) -> Result<(), Refusal> {
        let name = name.split_once('/').map_or(name, |(above, _)| above);
        self.check(|judge| judge.check(act, Thing::Topic(name)))
    }

    /// Errors: it may not make, change or delete that topic now.
    pub fn check_topic_configuration(&self, topic: &str) -> Result<(), Refusal> {
        self.check_topic(Act::Configure, topic)
    }

    /// Errors: it may not publish to that topic now.
    pub fn check_writing(&self, topic: &str) -> Result<(), Refusal> {
        self.check_topic(Act::Write, topic)
    }

    /// Errors: it may not read that topic now.
    pub fn check_topic_reading(&self, topic: &str) -> Result<(), Refusal> {
        self.check_topic(Act::Read, topic)
    }

    /// Errors: it may not read as that group now.
    pub fn check_group_reading(&self, group: &str) -> Result<(), Refusal> {
        self.check(|judge| judge.check(Act::Read, Thing::Group(group)))
    }

    /// Errors: it may not make, change or delete that group now.
    pub fn check_group_configuration(&self, group: &str) -> Result<(), Refusal> {
        self.check(|judge| judge.check(Act::Configure, Thing::Group(group)))
    }

    /// Errors: it may not read that topic as that group now.
    pub fn check_group(&self, topic: &str, group: &str) -> Result<(), Refusal> {
        self.check_topic_reading(topic)?;
        self.check_group_reading(group)
    }

    /// Whether this client may publish so; what is refused is told apart before anything of it is sent.
    pub fn may_publish(&self, publish: &Publish) -> Result<(), Refusal> {
        let Publish { record, extra_keys, .. } = publish;
        self.check(|judge| judge.let_in(record.clone(), extra_keys).map(drop))
    }

    /// Whether this client, which reads filters, may see what was published there, or `again` there.
    #[must_use]
    pub fn may_see(&self, record: &Record, again: Option<&Address>) -> bool {
        let rights = self.rights();
        let judge = Judge { rights: &*rights, principal: &self.principal };
        let sees = |address: &Address| judge.may_see(address);
        self.is_own || rights.is_all() || again.map_or_else(|| sees(&record.address()), sees)
    }

    /// Takes out of a batch what may not be published: where it stood, and why.
    pub(super) fn let_in(&self, batch: &mut Vec<Publish>) -> Vec<(usize, Refusal)> {
        let rights = self.rights();
        if self.is_own || rights.is_all() {
            return Vec::new();
        }
        let judge = Judge { rights: &*rights, principal: &self.principal };
        let (mut refused, mut at) = (Vec::new(), 0);
        batch.retain_mut(|publish| {
            at += 1;
            if is_note(&publish.record) {
                return true;
            }
            match judge.let_in(publish.record.clone(), &publish.extra_keys) {
                Ok(record) => publish.record = record,
                Err(refusal) => {
                    refused.push((at - 1, refusal));
                    return false;
                }
            }
            true
        });
        refused
    }
}
