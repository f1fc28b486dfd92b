//! What the server says, held to the rules of the protocol, and what follows from it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Buf, BytesMut};

use super::{
    ledger::Ledger,
    script::{BODY, FRAME_END, HEADER, HEARTBEAT, MANUAL, METHOD, PROTOCOL, frame, method},
};

const HEAD: usize = 7;
/// The largest frame there is before the client has said what it takes.
const FRAME_MAX: usize = 131_072;
/// What a server says on a channel in answer to a method.
const ANSWERS: [(u16, u16); 21] = [
    (20, 11),
    (20, 21),
    (30, 11),
    (40, 11),
    (40, 21),
    (40, 31),
    (40, 51),
    (50, 11),
    (50, 21),
    (50, 31),
    (50, 41),
    (50, 51),
    (60, 11),
    (60, 21),
    (60, 31),
    (60, 72),
    (60, 111),
    (85, 11),
    (90, 11),
    (90, 21),
    (90, 31),
];
/// Reply codes of faults that are the server's own.
const INTERNAL_ERROR: u16 = 541;

/// The server's side of a channel.
#[derive(Debug, Default)]
struct Channel {
    is_open: bool,
    content: Option<Content>,
    last_tag: u64,
    in_hand: VecDeque<u64>,
    /// Of the first opening.
    settled: BTreeSet<usize>,
    commits: usize,
    answers: usize,
}

#[derive(Debug)]
enum Content {
    Header,
    Body(u64),
}

/// How the server ended the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goodbye {
    CloseOk,
    Close(u16, String),
    /// "This is the protocol that is spoken here."
    Protocol,
}

/// What was heard so far.
#[derive(Debug, Default)]
pub struct Speech {
    heard: BytesMut,
    channels: BTreeMap<u16, Channel>,
    /// Channels to open again when they are closed.
    reopening: BTreeSet<u16>,
    pub goodbye: Option<Goodbye>,
    /// Queues that the server named.
    pub named: Vec<String>,
    pub delivered: u64,
    pub confirmed: u64,
    /// What a client answers without being asked to.
    pub replies: Vec<u8>,
}

type Heard = Result<(), String>;

impl Speech {
    /// The server said these bytes. Errors: it must not say so.
    pub fn hear(&mut self, bytes: &[u8], ledger: &mut Ledger) -> Heard {
        self.heard.extend_from_slice(bytes);
        if self.heard.starts_with(PROTOCOL) {
            self.heard.advance(PROTOCOL.len());
            self.goodbye = Some(Goodbye::Protocol);
        }
        while let Some(head) = self.heard.first_chunk::<HEAD>() {
            let [kind, high, low, size @ ..] = *head;
            let channel = u16::from_be_bytes([high, low]);
            let size = usize::try_from(u32::from_be_bytes(size)).unwrap();
            // A header cannot be split, as RabbitMQ's.
            let max =
                if ledger.frame_max == 0 || kind == HEADER { FRAME_MAX } else { ledger.frame_max };
            if size + 8 > max {
                return Err(format!("it says a frame of {size} bytes, and {max} are agreed"));
            }
            let Some(end) = self.heard.get(HEAD + size) else { return Ok(()) };
            if *end != FRAME_END {
                return Err(format!("its frame ends with {end}"));
            }
            let said = self.heard.split_to(HEAD + size + 1);
            // Both may close at once; each close is answered.
            let is_answer = said[HEAD..] == [0, 10, 0, 51, FRAME_END];
            if let Some(goodbye) = self.goodbye.as_ref().filter(|_| !is_answer) {
                return Err(format!("after {goodbye:?} it says {kind} on {channel}"));
            }
            self.frame(kind, channel, &said[HEAD..HEAD + size], ledger)
                .map_err(|why| format!("{why}, on channel {channel}"))?;
        }
        Ok(())
    }

    /// The tag of the delivery that was in hand longest, which it is no more.
    pub fn settle(&mut self, channel: u16) -> Option<u64> {
        self.channels.get_mut(&channel)?.in_hand.pop_front()
    }

