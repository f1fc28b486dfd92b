//! The nouns of Mainstem: values only, no I/O, no clock, no async.
//!
//! Reading order: a [`Record`] is what is stored; its [`Address`] says where it was published; a
//! [`Filter`] says which addresses a reader wants; a [`View`] is the CloudEvents reading of it.

pub mod access;
pub mod address;
pub mod certificate;
pub mod delivery;
pub mod filter;
pub mod queue;
pub mod record;
pub mod time;
pub mod value;
pub mod view;
pub mod wire;

pub use access::{Credentials, Principal, Secret, Warrant};
pub use address::{Address, Dialect, Doors, Entrance, Origin, Path};
pub use delivery::{ConsumerId, DeliveryId, Settlement, Verdict};
pub use filter::Filter;
pub use queue::{CursorId, Offset, Position, QueueId};
pub use record::{Record, RecordDraft, RecordError, RecordId, flags};
pub use time::UnixMillis;
pub use value::{Table, Value};
pub use view::{Correlation, ReplyTo, Routing, View, Views};
