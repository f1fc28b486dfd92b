//! Properties of messages, mostly such as applications set.

use fastrand::Rng;

use super::{
    script::PLAIN,
    table::{number, table, text, value},
};
use crate::{
    chance::{edge, once_in, one_of},
    wire::Wire,
};

/// Flags and fields of a message's properties.
pub fn properties(random: &mut Rng) -> Vec<u8> {
    if random.bool() {
        return one_of(random, &PLAIN).to_vec();
    }
    let flags = random.u16(..) & random.u16(..) & 0xfffc;
    let mut out = Wire::default().u16(flags);
    for bit in (2..16).rev().filter(|bit| flags >> bit & 1 != 0) {
        out = match bit {
            13 => out.raw(&headers(random).0),
            12 => out.u8(random.u8(..4)),
            11 => out.u8(random.u8(..)),
            9 if once_in(random, 8) => out.short(b"amq.rabbitmq.reply-to"),
            9 => out.short(b"q0"),
            8 => {
                let wrong = ["", "x", "-1", "99999999999999999999"];
                let times = if once_in(random, 8) { wrong } else { ["0", "1", "30", "99999"] };
                out.short(one_of(random, &times).as_bytes())
            }
            6 => out.u64(edge(random)),
            4 => out.short(if once_in(random, 20) { b"else" } else { b"guest" }),
            _ => out.short(b"some text"),
        };
    }
    out.0
}

fn headers(random: &mut Rng) -> Wire {
    let mut all = Vec::new();
    for _ in 0..random.usize(..4) {
        all.push(match random.u8(..6) {
            0 => {
                let to = text(one_of(random, &["q0", "q1", "a", "none"]));
                let list = Wire::default().u8(b'A').long(&to.0);
                (one_of(random, &["CC", "BCC"]), list)
            }
            1 => ("x-delay", number(random, 20)),
            2 => ("x-death", value(random, 3)),
            3 => ("x-stream-filter-value", text("f")),
            _ => (one_of(random, &["a", "b", "x-c", "x-delay", "x-retry"]), value(random, 3)),
        });
    }
    table(random, all)
}
