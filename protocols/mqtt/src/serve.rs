//! The sockets: one task per connection, and one `Event` for everything that can wake it.
//!
//! Reading order: [`Service`] accepts; `greeting` takes a CONNECT to a session; `connection` is the
//! loop; `subscribing`, `delivering`, `publishing`, `exactly_once`, `noted` and `proving` are its verbs; `farewell` ends it; `wills` outlasts it; `peers`
//! lets one connection at a time hold a client id; `statistics` tells
//! of all of them; `websocket` is the other way in.

mod appetite;
mod connection;
mod delivering;
mod exactly_once;
mod exclusive;
mod farewell;
mod flapping;
mod greeting;
mod noted;
mod pace;
mod parking;
mod peers;
mod proving;
mod publishing;
mod statistics;
mod subscribing;
mod websocket;
mod wills;

#[cfg(test)]
mod tests;

use std::{pin::pin, sync::Arc, time::Duration};

use mainstem_broker::{Broker, Line};
use mainstem_schemas::certificate::common_name;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Limits;
use connection::Connection;
use exclusive::Exclusives;
use flapping::Flapping;
use greeting::Caller;
use pace::Paces;
use parking::Parking;
use peers::Peers;
use statistics::Statistics;

/// What all connections of a listener share.
pub(crate) struct Server {
    broker: Broker,
    limits: Arc<Limits>,
    peers: Peers,
    exclusives: Exclusives,
    parking: Parking,
    flapping: Flapping,
    paces: Paces,
    statistics: Statistics,
    /// Places for wills that wait for their delay.
    wills: Semaphore,
    shutdown: CancellationToken,
}

/// The MQTT front-end: what its listeners, TCP's and WebSocket's, have in common. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    server: Arc<Server>,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Service {
    #[must_use]
    pub fn new(broker: Broker, limits: Arc<Limits>, shutdown: CancellationToken) -> Self {
        let slots = Arc::new(Semaphore::new(limits.connections_max));
        let server = Server {
            wills: Semaphore::new(limits.wills_waiting_max),
            broker,
            limits,
            peers: Peers::default(),
            exclusives: Exclusives::default(),
            parking: Parking::default(),
            flapping: Flapping::default(),
            paces: Paces::default(),
            statistics: Statistics::new(),
            shutdown,
        };
        Self { server: Arc::new(server), slots, tasks: TaskTracker::new() }
    }

    /// Sees to the wills of clients that were connected to the last process when it was killed. To be
    /// called before any client comes: one that does may take back what waits for its delay.
    pub async fn see_to_wills(&self, namespaces: &[String]) {
        for namespace in namespaces {
            let executed = wills::execute_all(&self.server, &self.tasks, namespace).await;
            if let Err(refusal) = executed {
                tracing::warn!(namespace, %refusal, "wills were not seen to");
            }
        }
    }

    /// Accepts connections, with TLS if `tls` is given, until the shutdown, then tells clients that the server shuts down, and
    /// returns when those of all ways in are gone, or when the time for farewells is over.
    pub async fn run(self, listener: TcpListener, tls: Option<Arc<ServerConfig>>) {
        loop {
            // Dropped by the shutdown only.
            let accepted = tokio::select! {
                biased;
                () = self.server.shutdown.cancelled() => break,
                accepted = accept(&listener, &self.slots) => accepted,
            };
            let Some((stream, permit)) = accepted else { continue };
            let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { continue };
            let line = Line::new(peer, local, tls.is_some());
            // Without it small packets wait for acknowledgements; the socket works all the same.
            let _best_effort = stream.set_nodelay(true);
            let server = self.server.clone();
            match &tls {
                None => {
                    let caller = Caller::by(line);
                    self.tasks.spawn(serve(server, stream.into_split(), caller, permit));
                }
                Some(tls) => {
                    let acceptor = TlsAcceptor::from(tls.clone());
                    self.tasks.spawn(serve_tls(server, acceptor, stream, line, permit));
                }
            }
        }
        drop(listener);
        self.drain().await;
    }

    /// Returns when all connections have ended after the shutdown, whichever way they came, or
    /// when the time for farewells is over.
    pub async fn drain(&self) {
        self.tasks.close();
        // Twice the time: a connection may use all of it for its goodbye and again for its
        // session.
        let patience = Duration::from_millis(self.server.limits.goodbye_ms) * 2;
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "mqtt connections did not end in time");
        }
    }

    /// Serves the client behind a WebSocket when its handshake is over, if it comes to that. False
    /// when there are `connections_max` already. Its bytes are counted without the frames' own.
    #[must_use]
    pub fn websocket<S, F>(&self, handshake: F, line: Arc<Line>) -> bool
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
        F: Future<Output = Option<S>> + Send + 'static,
    {
        let Ok(permit) = self.slots.clone().try_acquire_owned() else { return false };
        let server = self.server.clone();
        self.tasks.spawn(async move {
            let Some(socket) = handshake.await else { return };
            let goodbye = Duration::from_millis(server.limits.goodbye_ms);
            let (stream, loops) = websocket::bridge(socket);
            let caller = Caller::by(line);
            let served = serve(server, tokio::io::split(stream), caller, permit);
            let (mut loops, mut served) = (pin!(loops), pin!(served));
            tokio::select! {
                () = &mut loops => served.await,
                // A peer that takes nothing does not keep its socket.
                () = &mut served => {
                    let _in_time = tokio::time::timeout(goodbye, loops).await;
                }
            }
        });
        true
    }
}

/// The next connection, when there is a place for it. One that waits for its place is dropped by a
/// shutdown.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slots.clone().acquire_owned().await.ok()?)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept an mqtt connection");
            // Out of file descriptors, most likely: trying again at once would only spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// Shakes hands, and serves who comes out of it. The handshake has as long as a CONNECT has.
async fn serve_tls(
    server: Arc<Server>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    line: Arc<Line>,
    permit: OwnedSemaphorePermit,
) {
    let patience = Duration::from_millis(server.limits.connect_timeout_ms);
    let handshake = tokio::time::timeout(patience, acceptor.accept(stream));
    let stream = match server.shutdown.run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => stream,
        Some(Ok(Err(error))) => {
            let peer = line.peer;
            tracing::info!(%peer, %error, "an mqtt connection was refused in its handshake");
            return;
        }
        Some(Err(_)) | None => return,
    };
    let shown = stream.get_ref().1.peer_certificates();
    let certified = shown.and_then(|chain| common_name(chain.first()?));
    let caller = Caller { certified, ..Caller::by(line) };
    serve(server, tokio::io::split(stream), caller, permit).await;
}

async fn serve<R, W>(
    server: Arc<Server>,
    (reader, writer): (R, W),
    caller: Caller,
    permit: OwnedSemaphorePermit,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    // How it begins and ends takes several times the memory that an idle connection does, so it is
    // kept aside, and for as long as it lasts.
    let greeted = Box::pin(Connection::greet(server.clone(), reader, writer, caller)).await;
    let Some(mut connection) = greeted else { return };
    let counted = Counted::new(server);
    let end = connection.talk().await;
    Box::pin(connection.end(end, (permit, counted))).await;
}

/// A connection counts as long as this lives.
struct Counted(Arc<Server>);

impl Counted {
    fn new(server: Arc<Server>) -> Self {
        server.statistics.connect();
        Self(server)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.statistics.disconnect();
    }
}
