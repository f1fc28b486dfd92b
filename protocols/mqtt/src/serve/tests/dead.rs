//! Dead letters: what other protocols' queues gave up comes by its new address, for good.

use mainstem_broker::{
    Bind, Client, DeadLetter, DeclareQueue, DeliveryPolicy, Inbox, Policy, Publish, QueueDef,
    Retention,
};
use mainstem_schemas::{Address, QueueId, RecordDraft, Table, record::flags};

use super::*;

async fn login(server: &Server) -> (Client, Inbox) {
    let (namespace, peer) = ("/".to_owned(), "127.0.0.1:1".parse().unwrap());
    let credentials = Credentials { namespace, secret: Secret::Anonymous, peer };
    server.broker.login(&credentials).await.unwrap()
}

/// A queue whose dead letters go to `amq.topic` with a key.
async fn declare(client: &Client, name: &str, key: &'static str) {
    let dead = DeadLetter::Exchange { name: "amq.topic".into(), key: Some(key.into()) };
    let delivery = DeliveryPolicy { dead_letter: Some(dead), ..DeliveryPolicy::default() };
    let def = QueueDef {
        id: QueueId::default(),
        name: name.into(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        retention: Retention::Unsettled,
        policy: Arc::new(Policy { delivery, ..Policy::default() }),
        arguments: Table::new(),
    };
    client.declare_queue(DeclareQueue { def }).await.unwrap();
}

/// Publishes what expires soon.
async fn publish(server: &Server, client: &Client, mut draft: RecordDraft<'_>) {
    draft.now = server.broker.now();
    draft.expiry = draft.now.plus(1000);
    let publish = Publish::new(draft.encode().unwrap());
    client.publish(vec![publish]).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn what_expired_elsewhere_comes_by_its_new_address_and_expires_no_more() {
    let server = start().await;
    let (client, _inbox) = login(&server).await;
    declare(&client, "work", "over.due").await;
    let mut reader = Peer::new(&server, "reader").await;
    reader.subscribe("over/+", 0).await;
    let address = Address::amqp(Bytes::new(), Bytes::from_static(b"work"));
    publish(&server, &client, RecordDraft::new(&address, "/", b"", b"late")).await;
    reader.expect(b"\x30\x0f\0\x08over/due\0late").await;
}

#[tokio::test]
async fn dead_letters_of_one_record_are_told_apart_and_not_retained() {
    let server = start().await;
    let (client, _inbox) = login(&server).await;
    // The one without a key has no topic, so it comes to nobody.
    for (name, key) in [("none", ""), ("one", "over.a"), ("two", "over.b")] {
        declare(&client, name, key).await;
        let (source, destination) = ("amq.topic".to_owned(), name.to_owned());
        let (key, arguments) = (Bytes::from_static(b"job"), Table::new());
        let bind = Bind { source, destination, to_exchange: false, key, arguments };
        client.bind(bind).await.unwrap();
    }
    let mut reader = Peer::new(&server, "reader").await;
    // As published; and with two subscriptions copies may be merged.
    reader.subscribe("over/+", 8).await;
    reader.subscribe("#", 8).await;
    let address = Address::mqtt("job".into());
    let mut draft = RecordDraft::new(&address, "/", b"", b"late");
    draft.flags = flags::RETAIN;
    publish(&server, &client, draft).await;
    reader.expect(b"\x31\x0f\0\x03job\x05\x02\0\0\0\x01late").await;
    let mut dead = [reader.hear().await.unwrap(), reader.hear().await.unwrap()];
    dead.sort_by_key(|frame| frame.body.clone());
    let wanted = [b"\0\x06over/a\0late", b"\0\x06over/b\0late"];
    assert_eq!(
        dead.each_ref().map(|frame| (frame.first, &frame.body[..])),
        wanted.map(|body| (0x30, &body[..]))
    );
    reader.expect_nothing().await;
}
