//! A look into the log of a data directory from beside whoever has it open: nothing is written,
//! nothing is locked.

use std::{collections::BTreeMap, ops::ControlFlow, path::Path};

use mainstem_index::{Index, IndexError, SegmentKey};
use mainstem_log::{Frame, Place};
use mainstem_schemas::{Position, UnixMillis};

use crate::{
    describe::{self, Described},
    entry::carries_record,
};

pub use mainstem_log::{Cut, Finding, Kind, LogError, Report, Resume};

/// An entry that verifies.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub place: Place<'a>,
    frame: &'a Frame,
}

impl Seen<'_> {
    /// What happened, one of [`describe::KINDS`]; `?` if it makes no sense.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        describe::kind_of(self.frame)
    }

    /// Bytes in the log, its header included.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.frame.size() as u64
    }

    /// When it was made, if it says so.
    #[must_use]
    pub fn time(&self) -> Option<UnixMillis> {
        describe::time_of(self.frame)
    }

    /// Whether it carries a record's body.
    #[must_use]
    pub fn carries_record(&self) -> bool {
        carries_record(self.frame.kind)
    }

    /// All it says. Errors: why its body makes no sense.
    pub fn describe(&self) -> Result<Described, String> {
        describe::describe(self.place.position, self.frame)
    }
}

/// Verifies the whole log in `data_dir`, as [`mainstem_log::verify`] does.
pub fn verify(data_dir: &Path, on_finding: &mut dyn FnMut(&Finding)) -> Result<Report, LogError> {
    mainstem_log::verify(&data_dir.join("log"), Position(0), on_finding)
}

/// Hands out every entry that verifies from the file on that holds `from`, until told to stop.
pub fn walk(
    data_dir: &Path,
    from: Position,
    on_entry: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
    on_finding: &mut dyn FnMut(&Finding),
) -> Result<Report, LogError> {
    let mut on_frame = |place: Place<'_>, frame: &Frame| on_entry(Seen { place, frame });
    mainstem_log::walk(&data_dir.join("log"), from, &mut on_frame, on_finding)
}

/// What the index on the disk knows of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// The bytes of each segment that somebody still needs, by the segment's number.
    pub bytes: BTreeMap<u64, u64>,
    /// It knows the log up to here; what a running server learned since is not on the disk.
    pub applied: Position,
}

/// Reads what the log's segments still hold that is needed. Errors: there is no index, or it
/// cannot be read; beside a running server, it may have been written just then.
pub fn live(data_dir: &Path) -> Result<Live, String> {
    read_live(data_dir).map_err(|error| error.to_string())
}

fn read_live(data_dir: &Path) -> Result<Live, IndexError> {
    let index = Index::open_to_read(&data_dir.join("index"))?;
    let mut bytes = BTreeMap::new();
    for found in index.scan::<SegmentKey>() {
        let (key, value) = found?;
        bytes.insert(key.number, value.bytes);
    }
    Ok(Live { bytes, applied: index.applied() })
}
