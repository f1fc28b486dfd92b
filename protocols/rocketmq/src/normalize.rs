//! The RocketMQ column of the mapping: messages into records, records into messages, and the
//! CloudEvents reading of a record that came by RocketMQ.

mod inbound;
mod native;
mod outbound;
mod view;

pub use inbound::{Arrival, millis, record};
pub use native::Native;
pub use outbound::{message, timestamp};
pub use view::view;
