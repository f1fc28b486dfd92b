//! A blocking AMQP connection with one channel, as far as a benchmark needs one.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use super::frame::{self, Frame, Method};
use crate::{
    intake::{Intake, is_idle},
    load::refused,
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Connection {
    stream: TcpStream,
    intake: Intake,
}

impl Connection {
    /// Logs in as guest to the default virtual host and opens the channel.
    pub(super) fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut connection = Self { stream, intake: Intake::default() };
        connection.stream.write_all(b"AMQP\0\0\x09\x01")?;
        connection.expect(frame::START)?;
        let login = [
            &[0; 4],
            &*frame::short("PLAIN"),
            &*frame::long("\0guest\0guest"),
            &*frame::short("en_US"),
        ]
        .concat();
        connection.say(0, frame::START_OK, &login)?;
        let tune = connection.expect(frame::TUNE)?;
        // The server's own limits, and no heartbeats: runs are short.
        let limits = tune.get(..6).ok_or_else(|| refused("tune without limits"))?;
        connection.say(0, frame::TUNE_OK, &[limits, &[0, 0]].concat())?;
        connection.say(0, frame::OPEN, &[&*frame::short("/"), &[0, 0]].concat())?;
        connection.expect(frame::OPEN_OK)?;
        connection.call(frame::CHANNEL_OPEN, &[0], frame::CHANNEL_OPEN_OK)?;
        Ok(connection)
    }

    pub(super) fn call(
        &mut self,
        method: Method,
        arguments: &[u8],
        answer: Method,
    ) -> io::Result<()> {
        self.ask(method, arguments, answer).map(drop)
    }

    /// The arguments of the answer.
    pub(super) fn ask(
        &mut self,
        method: Method,
        arguments: &[u8],
        answer: Method,
    ) -> io::Result<Vec<u8>> {
        self.say(frame::CHANNEL, method, arguments)?;
        self.expect(answer)
    }

    /// Publishes by the default exchange.
    pub(super) fn publish(
        &mut self,
        queue: &str,
        mode: u8,
        reply_to: Option<&str>,
        body: &[u8],
    ) -> io::Result<()> {
        let mut out = Vec::new();
        let arguments = [&[0, 0][..], &frame::short(""), &frame::short(queue), &[0]].concat();
        frame::method(&mut out, frame::CHANNEL, frame::PUBLISH, &arguments);
        frame::content(&mut out, mode, reply_to, body);
        self.stream.write_all(&out)
    }

    /// Waits for a delivery, whose body that is.
    pub(super) fn body(&mut self) -> io::Result<Vec<u8>> {
        let mut found = None;
        while found.is_none() {
            self.take(&mut |frame| {
                if let Frame::Body(body) = frame {
                    found = Some(body.to_vec());
                }
            })?;
        }
        Ok(found.unwrap_or_default())
    }

    /// How long [`Connection::take`] waits for something to come.
    pub(super) fn wait_at_most(&mut self, time: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(time))
    }

    /// Reads once, and shows every whole frame.
    pub(super) fn take(&mut self, each: &mut dyn FnMut(Frame<'_>)) -> io::Result<()> {
        if frame::first(self.intake.bytes())?.is_none() {
            match self.intake.fill(&mut self.stream) {
                Err(error) if is_idle(&error) => return Ok(()),
                filled => filled?,
            };
        }
        while let Some((frame, length)) = frame::first(self.intake.bytes())? {
            if let Frame::Method(frame::CLOSE | frame::CHANNEL_CLOSE, arguments) = frame {
                let (text, _) = frame::split_short(arguments.get(2..).unwrap_or_default());
                return Err(refused(&String::from_utf8_lossy(text)));
            }
            each(frame);
            self.intake.consume(length);
        }
        Ok(())
    }

    /// Leaves, and waits for the server to say so too.
    pub(super) fn close(mut self) -> io::Result<()> {
        self.say(0, frame::CLOSE, &[&[0, 200][..], &frame::short("bye"), &[0; 4]].concat())?;
        self.expect(frame::CLOSE_OK).map(drop)
    }

    pub(super) fn into_parts(self) -> (TcpStream, Intake) {
        (self.stream, self.intake)
    }

    fn say(&mut self, channel: u16, method: Method, arguments: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        frame::method(&mut out, channel, method, arguments);
        self.stream.write_all(&out)
    }

    /// The arguments of the answer; what comes before it and is no refusal is passed over.
    fn expect(&mut self, wanted: Method) -> io::Result<Vec<u8>> {
        loop {
            while let Some((frame, length)) = frame::first(self.intake.bytes())? {
                let answer = match frame {
                    Frame::Method(method, arguments) if method == wanted => {
                        Some(Ok(arguments.to_vec()))
                    }
                    Frame::Method(frame::CLOSE | frame::CHANNEL_CLOSE, arguments) => {
                        let (text, _) = frame::split_short(arguments.get(2..).unwrap_or_default());
                        Some(Err(refused(&String::from_utf8_lossy(text))))
                    }
                    Frame::Method(..) | Frame::Header(_) | Frame::Body(_) | Frame::Other => None,
                };
                self.intake.consume(length);
                if let Some(answer) = answer {
                    return answer;
                }
            }
            self.intake.fill(&mut self.stream)?;
        }
    }
}
