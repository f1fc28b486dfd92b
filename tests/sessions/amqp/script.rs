//! What a client says in a session: mostly well, and then damaged.

use fastrand::Rng;

use super::{
    names::{
        AUTO_DELETE, DURABLE, Declared, EXCLUSIVE, Names, PASSIVE, binding_arguments,
        consumer_arguments, exchange_arguments, key, own, queue, queue_arguments,
    },
    properties::properties,
    table::{boolean, table},
};
use crate::{
    chance::{damage, edge, once_in, one_of, pieces},
    promises::Bodies,
    wire::Wire,
};

pub const METHOD: u8 = 1;
pub const HEADER: u8 = 2;
pub const BODY: u8 = 3;
pub const HEARTBEAT: u8 = 8;
pub const FRAME_END: u8 = 0xce;
/// Begins the tags of consumers that settle what they get.
pub const MANUAL: &[u8] = b"manual";
pub const PROTOCOL: &[u8] = b"AMQP\0\0\x09\x01";
/// Properties that cannot keep a message from its queue: none, transient, persistent.
pub const PLAIN: [&[u8]; 3] = [&[0, 0], &[0x10, 0, 1], &[0x10, 0, 2]];

const OPERATIONS_MAX: usize = 160;
const CHANNELS: u16 = 4;

/// One thing that a client does.
#[derive(Clone, Debug)]
pub enum Step {
    Say(Vec<u8>),
    /// Settles the delivery that is longest in hand, by a method with its tag.
    Settle {
        channel: u16,
        method: u16,
        bits: u8,
    },
    /// Closes a channel, and opens it again when it is closed.
    Reopen {
        channel: u16,
    },
    /// Waits a little for what the server says.
    Listen,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a connection.close.
    Close,
    /// By saying nothing more, and listening.
    HalfClose,
    /// By being gone.
    Vanish,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub steps: Vec<Step>,
    pub end: End,
    pub is_damaged: bool,
    /// Reads nothing.
    pub is_deaf: bool,
}

#[derive(Clone, Debug)]
struct Frame {
    kind: u8,
    channel: u16,
    payload: Vec<u8>,
    /// Said in place of the payload's.
    size: Option<u32>,
    end: u8,
}

#[derive(Clone, Debug)]
enum Item {
    Raw(Vec<u8>),
    Frame(Frame),
    Other(Step),
}

struct Writer<'a> {
    random: Rng,
    names: &'a Names,
    /// Which session of its round it is.
    number: usize,
    bodies: Bodies,
    consumers: u32,
    frame_max: usize,
    /// What each channel promises; the first is channel 1.
    modes: Vec<Mode>,
    items: Vec<Item>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    Confirm,
    Transaction,
}

pub fn method(class: u16, method: u16) -> Wire {
    Wire::default().u16(class).u16(method)
}

/// A frame's bytes.
pub fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    Wire::default().u8(kind).u16(channel).long(payload).u8(FRAME_END).0
}

impl<'a> Writer<'a> {
    fn new(seed: u64, number: usize, names: &'a Names) -> Self {
        let mut random = Rng::with_seed(seed);
        let frame_max = one_of(&mut random, &[4096, 8192, 131_072, 131_072]);
        let (modes, items) = (Vec::new(), Vec::new());
        let bodies = Bodies::new(number, &mut random);
        Self { random, names, number, bodies, consumers: 0, frame_max, modes, items }
    }
}

/// Writes the session that declares what the others use, each on a channel of its own.
pub fn found(seed: u64, names: &Names) -> Script {
    let mut writer = Writer::new(seed, 0, names);
    writer.handshake(false);
    let mut channel = 0;
    let mut next = |writer: &mut Writer<'_>| {
        channel += 1;
        writer.say(channel, method(20, 10).u8(0));
        channel
    };
    for Declared { name, kind, bits, arguments } in &names.exchanges {
        let channel = next(&mut writer);
        let declare = method(40, 10).u16(0).short(name.as_bytes()).short(kind.as_bytes());
        writer.say(channel, declare.u8(*bits).raw(&arguments.0));
    }
    for Declared { name, bits, arguments, .. } in &names.queues {
        let channel = next(&mut writer);
        if *bits & EXCLUSIVE == 0 {
            let declare = method(50, 10).u16(0).short(name.as_bytes()).u8(*bits);
            writer.say(channel, declare.raw(&arguments.0));
        }
    }
    for _ in 0..writer.random.usize(10..30) {
        let channel = next(&mut writer);
        writer.bind(channel);
    }
    writer.say(0, method(10, 50).u16(200).short(b"bye").u32(0));
    let Writer { mut random, items, .. } = writer;
    Script { steps: steps(&mut random, items), end: End::Close, is_damaged: false, is_deaf: false }
}

