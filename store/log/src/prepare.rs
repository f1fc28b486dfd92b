//! The preparer: fills segments with zeros ahead of the writer, beside its work.
//!
//! Syncing into blocks that were written before costs a third of syncing a growing file, since no
//! metadata has to be journalled. So a segment is written full of zeros, synced and given its
//! name before the writer comes to it. Only the first one of a log is used while it is still being
//! filled: the writer waits for `filled` to pass the place it wants to write.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::{
    disk::{Disk, DiskFile, write_all_at},
    error::LogError,
    segment::Geometry,
};

/// The name of a segment that is not ready.
pub(crate) const UNREADY_NAME: &str = "next.tmp";

/// Zeros synced at once: small, so that the writer's own syncs do not wait long behind it.
const STEP_BYTES: u64 = 2 << 20;

static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// Fills segments on a thread of its own and hands them over.
pub(crate) struct Preparer {
    source: Source,
    shared: Arc<Shared>,
}

/// How a segment is made.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) geometry: Geometry,
    pub(crate) salt: u64,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The segment in use is zeroed up to this offset.
    filled: u64,
    next: Next,
    /// A job is running.
    busy: bool,
    /// The job is to give up.
    stop: bool,
}

#[derive(Clone)]
enum Next {
    Preparing,
    Ready(Arc<dyn DiskFile>),
    Failed(LogError),
}

impl Preparer {
    /// A preparer behind the writer of segment `number`, which is zeroed up to `filled`. `next` is
    /// the segment after it, if there is one already.
    pub(crate) fn new(
        source: Source,
        number: u64,
        filled: u64,
        next: Option<Arc<dyn DiskFile>>,
    ) -> Self {
        let next = next.map_or(Next::Preparing, Next::Ready);
        let state = State { filled, next, busy: false, stop: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let preparer = Self { source, shared };
        preparer.start(number);
        preparer
    }

    /// Waits until the segment in use is zeroed up to `offset`.
    pub(crate) fn wait_filled(&self, number: u64, offset: u64) -> Result<(), LogError> {
        self.restart_if_full(number, |state| state.filled < offset);
        let mut state = self.shared.lock();
        loop {
            if state.filled >= offset {
                return Ok(());
            }
            if let Next::Failed(error) = &state.next {
                return Err(error.clone());
            }
            state = self.shared.wait(state);
        }
    }

    /// Waits for the segment after `number` and begins to prepare the one after that.
    pub(crate) fn take_next(&self, number: u64) -> Result<Arc<dyn DiskFile>, LogError> {
        self.wait_filled(number, self.source.geometry.segment_bytes)?;
        self.restart_if_full(number, |_| true);
        let mut state = self.shared.lock();
        while matches!(state.next, Next::Preparing) || state.busy {
            state = self.shared.wait(state);
        }
        let file = match &state.next {
            Next::Ready(file) => Arc::clone(file),
            Next::Failed(error) => return Err(error.clone()),
            Next::Preparing => unreachable!("the loop above waits it out"),
        };
        state.next = Next::Preparing;
        drop(state);
        self.start(number + 1);
        Ok(file)
    }

    /// Whether the next segment is ready; `Err` is why it cannot be made.
    pub(crate) fn is_next_ready(&self) -> Result<bool, LogError> {
        let state = self.shared.lock();
        match &state.next {
            Next::Preparing => Ok(false),
            Next::Ready(_) => Ok(true),
            Next::Failed(error) => Err(error.clone()),
        }
    }

    /// Tries again to find space, if the last try found none.
    pub(crate) fn retry(&self, number: u64) {
        self.restart_if_full(number, |_| true);
    }

    /// An error that is not a lack of space: the disk is not to be trusted any more.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        match &self.shared.lock().next {
            Next::Failed(error) if !error.is_disk_full() => Err(error.clone()),
            Next::Failed(_) | Next::Preparing | Next::Ready(_) => Ok(()),
        }
    }

    fn restart_if_full(&self, number: u64, wanted: impl Fn(&State) -> bool) {
        let mut state = self.shared.lock();
        let full = matches!(&state.next, Next::Failed(error) if error.is_disk_full());
        if full && !state.busy && wanted(&state) {
            state.next = Next::Preparing;
            drop(state);
            self.start(number);
        }
    }

    /// Fills the rest of segment `number`, then prepares the one after it.
    fn start(&self, number: u64) {
        let mut state = self.shared.lock();
        let done = state.filled >= self.source.geometry.segment_bytes;
        if done && matches!(state.next, Next::Ready(_)) {
            return;
        }
        state.busy = true;
        drop(state);
        let source = self.source.clone();
        let path = source.path(number + 1);
        let running = Running { shared: Arc::clone(&self.shared), path: path.clone() };
        let job = Box::new(move || {
            if let Err(error) = run(&source, &running.shared, number) {
                running.shared.lock().next = Next::Failed(error);
            }
        });
        if let Err(error) = self.source.disk.spawn(job) {
            let error = LogError::io("start a thread to prepare", path, 0, error);
            self.shared.lock().next = Next::Failed(error);
        }
    }
}

