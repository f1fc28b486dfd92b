//! Whole sessions driven by chance: well-formed methods in any order, damaged ones, and a store that
//! answers whatever it may. `AMQP_SESSIONS` says how many; a failure prints the seed,
//! and `AMQP_SESSIONS_SEED` runs that one.

use std::env;

use bytes::BufMut;
use mainstem_broker::{Over, Scope};

use super::*;
use crate::session::effect::Answer;

/// Sessions, unless said otherwise.
const SESSIONS: u64 = 20_000;
/// Frames of one session.
const FRAMES_MAX: usize = 200;
/// What one frame and the answers to what it asks may put into the list of effects.
const EFFECTS_MAX: usize = 100_000;
/// Class, method, and how their arguments look: o octet, s short, l long, L long long, t table,
/// n name, S long string.
const METHODS: [(u16, u16, &str); 33] = [
    (10, 11, "tnSn"),
    (10, 31, "sls"),
    (10, 40, "nno"),
    (10, 50, "snss"),
    (10, 51, ""),
    (10, 70, "Sn"),
    (20, 10, "n"),
    (20, 20, "o"),
    (20, 40, "snss"),
    (20, 41, ""),
    (40, 10, "snnot"),
    (40, 20, "sno"),
    (40, 30, "snnnot"),
    (40, 40, "snnnot"),
    (50, 10, "snot"),
    (50, 20, "snnnot"),
    (50, 30, "sno"),
    (50, 40, "sno"),
    (50, 50, "snnnt"),
    (60, 10, "lso"),
    (60, 20, "snnot"),
    (60, 30, "no"),
    (60, 40, "snno"),
    (60, 70, "sno"),
    (60, 80, "Lo"),
    (60, 90, "Lo"),
    (60, 110, "o"),
    (60, 120, "Lo"),
    (85, 10, "o"),
    (90, 10, ""),
    (90, 20, ""),
    (90, 30, ""),
    (99, 99, "s"),
];
const NAMES: [&str; 10] =
    ["", "q", "x", "k", "amq.direct", "amq.mine", "amq.rabbitmq.reply-to", "PLAIN", "/", "direct"];

struct Play {
    random: fastrand::Rng,
    pair: Pair,
    now: UnixMillis,
    offset: u64,
}

