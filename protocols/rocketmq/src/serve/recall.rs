//! Recalling: a delayed message is taken back before its time.

use tonic::Request;

use super::{Front, calls::name};
use crate::codec::{
    names,
    proto::{Code, RecallMessageRequest, RecallMessageResponse},
    recall,
    status::{self, Fault},
};

impl Front {
    /// Recalling twice is no error; recalling what was delivered is.
    pub(super) async fn on_recall_message(
        &self,
        request: Request<RecallMessageRequest>,
    ) -> Result<RecallMessageResponse, Fault> {
        let call = self.call(&request, request.get_ref().topic.as_ref()).await?;
        let request = request.into_inner();
        let topic = name(request.topic.as_ref());
        names::check_topic(topic, &self.limits)?;
        let recall = recall::open(&request.recall_handle, topic).ok_or_else(|| {
            Fault::new(Code::BadRequest, "the recall handle is not one of this topic")
        })?;
        let was_held = call.member.client.recall(recall.id, recall.record).await?;
        if !was_held && recall.id.due.reached(self.broker.now()) {
            let text = "the message was delivered already, or recalled";
            // Clients take `MESSAGE_NOT_FOUND` for an empty receive answer, and so for success.
            return Err(Fault::new(Code::NotFound, text));
        }
        Ok(RecallMessageResponse { status: Some(status::ok()), message_id: recall.message_id })
    }
}
