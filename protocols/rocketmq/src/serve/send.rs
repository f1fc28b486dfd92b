//! Sending: messages checked, made records, published in one batch, and answered when durable.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use mainstem_broker::{Client, HeldId, Publish, Published, Refusal, Terms};
use mainstem_schemas::{RecordId, UnixMillis};
use tonic::Request;

use super::{
    Front,
    calls::{Call, name},
    members::Member,
    transactions,
};
use crate::{
    codec::{
        names,
        proto::{
            Code, Message, MessageType, SendMessageRequest, SendMessageResponse, SendResultEntry,
        },
        recall::{self, Recall},
        status::{self, Fault},
    },
    normalize::{self, Arrival},
};

/// Longest message id of a transactional message, in bytes: it is kept in memory.
const TRANSACTION_ID_BYTES_MAX: usize = 255;

/// The topics known to exist, so that a send does not ask the store each time. A topic that was
/// deleted meanwhile shows when it keeps nothing.
#[derive(Debug, Default)]
pub(super) struct Topics {
    /// By namespace and name; whether it has been sent messages with a message group.
    known: Mutex<HashMap<(String, String), bool>>,
    /// Lite topics by namespace and name, and when they were certainly there.
    lites: Mutex<HashMap<(String, String), UnixMillis>>,
}

impl Topics {
    pub(super) fn is_ordered(&self, namespace: &str, topic: &str) -> bool {
        let key = (namespace.to_owned(), topic.to_owned());
        self.lock().get(&key).is_some_and(|ordered| *ordered)
    }

    fn is_known(&self, namespace: &str, topic: &str) -> bool {
        self.lock().contains_key(&(namespace.to_owned(), topic.to_owned()))
    }

    fn learn(&self, namespace: &str, topic: &str, ordered: bool, names_max: usize) {
        let mut known = self.lock();
        if known.len() >= names_max {
            known.retain(|_, ordered| *ordered);
        }
        if known.len() < names_max {
            *known.entry((namespace.to_owned(), topic.to_owned())).or_default() |= ordered;
        }
    }

    /// Whether a lite topic is there for certain: it goes no sooner than `idle_ms` after it was opened
    /// or something came to it.
    pub(super) fn is_lite_known(
        &self,
        key: &(String, String),
        now: UnixMillis,
        idle_ms: u64,
    ) -> bool {
        let lites = self.lites.lock().expect("no holder of this lock panics");
        lites.get(key).is_some_and(|used| now.since(*used) < idle_ms / 2)
    }

    pub(super) fn learn_lite(&self, key: (String, String), now: UnixMillis, names_max: usize) {
        let mut lites = self.lites.lock().expect("no holder of this lock panics");
        if lites.len() >= names_max {
            lites.clear();
        }
        lites.insert(key, now);
    }

