//! The harness of the whole-server tests: a real `mainstem` process, client programs in other
//! languages, and bounded waits.
//!
//! Nothing here sleeps for a fixed time: every wait is for a line, an event or a condition, and
//! ends with a failure that says what was awaited.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says where"
)]

pub mod authority;
pub mod clients;
pub mod disk;
pub mod http;
pub mod matrix;
pub mod peer;
pub mod server;
pub mod untried;
pub mod wait;

pub use clients::{Amqp, Mqtt};
pub use matrix::Matrix;
pub use peer::{Language, Peer};
pub use server::{Ports, Server, Setup};
pub use wait::Deadline;
