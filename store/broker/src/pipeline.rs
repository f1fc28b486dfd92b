//! The thread that writes and syncs batches while the commit thread fills the next one.

use std::{sync::mpsc::Receiver, thread, time::Duration};

use mainstem_log::{Batch, LogError, Planner, Spare, Writer};
use mainstem_schemas::Position;
use tokio::sync::mpsc::Sender;

use crate::stages::{DiskStages, Moment};

/// What the commit thread asks of the disk.
pub(crate) enum Job {
    Write {
        batch: Batch,
        sync: bool,
    },
    /// Give up what lies before.
    Trim {
        below: Position,
    },
    /// Look again whether the disk has room for the next segment.
    CheckSpace,
    /// Write what the planner holds, say the last word, end.
    Close {
        planner: Box<Planner>,
    },
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
pub(crate) fn run(mut writer: Writer, jobs: &Receiver<Job>, done: &Sender<Done>) {
    let stages = DiskStages::new();
    let mut was_full = false;
    while let Ok(job) = jobs.recv() {
        let outcome = match job {
            Job::Write { batch, sync } => {
                let started = Moment::now();
                write(&mut writer, &batch, &mut was_full, done).and_then(|()| {
                    let written = started.lap(&stages.write);
                    if sync {
                        writer.sync()?;
                        written.lap(&stages.sync);
                    }
                    Ok(Some(Done::Written { batch, synced: sync }))
                })
            }
            Job::Trim { below } => writer.trim(below).map(|_| None),
            Job::CheckSpace => Ok(None),
            Job::Close { planner } => {
                let closed = writer.close(*planner).map_or_else(Done::Failed, |()| Done::Closed);
                // Nobody left to tell is fine: the commit thread has gone first.
                let _told = done.blocking_send(closed);
                return;
            }
        };
        let told = outcome.and_then(|written| {
            let is_full = match writer.spare()? {
                Spare::DiskFull(_) => true,
                Spare::Ready => false,
                // Another try is under way: what was true stays true until it is over.
                Spare::Preparing => was_full,
            };
            let space = (is_full != was_full).then_some(Done::Space { is_full });
            was_full = is_full;
            Ok([space, written])
        });
        let messages = told.unwrap_or_else(|error| [Some(Done::Failed(error)), None]);
        for message in messages.into_iter().flatten() {
            if done.blocking_send(message).is_err() {
                return;
            }
        }
    }
}

fn write(
    writer: &mut Writer,
    batch: &Batch,
    was_full: &mut bool,
    done: &Sender<Done>,
) -> Result<(), LogError> {
    loop {
        match writer.write(batch) {
            Ok(()) => return Ok(()),
            Err(error) if error.is_disk_full() => {
                let gone = done.blocking_send(Done::Space { is_full: true }).is_err();
                *was_full = true;
                if gone {
                    return Err(error);
                }
                thread::sleep(FULL_WAIT);
            }
            Err(error) => return Err(error),
        }
    }
}
