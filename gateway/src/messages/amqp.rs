//! Over AMQP 0-9-1.

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::{Map, Value as Json};
use tokio_stream::StreamExt;

use super::{Failure, Options, Received};
use crate::{Config, remote::segment};

pub(super) struct Client {
    connection: Connection,
    channel: Channel,
    consumer: Option<Consumer>,
}

impl Client {
    pub(super) async fn connect(options: &Options, config: &Config) -> Result<Self, Failure> {
        let (host, port) = options.host_and_port(config).map_err(Failure::unavailable)?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let (user, password) = match &options.login {
            Some((user, password)) => (segment(user), segment(password)),
            None => ("guest".to_owned(), "guest".to_owned()),
        };
        let uri = format!("amqp://{user}:{password}@{host}:{port}/{}", segment(&options.vhost));
        let connection = Connection::connect(&uri, ConnectionProperties::default())
            .await
            .map_err(Failure::unavailable)?;
        let channel = connection.create_channel().await.map_err(Failure::unavailable)?;
        let confirm = ConfirmSelectOptions::default();
        channel.confirm_select(confirm).await.map_err(Failure::refused)?;
        Ok(Self { connection, channel, consumer: None })
    }

    /// A message that reaches no queue is a failure.
    pub(super) async fn publish(&mut self, options: &Options, body: &[u8]) -> Result<(), Failure> {
        let mut headers = FieldTable::default();
        for (name, value) in &options.headers {
            headers.insert(name.as_str().into(), AMQPValue::LongString(value.as_str().into()));
        }
        let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        let exchange = options.exchange.clone().unwrap_or_default();
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent = self
            .channel
            .basic_publish(
                exchange.into(),
                options.name.as_str().into(),
                mandatory,
                body,
                properties,
            )
            .await
            .map_err(Failure::refused)?;
        match sent.await.map_err(Failure::refused)? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => {
                Err(Failure::refused(format!("no queue takes '{}'", options.name)))
            }
            Confirmation::Nack(_) | Confirmation::NotRequested => {
                Err(Failure::refused("the server did not take the message"))
            }
        }
    }

    /// From the named queue, or from one of our own that is bound to an exchange.
    pub(super) async fn subscribe(&mut self, options: &Options) -> Result<(), Failure> {
        let none = FieldTable::default();
        let mut queue = options.name.clone();
        if let Some(exchange) = &options.exchange {
            let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
            let declared = self.channel.queue_declare("".into(), own, none.clone()).await;
            queue = declared.map_err(Failure::refused)?.name().to_string();
            let (bind, key) = (QueueBindOptions::default(), options.name.as_str());
            self.channel
                .queue_bind(
                    queue.as_str().into(),
                    exchange.as_str().into(),
                    key.into(),
                    bind,
                    none.clone(),
                )
                .await
                .map_err(Failure::refused)?;
        }
        let consume = BasicConsumeOptions::default();
        let consumer = self.channel.basic_consume(queue.into(), "".into(), consume, none).await;
        self.consumer = Some(consumer.map_err(Failure::refused)?);
        Ok(())
    }

    pub(super) async fn next(&mut self) -> Result<Received, Failure> {
        let ended = || Failure::refused("the server ended the subscription");
        let consumer = self.consumer.as_mut().ok_or_else(ended)?;
        let delivery = consumer.next().await.ok_or_else(ended)?.map_err(Failure::refused)?;
        delivery.ack(BasicAckOptions::default()).await.map_err(Failure::refused)?;
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let headers: Map<String, Json> =
            headers.inner().iter().map(|(name, value)| (name.to_string(), shown(value))).collect();
        Ok(Received {
            name: delivery.routing_key.to_string(),
            properties: Json::Object(headers),
            body: delivery.data,
        })
    }

    pub(super) async fn close(self) {
        // It ends all the same when this fails.
        let _ended = self.connection.close(200, "done".into()).await;
    }
}

fn shown(value: &AMQPValue) -> Json {
    match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        AMQPValue::ShortString(text) => text.as_str().into(),
        AMQPValue::Boolean(flag) => (*flag).into(),
        AMQPValue::LongLongInt(int) => (*int).into(),
        AMQPValue::LongInt(int) => (*int).into(),
        other => format!("{other:?}").into(),
    }
}
