//! What can go wrong with the index: its disk, or what is written there.

use std::{io, path::PathBuf};

use bytes::Bytes;
use mainstem_schemas::Position;

use crate::keys::{Entity, KeyKind};

/// Why the index cannot go on. None of these is a peer's doing, and all are fatal to the process;
/// a damaged index may be deleted and comes back from the log.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("cannot open the index at {}", path.display())]
    Open { path: PathBuf, source: rocksdb::Error },
    #[error("the index at {} has layout version {found}, this program knows version {known}", path.display())]
    Version { path: PathBuf, found: u16, known: u16 },
    #[error(
        "the index at {} was flushed at {} and is now as it was at {}: its manifest is damaged",
        path.display(), flushed.0, applied.0
    )]
    Behind { path: PathBuf, flushed: Position, applied: Position },
    #[error("cannot read or write how far the index at {} was flushed", path.display())]
    Witness { path: PathBuf, source: io::Error },
    #[error("cannot delete the index at {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("cannot read a {kind} from the index")]
    Read { kind: KeyKind, source: rocksdb::Error },
    #[error("cannot read the index from end to end")]
    ReadAll { source: rocksdb::Error },
    #[error("cannot write to the index")]
    Write { source: rocksdb::Error },
    #[error("cannot bring the index to the disk")]
    Flush { source: rocksdb::Error },
    #[error("the index is damaged: the {part} of the {kind} under key {key:x} does not decode")]
    Damaged { kind: KeyKind, part: Part, key: Bytes },
}

/// The half of a pair that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Key,
    Value,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Value => "value",
        })
    }
}

pub(crate) fn damaged<K: Entity>(part: Part, key: &[u8]) -> IndexError {
    IndexError::Damaged { kind: K::KIND, part, key: Bytes::copy_from_slice(key) }
}
