//! Tokens of an issuer in the place of passwords.

use std::{fs, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use mainstem_tests::{Amqp, Deadline, Mqtt, Server, clients::reply_code, http};
use ring::hmac;
use rumqttc::{LastWill, QoS};
use serde_json::{Value, json};

const KEY: &[u8] = b"what the issuer and the server know";

/// A token that is good for so many seconds.
fn token(seconds: u64, scope: &str) -> String {
    let now = mainstem_broker::now().0 / 1000;
    let claims = json!({ "sub": "ann", "aud": "rabbitmq", "exp": now + seconds, "scope": scope });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256" })), part(&claims));
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.as_ref()))
}

fn start() -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys.json");
    let key = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(KEY) });
    fs::write(&keys, json!({ "keys": [key] }).to_string()).unwrap();
    let set = format!("tokens.keys=file:{}", keys.display());
    (Server::start_with(&[&set, "tokens.leeway_s=0"]), dir)
}

async fn amqp(server: &Server, token: &str) -> lapin::Result<Amqp> {
    Amqp::try_connect(server.ports().amqp, &format!("whoever:{token}"), "%2f").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_permits_what_its_scopes_say_over_every_protocol() {
    let (server, _dir) = start();
    let scope = "rabbitmq.configure:%2F/jobs rabbitmq.read:*/jobs rabbitmq.write:*/amq.* \
                 rabbitmq.read:*/amq.topic/room.*";
    let token_60 = token(60, scope);
    let ann = amqp(&server, &token_60).await.unwrap();
    ann.queue("jobs", None).await;
    let get = ann.channel.basic_get("jobs".into(), BasicGetOptions::default()).await;
    assert!(get.unwrap().is_none());
    let options = QueueDeclareOptions::default();
    let other = ann.channel.queue_declare("other".into(), options, Default::default()).await;
    assert_eq!(reply_code(&other.unwrap_err()), Some(403));

    let mut options = Mqtt::options(server.ports().mqtt, "device");
    options.set_credentials("device", token_60.clone());
    let mut device = Mqtt::connect_with(options).await.unwrap();
    device.subscribe("room/1", QoS::AtLeastOnce).await;
    device.publish("room/1", false, b"hello").await;
    assert_eq!(device.next().await.body, b"hello");
    let mut options = Mqtt::options(server.ports().mqtt, "lost");
    options.set_credentials("device", token_60.clone());
    options.set_last_will(LastWill::new("room/1", b"lost".to_vec(), QoS::AtLeastOnce, false));
    drop(Mqtt::connect_with(options).await.unwrap());
    assert_eq!(device.next().await.body, b"lost", "its token permitted its will");

    let ask = |token: &str, path: &str| {
        let login = STANDARD.encode(format!("x:{token}"));
        let head = format!("Host: localhost\r\nConnection: close\r\nAuthorization: Basic {login}");
        http::request(server.ports().http, &format!("GET /api{path} HTTP/1.1\r\n{head}\r\n\r\n"))
    };
    assert_eq!(ask(&token_60, "/whoami").status, 401, "it has no tag");
    let monitor = token(60, "rabbitmq.tag:monitoring");
    let whoami = ask(&monitor, "/whoami");
    let whoami: Value = serde_json::from_str(&whoami.body).unwrap();
    assert_eq!((&whoami["name"], &whoami["tags"][0]), (&json!("ann"), &json!("monitoring")));
    assert_eq!(ask(&monitor, "/queues").status, 200);
    assert_eq!(ask(&monitor, "/users").status, 401, "it is no administrator's");

    for odd in [token(60, ""), token(0, scope), format!("{token_60}x"), "ey.ey.ey".to_owned()] {
        assert!(amqp(&server, &odd).await.is_err(), "{odd}");
    }
    assert!(amqp(&server, &token(60, "rabbitmq.read:other/*")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_renews_a_token_goes_on_and_who_does_not_is_told() {
    let (server, _dir) = start();
    let scope = "rabbitmq.*:*/* rabbitmq.configure:*/* rabbitmq.read:*/*";
    let (ann, bob) = (token(4, scope), token(4, scope));
    let ann = amqp(&server, &ann).await.unwrap();
    let bob = amqp(&server, &bob).await.unwrap();
    let mut options = Mqtt::options(server.ports().mqtt, "device");
    options.set_credentials("device", token(4, scope));
    let mut device = Mqtt::connect_with(options).await.unwrap();
    let secret = token(60, scope);
    ann.connection.update_secret(secret.as_str().into(), "renewal".into()).await.unwrap();
    let deadline = Deadline::seconds(10);
    deadline.until("the other's end", || (!bob.connection.status().connected()).then_some(()));
    device.end().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    ann.queue("jobs", None).await;
    let refused = ann.connection.update_secret("ey.ey.ey".into(), "renewal".into()).await;
    assert_eq!(reply_code(&refused.unwrap_err()), Some(530));
}
