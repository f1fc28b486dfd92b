//! Dead letters: what other protocols' queues gave up comes by its new address, for good.

use mainstem_broker::{
    DeadLetter, DeclareQueue, DeliveryPolicy, Policy, Publish, QueueDef, Retention,
};
use mainstem_schemas::{Address, QueueId, RecordDraft, Table};

use super::*;

#[tokio::test]
async fn what_expired_elsewhere_comes_by_its_new_address_and_expires_no_more() {
    let server = start().await;
    let (namespace, peer) = ("/".to_owned(), "127.0.0.1:1".parse().unwrap());
    let credentials = Credentials { namespace, secret: Secret::Anonymous, peer };
    let (client, _inbox) = server.broker.login(&credentials).await.unwrap();
    let dead = DeadLetter::Exchange { name: "amq.topic".into(), key: Some("over.due".into()) };
    let delivery = DeliveryPolicy { dead_letter: Some(dead), ..DeliveryPolicy::default() };
    let def = QueueDef {
        id: QueueId::default(),
        name: "work".into(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        retention: Retention::Unsettled,
        policy: Arc::new(Policy { delivery, ..Policy::default() }),
        arguments: Table::new(),
    };
    client.declare_queue(DeclareQueue { def }).await.unwrap();
    let mut reader = Peer::new(&server, "reader").await;
    reader.subscribe("over/+", 0).await;
    let address = Address::amqp(Bytes::new(), Bytes::from_static(b"work"));
    let mut draft = RecordDraft::new(&address, "/", b"", b"late");
    draft.now = server.broker.now();
    draft.expiry = draft.now.plus(100);
    let publish = Publish::new(draft.encode().unwrap());
    client.publish(vec![publish]).await.unwrap().await.unwrap();
    reader.expect(b"\x30\x0f\0\x08over/due\0late").await;
}
