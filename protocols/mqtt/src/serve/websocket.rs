//! MQTT over a WebSocket (MQTT 5 §6): between the socket and the connection's own stream, two
//! loops that take frames off and put them on.

use std::{io, pin::pin};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf,
        split,
    },
    sync::mpsc,
};

use super::{appetite::Appetite, farewell::LINGER};
use crate::codec::websocket::{Broken, Frames, Packets, Piece, put_close, put_data, put_pong};

/// Bytes on their way between the loops and the connection, each way.
const PASSAGE_BYTES: usize = 16 << 10;
/// Pongs that may wait to be written; a peer that sends more pings gets fewer pongs.
const PONGS_MAX: usize = 4;
/// The status of an end in good order.
const NORMAL: u16 = 1000;

/// What the reading loop wants written.
enum Word {
    Pong(Bytes),
    Close(u16),
}

/// The connection's stream, and the loops that run until one side ends.
pub(super) fn bridge<S>(socket: S) -> (DuplexStream, impl Future<Output = ()> + Send)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (near, far) = tokio::io::duplex(PASSAGE_BYTES);
    let (socket_reads, socket_writes) = split(socket);
    let (far_reads, far_writes) = split(far);
    let (words, heard) = mpsc::channel(PONGS_MAX);
    let loops = async move {
        let mut take_off = pin!(take_off(socket_reads, far_writes, words));
        let mut put_on = pin!(put_on(far_reads, socket_writes, heard));
        let written = tokio::select! {
            () = &mut take_off => return drop(put_on.await),
            written = &mut put_on => written,
        };
        // A socket that takes nothing is not read either. Who goes on talking reads our farewell
        // before the connection is reset under it, as without WebSocket.
        if written.is_ok() {
            let _ended = tokio::time::timeout(LINGER, take_off).await;
        }
    };
    (near, loops)
}

/// From the socket to the connection, until the client closes, breaks the rules or is lost.
async fn take_off<S: AsyncRead>(
    mut socket: ReadHalf<S>,
    mut connection: WriteHalf<DuplexStream>,
    words: mpsc::Sender<Word>,
) {
    let (mut frames, mut input) = (Frames::default(), BytesMut::new());
    let mut appetite = Appetite::new(PASSAGE_BYTES);
    let status = 'socket: loop {
        loop {
            let word = match frames.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Piece::Data(data))) => {
                    // The connection ended by itself: the other loop says so.
                    if connection.write_all(&data).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(Some(Piece::Pong)) => continue,
                Ok(Some(Piece::Ping(payload))) => Word::Pong(payload),
                Ok(Some(Piece::Close)) => break 'socket NORMAL,
                Err(Broken(status)) => break 'socket status,
            };
            // Full: enough pongs are on their way.
            let _queued = words.try_send(word);
        }
        appetite.reserve(&mut input);
        match socket.read_buf(&mut input).await {
            Ok(0) | Err(_) => break NORMAL,
            Ok(bytes) => appetite.feed(bytes),
        }
    };
    let _said = words.send(Word::Close(status)).await;
    // The connection sees the end of its stream, and ends.
    let _shut = connection.shutdown().await;
}

/// From the connection to the socket, until the connection ends. An error is the socket's.
async fn put_on<S: AsyncWrite>(
    mut connection: ReadHalf<DuplexStream>,
    mut socket: WriteHalf<S>,
    mut words: mpsc::Receiver<Word>,
) -> io::Result<()> {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let mut appetite = Appetite::new(PASSAGE_BYTES);
    let (mut packets, mut status) = (Packets::default(), NORMAL);
    loop {
        appetite.reserve(&mut input);
        // Both are cancel-safe: what was not returned was not taken.
        tokio::select! {
            read = connection.read_buf(&mut input) => match read {
                Ok(0) | Err(_) => break,
                Ok(bytes) => {
                    appetite.feed(bytes);
                    packets.put(&mut input, &mut output);
                }
            },
            Some(word) = words.recv(), if packets.is_between() => match word {
                Word::Pong(payload) => put_pong(&payload, &mut output),
                Word::Close(code) => status = code,
            },
        }
        socket.write_all(&output).await?;
        socket.flush().await?;
        output.clear();
    }
    while let Ok(word) = words.try_recv() {
        if let Word::Close(code) = word {
            status = code;
        }
    }
    if packets.is_between() {
        if !input.is_empty() {
            put_data(&input, &mut output);
        }
        put_close(status, &mut output);
    }
    socket.write_all(&output).await?;
    socket.shutdown().await
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Context, Poll},
        time::Duration,
    };

    use tokio::io::ReadBuf;

    use super::*;

    /// A peer that sends `left` bytes of one frame and then nothing, and takes nothing.
    struct Peer {
        head: &'static [u8],
        left: usize,
        reads: Arc<AtomicUsize>,
    }

    impl AsyncRead for Peer {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let head = std::mem::take(&mut self.head);
            if head.is_empty() && self.left == 0 {
                return Poll::Pending;
            }
            self.reads.fetch_add(1, Ordering::Relaxed);
            buf.put_slice(head);
            let len = self.left.min(buf.remaining());
            buf.put_slice(&vec![0; len]);
            self.left -= len;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Peer {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_socket_that_takes_nothing_ends_the_connection() {
        let peer = Peer { head: &[], left: 0, reads: Arc::default() };
        let (mut near, loops) = bridge(peer);
        let talk = async {
            near.write_all(b"\xd0\0").await.unwrap();
            near.read_u8().await.unwrap_err()
        };
        let both = async { tokio::join!(loops, talk) };
        let ((), end) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_large_frame_is_read_in_large_pieces() {
        const BYTES: usize = 1 << 20;
        let reads = Arc::new(AtomicUsize::new(0));
        // A binary frame of a mebibyte, whose mask is zero.
        let head = b"\x82\xff\0\0\0\0\0\x10\0\0\0\0\0\0";
        let (mut near, loops) = bridge(Peer { head, left: BYTES, reads: reads.clone() });
        let mut data = vec![1; BYTES];
        tokio::select! {
            () = loops => panic!("the loops ended"),
            read = near.read_exact(&mut data) => read.unwrap(),
        };
        assert!(data.iter().all(|byte| *byte == 0));
        let reads = reads.load(Ordering::Relaxed);
        assert!(reads < 2 * BYTES / PASSAGE_BYTES, "{reads} reads");
    }

    #[tokio::test]
    async fn a_ping_is_answered_beside_the_connections_bytes() {
        let (mut client, socket) = tokio::io::duplex(1024);
        let (mut near, loops) = bridge(socket);
        let talk = async {
            client.write_all(b"\x89\x82\0\0\0\0hi\x82\x81\0\0\0\0x").await.unwrap();
            assert_eq!(near.read_u8().await.unwrap(), b'x');
            near.write_all(b"y").await.unwrap();
            drop(near);
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let ((), mut heard) = tokio::join!(loops, talk);
        assert_eq!(heard.split_off(heard.len() - 4), b"\x88\x02\x03\xe8");
        let (pong, data) = (b"\x8a\x02hi".as_slice(), b"\x82\x01y".as_slice());
        assert!(heard == [pong, data].concat() || heard == [data, pong].concat(), "{heard:?}");
    }
}
