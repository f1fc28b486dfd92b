//! An operator at the door.

use super::*;
use crate::codec::operator::{Topic, admin_client::AdminClient as OperatorClient};

pub(super) struct Operator {
    pub(super) grpc: OperatorClient<Channel>,
    key: Option<MetadataValue<Ascii>>,
}

/// The code of an answer's status.
pub(super) fn code<T: Told>(answer: Result<tonic::Response<T>, tonic::Status>) -> Code {
    answer.unwrap().into_inner().told().unwrap().code()
}

/// An answer with a status.
pub(super) trait Told {
    fn told(self) -> Option<crate::codec::proto::Status>;
}

macro_rules! told {
    ($($answer:ident),* $(,)?) => {
        $(impl Told for crate::codec::operator::$answer {
            fn told(self) -> Option<crate::codec::proto::Status> {
                self.status
            }
        })*
    };
}

told!(
    CreateTopicResponse,
    UpdateTopicResponse,
    DeleteTopicResponse,
    DescribeTopicResponse,
    ListTopicsResponse,
    ListLiteTopicsResponse,
    CreateGroupResponse,
    UpdateGroupResponse,
    DeleteGroupResponse,
    DescribeGroupResponse,
    ListGroupsResponse,
    ListConsumersResponse,
    ListOffsetsResponse,
    ResetOffsetResponse,
    RedriveDeadLettersResponse,
);

impl Operator {
    /// Who signs with this key; nobody by an empty one.
    pub(super) async fn of(server: &Server, key: &str) -> Self {
        let port = server.running.as_ref().unwrap().port;
        let grpc = OperatorClient::connect(format!("http://127.0.0.1:{port}")).await.unwrap();
        let authorization = format!("MQv2-HMAC-SHA1 Credential={key}, Signature=00");
        let key = (!key.is_empty()).then(|| authorization.parse().unwrap());
        Self { grpc, key }
    }

    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(key) = &self.key {
            request.metadata_mut().insert("authorization", key.clone());
            request.metadata_mut().insert("x-mq-date-time", MetadataValue::from_static("now"));
        }
        request
    }

    pub(super) async fn create_topic(&mut self, request: CreateTopicRequest) -> Code {
        let request = self.request(request);
        code(self.grpc.create_topic(request).await)
    }

    pub(super) async fn update_topic(&mut self, request: UpdateTopicRequest) -> Code {
        let request = self.request(request);
        code(self.grpc.update_topic(request).await)
    }

    pub(super) async fn delete_topic(&mut self, request: DeleteTopicRequest) -> Code {
        let request = self.request(request);
        code(self.grpc.delete_topic(request).await)
    }

    pub(super) async fn describe_topic(&mut self, topic: &str) -> Result<Topic, Code> {
        let request = self.request(DescribeTopicRequest { topic: topic.to_owned() });
        let answer = self.grpc.describe_topic(request).await.unwrap().into_inner();
        answer.topic.ok_or_else(|| answer.status.unwrap().code())
    }

    pub(super) async fn reset(&mut self, request: ResetOffsetRequest) -> Result<Option<i64>, Code> {
        let request = self.request(request);
        let answer = self.grpc.reset_offset(request).await.unwrap().into_inner();
        match answer.status.unwrap().code() {
            Code::Ok => Ok(answer.offset),
            code => Err(code),
        }
    }

    pub(super) async fn redrive(&mut self, request: RedriveDeadLettersRequest) -> (Code, u64) {
        let request = self.request(request);
        let answer = self.grpc.redrive_dead_letters(request).await.unwrap().into_inner();
        (answer.status.unwrap().code(), answer.messages)
    }

    pub(super) async fn ask_reset(&mut self, topic: &str, group: &str) -> Code {
        let request = ResetOffsetRequest {
            group: group.to_owned(),
            topic: topic.to_owned(),
            lite_topic: String::new(),
            to: Some(To::Place(Place::Last as i32)),
        };
        self.reset(request).await.map_or_else(|code| code, |_| Code::Ok)
    }

    /// What becomes of all that changes something.
    pub(super) async fn change_everything(&mut self, topic: &str, group: &str) -> [Code; 8] {
        let name = || topic.to_owned();
        let update = UpdateTopicRequest { topic: name(), ..Default::default() };
        let create = self.request(CreateGroupRequest { group: group.to_owned(), terms: None });
        let change = self.request(UpdateGroupRequest { group: group.to_owned(), terms: None });
        let delete = self.request(DeleteGroupRequest { group: group.to_owned() });
        let redrive = RedriveDeadLettersRequest { group: group.to_owned(), messages_max: 0 };
        [
            self.create_topic(typed("fresh", MessageType::Normal)).await,
            self.update_topic(update).await,
            self.delete_topic(DeleteTopicRequest { topic: name() }).await,
            code(self.grpc.create_group(create).await),
            code(self.grpc.update_group(change).await),
            code(self.grpc.delete_group(delete).await),
            self.ask_reset(topic, group).await,
            self.redrive(redrive).await.0,
        ]
    }

    /// What becomes of all that can be asked.
    pub(super) async fn ask_everything(&mut self, topic: &str, group: &str) -> Vec<Code> {
        let mut answers = self.change_everything(topic, group).await.to_vec();
        let (topic, group) = (|| topic.to_owned(), || group.to_owned());
        answers.push(self.describe_topic(&topic()).await.map_or_else(|code| code, |_| Code::Ok));
        let request = self.request(ListTopicsRequest::default());
        answers.push(code(self.grpc.list_topics(request).await));
        let page_token = String::new();
        let request = self.request(ListLiteTopicsRequest { topic: topic(), page_token });
        answers.push(code(self.grpc.list_lite_topics(request).await));
        let request = self.request(DescribeGroupRequest { group: group() });
        answers.push(code(self.grpc.describe_group(request).await));
        let request = self.request(ListGroupsRequest {});
        answers.push(code(self.grpc.list_groups(request).await));
        let request = self.request(ListConsumersRequest { group: group() });
        answers.push(code(self.grpc.list_consumers(request).await));
        let request = self.request(ListOffsetsRequest { group: group(), ..Default::default() });
        answers.push(code(self.grpc.list_offsets(request).await));
        answers
    }
}
