//! Transactions: messages that nobody sees until their producer decides, and what becomes of
//! those whose producer does not.
//!
//! The store holds the messages; what is here is found again in the store after a restart. A
//! transaction's id is its message's, which is what every client compares it with.

mod asking;
mod known;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use mainstem_broker::{HeldId, HeldPlace, Refusal};
use mainstem_schemas::{Position, Record};
use tokio::sync::Semaphore;
use tonic::Request;

pub(super) use self::asking::look_after;
use self::known::{Ending, Key, Known, Outcome, Then};
use super::{Front, calls::name, members::Member};
use crate::{
    codec::{
        names,
        proto::{
            Code, EndTransactionRequest, EndTransactionResponse, MessageType, SystemProperties,
            TransactionResolution,
        },
        status::{self, Fault},
    },
    limits::Limits,
    normalize::Native,
    session::settings::duration_ms,
};

/// Records read at a time while a namespace's transactions are looked up.
const READ_BATCH: usize = 128;
/// How often a record is looked for again that was moved, or not written yet.
const READS_MAX: usize = 4;
const READ_PAUSE: Duration = Duration::from_millis(50);

/// The transactions that are known.
#[derive(Debug)]
pub(super) struct Transactions {
    known: Mutex<Known>,
    /// Held by the one that looks up what waits since before the start.
    finding: Semaphore,
}

impl Default for Transactions {
    fn default() -> Self {
        Self { known: Mutex::default(), finding: Semaphore::new(1) }
    }
}

impl Transactions {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no holder of this lock panics")
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().len()
    }
}

/// How long a producer may take to decide before it is asked, in milliseconds.
pub(super) fn patience_ms(system: &SystemProperties, limits: &Limits) -> u64 {
    let asked = system.orphaned_transaction_recovery_duration.as_ref().and_then(duration_ms);
    asked.filter(|ms| *ms > 0).unwrap_or(limits.transaction_patience_ms)
}

impl Front {
    /// Notes what a producer sent and may decide about from now on. A copy too many of one message
    /// is forgotten.
    pub(super) async fn begin(
        &self,
        member: &Member,
        topic: &str,
        id: &str,
        held: HeldId,
        patience_ms: u64,
    ) -> Result<(), Refusal> {
        let key = Key { topic: topic.to_owned(), id: id.to_owned() };
        let now = self.broker.now();
        let is_kept = self.transactions.lock().add(&member.namespace, key, held, now, patience_ms);
        if !is_kept {
            member.client.decide(held, false).await?;
        }
        Ok(())
    }

    /// Ends a transaction. The first decision counts; a later one is no error.
    pub(super) async fn on_end_transaction(
        &self,
        request: Request<EndTransactionRequest>,
    ) -> Result<EndTransactionResponse, Fault> {
        let call = self.call(&request, request.get_ref().topic.as_ref()).await?;
        let request = request.into_inner();
        let topic = name(request.topic.as_ref()).to_owned();
        names::check_topic(&topic, &self.limits)?;
        call.member.client.check_writing(&topic)?;
        if request.transaction_id.trim().is_empty() {
            let text = "transaction id cannot be empty";
            return Err(Fault::new(Code::InvalidTransactionId, text));
        }
        let publish = match request.resolution() {
            TransactionResolution::Commit => Some(true),
            TransactionResolution::Rollback => Some(false),
            TransactionResolution::Unspecified => None,
        };
        let key = Key { topic, id: request.transaction_id };
        self.find_transactions(&call.member).await?;
        self.end(&call.member, key, publish).await?;
        Ok(EndTransactionResponse { status: Some(status::ok()) })
    }

