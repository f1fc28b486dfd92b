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
use mainstem_log::{Frame, Log, LogConfig, LogError, Opened, Reader};
use mainstem_schemas::{Position, UnixMillis, Views};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{
    client::{Authenticator, Broker, Hashing, ReadBack, Shared, Threads},
    commit::{Aside, Commit, Start},
    config::Config,
    entry::{
        Carried, Entry, EntryError, KIND_PLACE, Placed, carries_record, decode_carried,
        decode_record,
    },
    error::{OpenError, Refusal},
    passage::Passage,
    pipeline,
    policy::Policy,
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
        authenticator: Arc<dyn Authenticator>,
        views: Views,
    ) -> Result<Self, OpenError> {
        check_bounds(&config)?;
        let lock = lock(&config.data_dir)?;
        let Recovered { state, opened, sequence, frames } = recover_dir(&config)?;
        let (planner, writer, reader, recovery) = opened;
        let cut = &recovery.cut;
        tracing::info!(event = "store_opened", replayed = frames, ?cut, "the log is replayed");
        let (commands, commands_in) = mpsc::channel(config.commands_max);
        let (jobs, jobs_in) = sync_channel(JOBS_MAX);
        let (done, done_in) = mpsc::channel(DONE_MAX);
        let (failed, failure) = watch::channel(None);
        let usage = state.usage.clone();
        let start = Start {
            state,
            config: config.clone(),
            views,
            clock: now,
            planner,
            reader: reader.clone(),
            sequence,
            replayed: frames,
            jobs,
            aside: Aside::Runtime,
        };
        let io_error = |error| OpenError::Io(config.data_dir.clone(), error);
        let write = move || pipeline::run(writer, &jobs_in, &done);
        let log_thread =
            thread::Builder::new().name("log".to_owned()).spawn(write).map_err(io_error)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(io_error)?;
        let commit = move || {
            let _alarm = Alarm { failed: failed.clone() };
            let (commit, indexed_in) = Commit::new(start);
            let stopped = runtime.block_on(commit.run(commands_in, done_in, indexed_in, failed));
            drop(lock);
            if let Some(reply) = stopped {
                crate::commit::send(reply, ());
            }
        };
        let commit_thread =
            thread::Builder::new().name("commit".to_owned()).spawn(commit).map_err(io_error)?;
        let shared = Shared {
            commands,
            uncommitted: Arc::new(Semaphore::new(config.uncommitted_bytes_max())),
            authenticator,
            hashing: Hashing::default(),
            views,
            read: Box::new(move |position, size| read(&reader, position, size)),
            clients: AtomicU64::new(1),
            emptied: AtomicU64::new(0),
            usage,
            now,
            failure,
            config,
            _threads: Threads(vec![commit_thread, log_thread]),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

fn check_bounds(config: &Config) -> Result<(), OpenError> {
    if config.message_bytes_max as u64 > config.segment_bytes / 4 {
        return Err(OpenError::Bounds {
            message_bytes_max: config.message_bytes_max,
            segment_bytes: config.segment_bytes,
        });
    }
    let (log_bytes_max, segment_bytes) = (config.log_bytes_max, config.segment_bytes);
    if log_bytes_max != 0 && log_bytes_max < segment_bytes.saturating_mul(Config::LOG_SEGMENTS_MIN)
    {
        return Err(OpenError::LogBounds { log_bytes_max, segment_bytes });
    }
    Ok(())
}

/// What a store is made of again.
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) opened: Opened,
    /// The number of the last entry.
    pub(crate) sequence: u64,
    /// Entries that were applied.
    pub(crate) frames: u64,
}

/// Opens a log from a position on.
type OpenLog<'a> =
    dyn FnMut(Position, &mut dyn FnMut(Position, Frame)) -> Result<Opened, LogError> + 'a;

/// The store of a directory, its index made anew if need be.
fn recover_dir(config: &Config) -> Result<Recovered, OpenError> {
    let log_config = LogConfig::new(config.segment_bytes);
    let log_dir = config.data_dir.join("log");
    let index_dir = config.data_dir.join("index");
    loop {
        let index = Index::open(&index_dir).map_err(index_error)?;
        let recovered = recover(index, config, now(), &mut |applied, on_frame| {
            Log::open(&log_dir, log_config, applied, applied, on_frame)
        })?;
        if let Some(recovered) = recovered {
            return Ok(recovered);
        }
        Index::remove(&index_dir).map_err(index_error)?;
    }
}

