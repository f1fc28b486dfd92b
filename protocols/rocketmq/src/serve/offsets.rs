//! Reading a topic by its offsets, and where groups are in it. Nothing is taken: everybody who pulls
//! gets the same messages, and what a group has committed is its own word.

use std::{collections::VecDeque, time::Duration};

use mainstem_broker::{Delivery, Pull, Sought, Start};
use mainstem_schemas::Offset;
use tokio::time::Instant;
use tokio_stream::Iter;
use tonic::Request;

use super::{
    Front,
    calls::{Call, name},
};
use crate::{
    codec::{
        names,
        proto::{
            Code, GetOffsetRequest, GetOffsetResponse, Message, MessageQueue, PullMessageRequest,
            PullMessageResponse, QueryOffsetPolicy, QueryOffsetRequest, QueryOffsetResponse,
            Resource, Status, UpdateOffsetRequest, UpdateOffsetResponse,
            pull_message_response::Content,
        },
        status::{self, Fault},
    },
    filter::MessageFilter,
    normalize,
    session::settings::duration_ms,
};

/// Pause before a topic is looked at again whose reading ended early.
const LOOKUP_PAUSE: Duration = Duration::from_millis(50);

/// The answer's stream: the status, the messages, and where to go on.
pub(crate) type Pulled =
    Iter<std::collections::vec_deque::IntoIter<Result<PullMessageResponse, tonic::Status>>>;

/// An answer to a pull.
pub(super) fn pulled(status: Status, messages: Vec<Message>, next: Option<i64>) -> Pulled {
    let mut parts = VecDeque::with_capacity(messages.len() + 2);
    parts.push_back(Content::Status(status));
    parts.extend(messages.into_iter().map(Content::Message));
    parts.extend(next.map(Content::NextOffset));
    let parts: VecDeque<_> =
        parts.into_iter().map(|part| Ok(PullMessageResponse { content: Some(part) })).collect();
    tokio_stream::iter(parts)
}

/// A checked pull.
struct Ask {
    topic: Resource,
    filter: MessageFilter,
    from: i64,
    max: usize,
    until: Instant,
}

impl Front {
    pub(super) async fn on_pull_message(
        &self,
        request: Request<PullMessageRequest>,
    ) -> Result<Pulled, Fault> {
        let began = Instant::now();
        let call = self.call(&request, request.get_ref().group.as_ref()).await?;
        let ask = self.ask_pull(&call, request.into_inner(), began)?;
        let place = self.polls.try_acquire();
        let _place = place.map_err(|_| Fault::new(Code::TooManyRequests, "polling full"))?;
        let member = &call.member;
        self.ensure_topic(&member.client, &ask.topic.name).await?;
        let Sought { queue, first, next, .. } =
            member.client.seek(ask.topic.name.clone(), Start::First).await?;
        let mut from = match offset(ask.from, (first, next)) {
            Ok(from) => from,
            Err((fault, nearest)) => {
                return Ok(pulled(fault.status(), Vec::new(), Some(said(nearest))));
            }
        };
        loop {
            let left = ask.until.saturating_duration_since(Instant::now());
            let wait_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let pull = Pull { queue, from, max: ask.max, wait_ms };
            let mut deliveries = tokio::select! {
                deliveries = member.client.pull(pull) => deliveries?,
                () = member.gone.cancelled() => Vec::new(),
            };
            let was_empty = deliveries.is_empty();
            if let Some(last) = deliveries.last() {
                from = Offset(last.id.offset.0.saturating_add(1));
            }
            member.client.resolve(&mut deliveries).await?;
            let messages = self.read(&ask, deliveries);
            if !messages.is_empty() {
                return Ok(pulled(status::ok(), messages, Some(said(from))));
            }
            if Instant::now() >= ask.until || member.gone.is_cancelled() {
                let empty = Fault::new(Code::MessageNotFound, "no new message");
                return Ok(pulled(empty.status(), Vec::new(), Some(said(from))));
            }
            if was_empty {
                tokio::time::sleep_until((Instant::now() + LOOKUP_PAUSE).min(ask.until)).await;
            }
        }
    }

    fn ask_pull(
        &self,
        call: &Call,
        request: PullMessageRequest,
        began: Instant,
    ) -> Result<Ask, Fault> {
        let topic = self.topic_of(request.message_queue)?;
        names::check_group(name(request.group.as_ref()), &self.limits)?;
        let asked = request.long_polling_timeout.as_ref().and_then(duration_ms);
        let wait_ms = self.poll_ms(call, asked)?;
        let max = usize::try_from(request.batch_size).unwrap_or_default();
        Ok(Ask {
            topic,
            filter: MessageFilter::parse(request.filter_expression.as_ref(), &self.limits)?,
            from: request.offset,
            max: max.clamp(1, self.limits.receive_batch_max.max(1)),
            until: began + Duration::from_millis(wait_ms),
        })
    }

