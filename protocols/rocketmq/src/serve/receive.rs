//! Receiving: the next messages of a group that a filter wants, waited for as long as the client
//! can bear.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use mainstem_broker::{Claim, DeadLetter, Delivery, DeliveryPolicy, Fetch, GroupRef, Refusal};
use mainstem_schemas::{DeliveryId, Settlement, UnixMillis, Verdict};
use tokio::{sync::futures::Notified, time::Instant};
use tokio_stream::Stream;
use tonic::Request;

use super::{
    Front,
    calls::{Call, name},
    lanes::{Going, Lane},
    members::Member,
    settle::InHand,
};
use crate::{
    codec::{
        handle::{Handle, Owner},
        names,
        proto::{
            Code, Message, ReceiveMessageRequest, ReceiveMessageResponse, Resource, Status,
            receive_message_response::Content,
        },
        status::{self, Fault},
    },
    filter::MessageFilter,
    normalize,
    session::{
        order::{Held, Turn},
        poll::{self, Patience},
        settings::{duration, duration_ms},
    },
};

/// How soon a poll looks again whether it has its turn, should nothing wake it: the holder of the
/// order may be gone without a word.
const TURN_RECHECK: Duration = Duration::from_secs(1);
/// Pause before a group is looked up again whose fetch ended early.
const LOOKUP_PAUSE: Duration = Duration::from_millis(50);

/// A checked receive request.
pub(super) struct Ask {
    pub(super) topic: Resource,
    pub(super) group: String,
    pub(super) filter: MessageFilter,
    pub(super) attempt: String,
    pub(super) max: usize,
    pub(super) claim: Claim,
    /// What the handle is worth: the lease, or the longest that a member keeps a delivery.
    pub(super) hidden_ms: u64,
    pub(super) until: Instant,
}

impl Ask {
    /// Whether what it gets is kept for as long as the client, with no lease.
    pub(super) fn keeps(&self) -> bool {
        self.claim == Claim::Client
    }
}

/// What one turn gave.
enum Outcome {
    Given(Batch),
    /// The poll's time is over, or its member is gone.
    Over,
    /// The group or its order changed: begin anew.
    Again,
}

impl Front {
    pub(super) async fn on_receive_message(
        &self,
        request: Request<ReceiveMessageRequest>,
    ) -> Result<Batch, Fault> {
        let began = Instant::now();
        let call = self.call(&request, request.get_ref().group.as_ref()).await?;
        let ask = self.ask(&call, request.into_inner(), began)?;
        let place = self.polls.try_acquire();
        let _place = place.map_err(|_| Fault::new(Code::TooManyRequests, "polling full"))?;
        let member = &call.member;
        if member.is_lite() {
            return self.receive_lite(member, &ask).await;
        }
        self.check_known(member, &ask.topic.name).await?;
        loop {
            let group = self.open_group(member, &ask).await?;
            let ordered = self.reads_in_order(&member.namespace, &ask.group, []);
            let lane = self.lanes.open(group, ordered, self.broker.now());
            let mut changed = pin!(lane.changed.notified());
            changed.as_mut().enable();
            let turn = lane.order().enter(&ask.attempt, self.broker.now());
            let outcome = match turn {
                Turn::Wait => wait_for_turn(member, &ask, changed).await,
                Turn::Plain | Turn::Alone(_) => {
                    self.take_turn(member, &ask, group, &lane, turn, changed).await?
                }
            };
            match outcome {
                Outcome::Given(batch) => return Ok(batch),
                Outcome::Over => return Ok(self.nothing()),
                Outcome::Again => {}
            }
        }
    }

    /// The answer when there was no message in time.
    pub(super) fn nothing(&self) -> Batch {
        let empty = Fault::new(Code::MessageNotFound, "no new message");
        Batch::empty(empty.status(), self.broker.now())
    }

    fn ask(
        &self,
        call: &Call,
        request: ReceiveMessageRequest,
        began: Instant,
    ) -> Result<Ask, Fault> {
        let limits = &self.limits;
        let queue = request.message_queue.as_ref();
        let topic = queue.and_then(|queue| queue.topic.clone()).unwrap_or_default();
        names::check_topic(&topic.name, limits)?;
        let group = name(request.group.as_ref()).to_owned();
        names::check_group(&group, limits)?;
        let asked = request.long_polling_timeout.as_ref().and_then(duration_ms);
        let wait_ms = self.poll_ms(call, asked)?;
        let (claim, hidden_ms) = if request.auto_renew {
            (Claim::Client, limits.renewed_ms_max)
        } else {
            let ms = request.invisible_duration.as_ref().and_then(duration_ms).unwrap_or_default();
            names::check_invisible(ms, limits.invisible_ms_min, limits)?;
            (Claim::Lease { ms }, ms)
        };
        let max = usize::try_from(request.batch_size).unwrap_or_default();
        Ok(Ask {
            topic,
            group,
            filter: MessageFilter::parse(request.filter_expression.as_ref(), limits)?,
            attempt: request.attempt_id.unwrap_or_default(),
            max: max.clamp(1, limits.receive_batch_max.max(1)),
            claim,
            hidden_ms,
            until: began + Duration::from_millis(wait_ms),
        })
    }

