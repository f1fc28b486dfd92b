//! Whole conversations over gRPC with a real store behind.

mod admin;
mod dead;
mod delays;
mod lite;
mod offsets;
mod priorities;
mod rights;
mod transactions;
mod types;

use std::{sync::Arc, time::Duration};

use mainstem_broker::{
    Act, AllRights, Authenticator, Bounded, Broker, Client, Config, Inbox, LoginError, Office,
    Rights, Scope, config::Durability,
};
use mainstem_schemas::{Credentials, Origin, Principal, Secret, Views};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use super::run;
use crate::{
    Limits,
    codec::proto::{
        AckMessageEntry, AckMessageRequest, Code, Message, MessageQueue, MessageType,
        NotifyClientTerminationRequest, ReceiveMessageRequest, Resource, SendMessageRequest,
        SendResultEntry, SystemProperties, messaging_service_client::MessagingServiceClient,
        receive_message_response::Content,
    },
    session::settings::duration,
};

const TOPIC: &str = "T";
const GROUP: &str = "g";

/// Everybody is let in, by the name of their key. Those whose name begins with `bounded` may do something
/// with what has `mine` in its name, and with nothing else.
struct Everybody {
    /// How long it takes to see who somebody is.
    pause: Duration,
}

impl Authenticator for Everybody {
    fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError> {
        std::thread::sleep(self.pause);
        let namespace = credentials.namespace.as_str();
        let name = match &credentials.secret {
            Secret::Signature { key, .. } => key,
            Secret::Password { user, .. } => user,
            Secret::Anonymous
            | Secret::Certificate { .. }
            | Secret::Scram { .. }
            | Secret::Token(_) => "anybody",
        };
        Ok(Principal::named(name, namespace))
    }

    fn rights(&self, principal: &Principal, _client_id: Option<&str>) -> Arc<dyn Rights> {
        if principal.name.starts_with("bounded") { Arc::new(Mine) } else { Arc::new(AllRights) }
    }

    fn office(&self, principal: &Principal) -> Office {
        match &*principal.name {
            "administrator" => Office::Administrator,
            "monitor" => Office::Monitor,
            "manager" | "bounded-manager" => Office::Manager,
            _ => Office::None,
        }
    }
}

struct Mine;

impl Rights for Mine {
    fn is_all(&self) -> bool {
        false
    }

    fn may(&self, _act: Act, name: &str) -> bool {
        name.contains("mine")
    }

    fn may_use_key(&self, _act: Act, _exchange: &str, _key: &[u8]) -> bool {
        true
    }

    fn bounds_keys(&self, _exchange: &str) -> bool {
        false
    }
}

/// A server that can be started again over the same data.
struct Server {
    dir: tempfile::TempDir,
    limits: Limits,
    pause: Duration,
    running: Option<Running>,
}

struct Running {
    broker: Broker,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    port: u16,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        Self::start_slow(limits, Duration::ZERO).await
    }

    /// One that takes its time to let somebody in.
    async fn start_slow(limits: Limits, pause: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self { dir, limits, pause, running: None };
        server.run().await;
        server
    }

    async fn run(&mut self) {
        let mut config = Config::new(self.dir.path().to_owned());
        config.durability = Durability::None;
        config.segment_bytes = 8 << 20;
        config.message_bytes_max = 2 << 20;
        let views = Views::default().with(Origin::Rocketmq, crate::view);
        let broker =
            Broker::open(config, Arc::new(Everybody { pause: self.pause }), views).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shutdown = CancellationToken::new();
        let limits = Arc::new(self.limits.clone());
        let task =
            tokio::spawn(run(listener, broker.clone(), limits, shutdown.clone(), None, |_| Ok(())));
        self.running = Some(Running { broker, shutdown, task, port });
    }

    async fn stop(&mut self) {
        let Running { broker, shutdown, task, .. } = self.running.take().unwrap();
        shutdown.cancel();
        task.await.unwrap();
        broker.stop().await;
    }

    async fn restart(&mut self) {
        self.stop().await;
        self.run().await;
    }

    async fn peer(&self, client_id: &'static str) -> Peer {
        let port = self.running.as_ref().unwrap().port;
        let grpc = MessagingServiceClient::connect(format!("http://127.0.0.1:{port}"));
        let client_id = MetadataValue::from_static(client_id);
        Peer { grpc: grpc.await.unwrap(), client_id, key: None }
    }

    /// A peer with a key.
    async fn peer_of(&self, client_id: &'static str, key: &str) -> Peer {
        let authorization = format!("MQv2-HMAC-SHA1 Credential={key}, Signature=00");
        let key = Some(authorization.parse().unwrap());
        Peer { key, ..self.peer(client_id).await }
    }

    fn now_ms(&self) -> u64 {
        self.broker().now().0
    }

    fn broker(&self) -> &Broker {
        &self.running.as_ref().unwrap().broker
    }

    /// A way to the store past the front-end.
    async fn client(&self) -> (Client, Inbox) {
        let namespace = "/".to_owned();
        let peer = "127.0.0.1:1".parse().unwrap();
        let secret = Secret::Anonymous;
        self.broker().login(&Credentials { namespace, secret, peer }).await.unwrap()
    }
}

struct Peer {
    grpc: MessagingServiceClient<Channel>,
    client_id: MetadataValue<Ascii>,
    key: Option<MetadataValue<Ascii>>,
}

