//! The shell: owns the socket and answers the calls of `MessagingService`.

mod admin;
mod calls;
mod incoming;
mod lanes;
mod lite;
mod members;
mod offsets;
mod recall;
mod receive;
mod route;
mod send;
mod settle;
mod telemetry;
mod terms;
#[cfg(test)]
mod tests;
mod transactions;

use std::{collections::HashMap, sync::Arc, time::Duration};

use mainstem_broker::Broker;
use mainstem_schemas::DeliveryId;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{
    codec::{
        handle::Sealer,
        operator::admin_server::AdminServer as OperatorAdmin,
        proto::{
            MessageType, admin_server::AdminServer as ReferenceAdmin,
            messaging_service_server::MessagingServiceServer,
        },
    },
    limits::Limits,
};

const KEEPALIVE: Duration = Duration::from_secs(60);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Makes the process log what is of this level or above: one of `trace`, `debug`, `info`, `warn` and
/// `error`. Errors: why it cannot.
pub type SetLogLevel = fn(&str) -> Result<(), String>;

/// Accepts and serves connections until `shutdown` fires, then ends telemetry streams and parked
/// polls, tells every connection to go away, and returns when they have drained. With `tls`, a
/// connection that begins with a TLS handshake gets one; any other speaks plaintext HTTP/2.
/// Operators change the level of the process's log by `set_log_level`.
pub async fn run(
    listener: TcpListener,
    broker: Broker,
    limits: Arc<Limits>,
    shutdown: CancellationToken,
    tls: Option<Arc<ServerConfig>>,
    set_log_level: SetLogLevel,
) {
    let front = Front::new(broker, limits.clone(), shutdown.clone(), set_log_level);
    let service = MessagingServiceServer::new(front.clone())
        .max_decoding_message_size(limits.request_bytes_max)
        .max_encoding_message_size(usize::MAX);
    let connections = incoming::connections(listener, tls, limits.clone(), shutdown.clone());
    let server = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits.streams_per_connection_max)
        .add_service(service)
        .add_service(ReferenceAdmin::new(front.clone()))
        .add_service(OperatorAdmin::new(front.clone()))
        .serve_with_incoming_shutdown(connections, shutdown.clone().cancelled_owned());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(Duration::from_millis(limits.drain_ms)).await;
    };
    let sweeper = tokio::spawn(members::sweep(front.clone()));
    let asker = tokio::spawn(transactions::look_after(front.clone()));
    tokio::select! {
        served = server => {
            if let Err(error) = served {
                tracing::error!(%error, "the RocketMQ listener ended");
            }
        }
        () = overdue => tracing::warn!("connections did not end in time and were closed"),
    }
    sweeper.abort();
    asker.abort();
    front.members.clear();
}

/// What all calls share.
pub(crate) struct Shared {
    broker: Broker,
    limits: Arc<Limits>,
    sealer: Sealer,
    members: members::Members,
    lanes: lanes::Lanes,
    topics: send::Topics,
    owners: lite::Owners,
    bounds: lite::Bounds,
    /// What the configuration says of topics, by name.
    typed: HashMap<String, MessageType>,
    terms: terms::Terms,
    recalled: recall::Recalled,
    transactions: transactions::Transactions,
    polls: Semaphore,
    /// Held by the one that sends dead letters again.
    redriving: Semaphore,
    shutdown: CancellationToken,
    set_log_level: SetLogLevel,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Front(Arc<Shared>);

impl std::ops::Deref for Front {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Front {
    fn new(
        broker: Broker,
        limits: Arc<Limits>,
        shutdown: CancellationToken,
        set_log_level: SetLogLevel,
    ) -> Self {
        Self(Arc::new(Shared {
            broker,
            sealer: Sealer::default(),
            members: members::Members::default(),
            lanes: lanes::Lanes::default(),
            topics: send::Topics::default(),
            owners: lite::Owners::default(),
            bounds: lite::Bounds::new(&limits),
            typed: limits
                .topics
                .iter()
                .map(|topic| (topic.name.clone(), topic.kind.message_type()))
                .collect(),
            terms: terms::Terms::default(),
            recalled: recall::Recalled::default(),
            transactions: transactions::Transactions::default(),
            polls: Semaphore::new(limits.polls_max.min(Semaphore::MAX_PERMITS)),
            redriving: Semaphore::new(1),
            limits,
            shutdown,
            set_log_level,
        }))
    }

    /// The lane of a delivery's group, if the group reads in order.
    fn lane_of(&self, id: DeliveryId) -> Option<Arc<lanes::Lane>> {
        self.lanes.find(mainstem_broker::GroupRef { queue: id.queue, cursor: id.cursor })
    }
}
