//! The preparer: has the next segment ready ahead of the writer, and clears away what was trimmed,
//! both beside the writer's work.
//!
//! Syncing into blocks that were written before costs a third of syncing a growing file, since no
//! metadata has to be journalled. So a segment is made of a trimmed one, whose file gets a new
//! header and a new name; or, if none came until the writer wants it, it is
//! written full of zeros. Either way it is synced before it gets its name, and has it before the
//! writer comes to it. Only the first segment of a log is used while it is still being filled: the
//! writer waits for `filled` to pass the place it wants to write.
//!
//! One segment is kept ahead. Zeros are written for it as late as may be, so that a trim can give one
//! instead; but a writer that had to wait for them has the next ones begun as soon as it can, until
//! something is trimmed. What is trimmed while there is one is deleted, so that a drained log
//! gives its space back; but for some where the writer is so fast that the next trim would come too
//! late, and zeros would be written all the time.

use std::{
    io,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::{
    disk::DiskFile,
    error::LogError,
    source::{Ready, Source},
};

/// Has segments prepared on a thread of its own and hands them over.
pub(crate) struct Preparer {
    source: Source,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    segment_bytes: u64,
    /// The segment in use.
    number: u64,
    /// It was written before up to this offset.
    filled: u64,
    next: Next,
    /// The next one is to be made of zeros if none is trimmed first.
    is_wanted: bool,
    /// The writer had to wait for zeros: it is faster than trims, and wants the next one at once.
    is_late: bool,
    /// Segments to clear away, from the front.
    trimmed: Range<u64>,
    /// How many of them are kept to be used again.
    spares_max: u64,
    /// The last try found no space.
    full: Option<LogError>,
    /// The disk is not to be trusted any more.
    fatal: Option<LogError>,
    /// A job is running.
    is_busy: bool,
    /// Nothing is to be filled any more.
    stop: bool,
}

/// The segment after the one in use.
enum Next {
    Absent,
    Making,
    Ready(Ready),
}

/// What there is to do, the most urgent first.
#[derive(Clone, Copy)]
enum Work {
    /// Fill the rest of the segment in use.
    Fill {
        number: u64,
        from: u64,
    },
    Recycle {
        from: u64,
        number: u64,
    },
    Remove(u64),
    Make(u64),
}

impl Preparer {
    /// A preparer behind the writer of segment `number`, which was written before up to `filled`.
    /// `next` is the segment after it, if there is one already; `first` the log's first one.
    pub(crate) fn new(
        source: Source,
        first: u64,
        number: u64,
        filled: u64,
        next: Option<Ready>,
    ) -> Self {
        let state = State {
            segment_bytes: source.geometry.segment_bytes,
            number,
            filled,
            next: next.map_or(Next::Absent, Next::Ready),
            is_wanted: false,
            is_late: false,
            trimmed: first..first,
            spares_max: 0,
            full: None,
            fatal: None,
            is_busy: false,
            stop: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let preparer = Self { source, shared };
        preparer.start(|_| ());
        preparer
    }

    /// Waits until the segment in use was written before up to `offset`.
    pub(crate) fn wait_filled(&self, offset: u64) -> Result<(), LogError> {
        let mut state = self.shared.lock();
        if state.filled < offset && state.full.is_some() {
            drop(state);
            self.retry();
            state = self.shared.lock();
        }
        loop {
            if state.filled >= offset {
                return Ok(());
            }
            state.check()?;
            state = self.shared.wait(state);
        }
    }

    /// Waits until the next segment is there, or cannot be. It must be wanted.
    pub(crate) fn wait_known(&self) {
        let mut state = self.shared.lock();
        while state.is_busy && !matches!(state.next, Next::Ready(_)) && state.check().is_ok() {
            state.is_late = true;
            state = self.shared.wait(state);
        }
    }

    /// Has the next segment made of zeros, if none is trimmed first.
    pub(crate) fn want_next(&self) {
        self.start(|state| state.is_wanted = true);
    }

    /// Waits for the segment after the one in use, which is in use from now on.
    pub(crate) fn take_next(&self) -> Result<Ready, LogError> {
        self.wait_filled(self.source.geometry.segment_bytes)?;
        self.start(|state| (state.is_wanted, state.full) = (true, None));
        let mut state = self.shared.lock();
        let ready = loop {
            if matches!(state.next, Next::Ready(_))
                && let Next::Ready(ready) = std::mem::replace(&mut state.next, Next::Absent)
            {
                break ready;
            }
            state.check()?;
            state.is_late = true;
            state = self.shared.wait(state);
        };
        state.number += 1;
        state.is_wanted = state.is_late;
        drop(state);
        self.start(|_| ());
        Ok(ready)
    }

    /// Clears away the segments before `keep`: one becomes the next segment if there is none.
    pub(crate) fn trim(&self, keep: u64) {
        self.start(|state| state.trimmed.end = state.trimmed.end.max(keep));
    }

    /// How many trimmed segments are kept while there is a next one.
    pub(crate) fn keep_spares(&self, max: u64) {
        self.start(|state| state.spares_max = max);
    }

    /// Whether the next segment is ready; `Err` is why it cannot be made.
    pub(crate) fn is_next_ready(&self) -> Result<bool, LogError> {
        let state = self.shared.lock();
        state.check()?;
        Ok(matches!(state.next, Next::Ready(_)))
    }

    /// Tries again to find space, if the last try found none.
    pub(crate) fn retry(&self) {
        self.start(|state| state.full = None);
    }

    /// An error that is not a lack of space: the disk is not to be trusted any more.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        self.shared.lock().fatal.clone().map_or(Ok(()), Err)
    }

    /// Changes what there is to do, and has it done.
    fn start(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.lock();
        change(&mut state);
        if state.is_busy || state.work().is_none() {
            return;
        }
        state.is_busy = true;
        let path = self.source.path(state.number + 1);
        drop(state);
        let source = self.source.clone();
        let mut running = Running { shared: Arc::clone(&self.shared), lost: Some(path.clone()) };
        let job = Box::new(move || {
            running.shared.run(&source);
            running.lost = None;
        });
        if let Err(error) = self.source.disk.spawn(job) {
            let error = LogError::io("start a thread to prepare", path, 0, error);
            self.shared.lock().fail(error);
        }
    }
}

/// Waits for the job, so that nobody touches the directory after the writer is gone. What was
/// trimmed is cleared away first.
impl Drop for Preparer {
    fn drop(&mut self) {
        self.start(|state| state.stop = true);
        let mut state = self.shared.lock();
        while state.is_busy {
            state = self.shared.wait(state);
        }
    }
}

impl State {
    fn work(&self) -> Option<Work> {
        let may_fill = self.full.is_none() && !self.stop;
        let next = self.number + 1;
        if self.fatal.is_some() {
            return None;
        }
        if self.filled < self.segment_bytes && may_fill {
            return Some(Work::Fill { number: self.number, from: self.filled });
        }
        let is_absent = matches!(self.next, Next::Absent);
        if !self.trimmed.is_empty() {
            let from = self.trimmed.start;
            let is_lacking = is_absent && !self.stop;
            let is_spare = !self.stop && self.trimmed.end - from <= self.spares_max;
            if is_lacking {
                return Some(Work::Recycle { from, number: next });
            } else if !is_spare {
                return Some(Work::Remove(from));
            }
        }
        (is_absent && self.is_wanted && may_fill).then_some(Work::Make(next))
    }

    /// The next thing to do, noted as begun.
    fn begin(&mut self) -> Option<Work> {
        let work = self.work()?;
        if matches!(work, Work::Recycle { .. } | Work::Make(_)) {
            self.next = Next::Making;
        }
        if matches!(work, Work::Recycle { .. } | Work::Remove(_)) {
            self.trimmed.start += 1;
            self.is_late = false;
        }
        Some(work)
    }

    fn fail(&mut self, error: LogError) {
        if matches!(self.next, Next::Making) {
            self.next = Next::Absent;
        }
        if error.is_disk_full() {
            self.full = Some(error);
        } else {
            self.fatal.get_or_insert(error);
        }
    }

    /// Why nothing can be waited for.
    fn check(&self) -> Result<(), LogError> {
        self.fatal.clone().or_else(|| self.full.clone()).map_or(Ok(()), Err)
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

    /// Works until there is nothing to do.
    fn run(&self, source: &Source) {
        loop {
            let mut state = self.lock();
            let Some(work) = state.begin() else {
                state.is_busy = false;
                self.changed.notify_all();
                return;
            };
            drop(state);
            let outcome = self.work(source, work);
            self.set(|state| outcome.unwrap_or_else(|error| state.fail(error)));
        }
    }

    fn work(&self, source: &Source, work: Work) -> Result<(), LogError> {
        let made = |ready: Option<Arc<dyn DiskFile>>, freed: bool| {
            self.set(|state| {
                state.next = ready.map_or(Next::Absent, Next::Ready);
                if freed {
                    state.full = None;
                }
            });
        };
        match work {
            Work::Fill { number, from } => source.fill(number, from, &mut |filled| {
                self.set(|state| state.filled = filled);
                !self.lock().stop
            })?,
            Work::Recycle { from, number } => made(source.recycle(from, number)?, true),
            Work::Remove(number) => {
                source.remove(number)?;
                self.set(|state| state.full = None);
            }
            Work::Make(number) => made(source.make(number, &mut |_| !self.lock().stop)?, false),
        }
        Ok(())
    }
}

/// Held by a job: waiters are woken even if it panics or never runs.
struct Running {
    shared: Arc<Shared>,
    /// What it was to prepare, until it is done.
    lost: Option<PathBuf>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(path) = self.lost.take() {
            let error = io::Error::other("the preparing thread ended early");
            self.shared.set(|state| {
                state.is_busy = false;
                state.fail(LogError::io("prepare", path, 0, error));
            });
        }
    }
}
