//! What operators said of topics and groups, over what the configuration says. The store keeps it; what
//! is here is read once for each namespace that somebody comes into.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use mainstem_broker::{Refusal, TopicTerms};
use mainstem_schemas::{Table, Value, value::find};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Front;
use crate::{
    codec::{
        proto::{Code, MessageType},
        status::Fault,
    },
    session::group::GroupTerms,
};

/// Under which names the store keeps it.
const TOPICS: &str = "rocketmq.topic";
const GROUPS: &str = "rocketmq.group";
/// Priorities of a topic that has any: from 0 to this one. Higher ones are as high as this.
const PRIORITY_MAX: u8 = 15;

/// Of one namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// `Unspecified` for a topic that takes everything, whatever the configuration says.
    pub(super) topics: HashMap<String, MessageType>,
    pub(super) groups: HashMap<String, GroupTerms>,
}

/// Of all namespaces.
#[derive(Debug)]
pub(super) struct Terms {
    known: Mutex<Known>,
    /// Held by the one that reads or changes it.
    changing: Semaphore,
}

#[derive(Debug, Default)]
struct Known {
    /// How many namespaces had been taken away when it was read.
    emptied: u64,
    spaces: HashMap<String, Arc<Said>>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { known: Mutex::default(), changing: Semaphore::new(1) }
    }
}

impl Terms {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no holder of this lock panics")
    }

    fn of(&self, namespace: &str) -> Option<Arc<Said>> {
        self.lock().spaces.get(namespace).cloned()
    }

    /// The same, if no namespace was taken away since it was read.
    fn still_of(&self, namespace: &str, emptied: u64) -> Option<Arc<Said>> {
        let mut known = self.lock();
        if known.emptied < emptied {
            *known = Known { emptied, ..Known::default() };
        }
        known.spaces.get(namespace).cloned()
    }

    fn put(&self, namespace: &str, emptied: u64, said: Arc<Said>) {
        let mut known = self.lock();
        if known.emptied == emptied {
            known.spaces.insert(namespace.to_owned(), said);
        }
    }

    /// Until it is dropped, nobody else reads or changes what was said.
    pub(super) async fn alone(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.changing.acquire().await.map_err(|_| Refusal::Closed)
    }
}

impl Front {
    /// Reads what was said of a namespace, if that is not known. Call it before anything is asked.
    pub(super) async fn learn_terms(&self, namespace: &str) -> Result<(), Refusal> {
        if self.terms.still_of(namespace, self.broker.emptied()).is_none() {
            let alone = self.terms.alone().await?;
            self.learnt(&alone, namespace).await?;
        }
        Ok(())
    }

    /// What was said of a namespace, from the store if it is not known.
    pub(super) async fn learnt(
        &self,
        _alone: &SemaphorePermit<'_>,
        namespace: &str,
    ) -> Result<Arc<Said>, Refusal> {
        let emptied = self.broker.emptied();
        if let Some(said) = self.terms.still_of(namespace, emptied) {
            return Ok(said);
        }
        let topics = self.broker.kept(namespace, TOPICS).await?.into_iter();
        let groups = self.broker.kept(namespace, GROUPS).await?.into_iter();
        let said = Arc::new(Said {
            topics: topics.map(|(name, table)| (name, type_of(&table))).collect(),
            groups: groups.map(|(name, table)| (name, GroupTerms::from_table(&table))).collect(),
        });
        self.terms.put(namespace, emptied, said.clone());
        Ok(said)
    }

    pub(super) fn said(&self, namespace: &str) -> Arc<Said> {
        self.terms.of(namespace).unwrap_or_default()
    }

    /// The type of a topic that takes messages of one type.
    pub(super) fn type_of(&self, namespace: &str, topic: &str) -> Option<MessageType> {
        let said = self.terms.of(namespace).and_then(|said| said.topics.get(topic).copied());
        let kind = said.or_else(|| self.typed.get(topic).copied());
        kind.filter(|kind| *kind != MessageType::Unspecified)
    }