    /// Ends a transaction if its producer decided, and returns when that is durable. An ending
    /// that has begun goes on when its caller goes away.
    async fn end(&self, member: &Arc<Member>, key: Key, publish: Option<bool>) -> Outcome {
        let namespace = &member.namespace;
        let ending = self.transactions.lock().ending(namespace, &key, publish.is_some());
        let mut awaited = match ending {
            Ending::Unknown => return Err(unknown()),
            Ending::Ended => return Ok(()),
            Ending::Going(awaited) => awaited,
            Ending::Begun(outcome, awaited) => {
                let Some(publish) = publish else { return Ok(()) };
                let (front, member) = (self.clone(), member.clone());
                tokio::spawn(async move {
                    let ended = front.go_through(&member, &key, publish, Then::Remember).await;
                    outcome.send_replace(Some(ended));
                });
                awaited
            }
        };
        let ended = awaited.wait_for(Option::is_some).await;
        ended.map_or_else(|_| Err(Refusal::Closed.into()), |ended| ended.clone().unwrap_or(Ok(())))
    }

    /// Ends all copies of a transaction's message, of which one at most is published. Fails if none
    /// was there any more: somebody else ended it, and not as this caller knows.
    async fn go_through(&self, member: &Member, key: &Key, publish: bool, then: Then) -> Outcome {
        let (mut done, mut was_held, mut fault) = (0, false, None);
        loop {
            let then = match &fault {
                _ if was_held => then,
                Some(_) => Then::Wait,
                None => Then::Forget,
            };
            let copy = self.transactions.lock().next_copy(&member.namespace, key, done, then);
            let Some(held) = copy else { break };
            done += 1;
            match member.client.decide(held, publish && !was_held).await {
                Ok(this_was) => was_held |= this_was,
                Err(refusal) => fault = Some(refusal.into()),
            }
        }
        if was_held { Ok(()) } else { Err(fault.unwrap_or_else(unknown)) }
    }

    /// Finds what waits in a member's namespace since before the start, once.
    async fn find_transactions(&self, member: &Member) -> Result<(), Refusal> {
        if self.transactions.lock().is_found(&member.namespace) {
            return Ok(());
        }
        let alone = self.transactions.finding.acquire().await;
        let _alone = alone.map_err(|_| Refusal::Closed)?;
        if self.transactions.lock().is_found(&member.namespace) {
            return Ok(());
        }
        let (mut next, mut left) = (Some(Position::default()), Vec::new());
        while let Some(from) = next {
            let (held, then) = member.client.undecided(from, READ_BATCH).await?;
            left.extend(self.note_undecided(member, &held).await?);
            next = then;
        }
        for _ in 0..READS_MAX {
            if left.is_empty() {
                break;
            }
            tokio::time::sleep(READ_PAUSE).await;
            let mut again = Vec::new();
            for ids in left.chunks(READ_BATCH) {
                let held = member.client.find_undecided(ids.to_vec()).await?;
                again.extend(self.note_undecided(member, &held).await?);
            }
            left = again;
        }
        for held in left {
            let position = held.origin.0;
            tracing::error!(event = "record_unreadable", position, "a transaction cannot be read");
        }
        self.transactions.lock().note_found(&member.namespace, self.limits.names_max);
        Ok(())
    }

    /// Notes what waits since before the start. Answers what could not be read, or was moved
    /// meanwhile.
    async fn note_undecided(
        &self,
        member: &Member,
        batch: &[HeldPlace],
    ) -> Result<Vec<HeldId>, Refusal> {
        let places = batch.iter().map(|(_, position, size)| (*position, *size)).collect();
        let records = member.client.read(places).await?;
        let mut left = Vec::new();
        for ((id, ..), record) in batch.iter().zip(records) {
            let Ok(record) = record else {
                left.push(*id);
                continue;
            };
            let Some(system) = transactional(&record) else { continue };
            let patience_ms = patience_ms(&system, &self.limits);
            let topic = String::from_utf8_lossy(&record.address().first).into_owned();
            let (key, since) = (Key { topic, id: system.message_id }, record.appended());
            let namespace = &member.namespace;
            let is_kept = self.transactions.lock().add(namespace, key, *id, since, patience_ms);
            if !is_kept {
                member.client.decide(*id, false).await?;
            }
        }
        Ok(left)
    }
}

fn unknown() -> Fault {
    Fault::new(Code::InvalidTransactionId, "no such transaction waits for a decision")
}

/// What the sender of a transactional message said; `None` for any other record.
fn transactional(record: &Record) -> Option<SystemProperties> {
    let system = Native::of(record).system?;
    (system.message_type() == MessageType::Transaction).then_some(system)
}
