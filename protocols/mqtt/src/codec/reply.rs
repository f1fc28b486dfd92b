//! What the server sends besides PUBLISH.

use bytes::{BufMut, BytesMut};

use super::{
    Reason, Version,
    output::{put_binary, put_varint, varint_len},
    property::id,
    publish::TooLarge,
};

/// A packet to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    PubAck {
        packet_id: u16,
        reason: Reason,
        text: Option<String>,
    },
    PubRec {
        packet_id: u16,
        reason: Reason,
        text: Option<String>,
    },
    PubRel {
        packet_id: u16,
        reason: Reason,
    },
    PubComp {
        packet_id: u16,
        reason: Reason,
    },
    SubAck {
        packet_id: u16,
        codes: Vec<Reason>,
    },
    UnsubAck {
        packet_id: u16,
        codes: Vec<Reason>,
    },
    PingResp,
    Disconnect {
        reason: Reason,
        text: Option<String>,
    },
    /// A step of the exchange of this method.
    Auth {
        reason: Reason,
        method: &'static str,
        data: String,
    },
}

/// The answer to a CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAck {
    pub session_present: bool,
    /// `None` for a connection accepted.
    pub refusal: Option<Reason>,
    pub text: Option<&'static str>,
    pub session_expiry_s: Option<u32>,
    pub receive_max: Option<u16>,
    pub packet_bytes_max: Option<u32>,
    pub assigned_client_id: Option<String>,
    pub topic_alias_max: u16,
    pub server_keep_alive_s: Option<u16>,
    /// The beginning of topics that are this client's for answers.
    pub response_info: Option<String>,
    /// The method by which the client proved who it is, and the server's own proof.
    pub auth: Option<(&'static str, String)>,
}

/// What a client wants to hear, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ears {
    pub version: Version,
    /// Its maximum packet size.
    pub packet_bytes_max: usize,
    /// Whether reason strings may go with other packets than CONNACK and DISCONNECT
    /// ([MQTT-3.1.2-29]).
    pub wants_problem_info: bool,
}

impl Reply {
    /// Appends the packet. Before MQTT 5 some have no form and write nothing.
    pub fn encode(&self, ears: &Ears, out: &mut BytesMut) {
        let v5 = ears.version == Version::V5;
        match self {
            Self::PubAck { packet_id, reason, text } => {
                put_ack(0x40, *packet_id, *reason, text.as_deref(), ears, out);
            }
            Self::PubRec { packet_id, reason, text } => {
                put_ack(0x50, *packet_id, *reason, text.as_deref(), ears, out);
            }
            Self::PubRel { packet_id, reason } => {
                put_ack(0x62, *packet_id, *reason, None, ears, out);
            }
            Self::PubComp { packet_id, reason } => {
                put_ack(0x70, *packet_id, *reason, None, ears, out);
            }
            Self::SubAck { packet_id, codes } => {
                let words = codes.iter().map(|code| match code {
                    // [MQTT-3.9.3-2]: before MQTT 5 there is one word for every failure.
                    code if code.is_failure() && !v5 => Reason::UNSPECIFIED.0,
                    code => code.0,
                });
                put_codes(0x90, *packet_id, words.collect(), v5, out);
            }
            Self::UnsubAck { packet_id, codes } => {
                let words = codes.iter().filter(|_| v5).map(|code| code.0);
                put_codes(0xb0, *packet_id, words.collect(), v5, out);
            }
            Self::PingResp => out.put_slice(&[0xd0, 0]),
            Self::Disconnect { reason, text } if v5 => {
                put_disconnect(*reason, text.as_deref(), ears, out);
            }
            Self::Disconnect { .. } => {}
            Self::Auth { reason, method, data } => put_auth(*reason, method, data, ears, out),
        }
    }
}

/// Nothing at all if it is over the client's maximum packet size.
fn put_auth(reason: Reason, method: &str, data: &str, ears: &Ears, out: &mut BytesMut) {
    let properties = 6 + method.len() + data.len();
    if properties + 8 > ears.packet_bytes_max {
        return;
    }
    out.put_u8(0xf0);
    put_varint(out, 1 + varint_len(properties) + properties);
    out.put_u8(reason.0);
    put_varint(out, properties);
    put_auth_properties(method, data, out);
}

fn put_auth_properties(method: &str, data: &str, out: &mut BytesMut) {
    out.put_u8(id::AUTH_METHOD);
    put_binary(out, method.as_bytes());
    out.put_u8(id::AUTH_DATA);
    put_binary(out, data.as_bytes());
}

fn put_ack(
    first: u8,
    packet_id: u16,
    reason: Reason,
    text: Option<&str>,
    ears: &Ears,
    out: &mut BytesMut,
) {
    out.put_u8(first);
    if ears.version != Version::V5 || reason == Reason::SUCCESS {
        out.put_u8(2);
        out.put_u16(packet_id);
        return;
    }
    // [MQTT-3.4.2-2]: a text that does not fit is left out.
    let text = text
        .filter(|text| ears.wants_problem_info && text.len() + 16 <= ears.packet_bytes_max)
        .filter(|text| text.len() <= usize::from(u16::MAX));
    let Some(text) = text else {
        out.put_u8(3);
        out.put_u16(packet_id);
        out.put_u8(reason.0);
        return;
    };
    let properties = 3 + text.len();
    put_varint(out, 3 + varint_len(properties) + properties);
    out.put_u16(packet_id);
    out.put_u8(reason.0);
    put_varint(out, properties);
    out.put_u8(id::REASON_STRING);
    put_binary(out, text.as_bytes());
}

