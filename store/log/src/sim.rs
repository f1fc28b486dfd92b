//! A simulated disk, for tests: what was not synced may be lost, and calls may fail.
//!
//! Everything random comes from the seed, and [`Disk::spawn`] does its job at once, so one seed is
//! one run. At a [`SimDisk::crash`] every unsynced page is kept or lost by itself, in whole or by
//! sectors, so writes tear and arrive out of order; of unsynced names a prefix is kept, as
//! a journal does. A failed sync drops what it was about: readers still see the bytes, a
//! later sync succeeds, and the next crash loses them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use fastrand::Rng;

use crate::{
    disk::{Disk, DiskFile},
    source::BLOCK_BYTES,
};

const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;

/// What is to go wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// After so many more calls, every call fails until [`SimDisk::crash`] or
    /// [`SimDisk::restart`].
    pub calls_left: Option<u64>,
    /// So many syncs fail; `u64::MAX` for all.
    pub syncs_to_fail: u64,
    /// So many syncs, of bytes or of names, report success and do nothing: the next crash loses
    /// the bytes for certain, and of the names a part. Counted before `syncs_to_fail`.
    pub lies: u64,
    /// So many reads fail.
    pub reads_to_fail: u64,
    /// Writes may take less than they are given.
    pub short_writes: bool,
    /// Files cannot grow beyond this in sum, and none can be made once they are there. Files that
    /// get another name keep their bytes and take no more.
    pub space_bytes: Option<usize>,
    /// What is done beside begins so late, on a thread of its own; at once and in place if 0.
    pub beside_late_ms: u64,
}

impl Faults {
    /// Whether the sync in hand is to do nothing.
    fn lie(&mut self) -> bool {
        let lies = self.lies > 0;
        self.lies -= u64::from(lies && self.lies != u64::MAX);
        lies
    }
}

/// A disk that exists in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
struct State {
    rng: Rng,
    faults: Faults,
    /// Handles of earlier generations are closed.
    generation: u64,
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Name changes since the last sync of names.
    changes: Vec<Change>,
}

#[derive(Clone, Default)]
struct Content {
    cached: Vec<u8>,
    durable: Vec<u8>,
    dirty_pages: BTreeSet<usize>,
    renames: u64,
}

#[derive(Clone)]
enum Change {
    Link(String, usize),
    Rename(String, String),
    Unlink(String),
}

impl SimDisk {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: Rng::with_seed(seed),
            faults: Faults::default(),
            generation: 0,
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Sets what is to go wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// What is still to go wrong.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.lock().faults
    }

    /// The process ends and starts again: files stay as they were seen. Ends all faults.
    pub fn restart(&self) {
        let mut state = self.lock();
        state.generation += 1;
        state.faults = Faults::default();
    }

    /// The power goes and comes back. Ends all faults.
    pub fn crash(&self) {
        self.restart();
        let mut state = self.lock();
        let State { rng, files, names, durable_names, changes, .. } = &mut *state;
        let kept = rng.usize(..=changes.len());
        changes.drain(..).take(kept).for_each(|change| change.apply(durable_names));
        names.clone_from(durable_names);
        let unit = if rng.bool() { PAGE_BYTES } else { SECTOR_BYTES };
        let odds = rng.f64();
        for file in files {
            for page in std::mem::take(&mut file.dirty_pages) {
                for at in (page * PAGE_BYTES..(page + 1) * PAGE_BYTES).step_by(unit) {
                    if rng.f64() < odds {
                        file.keep(at, unit);
                    }
                }
            }
            file.cached.clone_from(&file.durable);
        }
    }

    /// Turns one bit of a file around, on the medium and in memory.
    pub fn flip(&self, name: &str, offset: usize, bit: u32) {
        let mut state = self.lock();
        let State { files, names, .. } = &mut *state;
        let Some(file) = names.get(name).and_then(|id| files.get_mut(*id)) else { return };
        for bytes in [&mut file.cached, &mut file.durable] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// A disk that is like this one by now and goes its own way.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.lock().clone())) }
    }

    /// How often the file that was renamed most often was renamed.
    #[must_use]
    pub fn renames_max(&self) -> u64 {
        self.lock().files.iter().map(|file| file.renames).max().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if let Some(left) = &mut state.faults.calls_left {
            let Some(fewer) = left.checked_sub(1) else {
                return Err(io::Error::other("the simulated power is off"));
            };
            *left = fewer;
        }
        Ok(state)
    }

    fn file(&self, state: &State, id: usize) -> Arc<dyn DiskFile> {
        let generation = state.generation;
        Arc::new(SimFile { disk: self.clone(), id, generation, takes_blocks: false })
    }
}

