//! The commit thread: the one owner of all state, and the only one who adds to the log.
//!
//! A turn takes every command that waits, plans what is durable into the open batch and applies
//! it, delivers what may be delivered, and hands the batch to the disk if the disk is free. While
//! the disk syncs one batch, the next one fills: the sync in progress is the batching. Effects
//! that promise something (receipts, deliveries from durable queues) leave when the batch they
//! belong to is down.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use mainstem_index::{Entry as Place, IndexError};
use mainstem_log::{FRAME_HEADER_BYTES, LogError, Planner, Reader};
use mainstem_schemas::{
    ConsumerId, CursorId, Position, QueueId, UnixMillis, Views, queue::TRANSIENT_BIT,
};
use rustc_hash::FxHashMap;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use crate::{
    command::{ClientId, Command, Published, Reply},
    config::Config,
    cursor::Returned,
    entry::Entry,
    inbox::Notice,
    member::{Consumer, Member},
    pipeline::{Done, Job},
    ranges::Spans,
    stages::{Moment, Stages},
    state::{State, warm::AHEAD},
    tail::Tail,
};

mod away;
mod bounds;
mod branches;
mod chores;
mod clean;
mod counts;
mod dead;
mod declare;
mod deliver;
mod doomed;
mod emptying;
mod handle;
mod held;
mod listing;
mod lookup;
mod members;
mod outgrow;
mod parameters;
mod publish;
mod sessions;
mod settle;
mod ship;
mod timers;
mod topics;
mod warm;
mod writers;

use away::Crowds;
use chores::Chores;
use clean::Cleaning;
use counts::Counts;
#[cfg(test)]
pub(crate) use dead::DEATHS_MAX;
use doomed::Doomed;
pub(crate) use ship::Indexed;
use ship::{Checkpointing, Reached};

/// Commands taken in one turn; more wait for the next one.
const COMMANDS_PER_TURN: usize = 1024;
/// Words from the thread that writes the index that may wait for the commit thread.
const INDEXED_MAX: usize = 4;
/// How often sessions and space are looked at.
const TICK_MS: u64 = 1000;

/// Something to be done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A leased delivery comes back, if it still has this epoch.
    Lease {
        queue: QueueId,
        cursor: CursorId,
        offset: u64,
        epoch: u32,
    },
    /// A returned record has rested long enough.
    Rest {
        queue: QueueId,
        cursor: CursorId,
        offset: u64,
    },
    /// A fetch has waited long enough.
    Fetch {
        queue: QueueId,
        cursor: CursorId,
        id: u64,
    },
    /// Dead records that wait are tried again.
    Bury {
        queue: QueueId,
        cursor: CursorId,
    },
    /// What was written without a sync is synced now, if nothing did it since.
    Sync,
    /// What was held back is written now.
    Ship,
    Tick,
}

/// What waits for a batch to be down.
#[derive(Default)]
struct Waiting {
    published: Vec<(Reply<Vec<Published>>, Vec<Published>)>,
    replies: Vec<Box<dyn FnOnce() + Send>>,
    /// Queues that got records.
    touched: Vec<QueueId>,
    permits: Vec<OwnedSemaphorePermit>,
    /// Bytes of records that the cleaning moved.
    moved_bytes: u64,
    /// Somebody was promised that it is synced.
    needs_sync: bool,
    /// When the turn began that took the first command.
    since: Option<Moment>,
}

pub(crate) struct Commit {
    pub(crate) state: State,
    config: Config,
    views: Views,
    clock: fn() -> UnixMillis,
    now: UnixMillis,

    planner: Planner,
    reader: Reader,
    sequence: u64,
    jobs: SyncSender<Job>,
    aside: Aside,
    /// The open batch's promises.
    open: Waiting,
    /// The promises of the batch that the disk has.
    writing: Option<Waiting>,
    /// Entries below are down; the durable ones among them are synced.
    written: Position,
    /// Records from here on could not be handed out before this turn. One of them that was to live
    /// no time at all goes to a consumer that waits for it, or to nobody.
    fresh: Position,
    /// Entries below are synced.
    synced: Position,
    is_full: bool,
    /// Bytes that the forgetting of writers took since the disk is full.
    forgot_when_full: u64,
    /// The log is larger than it may be.
    is_over: bool,