    /// How long a request may wait for messages, in milliseconds.
    pub(super) fn poll_ms(&self, call: &Call, asked_ms: Option<u64>) -> Result<u64, Fault> {
        let request_timeout_ms = {
            let settings = call.member.settings();
            let settled = settings.as_ref();
            settled.and_then(|settled| duration_ms(settled.settings.request_timeout.as_ref()?))
        };
        let deadline_ms =
            call.caller.timeout.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let knows_code = call.caller.knows_illegal_polling_time();
        let patience = Patience { deadline_ms, request_timeout_ms, knows_code };
        poll::wait_ms(asked_ms, patience, &self.limits)
    }

    /// How a group is served.
    pub(super) fn group_policy(&self, namespace: &str, group: &str) -> DeliveryPolicy {
        DeliveryPolicy {
            dead_letter: Some(DeadLetter::Topic(normalize::dead_letters(group))),
            attempts_max: self.group_terms(namespace, group).attempts_max,
            ..DeliveryPolicy::default()
        }
    }

    async fn open_group(&self, member: &Member, ask: &Ask) -> Result<GroupRef, Fault> {
        let policy = self.group_policy(&member.namespace, &ask.group);
        let open = || {
            let (topic, group) = (ask.topic.name.clone(), ask.group.clone());
            member.client.open_group(topic, group, policy.clone())
        };
        match open().await {
            Err(Refusal::NoTopic(_)) if self.limits.auto_create_topics => {
                self.open_topic(&member.client, &ask.topic.name).await?;
                Ok(open().await?)
            }
            opened => Ok(opened?),
        }
    }

    /// Fetches until something is given out or the time is over.
    async fn take_turn(
        &self,
        member: &Arc<Member>,
        ask: &Ask,
        group: GroupRef,
        lane: &Lane,
        turn: Turn,
        mut changed: Pin<&mut Notified<'_>>,
    ) -> Result<Outcome, Fault> {
        let again = if let Turn::Alone(again) = &turn { again.clone() } else { Vec::new() };
        let mut going = Going::new(lane, turn, &ask.attempt);
        if !again.is_empty() {
            self.settle(member, again, Verdict::Unread).await?;
        }
        loop {
            let left = ask.until.saturating_duration_since(Instant::now());
            let wait_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let fetch = Fetch { group, max: ask.max, claim: ask.claim, wait_ms };
            // Cancel-safe: a fetch that is dropped releases what was on its way.
            let deliveries = tokio::select! {
                deliveries = member.client.fetch(fetch) => deliveries?,
                () = member.gone.cancelled() => return Ok(Outcome::Over),
                () = changed.as_mut(), if !going.is_alone() => return Ok(Outcome::Again),
            };
            if deliveries.is_empty() {
                if Instant::now() >= ask.until {
                    return Ok(Outcome::Over);
                }
                let pause = (Instant::now() + LOOKUP_PAUSE).min(ask.until);
                tokio::time::sleep_until(pause).await;
                return Ok(Outcome::Again);
            }
            match self.give(member, ask, deliveries, &mut going).await? {
                Some(batch) => return Ok(Outcome::Given(batch)),
                None if going.saw_group => return Ok(Outcome::Again),
                None if Instant::now() >= ask.until => return Ok(Outcome::Over),
                None => {}
            }
        }
    }