impl State {
    fn change(&mut self, change: Change) {
        change.clone().apply(&mut self.names);
        self.changes.push(change);
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Bytes of all files that have a name.
    fn used_bytes(&self) -> usize {
        let files = self.names.values().filter_map(|id| self.files.get(*id));
        files.map(|file| file.cached.len()).sum()
    }
}

impl Change {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(name, id) => {
                names.insert(name, id);
            }
            Self::Rename(from, to) => {
                if let Some(id) = names.remove(&from) {
                    names.insert(to, id);
                }
            }
            Self::Unlink(name) => {
                names.remove(&name);
            }
        }
    }
}

impl Content {
    /// Moves these bytes to the medium.
    fn keep(&mut self, at: usize, len: usize) {
        let end = (at + len).min(self.cached.len());
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        if let (Some(to), Some(from)) = (self.durable.get_mut(at..end), self.cached.get(at..end)) {
            to.copy_from_slice(from);
        }
    }
}

impl Disk for SimDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.call()?.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.call()?;
        Ok(self.file(&state, state.find(name)?))
    }

    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name)
    }

    fn open_to_fill(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.call()?;
        let (id, generation) = (state.find(name)?, state.generation);
        Ok(Arc::new(SimFile { disk: self.clone(), id, generation, takes_blocks: true }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.call()?;
        if state.faults.space_bytes.is_some_and(|space| state.used_bytes() >= space) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let id = state.files.len();
        state.files.push(Content::default());
        state.change(Change::Link(name.to_owned(), id));
        Ok(self.file(&state, id))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.call()?;
        let id = state.find(from)?;
        if let Some(file) = state.files.get_mut(id) {
            file.renames += 1;
        }
        state.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.call()?;
        state.find(name)?;
        state.change(Change::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.call()?;
        if state.faults.lie() {
            return Ok(());
        }
        state.changes.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("sim").join(name)
    }

    fn nonce(&self) -> u64 {
        self.lock().rng.u64(..)
    }

    fn spawn(&self, job: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        let late = Duration::from_millis(self.lock().faults.beside_late_ms);
        if late.is_zero() {
            job();
        } else {
            thread::spawn(move || {
                thread::sleep(late);
                job();
            });
        }
        Ok(())
    }
}

struct SimFile {
    disk: SimDisk,
    id: usize,
    generation: u64,
    /// Only whole blocks can be written, as past the cache of an operating system.
    takes_blocks: bool,
}

impl SimFile {
    fn with<T>(
        &self,
        act: impl FnOnce(&mut Rng, &mut Faults, &mut Content, usize) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.disk.call()?;
        if state.generation != self.generation {
            return Err(io::Error::other("the file was open before the simulated crash"));
        }
        let used_bytes = state.used_bytes();
        let State { rng, faults, files, .. } = &mut *state;
        let file = files.get_mut(self.id).ok_or(io::ErrorKind::NotFound)?;
        act(rng, faults, file, used_bytes)
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.with(|_, _, file, _| Ok(file.cached.len() as u64))
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|_, faults, file, _| {
            if let Some(left) = faults.reads_to_fail.checked_sub(1) {
                faults.reads_to_fail = left;
                return Err(io::Error::other("the simulated medium cannot be read"));
            }
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.cached.len());
            let found = file.cached.get(start..).unwrap_or_default();
            let len = found.len().min(bytes.len());
            if let (Some(to), Some(from)) = (bytes.get_mut(..len), found.get(..len)) {
                to.copy_from_slice(from);
            }
            Ok(len)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let is_whole =
            offset.is_multiple_of(BLOCK_BYTES as u64) && bytes.len().is_multiple_of(BLOCK_BYTES);
        if self.takes_blocks && !is_whole {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.with(|rng, faults, file, used_bytes| {
            let short = faults.short_writes && rng.bool() && bytes.len() > 1;
            let len = if short { rng.usize(1..bytes.len()) } else { bytes.len() };
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let end = start + len;
            let growth = end.saturating_sub(file.cached.len());
            if growth > 0 && faults.space_bytes.is_some_and(|space| used_bytes + growth > space) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.cached.resize(file.cached.len() + growth, 0);
            if let (Some(to), Some(from)) = (file.cached.get_mut(start..end), bytes.get(..len)) {
                to.copy_from_slice(from);
            }
            file.dirty_pages.extend(start / PAGE_BYTES..end.div_ceil(PAGE_BYTES));
            Ok(len)
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|_, faults, file, _| {
            let pages = std::mem::take(&mut file.dirty_pages);
            if faults.lie() {
                return Ok(());
            }
            if faults.syncs_to_fail > 0 {
                faults.syncs_to_fail -= u64::from(faults.syncs_to_fail != u64::MAX);
                return Err(io::Error::other("the simulated medium does not sync"));
            }
            for page in pages {
                file.keep(page * PAGE_BYTES, PAGE_BYTES);
            }
            Ok(())
        })
    }
}
