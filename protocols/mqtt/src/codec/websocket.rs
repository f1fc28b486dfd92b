//! WebSocket frames (RFC 6455 §5.2) as a server reads and writes them, for MQTT 5 §6: packets
//! travel in binary messages, and where messages and frames begin and end means nothing.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest payload of a ping, a pong or a close.
const CONTROL_BYTES_MAX: usize = 125;

/// What a piece of the stream brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// MQTT's bytes.
    Data(Bytes),
    /// To be answered with a pong of the same payload.
    Ping(Bytes),
    /// An unasked pong: nothing to do.
    Pong,
    Close,
}

/// Why the stream cannot go on: the status of the close frame that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub u16);

impl Broken {
    pub const PROTOCOL: Self = Self(1002);
    /// [MQTT-6.0.0-1]: a frame of another type than binary.
    pub const NOT_BINARY: Self = Self(1003);
}

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// A frame whose head was read.
#[derive(Debug)]
struct Head {
    opcode: u8,
    is_last: bool,
    left: u64,
    mask: [u8; 4],
}

/// Takes frames apart. Holds no payload: data comes out as it came in, in pieces of any length.
#[derive(Debug, Default)]
pub struct Frames {
    current: Option<Head>,
    /// A message has begun and not ended.
    is_inside: bool,
}

impl Frames {
    /// Takes the next piece off `input`; `None` when more bytes are needed.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, Broken> {
        loop {
            let head = match self.current.take() {
                Some(head) => head,
                None => match read_head(input)? {
                    Some(head) => self.admit(head)?,
                    None => return Ok(None),
                },
            };
            let is_control = head.opcode >= CLOSE;
            let left = usize::try_from(head.left).unwrap_or(usize::MAX);
            let len = left.min(input.len());
            if head.left > 0 && (len == 0 || is_control && len < left) {
                self.current = Some(head);
                return Ok(None);
            }
            let mut payload = input.split_to(len);
            for (byte, mask) in payload.iter_mut().zip(head.mask.iter().cycle()) {
                *byte ^= mask;
            }
            let payload = payload.freeze();
            match head.opcode {
                CLOSE => return Ok(Some(Piece::Close)),
                PING => return Ok(Some(Piece::Ping(payload))),
                PONG => return Ok(Some(Piece::Pong)),
                _ => {}
            }
            self.keep_rest(head, len);
            if !payload.is_empty() {
                return Ok(Some(Piece::Data(payload)));
            }
        }
    }

    fn keep_rest(&mut self, mut head: Head, taken: usize) {
        head.left -= taken as u64;
        if head.left > 0 {
            head.mask.rotate_left(taken % 4);
            self.current = Some(head);
        } else {
            self.is_inside = !head.is_last;
        }
    }

    fn admit(&self, head: Head) -> Result<Head, Broken> {
        let is_control = head.opcode >= CLOSE;
        match head.opcode {
            TEXT => return Err(Broken::NOT_BINARY),
            CONTINUATION if self.is_inside => {}
            BINARY if !self.is_inside => {}
            CLOSE | PING | PONG => {}
            _ => return Err(Broken::PROTOCOL),
        }
        if is_control && (!head.is_last || head.left > CONTROL_BYTES_MAX as u64) {
            return Err(Broken::PROTOCOL);
        }
        Ok(head)
    }
}

fn read_head(input: &mut BytesMut) -> Result<Option<Head>, Broken> {
    let [first, second, ..] = **input else { return Ok(None) };
    // No extension was agreed on, and a client masks everything.
    if first & 0x70 != 0 || second & 0x80 == 0 {
        return Err(Broken::PROTOCOL);
    }
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if input.len() < 2 + extended + 4 {
        return Ok(None);
    }
    input.advance(2);
    let left = match extended {
        2 => u64::from(input.get_u16()),
        8 => input.get_u64(),
        _ => u64::from(second & 0x7f),
    };
    if left >> 63 == 1 {
        return Err(Broken::PROTOCOL);
    }
    let mask = input.get_u32().to_be_bytes();
    Ok(Some(Head { opcode: first & 0x0f, is_last: first & 0x80 != 0, left, mask }))
}

/// Puts MQTT's bytes on, each packet as a message of its own: a packet may begin anywhere in a message
/// ([MQTT-6.0.0-2]), but there are clients that look for one only where a message begins.
#[derive(Debug, Default)]
pub struct Packets {
    /// Bytes of the packet that was begun that are still to come.
    left: usize,
}

impl Packets {
    /// Moves all to `out` but for a packet's first bytes that do not say yet how long it is.
    pub fn put(&mut self, input: &mut BytesMut, out: &mut BytesMut) {
        while !input.is_empty() {
            if self.left == 0 {
                let Some(whole) = packet_bytes(input) else { return };
                put_head(BINARY, whole, out);
                self.left = whole;
            }
            let now = self.left.min(input.len());
            out.extend_from_slice(&input.split_to(now));
            self.left -= now;
        }
    }

    /// Whether another message may be put on: nothing may be said in the middle of one.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.left == 0
    }
}

/// How long the packet is that begins here, once its first bytes are there.
fn packet_bytes(bytes: &[u8]) -> Option<usize> {
    let mut remaining = 0;
    for (count, byte) in bytes.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * count);
        if byte & 0x80 == 0 {
            return Some(2 + count + remaining);
        }
    }
    None
}