#[test]
fn no_order_of_frames_and_answers_breaks_a_session() {
    let number = |name| env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let count = number("AMQP_SESSIONS").unwrap_or(SESSIONS);
    let seeds = number("AMQP_SESSIONS_SEED").map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        let whole = std::panic::catch_unwind(|| Play::new(seed).run());
        assert!(whole.is_ok(), "AMQP_SESSIONS_SEED={seed} fails");
    }
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let pair = if random.u8(..) < 32 { Pair::started() } else { Pair::with_channel() };
        Self { random, pair, now: UnixMillis(1_700_000_000_000), offset: 0 }
    }

    fn run(mut self) {
        for _ in 0..self.random.usize(1..FRAMES_MAX) {
            self.now = self.now.plus(self.random.u64(0..1000));
            match self.random.u8(..) {
                0..8 => self.pair.session.disk_low(self.random.bool(), &mut self.pair.effects),
                8..16 => self.deliver(),
                16..20 => {
                    let consumer = ConsumerId(self.random.u64(0..4));
                    self.pair.session.consumer_gone(consumer, &mut self.pair.effects);
                }
                20..24 => self.pair.session.look_at_unsettled(self.now, &mut self.pair.effects),
                24 => self.pair.session.shut_down(&mut self.pair.effects),
                _ => {
                    let frame = self.frame();
                    self.pair.session.handle(frame, self.now, &mut self.pair.effects);
                }
            }
            if self.perform() {
                return;
            }
            let session = &self.pair.session;
            let bytes: usize = session.channels.values().map(Channel::unpublished_bytes).sum();
            assert_eq!(session.unpublished.bytes, bytes);
        }
    }

    fn frame(&mut self) -> Frame {
        let kind = match self.random.u8(..) {
            0..16 => Kind::Header,
            16..32 => Kind::Body,
            32..36 => Kind::Heartbeat,
            _ => Kind::Method,
        };
        let mut payload = match kind {
            Kind::Method => self.method(),
            Kind::Header => {
                let mut header = BytesMut::new();
                header.put_u32(60 << 16);
                header.put_u64(self.random.u64(0..40));
                header.put_u16(if self.random.bool() { 0 } else { self.random.u16(..) });
                header
            }
            Kind::Body => BytesMut::zeroed(self.random.usize(0..20)),
            Kind::Heartbeat => BytesMut::new(),
        };
        if self.random.u8(..) < 16 && !payload.is_empty() {
            let at = self.random.usize(..payload.len());
            if self.random.bool() {
                payload.truncate(at);
            } else if let Some(byte) = payload.get_mut(at) {
                *byte = self.random.u8(..);
            }
        }
        let channel = if self.random.u8(..) < 200 { 1 } else { self.random.u16(0..4) };
        Frame { kind, channel, payload: payload.freeze() }
    }

    fn method(&mut self) -> BytesMut {
        let at = self.random.usize(..METHODS.len());
        let (class, method, arguments) = METHODS.get(at).copied().unwrap_or((60, 40, ""));
        let mut out = BytesMut::new();
        out.put_u16(class);
        out.put_u16(method);
        for argument in arguments.chars() {
            match argument {
                'o' => out.put_u8(if self.random.bool() { 0 } else { self.random.u8(..) }),
                's' => out.put_u16(self.random.u16(0..4)),
                'l' => out.put_u32(self.random.u32(0..4) * 8192),
                'L' => out.put_u64(self.random.u64(0..6)),
                'n' => self.put_name(&mut out),
                'S' => {
                    out.put_u32(12);
                    out.put_slice(b"\0guest\0guest");
                }
                _ => self.put_table(&mut out),
            }
        }
        out
    }

    fn put_name(&mut self, out: &mut BytesMut) {
        let name = NAMES.get(self.random.usize(..NAMES.len())).copied().unwrap_or_default();
        out.put_u8(u8::try_from(name.len()).unwrap_or(0));
        out.put_slice(name.as_bytes());
    }

    fn put_table(&mut self, out: &mut BytesMut) {
        const KEYS: [&str; 8] = [
            "x-max-length",
            "x-priority",
            "x-stream-offset",
            "x-queue-type",
            "x-message-ttl",
            "x-delayed-type",
            "x-expires",
            "x-max-priority",
        ];
        let mut table = BytesMut::new();
        for _ in 0..self.random.usize(0..3) {
            let key = KEYS.get(self.random.usize(..KEYS.len())).copied().unwrap_or_default();
            table.put_u8(u8::try_from(key.len()).unwrap_or(0));
            table.put_slice(key.as_bytes());
            if self.random.bool() {
                table.put_u8(b'l');
                table.put_i64(self.random.i64(-2..300));
            } else {
                let word = if self.random.bool() { "stream" } else { "direct" };
                table.put_slice(b"S\0\0\0\x06");
                table.put_slice(word.as_bytes());
            }
        }
        out.put_u32(u32::try_from(table.len()).unwrap_or(0));
        out.put_slice(&table);
    }

    fn deliver(&mut self) {
        self.offset += 1;
        let consumer = ConsumerId(self.random.u64(0..4));
        let needs_settle = self.random.bool();
        let _handing = self.pair.session.deliver(consumer, id(self.offset), needs_settle, self.now);
    }

    /// Does what the session asked for, as the store might. Whether the session is over.
    fn perform(&mut self) -> bool {
        let mut performed = 0;
        while let Some(effect) = self.pair.effects.pop_front() {
            performed += 1;
            assert!(performed < EFFECTS_MAX, "effects without end");
            let effects = &mut self.pair.effects;
            match effect {
                Effect::Hangup { .. } => return true,
                Effect::Login(_) => {
                    let outcome =
                        if self.random.u8(..) < 200 { Ok(()) } else { Err(LoginError::Closed) };
                    self.pair.session.logged_in(outcome, effects);
                }
                Effect::Renew(_) => self.pair.session.renewed(self.random.bool(), effects),
                Effect::Enter { vhost } => {
                    let outcome = if self.random.u8(..) < 200 {
                        Ok(())
                    } else {
                        Err(LoginError::NoNamespace)
                    };
                    self.pair.session.entered(vhost, outcome, effects);
                }
                Effect::Publish { ticket, .. } => {
                    let outcome = match self.random.u8(0..4) {
                        0 => taken(0),
                        1 => taken(1),
                        2 => Published::Refused(Refusal::NoExchange("x".to_owned())),
                        _ => Published::Refused(Refusal::QueueFull("q".to_owned())),
                    };
                    let _returned = self.pair.session.is_returned(&ticket, &outcome);
                    self.pair.session.published(&ticket, &outcome, effects);
                    self.pair.session.flush_confirms(effects);
                }
                Effect::Ask(ask) if self.pair.session.is_open(ask.channel) => self.answer(ask),
                Effect::CountChannel { channel, .. } => {
                    let over = Over { scope: Scope::User("u".to_owned()), max: 1 };
                    let counted = if self.random.u8(..) < 16 { Err(over) } else { Ok(()) };
                    self.pair.session.channel_counted(channel, counted, effects);
                }
                Effect::Write { .. }
                | Effect::Settle(_)
                | Effect::SetPool { .. }
                | Effect::Drop(_)
                | Effect::Ask(_)
                | Effect::WriteGot { .. }
                | Effect::Leave => {}
            }
        }
        false
    }

    fn answer(&mut self, ask: Ask) {
        let refused = self.random.u8(..) < 48;
        let answer = match &ask.request {
            _ if refused => Err(match self.random.u8(0..4) {
                0 => Refusal::NoQueue("q".to_owned()),
                1 => Refusal::Locked("q".to_owned()),
                2 => Refusal::InUse("q".to_owned()),
                _ => Refusal::ExclusiveConsumer("q".to_owned()),
            }),
            Request::DeclareExchange(def) => Ok(Answer::Exchange(Declared {
                created: self.random.bool(),
                def: Arc::new(def.clone()),
                stats: QueueStats::default(),
            })),
            Request::FindExchange(_) => Ok(Answer::ExchangeFound(None)),
            Request::DeclareQueue(def) => Ok(Answer::Queue(found(def.clone()))),
            Request::FindQueue(name) => Ok(Answer::Queue(found(queue_def(name)))),
            Request::DeleteQueue { .. } | Request::PurgeQueue(_) => Ok(Answer::Count(3)),
            Request::Get { .. } => Ok(Answer::Got(None)),
            Request::Bind(_)
            | Request::DeleteExchange { .. }
            | Request::Unbind(_)
            | Request::Consume(_)
            | Request::Cancel(_)
            | Request::Barrier => Ok(Answer::Done),
        };
        self.pair.session.answered(ask.channel, ask.then, answer, &mut self.pair.effects);
    }
}