    /// How a group is served: what is not `None` was said, or is configured otherwise than for all.
    pub(super) fn group_terms(&self, namespace: &str, group: &str) -> GroupTerms {
        let said = self.terms.of(namespace).and_then(|said| said.groups.get(group).cloned());
        let is_among = |names: &[String]| names.iter().any(|name| name == group).then_some(true);
        said.unwrap_or_default().over(GroupTerms {
            ordered: is_among(&self.limits.ordered_groups),
            exclusive_lite: is_among(&self.limits.exclusive_lite_groups),
            attempts_max: Some(self.limits.attempts_max.max(1)),
            delays: None,
        })
    }

    /// Keeps or, with `None`, forgets what was said of a topic.
    pub(super) async fn say_of_topic(
        &self,
        alone: &SemaphorePermit<'_>,
        (namespace, topic): (&str, &str),
        kind: Option<MessageType>,
    ) -> Result<(), Fault> {
        let table = kind.map(|kind| {
            let word = Value::Text(kind.as_str_name().to_owned());
            Table::from([("type".to_owned(), word)])
        });
        let change = |said: &mut Said| match kind {
            Some(kind) => drop(said.topics.insert(topic.to_owned(), kind)),
            None => drop(said.topics.remove(topic)),
        };
        let count = |said: &Said| said.topics.len();
        self.say(alone, namespace, (TOPICS, topic), table, (count, change)).await
    }

    /// Keeps or, with `None`, forgets what was said of a group.
    pub(super) async fn say_of_group(
        &self,
        alone: &SemaphorePermit<'_>,
        (namespace, group): (&str, &str),
        terms: Option<GroupTerms>,
    ) -> Result<(), Fault> {
        let table = terms.as_ref().map(GroupTerms::to_table);
        let change = |said: &mut Said| match terms {
            Some(terms) => drop(said.groups.insert(group.to_owned(), terms)),
            None => drop(said.groups.remove(group)),
        };
        let count = |said: &Said| said.groups.len();
        self.say(alone, namespace, (GROUPS, group), table, (count, change)).await
    }

    async fn say(
        &self,
        alone: &SemaphorePermit<'_>,
        namespace: &str,
        (component, name): (&str, &str),
        table: Option<Table>,
        (count, change): (impl Fn(&Said) -> usize, impl FnOnce(&mut Said)),
    ) -> Result<(), Fault> {
        let emptied = self.broker.emptied();
        let mut said = (*self.learnt(alone, namespace).await?).clone();
        let before = count(&said);
        change(&mut said);
        if count(&said) > before && before >= self.limits.names_max {
            let text = format!("{before} are described in this namespace already");
            return Err(Fault::new(Code::TooManyRequests, text));
        }
        match table {
            Some(table) => self.broker.keep(namespace, component, name, table).await?,
            None => drop(self.broker.let_go(namespace, component, name).await?),
        }
        self.terms.put(namespace, emptied, Arc::new(said));
        Ok(())
    }

    /// Makes a topic give out by priority. It is the server's to do, whoever named the topic first.
    pub(super) async fn rank(&self, namespace: &str, topic: &str) -> Result<(), Refusal> {
        let shown = self.broker.show_topic(namespace, topic).await?;
        if shown.is_none_or(|shown| shown.terms.priority_max >= PRIORITY_MAX) {
            return Ok(());
        }
        let (client, _inbox) = self.broker.own_client(namespace).await?;
        let terms = TopicTerms { priority_max: PRIORITY_MAX, keeps: None };
        let ranked = client.declare_topic(topic.to_owned(), terms).await;
        client.close().await;
        ranked.map(drop)
    }
}

fn type_of(table: &Table) -> MessageType {
    let word = find(table, "type").and_then(Value::as_text);
    word.and_then(MessageType::from_str_name).unwrap_or(MessageType::Unspecified)
}
