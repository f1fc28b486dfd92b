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
use mainstem_log::{Log, LogConfig, Reader, sim::SimDisk};
use mainstem_schemas::{UnixMillis, Views};
use tokio::sync::mpsc;

use crate::{
    command::Command,
    commit::{Aside, Commit, Fatal, Indexed, Start},
    config::Config,
    error::OpenError,
    open::{Recovered, recover},
    pipeline::{Done, Job, Pen},
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
    jobs: Receiver<Job>,
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
        let Recovered { state, opened, sequence, frames } = replay(disk, config, index_dir)?;
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
            replayed: frames,
            jobs,
            aside: Aside::Inline,
        };
        let (mut commit, indexed) = Commit::new(start);
        if let Err(error) = commit.close_orphans() {
            return Ok(Err(error.into()));
        }
        let (pen, jobs) = (Pen::new(writer), jobs_in);
        Ok(Ok(Self { commit, reader, commands: Vec::new(), indexed, pen, jobs }))
    }

    /// A turn over the commands that wait.
    pub(super) fn turn(&mut self) -> Result<(), Fatal> {
        self.commit.turn(&mut self.commands)
    }

    /// Fails if somebody waits for what is there, and nothing would wake them.
    pub(super) fn check_wakes(&mut self) -> Result<(), Fatal> {
        let forgotten = self.commit.forgotten_cursor()?;
        assert_eq!(forgotten, None, "a cursor has what it may hand out, and nobody looks at it");
        Ok(())
    }

    /// The thread that writes does one job, or tries again what waits for space; false when there
    /// is nothing to do.
    pub(super) fn work(&mut self) -> Result<bool, Fatal> {
        let Some(done) = work(&mut self.pen, &self.jobs) else { return Ok(false) };
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
        self.pen.is_stuck()
    }

    /// Ends in good order.
    pub(super) fn close(self) -> Result<(), Fatal> {
        let Self { commit, mut pen, jobs, mut indexed, .. } = self;
        let (done, mut done_in) = mpsc::channel(JOBS_MAX);
        let mut closing = Box::pin(commit.close(&mut done_in, &mut indexed));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..100 {
            if let Poll::Ready(closed) = closing.as_mut().poll(&mut cx) {
                return closed.map(|_| ());
            }
            for word in work(&mut pen, &jobs).into_iter().flatten() {
                assert!(done.try_send(word).is_ok(), "there is room");
            }
        }
        panic!("closing does not end");
    }
}

fn work(pen: &mut Pen, jobs: &Receiver<Job>) -> Option<Vec<Done>> {
    match jobs.try_recv() {
        Ok(job) => Some(pen.work(job)),
        Err(_) => pen.is_stuck().then(|| pen.try_again()),
    }
}
