//! What `pub` and `sub` are told.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use crate::{Config, Protocol, command_line::UsageError, config::Sources};

/// The text of `mainstem pub --help`.
pub const HELP: &str = "\
Usage: mainstem pub NAME [PAYLOAD] [OPTIONS]     sends a message, and ends when it is confirmed
       mainstem sub NAME [OPTIONS]               prints messages, one on a line

NAME is a topic (mqtt, http; sub over mqtt: a filter), a topic of RocketMQ, or of AMQP a queue, or with
--exchange a routing key or pattern. Over http, sub takes from a queue. A payload that is left out is read from
the standard input.

  --proto P         mqtt (the default), amqp, rocketmq, http
  --address A:P     where the server is; else as it is configured, on this machine
  --user U, --password P  for rocketmq the access key and its secret; without them guest over amqp, the operator of
                    this machine over http, else nobody in particular
  --vhost V         amqp, and sub over http: the virtual host
  --exchange X      amqp: publish there; sub: bind a queue of its own there
  --header K=V      a property, as the protocol has them; may be given again
  --tag T           rocketmq
  --key K           rocketmq
  --group G         sub over rocketmq: the consumer group (mainstem-sub)
  --qos N           mqtt: 0, 1 (the default) or 2
  --retain          mqtt
  --count N         pub: send it so often; sub: end after so many
  --rate N          pub: so many in a second at most
  --lines           pub: every line of the standard input is a message
  --wait S          sub: end when none came for so many seconds (with 75, if --count was not reached)
  --json            sub: one JSON object on a line, with the name and the properties
  --config FILE, --set A.B=C   as for serve
";

/// A protocol of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proto {
    Amqp,
    Mqtt,
    Rocketmq,
    Http,
}

/// Which way messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Out,
    In,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) direction: Direction,
    pub(super) name: String,
    pub(super) payload: Option<String>,
    pub(super) proto: Proto,
    pub(super) address: Option<String>,
    pub(super) login: Option<(String, String)>,
    pub(super) vhost: String,
    pub(super) exchange: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) tag: Option<String>,
    pub(super) key: Option<String>,
    pub(super) group: String,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) count: Option<u64>,
    pub(super) rate: Option<f64>,
    pub(super) by_lines: bool,
    pub(super) wait: Option<Duration>,
    pub(super) json: bool,
    pub sources: Sources,
}

impl Options {
    /// Reads what stands behind the command; nothing when its help is asked for.
    pub fn parse(direction: Direction, given: &[String]) -> Result<Option<Self>, UsageError> {
        let mut options = Self::new(direction);
        let (mut user, mut password) = (None, String::new());
        let mut names = Vec::new();
        let mut rest = given.iter();
        while let Some(argument) = rest.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                Some(_) | None => (argument.as_str(), None),
            };
            let mut value = |flag| {
                inline.clone().or_else(|| rest.next().cloned()).ok_or(UsageError::NoValue(flag))
            };
            match name {
                "--help" | "-h" => return Ok(None),
                "--proto" => options.proto = proto(&value("--proto")?)?,
                "--address" => options.address = Some(value("--address")?),
                "--user" => user = Some(value("--user")?),
                "--password" => password = value("--password")?,
                "--vhost" => options.vhost = value("--vhost")?,
                "--exchange" => options.exchange = Some(value("--exchange")?),
                "--header" => options.headers.push(pair(value("--header")?)?),
                "--tag" => options.tag = Some(value("--tag")?),
                "--key" => options.key = Some(value("--key")?),
                "--group" => options.group = value("--group")?,
                "--qos" => options.qos = number("--qos", value("--qos")?, 0, 2)?,
                "--retain" => options.retain = true,
                "--count" => {
                    options.count = Some(number("--count", value("--count")?, 1, u64::MAX)?);
                }
                "--rate" => options.rate = Some(number("--rate", value("--rate")?, 1e-3, 1e9)?),
                "--lines" => options.by_lines = true,
                "--wait" => {
                    let wait = number("--wait", value("--wait")?, 0.0, 1e9)?;
                    options.wait = Some(Duration::from_secs_f64(wait));
                }
                "--json" => options.json = true,
                "--config" => options.sources.file = Some(value("--config")?.into()),
                "--set" => options.sources.sets.push(value("--set")?),
                name if name.starts_with("--") => {
                    return Err(UsageError::Unknown(argument.clone()));
                }
                _ => names.push(argument.clone()),
            }
        }
        options.login = user.map(|user| (user, password));
        let mut names = names.into_iter();
        options.name = names.next().ok_or(UsageError::NoValue("NAME"))?;
        if direction == Direction::Out {
            options.payload = names.next();
        }
        match names.next() {
            Some(odd) => Err(UsageError::Unknown(odd)),
            None => Ok(Some(options)),
        }
    }

    fn new(direction: Direction) -> Self {
        Self {
            direction,
            name: String::new(),
            payload: None,
            proto: Proto::Mqtt,
            address: None,
            login: None,
            vhost: "/".to_owned(),
            exchange: None,
            headers: Vec::new(),
            tag: None,
            key: None,
            group: "mainstem-sub".to_owned(),
            qos: 1,
            retain: false,
            count: None,
            rate: None,
            by_lines: false,
            wait: None,
            json: false,
            sources: Sources::default(),
        }
    }

    /// Host and port.
    pub(super) fn host_and_port(&self, config: &Config) -> Result<(String, u16), String> {
        if let Some(address) = &self.address {
            let parts = address.rsplit_once(':').and_then(|(host, port)| {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Some((host.to_owned(), port.parse().ok()?))
            });
            return parts.ok_or_else(|| format!("'{address}' is no host:port"));
        }
        let protocol = match self.proto {
            Proto::Amqp => Protocol::Amqp,
            Proto::Mqtt => Protocol::Mqtt,
            Proto::Rocketmq => Protocol::Rocketmq,
            Proto::Http => Protocol::Http,
        };
        let bind = protocol.bind(config).ok_or("that protocol is not served")?;
        Ok((reached(bind), bind.port()))
    }
}

