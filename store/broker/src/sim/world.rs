//! The store with its threads taken apart: every step is the caller's, and so is the time.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    task::{Context, Poll, Waker},
};

use mainstem_index::{Index, Tuning};
use mainstem_log::{Log, LogConfig, Reader, Spare, Writer, sim::SimDisk};
use mainstem_schemas::{UnixMillis, Views};
use tokio::sync::mpsc;

use crate::{
    command::Command,
    commit::{Aside, Commit, Fatal, Indexed, Start},
    config::Config,
    error::OpenError,
    open::{Recovered, recover},
    pipeline::{Done, Job},
};

thread_local! {
    static CLOCK: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn now() -> UnixMillis {
    UnixMillis(CLOCK.get())
}

pub(super) fn set_now(now: UnixMillis) {
    CLOCK.set(now.0);
}

const TUNING: Tuning =
    Tuning { memtable_bytes: 4 << 20, memtables_max: 3, block_cache_bytes: 1 << 20 };

/// Jobs and words that may wait: never reached.
const JOBS_MAX: usize = 1024;

/// A store that runs.
pub(super) struct World {
    pub(super) commit: Commit,
    pub(super) reader: Reader,
    pub(super) commands: Vec<Command>,
    indexed: mpsc::Receiver<Indexed>,
    pen: Pen,
}

/// What the thread that writes is made of.
struct Pen {
    writer: Option<Writer>,
    jobs: Receiver<Job>,
    /// A batch that found the disk full.
    stuck: Option<Job>,
    was_full: bool,
}

/// Opens an index that is used by one run.
pub(super) fn open_index(dir: &Path) -> Index {
    fs::create_dir_all(dir).unwrap();
    Index::open_with(dir, TUNING).unwrap()
}

/// Replays a log to the index in `dir`, which is made anew if the log has let go of what it does
/// not know.
pub(super) fn replay(disk: &SimDisk, config: &Config, dir: &Path) -> Result<Recovered, OpenError> {
    let log_config = LogConfig::new(config.segment_bytes);
    loop {
        let recovered = recover(open_index(dir), config, now(), &mut |applied, on_frame| {
            Log::open_on(Arc::new(disk.clone()), log_config, applied, applied, on_frame)
        })?;
        if let Some(recovered) = recovered {
            return Ok(recovered);
        }
        Index::remove(dir).unwrap();
    }
}

/// Copies an index as its files are now, which is how it was flushed last. RocksDB may be tidying
/// up meanwhile, so the copy is tried.
pub(super) fn copy_index(from: &Path, to: &Path) {
    for _ in 0..20 {
        if to.exists() {
            fs::remove_dir_all(to).unwrap();
        }
        fs::create_dir_all(to).unwrap();
        let mut names: Vec<PathBuf> =
            fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).collect();
        // The files first that point to others.
        names.sort_by_key(|path| path.extension().is_some());
        let mut whole = true;
        for path in names {
            let name = path.file_name().unwrap();
            if name == "LOG" || name == "LOCK" || path.is_dir() {
                continue;
            }
            let is_table = path.extension().is_some_and(|extension| extension == "sst");
            let to = to.join(name);
            whole &= if is_table {
                fs::hard_link(&path, to).is_ok()
            } else {
                fs::copy(&path, to).is_ok()
            };
        }
        if whole && Index::open_with(to, TUNING).is_ok() {
            return;
        }
    }
    panic!("the index cannot be copied");
}

impl World {
    pub(super) fn start(
        disk: &SimDisk,
        config: &Config,
        index_dir: &Path,
    ) -> Result<Result<Self, Fatal>, OpenError> {
        let Recovered { state, opened, sequence, .. } = replay(disk, config, index_dir)?;
        let (planner, writer, reader, _) = opened;
        let (jobs, jobs_in) = sync_channel(JOBS_MAX);
        let start = Start {
            state,
            config: config.clone(),
            views: Views::default(),
            clock: now,
            planner,
            reader: reader.clone(),
            sequence,
            jobs,
            aside: Aside::Inline,
        };
        let (mut commit, indexed) = Commit::new(start);
        if let Err(error) = commit.close_orphans() {
            return Ok(Err(error.into()));
        }
        let pen = Pen { writer: Some(writer), jobs: jobs_in, stuck: None, was_full: false };
        Ok(Ok(Self { commit, reader, commands: Vec::new(), indexed, pen }))
    }

    /// A turn over the commands that wait.
    pub(super) fn turn(&mut self) -> Result<(), Fatal> {
        self.commit.turn(&mut self.commands)
    }

    /// The thread that writes does one job; false when there is none.
    pub(super) fn work(&mut self) -> Result<bool, Fatal> {
        let Some(done) = self.pen.work() else { return Ok(false) };
        for word in done {
            self.commit.on_done(word)?;
        }
        Ok(true)
    }

    /// The thread that writes the index reports; false when it has nothing to say.
    pub(super) fn hear_of_index(&mut self) -> Result<bool, Fatal> {
        let Ok(indexed) = self.indexed.try_recv() else { return Ok(false) };
        self.commit.on_indexed(indexed)?;
        Ok(true)
    }

    /// Whether a batch waits for space.
    pub(super) fn is_stuck(&self) -> bool {
        self.pen.stuck.is_some()
    }

    /// Ends in good order.
    pub(super) fn close(self) -> Result<(), Fatal> {
        let Self { commit, mut pen, mut indexed, .. } = self;
        let (done, mut done_in) = mpsc::channel(JOBS_MAX);
        let mut closing = Box::pin(commit.close(&mut done_in, &mut indexed));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..100 {
            if let Poll::Ready(closed) = closing.as_mut().poll(&mut cx) {
                return closed.map(|_| ());
            }
            for word in pen.work().into_iter().flatten() {
                assert!(done.try_send(word).is_ok(), "there is room");
            }
        }
        panic!("closing does not end");
    }
}

impl Pen {
    /// As `pipeline::run` does a job, but that it does not wait where the disk is full.
    fn work(&mut self) -> Option<Vec<Done>> {
        let job = self.stuck.take().or_else(|| self.jobs.try_recv().ok())?;
        let writer = self.writer.as_mut()?;
        let written = match job {
            Job::Write { batch, sync } => match writer.write(&batch) {
                Err(error) if error.is_disk_full() => {
                    self.was_full = true;
                    self.stuck = Some(Job::Write { batch, sync });
                    return Some(vec![Done::Space { is_full: true }]);
                }
                Err(error) => return Some(vec![Done::Failed(error)]),
                Ok(()) => match if sync { writer.sync() } else { Ok(()) } {
                    Err(error) => return Some(vec![Done::Failed(error)]),
                    Ok(()) => Some(Done::Written { batch, synced: sync }),
                },
            },
            Job::Trim { below } => match writer.trim(below) {
                Ok(_) => None,
                Err(error) => return Some(vec![Done::Failed(error)]),
            },
            Job::CheckSpace => None,
            Job::Close { planner } => {
                let closed = self.writer.take()?.close(*planner);
                return Some(vec![closed.map_or_else(Done::Failed, |()| Done::Closed)]);
            }
        };
        let is_full = match writer.spare() {
            Ok(Spare::DiskFull(_)) => true,
            Ok(Spare::Ready) => false,
            Ok(Spare::Preparing) => self.was_full,
            Err(error) => return Some(vec![Done::Failed(error)]),
        };
        let space = (is_full != self.was_full).then_some(Done::Space { is_full });
        self.was_full = is_full;
        Some(space.into_iter().chain(written).collect())
    }
}
