//! The queues and exchanges of a round: what its sessions mostly agree on.

use fastrand::Rng;

use super::table::{boolean, number, table, text, value};
use crate::{
    chance::{edge, once_in, one_of},
    wire::Wire,
};

pub const PASSIVE: u8 = 1;
pub const DURABLE: u8 = 2;
pub const EXCLUSIVE: u8 = 4;
pub const AUTO_DELETE: u8 = 8;

const QUEUES: [&str; 10] = ["q0", "q1", "q2", "q3", "q4", "q5", "auto", "auto-too", "s", ALONE];
/// Begins the names of the sessions' own queues.
const ALONE: &str = "alone";
const EXCHANGES: [&str; 6] = ["x0", "x1", "x2", "x3", "x4", "x5"];
const KINDS: [&str; 9] = [
    "direct",
    "fanout",
    "topic",
    "headers",
    "x-delayed-message",
    "x-consistent-hash",
    "x-random",
    "x-recent-history",
    "x-modulus-hash",
];
const KEYS: [&str; 10] = ["", "a", "a.b", "a.*", "#", "*.b", "a.#.b", "q0", "q1", "1"];
/// Not amq.topic: what is bound there may refuse what MQTT clients publish, as it is asked to.
const PREDECLARED: [&str; 4] = ["", "amq.direct", "amq.fanout", "amq.headers"];

/// How a queue or an exchange is to be declared.
#[derive(Clone, Debug)]
pub struct Declared {
    pub name: &'static str,
    pub kind: &'static str,
    pub bits: u8,
    pub arguments: Wire,
}

/// What there is, if everybody declares what was agreed.
#[derive(Clone, Debug)]
pub struct Names {
    pub queues: Vec<Declared>,
    pub exchanges: Vec<Declared>,
    /// The queue that the sessions only publish to.
    pub kept: String,
}

impl Names {
    pub fn new(random: &mut Rng, kept: String) -> Self {
        let queues = QUEUES.map(|name| Declared {
            name,
            kind: "",
            bits: match name {
                ALONE => EXCLUSIVE,
                "auto" | "auto-too" => AUTO_DELETE,
                "s" => DURABLE,
                _ => one_of(random, &[0, DURABLE, DURABLE]),
            },
            arguments: queue_arguments(random, name == "s"),
        });
        let exchanges = EXCHANGES.map(|name| {
            let kind = one_of(random, &KINDS);
            let bits = one_of(random, &[0, DURABLE, AUTO_DELETE >> 1, 8]);
            Declared { name, kind, bits, arguments: exchange_arguments(random, kind) }
        });
        Self { queues: queues.to_vec(), exchanges: exchanges.to_vec(), kept }
    }

    pub fn exchange(&self, random: &mut Rng) -> &'static str {
        let all: &[&str] = if random.u8(..4) == 0 { &PREDECLARED } else { &EXCHANGES };
        if once_in(random, 40) { "none" } else { one_of(random, all) }
    }
}

/// A queue as a session calls it: one of all, or its own.
pub fn queue(random: &mut Rng, session: usize) -> String {
    let name = if once_in(random, 30) { "none" } else { one_of(random, &QUEUES) };
    let session = if once_in(random, 20) { 0 } else { session };
    if name == ALONE { own(session) } else { name.to_owned() }
}

/// The queue that is a session's own.
pub fn own(session: usize) -> String {
    format!("{ALONE}-{session}")
}

pub fn key(random: &mut Rng) -> &'static str {
    one_of(random, &KEYS)
}

/// Milliseconds, counts and bytes: small ones, so that something happens, and any.
fn some(random: &mut Rng) -> Wire {
    let value = if once_in(random, 4) { edge(random) } else { random.u64(..60) };
    number(random, value)
}

pub fn queue_arguments(random: &mut Rng, is_stream: bool) -> Wire {
    let mut all = Vec::new();
    if is_stream {
        all.push(("x-queue-type", text("stream")));
        if once_in(random, 3) {
            all.push(("x-max-age", text(one_of(random, &["1s", "1h", "1h", "9999999Y"]))));
        }
    }
    for _ in 0..if random.bool() || is_stream { 0 } else { random.usize(1..4) } {
        let exchange = one_of(random, &["", "x0", "x1", "x2", "none", "amq.topic"]);
        let argument = match random.u8(..17) {
            0 => ("x-message-ttl", some(random)),
            1 => ("x-expires", some(random)),
            2 => ("x-max-length", some(random)),
            3 => ("x-max-length-bytes", some(random)),
            4 => {
                let words = ["drop-head", "reject-publish", "reject-publish-dlx"];
                ("x-overflow", text(one_of(random, &words)))
            }
            5..8 => ("x-dead-letter-exchange", text(exchange)),
            8 => {
                all.push(("x-dead-letter-exchange", text(exchange)));
                ("x-dead-letter-routing-key", text(one_of(random, &KEYS)))
            }
            9 => ("x-dead-letter-strategy", text("at-least-once")),
            10 => ("x-max-priority", some(random)),
            11 => ("x-single-active-consumer", boolean(random.bool())),
            12 => ("x-delivery-limit", some(random)),
            13 => ("x-consumer-timeout", some(random)),
            14 => ("x-queue-type", text(one_of(random, &["classic", "quorum"]))),
            15 => ("x-delayed-retry-min", some(random)),
            _ => ("x-delayed-retry-type", text("all")),
        };
        all.push(argument);
    }
    table(random, all)
}

pub fn exchange_arguments(random: &mut Rng, kind: &str) -> Wire {
    let mut all = Vec::new();
    if kind == "x-delayed-message" {
        all.push(("x-delayed-type", text(one_of(random, &KINDS))));
    }
    if kind == "x-recent-history" {
        all.push(("x-recent-history-length", some(random)));
    }
    if kind == "x-consistent-hash" && random.bool() {
        all.push(("hash-header", text("a")));
    }
    if once_in(random, 3) {
        all.push(("alternate-exchange", text(one_of(random, &EXCHANGES))));
    }
    table(random, all)
}

pub fn binding_arguments(random: &mut Rng) -> Wire {
    let mut all = Vec::new();
    if random.bool() {
        let words = ["all", "any", "all-with-x", "any-with-x", "?"];
        all.push(("x-match", text(one_of(random, &words))));
        all.push((one_of(random, &["a", "b", "x-c"]), value(random, 1)));
    }
    table(random, all)
}

pub fn consumer_arguments(random: &mut Rng, is_stream: bool) -> Wire {
    let mut all = Vec::new();
    if is_stream || once_in(random, 40) {
        let start = match random.u8(..6) {
            0..4 => text(one_of(random, &["first", "last", "next", "1h"])),
            4 => number(random, 0),
            _ => value(random, 0),
        };
        all.push(("x-stream-offset", start));
    }
    if once_in(random, 4) {
        all.push(("x-priority", some(random)));
    }
    if once_in(random, 20) {
        all.push(("x-consumer-timeout", some(random)));
    }
    if is_stream && once_in(random, 3) {
        all.push(("x-stream-filter", text("f")));
    }
    table(random, all)
}