    /// A channel is about to be closed, to be opened again. Tells whether it is open.
    pub fn reopen(&mut self, channel: u16) -> bool {
        let is_open = self.channels.get(&channel).is_some_and(|channel| channel.is_open);
        is_open && self.reopening.insert(channel)
    }

    /// Whether it is not closed yet.
    pub fn is_reopening(&self, channel: u16) -> bool {
        self.reopening.contains(&channel)
    }

    /// Whether everything asked on channels that were never closed was answered, and every
    /// publish there confirmed or refused.
    pub fn is_complete(&self, ledger: &Ledger) -> Heard {
        for (number, asked, publishes) in ledger.open_channels() {
            let of = self.channels.get(&number);
            let answers = of.map_or(0, |of| of.answers);
            if answers != asked {
                return Err(format!("channel {number}: {answers} answers to {asked} methods"));
            }
            let settled = |publish: &usize| of.is_some_and(|of| of.settled.contains(publish));
            if let Some(publish) = publishes.iter().find(|publish| !settled(publish)) {
                return Err(format!("channel {number}: publish {publish} was never confirmed"));
            }
        }
        Ok(())
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8], ledger: &mut Ledger) -> Heard {
        match kind {
            HEARTBEAT if channel == 0 => Ok(()),
            METHOD => {
                let Some(([a, b, c, d], arguments)) = payload.split_first_chunk() else {
                    return Err("a method without a name".to_owned());
                };
                let id = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
                match channel {
                    0 => self.connection(id, arguments),
                    _ => self.method(channel, id, arguments, ledger),
                }
            }
            HEADER | BODY => self.content(kind, channel, payload),
            _ => Err(format!("a frame of kind {kind}")),
        }
    }

    fn connection(&mut self, id: (u16, u16), arguments: &[u8]) -> Heard {
        match id {
            (10, 10 | 30 | 41 | 60 | 61 | 71) => {}
            (10, 51) => drop(self.goodbye.get_or_insert(Goodbye::CloseOk)),
            (10, 50) => {
                let (code, text) = close(arguments)?;
                if code == INTERNAL_ERROR {
                    return Err(format!("it fails inside: {text}"));
                }
                self.replies = frame(METHOD, 0, &method(10, 51).0);
                self.goodbye = Some(Goodbye::Close(code, text));
            }
            _ => return Err(format!("{id:?}, which no server says")),
        }
        Ok(())
    }

    fn method(
        &mut self,
        number: u16,
        id: (u16, u16),
        arguments: &[u8],
        ledger: &mut Ledger,
    ) -> Heard {
        let channel = self.channels.entry(number).or_default();
        if id == (20, 11) {
            if channel.is_open {
                return Err("open-ok, and it is open".to_owned());
            }
            channel.is_open = true;
        }
        if id == (20, 41) && ledger.close_answered(number) {
            *channel = Channel::default();
            if self.reopening.remove(&number) {
                self.replies.extend(open(number));
            }
            return Ok(());
        }
        if !channel.is_open {
            return Err(format!("{id:?}, and it is not open"));
        }
        if let Some(content) = &channel.content {
            return Err(format!("{id:?}, and {content:?} was to come"));
        }
        channel.answers += usize::from(ANSWERS.contains(&id) || id == (60, 71));
        match id {
            (60, 60) => {
                let (consumer, arguments) = short(arguments)?;
                channel.deliver(arguments, consumer.starts_with(MANUAL))?;
            }
            (60, 71) => channel.deliver(arguments, !ledger.got(number))?,
            (60, 72) => drop(ledger.got(number)),
            (60, 50) => channel.content = Some(Content::Header),
            (60, 80 | 120) => {
                let (tag, flags) = long(arguments)?;
                let multiple = id.1 == 80 && flags.first() == Some(&1);
                self.confirmed += channel.confirm(number, (tag, multiple, id.1 == 80), ledger)?;
            }
            (90, 21) => {
                if ledger.follows(number) {
                    ledger.committed(number, channel.commits);
                }
                channel.commits += 1;
            }
            (50, 11) => {
                let name = String::from_utf8_lossy(short(arguments)?.0).into_owned();
                self.named.extend(name.starts_with("amq.gen-").then_some(name));
            }
            (20, 40) => {
                let (code, text) = close(arguments)?;
                if code == INTERNAL_ERROR {
                    return Err(format!("it fails inside: {text}"));
                }
                ledger.end_channel(number);
                *channel = Channel::default();
                self.replies.extend(frame(METHOD, number, &method(20, 41).0));
                if !self.reopening.contains(&number) {
                    self.replies.extend(open(number));
                }
            }
            (60, 30) => short(arguments).map(drop)?,
            _ if ANSWERS.contains(&id) => {}
            _ => return Err(format!("{id:?}, which no server says")),
        }
        self.delivered += u64::from(matches!(id, (60, 60 | 71)));
        Ok(())
    }

    fn content(&mut self, kind: u8, number: u16, payload: &[u8]) -> Heard {
        let channel = self.channels.entry(number).or_default();
        let left = match (kind, channel.content.take()) {
            (HEADER, Some(Content::Header)) => {
                let (size, _) = long(payload.get(4..).unwrap_or_default())?;
                size
            }
            (BODY, Some(Content::Body(left))) => {
                let length = u64::try_from(payload.len()).unwrap();
                left.checked_sub(length).ok_or("a body longer than its header says")?
            }
            (_, wanted) => {
                return Err(format!("a frame of kind {kind}, and {wanted:?} was to come"));
            }
        };
        channel.content = (left > 0).then_some(Content::Body(left));
        Ok(())
    }
}

