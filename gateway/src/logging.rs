//! Log lines, on standard error.

use std::sync::OnceLock;

use tracing_subscriber::{EnvFilter, reload};

use crate::config::{Log, LogFormat};

/// Lets other lines through than before.
type Change = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

/// There is one log in a process.
static CHANGE: OnceLock<Box<Change>> = OnceLock::new();

/// Starts logging for the whole process. Errors: the level is no level.
pub fn start(log: &Log) -> Result<(), String> {
    let filter =
        EnvFilter::try_new(&log.level).map_err(|error| format!("'log.level' is wrong: {error}"))?;
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let change: Box<Change>;
    let started = match log.format {
        LogFormat::Text => {
            let lines = lines.with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            change = Box::new(move |filter| handle.reload(filter));
            lines.try_init()
        }
        LogFormat::Json => {
            let lines = lines.json().with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            change = Box::new(move |filter| handle.reload(filter));
            lines.try_init()
        }
    };
    started.map_err(|error| format!("cannot start logging: {error}"))?;
    // A second log would not have started.
    let _first = CHANGE.set(change);
    Ok(())
}

/// Logs what is of this level or above from now on, until the process ends. Errors: there is no log, or
/// no such level.
pub fn set_level(level: &str) -> Result<(), String> {
    let change = CHANGE.get().ok_or("this process has no log")?;
    let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
    change(filter).map_err(|error| error.to_string())
}
