//! A poll of a client that reads lite topics: whatever any of them has.

use std::{pin::pin, sync::Arc};

use mainstem_broker::{Delivery, Fetch};
use mainstem_schemas::{DeliveryId, Dialect, Origin, Record, Settlement, Verdict};
use tokio::time::{Instant, sleep_until};

use super::{Binding, WATCH_PAUSE};
use crate::{
    codec::{
        proto::{Message, MessageType},
        status::Fault,
    },
    normalize,
    serve::{
        Front,
        members::Member,
        receive::{Ask, Batch},
        settle::InHand,
    },
};

/// What a poll has found so far.
struct Found {
    messages: Vec<Message>,
    in_hand: InHand,
}

impl Front {
    pub(in crate::serve) async fn receive_lite(
        &self,
        member: &Arc<Member>,
        ask: &Ask,
    ) -> Result<Batch, Fault> {
        let lites = member.lites.clone();
        let again = lites.take_attempt(&ask.attempt);
        // An attempt whose answer was lost gets it once more, and that counts no attempt.
        self.settle(member, again, Verdict::Unread).await?;
        loop {
            let mut bell = pin!(lites.bell.notified());
            bell.as_mut().enable();
            let found = if lites.takes_all() {
                // Cancel-safe: a fetch that is dropped releases what was on its way.
                tokio::select! {
                    found = self.take_from_all(member, ask) => found?,
                    () = bell.as_mut() => continue,
                    () = member.gone.cancelled() => return Ok(self.nothing()),
                }
            } else {
                self.look_through(member, ask).await?
            };
            if !found.messages.is_empty() {
                let now = self.broker.now();
                let ids: Vec<DeliveryId> = found.in_hand.ids().iter().copied().collect();
                lites.note_attempt(&ask.attempt, ids);
                return Ok(Batch::new(found.messages, found.in_hand, now));
            }
            if Instant::now() >= ask.until {
                return Ok(self.nothing());
            }
            tokio::select! {
                () = bell => {}
                () = sleep_until(ask.until) => {}
                () = member.gone.cancelled() => return Ok(self.nothing()),
            }
        }
    }

    /// Takes what is next in the topic above, waiting for it.
    async fn take_from_all(&self, member: &Arc<Member>, ask: &Ask) -> Result<Found, Fault> {
        let in_hand = InHand::new(self.clone(), member.clone(), Vec::new());
        let mut found = Found { messages: Vec::new(), in_hand };
        let binding = Binding { topic: ask.topic.name.clone(), group: ask.group.clone() };
        let group = self.open_all(member, &binding, None).await?;
        let left = ask.until.saturating_duration_since(Instant::now());
        let wait_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let fetch = Fetch { group, max: ask.max, claim: ask.claim, wait_ms };
        let deliveries = member.client.fetch(fetch).await?;
        if deliveries.is_empty() {
            // The group was moved, or the time is over.
            sleep_until((Instant::now() + WATCH_PAUSE).min(ask.until)).await;
        }
        self.take_lite(member, ask, None, deliveries, &mut found).await?;
        Ok(found)
    }

    /// Takes from the lite topics that have something, one after the other.
    async fn look_through(&self, member: &Arc<Member>, ask: &Ask) -> Result<Found, Fault> {
        let in_hand = InHand::new(self.clone(), member.clone(), Vec::new());
        let mut found = Found { messages: Vec::new(), in_hand };
        while found.messages.len() < ask.max
            && let Some(mut taken) = member.lites.next()
        {
            let so_far = found.messages.len();
            let max = ask.max - so_far;
            let fetch = Fetch { group: taken.group, max, claim: ask.claim, wait_ms: 0 };
            // Cancel-safe: a fetch that is dropped releases what was on its way.
            let deliveries = member.client.fetch(fetch).await?;
            taken.had_something = !deliveries.is_empty();
            if deliveries.is_empty() {
                self.watch_again(member, &taken.lite, taken.group).await;
            } else {
                self.take_lite(member, ask, Some(&taken.lite), deliveries, &mut found).await?;
            }
            // What was found waits for no more, and nobody for longer than was asked.
            let gave_nothing = found.messages.len() == so_far;
            if gave_nothing && (so_far > 0 || Instant::now() >= ask.until) {
                break;
            }
        }
        Ok(found)
    }

    /// Makes messages of what came to a lite topic; where it is not known to which, each says itself.
    async fn take_lite(
        &self,
        member: &Arc<Member>,
        ask: &Ask,
        lite: Option<&str>,
        mut deliveries: Vec<Delivery>,
        found: &mut Found,
    ) -> Result<(), Fault> {
        found.in_hand.take_on(deliveries.iter().map(|delivery| delivery.id));
        let all: Vec<DeliveryId> = deliveries.iter().map(|delivery| delivery.id).collect();
        member.client.resolve(&mut deliveries).await?;
        let now = self.broker.now();
        let mut given = Vec::with_capacity(deliveries.len());
        let mut unwanted = Vec::new();
        for delivery in deliveries {
            let Some(record) = &delivery.record else { continue };
            let view = |record: &_| self.broker.view(record);
            let mut message = normalize::message(record, ask.topic.clone(), view);
            let system = message.system_properties.get_or_insert_default();
            system.lite_topic = lite.map_or_else(|| lite_of(record), |it| Some(it.to_owned()));
            system.set_message_type(MessageType::Lite);
            let is_lite = system.lite_topic.is_some();
            if is_lite && ask.filter.wants(&message) {
                found.messages.push(self.fill(member, ask, &delivery, message, now));
                given.push(delivery.id);
            } else {
                unwanted.push(Settlement { id: delivery.id, verdict: Verdict::Accept });
            }
        }
        // What could not be read is in nobody's hand.
        for id in all.into_iter().filter(|id| !given.contains(id)) {
            found.in_hand.done(id);
        }
        if ask.keeps() {
            let until = now.plus(ask.hidden_ms);
            member.kept().extend(given.into_iter().map(|id| (id, (until, Verdict::Release))));
        }
        if !unwanted.is_empty() {
            member.client.settle(unwanted).await?;
        }
        Ok(())
    }
}

/// The lite topic that a record was published to: what is below the topic in its path.
fn lite_of(record: &Record) -> Option<String> {
    let address = record.address();
    if address.origin == Origin::Rocketmq && !address.lite {
        return None;
    }
    let (_, rest) = address.path().split_first(Dialect::Mqtt)?;
    let lite = String::from_utf8_lossy(&rest).into_owned();
    (!lite.is_empty()).then_some(lite)
}