/// Applies to the index's state what the log has behind it. `None` when the log has let go of what
/// the index does not know: everything that is still true stands in the log, so the index must be
/// made anew.
pub(crate) fn recover(
    index: Index,
    config: &Config,
    now: UnixMillis,
    open_log: &mut OpenLog<'_>,
) -> Result<Option<Recovered>, OpenError> {
    let mut state = State::new(index, config.segment_bytes, config.queues_resident_max);
    let away = &config.away;
    let ttl_ms = (away.age_ms_max > 0).then_some(away.age_ms_max);
    state.queues.set_filter_policy(Policy { ttl_ms, ..Policy::default() });
    state.lets_go_behind = away.bounds_a_queue();
    if config.topic_retention_bytes > 0 {
        state.kept_bytes_max = config.topic_retention_bytes;
    }
    state.restore().map_err(index_error)?;
    let applied = state.index.applied();
    state.queues.is_rebuilding = applied.0 == 0;
    let mut replay = Replay::new(state);
    let opened = open_log(applied, &mut |position, frame| replay.on_frame(position, frame));
    let opened = opened.map_err(log_error)?;
    let Replay { mut state, sequence, damage, frames, .. } = replay;
    if applied.0 != 0 && opened.3.first > applied {
        return Ok(None);
    }
    if let Some(damage) = damage {
        return Err(OpenError::Log(damage));
    }
    if let Some(error) = state.queues.failed.take() {
        return Err(index_error(error));
    }
    state.finish_recovery(now, opened.3.end);
    Ok(Some(Recovered { state, opened, sequence, frames }))
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

/// The time by the system's clock. The one place that reads it.
#[expect(clippy::disallowed_methods, reason = "everything else takes the time as an argument")]
#[must_use]
pub fn now() -> UnixMillis {
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

/// Frames between two looks at how long the replay takes.
const FRAMES_PER_LOOK: u64 = 8192;
/// A replay that takes longer says how far it is, so often.
const PROGRESS_MS: u64 = 1000;

/// The log being applied from where the index is.
struct Replay {
    state: State,
    sequence: u64,
    damage: Option<String>,
    frames: u64,
    started: UnixMillis,
    told: UnixMillis,
}

impl Replay {
    fn new(state: State) -> Self {
        let started = now();
        Self { state, sequence: 0, damage: None, frames: 0, started, told: started }
    }

    fn on_frame(&mut self, position: Position, frame: Frame) {
        self.sequence = frame.sequence;
        self.frames += 1;
        if self.frames.is_multiple_of(FRAMES_PER_LOOK) {
            self.tell(position);
        }
        if self.damage.is_none()
            && let Err(error) = apply(&mut self.state, position, frame)
        {
            self.damage = Some(format!("the entry at position {}: {error}", position.0));
        }
    }

    fn tell(&mut self, position: Position) {
        let now = now();
        if now.since(self.told) >= PROGRESS_MS {
            self.told = now;
            tracing::info!(
                event = "store_replaying",
                frames = self.frames,
                position = position.0,
                seconds = now.since(self.started) / 1000,
                "the log is being replayed"
            );
        }
    }
}

fn apply(state: &mut State, position: Position, frame: Frame) -> Result<(), EntryError> {
    let size = u32::try_from(frame.size()).unwrap_or(u32::MAX);
    if carries_record(frame.kind) {
        let Carried { head, targets, record } = decode_carried(frame.body)?;
        state.apply_carried(position, size, frame.kind, &head, &targets, &record);
    } else {
        // A copy, since keys and filters keep slices of it and the frame shares a large buffer.
        let body = Bytes::copy_from_slice(&frame.body);
        state.apply(position, size, Entry::decode(frame.kind, body)?);
    }
    Ok(())
}

/// Reads one record back, and how it came where it is.
pub(crate) fn read(reader: &Reader, position: Position, size: u32) -> Result<ReadBack, Refusal> {
    let frame = match reader.read(position, size as usize) {
        Ok(frame) => frame,
        Err(LogError::Trimmed { .. }) => return Err(Refusal::Stale),
        Err(error) => return Err(unreadable(position, &error)),
    };
    if frame.kind != KIND_PLACE {
        let record = decode_record(frame.body).map_err(|error| unreadable(position, &error))?;
        return Ok((record, None));
    }
    let placed = Placed::decode(mainstem_schemas::wire::Reader::new(frame.body));
    let placed = placed.map_err(|error| unreadable(position, &error))?;
    let passage = Passage::of(&placed).map_err(|error| unreadable(position, &error))?;
    let (record, _) = read(reader, placed.source, placed.size)?;
    Ok((record, Some(Arc::new(passage))))
}

/// What was written must be readable; what is not is named, and nothing around it suffers.
fn unreadable(position: Position, error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(
        event = "record_unreadable",
        position = position.0,
        "a record cannot be read back: {error}"
    );
    Refusal::Unreadable(position.0)
}

fn log_error(error: LogError) -> OpenError {
    OpenError::Log(error.to_string())
}

fn index_error(error: IndexError) -> OpenError {
    OpenError::Index(error.to_string())
}
