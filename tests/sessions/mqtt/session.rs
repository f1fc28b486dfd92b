//! One session, spoken over a socket or a WebSocket.

use std::{io, time::Duration};

use bytes::BytesMut;
use mainstem_tests::Ports;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use super::{
    script::{End, Script, Step, web},
    talk::Talk,
};

const PACKET_TOO_LARGE: u8 = 0x95;

/// How long to listen.
const LISTEN: Duration = Duration::from_millis(5);
/// How long the server may take to read, to answer and to hang up.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to go on speaking to a server that has stopped reading, because we do not.
const DEAF_CLIENT: Duration = Duration::from_millis(300);
/// What a client that did nothing wrong may be told: taken over, quota exceeded, too many messages at
/// once.
const DESERVED: [u8; 3] = [0x8e, 0x97, 0x93];
const DATA: u8 = 2;

/// A session under way.
struct Session {
    stream: TcpStream,
    script: Script,
    talk: Talk,
    /// Of a WebSocket: what is no whole frame yet.
    frames: BytesMut,
    /// Of a WebSocket: the server closed it.
    is_closed: bool,
    /// How the reading ended, if it did.
    ended: Option<io::Result<()>>,
    /// The writing failed: the socket was reset, and what the server said last may be lost.
    is_reset: bool,
}

/// Speaks it to the end. Errors: the server did what it must not.
pub async fn speak(ports: Ports, script: Script, kept: &str) -> Result<Talk, String> {
    let port = if script.is_web { ports.http } else { ports.mqtt };
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
    stream.set_nodelay(true).unwrap();
    let talk = Talk::new(kept, script.is_lazy);
    let frames = BytesMut::new();
    let mut session =
        Session { stream, script, talk, frames, is_closed: false, ended: None, is_reset: false };
    if session.script.is_web {
        session.shake_hands().await?;
    }
    session.follow_script().await?;
    session.part().await?;
    Ok(session.talk)
}

