//! The calls of `MessagingService`, each handed to the room that answers it. A fault becomes the
//! status in the answer's body; only telemetry, whose answers have none of their own, ends in a gRPC
//! error.

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Front,
    incoming::Peer,
    members::Member,
    offsets::{self, Pulled},
    receive::Batch,
};
use crate::codec::{
    header::Caller,
    proto::{
        self, AckMessageRequest, AckMessageResponse, ChangeInvisibleDurationRequest,
        ChangeInvisibleDurationResponse, Code, EndTransactionRequest, EndTransactionResponse,
        ForwardMessageToDeadLetterQueueRequest, ForwardMessageToDeadLetterQueueResponse,
        GetOffsetRequest, GetOffsetResponse, HeartbeatRequest, HeartbeatResponse,
        NotifyClientTerminationRequest, NotifyClientTerminationResponse, PullMessageRequest,
        QueryAssignmentRequest, QueryAssignmentResponse, QueryOffsetRequest, QueryOffsetResponse,
        QueryRouteRequest, QueryRouteResponse, RecallMessageRequest, RecallMessageResponse,
        ReceiveMessageRequest, Resource, SendMessageRequest, SendMessageResponse,
        SyncLiteSubscriptionRequest, SyncLiteSubscriptionResponse, TelemetryCommand,
        UpdateOffsetRequest, UpdateOffsetResponse, messaging_service_server::MessagingService,
    },
    status::Fault,
};

/// A request's sender and its session.
pub(super) struct Call {
    pub(super) caller: Caller,
    pub(super) member: Arc<Member>,
}

impl Front {
    /// Lets the sender of a request in. `resource` is what the request names first: its namespace
    /// counts where the headers have none.
    pub(super) async fn call<T>(
        &self,
        request: &Request<T>,
        resource: Option<&Resource>,
    ) -> Result<Call, Fault> {
        let caller = Caller::parse(request.metadata())?;
        let namespace = namespace(&caller, resource);
        let member = self.member(&caller, &namespace, &peer(request)?).await?;
        self.learn_terms(&namespace).await?;
        Ok(Call { caller, member })
    }
}

/// The namespace a request works in. The protocol's default one is the empty name.
pub(super) fn namespace(caller: &Caller, resource: Option<&Resource>) -> String {
    let named = resource.map_or("", |resource| resource.resource_namespace.as_str());
    let name = if caller.namespace.is_empty() { named } else { &caller.namespace };
    if name.is_empty() { "/".to_owned() } else { name.to_owned() }
}

pub(super) fn peer<T>(request: &Request<T>) -> Result<Peer, Fault> {
    let peer = request.extensions().get::<Peer>().cloned();
    peer.ok_or_else(|| Fault::new(Code::InternalServerError, "the connection has no address"))
}

/// The name of a resource that a request must have; a missing one is blank.
pub(super) fn name(resource: Option<&Resource>) -> &str {
    resource.map_or("", |resource| resource.name.as_str())
}

/// An answer with a status of its own.
pub(super) trait Answer: Default {
    fn set_status(&mut self, status: proto::Status);
}

macro_rules! answers {
    ($($answer:ident),* $(,)?) => {
        $(impl $crate::serve::calls::Answer for $answer {
            fn set_status(&mut self, status: $crate::codec::proto::Status) {
                self.status = Some(status);
            }
        })*
    };
}
pub(super) use answers;

answers!(
    QueryRouteResponse,
    HeartbeatResponse,
    SendMessageResponse,
    QueryAssignmentResponse,
    AckMessageResponse,
    ForwardMessageToDeadLetterQueueResponse,
    NotifyClientTerminationResponse,
    EndTransactionResponse,
    RecallMessageResponse,
    SyncLiteSubscriptionResponse,
    GetOffsetResponse,
    UpdateOffsetResponse,
    QueryOffsetResponse,
);

/// Turns a fault into an answer whose status tells it.
pub(super) fn answer<A: Answer>(result: Result<A, Fault>) -> Result<Response<A>, Status> {
    Ok(Response::new(result.unwrap_or_else(|fault| {
        let mut answer = A::default();
        answer.set_status(fault.status());
        answer
    })))
}

