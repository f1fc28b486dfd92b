//! The RocketMQ 5 front-end: `apache.rocketmq.v2` over gRPC, plaintext and TLS on one port.
//!
//! Reading order: [`codec`] is the wire; [`filter`] decides which messages a subscription wants;
//! [`session`] is what a client's requests mean given what it said before; [`normalize`] turns
//! messages into records and back; [`serve`] owns the sockets and answers the calls.

pub mod codec;
pub mod filter;
pub mod limits;
pub mod normalize;
pub mod serve;
pub mod session;

pub use limits::Limits;
pub use normalize::view;
pub use serve::{SetLogLevel, run};
