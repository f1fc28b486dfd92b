//! Starting, refusing to start, restarting and stopping.

use std::net::TcpListener;

use mainstem_tests::{Amqp, Deadline, Mqtt, Ports, Server, Setup, clients::reply_code, http};
use rumqttc::QoS;
use tempfile::TempDir;

#[test]
fn health_and_metrics_are_served() {
    let server = Server::start();
    let http = server.ports().http;
    assert_eq!(http::get(http, "/livez").status, 200);
    assert_eq!(http::get(http, "/readyz").status, 200);
    assert!(http::get(http, "/metrics").body.contains("mainstem_"));
}

/// Runs a server that must refuse to start, and answers its one line of complaint.
fn complaint(setup: &Setup) -> String {
    let (status, said) = setup.run_to_end();
    assert!(!status.success(), "it ended well and said: {said}");
    assert!(!said.contains("panicked"), "{said}");
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("mainstem:")).collect();
    assert_eq!(errors.len(), 1, "one clear error, not: {said}");
    errors[0].to_owned()
}

#[test]
fn a_taken_port_is_named_with_the_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let data = TempDir::new().unwrap();
    let mut setup = Setup::new(data.path());
    setup.ports = Ports { mqtt: port, ..Ports::default() };
    let said = complaint(&setup);
    assert!(said.contains(&port.to_string()) && said.contains("listeners.mqtt.bind"), "{said}");
}

#[test]
fn a_locked_data_directory_is_named_with_the_remedy() {
    let server = Server::start();
    let said = complaint(&Setup::new(server.data_dir()));
    assert!(said.contains(&server.data_dir().display().to_string()), "{said}");
    assert!(said.contains("in use") && said.contains("data_dir"), "{said}");
}

#[test]
fn a_wrong_setting_is_named() {
    let data = TempDir::new().unwrap();
    let refused = |setting: &str, named: &str| {
        let mut setup = Setup::new(data.path());
        setup.settings = vec![setting.to_owned()];
        let said = complaint(&setup);
        assert!(said.contains(named), "{said}");
    };
    refused("listeners.amqpp.bind=127.0.0.1:0", "amqpp");
    refused("no_such_key=1", "no_such_key");
    refused("store.commands_max=many", "commands_max");
    refused("listeners.amqp.bind=nowhere", "listeners.amqp.bind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durable_state_survives_a_kill() {
    let mut server = Server::start();
    let ports = server.ports();
    let amqp = Amqp::connect(ports.amqp).await;
    amqp.queue("kept", Some(("amq.topic", "kept.#"))).await;
    let mut session = Mqtt::resume(ports.mqtt, "kept").await;
    session.subscribe("kept/#", QoS::AtLeastOnce).await;
    session.disconnect().await;
    for number in 0..100_u32 {
        amqp.publish("amq.topic", "kept.x", number.to_string().as_bytes()).await;
    }
    assert_eq!(amqp.take("kept").await.as_deref(), Some(b"0".as_slice()));
    // A settlement is not confirmed to the client. A later confirm comes after it is durable.
    amqp.publish("amq.topic", "kept.x", b"100").await;
    server.restart();
    let amqp = Amqp::connect(ports.amqp).await;
    assert_eq!(amqp.ready("kept").await, 100);
    for number in 1..=100_u32 {
        assert_eq!(amqp.take("kept").await, Some(number.to_string().into_bytes()));
    }
    assert_eq!(amqp.take("kept").await, None);
    let mut session = Mqtt::resume(ports.mqtt, "kept").await;
    assert!(session.session_present);
    for number in 0..=100_u32 {
        assert_eq!(session.next().await.body, number.to_string().into_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_says_goodbye_and_keeps_everything() {
    let mut server = Server::start();
    let ports = server.ports();
    let amqp = Amqp::connect(ports.amqp).await;
    amqp.queue("kept", None).await;
    amqp.publish("", "kept", b"before").await;
    let mut idle = Mqtt::connect(ports.mqtt, "idle").await;
    let clock = Deadline::seconds(60);
    let status = server.terminate();
    assert!(status.success(), "{status}: {:?}", server.log());
    assert!(clock.elapsed().as_secs() < 20, "draining took {:?}", clock.elapsed());
    idle.end().await;
    // 320 CONNECTION_FORCED is what RabbitMQ says when an operator stops it.
    let declare = amqp.channel.queue_delete("kept".into(), Default::default()).await;
    let error = declare.expect_err("the connection is gone");
    assert!(matches!(reply_code(&error), Some(320) | None), "{error}");
    server.restart();
    let amqp = Amqp::connect(ports.amqp).await;
    assert_eq!(amqp.take("kept").await.as_deref(), Some(b"before".as_slice()));
}