/// By which address a listener of this machine is reached.
fn reached(bind: SocketAddr) -> String {
    match (bind.ip().is_unspecified(), bind.is_ipv4()) {
        (true, true) => "127.0.0.1".to_owned(),
        (true, false) => "::1".to_owned(),
        (false, _) => bind.ip().to_string(),
    }
}

fn proto(word: &str) -> Result<Proto, UsageError> {
    match word {
        "amqp" => Ok(Proto::Amqp),
        "mqtt" => Ok(Proto::Mqtt),
        "rocketmq" => Ok(Proto::Rocketmq),
        "http" => Ok(Proto::Http),
        _ => Err(UsageError::Unknown(format!("--proto {word}"))),
    }
}

fn pair(text: String) -> Result<(String, String), UsageError> {
    let parts = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    parts.ok_or_else(|| UsageError::Unknown(format!("--header {text}")))
}

fn number<T: FromStr + PartialOrd>(
    flag: &'static str,
    found: String,
    least: T,
    most: T,
) -> Result<T, UsageError> {
    let read = found.parse().ok().filter(|number| (least..=most).contains(number));
    read.ok_or(UsageError::NoNumber { flag, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(direction: Direction, given: &[&str]) -> Result<Option<Options>, UsageError> {
        let given: Vec<_> = given.iter().map(|text| (*text).to_owned()).collect();
        Options::parse(direction, &given)
    }

    #[test]
    fn options_stand_anywhere() {
        let given =
            ["--proto=amqp", "key", "--header", "a=b=c", "body", "--count", "3", "--user", "u"];
        let options = parse(Direction::Out, &given).unwrap().unwrap();
        assert_eq!((options.proto, options.name.as_str()), (Proto::Amqp, "key"));
        assert_eq!(options.payload.as_deref(), Some("body"));
        assert_eq!(options.headers, [("a".to_owned(), "b=c".to_owned())]);
        assert_eq!(options.count, Some(3));
        assert_eq!(options.login, Some(("u".to_owned(), String::new())));
        let reached = options.host_and_port(&Config::default()).unwrap();
        assert_eq!(reached, ("127.0.0.1".to_owned(), 5672));
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (given, told) in [
            (&["a", "--proto", "stomp"][..], "unknown argument '--proto stomp' (try --help)"),
            (&["a", "b", "c"], "unknown argument 'c' (try --help)"),
            (&[], "NAME needs a value (try --help)"),
            (&["a", "--count", "0"], "--count needs a number, found '0'"),
            (&["a", "--qos", "3"], "--qos needs a number, found '3'"),
            (&["a", "--header", "x"], "unknown argument '--header x' (try --help)"),
        ] {
            assert_eq!(parse(Direction::Out, given).unwrap_err().to_string(), told);
        }
        assert!(parse(Direction::In, &["a", "b"]).is_err());
        assert!(parse(Direction::In, &["--help"]).unwrap().is_none());
    }
}