    tail: Tail,
    members: FxHashMap<ClientId, Member>,
    consumers: FxHashMap<(ClientId, ConsumerId), Consumer>,
    /// Clients with notices to be sent at the end of the turn.
    noticed: Vec<ClientId>,
    /// Queues to deliver from in this turn, to all that wait on them.
    touched: Vec<QueueId>,
    /// Cursors to deliver from in this turn.
    touched_cursors: Vec<(QueueId, CursorId)>,
    /// Readers by place, some of which have their answer.
    pulls: VecDeque<(QueueId, CursorId)>,
    /// Cursors whose next record is not down yet; they are looked at again when more is.
    gated: BTreeSet<(QueueId, CursorId)>,
    /// Gets that found a record which is not down yet; they are tried again when it is.
    deferred: Vec<Command>,
    /// Offsets settled in this turn, to become one entry.
    settled: FxHashMap<(QueueId, CursorId), Spans>,
    /// Records that came back in this turn and count an attempt.
    returned: FxHashMap<(QueueId, CursorId), Vec<(u64, Returned)>>,
    /// Those that came back while the disk was full, which the log does not know of yet.
    unsaid: BTreeMap<(QueueId, CursorId), BTreeMap<u64, Returned>>,
    /// Look-up keys of held records that cannot be read from the log yet.
    unwritten_keys: BTreeMap<Position, Vec<u64>>,
    /// Records whose time was found to be over in this turn.
    expired: Vec<(QueueId, CursorId, u64, Place)>,
    /// Queues that may be over their bounds by what died into them.
    over_bounds: BTreeSet<QueueId>,
    /// Where the log ended at the last tick.
    ticked_at: Position,
    /// The log did not grow between the last two ticks.
    is_quiet: bool,
    /// How many trimmed segments the log's thread keeps to be used again.
    spares: u64,
    /// Dead records that wait for somebody to take them.
    doomed: BTreeMap<(QueueId, CursorId), Doomed>,
    timers: BTreeSet<(UnixMillis, Timer)>,
    /// The session that the last tick looked at last, unless it came to the end.
    looked_at: Option<(Arc<str>, String)>,
    ids: u64,

    checkpoint: Checkpointing,
    checkpoint_wanted: Vec<Reply<u64>>,
    /// Where the state was when the last checkpoint began.
    checkpointed: Reached,
    /// The index on the disk is at least this far.
    flushed: Reached,
    indexed: mpsc::Sender<Indexed>,
    clean: Cleaning,
    chores: Chores,
    crowds: Crowds,
    /// Something was written and not synced, and [`Timer::Sync`] is set.
    is_unsynced: bool,
    sync_due: bool,
    /// Since when the open batch waits with nothing but settlements in it.
    held_since: Option<UnixMillis>,
    stopping: Option<Reply<()>>,
    counts: Counts,
    stages: Stages,
    scratch: Vec<u8>,
}

/// What a new commit thread starts from.
pub(crate) struct Start {
    pub(crate) state: State,
    pub(crate) config: Config,
    pub(crate) views: Views,
    pub(crate) clock: fn() -> UnixMillis,
    pub(crate) planner: Planner,
    pub(crate) reader: Reader,
    pub(crate) sequence: u64,
    /// Entries that the index did not know.
    pub(crate) replayed: u64,
    pub(crate) jobs: SyncSender<Job>,
    pub(crate) aside: Aside,
}

/// Where work that may take long is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    /// On a blocking thread of the runtime that the commit thread runs in.
    Runtime,
    /// At once, so that nothing hangs on timing.
    #[cfg(test)]
    Inline,
}

impl Aside {
    pub(crate) fn run(self, work: impl FnOnce() + Send + 'static) {
        match self {
            Self::Runtime => drop(tokio::task::spawn_blocking(work)),
            #[cfg(test)]
            Self::Inline => work(),
        }
    }
}

/// Why the commit thread ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Index(#[from] IndexError),
    #[error("the thread that writes the log has ended")]
    WriterGone,
}

