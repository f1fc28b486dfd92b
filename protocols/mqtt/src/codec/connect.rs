//! CONNECT (MQTT 5 §3.1, MQTT 3.1.1 §3.1).

use bytes::Bytes;

use super::{
    Fault, Frame, Input, MessageProperties, Qos, Reason, Text, Version,
    property::{self, Context, Value, id},
    publish,
};

/// A client's greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    pub version: Version,
    /// Clean start; before MQTT 5 the session also ends with the connection.
    pub clean: bool,
    pub keep_alive_s: u16,
    pub properties: ConnectProperties,
    /// Empty when the client leaves the choice to us.
    pub client_id: Text,
    pub will: Option<Will>,
    pub username: Option<Text>,
    pub password: Option<Bytes>,
}

/// What MQTT 5 lets a client say about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectProperties {
    pub session_expiry_s: u32,
    /// PUBLISH packets above quality of service 0 it can have unacknowledged.
    pub receive_max: u16,
    pub packet_bytes_max: Option<u32>,
    pub topic_alias_max: u16,
    pub wants_problem_info: bool,
    pub wants_response_info: bool,
    pub auth_method: Option<Text>,
    pub auth_data: Option<Bytes>,
}

impl Default for ConnectProperties {
    fn default() -> Self {
        Self {
            session_expiry_s: 0,
            receive_max: u16::MAX,
            packet_bytes_max: None,
            topic_alias_max: 0,
            wants_problem_info: true,
            wants_response_info: false,
            auth_method: None,
            auth_data: None,
        }
    }
}

/// A message to be published when its client is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    pub qos: Qos,
    pub retain: bool,
    pub topic: Text,
    pub properties: MessageProperties,
    pub payload: Bytes,
    /// All of it as it stood in CONNECT, but for its flags.
    pub raw: Bytes,
}

impl Will {
    /// The connect flags that are the will's.
    #[must_use]
    pub fn flags(&self) -> u8 {
        WILL | (self.qos as u8) << 3 | if self.retain { WILL_RETAIN } else { 0 }
    }
}

const CLEAN: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USERNAME: u8 = 0x80;

/// Reads a connection's first packet. A fault comes with the version to answer in, when the
/// packet told it.
pub fn decode(frame: &Frame) -> Result<Connect, (Option<Version>, Fault)> {
    if frame.first != 0x10 {
        return Err((None, Fault::protocol("[MQTT-3.1.0-1] the first packet is no CONNECT")));
    }
    let mut input = Input::new(frame.body.clone());
    let version = read_version(&mut input)?;
    let connect = read_connect(&mut input, version).map_err(|fault| (Some(version), fault))?;
    input.end().map_err(|fault| (Some(version), fault))?;
    Ok(connect)
}

fn read_version(input: &mut Input) -> Result<Version, (Option<Version>, Fault)> {
    let mut read = || Ok((input.text()?, input.u8()?));
    let (name, level) = read().map_err(|fault| (None, fault))?;
    match (name.as_str(), level) {
        ("MQIsdp", 3) => Ok(Version::V31),
        ("MQTT", 4) => Ok(Version::V311),
        ("MQTT", 5) => Ok(Version::V5),
        ("MQTT" | "MQIsdp", _) => {
            // [MQTT-3.1.2-2]; a level we do not know is answered in the words of its neighbour.
            let near = if level > 5 { Version::V5 } else { Version::V311 };
            let text = "the protocol version is not one of 3.1, 3.1.1 and 5";
            Err((Some(near), Fault::new(Reason::UNSUPPORTED_VERSION, text)))
        }
        _ => Err((None, Fault::malformed("[MQTT-3.1.2-1] the protocol name is not MQTT"))),
    }
}

fn read_connect(input: &mut Input, version: Version) -> Result<Connect, Fault> {
    let flags = input.u8()?;
    check_flags(flags, version)?;
    let keep_alive_s = input.u16()?;
    let properties = match version {
        Version::V5 => read_properties(input)?,
        Version::V31 | Version::V311 => ConnectProperties::default(),
    };
    let client_id = input.text()?;
    let will = if flags & WILL == 0 { None } else { Some(decode_will(input, flags, version)?) };
    let username = if flags & USERNAME == 0 { None } else { Some(input.text()?) };
    let password = if flags & PASSWORD == 0 { None } else { Some(input.binary()?) };
    let clean = flags & CLEAN != 0;
    Ok(Connect { version, clean, keep_alive_s, properties, client_id, will, username, password })
}

fn check_flags(flags: u8, version: Version) -> Result<(), Fault> {
    if flags & 1 != 0 {
        return Err(Fault::malformed("[MQTT-3.1.2-3] the reserved connect flag is set"));
    }
    if flags & WILL == 0 && flags & 0x38 != 0 {
        return Err(Fault::malformed("[MQTT-3.1.2-11] will flags without a will"));
    }
    if flags & 0x18 == 0x18 {
        return Err(Fault::malformed("[MQTT-3.1.2-12] the will has quality of service 3"));
    }
    if version != Version::V5 && flags & (USERNAME | PASSWORD) == PASSWORD {
        return Err(Fault::malformed("[MQTT-3.1.2-22] a password without a user name"));
    }
    Ok(())
}

fn read_properties(input: &mut Input) -> Result<ConnectProperties, Fault> {
    let mut properties = ConnectProperties::default();
    property::read_block(input, Context::Connect, |id, value, _| {
        match (id, value) {
            (id::SESSION_EXPIRY, Value::Long(seconds)) => properties.session_expiry_s = seconds,
            (id::RECEIVE_MAX, Value::Short(max)) => properties.receive_max = max,
            (id::PACKET_MAX, Value::Long(max)) => properties.packet_bytes_max = Some(max),
            (id::TOPIC_ALIAS_MAX, Value::Short(max)) => properties.topic_alias_max = max,
            (id::REQUEST_PROBLEM_INFO, Value::Byte(wanted)) => {
                properties.wants_problem_info = wanted == 1;
            }
            (id::REQUEST_RESPONSE_INFO, Value::Byte(wanted)) => {
                properties.wants_response_info = wanted == 1;
            }
            (id::AUTH_METHOD, Value::Text(method)) => properties.auth_method = Some(method),
            (id::AUTH_DATA, Value::Binary(data)) => properties.auth_data = Some(data),
            _ => {}
        }
        Ok(())
    })?;
    if properties.auth_data.is_some() && properties.auth_method.is_none() {
        return Err(Fault::protocol("authentication data without a method"));
    }
    Ok(properties)
}

/// Reads a will's part of CONNECT, as its flags say.
pub fn decode_will(input: &mut Input, flags: u8, version: Version) -> Result<Will, Fault> {
    let mut from = input.clone();
    let properties = match version {
        Version::V5 => publish::read_properties(input, Context::Will)?,
        Version::V31 | Version::V311 => MessageProperties::default(),
    };
    let topic = input.text()?;
    if topic.is_empty() {
        return Err(Fault::malformed("[MQTT-4.7.3-1] the will's topic is empty"));
    }
    if property::has_wildcard(&topic) {
        return Err(Fault::malformed("[MQTT-4.7.1-1] the will's topic has a wildcard"));
    }
    let payload = input.binary()?;
    let qos = Qos::from_bits(flags >> 3 & 0x03)
        .ok_or(Fault::malformed("[MQTT-3.1.2-12] the will has quality of service 3"))?;
    let len = from.len() - input.len();
    let raw = from.take(len)?;
    Ok(Will { qos, retain: flags & WILL_RETAIN != 0, topic, properties, payload, raw })
}
