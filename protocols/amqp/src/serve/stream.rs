//! The two halves of a socket, in clear or with TLS.

use std::{io, sync::Arc};

use bytes::{Buf, BytesMut};
use mainstem_schemas::certificate;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

/// The reading half.
pub(super) enum Reader {
    Clear(OwnedReadHalf),
    Tls(ReadHalf<TlsStream<TcpStream>>),
}

/// The writing half.
pub(super) enum Writer {
    Clear(OwnedWriteHalf),
    Tls(WriteHalf<TlsStream<TcpStream>>),
}

/// Shakes hands, with TLS if it is to be. With the halves comes the common name in the client's
/// certificate, where it showed one and the configuration verifies them.
pub(super) async fn open(
    socket: TcpStream,
    tls: Option<Arc<ServerConfig>>,
) -> io::Result<(Reader, Writer, Option<String>)> {
    let Some(tls) = tls else {
        let (reader, writer) = socket.into_split();
        return Ok((Reader::Clear(reader), Writer::Clear(writer), None));
    };
    let stream = TlsAcceptor::from(tls).accept(socket).await?;
    let shown = stream.get_ref().1.peer_certificates();
    let name = shown.and_then(|chain| certificate::common_name(chain.first()?));
    let (reader, writer) = tokio::io::split(stream);
    Ok((Reader::Tls(reader), Writer::Tls(writer), name))
}

impl Reader {
    /// Reads what there is, waiting for some. Cancel-safe.
    pub(super) async fn read_buf(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Clear(reader) => reader.read_buf(into).await,
            Self::Tls(reader) => match reader.read_buf(into).await {
                // Many clients close the socket without TLS's own goodbye.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                read => read,
            },
        }
    }
}

impl Writer {
    /// Writes what the socket takes without waiting, if it can be known: TLS waits in
    /// [`Self::write`].
    pub(super) fn try_write(&self, buffer: &BytesMut) -> io::Result<usize> {
        match self {
            Self::Clear(writer) => writer.try_write(buffer),
            Self::Tls(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Waits until the socket takes more; with TLS, also writes it. Cancel-safe: what was written
    /// has left the buffer.
    pub(super) async fn write(&mut self, buffer: &mut BytesMut) -> io::Result<()> {
        match self {
            Self::Clear(writer) => writer.writable().await,
            Self::Tls(writer) if buffer.is_empty() => writer.flush().await,
            Self::Tls(writer) => {
                let written = writer.write(buffer).await?;
                buffer.advance(written);
                Ok(())
            }
        }
    }

    /// Whether what was written may still wait here for a flush.
    pub(super) fn holds_back(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Tells the peer that nothing more comes.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(writer) => writer.shutdown().await,
            Self::Tls(writer) => writer.shutdown().await,
        }
    }
}
