//! A RocketMQ 5 client, as far as a benchmark needs one: the calls of a producer and of a simple
//! consumer, each with the headers every SDK sends.

use std::time::Duration;

use tonic::{
    Request,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};

use self::proto::messaging_service_client::MessagingServiceClient;
use super::BODY_BYTES;
use crate::load::{Load, Result};

/// What protox and tonic make of the vendored protocol files.
#[allow(clippy::all, unused_qualifications, unreachable_pub, reason = "generated")]
#[allow(
    clippy::allow_attributes_without_reason,
    clippy::cast_possible_truncation,
    clippy::use_self,
    reason = "generated"
)]
#[allow(
    clippy::too_many_lines,
    clippy::semicolon_if_nothing_returned,
    rustdoc::all,
    reason = "generated"
)]
mod proto {
    tonic::include_proto!("apache.rocketmq.v2");
}

const OK: i32 = proto::Code::Ok as i32;
const NOTHING: i32 = proto::Code::MessageNotFound as i32;
const DEADLINE: Duration = Duration::from_secs(10);
const INVISIBLE_SECONDS: i64 = 60;
const POLL_MILLIS: i32 = 200;
const WINDOW_BYTES: u32 = 4 << 20;

#[derive(Clone)]
pub(super) struct Client {
    service: MessagingServiceClient<Channel>,
    client_id: AsciiMetadataValue,
    topic: proto::Resource,
    group: proto::Resource,
    endpoints: proto::Endpoints,
}

pub(super) struct Received {
    message_id: String,
    receipt_handle: String,
}

impl Client {
    pub(super) async fn connect(load: Load) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://127.0.0.1:{}", load.port))?
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .connect()
            .await?;
        let name = |kind: &str| proto::Resource {
            name: format!("bench-{kind}-{}", load.run),
            ..proto::Resource::default()
        };
        let address = proto::Address { host: "127.0.0.1".to_owned(), port: i32::from(load.port) };
        Ok(Self {
            service: MessagingServiceClient::new(channel),
            client_id: format!("bench-{}", load.run).parse()?,
            topic: name("topic"),
            group: name("group"),
            endpoints: proto::Endpoints {
                scheme: proto::AddressScheme::IPv4.into(),
                addresses: vec![address],
            },
        })
    }

    /// Topics come into being when they are first asked for.
    pub(super) async fn create_topic(&self) -> Result<()> {
        let mut service = self.service.clone();
        let request = proto::QueryRouteRequest {
            topic: Some(self.topic.clone()),
            endpoints: Some(self.endpoints.clone()),
        };
        check(service.query_route(self.request(request)).await?.into_inner().status)
    }

    /// Groups come into being when they first receive; this one finds nothing yet.
    pub(super) async fn create_group(&self) -> Result<()> {
        self.clone().receive(1).await.map(drop)
    }

    pub(super) async fn send(&mut self, ids: impl Iterator<Item = String>) -> Result<()> {
        let messages = ids.map(|message_id| proto::Message {
            topic: Some(self.topic.clone()),
            system_properties: Some(proto::SystemProperties {
                message_id,
                body_encoding: proto::Encoding::Identity.into(),
                message_type: proto::MessageType::Normal.into(),
                ..proto::SystemProperties::default()
            }),
            body: vec![b'x'; BODY_BYTES],
            ..proto::Message::default()
        });
        let request = proto::SendMessageRequest { messages: messages.collect() };
        check(self.service.send_message(self.request(request)).await?.into_inner().status)
    }

    pub(super) async fn receive(&mut self, batch_size: i32) -> Result<Vec<Received>> {
        let request = proto::ReceiveMessageRequest {
            group: Some(self.group.clone()),
            message_queue: Some(proto::MessageQueue {
                topic: Some(self.topic.clone()),
                ..proto::MessageQueue::default()
            }),
            filter_expression: Some(proto::FilterExpression {
                r#type: proto::FilterType::Tag.into(),
                expression: "*".to_owned(),
            }),
            batch_size,
            invisible_duration: Some(duration(INVISIBLE_SECONDS, 0)),
            long_polling_timeout: Some(duration(0, POLL_MILLIS * 1_000_000)),
            ..proto::ReceiveMessageRequest::default()
        };
        let mut answers = self.service.receive_message(self.request(request)).await?.into_inner();
        let mut received = Vec::new();
        while let Some(answer) = answers.message().await? {
            match answer.content {
                Some(proto::receive_message_response::Content::Status(status)) => {
                    if status.code != NOTHING {
                        check(Some(status))?;
                    }
                }
                Some(proto::receive_message_response::Content::Message(message)) => {
                    let properties = message.system_properties.unwrap_or_default();
                    received.push(Received {
                        message_id: properties.message_id,
                        receipt_handle: properties.receipt_handle.unwrap_or_default(),
                    });
                }
                Some(proto::receive_message_response::Content::DeliveryTimestamp(_)) | None => {}
            }
        }
        Ok(received)
    }

    pub(super) async fn acknowledge(&mut self, received: Vec<Received>) -> Result<()> {
        let entries = received.into_iter().map(|each| proto::AckMessageEntry {
            message_id: each.message_id,
            receipt_handle: each.receipt_handle,
            lite_topic: None,
        });
        let request = proto::AckMessageRequest {
            group: Some(self.group.clone()),
            topic: Some(self.topic.clone()),
            entries: entries.collect(),
        };
        check(self.service.ack_message(self.request(request)).await?.into_inner().status)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(DEADLINE);
        let headers = request.metadata_mut();
        headers.insert("x-mq-client-id", self.client_id.clone());
        headers.insert("x-mq-language", AsciiMetadataValue::from_static("RUST"));
        headers.insert("x-mq-protocol", AsciiMetadataValue::from_static("v2"));
        headers.insert("x-mq-client-version", AsciiMetadataValue::from_static("5.1.0"));
        request
    }
}

/// The answers of this protocol carry their errors inside.
fn check(status: Option<proto::Status>) -> Result<()> {
    let status = status.ok_or("the answer has no status")?;
    if status.code == OK {
        return Ok(());
    }
    Err(format!("the server answered {}: {}", status.code, status.message).into())
}

fn duration(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}
