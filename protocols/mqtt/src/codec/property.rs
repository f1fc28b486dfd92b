//! Properties of MQTT 5 packets (MQTT 5 §2.2.2): which there are, where they may stand, and the
//! checks that hold wherever they stand.

use std::ops::Range;

use bytes::Bytes;

use super::{Fault, Input, Reason, Text};

/// Property identifiers.
pub mod id {
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0b;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTH_METHOD: u8 = 0x15;
    pub const AUTH_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM_INFO: u8 = 0x17;
    pub const WILL_DELAY: u8 = 0x18;
    pub const REQUEST_RESPONSE_INFO: u8 = 0x19;
    pub const RESPONSE_INFO: u8 = 0x1a;
    pub const SERVER_REFERENCE: u8 = 0x1c;
    pub const REASON_STRING: u8 = 0x1f;
    pub const RECEIVE_MAX: u8 = 0x21;
    pub const TOPIC_ALIAS_MAX: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAX_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER: u8 = 0x26;
    pub const PACKET_MAX: u8 = 0x27;
    pub const WILDCARD_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_ID_AVAILABLE: u8 = 0x29;
    pub const SHARED_AVAILABLE: u8 = 0x2a;
}

/// Where a property block stands. Only what a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    Connect,
    Will,
    Publish,
    /// PUBACK, PUBREC, PUBREL and PUBCOMP.
    Ack,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Auth,
}

/// A property's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Byte(u8),
    Short(u16),
    Long(u32),
    Varint(u32),
    Text(Text),
    Binary(Bytes),
    Pair(Text, Text),
}

/// Reads a property block with its length, hands each property with its place in the block to
/// `visit`, and answers the block's bytes. Allocates nothing.
pub fn read_block(
    input: &mut Input,
    context: Context,
    visit: impl FnMut(u8, Value, Range<usize>) -> Result<(), Fault>,
) -> Result<Bytes, Fault> {
    let len = input.varint()?;
    let raw = input.take(len as usize)?;
    read_properties(raw.clone(), context, visit)?;
    Ok(raw)
}

/// As [`read_block`], over a block without its length.
pub fn read_properties(
    raw: Bytes,
    context: Context,
    mut visit: impl FnMut(u8, Value, Range<usize>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let total = raw.len();
    let mut seen = 0_u64;
    let mut rest = Input::new(raw);
    while !rest.is_empty() {
        let start = total - rest.len();
        let id = rest.u8()?;
        let value = read_value(&mut rest, id)?;
        if !is_allowed(id, context) {
            return Err(Fault::malformed("a property is not one of its packet's"));
        }
        if seen >> id & 1 == 1 && id != id::USER {
            return Err(Fault::protocol("a property stands twice"));
        }
        seen |= 1 << id;
        check_value(id, &value)?;
        visit(id, value, start..total - rest.len())?;
    }
    Ok(())
}

fn read_value(input: &mut Input, id: u8) -> Result<Value, Fault> {
    Ok(match id {
        id::PAYLOAD_FORMAT
        | id::REQUEST_PROBLEM_INFO
        | id::REQUEST_RESPONSE_INFO
        | id::MAX_QOS
        | id::RETAIN_AVAILABLE
        | id::WILDCARD_AVAILABLE
        | id::SUBSCRIPTION_ID_AVAILABLE
        | id::SHARED_AVAILABLE => Value::Byte(input.u8()?),
        id::SERVER_KEEP_ALIVE | id::RECEIVE_MAX | id::TOPIC_ALIAS_MAX | id::TOPIC_ALIAS => {
            Value::Short(input.u16()?)
        }
        id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY | id::PACKET_MAX => {
            Value::Long(input.u32()?)
        }
        id::SUBSCRIPTION_ID => Value::Varint(input.varint()?),
        id::CONTENT_TYPE
        | id::RESPONSE_TOPIC
        | id::ASSIGNED_CLIENT_ID
        | id::AUTH_METHOD
        | id::RESPONSE_INFO
        | id::SERVER_REFERENCE
        | id::REASON_STRING => Value::Text(input.text()?),
        id::CORRELATION_DATA | id::AUTH_DATA => Value::Binary(input.binary()?),
        id::USER => Value::Pair(input.text()?, input.text()?),
        _ => return Err(Fault::malformed("a property has an unknown identifier")),
    })
}

/// MQTT 5 table 2-4.
fn is_allowed(id: u8, context: Context) -> bool {
    if id == id::USER {
        return true;
    }
    match context {
        Context::Connect => matches!(
            id,
            id::SESSION_EXPIRY
                | id::AUTH_METHOD
                | id::AUTH_DATA
                | id::REQUEST_PROBLEM_INFO
                | id::REQUEST_RESPONSE_INFO
                | id::RECEIVE_MAX
                | id::TOPIC_ALIAS_MAX
                | id::PACKET_MAX
        ),
        Context::Will => is_message_property(id) || id == id::WILL_DELAY,
        Context::Publish => {
            is_message_property(id) || matches!(id, id::TOPIC_ALIAS | id::SUBSCRIPTION_ID)
        }
        Context::Ack => id == id::REASON_STRING,
        Context::Subscribe => id == id::SUBSCRIPTION_ID,
        Context::Unsubscribe => false,
        Context::Disconnect => {
            matches!(id, id::SESSION_EXPIRY | id::REASON_STRING | id::SERVER_REFERENCE)
        }
        Context::Auth => matches!(id, id::AUTH_METHOD | id::AUTH_DATA | id::REASON_STRING),
    }
}

fn is_message_property(id: u8) -> bool {
    matches!(
        id,
        id::PAYLOAD_FORMAT
            | id::MESSAGE_EXPIRY
            | id::CONTENT_TYPE
            | id::RESPONSE_TOPIC
            | id::CORRELATION_DATA
    )
}

fn check_value(id: u8, value: &Value) -> Result<(), Fault> {
    match (id, value) {
        (
            id::PAYLOAD_FORMAT | id::REQUEST_PROBLEM_INFO | id::REQUEST_RESPONSE_INFO,
            Value::Byte(byte),
        ) if *byte > 1 => Err(Fault::protocol("a property is neither 0 nor 1")),
        (id::RECEIVE_MAX, Value::Short(0)) => Err(Fault::protocol("the receive maximum is zero")),
        (id::PACKET_MAX, Value::Long(0)) => Err(Fault::protocol("the maximum packet size is zero")),
        (id::TOPIC_ALIAS, Value::Short(0)) => {
            Err(Fault::new(Reason::TOPIC_ALIAS_INVALID, "[MQTT-3.3.2-8] a topic alias is zero"))
        }
        (id::SUBSCRIPTION_ID, Value::Varint(0)) => {
            Err(Fault::protocol("a subscription identifier is zero"))
        }
        (id::RESPONSE_TOPIC, Value::Text(topic)) if has_wildcard(topic) => {
            Err(Fault::protocol("[MQTT-3.3.2-14] a response topic has a wildcard"))
        }
        (id::SERVER_REFERENCE, _) => Err(Fault::protocol("a client names a server reference")),
        _ => Ok(()),
    }
}

/// Whether a name of a topic has a character that only filters may have.
#[must_use]
pub fn has_wildcard(topic: &Text) -> bool {
    topic.as_bytes().iter().any(|byte| matches!(byte, b'+' | b'#'))
}