impl Commit {
    pub(crate) fn new(start: Start) -> (Self, mpsc::Receiver<Indexed>) {
        let now = (start.clock)();
        let written = start.planner.end();
        let flushed = Reached {
            position: start.state.index.applied(),
            entries: start.sequence.saturating_sub(start.replayed),
        };
        let (indexed, indexed_in) = mpsc::channel(INDEXED_MAX);
        let tail = Tail::new(start.config.tail_cache_bytes);
        let mut commit = Self {
            state: start.state,
            config: start.config,
            views: start.views,
            clock: start.clock,
            now,
            planner: start.planner,
            reader: start.reader,
            sequence: start.sequence,
            jobs: start.jobs,
            aside: start.aside,
            open: Waiting::default(),
            writing: None,
            written,
            fresh: written,
            synced: written,
            is_full: false,
            forgot_when_full: 0,
            is_over: false,
            tail,
            members: FxHashMap::default(),
            consumers: FxHashMap::default(),
            noticed: Vec::new(),
            touched: Vec::new(),
            touched_cursors: Vec::new(),
            pulls: VecDeque::new(),
            gated: BTreeSet::new(),
            deferred: Vec::new(),
            settled: FxHashMap::default(),
            returned: FxHashMap::default(),
            unsaid: BTreeMap::new(),
            unwritten_keys: BTreeMap::new(),
            expired: Vec::new(),
            over_bounds: BTreeSet::new(),
            ticked_at: written,
            is_quiet: false,
            spares: 0,
            doomed: BTreeMap::new(),
            timers: BTreeSet::from([(now.plus(TICK_MS), Timer::Tick)]),
            looked_at: None,
            ids: 0,
            checkpoint: Checkpointing::None,
            checkpoint_wanted: Vec::new(),
            checkpointed: flushed,
            flushed,
            indexed,
            clean: Cleaning::default(),
            chores: Chores::default(),
            crowds: Crowds::default(),
            is_unsynced: false,
            sync_due: false,
            held_since: None,
            stopping: None,
            counts: Counts::default(),
            stages: Stages::new(),
            scratch: Vec::new(),
        };
        commit.search_for_all_rules();
        (commit, indexed_in)
    }

