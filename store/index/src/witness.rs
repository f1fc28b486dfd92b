//! A small file beside the index that says how far it was flushed.
//!
//! RocksDB takes a damaged length in its manifest for the torn end of an interrupted write and
//! opens what was before it: an older index, or an empty one, though the log may have let go of
//! what would make it whole. The witness turns that into an error.
//!
//! ```text
//! witness: flushed: u64 | hash of the eight bytes before: u64
//! ```

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use mainstem_schemas::Position;

use crate::hash::StateHash;

const NAME: &str = "FLUSHED";
const NAME_BEFORE: &str = "FLUSHED.new";

/// The file in an index's directory, and what it says.
pub(crate) struct Witness {
    dir: PathBuf,
    flushed: Position,
}

impl Witness {
    /// Position 0 if nothing was ever flushed there.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let flushed = match fs::read(dir.join(NAME)) {
            Ok(stored) => read(&stored).ok_or(ErrorKind::InvalidData)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Position(0),
            Err(error) => return Err(error),
        };
        Ok(Self { dir: dir.to_owned(), flushed })
    }

    pub(crate) fn flushed(&self) -> Position {
        self.flushed
    }

    /// Puts a later position on the disk, synced; the file is the old one or the new one whenever
    /// the machine stops.
    pub(crate) fn advance(&mut self, flushed: Position) -> io::Result<()> {
        if flushed <= self.flushed {
            return Ok(());
        }
        let before = self.dir.join(NAME_BEFORE);
        let mut file = File::create(&before)?;
        file.write_all(&stored(flushed))?;
        file.sync_all()?;
        fs::rename(&before, self.dir.join(NAME))?;
        File::open(&self.dir)?.sync_all()?;
        self.flushed = flushed;
        Ok(())
    }
}

fn stored(flushed: Position) -> Vec<u8> {
    let flushed = flushed.0.to_le_bytes();
    let mut hash = StateHash::new();
    hash.add(&flushed);
    [flushed, hash.finish().to_le_bytes()].concat()
}

fn read(bytes: &[u8]) -> Option<Position> {
    let flushed = Position(u64::from_le_bytes(*bytes.first_chunk()?));
    (bytes == stored(flushed)).then_some(flushed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_remembers_the_latest_position() {
        let dir = tempfile::tempdir().unwrap();
        let mut witness = Witness::open(dir.path()).unwrap();
        assert_eq!(witness.flushed(), Position(0));
        for position in [5, 9, 7] {
            witness.advance(Position(position)).unwrap();
        }
        assert_eq!(Witness::open(dir.path()).unwrap().flushed(), Position(9));
    }

    #[test]
    fn a_damaged_witness_is_an_error() {
        let whole = stored(Position(77));
        assert_eq!(read(&whole), Some(Position(77)));
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(read(&damaged), None);
            assert_eq!(read(&whole[..at]), None);
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), b"").unwrap();
        assert!(Witness::open(dir.path()).is_err());
    }
}