/// Waits for the job, so that nobody touches the directory after the writer is gone.
impl Drop for Preparer {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        while state.busy {
            state = self.shared.wait(state);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Held by a job: waiters are woken however it ends.
struct Running {
    shared: Arc<Shared>,
    path: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.set(|state| {
            state.busy = false;
            if matches!(state.next, Next::Preparing) {
                let error = io::Error::other("the preparing thread ended early");
                let path = std::mem::take(&mut self.path);
                state.next = Next::Failed(LogError::io("prepare", path, 0, error));
            }
        });
    }
}

fn run(source: &Source, shared: &Shared, number: u64) -> Result<(), LogError> {
    let filled = shared.lock().filled;
    if filled < source.geometry.segment_bytes {
        // A handle of its own: a failed sync is reported once per handle, and this one must not
        // take the report away from the writer.
        let open = |error| LogError::io("open", source.path(number), 0, error);
        let file = source.disk.open(&source.geometry.name(number)).map_err(open)?;
        source.fill(&*file, number, filled, &mut |filled| {
            shared.set(|state| state.filled = filled);
            !shared.lock().stop
        })?;
    }
    {
        let state = shared.lock();
        if state.stop || !matches!(state.next, Next::Preparing) {
            return Ok(());
        }
    }
    let file =
        source.make(number + 1, source.geometry.segment_bytes, &mut |_| !shared.lock().stop)?;
    if let Some(file) = file {
        shared.set(|state| state.next = Next::Ready(file));
    }
    Ok(())
}

impl Source {
    /// Makes a segment of which the first bytes are zeroed, enough to begin with.
    pub(crate) fn make_quickly(&self, number: u64) -> Result<(Arc<dyn DiskFile>, u64), LogError> {
        let filled = STEP_BYTES.min(self.geometry.segment_bytes);
        let file = self.make(number, filled, &mut |_| true)?;
        let stopped = || io::Error::other("stopped");
        let file = file.ok_or_else(|| LogError::io("prepare", self.path(number), 0, stopped()))?;
        Ok((file, filled))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.geometry.path(&*self.disk, number)
    }

    /// A segment zeroed up to `upto`, under its name; `None` when `step` said to give up.
    fn make(
        &self,
        number: u64,
        upto: u64,
        step: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Arc<dyn DiskFile>>, LogError> {
        let error = |action, offset| {
            let path = self.path(number);
            move |error| LogError::prepare(action, path, offset, error)
        };
        let file = self.disk.create(UNREADY_NAME).map_err(error("create", 0))?;
        let header = self.geometry.encode_header(number, self.salt);
        let filled = write_all_at(&*file, &header, 0)
            .map_err(error("write", 0))
            .and_then(|()| self.fill_upto(&*file, number, header.len() as u64, upto, step));
        if !matches!(filled, Ok(true)) {
            // Gives the space back; the next start would, too.
            self.disk.remove(UNREADY_NAME).ok();
            return filled.map(|_| None);
        }
        self.disk.rename(UNREADY_NAME, &self.geometry.name(number)).map_err(error("rename", 0))?;
        self.disk.sync_names().map_err(error("sync the directory of", 0))?;
        Ok(Some(file))
    }

    fn fill(
        &self,
        file: &dyn DiskFile,
        number: u64,
        from: u64,
        step: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool, LogError> {
        self.fill_upto(file, number, from, self.geometry.segment_bytes, step)
    }

    /// Zeroes and syncs in steps; `false` when `step`, told how far it got, said to give up.
    fn fill_upto(
        &self,
        file: &dyn DiskFile,
        number: u64,
        from: u64,
        upto: u64,
        step: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool, LogError> {
        let mut at = from;
        while at < upto {
            let end = upto.min(at + STEP_BYTES);
            while at < end {
                let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
                let zeros = ZEROS.get(..len).unwrap_or_default();
                write_all_at(file, zeros, at)
                    .map_err(|error| LogError::prepare("write", self.path(number), at, error))?;
                at += len as u64;
            }
            file.sync().map_err(|error| LogError::prepare("sync", self.path(number), at, error))?;
            if !step(at) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
