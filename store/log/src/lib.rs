//! The commit log: an append-only row of segment files that hold checksummed frames.
//!
//! It knows frames, not queues, and blocks: its owner gives it threads. [`Log::open`] replays what
//! is on disk and hands out three ends. The [`Planner`] gives every frame its place and encodes
//! it, in memory only; the [`Writer`] puts planned batches on the disk and syncs them; the
//! [`Reader`] reads frames back, one by one or in a row, from any number of threads. [`verify`]
//! reads the files of a log that is open elsewhere, or of none, and says what is wrong with them.
//!
//! What it promises: after a crash, every frame that a successful [`Writer::sync`] covered is
//! replayed, in order and byte for byte; of later frames a prefix may be; never a frame that lies
//! behind one that was lost. What it does not: two processes must not open one directory, and
//! nothing here locks it.

mod frame;
mod segment;

mod plan;

mod open;
mod scan;

mod prepare;
mod source;
mod write;

mod read;
mod verify;

pub mod disk;
mod error;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod recycle_tests;
#[cfg(test)]
mod verify_tests;

pub use disk::Disk;
pub use error::{Damage, LogError, PushError};
pub use frame::{FRAME_HEADER_BYTES, Frame, KINDS_MAX};
pub use open::{Cut, Log, Opened, Recovery};
pub use plan::{Batch, Chunk, Planner};
pub use read::Reader;
pub use scan::{Recovered, recover_bytes};
pub use segment::LogConfig;
pub use verify::{Finding, Kind, OnFrame, Place, Report, Resume, verify, verify_on, walk};
pub use write::{Spare, Writer};
