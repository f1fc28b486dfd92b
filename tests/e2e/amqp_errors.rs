//! The errors that AMQP clients know from RabbitMQ, by code.

use lapin::{
    Confirmation, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use mainstem_tests::{Amqp, Server, clients::reply_code};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_request_ends_its_channel_with_rabbitmqs_code() {
    let server = Server::start();
    let port = server.ports().amqp;
    let amqp = Amqp::connect(port).await;
    amqp.queue("plain", None).await;
    let other = Amqp::connect(port).await;
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let none = FieldTable::default;
    other.channel.queue_declare("mine".into(), exclusive, none()).await.unwrap();

    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let channel = amqp.connection.create_channel().await.unwrap();
    let error = channel.queue_declare("absent".into(), passive, none()).await.unwrap_err();
    assert_eq!(reply_code(&error), Some(404), "{error}");

    let channel = amqp.connection.create_channel().await.unwrap();
    let transient = QueueDeclareOptions::default();
    let error = channel.queue_declare("plain".into(), transient, none()).await.unwrap_err();
    assert_eq!(reply_code(&error), Some(406), "{error}");

    let channel = amqp.connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let error = channel.queue_declare("amq.mine".into(), durable, none()).await.unwrap_err();
    assert_eq!(reply_code(&error), Some(403), "{error}");

    let channel = amqp.connection.create_channel().await.unwrap();
    let consume = BasicConsumeOptions::default();
    let error = channel.basic_consume("mine".into(), "".into(), consume, none()).await.unwrap_err();
    assert_eq!(reply_code(&error), Some(405), "{error}");

    let channel = amqp.connection.create_channel().await.unwrap();
    let (kind, options) = (ExchangeKind::Fanout, ExchangeDeclareOptions::default());
    let declare = channel.exchange_declare("amq.topic".into(), kind, options, none());
    assert_eq!(reply_code(&declare.await.unwrap_err()), Some(406));

    let channel = amqp.connection.create_channel().await.unwrap();
    let (bind, absent) = (QueueBindOptions::default(), "absent".into());
    let error = channel.queue_bind("plain".into(), absent, "k".into(), bind, none()).await;
    assert_eq!(reply_code(&error.unwrap_err()), Some(404));

    // The connection and its first channel have seen none of it.
    amqp.publish("", "plain", b"still here").await;
    assert_eq!(amqp.take("plain").await.as_deref(), Some(b"still here".as_slice()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_to_no_exchange_ends_its_channel_with_404() {
    let server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    let channel = amqp.connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let (exchange, key) = ("absent".into(), "k".into());
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(exchange, key, options, b"x", Default::default()).await;
    let error = match sent {
        Ok(confirm) => confirm.await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(reply_code(&error), Some(404), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mandatory_publish_that_nobody_wants_comes_back() {
    let server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (exchange, key) = ("".into(), "nobody".into());
    let sent = amqp.channel.basic_publish(exchange, key, options, b"x", Default::default());
    let Confirmation::Ack(Some(returned)) = sent.await.unwrap().await.unwrap() else {
        panic!("it was not returned")
    };
    assert_eq!((returned.reply_code, returned.delivery.data.as_slice()), (312, b"x".as_slice()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_login_is_refused_with_rabbitmqs_code() {
    let server = Server::start();
    let port = server.ports().amqp;
    let refused = |login: &'static str, namespace: &'static str| async move {
        let error = Amqp::try_connect(port, login, namespace).await.err().expect("a refusal");
        reply_code(&error)
    };
    assert_eq!(refused("guest:wrong", "%2f").await, Some(403));
    assert_eq!(refused("guest:guest", "absent").await, Some(530));
}
