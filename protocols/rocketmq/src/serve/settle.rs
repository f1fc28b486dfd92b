//! Ending deliveries: acknowledged, hidden for longer, or moved to the group's dead letters.

use std::{collections::VecDeque, sync::Arc};

use mainstem_broker::Claim;
use mainstem_schemas::{DeliveryId, Settlement, UnixMillis, Verdict};
use tonic::Request;

use super::{Front, calls::name, members::Member};
use crate::{
    codec::{
        handle::{Handle, Owner},
        names,
        proto::{
            AckMessageRequest, AckMessageResponse, AckMessageResultEntry,
            ChangeInvisibleDurationRequest, ChangeInvisibleDurationResponse, Code,
            ForwardMessageToDeadLetterQueueRequest, ForwardMessageToDeadLetterQueueResponse,
            Resource,
        },
        status::{self, Fault},
    },
    session::settings::duration_ms,
};

impl Front {
    pub(super) async fn on_ack_message(
        &self,
        request: Request<AckMessageRequest>,
    ) -> Result<AckMessageResponse, Fault> {
        let call = self.call(&request, request.get_ref().group.as_ref()).await?;
        let request = request.into_inner();
        let owner = self.owner(&call.member, request.topic.as_ref(), request.group.as_ref())?;
        let now = self.broker.now();
        let handles: Vec<_> = request
            .entries
            .iter()
            .map(|entry| self.open(&entry.receipt_handle, owner, now))
            .collect();
        let ids = handles.iter().flatten().map(|handle| handle.id).collect();
        let mut settled = self.settle(&call.member, ids, Verdict::Accept).await?.into_iter();
        let mut entries = Vec::with_capacity(request.entries.len());
        for (entry, handle) in request.entries.iter().zip(handles) {
            let done = handle.is_some() && settled.next().unwrap_or(false);
            let status = if done { status::ok() } else { stale().status() };
            entries.push(AckMessageResultEntry {
                message_id: entry.message_id.clone(),
                receipt_handle: entry.receipt_handle.clone(),
                status: Some(status),
            });
        }
        let overall = status::overall(entries.iter().map(|entry| entry.status.as_ref()));
        Ok(AckMessageResponse { status: Some(overall), entries })
    }

    pub(super) async fn on_change_invisible(
        &self,
        request: Request<ChangeInvisibleDurationRequest>,
    ) -> Result<ChangeInvisibleDurationResponse, Fault> {
        let call = self.call(&request, request.get_ref().group.as_ref()).await?;
        let request = request.into_inner();
        let member = &call.member;
        let owner = self.owner(member, request.topic.as_ref(), request.group.as_ref())?;
        let mut ms = request.invisible_duration.as_ref().and_then(duration_ms).unwrap_or_default();
        names::check_invisible(ms, 0, &self.limits)?;
        if call.caller.is_node() {
            ms = ms.max(self.limits.node_nack_ms_min);
        }
        let now = self.broker.now();
        let old = self.open(&request.receipt_handle, owner, now).ok_or_else(stale)?;
        let deadline = now.plus(ms);
        // What is only put off was no attempt.
        let verdict = if request.suspend() { Verdict::Unread } else { Verdict::Release };
        let id = if ms == 0 {
            let released = self.settle(member, vec![old.id], verdict).await?;
            if released != [true] {
                return Err(stale());
            }
            old.id
        } else if request.suspend() {
            let id = self.renew(member, old.id, Claim::Client, deadline).await?;
            member.kept().insert(id, (deadline, verdict));
            id
        } else {
            self.renew(member, old.id, Claim::Lease { ms }, deadline).await?
        };
        let receipt_handle = self.sealer.seal(&Handle { id, deadline, ..old }, owner);
        Ok(ChangeInvisibleDurationResponse { status: Some(status::ok()), receipt_handle })
    }

    pub(super) async fn on_forward(
        &self,
        request: Request<ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<ForwardMessageToDeadLetterQueueResponse, Fault> {
        let call = self.call(&request, request.get_ref().group.as_ref()).await?;
        let request = request.into_inner();
        let member = &call.member;
        let owner = self.owner(member, request.topic.as_ref(), request.group.as_ref())?;
        let now = self.broker.now();
        let handle = self.open(&request.receipt_handle, owner, now).ok_or_else(stale)?;
        // Where it goes is the group's policy.
        let moved = self.settle(member, vec![handle.id], Verdict::Reject).await?;
        if moved != [true] {
            return Err(stale());
        }
        Ok(ForwardMessageToDeadLetterQueueResponse { status: Some(status::ok()) })
    }

    /// Ends deliveries durably, and tells for each whether it was outstanding.
    pub(super) async fn settle(
        &self,
        member: &Member,
        ids: Vec<DeliveryId>,
        verdict: Verdict,
    ) -> Result<Vec<bool>, Fault> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let batch = ids.iter().map(|id| Settlement { id: *id, verdict }).collect();
        let settled = member.client.settle_durably(batch).await?;
        {
            let mut kept = member.kept();
            for id in &ids {
                kept.remove(id);
            }
        }
        for id in ids {
            if let Some(lane) = self.lane_of(id) {
                lane.settled(id);
            }
        }
        Ok(settled)
    }

    async fn renew(
        &self,
        member: &Member,
        old: DeliveryId,
        claim: Claim,
        until: UnixMillis,
    ) -> Result<DeliveryId, Fault> {
        let new = member.client.renew(old, claim).await?;
        member.kept().remove(&old);
        if let Some(lane) = self.lane_of(old) {
            lane.order().renewed(old, new, until);
        }
        Ok(new)
    }

    fn owner<'a>(
        &self,
        member: &'a Member,
        topic: Option<&'a Resource>,
        group: Option<&'a Resource>,
    ) -> Result<Owner<'a>, Fault> {
        let owner = Owner { namespace: &member.namespace, topic: name(topic), group: name(group) };
        names::check_topic(owner.topic, &self.limits)?;
        names::check_group(owner.group, &self.limits)?;
        Ok(owner)
    }

    /// The handle, if it is one of `owner`'s and its time is not over.
    fn open(&self, text: &str, owner: Owner<'_>, now: UnixMillis) -> Option<Handle> {
        self.sealer.open(text, owner).filter(|handle| !handle.deadline.reached(now))
    }
}

fn stale() -> Fault {
    Fault::new(Code::InvalidReceiptHandle, "the receipt handle is invalid or has expired")
}

/// Deliveries on their way to a client. What is left when it is dropped is put back.
pub(super) struct InHand {
    front: Front,
    member: Arc<Member>,
    ids: VecDeque<DeliveryId>,
}

impl InHand {
    pub(super) fn new(front: Front, member: Arc<Member>, ids: Vec<DeliveryId>) -> Self {
        Self { front, member, ids: ids.into() }
    }

    pub(super) fn ids(&self) -> &VecDeque<DeliveryId> {
        &self.ids
    }

    /// More of them.
    pub(super) fn take_on(&mut self, ids: impl IntoIterator<Item = DeliveryId>) {
        self.ids.extend(ids);
    }

    /// The first one is the client's now.
    pub(super) fn first_done(&mut self) {
        self.ids.pop_front();
    }

    pub(super) fn done(&mut self, id: DeliveryId) {
        self.ids.retain(|other| *other != id);
    }

    pub(super) fn let_go(&mut self) {
        self.ids.clear();
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let ids = std::mem::take(&mut self.ids).into();
        let (front, member) = (self.front.clone(), self.member.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(fault) = front.settle(&member, ids, Verdict::Unread).await {
                    tracing::debug!(error = fault.message, "cannot put unread messages back");
                }
            });
        }
    }
}
