//! One session, spoken over a socket.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use super::{
    ledger::Ledger,
    script::{End, METHOD, Script, Step, frame, method},
    speech::{Goodbye, Speech},
};

/// How long to listen.
const LISTEN: Duration = Duration::from_millis(5);
/// How long the server may not read, though we do.
const DEAF_SERVER: Duration = Duration::from_secs(20);
/// How long to go on speaking to a server that has stopped reading, because we do not.
const DEAF_CLIENT: Duration = Duration::from_millis(300);
/// How long the server may take to end a connection that is to end.
const END: Duration = Duration::from_secs(20);

/// A session under way.
struct Session {
    stream: TcpStream,
    script: Script,
    ledger: Ledger,
    speech: Speech,
    /// How the reading ended, if it did.
    ended: Option<io::Result<()>>,
}

/// What is left of a session.
pub struct Spoken {
    pub ledger: Ledger,
    pub speech: Speech,
    pub is_damaged: bool,
}

/// Speaks it to the end. Errors: the server did what it must not.
pub async fn speak(port: u16, script: Script, kept: &str) -> Result<Spoken, String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
    stream.set_nodelay(true).unwrap();
    let (ledger, speech) = (Ledger::new(kept), Speech::default());
    let mut session = Session { stream, script, ledger, speech, ended: None };
    session.follow_script().await?;
    session.part().await?;
    let Session { script, ledger, speech, .. } = session;
    Ok(Spoken { ledger, speech, is_damaged: script.is_damaged })
}

impl Session {
    async fn follow_script(&mut self) -> Result<(), String> {
        for step in std::mem::take(&mut self.script.steps) {
            if self.ended.is_some() {
                return Ok(());
            }
            match step {
                Step::Say(bytes) => {
                    if !self.say(&bytes).await? {
                        return Ok(());
                    }
                }
                Step::Settle { channel, method: id, bits } => {
                    if let Some(tag) = self.speech.settle(channel) {
                        let settle = method(60, id).u64(tag).u8(bits);
                        self.say(&frame(METHOD, channel, &settle.0)).await?;
                    }
                }
                Step::Reopen { channel } => self.reopen(channel).await?,
                Step::Listen => self.listen(LISTEN).await?,
            }
        }
        Ok(())
    }

    async fn reopen(&mut self, channel: u16) -> Result<(), String> {
        if self.script.is_deaf || !self.speech.reopen(channel) {
            return Ok(());
        }
        let close = method(20, 40).u16(200).short(b"").u32(0);
        self.say(&frame(METHOD, channel, &close.0)).await?;
        let give_up = time::Instant::now() + DEAF_SERVER;
        while self.speech.is_reopening(channel) && self.ended.is_none() {
            if self.script.is_damaged || time::Instant::now() > give_up {
                break;
            }
            self.listen(LISTEN).await?;
        }
        Ok(())
    }

    /// Says something while listening. Tells whether to go on.
    async fn say(&mut self, bytes: &[u8]) -> Result<bool, String> {
        self.ledger.say(bytes);
        let is_deaf = self.script.is_deaf;
        let patience = if is_deaf { DEAF_CLIENT } else { DEAF_SERVER };
        let mut deadline = Box::pin(time::sleep(patience));
        let mut written = 0;
        let mut heard = BytesMut::with_capacity(64 << 10);
        while written < bytes.len() {
            let (mut reader, mut writer) = self.stream.split();
            tokio::select! {
                wrote = writer.write(&bytes[written..]) => match wrote {
                    Ok(count) => written += count,
                    // It has hung up. What it said before may still be there.
                    Err(_) => break,
                },
                read = reader.read_buf(&mut heard), if !is_deaf && self.ended.is_none() => {
                    self.take(read, &mut heard)?;
                    deadline.as_mut().reset(time::Instant::now() + patience);
                }
                () = &mut deadline => match is_deaf {
                    true => return Ok(false),
                    false => return Err(format!("it does not read for {patience:?}")),
                },
            }
        }
        if !is_deaf {
            self.reply().await;
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
            Ok(_) => self.speech.hear(heard, &mut self.ledger)?,
            Err(error) => self.ended = Some(Err(error)),
        }
        heard.clear();
        Ok(())
    }

    /// Answers what wants an answer. What the server does not take any more it does not want.
    async fn reply(&mut self) {
        let may_reply = self.ledger.is_between_contents() || self.script.is_damaged;
        if may_reply && !self.speech.replies.is_empty() {
            let replies = std::mem::take(&mut self.speech.replies);
            self.ledger.say(&replies);
            let _gone = time::timeout(DEAF_CLIENT, self.stream.write_all(&replies)).await;
        }
    }

    /// Ends it as the script wants, and looks how the server does.
    async fn part(&mut self) -> Result<(), String> {
        let Script { end, is_damaged, is_deaf, .. } = self.script;
        if end == End::Vanish || is_deaf {
            return Ok(());
        }
        let is_cut = is_damaged || end == End::HalfClose;
        if is_cut {
            // It may still wait for the rest of a frame.
            self.listen(4 * LISTEN).await?;
        }
        // What it did by itself it did before it could know that nothing more comes.
        let ended_itself = self.ended.is_some();
        if is_cut {
            let _gone = self.stream.shutdown().await;
        }
        self.listen(END).await?;
        match &self.ended {
            None => return Err(format!("{END:?} after the last word it has not hung up")),
            // What it said last may be lost.
            Some(Err(_)) => return Ok(()),
            Some(Ok(())) => {}
        }
        let may_hang_up = self.ledger.may_hang_up || is_cut && !ended_itself;
        match &self.speech.goodbye {
            Some(Goodbye::CloseOk) if !is_damaged => self.speech.is_complete(&self.ledger),
            Some(Goodbye::CloseOk | Goodbye::Protocol) => Ok(()),
            Some(Goodbye::Close(code, text)) if !is_damaged && !DESERVED.contains(code) => {
                Err(format!("nothing was wrong, and it closes with {code}: {text}"))
            }
            Some(Goodbye::Close(..)) => Ok(()),
            None if may_hang_up => Ok(()),
            None => Err("it hung up without a word".to_owned()),
        }
    }
}

/// What a session that is well-formed may be closed with: not allowed, not implemented, a limit.
const DESERVED: [u16; 3] = [530, 540, 506];
