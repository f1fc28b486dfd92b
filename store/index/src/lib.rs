//! What each queue holds: positions and progress, never bodies.
//!
//! Everything here is produced by applying the log, so it can be deleted and built again. Reading
//! order: [`KeyKind`] documents every key on the disk; an [`Index`] is the open store; a [`Batch`]
//! is one atomic change of it. Calls block; there is no async here.

mod batch;
mod error;
mod hash;
pub mod keys;
mod store;
mod witness;

pub use batch::Batch;
pub use error::{IndexError, Part};
pub use keys::{
    BLOCK_ENTRIES, BindingKey, BindingValue, BlockKey, BlockValue, CursorKey, CursorName,
    CursorValue, Entity, Entry, ExchangeKey, ExchangeValue, HeldBack, HeldKey, HeldValue, KeyKind,
    LANE_SHIFT, LaneState, LookupKey, MetaKey, MetaValue, NameKey, ParameterKey, ParameterValue,
    PointerKey, Progress, QueueKey, QueueName, QueueStateKey, QueueStateValue, QueueValue,
    ReaderKey, RetainedKey, RetainedValue, SegmentKey, SegmentUse, SegmentValue, SessionKey,
    SessionValue, SubscriptionKey, SubscriptionValue, WakeKey, WriterKey, WriterValue,
};
pub use store::{Ascending, Index, Tuning, VERSION};
