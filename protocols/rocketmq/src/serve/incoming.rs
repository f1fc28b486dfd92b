//! Accepted connections: plaintext or TLS on one port, told apart by the first byte.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use mainstem_broker::Line;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::limits::Limits;

/// The first byte of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// Accepted connections that may wait for the server to take them.
const READY_MAX: usize = 64;
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub(crate) struct Peer(pub(crate) Arc<Line>);

/// One connection, with its place among those that may be open.
pub(crate) struct Connection {
    wire: Wire,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connections ready to be served, until `shutdown` fires.
pub(crate) fn connections(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    limits: Arc<Limits>,
    shutdown: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(READY_MAX);
    tokio::spawn(async move {
        // Both branches are cancel-safe: accept is, and nothing is lost when the loop ends.
        tokio::select! {
            () = accept(listener, tls.map(offer_h2), limits, ready) => {}
            () = shutdown.cancelled() => {}
        }
    });
    ReceiverStream::new(connections)
}

/// gRPC clients refuse a server that does not agree on `h2`.
fn offer_h2(tls: Arc<ServerConfig>) -> TlsAcceptor {
    let mut tls = Arc::unwrap_or_clone(tls);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(tls))
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: Arc<Limits>,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS)));
    let patience = Duration::from_millis(limits.handshake_ms);
    loop {
        let Ok(permit) = places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a RocketMQ connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (tls, ready) = (tls.clone(), ready.clone());
        tokio::spawn(async move {
            match timeout(patience, open(stream, tls)).await {
                Ok(Ok((wire, local))) => {
                    let line = Line::new(peer, local, matches!(wire, Wire::Tls(_)));
                    let connection = Connection { wire, peer: Peer(line), _permit: permit };
                    // An error means that the server ended, and the connection with it.
                    let _ended = ready.send(Ok(connection)).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a connection did not open"),
                Err(_) => tracing::debug!(%peer, "a connection said nothing in time"),
            }
        });
    }
}

/// With the wire comes its end on this side.
async fn open(stream: TcpStream, tls: Option<TlsAcceptor>) -> io::Result<(Wire, SocketAddr)> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let mut first = [0; 1];
    let read = stream.peek(&mut first).await?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let wire = match tls {
        Some(tls) if first == [TLS_HANDSHAKE] => Wire::Tls(Box::new(tls.accept(stream).await?)),
        Some(_) | None => Wire::Plain(stream),
    };
    Ok((wire, local))
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        let bytes = buf.filled().len().saturating_sub(before);
        if bytes > 0 {
            self.peer.0.received.add(bytes);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        if let Poll::Ready(Ok(bytes)) = &written {
            self.peer.0.sent.add(*bytes);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        if let Poll::Ready(Ok(bytes)) = &written {
            self.peer.0.sent.add(*bytes);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
