//! What the store's answers mean.

use mainstem_schemas::{CursorId, UnixMillis, Verdict};
use tokio::sync::oneshot;

use super::{Game, Wait, rule::RULES_FROM};
use crate::{
    command::{Published, QueueDef, Retention},
    error::Refusal,
    policy::Policy,
    sim::{
        check,
        model::{Done, Kind, Reader},
        world::now,
    },
};

impl Game {
    /// Answers that have come.
    pub(super) fn take_answers(&mut self) {
        let waits = std::mem::take(&mut self.waits);
        for mut wait in waits {
            if !self.take_answer(&mut wait) {
                self.waits.push(wait);
            }
        }
    }

    /// Whether the answer has come, or never will.
    #[expect(clippy::too_many_lines, reason = "one arm for each kind of answer")]
    fn take_answer(&mut self, wait: &mut Wait) -> bool {
        use oneshot::error::TryRecvError::Empty;
        macro_rules! answer {
            ($answer:expr) => {
                match $answer.try_recv() {
                    Ok(answer) => answer,
                    Err(error) => return error != Empty,
                }
            };
        }
        match wait {
            Wait::Publish(numbers, answer) => {
                let outcomes = answer!(answer);
                let numbers = std::mem::take(numbers);
                assert_eq!(outcomes.len(), numbers.len());
                for (number, outcome) in numbers.into_iter().zip(outcomes) {
                    self.published(number, outcome);
                }
            }
            Wait::Settle(hands, answer) => {
                let outcomes = answer!(answer);
                let hands = std::mem::take(hands);
                for ((hand, verdict), is_done) in hands.into_iter().zip(outcomes) {
                    if is_done && matches!(verdict, Verdict::Accept | Verdict::Reject) {
                        self.tell(|| format!("settled for sure: {hand:?}"));
                        check::settled(&mut self.model, hand.reader, hand.number, Done::Acked);
                        self.model.readers[hand.reader].acked.insert(hand.id.offset.0);
                        self.model.readers[hand.reader].ended.insert(hand.id.offset.0);
                    }
                }
            }
            Wait::Declare(at, answer) => {
                let Ok(declared) = answer!(answer) else { return true };
                self.declared(*at, &declared.def);
            }
            Wait::Gone(at, answer) => {
                let gone = answer!(answer);
                let reader = &mut self.model.readers[*at];
                // One that went by itself may have come again as somebody's own.
                let is_anothers = reader.is_loose && matches!(gone, Err(Refusal::Locked(_)));
                assert!(gone.is_ok() || is_anothers, "a queue cannot be deleted: {gone:?}");
                reader.is_confirmed_gone = gone.is_ok();
            }
            Wait::Group(at, answer) => {
                if let Ok(group) = answer!(answer) {
                    let reader = &mut self.model.readers[*at];
                    reader.is_confirmed = true;
                    reader.place = Some((group.queue, group.cursor));
                }
            }
            Wait::Fetch(at, client, ms, answer) => {
                let fetched = answer!(answer);
                let (at, client, deadline) = (*at, *client, now().plus(*ms));
                self.check_batch(at, &fetched);
                for delivery in fetched {
                    self.take_delivery(client, at, deadline, delivery);
                }
            }
            Wait::Get(at, client, answer) => {
                let got = answer!(answer);
                let (at, client) = (*at, *client);
                if let Ok(Some((delivery, _))) = got {
                    self.take_delivery(client, at, UnixMillis::NONE, delivery);
                }
            }
            Wait::Session(client, answer) => {
                if let Ok(opened) = answer!(answer) {
                    let peer = self.peers.iter_mut().find(|peer| peer.id == *client);
                    let Some(peer) = peer else { return true };
                    let Some(id) = peer.session.clone() else { return true };
                    for held in opened.subscriptions {
                        let filter = String::from_utf8(held.subscribe.filter.render().to_vec());
                        let (session, share) = (id.clone(), held.subscribe.share);
                        let kind = Kind::Subscription { session, share, filter: filter.unwrap() };
                        if let Some(reader) = self.model.find(&kind) {
                            peer.consumers.retain(|(id, _)| *id != held.consumer);
                            peer.consumers.push((held.consumer, reader));
                        }
                    }
                }
            }
            Wait::Subscribe(at, client, answer) => {
                if let Ok(subscribed) = answer!(answer) {
                    self.model.readers[*at].is_confirmed = true;
                    let kind = &self.model.readers[*at].kind;
                    let Kind::Subscription { session, .. } = kind else { return true };
                    let peer = self.peers.iter_mut().find(|peer| peer.id == *client);
                    // Somebody else may have come for the session meanwhile.
                    if let Some(peer) = peer.filter(|peer| peer.session.as_ref() == Some(session)) {
                        peer.consumers.retain(|(id, _)| *id != subscribed.consumer);
                        peer.consumers.push((subscribed.consumer, *at));
                    }
                }
            }
            Wait::Bind(binding, answer) => {
                if answer!(answer).is_ok() && self.model.unsure.remove(binding) {
                    self.model.bindings.insert(binding.clone());
                }
            }
            Wait::Decide(number, publish, answer) => {
                let was_held = answer!(answer);
                assert!(was_held || self.is_dying, "{number} was not held ({publish})");
            }
            Wait::Lookup(wanted, answer) => {
                let found = answer!(answer);
                let wanted = wanted.clone();
                self.looked_up(&wanted, found);
            }
            Wait::Place(asked, answer) => {
                let asked = asked.clone();
                return self.take_place(&asked, answer);
            }
            Wait::Consume(client, consumer, answer) => {
                if answer!(answer).is_err() {
                    let peer = self.peers.iter_mut().find(|peer| peer.id == *client);
                    if let Some(peer) = peer {
                        peer.consumers.retain(|(id, _)| id != consumer);
                    }
                }
            }
        }
        true
    }