/// A poll of up to 32 messages.
fn poll(topic: &str, group: &str, wait_ms: u64) -> ReceiveMessageRequest {
    let topic = Some(resource(topic));
    ReceiveMessageRequest {
        group: Some(resource(group)),
        message_queue: Some(MessageQueue { topic, ..Default::default() }),
        batch_size: 32,
        long_polling_timeout: Some(duration(wait_ms)),
        ..Default::default()
    }
}

impl Peer {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-mq-client-id", self.client_id.clone());
        if let Some(key) = &self.key {
            request.metadata_mut().insert("authorization", key.clone());
            request.metadata_mut().insert("x-mq-date-time", MetadataValue::from_static("now"));
        }
        request
    }

    async fn send(&mut self, message: Message) -> Result<SendResultEntry, Code> {
        let request = self.request(SendMessageRequest { messages: vec![message] });
        let answer = self.grpc.send_message(request).await.unwrap().into_inner();
        match answer.status.unwrap().code() {
            Code::Ok => Ok(answer.entries.into_iter().next().unwrap()),
            code => Err(code),
        }
    }

    /// What a group is given of a topic within `wait_ms`, and has for `hidden_ms`.
    async fn take(
        &mut self,
        topic: &str,
        group: &str,
        hidden_ms: u64,
        wait_ms: u64,
    ) -> Vec<Message> {
        let request = ReceiveMessageRequest {
            invisible_duration: Some(duration(hidden_ms)),
            ..poll(topic, group, wait_ms)
        };
        self.take_by(request).await
    }

    async fn take_by(&mut self, request: ReceiveMessageRequest) -> Vec<Message> {
        let request = self.request(request);
        let mut parts = self.grpc.receive_message(request).await.unwrap().into_inner();
        let mut messages = Vec::new();
        while let Some(part) = parts.message().await.unwrap() {
            if let Some(Content::Message(message)) = part.content {
                messages.push(message);
            }
        }
        messages
    }

    /// What the group is given within `wait_ms`, acknowledged.
    async fn receive(&mut self, wait_ms: u64) -> Vec<Message> {
        let messages = self.take(TOPIC, GROUP, 10_000, wait_ms).await;
        for message in &messages {
            let system = message.system_properties.as_ref().unwrap();
            let entry = AckMessageEntry {
                message_id: system.message_id.clone(),
                receipt_handle: system.receipt_handle().to_owned(),
                ..Default::default()
            };
            let request = self.request(AckMessageRequest {
                group: Some(resource(GROUP)),
                topic: Some(resource(TOPIC)),
                entries: vec![entry],
            });
            let answer = self.grpc.ack_message(request).await.unwrap().into_inner();
            assert_eq!(answer.status.unwrap().code(), Code::Ok);
        }
        messages
    }
}

fn resource(name: &str) -> Resource {
    Resource { name: name.to_owned(), ..Default::default() }
}

fn message(id: &str, kind: MessageType) -> Message {
    let system_properties = SystemProperties {
        message_id: id.to_owned(),
        message_type: kind as i32,
        ..Default::default()
    };
    Message {
        topic: Some(resource(TOPIC)),
        system_properties: Some(system_properties),
        body: "body".into(),
        ..Default::default()
    }
}

fn ids(messages: &[Message]) -> Vec<&str> {
    let system = messages.iter().filter_map(|message| message.system_properties.as_ref());
    system.map(|system| system.message_id.as_str()).collect()
}

#[tokio::test]
async fn clients_count_with_their_namespace_and_user() {
    let mut server = Server::start(Limits::default()).await;
    let broker = server.running.as_ref().unwrap().broker.clone();
    let limit = async |scope: &Scope, max| {
        broker.set_limit(scope, Bounded::Connections, max).await.unwrap();
    };
    for scope in [Scope::Namespace("/".to_owned()), Scope::User("anybody".to_owned())] {
        limit(&scope, Some(1)).await;
        let (mut first, mut second) = (server.peer("one").await, server.peer("two").await);
        for _ in 0..2 {
            assert!(first.send(message("m", MessageType::Normal)).await.is_ok(), "{scope:?}");
            let refused = second.send(message("m", MessageType::Normal)).await;
            assert_eq!(refused.err(), Some(Code::TooManyRequests), "{scope:?}");
        }
        let goodbye = first.request(NotifyClientTerminationRequest::default());
        first.grpc.notify_client_termination(goodbye).await.unwrap();
        assert!(second.send(message("m", MessageType::Normal)).await.is_ok(), "{scope:?}");
        let goodbye = second.request(NotifyClientTerminationRequest::default());
        second.grpc.notify_client_termination(goodbye).await.unwrap();
        limit(&scope, None).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_come_together_are_bounded_too() {
    const CLIENTS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let limits = Limits { clients_max: 2, ..Limits::default() };
    let server = Server::start_slow(limits, Duration::from_millis(100)).await;
    let mut peers = Vec::new();
    for client in CLIENTS {
        peers.push(server.peer(client).await);
    }
    let sends = peers.into_iter().map(|mut peer| {
        tokio::spawn(async move { peer.send(message("m", MessageType::Normal)).await.is_ok() })
    });
    let mut let_in = 0;
    for send in sends.collect::<Vec<_>>() {
        let_in += usize::from(send.await.unwrap());
    }
    assert_eq!(let_in, 2);
}
