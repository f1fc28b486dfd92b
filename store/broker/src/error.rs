//! Why the store says no. Front-ends turn these into their own protocol's words.

use std::path::PathBuf;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the data directory {path} is in use by another process (it holds the lock on {path}/LOCK): stop that process or choose another data_dir", path = .0.display())]
    Locked(PathBuf),
    #[error("cannot use the data directory {path}: {error}", path = .0.display(), error = .1)]
    Io(PathBuf, std::io::Error),
    #[error(
        "a message of {message_bytes_max} bytes (message_bytes_max) may not be over a quarter of a segment of {segment_bytes} bytes (segment_bytes)"
    )]
    Bounds { message_bytes_max: usize, segment_bytes: u64 },
    #[error(
        "the log may not be bounded to {log_bytes_max} bytes (log_bytes_max), which is less than eight segments of {segment_bytes} bytes (segment_bytes)"
    )]
    LogBounds { log_bytes_max: u64, segment_bytes: u64 },
    #[error("the log is damaged: {0}")]
    Log(String),
    #[error("the index is damaged: {0} (the index can be deleted: it is rebuilt from the log)")]
    Index(String),
}

/// Why a login was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    #[error("the credentials were not accepted")]
    BadCredentials,
    #[error("this account may log in from loopback only")]
    LoopbackOnly,
    #[error("the namespace does not exist")]
    NoNamespace,
    #[error("this account may do nothing in that namespace")]
    NoAccess,
    #[error("too many logins wait to be looked at")]
    Busy,
    #[error("the server is shutting down")]
    Closed,
}

/// Why the store refused a request. `Closed` can come from any call once the store stops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no exchange '{0}'")]
    NoExchange(String),
    #[error("no queue '{0}'")]
    NoQueue(String),
    #[error("no topic '{0}'")]
    NoTopic(String),
    #[error("topic '{0}' gives out by priority: its records have no order to be read in by offset")]
    Ranked(String),
    #[error("queue '{0}' belongs to another connection")]
    Locked(String),
    #[error("'{0}' is in use")]
    InUse(String),
    #[error("queue '{0}' is not empty")]
    NotEmpty(String),
    #[error("queue '{0}' has an exclusive consumer")]
    ExclusiveConsumer(String),
    #[error("consumer {0} exists already")]
    ConsumerExists(u64),
    #[error("exchange '{0}' is internal")]
    Internal(String),
    #[error("the default exchange cannot be bound, declared or deleted")]
    DefaultExchange,
    #[error("exchange '{0}' is predeclared")]
    Predeclared(String),
    #[error("the binding's arguments are not valid: {0}")]
    BadArguments(String),
    #[error("access to {what} refused for user '{user}'")]
    Denied { what: String, user: String },
    #[error("the delivery is not outstanding")]
    Stale,
    #[error("the payload has {size} bytes, over the limit of {max}")]
    TooLarge { size: usize, max: usize },
    #[error("queue '{0}' is full")]
    QueueFull(String),
    #[error("the limit {name} of {max} is reached")]
    Limit { name: &'static str, max: u64 },
    #[error("the record at position {0} cannot be read: the log is damaged there")]
    Unreadable(u64),
    #[error("the disk is full")]
    DiskFull,
    #[error("the server is shutting down")]
    Closed,
}
