//! MQTT 3.1, 3.1.1 and 5 on one port.
//!
//! Reading order: [`codec`] is bytes and packets, [`session`] is what packets mean, [`normalize`]
//! is MQTT's column of the mapping between protocols, [`serve`] owns the sockets.

pub mod codec;
pub mod limits;
pub mod normalize;
pub mod serve;
pub mod session;

pub use limits::{Dropped, Limits};
pub use normalize::view;
pub use serve::Service;