/// What SUBACK or UNSUBACK takes in MQTT 5 with so many codes, in bytes.
#[must_use]
pub fn codes_packet_len(codes: usize) -> usize {
    let body = 3 + codes;
    1 + varint_len(body) + body
}

fn put_codes(first: u8, packet_id: u16, codes: Vec<u8>, has_properties: bool, out: &mut BytesMut) {
    out.put_u8(first);
    put_varint(out, 2 + usize::from(has_properties) + codes.len());
    out.put_u16(packet_id);
    if has_properties {
        out.put_u8(0);
    }
    out.put_slice(&codes);
}

fn put_disconnect(reason: Reason, text: Option<&str>, ears: &Ears, out: &mut BytesMut) {
    let text = text
        .filter(|text| text.len() + 16 <= ears.packet_bytes_max)
        .filter(|text| text.len() <= usize::from(u16::MAX));
    out.put_u8(0xe0);
    let Some(text) = text else {
        out.put_slice(&[1, reason.0]);
        return;
    };
    let properties = 3 + text.len();
    put_varint(out, 1 + varint_len(properties) + properties);
    out.put_u8(reason.0);
    put_varint(out, properties);
    out.put_u8(id::REASON_STRING);
    put_binary(out, text.as_bytes());
}

impl ConnAck {
    /// A connection refused.
    #[must_use]
    pub fn refused(reason: Reason, text: &'static str) -> Self {
        Self { refusal: Some(reason), text: Some(text), ..Self::default() }
    }

    /// Appends the packet, or nothing at all if it is over the client's maximum packet size even
    /// without what may be left out ([MQTT-3.1.2-24], [MQTT-3.2.2-19]).
    pub fn encode(
        &self,
        version: Version,
        packet_bytes_max: usize,
        out: &mut BytesMut,
    ) -> Result<(), TooLarge> {
        // [MQTT-3.2.2-6]: a refusal never claims a session. MQTT 3.1 has no such flag.
        let present = self.session_present && self.refusal.is_none() && version != Version::V31;
        if version != Version::V5 {
            let code = self.refusal.map_or(0, early_return_code);
            out.put_slice(&[0x20, 2, u8::from(present), code]);
            return Ok(());
        }
        let mut properties = BytesMut::new();
        for with_optional in [true, false] {
            properties.clear();
            self.put_properties(with_optional, &mut properties);
            let body = 2 + varint_len(properties.len()) + properties.len();
            if 1 + varint_len(body) + body <= packet_bytes_max {
                out.put_u8(0x20);
                put_varint(out, body);
                out.put_u8(u8::from(present));
                out.put_u8(self.refusal.unwrap_or(Reason::SUCCESS).0);
                put_varint(out, properties.len());
                out.put_slice(&properties);
                return Ok(());
            }
        }
        Err(TooLarge)
    }

    fn put_properties(&self, with_optional: bool, out: &mut BytesMut) {
        if let Some(seconds) = self.session_expiry_s {
            out.put_u8(id::SESSION_EXPIRY);
            out.put_u32(seconds);
        }
        if let Some(max) = self.receive_max {
            out.put_u8(id::RECEIVE_MAX);
            out.put_u16(max);
        }
        if let Some(max) = self.packet_bytes_max {
            out.put_u8(id::PACKET_MAX);
            out.put_u32(max);
        }
        if let Some(client_id) = &self.assigned_client_id {
            out.put_u8(id::ASSIGNED_CLIENT_ID);
            put_binary(out, client_id.as_bytes());
        }
        if self.topic_alias_max > 0 {
            out.put_u8(id::TOPIC_ALIAS_MAX);
            out.put_u16(self.topic_alias_max);
        }
        if let Some(text) = self.text.filter(|_| with_optional) {
            out.put_u8(id::REASON_STRING);
            put_binary(out, text.as_bytes());
        }
        if let Some(seconds) = self.server_keep_alive_s {
            out.put_u8(id::SERVER_KEEP_ALIVE);
            out.put_u16(seconds);
        }
        if let Some((method, data)) = &self.auth {
            put_auth_properties(method, data, out);
        }
        let info = self.response_info.as_ref().filter(|info| info.len() <= usize::from(u16::MAX));
        if let Some(info) = info.filter(|_| with_optional) {
            out.put_u8(id::RESPONSE_INFO);
            put_binary(out, info.as_bytes());
        }
    }
}

/// The return code of MQTT 3.1.1 (§3.2.2.3) that comes nearest.
fn early_return_code(reason: Reason) -> u8 {
    match reason {
        Reason::UNSUPPORTED_VERSION => 1,
        Reason::CLIENT_ID_INVALID => 2,
        Reason::BAD_CREDENTIALS => 4,
        Reason::NOT_AUTHORIZED | Reason::BAD_AUTH_METHOD | Reason::BANNED => 5,
        _ => 3,
    }
}