/// A session that may hold two mebibytes.
fn with_room_for_two_mebibytes() -> Pair {
    let mut pair = Pair::opened();
    let limits = Limits { unpublished_bytes_max: 2 << 20, ..Limits::default() };
    pair.session.limits = Arc::new(limits);
    for channel in 1..=4 {
        pair.open_channel(channel);
    }
    pair.effects.clear();
    pair
}

#[test]
fn transactions_of_empty_messages_are_bounded_too() {
    let mut pair = with_room_for_two_mebibytes();
    pair.send(1, AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {})));
    pair.effects.clear();
    let mut count = 0;
    while pair.effects.is_empty() {
        pair.publish(b"", false);
        count += 1;
        assert!(count < 50_000, "it takes {count} messages and more");
    }
    assert!(count > 1000, "{count} messages are not much");
    let text = "506 RESOURCE_ERROR - more than 2097152 bytes were sent that are not published yet";
    assert_eq!(pair.close(), (0, text.to_owned()));
}

#[test]
fn unfinished_messages_of_all_channels_are_bounded_together() {
    let mut pair = with_room_for_two_mebibytes();
    for channel in 1..=4 {
        let publish = basic::Publish {
            exchange: "x".into(),
            routing_key: "k".into(),
            mandatory: false,
            immediate: false,
        };
        pair.send(channel, AMQPClass::Basic(basic::AMQPMethod::Publish(publish)));
        let properties = basic::AMQPProperties::default();
        let header = AMQPContentHeader { class_id: 60, body_size: 1_000_000, properties };
        pair.frame(&AMQPFrame::Header(channel, header));
        for _ in 0..7 {
            assert!(pair.effects.is_empty() || channel >= 3);
            pair.frame(&AMQPFrame::Body(channel, vec![0; 100_000]));
        }
    }
    let (channel, text) = pair.close();
    assert!(channel == 0 && text.starts_with("506 RESOURCE_ERROR - more than 2097152"), "{text}");
}

