//! The HTTP port: health, metrics, publishing, listing, who is connected, and MQTT over WebSocket.

mod caller;
mod connections;
mod identities;
mod listing;
mod management;
mod metrics;
pub mod normalize;
mod origin;
mod publish;
mod websocket;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    middleware,
    routing::{get, post},
};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use mainstem_broker::Broker;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::sync::CancellationToken;

pub use normalize::view;

use crate::{Config, Protocol, access::registry::Registry};
pub use management::Node;

/// The pause after an accept failed, so that a shortage of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the handlers share.
#[derive(Clone)]
pub struct Gate {
    pub broker: Broker,
    pub registry: Registry,
    pub mqtt: mainstem_mqtt::Service,
    pub config: Arc<Config>,
    /// Where each protocol listens.
    pub addresses: Arc<[(Protocol, SocketAddr)]>,
    pub node: Arc<Node>,
    pub shutdown: CancellationToken,
}

/// Where a request came from.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

/// Where it came to.
#[derive(Clone, Copy)]
struct Local {
    address: SocketAddr,
    is_encrypted: bool,
}

/// Serves until the shutdown, and returns when the requests in progress were answered.
pub async fn run(listener: TcpListener, gate: Gate, tls: Option<Arc<ServerConfig>>) {
    let body_bytes_max = gate.broker.config().message_bytes_max;
    let router = router(gate.clone(), body_bytes_max);
    serve(listener, &gate, router, tls).await;
    // Those that became WebSockets.
    gate.mqtt.drain().await;
}

/// The same of the port for Prometheus.
pub async fn run_metrics(listener: TcpListener, gate: Gate) {
    let router = metrics::router(gate.clone());
    serve(listener, &gate, router, None).await;
}

async fn serve(listener: TcpListener, gate: &Gate, router: Router, tls: Option<Arc<ServerConfig>>) {
    let tls = tls.map(TlsAcceptor::from);
    let Gate { config, shutdown, .. } = gate;
    let header_max = Duration::from_millis(config.http.header_ms_max);
    let places = Arc::new(Semaphore::new(config.http.connections_max));
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: a connection is taken from the backlog by a finished accept only.
        let accept = async {
            let place = places.clone().acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let Some((accepted, place)) = shutdown.run_until_cancelled(accept).await else { break };
        // Ended connections leave the set here, so that it holds only those that are open.
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                // Without it small messages wait for acknowledgements; it works all the same.
                let _best_effort = stream.set_nodelay(true);
                // A socket without an address has ended already.
                let Ok(address) = stream.local_addr() else { continue };
                let router = router.clone().layer(Extension(Peer(peer)));
                let router =
                    router.layer(Extension(Local { address, is_encrypted: tls.is_some() }));
                let (tls, shutdown) = (tls.clone(), shutdown.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve_connection(stream, router, header_max, shutdown).await,
                        Some(tls) => {
                            let shaken = timeout(header_max, tls.accept(stream));
                            if let Some(Ok(Ok(stream))) = shutdown.run_until_cancelled(shaken).await
                            {
                                serve_connection(stream, router, header_max, shutdown).await;
                            }
                        }
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// RabbitMQ's API takes a path with a `/` behind it for the same, and its tools ask so; one of them
/// with two.
fn without_last_slash(mut request: Request<Incoming>) -> Request<Incoming> {
    let uri = request.uri();
    let path = uri.path().strip_suffix('/').filter(|path| path.starts_with("/api/"));
    let path = path.map(|path| path.trim_end_matches('/'));
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    if let Some(shorter) = path.and_then(|path| format!("{path}{query}").parse().ok()) {
        *request.uri_mut() = shorter;
    }
    request
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    header_max: Duration,
    shutdown: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| router.call(without_last_slash(request)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_max)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        // Not lost when the other branch wins: it is polled again below.
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

fn router(gate: Gate, body_bytes_max: usize) -> Router {
    let outsiders = middleware::from_fn_with_state(gate.clone(), origin::refuse_foreign);
    let management = management::routes(&gate);
    Router::new()
        .route("/topics/{*path}", post(publish::publish).get(listing::list))
        .route("/mqtt", get(websocket::upgrade))
        .route_layer(outsiders)
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .route("/metrics", get(metrics::scrape))
        .merge(management)
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .with_state(gate)
}

/// Listeners are bound and the store is open before anything is served, so only the way down
/// makes a server unready.
async fn ready(State(gate): State<Gate>) -> (StatusCode, &'static str) {
    if gate.shutdown.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}
