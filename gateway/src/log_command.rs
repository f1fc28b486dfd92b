//! `mainstem log`: looks into the log of a data directory. Writes nothing and takes no lock, so it
//! may run beside a server.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use mainstem_broker::survey::LogError;

mod inspect;
mod stats;
mod verify;
mod words;

/// The log is in order, something in it is damaged, it cannot be read.
pub const SOUND: u8 = 0;
pub const DAMAGED: u8 = 1;
pub const UNREADABLE: u8 = 2;

/// What to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Inspect(Selection),
    Verify,
    Stats,
}

/// Which entries to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// A position; the first entry at or behind it is shown first.
    pub from: u64,
    pub limit: Option<u64>,
    /// One of [`mainstem_broker::describe::KINDS`].
    pub kind: Option<String>,
    /// The name of a queue, a topic, or the text of a filter.
    pub queue: Option<String>,
}

/// An action, where, and how it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogCommand {
    pub action: Action,
    /// The data directory; unset for the configured one.
    pub data: Option<PathBuf>,
    pub json: bool,
}

/// Why looking ended early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("cannot read {}: {}", .0.display(), .1)]
    Directory(PathBuf, io::Error),
    #[error("no queue '{0}' in this log")]
    NoQueue(String),
    /// Whoever reads has seen enough.
    #[error("{0}")]
    Output(#[from] io::Error),
}

impl LogCommand {
    /// Does it, and answers the exit code.
    pub fn run(&self, data: &Path, out: &mut dyn Write) -> u8 {
        let done = is_there(data).and_then(|()| match &self.action {
            Action::Inspect(selection) => inspect::run(data, selection, self.json, out),
            Action::Verify => verify::run(data, self.json, out),
            Action::Stats => stats::run(data, self.json, out),
        });
        match done.and_then(|code| Ok(out.flush().map(|()| code)?)) {
            Ok(code) => code,
            Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => SOUND,
            Err(failure) => {
                let _closed = writeln!(io::stderr(), "mainstem: {failure}");
                UNREADABLE
            }
        }
    }
}

/// A directory that is missing is not a log in good order.
fn is_there(data: &Path) -> Result<(), Failure> {
    let log = data.join("log");
    match log.read_dir() {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::Directory(log, error)),
    }
}