impl Channel {
    fn deliver(&mut self, arguments: &[u8], is_in_hand: bool) -> Heard {
        let (tag, _) = long(arguments)?;
        if tag != self.last_tag + 1 {
            return Err(format!("delivery {tag} after {}", self.last_tag));
        }
        self.last_tag = tag;
        self.in_hand.extend(is_in_hand.then_some(tag));
        self.content = Some(Content::Header);
        Ok(())
    }

    fn confirm(
        &mut self,
        number: u16,
        (tag, multiple, is_ack): (u64, bool, bool),
        ledger: &mut Ledger,
    ) -> Result<u64, String> {
        if !ledger.follows(number) {
            return Ok(0);
        }
        let tag = usize::try_from(tag).unwrap();
        if tag == 0 || tag > ledger.confirms(number) {
            let publishes = ledger.confirms(number);
            return Err(format!("publish {tag} is confirmed, of {publishes}"));
        }
        let first = if multiple { 1 } else { tag };
        let mut confirmed = 0;
        for publish in first..=tag {
            if self.settled.insert(publish) {
                confirmed += 1;
                if is_ack {
                    ledger.confirmed(number, publish);
                }
            } else if !multiple {
                return Err(format!("publish {tag} is confirmed again"));
            }
        }
        Ok(confirmed)
    }
}

fn open(channel: u16) -> Vec<u8> {
    frame(METHOD, channel, &method(20, 10).u8(0).0)
}

fn close(arguments: &[u8]) -> Result<(u16, String), String> {
    let Some(([high, low], rest)) = arguments.split_first_chunk() else {
        return Err("a close without a code".to_owned());
    };
    let text = String::from_utf8_lossy(short(rest)?.0).into_owned();
    Ok((u16::from_be_bytes([*high, *low]), text))
}

/// A short string, and what follows it.
fn short(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let text =
        bytes.split_first().and_then(|(length, rest)| rest.split_at_checked((*length).into()));
    text.ok_or_else(|| "a method that ends too early".to_owned())
}

fn long(bytes: &[u8]) -> Result<(u64, &[u8]), String> {
    let number =
        bytes.split_first_chunk().map(|(number, rest)| (u64::from_be_bytes(*number), rest));
    number.ok_or_else(|| "a number that ends too early".to_owned())
}