/// Appends bytes as one message, whatever they are.
pub fn put_data(data: &[u8], out: &mut BytesMut) {
    put_frame(BINARY, data, out);
}

/// Appends the answer to a ping.
pub fn put_pong(payload: &[u8], out: &mut BytesMut) {
    put_frame(PONG, payload, out);
}

/// Appends the end of the conversation.
pub fn put_close(status: u16, out: &mut BytesMut) {
    put_frame(CLOSE, &status.to_be_bytes(), out);
}

fn put_frame(opcode: u8, payload: &[u8], out: &mut BytesMut) {
    put_head(opcode, payload.len(), out);
    out.put_slice(payload);
}

fn put_head(opcode: u8, bytes: usize, out: &mut BytesMut) {
    out.put_u8(0x80 | opcode);
    match (u8::try_from(bytes), u16::try_from(bytes)) {
        (Ok(len @ 0..=125), _) => out.put_u8(len),
        (_, Ok(len)) => {
            out.put_u8(126);
            out.put_u16(len);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(bytes as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![first];
        match u8::try_from(payload.len()) {
            Ok(len @ 0..=125) => out.push(0x80 | len),
            _ => {
                out.push(0x80 | 126);
                out.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    /// Everything the bytes say when they come in pieces of `step`.
    fn read(bytes: &[u8], step: usize) -> Result<(Vec<u8>, Vec<Piece>), Broken> {
        let (mut frames, mut input) = (Frames::default(), BytesMut::new());
        let (mut data, mut others) = (Vec::new(), Vec::new());
        for chunk in bytes.chunks(step) {
            input.extend_from_slice(chunk);
            while let Some(piece) = frames.next(&mut input)? {
                match piece {
                    Piece::Data(bytes) => data.extend_from_slice(&bytes),
                    other => others.push(other),
                }
            }
        }
        Ok((data, others))
    }

    #[test]
    fn packets_may_span_frames_and_share_them_mqtt_6_0_0_2() {
        let long = vec![7; 300];
        let bytes = [
            frame(0x02, b"\x10\x0d\x00"),
            frame(0x89, b"hello"),
            frame(0x00, b""),
            frame(0x80, b"rest\xc0\x00\xc0"),
            frame(0x82, &long),
            frame(0x8a, b""),
            frame(0x88, b"\x03\xe8"),
        ]
        .concat();
        for step in [1, 2, 3, 7, bytes.len()] {
            let (data, others) = read(&bytes, step).unwrap();
            assert_eq!(data, [b"\x10\x0d\x00rest\xc0\x00\xc0".as_slice(), &long].concat());
            let ping = Piece::Ping(Bytes::from_static(b"hello"));
            assert_eq!(others, [ping, Piece::Pong, Piece::Close], "in steps of {step}");
        }
    }

    #[test]
    fn each_packet_is_a_message_of_its_own() {
        let publish = [b"\x30\xac\x02".as_slice(), &[7; 300]].concat();
        let bytes = [b"\x40\x02\0\x01", &publish[..], b"\xd0\0", b"\xe0"].concat();
        let wanted = [
            b"\x82\x04\x40\x02\0\x01".as_slice(),
            b"\x82\x7e\x01\x2f",
            &publish,
            b"\x82\x02\xd0\0",
        ]
        .concat();
        for step in [1, 2, 3, 5, 100, bytes.len()] {
            let mut packets = Packets::default();
            let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
            for chunk in bytes.chunks(step) {
                input.extend_from_slice(chunk);
                packets.put(&mut input, &mut out);
            }
            assert_eq!(out, wanted, "in steps of {step}");
            assert!(packets.is_between() && *input == b"\xe0"[..], "in steps of {step}");
        }
    }

    #[test]
    fn what_is_no_binary_frame_of_a_client_is_refused_mqtt_6_0_0_1() {
        assert_eq!(read(&frame(0x81, b"x"), 1), Err(Broken::NOT_BINARY));
        let broken = [
            // Unmasked; a reserved bit; a reserved opcode; a continuation of nothing.
            b"\x82\x01x".to_vec(),
            frame(0xc2, b"x"),
            frame(0x83, b"x"),
            frame(0x80, b"x"),
            // A second message inside the first; control frames that are long or in parts.
            [frame(0x02, b"x"), frame(0x82, b"x")].concat(),
            frame(0x89, &[0; 126]),
            frame(0x09, b""),
            b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0".to_vec(),
        ];
        for bytes in broken {
            assert_eq!(read(&bytes, 1), Err(Broken::PROTOCOL), "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_written_is_unmasked_and_whole() {
        let mut out = BytesMut::new();
        put_data(b"ab", &mut out);
        assert_eq!(&out[..], b"\x82\x02ab");
        out.clear();
        put_data(&[0; 126], &mut out);
        assert_eq!((&out[..4], out.len()), (b"\x82\x7e\x00\x7e".as_slice(), 130));
        out.clear();
        put_data(&vec![0; 65_536], &mut out);
        assert_eq!(&out[..10], b"\x82\x7f\0\0\0\0\0\x01\0\0");
        out.clear();
        put_close(1002, &mut out);
        assert_eq!(&out[..], b"\x88\x02\x03\xea");
    }
}
