//! Asking producers about transactions they should have decided by now, and rolling those back
//! that nobody decides.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use mainstem_broker::Refusal;
use mainstem_schemas::{Record, UnixMillis};

use super::{
    super::{Front, members::Member},
    known::{Ending, Key, Then, Waiting},
    unknown,
};
use crate::{
    codec::proto::{Resource, TelemetryCommand},
    normalize, session,
};

const LOOK: Duration = Duration::from_secs(1);
/// Transactions that are asked about, and that are given up, at one look; more wait for the next.
const ASKS_PER_LOOK: usize = 128;
/// How long an asking waits for a producer to read what it was asked before.
const TELL_WAIT: Duration = Duration::from_millis(200);
/// Producers that are waited for at one look. Others that do not read are passed over at once.
const WAITS_PER_LOOK: usize = 8;

/// Looks after the transactions of every namespace that somebody is in.
pub(in crate::serve) async fn look_after(front: Front) {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        for namespace in front.members.namespaces() {
            // One at a time: a member that somebody has in hand does not expire.
            let members = front.members.of(&namespace);
            if let Err(error) = front.look_at_transactions(&members).await {
                tracing::warn!(%error, "cannot look after transactions");
            }
        }
    }
}

impl Front {
    /// The same of one namespace.
    async fn look_at_transactions(&self, members: &[Arc<Member>]) -> Result<(), Refusal> {
        let Some(first) = members.first() else { return Ok(()) };
        self.find_transactions(first).await?;
        let (namespace, now) = (&first.namespace, self.broker.now());
        let producers = Producers::among(members);
        let is_over = |key: &Key, waiting: &Waiting| {
            let was_asked = waiting.asked >= self.limits.transaction_asks_max;
            was_asked && producers.topics.contains(&key.topic)
                || waiting.since.plus(self.limits.transaction_age_ms_max).reached(now)
        };
        let given_up = self.transactions.lock().overdue(namespace, now, ASKS_PER_LOOK, is_over);
        for (key, waiting) in given_up {
            self.give_up(first, &key, &waiting, now).await;
        }
        let is_askable = |key: &Key, waiting: &Waiting| {
            producers.topics.contains(&key.topic) && !is_over(key, waiting)
        };
        let asks = self.transactions.lock().overdue(namespace, now, ASKS_PER_LOOK, is_askable);
        self.ask_producers(producers, asks, now).await
    }

    async fn ask_producers(
        &self,
        mut producers: Producers<'_>,
        asks: Vec<(Key, Waiting)>,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let Some(reader) = producers.members.first().copied() else { return Ok(()) };
        let namespace = &reader.namespace;
        let next = now.plus(self.limits.transaction_ask_interval_ms);
        let firsts: Vec<_> =
            asks.iter().filter_map(|(_, waiting)| waiting.held.first().copied()).collect();
        if firsts.is_empty() {
            return Ok(());
        }
        let places = reader.client.find_undecided(firsts.clone()).await?;
        let places: HashMap<_, _> =
            places.into_iter().map(|(id, at, size)| (id, (at, size))).collect();
        for ((key, waiting), held) in asks.into_iter().zip(firsts) {
            let Some(place) = places.get(&held) else {
                // Decided since.
                self.transactions.lock().lose_copy(namespace, &key, held);
                continue;
            };
            let record = reader.client.read(vec![*place]).await?.into_iter().next();
            let counts = match record {
                Some(Ok(record)) => {
                    let view = |record: &Record| self.broker.view(record);
                    let message = |topic| normalize::message(&record, topic, view);
                    let command = |topic| session::recover(message(topic), &key.id);
                    producers.tell_one(&key.topic, waiting.asked, command).await
                }
                // It was moved: the next look finds it.
                Some(Err(Refusal::Stale)) | None => continue,
                // It can be asked about no more than read; but as often.
                Some(Err(_)) => true,
            };
            self.transactions.lock().asked(namespace, &key, next, counts);
        }
        Ok(())
    }

    /// Rolls a transaction back that nobody decided about.
    async fn give_up(&self, member: &Member, key: &Key, waiting: &Waiting, now: UnixMillis) {
        let namespace = &member.namespace;
        let ending = self.transactions.lock().ending(namespace, key, true);
        // Otherwise somebody decides about it this very moment.
        let Ending::Begun(outcome, _) = ending else { return };
        // Not remembered as ended: a producer that commits it now must hear that it is too late.
        let ended = self.go_through(member, key, false, Then::Forget).await;
        outcome.send_replace(Some(Err(ended.clone().err().unwrap_or_else(unknown))));
        if let Err(fault) = &ended {
            let next = now.plus(self.limits.transaction_ask_interval_ms);
            self.transactions.lock().asked(namespace, key, next, false);
            tracing::debug!(error = fault.message, id = key.id, "a transaction was not given up");
            return;
        }
        tracing::warn!(
            event = "transaction_rolled_back",
            namespace,
            topic = key.topic,
            id = key.id,
            asked = waiting.asked,
            "no producer decided about a transaction"
        );
    }
}

/// The producers of a namespace, at one look.
struct Producers<'a> {
    members: Vec<&'a Arc<Member>>,
    /// What they said they publish to.
    topics: HashSet<String>,
    /// Those that do not read what they are asked, by their place among the members.
    stuck: HashSet<usize>,
}

impl<'a> Producers<'a> {
    fn among(members: &'a [Arc<Member>]) -> Self {
        let members: Vec<_> = members.iter().filter(|member| member.is_publishing()).collect();
        let topics = members.iter().flat_map(|member| member.publishing()).collect();
        Self { members, topics, stuck: HashSet::new() }
    }

    /// Tells one producer of a topic something, another one each `turn`: one that never answers
    /// does not decide alone. One that does not read is passed over. False when there is nobody.
    async fn tell_one(
        &mut self,
        topic: &str,
        turn: u32,
        command: impl Fn(Resource) -> TelemetryCommand,
    ) -> bool {
        let mut able: Vec<_> = self
            .members
            .iter()
            .enumerate()
            .filter(|(at, _)| !self.stuck.contains(at))
            .filter_map(|(at, member)| Some((at, *member, member.publishes(topic)?)))
            .collect();
        if able.is_empty() {
            return false;
        }
        let first = usize::try_from(turn).unwrap_or_default() % able.len();
        able.rotate_left(first);
        for (at, member, topic) in able {
            let is_waited_for = self.stuck.len() < WAITS_PER_LOOK;
            let wait = if is_waited_for { TELL_WAIT } else { Duration::ZERO };
            if member.tell(command(topic), wait).await {
                return true;
            }
            self.stuck.insert(at);
        }
        false
    }
}
