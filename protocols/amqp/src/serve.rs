//! The shell: accepts sockets, and gives each connection a task that owns it.

mod ask;
mod connection;
mod deliver;
mod output;
mod stream;

use std::{sync::Arc, time::Duration};

use mainstem_broker::Broker;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

pub(crate) use ask::ask;
pub(crate) use deliver::told;

use crate::limits::Limits;

/// Pause after a failed accept: out of descriptors is the usual reason, and others must close
/// theirs first.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves clients, with TLS if `tls` is given, until `shutdown` fires, then asks them to go and returns when they have, or
/// after `drain_ms`.
pub async fn run(
    listener: TcpListener,
    broker: Broker,
    limits: Arc<Limits>,
    shutdown: CancellationToken,
    tls: Option<Arc<ServerConfig>>,
) {
    let mut connections = JoinSet::new();
    let free = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        // Cancel-safe: accept and join_next lose nothing when another branch wins.
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(permit) = free.clone().try_acquire_owned() else {
            tracing::warn!(%peer, max = limits.connections_max, "too many connections");
            continue;
        };
        let (broker, limits) = (broker.clone(), limits.clone());
        let (shutdown, tls) = (shutdown.clone(), tls.clone());
        connections.spawn(async move {
            let _permit = permit;
            let served = connection::serve(stream, peer, broker, limits, shutdown, tls).await;
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "the connection broke");
            }
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if time::timeout(Duration::from_millis(limits.drain_ms), drained).await.is_err() {
        tracing::warn!(left = connections.len(), "connections did not end in time");
    }
}
