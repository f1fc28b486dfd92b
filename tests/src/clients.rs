//! The Rust client libraries with the waits the tests need: `lapin` for AMQP, `rumqttc` for MQTT.

use std::{collections::VecDeque, time::Duration};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind,
    options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use tokio::time;

/// How long any single answer may take.
const ANSWER: Duration = Duration::from_secs(20);
const REQUESTS_MAX: usize = 100;
const PACKET_BYTES_MAX: usize = 4 << 20;

/// An AMQP connection with one channel in confirm mode.
pub struct Amqp {
    pub connection: Connection,
    pub channel: Channel,
}

impl Amqp {
    /// Logs in as guest in the default namespace.
    pub async fn connect(port: u16) -> Self {
        Self::try_connect(port, "guest:guest", "%2f").await.unwrap()
    }

    /// Logs in as `user:password` in a namespace.
    pub async fn try_connect(port: u16, login: &str, namespace: &str) -> lapin::Result<Self> {
        let uri = format!("amqp://{login}@127.0.0.1:{port}/{namespace}");
        let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    /// Declares a durable queue and binds it to an exchange, if one is named.
    pub async fn queue(&self, name: &str, binding: Option<(&str, &str)>) {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let none = FieldTable::default();
        self.channel.queue_declare(name.into(), durable, none.clone()).await.unwrap();
        if let Some((exchange, key)) = binding {
            let (exchange, key) = (exchange.into(), key.into());
            let bind = QueueBindOptions::default();
            self.channel.queue_bind(name.into(), exchange, key, bind, none).await.unwrap();
        }
    }

    /// Publishes a persistent message and waits for its confirm.
    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8]) {
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let (exchange, key) = (exchange.into(), key.into());
        let sent = self.channel.basic_publish(exchange, key, options, body, persistent);
        let confirm = time::timeout(ANSWER, sent.await.unwrap()).await.unwrap();
        assert!(matches!(confirm.unwrap(), Confirmation::Ack(_)));
    }

    /// Takes and accepts the next message of a queue.
    pub async fn take(&self, queue: &str) -> Option<Vec<u8>> {
        let got =
            self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap()?;
        got.delivery.ack(BasicAckOptions::default()).await.unwrap();
        Some(got.delivery.data)
    }

    /// How many messages are ready in a queue.
    pub async fn ready(&self, queue: &str) -> u32 {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let none = FieldTable::default();
        self.channel.queue_declare(queue.into(), passive, none).await.unwrap().message_count()
    }
}

/// The code with which the server refused something.
#[must_use]
pub fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// What a subscriber got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub body: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
}

/// An MQTT 3.1.1 connection.
pub struct Mqtt {
    client: AsyncClient,
    events: EventLoop,
    inbox: VecDeque<Message>,
    pub session_present: bool,
}

impl Mqtt {
    /// The options every client of the tests has.
    #[must_use]
    pub fn options(port: u16, client_id: &str) -> MqttOptions {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
        options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        options.set_keep_alive(Duration::from_secs(30));
        options
    }

    /// Connects with a clean session.
    pub async fn connect(port: u16, client_id: &str) -> Self {
        Self::connect_with(Self::options(port, client_id)).await.unwrap()
    }

    /// Connects with a session that is kept.
    pub async fn resume(port: u16, client_id: &str) -> Self {
        let mut options = Self::options(port, client_id);
        options.set_clean_session(false);
        Self::connect_with(options).await.unwrap()
    }

    pub async fn connect_with(options: MqttOptions) -> Result<Self, ConnectionError> {
        let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
        let mut network = events.network_options();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        let inbox = VecDeque::new();
        let mut mqtt = Self { client, events, inbox, session_present: false };
        loop {
            if let Event::Incoming(Packet::ConnAck(ack)) = mqtt.poll().await? {
                mqtt.session_present = ack.session_present;
                return Ok(mqtt);
            }
        }
    }

    pub async fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.client.subscribe(filter, qos).await.unwrap();
        while !matches!(self.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
    }

    /// Publishes with quality of service 1 and waits for the acknowledgement.
    pub async fn publish(&mut self, topic: &str, retain: bool, body: &[u8]) {
        self.client.publish(topic, QoS::AtLeastOnce, retain, body).await.unwrap();
        while !matches!(self.poll().await.unwrap(), Event::Incoming(Packet::PubAck(_))) {}
    }

    /// The next message; panics when none comes.
    pub async fn next(&mut self) -> Message {
        loop {
            if let Some(message) = self.inbox.pop_front() {
                return message;
            }
            self.poll().await.unwrap();
        }
    }

    /// The next message, if one comes within `wait`.
    pub async fn next_within(&mut self, wait: Duration) -> Option<Message> {
        time::timeout(wait, self.next()).await.ok()
    }

    /// Says goodbye.
    pub async fn disconnect(mut self) {
        self.client.disconnect().await.unwrap();
        while !matches!(self.poll().await, Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_)) {}
    }

    /// The error that ends this connection.
    pub async fn end(&mut self) -> ConnectionError {
        loop {
            if let Err(error) = self.poll().await {
                return error;
            }
        }
    }

    async fn poll(&mut self) -> Result<Event, ConnectionError> {
        let event = time::timeout(ANSWER, self.events.poll()).await.expect("an MQTT event")?;
        if let Event::Incoming(Packet::Publish(publish)) = &event {
            self.inbox.push_back(Message {
                topic: publish.topic.clone(),
                body: publish.payload.to_vec(),
                qos: publish.qos as u8,
                retain: publish.retain,
            });
        }
        Ok(event)
    }
}