/// Writes a session: its number is in the bodies of what it publishes to the kept queue.
pub fn write(seed: u64, number: usize, names: &Names) -> Script {
    let mut writer = Writer::new(seed, number, names);
    let random = &mut writer.random;
    let is_damaged = random.bool();
    let is_deaf = once_in(random, 12);
    let end = match random.u8(..8) {
        0..5 => End::Close,
        5 => End::HalfClose,
        _ => End::Vanish,
    };
    writer.handshake(is_damaged);
    let channels = writer.random.u16(1..=CHANNELS);
    for channel in 1..=channels {
        writer.open(channel);
    }
    if writer.random.bool() {
        let own = own(number);
        writer.say(1, method(50, 10).u16(0).short(own.as_bytes()).u8(EXCLUSIVE).u32(0));
    }
    for _ in 0..writer.random.usize(1..OPERATIONS_MAX) {
        let channel = writer.random.u16(1..=channels);
        writer.operate(channel);
    }
    if once_in(&mut writer.random, 12) {
        writer.flood();
    }
    if end == End::Close {
        let close = method(10, 50).u16(200).short(b"bye").u32(0);
        writer.say(0, close);
    }
    if is_damaged {
        for _ in 0..writer.random.usize(1..4) {
            writer.damage();
        }
    }
    let Writer { mut random, items, .. } = writer;
    Script { steps: steps(&mut random, items), end, is_damaged, is_deaf }
}

/// Frames in a row are said together, in pieces as chance has it.
fn steps(random: &mut Rng, items: Vec<Item>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut bytes = Vec::new();
    for item in items {
        match item {
            Item::Raw(raw) => bytes.extend(raw),
            Item::Frame(Frame { kind, channel, payload, size, end }) => {
                let size = size.unwrap_or_else(|| u32::try_from(payload.len()).unwrap());
                let head = Wire::default().u8(kind).u16(channel).u32(size);
                bytes.extend(head.raw(&payload).u8(end).0);
            }
            Item::Other(step) => {
                steps.extend(pieces(random, &bytes).into_iter().map(Step::Say));
                bytes.clear();
                steps.push(step);
            }
        }
    }
    steps.extend(pieces(random, &bytes).into_iter().map(Step::Say));
    steps
}

