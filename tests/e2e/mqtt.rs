//! What MQTT promises beyond publish and subscribe: retained messages, wills, shared groups.

use std::collections::BTreeSet;

use mainstem_tests::{Mqtt, Server};
use rumqttc::{LastWill, QoS};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_message_waits_for_subscribers_and_survives_a_kill() {
    let mut server = Server::start();
    let port = server.ports().mqtt;
    let mut publisher = Mqtt::connect(port, "publisher").await;
    publisher.publish("state/a", true, b"old").await;
    publisher.publish("state/a", true, b"new").await;
    publisher.publish("state/b", true, b"gone").await;
    publisher.publish("state/b", true, b"").await;
    for restart in [false, true] {
        if restart {
            server.restart();
        }
        let mut reader = Mqtt::connect(port, "reader").await;
        reader.subscribe("state/+", QoS::AtLeastOnce).await;
        let message = reader.next().await;
        assert_eq!(
            (message.topic.as_str(), message.body.as_slice()),
            ("state/a", b"new".as_slice())
        );
        assert!(message.retain);
        // [MQTT-3.3.1-9]: to those who were subscribed already it is not marked. That it comes
        // next also tells that state/b, which was cleared, did not.
        reader.publish("state/c", true, b"live").await;
        let message = reader.next().await;
        assert_eq!((message.topic.as_str(), message.retain), ("state/c", false));
        reader.publish("state/c", true, b"").await;
        reader.disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_is_published_when_its_client_dies_and_only_then() {
    let server = Server::start();
    let port = server.ports().mqtt;
    let mut reader = Mqtt::connect(port, "reader").await;
    reader.subscribe("wills/#", QoS::AtLeastOnce).await;
    let with_will = |client_id: &str| {
        let mut options = Mqtt::options(port, client_id);
        let topic = format!("wills/{client_id}");
        options.set_last_will(LastWill::new(topic, "gone", QoS::AtLeastOnce, false));
        options
    };
    Mqtt::connect_with(with_will("polite")).await.unwrap().disconnect().await;
    drop(Mqtt::connect_with(with_will("dead")).await.unwrap());
    let message = reader.next().await;
    assert_eq!(
        (message.topic.as_str(), message.body.as_slice()),
        ("wills/dead", b"gone".as_slice())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_group_gets_each_message_once() {
    let server = Server::start();
    let port = server.ports().mqtt;
    let mut members = Vec::new();
    for name in ["one", "two"] {
        let mut member = Mqtt::connect(port, name).await;
        member.subscribe("$share/crew/jobs/#", QoS::AtLeastOnce).await;
        members.push(member);
    }
    let mut publisher = Mqtt::connect(port, "publisher").await;
    for number in 0..100_u32 {
        publisher.publish("jobs/x", false, number.to_string().as_bytes()).await;
    }
    let (mut bodies, mut copies) = (BTreeSet::new(), 0);
    while bodies.len() < 100 {
        let [one, two] = members.as_mut_slice() else { unreachable!("there are two") };
        let message = tokio::select! {
            message = one.next() => message,
            message = two.next() => message,
        };
        copies += 1;
        bodies.insert(message.body);
    }
    assert_eq!(copies, 100, "some message came twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_taken_over_by_its_next_connection() {
    let server = Server::start();
    let port = server.ports().mqtt;
    let mut first = Mqtt::resume(port, "device").await;
    first.subscribe("a/#", QoS::AtLeastOnce).await;
    let mut second = Mqtt::resume(port, "device").await;
    assert!(second.session_present);
    first.end().await;
    second.publish("a/b", false, b"x").await;
    assert_eq!(second.next().await.body, b"x");
}
