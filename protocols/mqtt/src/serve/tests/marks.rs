//! What a session keeps as subscriptions of ours: nobody reaches it by publishing there.

use mainstem_broker::{DeclareQueue, Policy, QueueDef, Retention};
use mainstem_schemas::{QueueId, Table};

use super::*;

#[tokio::test]
async fn what_is_published_to_a_mark_is_for_nobody() {
    let server = start().await;
    let (namespace, peer) = ("/".to_owned(), "127.0.0.1:1".parse().unwrap());
    let credentials = Credentials { namespace, secret: Secret::Anonymous, peer };
    let (client, _inbox) = server.broker.login(&credentials).await.unwrap();
    let def = QueueDef {
        id: QueueId::default(),
        name: "q".into(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        retention: Retention::Unsettled,
        policy: Arc::new(Policy::default()),
        arguments: Table::new(),
    };
    client.declare_queue(DeclareQueue { def }).await.unwrap();
    let hello = Hello { id: "reader", expiry_s: 60, clean: false, ..HELLO };
    let (mut reader, _) = Peer::hello(&server, hello).await;
    reader.subscribe("$queue/q", 1).await;
    let mut writer = Peer::new(&server, "writer").await;
    // As it is marked, and as a session finds it that comes back.
    for round in 0..2 {
        reader.subscribe("t", 0).await;
        writer.publish("$mainstem-queue/q", "x").await;
        writer.publish("t", "y").await;
        reader.expect(b"\x30\x05\0\x01t\0y").await;
        if round == 0 {
            reader.lose().await;
            (reader, _) = Peer::hello(&server, hello).await;
        }
    }
}
