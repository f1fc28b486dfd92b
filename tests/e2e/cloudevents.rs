//! A CloudEvent made by one protocol's client is the same event for another's: the SDK's own
//! event goes in as AMQP headers and comes out as MQTT user properties.

use std::collections::BTreeMap;

use cloudevents::{AttributesReader, Event, EventBuilder, EventBuilderV10};
use lapin::{
    BasicProperties,
    options::BasicPublishOptions,
    types::{AMQPValue, FieldTable},
};
use mainstem_tests::{Amqp, Server};
use rumqttc::v5::{
    AsyncClient, Event as MqttEvent, MqttOptions,
    mqttbytes::{QoS, v5::Packet},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloudevent_from_amqp_is_the_same_event_over_mqtt() {
    let server = Server::start();
    let options = MqttOptions::new("reader", "127.0.0.1", server.ports().mqtt);
    let (client, mut reader) = AsyncClient::new(options, 10);
    client.subscribe("plant/oven", QoS::AtLeastOnce).await.unwrap();
    while !matches!(reader.poll().await.unwrap(), MqttEvent::Incoming(Packet::SubAck(_))) {}

    let sent = EventBuilderV10::new()
        .id("42")
        .ty("com.example.reading")
        .source("urn:oven:1")
        .subject("left door")
        .extension("partitionkey", "oven-1")
        .build()
        .unwrap();
    let amqp = Amqp::connect(server.ports().amqp).await;
    let mut headers = FieldTable::default();
    for (name, value) in attributes(&sent) {
        headers.insert(format!("ce-{name}").into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default().with_headers(headers).with_delivery_mode(2);
    let publish = BasicPublishOptions::default();
    let (exchange, key) = ("amq.topic".into(), "plant.oven".into());
    amqp.channel.basic_publish(exchange, key, publish, b"21.5", properties).await.unwrap();

    let got = loop {
        if let MqttEvent::Incoming(Packet::Publish(got)) = reader.poll().await.unwrap() {
            break got;
        }
    };
    assert_eq!(got.payload.as_ref(), b"21.5");
    let user: BTreeMap<String, String> =
        got.properties.unwrap_or_default().user_properties.into_iter().collect();
    let read = EventBuilderV10::new()
        .id(&user["id"])
        .ty(&user["type"])
        .source(&user["source"])
        .subject(&user["subject"])
        .extension("partitionkey", user["partitionkey"].as_str())
        .build()
        .unwrap();
    assert_eq!(attributes(&read), attributes(&sent));
    assert_eq!(user["specversion"], "1.0");
}

/// The event's attributes and extensions by their names, as texts.
fn attributes(event: &Event) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::from([
        ("specversion".to_owned(), event.specversion().to_string()),
        ("id".to_owned(), event.id().to_owned()),
        ("type".to_owned(), event.ty().to_owned()),
        ("source".to_owned(), event.source().clone()),
    ]);
    attributes.extend(event.subject().map(|subject| ("subject".to_owned(), subject.to_owned())));
    attributes
        .extend(event.iter_extensions().map(|(name, value)| (name.to_owned(), value.to_string())));
    attributes
}
