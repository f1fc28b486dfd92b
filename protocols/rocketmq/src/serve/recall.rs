//! Recalling: a delayed message is taken back before its time.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use mainstem_broker::Refusal;
use mainstem_schemas::RecordId;
use tonic::Request;

use super::{
    Front,
    calls::{Call, name},
};
use crate::codec::{
    names,
    proto::{Code, RecallMessageRequest, RecallMessageResponse},
    recall::{self, Recall},
    status::{self, Fault},
};

/// Messages remembered as recalled, so that recalling one again is no error.
const RECALLED_MAX: usize = 1024;

/// The records of the messages that were recalled of late, or are about to be.
#[derive(Debug, Default)]
pub(super) struct Recalled(Mutex<VecDeque<RecordId>>);

impl Recalled {
    /// Notes one; false if it is noted already.
    fn note(&self, record: RecordId) -> bool {
        let mut recalled = self.lock();
        if recalled.contains(&record) {
            return false;
        }
        if recalled.len() >= RECALLED_MAX {
            recalled.pop_front();
        }
        recalled.push_back(record);
        true
    }

    fn forget(&self, record: RecordId) {
        self.lock().retain(|other| *other != record);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RecordId>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

impl Front {
    /// Recalling twice is no error; recalling what was delivered, or never was, is.
    pub(super) async fn on_recall_message(
        &self,
        request: Request<RecallMessageRequest>,
    ) -> Result<RecallMessageResponse, Fault> {
        let call = self.call(&request, request.get_ref().topic.as_ref()).await?;
        let request = request.into_inner();
        let topic = name(request.topic.as_ref());
        names::check_topic(topic, &self.limits)?;
        call.member.client.check_writing(topic)?;
        let recall = recall::open(&request.recall_handle, topic).ok_or_else(|| {
            Fault::new(Code::BadRequest, "the recall handle is not one of this topic")
        })?;
        let message_id = recall.message_id.clone();
        let front = self.clone();
        // Runs to its end, so that what is noted is what was done.
        let task = tokio::spawn(async move { front.recall(&call, &recall).await });
        if !task.await.unwrap_or(Err(Refusal::Closed))? {
            let text = "no such message waits: it was delivered already, or recalled";
            // Clients take `MESSAGE_NOT_FOUND` for an empty receive answer, and so for success.
            return Err(Fault::new(Code::NotFound, text));
        }
        Ok(RecallMessageResponse { status: Some(status::ok()), message_id })
    }

    async fn recall(&self, call: &Call, recall: &Recall) -> Result<bool, Refusal> {
        // Before it is asked for: another call may be told first that it is gone.
        let is_first = self.recalled.note(recall.record);
        let was_held = call.member.client.recall(recall.id, recall.record).await;
        if is_first && was_held != Ok(true) {
            self.recalled.forget(recall.record);
        }
        Ok(was_held? || !is_first)
    }
}