    /// The messages among what was read that the filter wants.
    fn read(&self, ask: &Ask, deliveries: Vec<Delivery>) -> Vec<Message> {
        let mut messages = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let Some(record) = &delivery.record else { continue };
            let view = |record: &_| self.broker.view(record);
            let mut message = normalize::message(record, ask.topic.clone(), view);
            if let Some(passage) = &delivery.passage {
                normalize::tell_death(&mut message, passage);
            }
            let system = message.system_properties.get_or_insert_default();
            system.queue_offset = i64::try_from(delivery.id.offset.0).ok();
            if ask.filter.wants(&message) {
                messages.push(message);
            }
        }
        messages
    }

    pub(super) async fn on_get_offset(
        &self,
        request: Request<GetOffsetRequest>,
    ) -> Result<GetOffsetResponse, Fault> {
        let call = self.call(&request, request.get_ref().group.as_ref()).await?;
        let request = request.into_inner();
        let (topic, group) = self.place_of(request.message_queue, request.group.as_ref())?;
        let found = call.member.client.find_group(topic, group.clone()).await?;
        let offset = found.ok_or_else(|| {
            let text = format!("consumer group '{group}' has committed no offset");
            Fault::new(Code::OffsetNotFound, text)
        })?;
        Ok(GetOffsetResponse { status: Some(status::ok()), offset: said(offset) })
    }

    /// Commits an offset: the group goes on there, by whichever call it reads.
    pub(super) async fn on_update_offset(
        &self,
        request: Request<UpdateOffsetRequest>,
    ) -> Result<UpdateOffsetResponse, Fault> {
        let call = self.call(&request, request.get_ref().group.as_ref()).await?;
        let request = request.into_inner();
        let (topic, group) = self.place_of(request.message_queue, request.group.as_ref())?;
        let client = &call.member.client;
        let Sought { next, .. } = client.seek(topic.clone(), Start::First).await?;
        let to = offset(request.offset, (Offset(0), next)).map_err(|(fault, _)| fault)?;
        let policy = self.group_policy(&call.member.namespace, &group);
        client.move_group(topic, group, Start::Offset(to), policy).await?;
        Ok(UpdateOffsetResponse { status: Some(status::ok()) })
    }

    pub(super) async fn on_query_offset(
        &self,
        request: Request<QueryOffsetRequest>,
    ) -> Result<QueryOffsetResponse, Fault> {
        let queue = request.get_ref().message_queue.as_ref();
        let call = self.call(&request, queue.and_then(|queue| queue.topic.as_ref())).await?;
        let request = request.into_inner();
        let policy = QueryOffsetPolicy::try_from(request.query_offset_policy)
            .map_err(|_| Fault::new(Code::BadRequest, "there is no such offset policy"))?;
        let to = match policy {
            QueryOffsetPolicy::Beginning => Start::First,
            QueryOffsetPolicy::End => Start::Next,
            QueryOffsetPolicy::Timestamp => {
                let time = request.timestamp.as_ref().and_then(normalize::millis);
                Start::Time(time.ok_or_else(|| {
                    Fault::new(Code::BadRequest, "the offset policy TIMESTAMP needs a timestamp")
                })?)
            }
        };
        let topic = self.topic_of(request.message_queue)?;
        let sought = call.member.client.seek(topic.name, to).await?;
        Ok(QueryOffsetResponse { status: Some(status::ok()), offset: said(sought.at) })
    }

    /// The topic that a request is about. It has one queue.
    fn topic_of(&self, queue: Option<MessageQueue>) -> Result<Resource, Fault> {
        let topic = queue.and_then(|queue| queue.topic).unwrap_or_default();
        names::check_topic(&topic.name, &self.limits)?;
        Ok(topic)
    }

    fn place_of(
        &self,
        queue: Option<MessageQueue>,
        group: Option<&Resource>,
    ) -> Result<(String, String), Fault> {
        let topic = self.topic_of(queue)?;
        names::check_group(name(group), &self.limits)?;
        Ok((topic.name, name(group).to_owned()))
    }
}

/// An offset among those there are, or why not and the nearest one that is.
pub(super) fn offset(
    asked: i64,
    (first, next): (Offset, Offset),
) -> Result<Offset, (Fault, Offset)> {
    let offset = u64::try_from(asked).map_or(Offset(0), Offset);
    let nearest = offset.clamp(first, next);
    if asked >= 0 && nearest == offset {
        return Ok(offset);
    }
    let text = format!("offset {asked} is outside {}..{}", first.0, next.0);
    Err((Fault::new(Code::IllegalOffset, text), nearest))
}

/// An offset in the protocol's words.
pub(super) fn said(offset: Offset) -> i64 {
    i64::try_from(offset.0).unwrap_or(i64::MAX)
}
