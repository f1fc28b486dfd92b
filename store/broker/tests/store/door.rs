//! A store's door in a test: everybody is let in, into the namespace they ask for.

use std::{path::Path, sync::Arc};

use mainstem_broker::{
    Authenticator, Broker, Client, Config, Inbox, LoginError, OpenError, Policy, QueueDef,
    Retention,
};
use mainstem_schemas::{Credentials, Principal, QueueId, Secret, Table, Views};

struct Everybody;

impl Authenticator for Everybody {
    fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError> {
        Ok(Principal::named("tester", credentials.namespace.as_str()))
    }
}

/// The least that a store needs to be told.
pub(crate) fn config(dir: &Path, segment_bytes: u64, message_bytes_max: usize) -> Config {
    let mut config = Config::new(dir.to_owned());
    config.segment_bytes = segment_bytes;
    config.message_bytes_max = message_bytes_max;
    config
}

pub(crate) fn open(config: Config, views: Views) -> Result<Broker, OpenError> {
    Broker::open(config, Arc::new(Everybody), views)
}

pub(crate) async fn login(broker: &Broker) -> (Client, Inbox) {
    let peer = "127.0.0.1:1".parse().unwrap();
    let credentials = Credentials { namespace: "/".to_owned(), secret: Secret::Anonymous, peer };
    broker.login(&credentials).await.unwrap()
}

/// A durable queue.
pub(crate) fn queue(name: &str) -> QueueDef {
    QueueDef {
        id: QueueId::default(),
        name: name.to_owned(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        retention: Retention::Unsettled,
        policy: Arc::new(Policy::default()),
        arguments: Table::new(),
    }
}