fn publish_on(pair: &mut Pair, channel: u16) {
    let publish = basic::Publish::default();
    pair.send(channel, AMQPClass::Basic(basic::AMQPMethod::Publish(publish)));
}

#[test]
fn headers_whose_bodies_never_come_are_bounded_too() {
    let mut pair = with_room_for_two_mebibytes();
    pair.session.channel_max = 100;
    let mut payload = BytesMut::new();
    payload.put_u32(60 << 16);
    payload.put_u64(1 << 20);
    payload.put_bytes(0, 100_000);
    let mut sent = 0;
    for channel in 1..100 {
        if channel > 4 {
            pair.open_channel(channel);
        }
        publish_on(&mut pair, channel);
        pair.effects.clear();
        let frame = Frame { kind: Kind::Header, channel, payload: payload.clone().freeze() };
        pair.session.handle(frame, UnixMillis(1), &mut pair.effects);
        sent += 100_000;
        if !pair.effects.is_empty() {
            break;
        }
    }
    assert!((2 << 20..3 << 20).contains(&sent), "{sent} bytes");
    assert!(pair.close().1.starts_with("506 RESOURCE_ERROR - more than 2097152"));
}

#[test]
fn memory_taken_for_a_body_counts_before_the_body_comes() {
    let mut pair = with_room_for_two_mebibytes();
    for channel in 1..=8 {
        if channel > 4 {
            pair.open_channel(channel);
            pair.effects.clear();
        }
        publish_on(&mut pair, channel);
        let properties = basic::AMQPProperties::default();
        let header = AMQPContentHeader { class_id: 60, body_size: 1 << 20, properties };
        pair.frame(&AMQPFrame::Header(channel, header));
        assert!(pair.effects.is_empty());
        pair.frame(&AMQPFrame::Body(channel, vec![0; 10]));
    }
    assert!(pair.close().1.starts_with("506 RESOURCE_ERROR - more than 2097152"));
}

#[test]
fn an_unfinished_message_keeps_nothing_else_that_was_read() {
    let mut pair = with_room_for_two_mebibytes();
    let read = |pair: &mut Pair, channel, kind, payload: &[u8]| {
        let read = Bytes::from([payload, &[0; 1000]].concat());
        let frame = Frame { kind, channel, payload: read.slice(..payload.len()) };
        pair.session.handle(frame, UnixMillis(1), &mut pair.effects);
        read
    };
    let publish = b"\0\x3c\0\x28\0\0\x01x\x01k\0";
    let header = b"\0\x3c\0\0\0\0\0\0\0\0\0\x05\0\0";
    let method = read(&mut pair, 1, Kind::Method, publish);
    assert!(!method.is_unique(), "one that is whole soon is not copied");
    let other = read(&mut pair, 2, Kind::Method, publish);
    assert!(method.is_unique() && !other.is_unique(), "another one begins");
    pair.session.detach();
    assert!(other.is_unique(), "the read is over");
    let header = read(&mut pair, 2, Kind::Header, header);
    assert!(!header.is_unique());
    pair.session.detach();
    assert!(header.is_unique());
    let _body = read(&mut pair, 2, Kind::Body, b"bytes");
    let Some(Effect::Publish { content, .. }) = pair.effects.pop_front() else { panic!() };
    assert_eq!((&*content.exchange, &*content.routing_key), (&b"x"[..], &b"k"[..]));
    assert_eq!((&*content.properties, &*content.body), (&[0, 0][..], &b"bytes"[..]));
}