    /// A topic was deleted, with all below it.
    pub(super) fn forget(&self, namespace: &str, topic: &str) {
        self.lock().remove(&(namespace.to_owned(), topic.to_owned()));
        let mut lites = self.lites.lock().expect("no holder of this lock panics");
        lites.retain(|(space, name), _| {
            space != namespace || name.split_once('/').is_none_or(|(above, _)| above != topic)
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), bool>> {
        self.known.lock().expect("no holder of this lock panics")
    }
}

/// A message on its way to the store.
#[derive(Clone, Debug)]
struct Sent {
    message_id: String,
    record: RecordId,
    /// How long the producer of a transactional message may take to decide.
    patience_ms: Option<u64>,
    /// It has a message group.
    is_ordered: bool,
}

impl Front {
    pub(super) async fn on_send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<SendMessageResponse, Fault> {
        let first = request.get_ref().messages.first();
        let call = self.call(&request, first.and_then(|message| message.topic.as_ref())).await?;
        let messages = request.into_inner().messages;
        let topic = self.check(&messages)?;
        self.ensure_topic(&call.member.client, &topic).await?;
        self.check_type(&call.member.namespace, &topic, &messages)?;
        let asked_at = self.broker.now();
        let lites = self.ensure_lites(&call.member.client, &topic, &messages).await?;
        let (batch, sent) = self.records(&call, &topic, messages)?;
        if sent.iter().any(|sent| sent.is_ordered) {
            let namespace = &call.member.namespace;
            self.topics.learn(namespace, &topic, true, self.limits.names_max);
        }
        let published = if sent.iter().any(|sent| sent.patience_ms.is_some()) {
            self.prepare(call.member, topic.clone(), batch, sent.clone()).await?
        } else {
            self.publish(&call.member.client, &topic, batch).await?
        };
        if published.iter().all(|published| matches!(published, Published::Taken { .. })) {
            for lite in lites {
                self.topics.learn_lite(lite, asked_at, self.limits.names_max);
            }
        }
        let entries: Vec<_> = sent
            .into_iter()
            .zip(published)
            .map(|(sent, published)| entry(&topic, sent, published))
            .collect();
        let overall = status::overall(entries.iter().map(|entry| entry.status.as_ref()));
        Ok(SendMessageResponse { status: Some(overall), entries })
    }

    /// Publishes messages of transactions, and notes what waits for a decision from then on. Goes on
    /// when the caller goes away, since nobody would be asked about what is kept and not noted.
    async fn prepare(
        &self,
        member: Arc<Member>,
        topic: String,
        batch: Vec<Publish>,
        sent: Vec<Sent>,
    ) -> Result<Vec<Published>, Fault> {
        let front = self.clone();
        let task = tokio::spawn(async move {
            let published = front.publish(&member.client, &topic, batch).await?;
            for (sent, published) in sent.iter().zip(&published) {
                if let (Published::Held(held), Some(patience_ms)) = (published, sent.patience_ms) {
                    front.begin(&member, &topic, &sent.message_id, *held, patience_ms).await?;
                }
            }
            Ok(published)
        });
        task.await.unwrap_or_else(|_| Err(Refusal::Closed.into()))
    }

    /// Checks a request whole: one bad message refuses it. Answers the topic of all.
    fn check(&self, messages: &[Message]) -> Result<String, Fault> {
        let corrupted = |why| Fault::new(Code::MessageCorrupted, why);
        let first = messages.first().ok_or_else(|| corrupted("no message to send"))?;
        let topic = name(first.topic.as_ref());
        names::check_topic(topic, &self.limits)?;
        if messages.iter().any(|message| name(message.topic.as_ref()) != topic) {
            return Err(corrupted("the messages of one request have different topics"));
        }
        for message in messages {
            names::check_message(message, &self.limits)?;
            self.check_kind(message)?;
        }
        Ok(topic.to_owned())
    }

    /// Refuses what could only be kept by pretending.
    fn check_kind(&self, message: &Message) -> Result<(), Fault> {
        let Some(system) = &message.system_properties else { return Ok(()) };
        let refuse = |code, why: &str| Err(Fault::new(code, why));
        let kind = names::message_type(system);
        if let Some(lite) = &system.lite_topic {
            names::check_lite(lite, &self.limits)?;
            if kind != MessageType::Lite {
                let why = "a message with a lite topic is of no other type";
                return refuse(Code::MessagePropertyConflictWithType, why);
            }
        }
        match kind {
            MessageType::Transaction => {
                let patience_ms = transactions::patience_ms(system, &self.limits);
                if system.message_id.len() > TRANSACTION_ID_BYTES_MAX {
                    return refuse(Code::IllegalMessageId, "the message id is too long");
                }
                if patience_ms > self.limits.transaction_patience_ms_max {
                    return refuse(Code::BadRequest, "the recovery duration is too long");
                }
                Ok(())
            }
            MessageType::Delay => {
                let at = system.delivery_timestamp.as_ref().and_then(normalize::millis);
                let delay_ms = at.unwrap_or_default().since(self.broker.now());
                if delay_ms > self.limits.delay_ms_max {
                    return refuse(Code::IllegalDeliveryTime, "the delivery time is too far ahead");
                }
                Ok(())
            }
            MessageType::Unspecified
            | MessageType::Lite
            | MessageType::Normal
            | MessageType::Fifo
            | MessageType::Priority => Ok(()),
        }
    }

    /// Refuses messages of another type than the topic's, where it has one.
    fn check_type(&self, namespace: &str, topic: &str, messages: &[Message]) -> Result<(), Fault> {
        let Some(expected) = self.type_of(namespace, topic) else { return Ok(()) };
        for system in messages.iter().filter_map(|message| message.system_properties.as_ref()) {
            let actual = names::message_type(system);
            if actual != expected {
                let text = format!(
                    "TopicMessageType validate failed, the expected type is {}, but actual type is {}",
                    expected.as_str_name(),
                    actual.as_str_name()
                );
                return Err(Fault::new(Code::MessagePropertyConflictWithType, text));
            }
        }
        Ok(())
    }

    /// The records of checked messages, and what is to be said about each when it is published.
    fn records(
        &self,
        call: &Call,
        topic: &str,
        messages: Vec<Message>,
    ) -> Result<(Vec<Publish>, Vec<Sent>), Fault> {
        let mut batch = Vec::with_capacity(messages.len());
        let mut sent = Vec::with_capacity(messages.len());
        for mut message in messages {
            let system = message.system_properties.get_or_insert_default();
            let kind = names::message_type(system);
            system.set_message_type(kind);
            let message_id = system.message_id.clone();
            let undecided = kind == MessageType::Transaction;
            let patience_ms = undecided.then(|| transactions::patience_ms(system, &self.limits));
            let stamp = call.member.client.stamp();
            let arrival = Arrival { namespace: &call.member.namespace, topic, stamp };
            let record = normalize::record(message, arrival);
            let record = record
                .map_err(|error| Fault::new(Code::MessagePropertiesTooLarge, error.to_string()))?;
            let is_ordered = record.partition() != 0;
            sent.push(Sent { message_id, record: record.id(), patience_ms, is_ordered });
            let publish = Publish::new(record);
            batch.push(if undecided {
                publish.on(Terms { undecided, ..Terms::default() })
            } else {
                publish
            });
        }
        Ok((batch, sent))
    }

    /// Publishes to a topic and waits until that is durable. A topic that was deleted since it was
    /// last seen is made again, rather than to drop what it would have kept.
    pub(super) async fn publish(
        &self,
        client: &Client,
        topic: &str,
        batch: Vec<Publish>,
    ) -> Result<Vec<Published>, Fault> {
        let again = batch.clone();
        let mut published = client.publish(batch).await?.await?;
        let unkept =
            |published: &Published| matches!(published, Published::Taken { offset: None, .. });
        if published.iter().any(unkept) {
            self.open_topic(client, topic).await?;
            let lost = published.iter().zip(again).filter(|(published, _)| unkept(published));
            let lost: Vec<_> = lost.map(|(_, publish)| publish).collect();
            let mut second = client.publish(lost).await?.await?.into_iter();
            for slot in published.iter_mut().filter(|published| unkept(published)) {
                if let Some(published) = second.next() {
                    *slot = published;
                }
            }
        }
        Ok(published)
    }

    /// Makes sure that a topic exists, or refuses when topics are not to be made on the way.
    pub(super) async fn ensure_topic(&self, client: &Client, topic: &str) -> Result<(), Fault> {
        if self.topics.is_known(&client.principal().namespace, topic) {
            return Ok(());
        }
        self.open_topic(client, topic).await
    }

    /// Asks the store for a topic.
    pub(super) async fn open_topic(&self, client: &Client, topic: &str) -> Result<(), Fault> {
        let namespace = &client.principal().namespace;
        let kind = self.type_of(namespace, topic);
        let create = self.limits.auto_create_topics || kind.is_some();
        client.open_topic(topic.to_owned(), create).await?;
        if kind == Some(MessageType::Priority) {
            self.rank(namespace, topic).await?;
        }
        self.topics.learn(namespace, topic, false, self.limits.names_max);
        Ok(())
    }
}

fn entry(topic: &str, sent: Sent, published: Published) -> SendResultEntry {
    let Sent { message_id, record, .. } = sent;
    match published {
        Published::Held(id) => {
            let recall = Recall { id, record, message_id };
            let recall_handle = if id.due == HeldId::UNDECIDED {
                String::new()
            } else {
                recall::seal(&recall, topic)
            };
            SendResultEntry {
                status: Some(status::ok()),
                recall_handle,
                transaction_id: recall.message_id.clone(),
                message_id: recall.message_id,
                ..SendResultEntry::default()
            }
        }
        Published::Again => SendResultEntry {
            status: Some(status::ok()),
            transaction_id: message_id.clone(),
            message_id,
            ..SendResultEntry::default()
        },
        Published::Taken { offset, .. } => SendResultEntry {
            status: Some(status::ok()),
            // Clients compare the two, of every message.
            transaction_id: message_id.clone(),
            message_id,
            offset: offset.and_then(|offset| i64::try_from(offset.0).ok()).unwrap_or_default(),
            recall_handle: String::new(),
        },
        Published::Refused(refusal) => SendResultEntry {
            status: Some(Fault::from(refusal).status()),
            message_id,
            ..SendResultEntry::default()
        },
    }
}
