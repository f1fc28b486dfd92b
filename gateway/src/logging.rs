//! Log lines, on standard error.

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt, registry, reload, util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

/// What of the log's level can be changed while it is written. There is one log in a process.
static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging for the whole process. Errors: the level is no level.
pub fn start(log: &Log) -> Result<(), String> {
    let filter = filter(&log.level).map_err(|error| format!("'log.level' is wrong: {error}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => registry().with(filter).with(lines).try_init(),
        LogFormat::Json => registry().with(filter).with(lines.json()).try_init(),
    }
    .map_err(|error| format!("cannot start logging: {error}"))?;
    // A second log would not have started.
    let _first = LEVEL.set(handle);
    Ok(())
}

/// Logs what is of this level or above from now on, until the process ends. Errors: there is no log, or
/// no such level.
pub fn set_level(level: &str) -> Result<(), String> {
    let handle = LEVEL.get().ok_or("this process has no log")?;
    handle.reload(filter(level)?).map_err(|error| error.to_string())
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(level).map_err(|error| error.to_string())
}
