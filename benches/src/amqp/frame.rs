//! AMQP 0-9-1 frames: the few that a publisher and a consumer exchange with a server.

use std::io;

use crate::load::refused;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xCE;
const OVERHEAD: usize = 8;

pub const CHANNEL: u16 = 1;

/// Class and method in the order of the wire.
pub type Method = (u16, u16);
pub const START: Method = (10, 10);
pub const START_OK: Method = (10, 11);
pub const TUNE: Method = (10, 30);
pub const TUNE_OK: Method = (10, 31);
pub const OPEN: Method = (10, 40);
pub const OPEN_OK: Method = (10, 41);
pub const CLOSE: Method = (10, 50);
pub const CLOSE_OK: Method = (10, 51);
pub const CHANNEL_OPEN: Method = (20, 10);
pub const CHANNEL_OPEN_OK: Method = (20, 11);
pub const CHANNEL_CLOSE: Method = (20, 40);
pub const EXCHANGE_DECLARE: Method = (40, 10);
pub const EXCHANGE_DECLARE_OK: Method = (40, 11);
pub const EXCHANGE_DELETE: Method = (40, 20);
pub const EXCHANGE_DELETE_OK: Method = (40, 21);
pub const BIND: Method = (50, 20);
pub const BIND_OK: Method = (50, 21);
pub const DECLARE: Method = (50, 10);
pub const DECLARE_OK: Method = (50, 11);
pub const DELETE: Method = (50, 40);
pub const DELETE_OK: Method = (50, 41);
pub const QOS: Method = (60, 10);
pub const QOS_OK: Method = (60, 11);
pub const CONSUME: Method = (60, 20);
pub const CONSUME_OK: Method = (60, 21);
pub const PUBLISH: Method = (60, 40);
pub const DELIVER: Method = (60, 60);
pub const ACK: Method = (60, 80);
pub const SELECT: Method = (85, 10);
pub const SELECT_OK: Method = (85, 11);

/// Property flags: delivery mode, and with it reply-to.
const PLAIN: u16 = 0x1000;
const QUESTION: u16 = 0x1200;

pub enum Frame<'a> {
    Method(Method, &'a [u8]),
    Header(&'a [u8]),
    Body(&'a [u8]),
    Other,
}

/// The first whole frame and its length on the wire.
pub fn first(bytes: &[u8]) -> io::Result<Option<(Frame<'_>, usize)>> {
    let Some(([kind, _, _, a, b, c, d], rest)) = bytes.split_first_chunk::<7>() else {
        return Ok(None);
    };
    let payload = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
    let Some((payload, end)) = rest.split_at_checked(payload) else { return Ok(None) };
    let Some(end) = end.first() else { return Ok(None) };
    if *end != END {
        return Err(refused("frame without its end mark"));
    }
    let frame = match *kind {
        METHOD => match payload.split_first_chunk::<4>() {
            Some(([a, b, c, d], arguments)) => Frame::Method(
                (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
                arguments,
            ),
            None => return Err(refused("method frame without a method")),
        },
        HEADER => Frame::Header(payload),
        BODY => Frame::Body(payload),
        _ => Frame::Other,
    };
    Ok(Some((frame, payload.len() + OVERHEAD)))
}

pub fn method(out: &mut Vec<u8>, channel: u16, method: Method, arguments: &[u8]) {
    let payload = [&method.0.to_be_bytes(), &method.1.to_be_bytes(), arguments].concat();
    frame(out, METHOD, channel, &payload);
}

/// Acknowledges one delivery.
pub fn ack(out: &mut Vec<u8>, tag: [u8; 8]) {
    out.extend_from_slice(&[METHOD, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80]);
    out.extend_from_slice(&tag);
    out.extend_from_slice(&[0, END]);
}

/// Header with delivery mode 1 (transient) or 2 (persistent) and the queue, if one is named, that an
/// answer is to go to; and the body in one frame.
pub fn content(out: &mut Vec<u8>, mode: u8, reply_to: Option<&str>, body: &[u8]) {
    let mut header = vec![0, 60, 0, 0];
    header.extend(u64::try_from(body.len()).unwrap_or(u64::MAX).to_be_bytes());
    header.extend(if reply_to.is_some() { QUESTION } else { PLAIN }.to_be_bytes());
    header.push(mode);
    header.extend(reply_to.map(short).unwrap_or_default());
    frame(out, HEADER, CHANNEL, &header);
    frame(out, BODY, CHANNEL, body);
}

/// Where the answer to a question goes, by its header.
pub fn reply_to(header: &[u8]) -> String {
    let fields = header.get(12..).unwrap_or_default();
    match fields.split_first_chunk::<3>() {
        Some(([a, b, _], rest)) if u16::from_be_bytes([*a, *b]) == QUESTION => {
            String::from_utf8_lossy(split_short(rest).0).into_owned()
        }
        _ => String::new(),
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(END);
}

pub fn short(text: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(text.len()).unwrap_or(u8::MAX)];
    bytes.extend(text.bytes());
    bytes
}

pub fn long(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    bytes.extend(text.bytes());
    bytes
}

/// The first short string of a method's arguments, and what follows it.
pub fn split_short(arguments: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = arguments.split_first() else { return (&[], &[]) };
    rest.split_at_checked(usize::from(*length)).unwrap_or((&[], &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back_only_when_whole() {
        let mut wire = Vec::new();
        method(&mut wire, CHANNEL, ACK, &[0, 0, 0, 0, 0, 0, 0, 7, 1]);
        assert!(first(&wire[..wire.len() - 1]).unwrap().is_none());
        let (frame, length) = first(&wire).unwrap().unwrap();
        assert_eq!(length, wire.len());
        assert!(matches!(frame, Frame::Method(ACK, [0, 0, 0, 0, 0, 0, 0, 7, 1])));
    }

    #[test]
    fn an_ack_names_its_delivery() {
        let mut wire = Vec::new();
        ack(&mut wire, 7_u64.to_be_bytes());
        let (frame, length) = first(&wire).unwrap().unwrap();
        assert_eq!(length, wire.len());
        assert!(matches!(frame, Frame::Method(ACK, [0, 0, 0, 0, 0, 0, 0, 7, 0])));
    }

    #[test]
    fn a_question_says_where_its_answer_goes() {
        for reply_to in [Some("replies"), None] {
            let mut wire = Vec::new();
            content(&mut wire, 2, reply_to, b"body");
            let Some((Frame::Header(header), _)) = first(&wire).unwrap() else {
                panic!("a header")
            };
            assert_eq!(super::reply_to(header), reply_to.unwrap_or_default());
        }
    }

    #[test]
    fn a_frame_without_its_end_mark_is_refused() {
        let mut wire = Vec::new();
        content(&mut wire, 2, None, b"body");
        *wire.last_mut().unwrap() = 0;
        let header = first(&wire).unwrap().unwrap().1;
        assert!(first(&wire[header..]).is_err());
    }
}
