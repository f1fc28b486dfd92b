//! AMQP 0-9-1 as RabbitMQ speaks it: a front-end of the store.
//!
//! Reading order: [`codec`] turns bytes into frames and methods; [`session`] says what each means
//! after what came before; [`normalize`] makes records of messages and messages of records;
//! [`serve`] owns the sockets.

pub mod codec;
pub mod limits;
pub mod message;
pub mod normalize;
pub mod serve;
pub mod session;
pub mod topology;

pub use limits::Limits;
pub use normalize::{routing, view};
pub use serve::run;
