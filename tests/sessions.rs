//! Bad company: sessions by chance, mostly well-formed and then damaged, against a whole server,
//! beside witnesses that must not notice.
//!
//! A round is some sessions at once, all made from one number. `SESSION_SECONDS` plays rounds of new
//! numbers for so long; without it a few fixed ones are played. What fails prints
//! `SESSION_SEED=number`, which plays that round alone on a new server.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test fails by panicking, and prints what it counted"
)]

#[path = "sessions/amqp.rs"]
mod amqp;
#[path = "sessions/arena.rs"]
mod arena;
#[path = "sessions/chance.rs"]
mod chance;
#[path = "sessions/mqtt.rs"]
mod mqtt;
#[path = "sessions/promises.rs"]
mod promises;
#[path = "sessions/rocketmq.rs"]
mod rocketmq;
#[path = "sessions/wire.rs"]
mod wire;
#[path = "sessions/witness.rs"]
mod witness;
