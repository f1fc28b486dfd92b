//! The load generator: measures Mainstem and its peers side by side, with the same load, in
//! turns, on the same machine. And the store by itself, beside what the machine can do.
#![expect(clippy::print_stdout, reason = "a program whose output is its product")]

pub mod amqp;
pub mod clock;
pub mod compare;
pub mod drive;
pub(crate) mod figure;
pub mod histogram;
pub mod intake;
pub mod load;
pub mod mqtt;
pub mod null;
pub mod process;
pub mod report;
pub mod rocketmq;
#[cfg(feature = "rumqttd")]
pub mod rumqttd;
pub mod scale;
pub mod scenario;
pub mod server;
pub mod store;
