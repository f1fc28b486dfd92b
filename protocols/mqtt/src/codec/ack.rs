//! The four acknowledgements, DISCONNECT and AUTH, as a client sends them.

use bytes::Bytes;

use super::{
    Fault, Frame, Input, Reason, Text, Version,
    property::{self, Context, Value, id},
};

/// A PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub packet_id: u16,
    pub reason: Reason,
}

/// A client's farewell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect {
    pub reason: Reason,
    /// Replaces the session's expiry.
    pub session_expiry_s: Option<u32>,
}

/// A step of an exchange that proves who the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    pub reason: Reason,
    pub method: Text,
    pub data: Bytes,
}

const ANY_PUBLISH_OUTCOME: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const FOUND_OR_NOT: &[u8] = &[0x00, 0x92];
const CLIENT_DISCONNECT: &[u8] =
    &[0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];

/// Reads PUBACK or PUBREC.
pub fn decode_outcome(frame: &Frame, version: Version) -> Result<Ack, Fault> {
    decode(frame, version, ANY_PUBLISH_OUTCOME)
}

/// Reads PUBREL or PUBCOMP.
pub fn decode_found(frame: &Frame, version: Version) -> Result<Ack, Fault> {
    decode(frame, version, FOUND_OR_NOT)
}

fn decode(frame: &Frame, version: Version, allowed: &[u8]) -> Result<Ack, Fault> {
    let mut input = Input::new(frame.body.clone());
    let packet_id = input.packet_id()?;
    let mut reason = Reason::SUCCESS;
    if version == Version::V5 && !input.is_empty() {
        reason = read_reason(&mut input, allowed)?;
        if !input.is_empty() {
            property::read_block(&mut input, Context::Ack, |_, _, _| Ok(()))?;
        }
    }
    input.end()?;
    Ok(Ack { packet_id, reason })
}

fn read_reason(input: &mut Input, allowed: &[u8]) -> Result<Reason, Fault> {
    let code = input.u8()?;
    if allowed.contains(&code) {
        return Ok(Reason(code));
    }
    Err(Fault::protocol("a reason code is not one of its packet's"))
}

/// Reads a DISCONNECT.
pub fn decode_disconnect(frame: &Frame, version: Version) -> Result<Disconnect, Fault> {
    let mut input = Input::new(frame.body.clone());
    let mut farewell = Disconnect { reason: Reason::SUCCESS, session_expiry_s: None };
    if version == Version::V5 && !input.is_empty() {
        farewell.reason = read_reason(&mut input, CLIENT_DISCONNECT)?;
        if !input.is_empty() {
            property::read_block(&mut input, Context::Disconnect, |id, value, _| {
                if let (id::SESSION_EXPIRY, Value::Long(seconds)) = (id, value) {
                    farewell.session_expiry_s = Some(seconds);
                }
                Ok(())
            })?;
        }
    }
    input.end()?;
    Ok(farewell)
}

/// Reads an AUTH.
pub fn decode_auth(frame: &Frame) -> Result<Auth, Fault> {
    let mut input = Input::new(frame.body.clone());
    let (mut reason, mut method, mut auth_data) = (Reason::SUCCESS, None, Bytes::new());
    if !input.is_empty() {
        reason = read_reason(&mut input, &[0x00, 0x18, 0x19])?;
        property::read_block(&mut input, Context::Auth, |id, value, _| {
            match (id, value) {
                (id::AUTH_METHOD, Value::Text(named)) => method = Some(named),
                (id::AUTH_DATA, Value::Binary(data)) => auth_data = data,
                _ => {}
            }
            Ok(())
        })?;
    }
    input.end()?;
    let method = method.ok_or(Fault::protocol("AUTH has no authentication method"))?;
    Ok(Auth { reason, method, data: auth_data })
}
