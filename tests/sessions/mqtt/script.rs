//! What a client says in a session: mostly well, and then damaged.

use fastrand::Rng;

use crate::{
    chance::{damage, edge, once_in, one_of, pieces},
    promises::Bodies,
    wire::Wire,
};

const OPERATIONS_MAX: usize = 80;
/// Packet identifiers of one session; the next one has others, should it go on with what this one began.
const IDS: u16 = 2000;
const TOPICS: [&str; 8] = ["a", "a/b", "a/b/c", "/", "a//b", "b/c", "\u{e9}", "$delayed/1/a"];
const FILTERS: [&str; 14] = [
    "a",
    "#",
    "+",
    "a/#",
    "+/b",
    "a/+/c",
    "+/+",
    "$SYS/#",
    "$share/g/a/#",
    "$share/h/#",
    "$exclusive/a",
    "$queue/mq",
    "$queue/+",
    "b/c",
];

/// One thing that a client does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends packets.
    Say(Vec<u8>),
    /// Sends what is on the socket alone, and no packet.
    Frame(Vec<u8>),
    /// Waits a little for what the server says.
    Listen,
    /// Waits until everything is answered.
    Await,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a DISCONNECT.
    Leave,
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
    /// Acknowledges nothing.
    pub is_lazy: bool,
    /// Speaks through a WebSocket.
    pub is_web: bool,
    /// The server may end it though nothing is wrong: others have the same client identifier, or it
    /// asks for more than there is.
    pub is_contested: bool,
}

#[derive(Clone, Debug)]
struct Packet {
    first: u8,
    /// Said in place of the body's.
    length: Option<Vec<u8>>,
    body: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Item {
    Raw(Vec<u8>),
    Packet(Packet),
    Other(Step),
}

struct Writer {
    random: Rng,
    number: u16,
    kept: String,
    version: u8,
    ids: u16,
    bodies: Bodies,
    is_contested: bool,
    items: Vec<Item>,
}

pub fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        bytes.push(low | if value > 0 { 0x80 } else { 0 });
        if value == 0 {
            return bytes;
        }
    }
}

/// A packet's bytes.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], &*varint(body.len()), body].concat()
}

/// The client identifiers of a round.
pub fn client_id(seed: u64, number: usize) -> String {
    format!("bad-{seed}-{number}")
}

/// A greeting that wants nothing.
pub fn hello(client_id: &str) -> Vec<u8> {
    let body = Wire::default().text(b"MQTT").u8(4).u8(2).u16(0).text(client_id.as_bytes());
    packet(0x10, &body.0)
}

/// Writes a session: its number is in the bodies of what it publishes to the kept topic.
pub fn write(seed: u64, number: usize, round: u64, kept: &str) -> Script {
    let mut random = Rng::with_seed(seed);
    let version = one_of(&mut random, &[3, 4, 5, 5]);
    let is_damaged = random.bool();
    let is_web = once_in(&mut random, 4);
    let is_deaf = once_in(&mut random, 12);
    let is_lazy = once_in(&mut random, 8);
    let end = match random.u8(..8) {
        0..5 => End::Leave,
        5 => End::HalfClose,
        _ => End::Vanish,
    };
    // What comes to the server between the pieces of a packet changes it, and nobody knows how.
    let is_scrambled = is_damaged && is_web && random.bool();
    let kept = if is_scrambled { TOPICS[0] } else { kept };
    let (kept, items) = (kept.to_owned(), Vec::new());
    let bodies = Bodies::new(number, &mut random);
    let number = u16::try_from(number).unwrap();
    let mut writer =
        Writer { random, number, kept, version, ids: 0, bodies, is_contested: false, items };
    writer.connect(round);
    for _ in 0..writer.random.usize(1..OPERATIONS_MAX) {
        writer.operate();
    }
    if once_in(&mut writer.random, 10) {
        writer.flood();
    }
    if end == End::Leave {
        writer.items.push(Item::Other(Step::Await));
        writer.say(0xe0, Wire::default());
    }
    if is_damaged {
        for _ in 0..writer.random.usize(1..4) {
            writer.damage();
        }
    }
    let Writer { mut random, items, is_contested, .. } = writer;
    let mut steps = steps(&mut random, items);
    if is_scrambled {
        let at = random.usize(..=steps.len());
        steps.insert(at, Step::Frame(stray_frame(&mut random)));
    }
    Script { steps, end, is_damaged, is_deaf, is_lazy, is_web, is_contested }
}

