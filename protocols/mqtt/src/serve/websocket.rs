//! MQTT over a WebSocket (MQTT 5 §6): between the socket and the connection's own stream, two
//! loops that take frames off and put them on.

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf,
        split,
    },
    sync::mpsc,
};

use crate::codec::websocket::{Broken, Frames, Piece, put_close, put_data, put_pong};

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
        tokio::join!(
            take_off(socket_reads, far_writes, words),
            put_on(far_reads, socket_writes, heard)
        );
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
        match socket.read_buf(&mut input).await {
            Ok(0) | Err(_) => break NORMAL,
            Ok(_) => {}
        }
    };
    let _said = words.send(Word::Close(status)).await;
    // The connection sees the end of its stream, and ends.
    let _shut = connection.shutdown().await;
}

/// From the connection to the socket, until the connection ends.
async fn put_on<S: AsyncWrite>(
    mut connection: ReadHalf<DuplexStream>,
    mut socket: WriteHalf<S>,
    mut words: mpsc::Receiver<Word>,
) {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let mut status = NORMAL;
    loop {
        // Both are cancel-safe: what was not returned was not taken.
        tokio::select! {
            read = connection.read_buf(&mut input) => match read {
                Ok(0) | Err(_) => break,
                Ok(_) => put_data(&input.split(), &mut output),
            },
            Some(word) = words.recv() => match word {
                Word::Pong(payload) => put_pong(&payload, &mut output),
                Word::Close(code) => status = code,
            },
        }
        if socket.write_all(&output).await.is_err() || socket.flush().await.is_err() {
            return;
        }
        output.clear();
    }
    put_close(status, &mut output);
    // A peer that is gone needs no farewell.
    let _said = socket.write_all(&output).await;
    let _shut = socket.shutdown().await;
}
