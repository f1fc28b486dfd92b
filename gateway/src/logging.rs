//! Log lines, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    EnvFilter, Registry, fmt, layer::SubscriberExt, registry, reload, util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

/// What of the log's level can be changed while it is written.
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Follows another level from now on. Errors: it is no level.
    pub fn set(&self, level: &str) -> Result<(), String> {
        self.0.reload(filter(level)?).map_err(|error| error.to_string())
    }
}

/// Starts logging for the whole process. Errors: the level is no level.
pub fn start(log: &Log) -> Result<Level, String> {
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => registry().with(filter).with(lines).try_init(),
        LogFormat::Json => registry().with(filter).with(lines.json()).try_init(),
    }
    .map_err(|error| format!("cannot start logging: {error}"))?;
    Ok(Level(handle))
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(level).map_err(|error| format!("'log.level' is wrong: {error}"))
}