    /// Runs until it is stopped, or until the disk fails; then the reason is on `failed`. Returns
    /// whoever wants to know that everything is closed.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut done: mpsc::Receiver<Done>,
        mut indexed: mpsc::Receiver<Indexed>,
        failed: watch::Sender<Option<String>>,
    ) -> Option<Reply<()>> {
        self.export_counts();
        let ended = match self.turns(&mut commands, &mut done, &mut indexed).await {
            Ok(()) => self.close(&mut done, &mut indexed).await,
            Err(fatal) => Err(fatal),
        };
        ended.unwrap_or_else(|fatal| {
            tracing::error!(event = "store_failed", "the store stops: {fatal}");
            failed.send_replace(Some(fatal.to_string()));
            None
        })
    }

    async fn turns(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        done: &mut mpsc::Receiver<Done>,
        indexed: &mut mpsc::Receiver<Indexed>,
    ) -> Result<(), Fatal> {
        let mut taken = Vec::with_capacity(COMMANDS_PER_TURN);
        self.close_orphans()?;
        loop {
            let wait = if self.has_more_to_do() || self.has_chores() {
                0
            } else {
                self.next_timer().since((self.clock)())
            };
            // Every branch is cancel-safe: the receivers take nothing unless they are chosen.
            tokio::select! {
                biased;
                done = done.recv() => self.on_done(done.ok_or(Fatal::WriterGone)?)?,
                Some(indexed) = indexed.recv() => self.on_indexed(indexed)?,
                count = commands.recv_many(&mut taken, COMMANDS_PER_TURN) => {
                    if count == 0 {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            }
            self.turn(&mut taken)?;
            if self.stopping.is_some() {
                return Ok(());
            }
        }
    }

    /// One turn, over the commands that were taken for it.
    pub(crate) fn turn(&mut self, taken: &mut Vec<Command>) -> Result<(), Fatal> {
        self.now = (self.clock)();
        self.begin_chores()?;
        self.handle_all(taken)?;
        self.fire_timers()?;
        self.finish_turn()
    }

    /// What every turn ends with: settlements become an entry, records leave, the batch goes to
    /// the disk if that is free.
    fn finish_turn(&mut self) -> Result<(), Fatal> {
        self.go_on_burying();
        // Gets come to what has expired outside of deliveries.
        self.bury_expired();
        self.keep_all_bounds();
        self.flush_settled();
        while !self.touched.is_empty() || !self.touched_cursors.is_empty() {
            let started = Moment::now();
            self.deliver_touched()?;
            started.lap(&self.stages.deliver);
            self.bury_expired();
            self.keep_all_bounds();
            self.flush_settled();
        }
        self.go_on_with_chores();
        self.find_due_times();
        self.give_lost_room();
        self.go_on_cleaning()?;
        self.flush_settled();
        self.ship()?;
        self.go_on_with_checkpoint()?;
        if let Some(error) = self.state.queues.failed.take() {
            return Err(error.into());
        }
        for client in mem::take(&mut self.noticed) {
            if let Some(member) = self.members.get_mut(&client) {
                member.send_pending();
            }
        }
        self.fresh = self.planner.end();
        Ok(())
    }

    /// Handles the commands of one turn.
    fn handle_all(&mut self, taken: &mut Vec<Command>) -> Result<(), Fatal> {
        if taken.is_empty() {
            return Ok(());
        }
        let started = Moment::now();
        let mut each = taken.drain(..);
        while !each.as_slice().is_empty() {
            self.warm_commands(each.as_slice());
            for command in each.by_ref().take(AHEAD) {
                self.handle(command)?;
            }
        }
        started.lap(&self.stages.apply);
        if !self.planner_is_empty() {
            self.open.since.get_or_insert(started);
        }
        Ok(())
    }

    /// Puts an entry into the open batch and applies it. Whoever asked gets the answer when the
    /// batch is synced.
    fn log(&mut self, entry: Entry) -> Position {
        self.open.needs_sync = true;
        self.log_lazily(entry)
    }

    /// As [`Commit::log`], with no promise when it is synced.
    fn log_lazily(&mut self, entry: Entry) -> Position {
        self.log_sized(entry).0
    }

    /// The same, and how long the entry is.
    fn log_sized(&mut self, entry: Entry) -> (Position, u32) {
        let body = entry.encode();
        let position = self.plan(entry.kind(), &[&body]);
        let size = u32::try_from(FRAME_HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
        self.state.apply(position, size, entry);
        (position, size)
    }

    fn plan(&mut self, kind: u8, parts: &[&[u8]]) -> Position {
        self.sequence += 1;
        let planned = self.planner.push(kind, self.sequence, parts);
        planned.expect("sizes are bounded where records and definitions come in")
    }

    /// Answers when everything durable that the answer may rest on is down: what is in the open
    /// batch, or in the one that the disk has (somebody else's queue of that name, just declared).
    fn answer_durably<T: Send + 'static>(&mut self, reply: Option<Reply<T>>, answer: T) {
        let Some(reply) = reply else { return };
        self.flush_settled();
        let writing = self.writing.as_mut().filter(|writing| writing.needs_sync);
        if self.open.needs_sync {
            self.open.replies.push(Box::new(move || send(reply, answer)));
        } else if let Some(writing) = writing {
            writing.replies.push(Box::new(move || send(reply, answer)));
        } else {
            send(reply, answer);
        }
    }

    /// A number that no other transient thing has.
    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn next_transient(&mut self) -> u64 {
        TRANSIENT_BIT | self.next_id()
    }

    /// Puts a queue on this turn's list.
    fn touch(&mut self, id: QueueId) {
        if let Some(queue) = self.state.queues.get(id)
            && !queue.is_touched
        {
            queue.is_touched = true;
            self.touched.push(id);
        }
    }

    /// Puts a cursor on this turn's list.
    fn touch_cursor(&mut self, id: QueueId, cursor_id: CursorId) {
        let queue = self.state.queues.get(id).filter(|queue| !queue.is_touched);
        if let Some(cursor) = queue.and_then(|queue| queue.cursor_mut(cursor_id))
            && !cursor.is_touched
            && cursor.is_wanted()
        {
            cursor.is_touched = true;
            self.touched_cursors.push((id, cursor_id));
        }
    }

    fn planner_is_empty(&self) -> bool {
        self.planner.end() == self.written
    }

    fn begin_stop(&mut self, reply: Reply<()>) {
        let clients: Vec<ClientId> = self.members.keys().copied().collect();
        for client in clients {
            self.notify(client, Notice::Closing);
        }
        self.stopping = Some(reply);
    }

    /// Appends a notice for a client, to be sent at the end of the turn.
    fn notify(&mut self, client: ClientId, notice: Notice) {
        if let Some(member) = self.members.get_mut(&client)
            && member.push(notice)
        {
            self.noticed.push(client);
        }
    }

    fn namespace_of(&self, client: ClientId) -> Option<Arc<str>> {
        self.members.get(&client).map(|member| member.namespace.clone())
    }
}

/// Answers a caller. One that went away has no use for the answer.
pub(crate) fn send<T>(reply: Reply<T>, answer: T) {
    let _gone = reply.send(answer);
}