impl Session {
    async fn shake_hands(&mut self) -> Result<(), String> {
        let request =
            b"GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Protocol: mqtt\r\n\r\n";
        let fail = |error: io::Error| format!("no WebSocket: {error}");
        self.stream.write_all(request).await.map_err(fail)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.map_err(fail)?);
        }
        if head.starts_with(b"HTTP/1.1 101 ") { Ok(()) } else { Err("no WebSocket".to_owned()) }
    }

    async fn follow_script(&mut self) -> Result<(), String> {
        for step in std::mem::take(&mut self.script.steps) {
            if self.ended.is_some() {
                return Ok(());
            }
            match step {
                Step::Say(bytes) => {
                    self.talk.say(&bytes);
                    if !self.send(bytes).await? {
                        return Ok(());
                    }
                }
                Step::Frame(frame) => {
                    self.talk.is_scrambled = true;
                    self.write(&frame).await?;
                }
                Step::Listen => self.listen(LISTEN).await?,
                Step::Await => self.wait().await?,
            }
        }
        Ok(())
    }

    /// Waits until everything is answered, if that may be expected.
    async fn wait(&mut self) -> Result<(), String> {
        let Script { is_damaged, is_deaf, is_contested, .. } = self.script;
        let give_up = time::Instant::now() + if is_damaged { 4 * LISTEN } else { PATIENCE };
        while self.ended.is_none() && !is_deaf && !self.talk.is_answered() {
            if time::Instant::now() > give_up {
                let owed = self.talk.unanswered();
                let may = is_damaged || is_contested;
                return if may { Ok(()) } else { Err(format!("not answered: {owed}")) };
            }
            self.listen(LISTEN).await?;
        }
        Ok(())
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<bool, String> {
        let bytes = if self.script.is_web { web(DATA, &bytes) } else { bytes };
        let goes_on = self.write(&bytes).await?;
        if !self.script.is_deaf {
            self.reply().await;
        }
        Ok(goes_on)
    }

    /// Writes while listening. Tells whether to go on.
    async fn write(&mut self, bytes: &[u8]) -> Result<bool, String> {
        let is_deaf = self.script.is_deaf;
        let patience = if is_deaf { DEAF_CLIENT } else { PATIENCE };
        let mut deadline = Box::pin(time::sleep(patience));
        let mut written = 0;
        let mut heard = BytesMut::with_capacity(64 << 10);
        while written < bytes.len() {
            let (mut reader, mut writer) = self.stream.split();
            tokio::select! {
                wrote = writer.write(&bytes[written..]) => match wrote {
                    Ok(count) => written += count,
                    // It has hung up. What it said before may still be there.
                    Err(_) => {
                        self.is_reset = true;
                        break;
                    }
                },
                read = reader.read_buf(&mut heard), if !is_deaf && self.ended.is_none() => {
                    self.take(read, &mut heard)?;
                    deadline.as_mut().reset(time::Instant::now() + patience);
                }
                () = &mut deadline => {
                    // Those who acknowledge nothing get no more room.
                    let may = is_deaf || self.script.is_lazy || self.script.is_damaged;
                    return if may { Ok(false) } else { Err("it does not read".to_owned()) };
                }
            }
        }
        Ok(true)
    }

    /// Hears what comes within this time.
    async fn listen(&mut self, patience: Duration) -> Result<(), String> {
        let mut heard = BytesMut::with_capacity(64 << 10);
        let end = time::Instant::now() + patience;
        while self.ended.is_none() && !self.script.is_deaf {
            match time::timeout_at(end, self.stream.read_buf(&mut heard)).await {
                Ok(read) => self.take(read, &mut heard)?,
                Err(_) => break,
            }
            self.reply().await;
        }
        Ok(())
    }

    fn take(&mut self, read: io::Result<usize>, heard: &mut BytesMut) -> Result<(), String> {
        match read {
            Ok(0) => self.ended = Some(Ok(())),
            Ok(_) if self.script.is_web => {
                self.frames.extend_from_slice(heard);
                self.unwrap_frames()?;
            }
            Ok(_) => self.talk.hear(heard)?,
            Err(error) => self.ended = Some(Err(error)),
        }
        heard.clear();
        Ok(())
    }

    fn unwrap_frames(&mut self) -> Result<(), String> {
        while let &[first, length, ref rest @ ..] = &*self.frames {
            let (head, length) = match (length, rest.first_chunk(), rest.first_chunk()) {
                (126, Some(length), _) => (4, usize::from(u16::from_be_bytes(*length))),
                (127, _, Some(length)) => {
                    (10, usize::try_from(u64::from_be_bytes(*length)).unwrap())
                }
                (126 | 127, ..) => return Ok(()),
                (128.., ..) => return Err("the server masks its frames".to_owned()),
                (length, ..) => (2, usize::from(length)),
            };
            if self.frames.len() < head + length {
                return Ok(());
            }
            let data = self.frames.split_to(head + length).split_off(head);
            match first {
                _ if self.is_closed => return Err("a frame after the close".to_owned()),
                0x82 => self.talk.hear(&data)?,
                0x8a => {}
                0x88 => self.is_closed = true,
                _ => return Err(format!("a frame with {first:#x}")),
            }
        }
        Ok(())
    }

    /// Answers what wants an answer. What the server does not take any more it does not want.
    async fn reply(&mut self) {
        let may_reply = self.talk.is_between_packets() || self.script.is_damaged;
        if !may_reply || self.talk.replies.is_empty() {
            return;
        }
        let replies = std::mem::take(&mut self.talk.replies);
        self.talk.say(&replies);
        let bytes = if self.script.is_web { web(DATA, &replies) } else { replies };
        let written = time::timeout(DEAF_CLIENT, self.stream.write_all(&bytes)).await;
        self.is_reset |= matches!(written, Ok(Err(_)));
    }

    /// Ends it as the script wants, and looks how the server does.
    async fn part(&mut self) -> Result<(), String> {
        let Script { end, is_damaged, is_deaf, is_contested, is_lazy, .. } = self.script;
        if end == End::Vanish || is_deaf {
            return Ok(());
        }
        let is_cut = is_damaged || end == End::HalfClose || is_lazy;
        if is_cut {
            // It may still wait for the rest of a packet.
            self.listen(4 * LISTEN).await?;
        }
        // What it said by itself it said before it knew that nothing more comes.
        let ended_itself = self.ended.is_some();
        if is_cut {
            let _gone = self.stream.shutdown().await;
        }
        self.listen(PATIENCE).await?;
        match &self.ended {
            None => return Err(format!("{PATIENCE:?} after the last word it has not hung up")),
            Some(Err(_)) => return Ok(()),
            Some(Ok(())) if self.is_reset && (is_damaged || self.talk.takes_little()) => {
                return Ok(());
            }
            Some(Ok(())) => {}
        }
        if self.script.is_web && !self.is_closed && !is_damaged {
            return Err("the WebSocket ended without a close".to_owned());
        }
        match self.talk.goodbye {
            // An answer to much may be over the maximum packet size that the client asked for.
            Some(PACKET_TOO_LARGE) if self.talk.takes_little() => Ok(()),
            Some(reason) if !is_damaged && !DESERVED.contains(&reason) => {
                Err(format!("nothing was wrong, and it ends with {reason:#x}"))
            }
            Some(_) => Ok(()),
            None if ended_itself && self.talk.is_told_why() && !self.script.is_web => {
                Err(format!("it hung up without a word: {}", self.talk.half_heard()))
            }
            None if is_cut || self.talk.has_left => Ok(()),
            None if is_contested => Ok(()),
            None => Err("it hung up, and nothing was wrong".to_owned()),
        }
    }
}