    /// Makes messages of deliveries. Those that the filter does not want are done for the group.
    /// `None` when nothing is left, or when the first message group was seen and the turn must be
    /// taken alone.
    async fn give(
        &self,
        member: &Arc<Member>,
        ask: &Ask,
        mut deliveries: Vec<Delivery>,
        going: &mut Going<'_>,
    ) -> Result<Option<Batch>, Fault> {
        let ids: Vec<_> = deliveries.iter().map(|delivery| delivery.id).collect();
        let mut in_hand = InHand::new(self.clone(), member.clone(), ids.clone());
        member.client.resolve(&mut deliveries).await?;
        let grouped = |delivery: &Delivery| {
            delivery.record.as_ref().is_some_and(|record| record.partition() != 0)
        };
        if !going.is_alone() && deliveries.iter().any(grouped) {
            self.settle(member, ids, Verdict::Unread).await?;
            in_hand.let_go();
            going.saw_group = true;
            return Ok(None);
        }
        let now = self.broker.now();
        let mut given = Vec::with_capacity(deliveries.len());
        let mut unwanted = Vec::new();
        for delivery in deliveries {
            let Some(record) = &delivery.record else { continue };
            let view = |record: &_| self.broker.view(record);
            let mut message = normalize::message(record, ask.topic.clone(), view);
            if let Some(passage) = &delivery.passage {
                normalize::tell_death(&mut message, passage);
            }
            if ask.filter.wants(&message) {
                given.push(self.fill(member, ask, &delivery, message, now));
            } else {
                in_hand.done(delivery.id);
                unwanted.push(Settlement { id: delivery.id, verdict: Verdict::Accept });
            }
        }
        if !unwanted.is_empty() {
            member.client.settle(unwanted).await?;
        }
        if given.is_empty() {
            return Ok(None);
        }
        self.claim(member, ask, in_hand.ids(), now, going);
        Ok(Some(Batch::new(given, in_hand, now)))
    }

    /// Notes what was given out: for the order of the group, and for the time that a member may
    /// keep what it does not have to renew.
    fn claim(
        &self,
        member: &Member,
        ask: &Ask,
        ids: &VecDeque<DeliveryId>,
        now: UnixMillis,
        going: &mut Going<'_>,
    ) {
        let until = now.plus(ask.hidden_ms);
        if ask.keeps() {
            member.kept().extend(ids.iter().map(|id| (*id, (until, Verdict::Release))));
        }
        if going.is_alone() {
            let holder = Arc::downgrade(&member.life);
            going.given.extend(ids.iter().map(|id| Held {
                id: *id,
                until,
                holder: holder.clone(),
            }));
        }
    }

    /// Writes what belongs to this delivery into its message.
    pub(super) fn fill(
        &self,
        member: &Member,
        ask: &Ask,
        delivery: &Delivery,
        mut message: Message,
        now: UnixMillis,
    ) -> Message {
        let owner =
            Owner { namespace: &member.namespace, topic: &ask.topic.name, group: &ask.group };
        let handle = Handle {
            id: delivery.id,
            position: delivery.position,
            size: delivery.size,
            deadline: now.plus(ask.hidden_ms),
        };
        let system = message.system_properties.get_or_insert_default();
        system.receipt_handle = Some(self.sealer.seal(&handle, owner));
        system.delivery_attempt = i32::try_from(delivery.attempt).ok();
        system.invisible_duration = Some(duration(ask.hidden_ms));
        system.queue_offset = i64::try_from(delivery.id.offset.0).ok();
        message
    }
}

async fn wait_for_turn(member: &Member, ask: &Ask, changed: Pin<&mut Notified<'_>>) -> Outcome {
    if Instant::now() >= ask.until {
        return Outcome::Over;
    }
    let recheck = (Instant::now() + TURN_RECHECK).min(ask.until);
    tokio::select! {
        () = changed => Outcome::Again,
        () = tokio::time::sleep_until(recheck) => Outcome::Again,
        () = member.gone.cancelled() => Outcome::Over,
    }
}

/// The answer's stream: the status, the messages, and when they left. What the client's
/// connection did not take is put back.
pub(crate) struct Batch {
    parts: VecDeque<Content>,
    in_hand: Option<InHand>,
}

impl Batch {
    /// An answer without messages.
    pub(super) fn empty(status: Status, now: UnixMillis) -> Self {
        let left = Content::DeliveryTimestamp(normalize::timestamp(now));
        Self { parts: [Content::Status(status), left].into(), in_hand: None }
    }

    pub(super) fn new(messages: Vec<Message>, in_hand: InHand, now: UnixMillis) -> Self {
        let mut parts = VecDeque::with_capacity(messages.len() + 2);
        parts.push_back(Content::Status(status::ok()));
        parts.extend(messages.into_iter().map(Content::Message));
        parts.push_back(Content::DeliveryTimestamp(normalize::timestamp(now)));
        Self { parts, in_hand: Some(in_hand) }
    }
}

impl Stream for Batch {
    type Item = Result<ReceiveMessageResponse, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(content) = self.parts.pop_front() else { return Poll::Ready(None) };
        if let (Content::Message(_), Some(in_hand)) = (&content, &mut self.in_hand) {
            in_hand.first_done();
        }
        Poll::Ready(Some(Ok(ReceiveMessageResponse { content: Some(content) })))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.parts.len(), Some(self.parts.len()))
    }
}
