//! The thread that writes and syncs batches while the commit thread fills the next one.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use mainstem_log::{Batch, LogError, Planner, Spare, Writer};
use mainstem_schemas::Position;
use tokio::sync::mpsc::Sender;

use crate::stages::{DiskStages, Moment};

/// What the commit thread asks of the disk.
pub(crate) enum Job {
    /// One at a time: the next one comes when this one is told to be written.
    Write { batch: Batch, sync: bool },
    /// Give up what lies before. Done even while a batch waits for space, which it may give back.
    Trim { below: Position },
    /// Look again whether the disk has room for the next segment.
    CheckSpace,
    /// How many trimmed segments are kept besides the next one.
    KeepSpares(u64),
    /// Write what the planner holds, say the last word, end. Nothing else is in hand.
    Close { planner: Box<Planner> },
}

/// What the disk did.
#[derive(Debug)]
pub(crate) enum Done {
    Written {
        batch: Batch,
        synced: bool,
    },
    /// Whether there is room for the next segment. While there is none, a batch in hand that
    /// needs it is tried again until there is.
    Space {
        is_full: bool,
    },
    Failed(LogError),
    Closed,
}

/// How long a full disk is left alone between two tries.
const FULL_WAIT: Duration = Duration::from_millis(500);

/// Runs until the commit thread is gone or a write fails. A failed write or sync is never retried.
pub(crate) fn run(writer: Writer, jobs: &Receiver<Job>, done: &Sender<Done>) {
    let mut pen = Pen::new(writer);
    loop {
        let words = if pen.is_stuck() {
            match jobs.recv_timeout(FULL_WAIT) {
                Ok(job) => pen.work(job),
                Err(RecvTimeoutError::Timeout) => pen.try_again(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            let Ok(job) = jobs.recv() else { return };
            pen.work(job)
        };
        for word in words {
            let is_last = matches!(word, Done::Closed);
            // Nobody left to tell is fine: the commit thread has gone first.
            if done.blocking_send(word).is_err() || is_last {
                return;
            }
        }
    }
}

/// The writer, and the batch in its hand.
pub(crate) struct Pen {
    /// Gone when the log was closed.
    writer: Option<Writer>,
    /// A batch that found the disk full, and whether it is to be synced.
    stuck: Option<(Batch, bool)>,
    was_full: bool,
    stages: DiskStages,
}

impl Pen {
    pub(crate) fn new(writer: Writer) -> Self {
        Self { writer: Some(writer), stuck: None, was_full: false, stages: DiskStages::new() }
    }

    /// Whether a batch waits for space.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    /// Does a job, and says what came of it.
    pub(crate) fn work(&mut self, job: Job) -> Vec<Done> {
        let Some(writer) = &mut self.writer else { return Vec::new() };
        match job {
            Job::Write { batch, sync } => {
                self.stuck = Some((batch, sync));
                self.try_again()
            }
            Job::Trim { below } => match writer.trim(below) {
                // A segment may have come free for the batch in hand.
                Ok(_) => self.try_again(),
                Err(error) => vec![Done::Failed(error)],
            },
            Job::CheckSpace => self.try_again(),
            Job::KeepSpares(max) => {
                writer.keep_spares(max);
                Vec::new()
            }
            Job::Close { planner } => {
                let closed = self.writer.take().map_or(Ok(()), |writer| writer.close(*planner));
                vec![closed.map_or_else(Done::Failed, |()| Done::Closed)]
            }
        }
    }

    /// Writes the batch in hand if there is one and there is room, and looks for space.
    pub(crate) fn try_again(&mut self) -> Vec<Done> {
        let told = self.write().and_then(|written| Ok((written, self.look_for_space()?)));
        match told {
            Ok((written, space)) => space.into_iter().chain(written).collect(),
            Err(error) => vec![Done::Failed(error)],
        }
    }

    fn write(&mut self) -> Result<Option<Done>, LogError> {
        let Some((writer, (batch, sync))) = self.writer.as_mut().zip(self.stuck.take()) else {
            return Ok(None);
        };
        let started = Moment::now();
        match writer.write(&batch) {
            Ok(()) => {}
            Err(error) if error.is_disk_full() => {
                self.stuck = Some((batch, sync));
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let written = started.lap(&self.stages.write);
        if sync {
            writer.sync()?;
            written.lap(&self.stages.sync);
        }
        Ok(Some(Done::Written { batch, synced: sync }))
    }

    /// Whether there is room, if that is news.
    fn look_for_space(&mut self) -> Result<Option<Done>, LogError> {
        let Some(writer) = &mut self.writer else { return Ok(None) };
        let is_full = self.stuck.is_some()
            || match writer.spare()? {
                Spare::DiskFull(_) => true,
                Spare::Ready => false,
                // Another try is under way: what was true stays true until it is over.
                Spare::Preparing => self.was_full,
            };
        let is_news = is_full != self.was_full;
        self.was_full = is_full;
        Ok(is_news.then_some(Done::Space { is_full }))
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use mainstem_log::{
        Log, LogConfig,
        sim::{Faults, SimDisk},
    };

    use super::*;
    use crate::config::Config;

    const SEGMENT_BYTES: u64 = 4096;

    /// Batches of an eighth of a segment, as large as may be on their way: when the disk is told to
    /// be full, there is room for the one that was planned meanwhile, and for settlements. Space
    /// runs out at every place of the segment.
    #[test]
    fn a_full_disk_shows_while_there_is_room_for_what_is_on_its_way() {
        for before in 0..16 {
            let disk = SimDisk::new(before);
            let config = LogConfig::new(SEGMENT_BYTES);
            let opened = Log::open_on(
                Arc::new(disk.clone()),
                config,
                Position(0),
                Position(0),
                &mut |_, _| {},
            );
            let (mut planner, writer, _, _) = opened.unwrap();
            let mut pen = Pen::new(writer);
            let mut write = |pen: &mut Pen, bytes: usize| {
                planner.push(1, 1, &[&vec![7; bytes]]).unwrap();
                pen.work(Job::Write { batch: planner.finish(), sync: true })
            };
            let eighth = usize::try_from(SEGMENT_BYTES / 8).unwrap() - 100;
            for _ in 0..before {
                write(&mut pen, eighth);
            }
            // The next segment is long in the making.
            let faults = Faults { space_bytes: Some(0), beside_late_ms: 5, ..Faults::default() };
            disk.set_faults(faults);
            let is_told = |done: &Done| matches!(done, Done::Space { is_full: true });
            let told = (0..16).find(|_| write(&mut pen, eighth).iter().any(is_told));
            assert!(told.is_some() && !pen.is_stuck(), "{before}: it shows too late");
            write(&mut pen, eighth);
            write(&mut pen, 100);
            assert!(!pen.is_stuck(), "{before}: there is no room for what was on its way");
        }
    }

    /// The largest records, each alone on its way as nothing else is let in besides.
    #[test]
    fn a_full_disk_shows_while_there_is_room_for_what_large_records_are_followed_by() {
        let settings = Config { segment_bytes: SEGMENT_BYTES, ..Config::new(PathBuf::new()) };
        let largest = usize::try_from(settings.record_bytes_max()).unwrap();
        assert!(largest >= settings.uncommitted_bytes_max());
        for before in 0..40 {
            let disk = SimDisk::new(before);
            let config = LogConfig::new(SEGMENT_BYTES);
            let opened = Log::open_on(
                Arc::new(disk.clone()),
                config,
                Position(0),
                Position(0),
                &mut |_, _| {},
            );
            let (mut planner, writer, _, _) = opened.unwrap();
            let mut pen = Pen::new(writer);
            let mut write = |pen: &mut Pen, bytes: usize| {
                planner.push(1, 1, &[&vec![7; bytes]]).unwrap();
                pen.work(Job::Write { batch: planner.finish(), sync: true })
            };
            for _ in 0..before {
                write(&mut pen, 50);
            }
            let faults = Faults { space_bytes: Some(0), beside_late_ms: 5, ..Faults::default() };
            disk.set_faults(faults);
            let is_told = |done: &Done| matches!(done, Done::Space { is_full: true });
            let told = (0..16).find(|_| write(&mut pen, largest).iter().any(is_told));
            assert!(told.is_some() && !pen.is_stuck(), "{before}: it shows too late");
            write(&mut pen, 20);
            assert!(!pen.is_stuck(), "{before}: there is no room for a settlement");
        }
    }

    #[test]
    fn a_trim_gives_the_batch_in_hand_its_space() {
        let disk = SimDisk::new(1);
        let config = LogConfig::new(SEGMENT_BYTES);
        let opened =
            Log::open_on(Arc::new(disk.clone()), config, Position(0), Position(0), &mut |_, _| {});
        let (mut planner, writer, reader, _) = opened.unwrap();
        let mut pen = Pen::new(writer);
        let mut batch = || {
            planner.push(1, 1, &[&[7; 1000]]).unwrap();
            planner.finish()
        };
        let mut stuck_at = Position(0);
        for _ in 0..20 {
            let batch = batch();
            if batch.end().0 > 2 * SEGMENT_BYTES {
                disk.set_faults(Faults { space_bytes: Some(0), ..Faults::default() });
            }
            stuck_at = batch.end();
            pen.work(Job::Write { batch, sync: true });
            if pen.is_stuck() {
                break;
            }
        }
        assert!(pen.is_stuck() && reader.end() < stuck_at, "the disk is full");
        assert!(pen.work(Job::CheckSpace).is_empty() && pen.is_stuck(), "it still is");
        let done = pen.work(Job::Trim { below: Position(SEGMENT_BYTES) });
        let written = |done: &Done| matches!(done, Done::Written { batch, synced: true } if batch.end() == stuck_at);
        assert!(done.iter().any(written), "{done:?}");
        assert!(!pen.is_stuck() && reader.end() == stuck_at);
    }
}