impl Writer<'_> {
    fn say(&mut self, channel: u16, payload: Wire) {
        self.frame(METHOD, channel, payload.0);
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: Vec<u8>) {
        self.items.push(Item::Frame(Frame { kind, channel, payload, size: None, end: FRAME_END }));
    }

    fn handshake(&mut self, is_damaged: bool) {
        let random = &mut self.random;
        let header = match random.u8(..20) {
            0 => b"AMQP\x01\x01\x00\x09",
            1 if is_damaged => b"AMQP\x00\x01\x00\x00",
            _ => PROTOCOL,
        };
        let wanted =
            ["consumer_cancel_notify", "connection.blocked", "authentication_failure_close"];
        let mut capabilities = Vec::new();
        for name in wanted {
            capabilities.push((name, boolean(random.bool())));
        }
        let capabilities = Wire::default().u8(b'F').raw(&table(random, capabilities).0);
        let properties = table(random, vec![("capabilities", capabilities)]);
        let (user, host): (&[u8], &[u8]) = match random.u8(..16) {
            0 if is_damaged => (b"\0guest\0wrong", b"/"),
            1 if is_damaged => (b"\0guest\0guest", b"nowhere"),
            _ => (b"\0guest\0guest", b"/"),
        };
        let start = method(10, 11).raw(&properties.0).short(b"PLAIN").long(user).short(b"en_US");
        let heartbeat = one_of(random, &[0, 0, 0, 60]);
        let frame_max = u32::try_from(self.frame_max).unwrap();
        let tune = method(10, 31).u16(2047).u32(frame_max).u16(heartbeat);
        self.items.push(Item::Raw(header.to_vec()));
        self.say(0, start);
        self.say(0, tune);
        self.say(0, method(10, 40).short(host).u8(0).u8(0));
    }

    fn open(&mut self, channel: u16) {
        self.say(channel, method(20, 10).u8(0));
        let mode = one_of(&mut self.random, &[Mode::Plain, Mode::Confirm, Mode::Transaction]);
        self.modes.push(mode);
        match mode {
            Mode::Plain => {}
            Mode::Confirm => self.say(channel, method(85, 10).u8(0)),
            Mode::Transaction => self.say(channel, method(90, 10)),
        }
    }

    fn operate(&mut self, channel: u16) {
        match self.random.u8(..40) {
            0..4 => self.declare_queue(channel),
            4..6 => self.declare_exchange(channel),
            6..9 => self.bind(channel),
            9..18 => self.publish(channel),
            18..21 => self.consume(channel),
            21..23 => self.get(channel),
            23..28 => {
                let method = one_of(&mut self.random, &[80, 80, 90, 120]);
                let bits = self.random.u8(..4);
                self.items.push(Item::Other(Step::Listen));
                self.items.push(Item::Other(Step::Settle { channel, method, bits }));
            }
            28..30 => self.items.push(Item::Other(Step::Listen)),
            30..33 => self.transact(channel),
            33 => self.items.push(Item::Other(Step::Reopen { channel })),
            _ => self.rarely(channel),
        }
    }

    fn declare_queue(&mut self, channel: u16) {
        let random = &mut self.random;
        let Declared { name, bits, arguments, .. } = one_of_all(random, &self.names.queues);
        let (mut name, mut bits, mut arguments) = ((*name).to_owned(), *bits, arguments.clone());
        if bits & EXCLUSIVE != 0 {
            name = own(self.number);
        }
        match random.u8(..16) {
            0 => bits ^= one_of(random, &[PASSIVE, DURABLE, EXCLUSIVE, AUTO_DELETE, 16]),
            1 => arguments = queue_arguments(random, false),
            2 => (name, bits) = (String::new(), EXCLUSIVE),
            3 => name = one_of(random, &["amq.mine", "line\r\nbreak", "\u{e9}\u{20ac}"]).to_owned(),
            _ => {}
        }
        let declare = method(50, 10).u16(0).short(name.as_bytes()).u8(bits).raw(&arguments.0);
        self.say(channel, declare);
    }

    fn declare_exchange(&mut self, channel: u16) {
        let random = &mut self.random;
        let declared = one_of_all(random, &self.names.exchanges);
        let Declared { name, mut kind, mut bits, mut arguments } = declared.clone();
        match random.u8(..16) {
            0 => bits ^= one_of(random, &[PASSIVE, DURABLE, 4, 8, 16]),
            1 => arguments = exchange_arguments(random, kind),
            2 => kind = one_of(random, &["direct", "none", ""]),
            _ => {}
        }
        let declare = method(40, 10).u16(0).short(name.as_bytes()).short(kind.as_bytes());
        self.say(channel, declare.u8(bits).raw(&arguments.0));
    }

    fn bind(&mut self, channel: u16) {
        let random = &mut self.random;
        let is_queue = random.u8(..4) > 0;
        let unbinds = once_in(random, 6);
        let to = match is_queue {
            true => queue(random, self.number),
            false => self.names.exchange(random).to_owned(),
        };
        let from = match self.names.exchange(random) {
            "" if !once_in(random, 20) => "x0",
            from => from,
        };
        let (id, says_wait) = match (is_queue, unbinds) {
            (true, false) => ((50, 20), true),
            (true, true) => ((50, 50), false),
            (false, false) => ((40, 30), true),
            (false, true) => ((40, 40), true),
        };
        let names = [&*to, from, key(random)];
        let method =
            names.iter().fold(method(id.0, id.1).u16(0), |m, name| m.short(name.as_bytes()));
        let method = if says_wait { method.u8(u8::from(once_in(random, 8))) } else { method };
        let arguments = binding_arguments(random);
        self.say(channel, method.raw(&arguments.0));
    }

    fn publish(&mut self, channel: u16) {
        if self.random.u8(..3) == 0 {
            let kept = self.names.kept.clone();
            let mut body = self.bodies.next().into_bytes();
            body.resize(body.len() + self.random.usize(..300), b'k');
            let properties = one_of(&mut self.random, &PLAIN).to_vec();
            return self.content(channel, ("", &kept), 1, &properties, &body);
        }
        let random = &mut self.random;
        let exchange = self.names.exchange(random);
        let routing = match exchange {
            "" => queue(random, self.number),
            _ => key(random).to_owned(),
        };
        let size = match random.u8(..16) {
            0..4 => 0,
            4..12 => random.usize(..200),
            12..15 => random.usize(..20_000),
            _ => random.usize(..300_000),
        };
        let bits = if once_in(random, 100) { 2 } else { random.u8(..2) };
        let properties = properties(random);
        let body: Vec<u8> = (0..size).map(|at| u8::try_from(at & 0xff).unwrap()).collect();
        self.content(channel, (exchange, &routing), bits, &properties, &body);
    }

    fn content(
        &mut self,
        channel: u16,
        (exchange, key): (&str, &str),
        bits: u8,
        properties: &[u8],
        body: &[u8],
    ) {
        let publish = method(60, 40).u16(0).short(exchange.as_bytes()).short(key.as_bytes());
        self.say(channel, publish.u8(bits));
        let size = u64::try_from(body.len()).unwrap();
        let header = Wire::default().u16(60).u16(0).u64(size).raw(properties);
        self.frame(HEADER, channel, header.0);
        let most = if once_in(&mut self.random, 4) { 1000 } else { self.frame_max - 8 };
        for part in body.chunks(most.min(self.frame_max - 8)) {
            self.frame(BODY, channel, part.to_vec());
        }
    }

    fn consume(&mut self, channel: u16) {
        let random = &mut self.random;
        let direct = once_in(random, 8);
        let queue = match direct {
            true => "amq.rabbitmq.reply-to".to_owned(),
            false => queue(random, self.number),
        };
        let prefetch = random.u16(..20);
        let bits = match random.u8(..8) {
            0 => random.u8(..16),
            1 => 4,
            _ => u8::from(direct || random.u8(..3) == 0 && queue != "s") << 1,
        };
        let no_ack = bits & 2 != 0;
        self.consumers += 1;
        let tag = match (once_in(random, 60), no_ack) {
            // Tags that are taken end the connection.
            (true, _) => b"taken".to_vec(),
            (false, true) => format!("auto{}", self.consumers).into_bytes(),
            (false, false) => [MANUAL, self.consumers.to_string().as_bytes()].concat(),
        };
        let arguments = consumer_arguments(random, queue == "s");
        let global = u8::from(once_in(random, 4));
        self.say(channel, method(60, 10).u32(0).u16(prefetch).u8(global));
        let consume = method(60, 20).u16(0).short(queue.as_bytes()).short(&tag);
        self.say(channel, consume.u8(bits).raw(&arguments.0));
    }

    fn get(&mut self, channel: u16) {
        let mut queue = queue(&mut self.random, self.number);
        if queue == "s" && self.random.u8(..8) > 0 {
            "q0".clone_into(&mut queue);
        }
        let no_ack = u8::from(self.random.bool());
        self.say(channel, method(60, 70).u16(0).short(queue.as_bytes()).u8(no_ack));
    }

    fn transact(&mut self, channel: u16) {
        let mode = self.modes[usize::from(channel) - 1];
        if mode != Mode::Transaction && !once_in(&mut self.random, 20) {
            return self.publish(channel);
        }
        let id = one_of(&mut self.random, &[10, 20, 20, 30]);
        self.say(channel, method(90, id));
    }

    fn rarely(&mut self, channel: u16) {
        let random = &mut self.random;
        let (queue, exchange) = (queue(random, self.number), self.names.exchange(random));
        let bits = random.u8(..8);
        let tag = if random.bool() { random.u64(..20) } else { edge(random) };
        let said = match random.u8(..32) {
            0..4 => method(50, 30).u16(0).short(queue.as_bytes()).u8(bits & 1),
            4..6 => method(50, 40).u16(0).short(queue.as_bytes()).u8(bits),
            6 => method(40, 20).u16(0).short(exchange.as_bytes()).u8(bits & 3),
            7..11 => method(60, 110).u8(1),
            11..13 => method(60, 100).u8(1),
            13..16 => method(60, 80).u64(if random.bool() { 0 } else { tag }).u8(1),
            16 => method(60, 120).u64(tag).u8(bits),
            17..20 => method(60, 30).short(one_of(random, &[b"taken", b"never"])).u8(bits & 1),
            20..22 => method(20, 20).u8(1),
            22..24 => method(30, 10).short(b"/data").u8(bits),
            28 => return self.say(0, method(10, 70).long(b"secret").short(b"why")),
            29 => return self.frame(HEARTBEAT, 0, Vec::new()),
            // What ends the connection, though it is well-formed.
            30 if once_in(random, 8) => method(20, 20).u8(0),
            31 if once_in(random, 8) => method(60, 10).u32(9).u16(1).u8(0),
            _ => method(60, 10).u32(0).u16(random.u16(..20)).u8(bits & 1),
        };
        self.say(channel, said);
    }

    /// Much of one kind, on the first channel.
    fn flood(&mut self) {
        let count = self.random.usize(500..3000);
        match self.random.u8(..6) {
            0 => (0..count).for_each(|_| self.get(1)),
            1 => {
                // What was got and given back is there to be got again.
                let own = format!("flooded-{}", self.number);
                self.say(1, method(50, 10).u16(0).short(own.as_bytes()).u8(EXCLUSIVE).u32(0));
                let body = vec![b'f'; self.random.usize(..2_000_000)];
                self.content(1, ("", &own), 0, PLAIN[0], &body);
                for _ in 0..count {
                    self.say(1, method(60, 70).u16(0).short(own.as_bytes()).u8(0));
                    self.say(1, method(60, 110).u8(1));
                }
            }
            2 => (1..=count).for_each(|n| self.open(u16::try_from(n * 20).unwrap_or(9))),
            3 => (0..count).for_each(|_| {
                self.say(1, method(50, 10).u16(0).short(b"").u8(EXCLUSIVE).u32(0));
            }),
            4 => (0..count).for_each(|_| self.consume(1)),
            _ => {
                // Messages whose bodies never come, on many channels.
                for channel in CHANNELS + 1..=u16::try_from(count).unwrap() {
                    self.open(channel);
                    self.say(channel, method(60, 40).u16(0).short(b"").short(b"q0").u8(0));
                    let header = Wire::default().u16(60).u16(0).u64(2_000_000).u16(0);
                    self.frame(HEADER, channel, header.0);
                    let part = vec![b'p'; self.frame_max.min(20_000) - 8];
                    self.frame(BODY, channel, part);
                }
            }
        }
    }

    fn damage(&mut self) {
        let mut random = self.random.fork();
        if self.items.is_empty() {
            return;
        }
        // Most of it after the handshake, so that it is heard.
        let first = if once_in(&mut random, 5) { 0 } else { 4.min(self.items.len() - 1) };
        let at = random.usize(first..self.items.len());
        let other = random.usize(first..self.items.len());
        match random.u8(..16) {
            0 => self.items.swap(at, other),
            1 => self.items.insert(at, self.items[other].clone()),
            2 => drop(self.items.remove(at)),
            3 => self.items.truncate(at + 1),
            4 => {
                let noise = (0..random.usize(1..40)).map(|_| random.u8(..)).collect();
                self.items.insert(at, Item::Raw(noise));
            }
            5 => self.items.insert(at, Item::Frame(stray(&mut random))),
            _ => {
                let Some(Item::Frame(frame)) = self.items.get_mut(at) else { return };
                damage_frame(&mut random, frame);
            }
        }
    }
}

