//! From the protocol header to an open connection: who, how, where.

use bytes::Bytes;
use mainstem_broker::LoginError;
use mainstem_schemas::{Secret, Table, Value, value::find};

use super::{Capabilities, Code, Effect, Effects, Fault, Phase, Session};
use crate::{
    codec::{Method, Reply, cursor::Cursor, table},
    limits::Limits,
};

/// RabbitMQ 3.x takes no smaller one.
const FRAME_MIN: u32 = 4096;

/// What RabbitMQ can do and we can too, by its own names.
const CAPABILITIES: [&str; 9] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

/// connection.start
pub(super) fn start(limits: &Limits, is_certified: bool) -> Reply {
    let text = |text: &str| Value::Text(text.to_owned());
    let capabilities =
        CAPABILITIES.iter().map(|name| ((*name).to_owned(), Value::Bool(true))).collect();
    let server_properties: Table = [
        ("capabilities", Value::Table(capabilities)),
        ("cluster_name", text(&limits.cluster_name)),
        // Clients choose their behaviour by product and version.
        ("product", text(&limits.server_product)),
        ("version", text(&limits.server_version)),
        ("platform", text("Mainstem")),
        ("information", text("one commit log for AMQP, MQTT and RocketMQ")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let mut mechanisms = "PLAIN AMQPLAIN".to_owned();
    if is_certified {
        mechanisms.push_str(" EXTERNAL");
    }
    if limits.anonymous_mechanism {
        mechanisms.push_str(" ANONYMOUS");
    }
    Reply::Start { server_properties, mechanisms, locales: "en_US" }
}

impl Session {
    pub(super) fn handle_handshake(
        &mut self,
        channel: u16,
        method: Method,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        match (self.phase, method) {
            (Phase::Starting, Method::StartOk { client_properties, mechanism, response })
                if channel == 0 =>
            {
                self.start_ok(&client_properties, &mechanism, &response, effects)
            }
            (Phase::Tuning, Method::TuneOk { channel_max, frame_max, heartbeat })
                if channel == 0 =>
            {
                self.tune_ok(channel_max, frame_max, heartbeat)
            }
            (Phase::Opening, Method::Open { vhost }) if channel == 0 => {
                self.phase = Phase::Entering;
                let vhost = String::from_utf8_lossy(&vhost).into_owned();
                effects.push_back(Effect::Enter { vhost });
                Ok(())
            }
            (phase, other) => {
                let (class, method) = other.id();
                let state = match phase {
                    Phase::Starting | Phase::Verifying => "starting",
                    Phase::Tuning => "tuning",
                    _ => "opening",
                };
                let text =
                    format!("unexpected method {class}.{method} in connection state {state}");
                Err(Fault::new(Code::ChannelError, text))
            }
        }
    }

    fn start_ok(
        &mut self,
        client_properties: &Bytes,
        mechanism: &[u8],
        response: &Bytes,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let properties = table::parse(client_properties)
            .map_err(|_| Fault::malformed("the table of client properties"))?;
        self.capabilities = Capabilities::read(&properties);
        self.client_properties = properties;
        let login = match mechanism {
            b"PLAIN" => {
                self.mechanism = "PLAIN";
                plain(response)
            }
            b"AMQPLAIN" => {
                self.mechanism = "AMQPLAIN";
                amqplain(response)
            }
            b"EXTERNAL" if self.certified.is_some() => {
                self.mechanism = "EXTERNAL";
                self.certified.clone().map(|user| Secret::Certificate { user })
            }
            b"ANONYMOUS" if self.limits.anonymous_mechanism => {
                self.mechanism = "ANONYMOUS";
                Some(Secret::Anonymous)
            }
            // An unknown mechanism is not worth an answer.
            _ => {
                self.hang_up(self.limits.login_refused_delay_ms, effects);
                return Ok(());
            }
        };
        self.phase = Phase::Verifying;
        match login {
            Some(secret) => {
                if let Secret::Password { user, .. } | Secret::Certificate { user } = &secret {
                    self.user.clone_from(user);
                }
                effects.push_back(Effect::Login(secret));
            }
            None => self.refuse_login(effects),
        }
        Ok(())
    }

    /// What came of [`Effect::Login`].
    pub fn logged_in(&mut self, outcome: Result<(), LoginError>, effects: &mut Effects) {
        match outcome {
            // Which namespace it wants, the client says later.
            Ok(()) | Err(LoginError::NoNamespace | LoginError::NoAccess) => {
                self.phase = Phase::Tuning;
                let reply = Reply::Tune {
                    channel_max: self.limits.channel_max,
                    frame_max: self.limits.frame_max_bytes,
                    heartbeat: self.limits.heartbeat_s,
                };
                effects.push_back(Effect::Write { channel: 0, reply });
            }
            Err(LoginError::BadCredentials | LoginError::LoopbackOnly | LoginError::Busy) => {
                self.refuse_login(effects);
            }
            Err(LoginError::Closed) => self.hang_up(0, effects),
        }
    }

    /// With the capability the client is told; without it the socket just closes, after a while.
    fn refuse_login(&mut self, effects: &mut Effects) {
        if !self.capabilities.authentication_failure_close {
            self.hang_up(self.limits.login_refused_delay_ms, effects);
            return;
        }
        let text = format!(
            "Login was refused using authentication mechanism {}. For details see the broker \
             logfile.",
            self.mechanism
        );
        self.fail(0, &Fault::new(Code::AccessRefused, text), (0, 0), effects);
    }

    /// High values are refused, and 0 ("no limit") counts as high; low ones are taken.
    fn tune_ok(&mut self, channel_max: u16, frame_max: u32, heartbeat: u16) -> Result<(), Fault> {
        let limits = &self.limits;
        if channel_max == 0 || channel_max > limits.channel_max {
            return Err(too_high("channel_max", channel_max.into(), limits.channel_max.into()));
        }
        if frame_max == 0 || frame_max > limits.frame_max_bytes {
            return Err(too_high("frame_max", frame_max, limits.frame_max_bytes));
        }
        if frame_max < FRAME_MIN {
            let text = format!(
                "negotiated frame_max = {frame_max} is lower than the minimum allowed value \
                 ({FRAME_MIN})"
            );
            return Err(Fault::new(Code::NotAllowed, text));
        }
        self.channel_max = channel_max;
        self.frame_max = frame_max as usize;
        self.heartbeat_s = heartbeat;
        self.phase = Phase::Opening;
        Ok(())
    }

    /// What came of [`Effect::Enter`].
    pub fn entered(
        &mut self,
        vhost: String,
        outcome: Result<(), LoginError>,
        effects: &mut Effects,
    ) {
        let text = match outcome {
            Ok(()) => {
                self.vhost = vhost;
                self.phase = Phase::Running;
                effects.push_back(Effect::Write { channel: 0, reply: Reply::OpenOk });
                return;
            }
            Err(LoginError::NoNamespace) => format!("vhost {vhost} not found"),
            Err(
                LoginError::BadCredentials
                | LoginError::LoopbackOnly
                | LoginError::NoAccess
                | LoginError::Busy,
            ) => {
                format!("access to vhost '{vhost}' refused for user '{}'", self.user)
            }
            Err(LoginError::Closed) => return self.shut_down(effects),
        };
        self.fail(0, &Fault::new(Code::NotAllowed, text), (10, 40), effects);
    }
}

fn too_high(field: &str, value: u32, max: u32) -> Fault {
    let detail = if value == 0 { " (no limit)" } else { "" };
    let text = format!(
        "negotiated {field} = {value}{detail} is higher than the maximum allowed value ({max})"
    );
    Fault::new(Code::NotAllowed, text)
}

impl Capabilities {
    fn read(client_properties: &Table) -> Self {
        let has = |wanted: &str| match find(client_properties, "capabilities") {
            Some(Value::Table(all)) => find(all, wanted) == Some(&Value::Bool(true)),
            _ => false,
        };
        Self {
            authentication_failure_close: has("authentication_failure_close"),
            consumer_cancel_notify: has("consumer_cancel_notify"),
            connection_blocked: has("connection.blocked"),
        }
    }
}

/// RFC 4616: authorization id, NUL, name, NUL, password.
fn plain(response: &[u8]) -> Option<Secret> {
    let mut parts = response.splitn(3, |byte| *byte == 0);
    let (_authorize, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    let user = String::from_utf8(user.to_vec()).ok()?;
    Some(Secret::Password { user, password: password.to_vec() })
}

/// RabbitMQ's own: a table's entries LOGIN and PASSWORD, without the length in front.
fn amqplain(response: &Bytes) -> Option<Secret> {
    // Some clients leave the length in; its first byte is then no name's length that fits.
    let mut cursor = Cursor::new(response);
    let inner = match cursor.long_string() {
        Ok(inner) if cursor.is_empty() => inner,
        Ok(_) | Err(_) => response,
    };
    let find = |wanted: &[u8]| {
        let mut entries = table::entries(inner);
        entries.find(|entry| entry.name == wanted && entry.tag == b'S').map(|entry| entry.content)
    };
    let user = String::from_utf8(find(b"LOGIN")?.to_vec()).ok()?;
    Some(Secret::Password { user, password: find(b"PASSWORD")?.to_vec() })
}