fn steps(random: &mut Rng, items: Vec<Item>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut bytes = Vec::new();
    for item in items {
        match item {
            Item::Raw(raw) => bytes.extend(raw),
            Item::Packet(Packet { first, length, body }) => {
                bytes.push(first);
                bytes.extend(length.unwrap_or_else(|| varint(body.len())));
                bytes.extend(body);
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

impl Writer {
    fn say(&mut self, first: u8, body: Wire) {
        self.items.push(Item::Packet(Packet { first, length: None, body: body.0 }));
    }

    fn id(&mut self) -> u16 {
        self.ids = self.ids % (IDS - 1) + 1;
        self.number * IDS + self.ids
    }

    /// A property block, before version 5 nothing.
    fn properties(&mut self, of: &[u8]) -> Wire {
        let mut block = Wire::default();
        for id in of {
            if self.random.u8(..3) == 0 {
                block = property(&mut self.random, *id, block);
            }
        }
        let length = varint(block.0.len());
        if self.version == 5 { Wire::default().raw(&length).raw(&block.0) } else { Wire::default() }
    }

    fn connect(&mut self, round: u64) {
        let is_shared = once_in(&mut self.random, 4);
        let is_unnamed = !is_shared && self.version == 5 && once_in(&mut self.random, 8);
        self.is_contested = is_shared;
        let id = match (is_unnamed, is_shared) {
            (true, _) => String::new(),
            (_, true) => client_id(round, 0),
            _ => client_id(round, usize::from(self.number) + 1),
        };
        let clean = u8::from(self.random.bool() || is_unnamed) << 1;
        let has_will = !is_unnamed && self.random.u8(..3) == 0;
        let qos = self.random.u8(..3);
        let will_flags = if has_will { 4 | qos << 3 | self.random.u8(..2) << 5 } else { 0 };
        let name: &[u8] = if self.version == 3 { b"MQIsdp" } else { b"MQTT" };
        let of: &[u8] =
            if is_unnamed { &[0x21, 0x27] } else { &[0x11, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27] };
        let properties = self.properties(of);
        let keep_alive = one_of(&mut self.random, &[0, 0, 60]);
        let mut body = Wire::default().text(name).u8(self.version).u8(0xc0 | clean | will_flags);
        body = body.u16(keep_alive).raw(&properties.0).text(id.as_bytes());
        if has_will {
            let properties = self.properties(&[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26]);
            let topic = one_of(&mut self.random, &TOPICS);
            body = body.raw(&properties.0).text(topic.as_bytes()).text(b"gone");
        }
        self.say(0x10, body.text(b"guest").text(b"guest"));
    }

    fn operate(&mut self) {
        match self.random.u8(..24) {
            0..12 => self.publish(),
            12..17 => self.subscribe(),
            17..19 => {
                let id = self.id();
                let properties = self.properties(&[0x26]);
                let filter = one_of(&mut self.random, &FILTERS);
                let body = Wire::default().u16(id).raw(&properties.0).text(filter.as_bytes());
                self.say(0xa2, body);
            }
            19..21 => self.say(0xc0, Wire::default()),
            21 => self.items.push(Item::Other(Step::Await)),
            _ => self.items.push(Item::Other(Step::Listen)),
        }
    }

    fn publish(&mut self) {
        let is_kept = self.random.u8(..3) == 0;
        let qos = self.random.u8(..3);
        let retain = u8::from(!is_kept && once_in(&mut self.random, 4));
        let topic = one_of(&mut self.random, &TOPICS);
        let topic = if is_kept { self.kept.clone() } else { topic.to_owned() };
        let mut body = Wire::default().text(topic.as_bytes());
        if qos > 0 {
            body = body.u16(self.id());
        }
        let of: &[u8] = if is_kept { &[] } else { &[0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26] };
        let properties = self.properties(of);
        body = body.raw(&properties.0);
        let size = match self.random.u8(..16) {
            0..4 => 0,
            4..14 => self.random.usize(..300),
            14 => self.random.usize(..20_000),
            _ => self.random.usize(..300_000),
        };
        if is_kept {
            body = body.raw(self.bodies.next().as_bytes());
        }
        let (first, body) = (0x30 | qos << 1 | retain, body.raw(&vec![b'k'; size]));
        // Before version 5 a client that is impatient may repeat itself.
        if qos == 2 && self.version < 5 && once_in(&mut self.random, 4) {
            self.say(first, body.clone());
            return self.say(first | 8, body);
        }
        self.say(first, body);
    }

    fn subscribe(&mut self) {
        let id = self.id();
        let properties = self.properties(&[0x0b, 0x26]);
        let mut body = Wire::default().u16(id).raw(&properties.0);
        for _ in 0..self.random.usize(1..4) {
            let filter = one_of(&mut self.random, &FILTERS);
            let qos = self.random.u8(..3);
            let mut options = 0;
            if self.version == 5 {
                options = one_of(&mut self.random, &[0, 0, 4, 8, 0x10, 0x20]);
                if filter.starts_with("$share") {
                    options &= 0x38;
                }
            }
            body = body.text(filter.as_bytes()).u8(qos | options);
        }
        self.say(0x82, body);
    }

    /// Much of one kind.
    fn flood(&mut self) {
        let count = self.random.usize(300..1500);
        match self.random.u8(..5) {
            0 => (0..count * 10).for_each(|_| self.say(0xc0, Wire::default())),
            1 => (0..count).for_each(|_| self.subscribe()),
            2 => {
                // More than may be under way at once.
                self.is_contested = true;
                (0..count).for_each(|_| self.publish());
            }
            3 => {
                for number in 0..count {
                    let topic = format!("retained/{number}");
                    let none = self.properties(&[]);
                    let body = Wire::default().text(topic.as_bytes()).raw(&none.0);
                    self.say(0x31, body.raw(&[b'r'; 500]));
                }
                (0..20).for_each(|_| self.subscribe());
            }
            _ => {
                let id = self.id();
                let none = self.properties(&[]);
                let mut body = Wire::default().u16(id).raw(&none.0);
                for number in 0..count {
                    body = body.text(format!("f/{number}/+").as_bytes()).u8(2);
                }
                self.say(0x82, body);
            }
        }
    }

    fn damage(&mut self) {
        let mut random = self.random.fork();
        if self.items.is_empty() {
            return;
        }
        // Most of it after the greeting, so that it is heard.
        let first = usize::from(!once_in(&mut random, 4)).min(self.items.len() - 1);
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
            5..8 => {
                let stray = stray(&mut random, self.number * IDS);
                self.items.insert(at, Item::Packet(stray));
            }
            _ => {
                let Some(Item::Packet(packet)) = self.items.get_mut(at) else { return };
                match random.u8(..8) {
                    0 => packet.first ^= 1 << random.u8(..8),
                    1 => packet.first = random.u8(..),
                    2 => {
                        let length = packet.body.len();
                        let wrong = [0, 1, length.saturating_sub(1), length + 1, 0x0fff_ffff];
                        packet.length = Some(varint(one_of(&mut random, &wrong)));
                    }
                    3 => packet.length = Some(vec![0xff; random.usize(1..6)]),
                    _ => damage(&mut random, &mut packet.body),
                }
            }
        }
    }
}

/// One property with its value, well-formed.
fn property(random: &mut Rng, id: u8, block: Wire) -> Wire {
    let block = block.u8(id);
    match id {
        0x01 | 0x17 | 0x19 => block.u8(random.u8(..2)),
        0x0b => block.raw(&varint(random.usize(1..300_000))),
        0x11 => block.u32(one_of(random, &[0, 1, 100, u32::MAX])),
        0x18 => block.u32(random.u32(..3)),
        0x02 => block.u32(one_of(random, &[0, 1, 100, u32::MAX])),
        0x21 => block.u16(one_of(random, &[1, 2, 10, u16::MAX])),
        0x22 => block.u16(one_of(random, &[0, 1, 10, u16::MAX])),
        0x23 => block.u16(random.u16(1..65)),
        0x27 => block.u32(one_of(random, &[1000, 100_000, u32::MAX])),
        0x26 => block.text(b"name").text(b"value"),
        0x08 => block.text(b"a/b"),
        _ => block.text(b"some text"),
    }
}

/// A packet out of nowhere: acknowledgements of nothing, what only a server says, a second
/// greeting, an AUTH.
fn stray(random: &mut Rng, ids: u16) -> Packet {
    let id = if random.bool() { ids + random.u16(..20) } else { random.u16(..20) };
    let first = match random.u8(..6) {
        0..4 => one_of(random, &[0x40, 0x50, 0x62, 0x70]),
        4 => one_of(random, &[0x20, 0x90, 0xb0, 0xd0, 0xf0, 0x00]),
        _ => random.u8(..),
    };
    let mut body = Wire::default().u16(id);
    if once_in(random, 4) {
        body = body.u8(u8::try_from(edge(random) & 0xff).unwrap()).u8(0);
    }
    Packet { first, length: None, body: body.0 }
}

/// A frame of a WebSocket: data in a masked frame.
pub fn web(opcode: u8, data: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let head = Wire::default().u8(0x80 | opcode);
    let head = match (u8::try_from(data.len()), u16::try_from(data.len())) {
        (Ok(length @ ..126), _) => head.u8(0x80 | length),
        (_, Ok(length)) => head.u8(0x80 | 126).u16(length),
        _ => head.u8(0x80 | 127).u64(u64::try_from(data.len()).unwrap()),
    };
    let masked: Vec<u8> =
        data.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    head.raw(&MASK).raw(&masked).0
}

/// What a WebSocket's client may say besides, and must not.
fn stray_frame(random: &mut Rng) -> Vec<u8> {
    let mut frame = web(one_of(random, &[0, 1, 2, 3, 8, 9, 10]), b"\x03\xe8stray");
    match random.u8(..4) {
        0 => {}
        1 => frame[0] &= 0x7f,
        2 => {
            let length = edge(random);
            frame = Wire::default().u8(0x82).u8(0xff).u64(length).raw(b"mask").0;
        }
        _ => damage(random, &mut frame),
    }
    frame
}
