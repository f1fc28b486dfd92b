//! What can go wrong with the log, always with the file and the byte.

use std::{io, path::PathBuf, sync::Arc};

use mainstem_schemas::Position;

/// Why an operation on the log failed. Everything but [`LogError::DiskFull`] and
/// [`LogError::Trimmed`] is fatal: the process stops and says so.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused. A failed write or sync is never retried: the pages it was
    /// about may be gone although a second sync would succeed.
    #[error("cannot {action} {} at byte {offset}: {source}", .path.display())]
    Io { action: &'static str, path: PathBuf, offset: u64, source: Arc<io::Error> },
    /// There is no space for the next segment. Nothing is lost: the same batch may be written
    /// again once something was trimmed.
    #[error("no space left to prepare {} at byte {offset}", .path.display())]
    DiskFull { path: PathBuf, offset: u64 },
    /// What was synced is not there any more. Nothing was deleted.
    #[error("{} is corrupt at byte {offset}: {damage}", .path.display())]
    Corrupt { path: PathBuf, offset: u64, damage: Damage },
    /// The files were made with another segment size than the configured one.
    #[error("{} belongs to segments of {found} bytes, configured are {configured}", .path.display())]
    SegmentBytes { path: PathBuf, found: u64, configured: u64 },
    /// The file has a format this program does not read.
    #[error("{} has log format {found}, this program reads {}", .path.display(), crate::segment::FORMAT)]
    Format { path: PathBuf, found: u32 },
    /// The configured segment size cannot be used.
    #[error("a segment of {0} bytes is not a power of two from 4 KiB to 1 GiB")]
    Config(u64),
    /// The frame lies in a segment that was trimmed.
    #[error("position {} was trimmed, the log begins at {}", .position.0, .first.0)]
    Trimmed { position: Position, first: Position },
}

/// What is wrong with a corrupt file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("no frame verifies there, although the log was synced up to position {}", .durable.0)]
    Middle { durable: Position },
    #[error("the segment's header does not verify")]
    Header,
    #[error("the segment belongs to another log")]
    Foreign,
    #[error("the file is missing")]
    Missing,
    #[error("no frame verifies there")]
    Frame,
}

/// Why the planner does not take a frame. Nothing was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    #[error("a frame of {body_bytes} bytes does not fit, the most is {body_bytes_max}")]
    TooLong { body_bytes: usize, body_bytes_max: usize },
    #[error("frame kind {0} is reserved for the log itself")]
    Reserved(u8),
}

impl LogError {
    /// An error of the operating system while it was to `action` the file.
    pub(crate) fn io(action: &'static str, path: PathBuf, offset: u64, source: io::Error) -> Self {
        Self::Io { action, path, offset, source: Arc::new(source) }
    }

    /// The same while a segment was being prepared, where a full disk is not fatal.
    pub(crate) fn prepare(
        action: &'static str,
        path: PathBuf,
        offset: u64,
        source: io::Error,
    ) -> Self {
        if Self::is_full(&source) {
            return Self::DiskFull { path, offset };
        }
        Self::io(action, path, offset, source)
    }

    /// Whether the operating system refused for lack of space.
    pub(crate) fn is_full(error: &io::Error) -> bool {
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }
}
