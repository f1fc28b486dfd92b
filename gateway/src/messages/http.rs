//! Over HTTP: a topic is posted to, a queue is asked for messages.

use std::time::Duration;

use axum::http::Method;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use super::{Failure, Options, Received};
use crate::{
    Config,
    remote::{Remote, Reply, segment},
};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// Between two questions whether there is a message.
const LOOK: Duration = Duration::from_millis(200);

pub(super) struct Client(Remote);

impl Client {
    pub(super) fn new(options: &Options, config: &Config) -> Result<Self, Failure> {
        let remote = match (&options.address, &options.login) {
            (None, None) => Remote::open(&config.data_dir, ANSWER).map_err(Failure::unavailable)?,
            (_, login) => {
                let (host, port) = options.host_and_port(config).map_err(Failure::unavailable)?;
                let remote = Remote::at(&host, port, ANSWER);
                match login {
                    Some((user, password)) => remote.as_user(user, password),
                    None => remote,
                }
            }
        };
        Ok(Self(remote))
    }

    pub(super) async fn publish(&mut self, options: &Options, body: &[u8]) -> Result<(), Failure> {
        let parts: Vec<_> = options.name.split('/').map(segment).collect();
        let path = format!("/topics/{}", parts.join("/"));
        let headers: Vec<_> =
            options.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let asked = self.0.request(&Method::POST, &path, body.to_vec(), &headers);
        fine(asked.await.map_err(Failure::unavailable)?).map(drop)
    }

    pub(super) async fn next(&mut self, options: &Options) -> Result<Received, Failure> {
        let path =
            format!("/api/queues/{}/{}/get", segment(&options.vhost), segment(&options.name));
        let body = json!({ "count": 1, "ackmode": "ack_requeue_false", "encoding": "base64" });
        loop {
            let asked = self.0.request(&Method::POST, &path, body.to_string().into_bytes(), &[]);
            let reply = fine(asked.await.map_err(Failure::unavailable)?)?.json();
            let Some(message) = reply.get(0) else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let text = |field: &str| {
                message.get(field).and_then(|value| value.as_str()).unwrap_or_default()
            };
            let body = match text("payload_encoding") {
                "base64" => BASE64_STANDARD.decode(text("payload")).map_err(Failure::refused)?,
                _ => text("payload").as_bytes().to_vec(),
            };
            let properties = message.get("properties").cloned().unwrap_or_default();
            return Ok(Received { name: text("routing_key").to_owned(), properties, body });
        }
    }
}

fn fine(reply: Reply) -> Result<Reply, Failure> {
    if reply.is_fine() { Ok(reply) } else { Err(Failure::refused(reply.reason())) }
}