fn damage_frame(random: &mut Rng, frame: &mut Frame) {
    let length = u32::try_from(frame.payload.len()).unwrap();
    match random.u8(..12) {
        0 => frame.channel = one_of(random, &[0, 1, 2, 9, 2047, 2048, u16::MAX]),
        1 => frame.kind = one_of(random, &[0, METHOD, HEADER, BODY, 4, 7, HEARTBEAT, 255]),
        2 => {
            let wrong = [0, 1, length.saturating_sub(1), length + 1, 131_064, 131_065, u32::MAX];
            frame.size = Some(one_of(random, &wrong));
        }
        3 => frame.end = random.u8(..),
        // A body of another length than its header says.
        4 if frame.kind == HEADER && frame.payload.len() > 12 => {
            let said = edge(random).to_be_bytes();
            frame.payload[4..12].copy_from_slice(&said);
        }
        _ => damage(random, &mut frame.payload),
    }
}

/// A frame out of nowhere: what only a server says, unknown methods, content without a method.
fn stray(random: &mut Rng) -> Frame {
    const SERVERS: [(u16, u16); 10] = [
        (10, 10),
        (10, 30),
        (10, 51),
        (20, 11),
        (20, 41),
        (50, 11),
        (60, 60),
        (60, 71),
        (90, 21),
        (99, 1),
    ];
    let kind = one_of(random, &[METHOD, METHOD, HEADER, BODY, HEARTBEAT]);
    let payload = match kind {
        METHOD => {
            let (class, id) = one_of(random, &SERVERS);
            method(class, id).u64(edge(random)).u32(0)
        }
        HEADER => Wire::default().u32(60 << 16).u64(edge(random)).u16(random.u16(..)),
        _ => Wire::default().u64(edge(random)),
    };
    let channel = random.u16(..4);
    Frame { kind, channel, payload: payload.0, size: None, end: FRAME_END }
}

fn one_of_all<'a, T>(random: &mut Rng, all: &'a [T]) -> &'a T {
    &all[random.usize(..all.len())]
}
