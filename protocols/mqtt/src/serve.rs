//! The sockets: one task per connection, and one `Event` for everything that can wake it.
//!
//! Reading order: [`run`] accepts; `greeting` takes a CONNECT to a session; `connection` is the
//! loop; `subscribing`, `delivering` and `publishing` are its verbs; `farewell` ends it; `peers`
//! lets one connection at a time hold a client id.

mod connection;
mod delivering;
mod farewell;
mod greeting;
mod peers;
mod publishing;
mod subscribing;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use mainstem_broker::Broker;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Limits;
use connection::Connection;
use peers::Peers;

/// What all connections of a listener share.
pub(crate) struct Server {
    broker: Broker,
    limits: Arc<Limits>,
    peers: Peers,
    /// Places for wills that wait for their delay.
    wills: Semaphore,
    shutdown: CancellationToken,
}

/// Accepts connections until `shutdown` fires, then tells clients that the server shuts down and
/// returns when they are gone, or when the time for farewells is over.
pub async fn run(
    listener: TcpListener,
    broker: Broker,
    limits: Arc<Limits>,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let goodbye = Duration::from_millis(limits.goodbye_ms);
    let wills = Semaphore::new(limits.wills_waiting_max);
    let server = Arc::new(Server { broker, limits, peers: Peers::default(), wills, shutdown });
    let tasks = TaskTracker::new();
    loop {
        // Dropping either future loses nothing: an accepted socket is returned at once.
        let accepted = tokio::select! {
            biased;
            () = server.shutdown.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, permit)) = accepted else { continue };
        tasks.spawn(serve(server.clone(), stream, permit));
    }
    drop(listener);
    tasks.close();
    // Twice the time: a connection may use all of it for its goodbye and again for its session.
    if tokio::time::timeout(goodbye * 2, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "mqtt connections did not end in time");
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, OwnedSemaphorePermit)> {
    let permit = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept an mqtt connection");
            // Out of file descriptors, most likely: trying again at once would only spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn serve(server: Arc<Server>, stream: tokio::net::TcpStream, permit: OwnedSemaphorePermit) {
    let Ok(peer) = stream.peer_addr() else { return };
    // Without it small packets wait for acknowledgements; the socket works all the same.
    let _best_effort = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let Some(mut connection) = Connection::greet(server, reader, writer, peer).await else {
        return;
    };
    metrics::gauge!("mainstem_connections", "proto" => "mqtt").increment(1.0);
    let end = connection.talk().await;
    metrics::gauge!("mainstem_connections", "proto" => "mqtt").decrement(1.0);
    connection.end(end, permit).await;
}
