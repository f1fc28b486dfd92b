//! Opening a store: lock the directory, restore the index, replay the log, start the threads.

use std::{
    fs::{File, TryLockError, create_dir_all},
    path::Path,
    sync::{Arc, atomic::AtomicU64, mpsc::sync_channel},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use mainstem_index::{Index, IndexError};
use mainstem_log::{Frame, Log, LogConfig, LogError, Reader};
use mainstem_schemas::{Position, UnixMillis, Views};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{
    client::{Authenticator, Broker, Shared, Threads},
    commit::{Commit, Start},
    config::Config,
    entry::{Entry, EntryError, KIND_PUBLISH, decode_publish, decode_record},
    error::{OpenError, Refusal},
    pipeline,
    state::State,
};

/// Batches that may wait for the thread that writes: one, since the next one fills meanwhile.
const JOBS_MAX: usize = 1;
/// Words from that thread that may wait for the commit thread.
const DONE_MAX: usize = 16;

impl Broker {
    /// Opens the store in `config.data_dir`, making it if there is none. Blocks until the log is
    /// replayed.
    pub fn open(
        config: Config,
        authenticator: Box<dyn Authenticator>,
        views: Views,
    ) -> Result<Self, OpenError> {
        if config.message_bytes_max as u64 > config.segment_bytes / 4 {
            return Err(OpenError::Bounds {
                message_bytes_max: config.message_bytes_max,
                segment_bytes: config.segment_bytes,
            });
        }
        let lock = lock(&config.data_dir)?;
        let index = Index::open(&config.data_dir.join("index")).map_err(index_error)?;
        let mut state = State::new(index);
        state.restore().map_err(index_error)?;
        let applied = state.index.applied();
        let mut sequence = 0;
        let mut damage = None;
        let mut replayed = 0_u64;
        let mut on_frame = |position: Position, frame: Frame| {
            sequence = frame.sequence;
            replayed += 1;
            if damage.is_none()
                && let Err(error) = replay(&mut state, position, frame)
            {
                damage = Some(format!("the entry at position {}: {error}", position.0));
            }
        };
        let log_config = LogConfig::new(config.segment_bytes);
        let log_dir = config.data_dir.join("log");
        let opened = Log::open(&log_dir, log_config, applied, applied, &mut on_frame);
        let (planner, writer, reader, recovery) = opened.map_err(log_error)?;
        if let Some(damage) = damage {
            return Err(OpenError::Log(damage));
        }
        state.finish_recovery(now());
        tracing::info!(event = "store_opened", replayed, cut = ?recovery.cut, "the log is replayed");

        let (commands, commands_in) = mpsc::channel(config.commands_max);
        let (jobs, jobs_in) = sync_channel(JOBS_MAX);
        let (done, done_in) = mpsc::channel(DONE_MAX);
        let (failed, failure) = watch::channel(None);
        let start =
            Start { state, config: config.clone(), views, clock: now, planner, sequence, jobs };
        let io_error = |error| OpenError::Io(config.data_dir.clone(), error);
        let write = move || pipeline::run(writer, &jobs_in, &done);
        let log_thread =
            thread::Builder::new().name("log".to_owned()).spawn(write).map_err(io_error)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(io_error)?;
        let failed_read = failed.clone();
        let commit = move || {
            let _alarm = Alarm { failed: failed.clone() };
            let stopped = runtime.block_on(Commit::new(start).run(commands_in, done_in, failed));
            drop(lock);
            if let Some(reply) = stopped {
                crate::commit::send(reply, ());
            }
        };
        let commit_thread =
            thread::Builder::new().name("commit".to_owned()).spawn(commit).map_err(io_error)?;
        let shared = Shared {
            commands,
            uncommitted: Arc::new(Semaphore::new(config.uncommitted_bytes_max)),
            authenticator,
            views,
            read: Box::new(move |position, size| read(&reader, &failed_read, position, size)),
            clients: AtomicU64::new(1),
            now,
            failure,
            config,
            _threads: Threads(vec![commit_thread, log_thread]),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

/// Tells the process when the commit thread ends by a panic, so that it does not live on without
/// a store.
struct Alarm {
    failed: watch::Sender<Option<String>>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.failed.send_replace(Some("the commit thread found itself in error".to_owned()));
        }
    }
}

/// The one place of the store that reads the clock.
#[expect(clippy::disallowed_methods, reason = "everything else takes the time as an argument")]
fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn lock(data_dir: &Path) -> Result<File, OpenError> {
    let io_error = |error| OpenError::Io(data_dir.to_owned(), error);
    create_dir_all(data_dir).map_err(io_error)?;
    let file = File::options().create(true).truncate(false).write(true).open(data_dir.join("LOCK"));
    let file = file.map_err(io_error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(data_dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(io_error(error)),
    }
}

fn replay(state: &mut State, position: Position, frame: Frame) -> Result<(), EntryError> {
    let size = u32::try_from(frame.size()).unwrap_or(u32::MAX);
    if frame.kind == KIND_PUBLISH {
        let (targets, record) = decode_publish(frame.body)?;
        state.apply_publish(position, size, &targets, &record);
    } else {
        // A copy, since keys and filters keep slices of it and the frame shares a large buffer.
        let body = Bytes::copy_from_slice(&frame.body);
        state.apply(position, Entry::decode(frame.kind, body)?);
    }
    Ok(())
}

/// Reads one record back. What was written must be readable: if it is not, the disk lost it, and
/// nothing after that can be trusted.
fn read(
    reader: &Reader,
    failed: &watch::Sender<Option<String>>,
    position: Position,
    size: u32,
) -> Result<mainstem_schemas::Record, Refusal> {
    let frame = reader.read(position, size as usize).map_err(|error| error.to_string());
    let record = frame.and_then(|frame| decode_record(frame.body).map_err(|e| e.to_string()));
    record.map_err(|error| {
        let text = format!("a record cannot be read back at position {}: {error}", position.0);
        tracing::error!(event = "record_unreadable", "{text}");
        failed.send_replace(Some(text));
        Refusal::Closed
    })
}

fn log_error(error: LogError) -> OpenError {
    OpenError::Log(error.to_string())
}

fn index_error(error: IndexError) -> OpenError {
    OpenError::Index(error.to_string())
}