#[tonic::async_trait]
impl MessagingService for Front {
    type ReceiveMessageStream = Batch;
    type PullMessageStream = Pulled;
    type TelemetryStream = ReceiverStream<Result<TelemetryCommand, Status>>;

    async fn query_route(
        &self,
        request: Request<QueryRouteRequest>,
    ) -> Result<Response<QueryRouteResponse>, Status> {
        answer(self.on_query_route(request).await)
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        answer(self.on_heartbeat(request).await)
    }

    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        answer(self.on_send_message(request).await)
    }

    async fn query_assignment(
        &self,
        request: Request<QueryAssignmentRequest>,
    ) -> Result<Response<QueryAssignmentResponse>, Status> {
        answer(self.on_query_assignment(request).await)
    }

    async fn receive_message(
        &self,
        request: Request<ReceiveMessageRequest>,
    ) -> Result<Response<Batch>, Status> {
        Ok(Response::new(match self.on_receive_message(request).await {
            Ok(batch) => batch,
            Err(fault) => Batch::empty(fault.status(), self.broker.now()),
        }))
    }

    async fn ack_message(
        &self,
        request: Request<AckMessageRequest>,
    ) -> Result<Response<AckMessageResponse>, Status> {
        answer(self.on_ack_message(request).await)
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<Response<ForwardMessageToDeadLetterQueueResponse>, Status> {
        answer(self.on_forward(request).await)
    }

    async fn telemetry(
        &self,
        request: Request<Streaming<TelemetryCommand>>,
    ) -> Result<Response<Self::TelemetryStream>, Status> {
        self.on_telemetry(request).map(Response::new)
    }

    async fn notify_client_termination(
        &self,
        request: Request<NotifyClientTerminationRequest>,
    ) -> Result<Response<NotifyClientTerminationResponse>, Status> {
        answer(self.on_termination(request).await)
    }

    async fn change_invisible_duration(
        &self,
        request: Request<ChangeInvisibleDurationRequest>,
    ) -> Result<Response<ChangeInvisibleDurationResponse>, Status> {
        // Clients store whatever handle comes back, even with a fault: give them the old one.
        let receipt_handle = request.get_ref().receipt_handle.clone();
        let changed = self.on_change_invisible(request).await.unwrap_or_else(|fault| {
            ChangeInvisibleDurationResponse { status: Some(fault.status()), receipt_handle }
        });
        Ok(Response::new(changed))
    }

    async fn end_transaction(
        &self,
        request: Request<EndTransactionRequest>,
    ) -> Result<Response<EndTransactionResponse>, Status> {
        answer(self.on_end_transaction(request).await)
    }

    async fn recall_message(
        &self,
        request: Request<RecallMessageRequest>,
    ) -> Result<Response<RecallMessageResponse>, Status> {
        answer(self.on_recall_message(request).await)
    }

    async fn sync_lite_subscription(
        &self,
        request: Request<SyncLiteSubscriptionRequest>,
    ) -> Result<Response<SyncLiteSubscriptionResponse>, Status> {
        answer(self.on_sync_lite(request).await)
    }

    async fn pull_message(
        &self,
        request: Request<PullMessageRequest>,
    ) -> Result<Response<Pulled>, Status> {
        let pulled = self.on_pull_message(request).await;
        Ok(Response::new(
            pulled.unwrap_or_else(|fault| offsets::pulled(fault.status(), Vec::new(), None)),
        ))
    }

    async fn update_offset(
        &self,
        request: Request<UpdateOffsetRequest>,
    ) -> Result<Response<UpdateOffsetResponse>, Status> {
        answer(self.on_update_offset(request).await)
    }

    async fn get_offset(
        &self,
        request: Request<GetOffsetRequest>,
    ) -> Result<Response<GetOffsetResponse>, Status> {
        answer(self.on_get_offset(request).await)
    }

    async fn query_offset(
        &self,
        request: Request<QueryOffsetRequest>,
    ) -> Result<Response<QueryOffsetResponse>, Status> {
        answer(self.on_query_offset(request).await)
    }
}
