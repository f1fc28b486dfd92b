//! `mainstem pub` and `mainstem sub`: messages out and in by hand, over every protocol.

mod amqp;
mod http;
mod mqtt;
mod options;
mod rocketmq;

use std::{
    io::{self, IsTerminal, Read, Write},
    time::Duration,
};

use serde_json::{Value as Json, json};

use crate::{Config, terminal};
use options::Proto;
pub use options::{Direction, HELP, Options};

/// `sysexits.h`: what was said cannot be meant, nobody answers, the server refuses, too few came in time.
const NO_INPUT: u8 = 66;
const UNAVAILABLE: u8 = 69;
const REFUSED: u8 = 70;
const TOO_FEW: u8 = 75;

/// Why it ended early.
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// Nobody answers, or not to us.
    fn unavailable(error: impl std::fmt::Display) -> Self {
        Self { code: UNAVAILABLE, text: format!("cannot connect: {error}") }
    }

    fn refused(error: impl std::fmt::Display) -> Self {
        Self { code: REFUSED, text: error.to_string() }
    }
}

/// A message that came.
struct Received {
    /// The topic or the routing key.
    name: String,
    /// What stood beside it, as the protocol has it.
    properties: Json,
    body: Vec<u8>,
}

/// A client of one protocol.
enum Client {
    Amqp(amqp::Client),
    Mqtt(Box<mqtt::Client>),
    Rocketmq(rocketmq::Client),
    Http(http::Client),
}

impl Client {
    async fn connect(options: &Options, config: &Config) -> Result<Self, Failure> {
        Ok(match options.proto {
            Proto::Amqp => Self::Amqp(amqp::Client::connect(options, config).await?),
            Proto::Mqtt => Self::Mqtt(Box::new(mqtt::Client::connect(options, config).await?)),
            Proto::Rocketmq => Self::Rocketmq(rocketmq::Client::connect(options, config).await?),
            Proto::Http => Self::Http(http::Client::new(options, config)?),
        })
    }

    /// Returns when the server has confirmed it.
    async fn publish(&mut self, options: &Options, body: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Amqp(client) => client.publish(options, body).await,
            Self::Mqtt(client) => client.publish(options, body).await,
            Self::Rocketmq(client) => client.publish(options, body).await,
            Self::Http(client) => client.publish(options, body).await,
        }
    }

    async fn subscribe(&mut self, options: &Options) -> Result<(), Failure> {
        match self {
            Self::Amqp(client) => client.subscribe(options).await,
            Self::Mqtt(client) => client.subscribe(options).await,
            // They ask for each message.
            Self::Rocketmq(_) | Self::Http(_) => Ok(()),
        }
    }

    /// Waits for the next message, which is settled by then.
    async fn next(&mut self, options: &Options) -> Result<Received, Failure> {
        match self {
            Self::Amqp(client) => client.next().await,
            Self::Mqtt(client) => client.next().await,
            Self::Rocketmq(client) => client.next().await,
            Self::Http(client) => client.next(options).await,
        }
    }

    async fn close(self) {
        match self {
            Self::Amqp(client) => client.close().await,
            Self::Mqtt(client) => client.close().await,
            Self::Rocketmq(_) | Self::Http(_) => {}
        }
    }
}

/// Does it, and answers the exit code.
pub fn run(options: &Options, config: &Config, out: &mut dyn Write) -> u8 {
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&Failure::unavailable(error)),
        };
    let done = runtime.block_on(async {
        match options.direction {
            Direction::Out => publish(options, config).await,
            Direction::In => subscribe(options, config, out).await,
        }
    });
    match done {
        Ok(code) => code,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> u8 {
    let _closed = writeln!(io::stderr(), "mainstem: {}", failure.text);
    failure.code
}

async fn publish(options: &Options, config: &Config) -> Result<u8, Failure> {
    let bodies = bodies(options)?;
    let mut client = Client::connect(options, config).await?;
    let pause = options.rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
    let mut ticks = pause.map(tokio::time::interval);
    for number in 0..options.count.unwrap_or(1) {
        for body in &bodies {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            client.publish(options, body).await.map_err(|failure| Failure {
                text: format!(
                    "{} (after {} were confirmed)",
                    failure.text,
                    number * bodies.len() as u64
                ),
                ..failure
            })?;
        }
    }
    client.close().await;
    Ok(0)
}

/// What is sent: the argument, or what is read, as a whole or by lines.
fn bodies(options: &Options) -> Result<Vec<Vec<u8>>, Failure> {
    if let Some(text) = &options.payload {
        return Ok(vec![text.clone().into_bytes()]);
    }
    let mut read = Vec::new();
    io::stdin().read_to_end(&mut read).map_err(|error| Failure {
        code: NO_INPUT,
        text: format!("cannot read the payload: {error}"),
    })?;
    if !options.by_lines {
        return Ok(vec![read]);
    }
    let lines = read.split(|byte| *byte == b'\n');
    Ok(lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
}

async fn subscribe(options: &Options, config: &Config, out: &mut dyn Write) -> Result<u8, Failure> {
    let mut client = Client::connect(options, config).await?;
    client.subscribe(options).await?;
    let is_screen = io::stdout().is_terminal();
    let mut got = 0;
    while options.count.is_none_or(|count| got < count) {
        let next = client.next(options);
        let received = match options.wait {
            None => next.await?,
            Some(wait) => match tokio::time::timeout(wait, next).await {
                Ok(received) => received?,
                Err(_) if options.count.is_none() => break,
                Err(_) => return Ok(TOO_FEW),
            },
        };
        got += 1;
        // Whoever reads has seen enough.
        if show(&received, options.json, is_screen, out).is_err() {
            break;
        }
    }
    client.close().await;
    Ok(0)
}

/// Writes a message out: whole where a program reads it, and without what commands a terminal on one.
fn show(
    received: &Received,
    is_json: bool,
    is_screen: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let body = &received.body;
    let line = is_json.then(|| {
        json!({
            "name": received.name,
            "properties": received.properties,
            "payload": String::from_utf8_lossy(body),
        })
        .to_string()
    });
    let written = line.as_ref().map_or(&body[..], |line| line.as_bytes());
    if is_screen {
        let text = String::from_utf8_lossy(written);
        out.write_all(terminal::shown_lines(&text).as_bytes())?;
    } else {
        out.write_all(written)?;
    }
    out.write_all(b"\n")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_every_byte_and_a_terminal_no_command() {
        let body = b"a\n\x1b[2J\xff".to_vec();
        let received = Received { name: "t".to_owned(), properties: Json::Null, body };
        let written = |is_json, is_screen| {
            let mut out = Vec::new();
            show(&received, is_json, is_screen, &mut out).unwrap();
            out
        };
        assert_eq!(written(false, false), b"a\n\x1b[2J\xff\n");
        assert_eq!(written(false, true), "a\n\\u{1b}[2J\u{fffd}\n".as_bytes());
        let json: Json = serde_json::from_slice(&written(true, false)).unwrap();
        assert_eq!(json["payload"], "a\n\x1b[2J\u{fffd}");
    }
}