    fn declared(&mut self, mut at: usize, def: &QueueDef) {
        let place = (def.id, CursorId::MAIN);
        let known = &mut self.model.readers[at];
        if known.is_gone {
            return;
        }
        if known.place.is_some_and(|known| known != place) {
            // It went by itself, and this is another one.
            known.is_gone = true;
            assert!(known.is_loose, "a queue went by itself: {def:?}");
            let kind = known.kind.clone();
            let policy = without_rules(&def.policy);
            let mut fresh = Reader::new(kind, policy, def.durable, now());
            fresh.is_loose = fresh.policy.expires_ms.is_some()
                || def.auto_delete
                || def.exclusive
                || def.retention == Retention::Time;
            self.hands.retain(|hand| hand.reader != at);
            self.model.readers.push(fresh);
            at = self.model.readers.len() - 1;
            // What came before this answer is not followed.
            self.model.readers[at].is_loose = true;
        }
        let reader = &mut self.model.readers[at];
        assert_eq!(reader.policy, without_rules(&def.policy), "a queue is not what was declared");
        reader.is_confirmed = true;
        reader.place = Some(place);
    }

    fn published(&mut self, number: u64, outcome: Published) {
        self.tell(|| format!("{number}: {outcome:?}"));
        let sent = self.model.sent.get_mut(&number).unwrap();
        match outcome {
            Published::Taken { readers, offset } => {
                sent.is_confirmed = true;
                sent.times_taken += u32::from(readers > 0);
                let is_again = sent.once.is_some() && sent.times_taken > 1;
                assert!(!is_again, "{number} was taken twice: {sent:?}");
                let is_durable = sent.is_durable;
                if let Some(offset) = offset {
                    self.note_offset(number, offset);
                }
                if is_durable {
                    for reader in &mut self.model.readers {
                        if let Some(is_sure) = reader.owed.get_mut(&number) {
                            *is_sure = true;
                        }
                    }
                }
            }
            Published::Held(id) => {
                sent.held = Some(id);
                sent.is_confirmed = true;
            }
            Published::Again => assert!(sent.once.is_some(), "{number} was not sent before"),
            Published::Refused(refusal) => {
                // Where one queue refuses, others may have it.
                if !matches!(refusal, Refusal::QueueFull(_)) {
                    // What an earlier try brought stays.
                    for reader in &mut self.model.readers {
                        if reader.owed.get(&number) == Some(&false) {
                            reader.owed.remove(&number);
                        }
                    }
                }
            }
        }
    }
}

/// What was declared: rules ask for more than any declaration does.
fn without_rules(policy: &Policy) -> Policy {
    let own = |bound: Option<u64>| bound.filter(|bound| *bound < RULES_FROM);
    Policy {
        ttl_ms: own(policy.ttl_ms),
        expires_ms: own(policy.expires_ms),
        len_max: own(policy.len_max),
        bytes_max: own(policy.bytes_max),
        ..policy.clone()
    }
}
