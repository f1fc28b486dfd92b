//! Over RocketMQ's gRPC.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hmac::{Hmac, Mac};
use mainstem_rocketmq::codec::proto;
use prost_types::Duration as Length;
use proto::messaging_service_client::MessagingServiceClient;
use serde_json::{Map, Value as Json};
use sha1::Sha1;
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use super::{Failure, Options, Received};
use crate::Config;

const OK: i32 = proto::Code::Ok as i32;
const NOTHING: i32 = proto::Code::MessageNotFound as i32;
/// How long a call waits for messages, and how long any may take.
const POLL: Duration = Duration::from_secs(20);
const CALL: Duration = Duration::from_secs(30);
/// How long a message that was received stays ours.
const INVISIBLE_S: i64 = 60;

pub(super) struct Client {
    service: MessagingServiceClient<Channel>,
    topic: proto::Resource,
    group: proto::Resource,
    tag: Option<String>,
    login: Option<(String, String)>,
    inbox: VecDeque<Received>,
    sent: u64,
}

impl Client {
    pub(super) async fn connect(options: &Options, config: &Config) -> Result<Self, Failure> {
        let (host, port) = options.host_and_port(config).map_err(Failure::unavailable)?;
        let address = proto::Address { host: host.clone(), port: port.into() };
        let endpoints = proto::Endpoints {
            scheme: proto::AddressScheme::DomainName.into(),
            addresses: vec![address],
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let service = MessagingServiceClient::connect(format!("http://{host}:{port}"))
            .await
            .map_err(Failure::unavailable)?;
        let resource =
            |name: &str| proto::Resource { name: name.to_owned(), ..proto::Resource::default() };
        let mut client = Self {
            service,
            topic: resource(&options.name),
            group: resource(&options.group),
            tag: options.tag.clone(),
            login: options.login.clone(),
            inbox: VecDeque::new(),
            sent: 0,
        };
        // Topics come into being when they are first asked for.
        let route = proto::QueryRouteRequest {
            topic: Some(client.topic.clone()),
            endpoints: Some(endpoints),
        };
        let request = client.request(route)?;
        let answer = client.service.query_route(request).await.map_err(Failure::unavailable)?;
        check(answer.into_inner().status)?;
        Ok(client)
    }

    pub(super) async fn publish(&mut self, options: &Options, body: &[u8]) -> Result<(), Failure> {
        self.sent += 1;
        let message_id = format!("{}-{}-{}", std::process::id(), now_ms(), self.sent);
        let message = proto::Message {
            topic: Some(self.topic.clone()),
            user_properties: options.headers.iter().cloned().collect(),
            system_properties: Some(proto::SystemProperties {
                message_id,
                tag: self.tag.clone(),
                keys: options.key.iter().cloned().collect(),
                body_encoding: proto::Encoding::Identity.into(),
                message_type: proto::MessageType::Normal.into(),
                ..proto::SystemProperties::default()
            }),
            body: body.to_vec().into(),
        };
        let request = self.request(proto::SendMessageRequest { messages: vec![message] })?;
        let answer = self.service.send_message(request).await.map_err(Failure::refused)?;
        check(answer.into_inner().status)
    }

    pub(super) async fn next(&mut self) -> Result<Received, Failure> {
        loop {
            if let Some(received) = self.inbox.pop_front() {
                return Ok(received);
            }
            self.receive().await?;
        }
    }

    /// Takes one message, if one comes, and acknowledges it.
    async fn receive(&mut self) -> Result<(), Failure> {
        let length = |seconds| Some(Length { seconds, nanos: 0 });
        let receive = proto::ReceiveMessageRequest {
            group: Some(self.group.clone()),
            message_queue: Some(proto::MessageQueue {
                topic: Some(self.topic.clone()),
                ..proto::MessageQueue::default()
            }),
            filter_expression: Some(proto::FilterExpression {
                r#type: proto::FilterType::Tag.into(),
                expression: self.tag.clone().unwrap_or_else(|| "*".to_owned()),
            }),
            batch_size: 1,
            invisible_duration: length(INVISIBLE_S),
            long_polling_timeout: Some(Length { seconds: POLL.as_secs().cast_signed(), nanos: 0 }),
            ..proto::ReceiveMessageRequest::default()
        };
        let request = self.request(receive)?;
        let answers = self.service.receive_message(request).await.map_err(Failure::refused)?;
        let (mut answers, mut messages) = (answers.into_inner(), Vec::new());
        while let Some(answer) = answers.message().await.map_err(Failure::refused)? {
            match answer.content {
                Some(proto::receive_message_response::Content::Status(status))
                    if status.code != NOTHING =>
                {
                    check(Some(status))?;
                }
                Some(proto::receive_message_response::Content::Message(message)) => {
                    messages.push(message);
                }
                _ => {}
            }
        }
        for message in messages {
            self.acknowledge(message).await?;
        }
        Ok(())
    }

    async fn acknowledge(&mut self, message: proto::Message) -> Result<(), Failure> {
        let system = message.system_properties.unwrap_or_default();
        let entry = proto::AckMessageEntry {
            message_id: system.message_id,
            receipt_handle: system.receipt_handle.unwrap_or_default(),
            lite_topic: None,
        };
        let ack = proto::AckMessageRequest {
            group: Some(self.group.clone()),
            topic: Some(self.topic.clone()),
            entries: vec![entry],
        };
        let request = self.request(ack)?;
        let answer = self.service.ack_message(request).await.map_err(Failure::refused)?;
        check(answer.into_inner().status)?;
        let mut properties: Map<String, Json> =
            message.user_properties.into_iter().map(|(name, value)| (name, value.into())).collect();
        properties.extend(system.tag.map(|tag| ("tag".to_owned(), tag.into())));
        if !system.keys.is_empty() {
            properties.insert("keys".to_owned(), system.keys.into());
        }
        self.inbox.push_back(Received {
            name: self.topic.name.clone(),
            properties: Json::Object(properties),
            body: message.body.to_vec(),
        });
        Ok(())
    }

    /// With the headers that every SDK sends, signed where there is a key.
    fn request<T>(&self, message: T) -> Result<Request<T>, Failure> {
        let mut request = Request::new(message);
        request.set_timeout(CALL);
        let mut headers = vec![
            ("x-mq-client-id", format!("mainstem-{}", std::process::id())),
            ("x-mq-language", "RUST".to_owned()),
            ("x-mq-protocol", "v2".to_owned()),
            ("x-mq-client-version", "5.1.0".to_owned()),
        ];
        if let Some((key, secret)) = &self.login {
            let date = now_ms().to_string();
            headers
                .push(("authorization", signature(key, secret, &date).map_err(Failure::refused)?));
            headers.push(("x-mq-date-time", date));
        }
        for (name, value) in headers {
            let value = MetadataValue::try_from(value).map_err(Failure::refused)?;
            request.metadata_mut().insert(name, value);
        }
        Ok(request)
    }
}

/// What proves who has the key: a signature of the date.
fn signature(key: &str, secret: &str, date: &str) -> Result<String, String> {
    let mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes());
    let mut mac = mac.map_err(|error| error.to_string())?;
    mac.update(date.as_bytes());
    let digits: String =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02X}")).collect();
    Ok(format!("MQv2-HMAC-SHA1 Credential={key}, SignedHeaders=x-mq-date-time, Signature={digits}"))
}

fn now_ms() -> u128 {
    #[expect(
        clippy::disallowed_methods,
        reason = "what is signed is the time, and a name has to be new"
    )]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// The answers of this protocol carry their errors inside.
fn check(status: Option<proto::Status>) -> Result<(), Failure> {
    match status {
        Some(status) if status.code == OK => Ok(()),
        Some(status) => Err(Failure::refused(format!("{}: {}", status.code, status.message))),
        None => Err(Failure::refused("the answer has no status")),
    }
}
