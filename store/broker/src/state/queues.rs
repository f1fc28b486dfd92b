//! All queues: those in use in memory, the others in the index.
//!
//! A checkpoint is the state at one position of the log, but is written over many turns. What is
//! changed meanwhile is written before its first change, so that publishing never waits for it.

use std::{
    collections::{VecDeque, hash_map::Entry},
    sync::Arc,
};

use bytes::Bytes;
use mainstem_index::{
    Batch, CursorValue, Index, IndexError, QueueKey, QueueName, QueueStateKey, QueueValue,
};
use mainstem_schemas::{Position, QueueId, wire::Reader};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    command::{QueueDef, Retention},
    cursor::Cursor,
    policy::{DeliveryPolicy, Policy, shared, shared_delivery},
    queue::{Found, Queue},
    rules::Rules,
};

/// Entries of the list of queues that may leave memory, beyond twice as many as there are.
const IDLE_SLACK: usize = 1024;

pub(crate) struct Queues {
    index: Index,
    resident: FxHashMap<QueueId, Box<Queue>>,
    /// Deleted, but the index still has them; the second set is in the checkpoint being made.
    gone: (FxHashSet<QueueId>, FxHashSet<QueueId>),
    names: FxHashSet<Arc<str>>,
    /// What is asked of queues by their names, by namespace.
    rules: FxHashMap<Arc<str>, Arc<Rules>>,
    /// What all queues of filters go by.
    of_filters: Arc<Policy>,
    /// Which checkpoint changes wait for.
    epoch: u64,
    dirty: Vec<QueueId>,
    gather: Option<Gather>,
    /// Queues that may leave memory, the oldest first.
    idle: VecDeque<QueueId>,
    /// Written by the last checkpoint, and not looked at since.
    evicting: Vec<QueueId>,
    /// Somebody's who went away since.
    asleep: Vec<QueueId>,
    resident_max: usize,
    /// No cursor that left memory gave a higher epoch: ids that name what it handed out stay its own.
    epoch_max: u32,
    /// What went wrong with the index; the store stops over it.
    pub(crate) failed: Option<IndexError>,
    /// Entries of queues that are not known yet are kept: the definition comes later.
    pub(crate) is_rebuilding: bool,
}

/// What it takes to come to a queue, in memory or not.
struct Shelf<'a> {
    resident: &'a mut FxHashMap<QueueId, Box<Queue>>,
    index: &'a Index,
    names: &'a mut FxHashSet<Arc<str>>,
    rules: &'a FxHashMap<Arc<str>, Arc<Rules>>,
    of_filters: &'a Arc<Policy>,
    idle: &'a mut VecDeque<QueueId>,
    failed: &'a mut Option<IndexError>,
    epoch_max: u32,
    gone: &'a (FxHashSet<QueueId>, FxHashSet<QueueId>),
}

impl<'a> Shelf<'a> {
    fn find(self, id: QueueId) -> Option<&'a mut Queue> {
        let place = match self.resident.entry(id) {
            Entry::Occupied(found) => return Some(found.into_mut()),
            Entry::Vacant(place) => place,
        };
        let Self { index, names, rules, of_filters, failed, gone, .. } = self;
        let mut queue = Read { index, names, rules, of_filters, failed, gone }.read(id)?;
        for cursor in queue.cursors_mut() {
            cursor.set_epoch(self.epoch_max);
        }
        self.idle.push_back(id);
        Some(place.insert(Box::new(queue)))
    }
}

/// What it takes to read a queue that is not in memory.
struct Read<'a> {
    index: &'a Index,
    names: &'a mut FxHashSet<Arc<str>>,
    rules: &'a FxHashMap<Arc<str>, Arc<Rules>>,
    of_filters: &'a Arc<Policy>,
    failed: &'a mut Option<IndexError>,
    gone: &'a (FxHashSet<QueueId>, FxHashSet<QueueId>),
}

impl Read<'_> {
    fn read(self, id: QueueId) -> Option<Queue> {
        if self.gone.0.contains(&id) || self.gone.1.contains(&id) {
            return None;
        }
        let loaded = load(self.index, self.names, id);
        let mut queue = loaded.unwrap_or_else(|error| {
            self.failed.get_or_insert(error);
            None
        })?;
        if let Some(rules) = self.rules.get(&queue.namespace) {
            queue.follow(rules);
        }
        queue.follow_filters(self.of_filters);
        Some(queue)
    }
}

/// A checkpoint being gathered.
struct Gather {
    batch: Batch,
    /// Queues still to be written, by their place in `queues`.
    written: usize,
    queues: Vec<QueueId>,
}

/// What a queue's definition says, from the index.
pub(crate) fn definition(
    id: QueueId,
    value: QueueValue,
) -> Option<(String, Found, QueueDef, Position)> {
    let QueueValue { namespace, name, auto_delete, retention, policy, arguments, home } = value;
    let retention = Retention::from_u8(retention)?;
    let policy = Policy::decode(policy).ok()?;
    let (found, shown) = show(&name);
    let def = QueueDef {
        id,
        name: shown,
        durable: !id.is_transient(),
        exclusive: false,
        auto_delete,
        retention,
        policy: shared(policy),
        arguments,
    };
    Some((namespace, found, def, home))
}

/// How a queue is found, and the name that it is found by, if it has one.
pub(super) fn found_by(name: &QueueName) -> (Found, &str) {
    match name {
        QueueName::Named(name) => (Found::ByName, name),
        QueueName::Topic(topic) => (Found::AsTopic, topic),
        QueueName::Filter(filter) => (Found::ByFilter(Box::new(filter.clone())), ""),
    }
}

/// How a queue is found, and what it is called towards people.
pub(crate) fn show(name: &QueueName) -> (Found, String) {
    match found_by(name) {
        (Found::ByFilter(filter), _) => {
            let shown = String::from_utf8_lossy(&filter.render()).into_owned();
            (Found::ByFilter(filter), shown)
        }
        (found, name) => (found, name.to_owned()),
    }
}

impl Queues {
    pub(crate) fn new(index: Index, resident_max: usize) -> Self {
        Self {
            index,
            resident: FxHashMap::default(),
            gone: Default::default(),
            names: FxHashSet::default(),
            rules: FxHashMap::default(),
            of_filters: shared(Policy::default()),
            epoch: 1,
            dirty: Vec::new(),
            gather: None,
            idle: VecDeque::new(),
            evicting: Vec::new(),
            asleep: Vec::new(),
            resident_max,
            epoch_max: 0,
            failed: None,
            is_rebuilding: false,
        }
    }

    /// One copy of a namespace's name.
    pub(crate) fn intern(&mut self, name: &str) -> Arc<str> {
        intern(&mut self.names, name)
    }

    /// What all queues of filters go by, from before any of them is there.
    pub(crate) fn set_filter_policy(&mut self, policy: Policy) {
        self.of_filters = shared(policy);
    }

    /// Other rules for a namespace; answers the queues in memory that go by something else since.
    pub(crate) fn set_rules(&mut self, namespace: Arc<str>, rules: Arc<Rules>) -> Vec<QueueId> {
        let mut changed = Vec::new();
        for (id, queue) in &mut self.resident {
            if queue.namespace == namespace && queue.follow(&rules) {
                changed.push(*id);
            }
        }
        // A hash map's order is not to be seen.
        changed.sort_unstable();
        self.rules.insert(namespace, rules);
        changed
    }

    /// The queue, if it is in memory.
    pub(crate) fn peek(&self, id: QueueId) -> Option<&Queue> {
        self.resident.get(&id).map(|queue| &**queue)
    }

    /// Looks at a queue, which does not come into memory for that.
    pub(crate) fn look<T>(&mut self, id: QueueId, look: impl FnOnce(&Queue) -> T) -> Option<T> {
        if let Some(queue) = self.resident.get(&id) {
            return Some(look(queue));
        }
        let Self { index, names, rules, of_filters, failed, gone, .. } = self;
        Read { index, names, rules, of_filters, failed, gone }.read(id).as_ref().map(look)
    }

    /// What a queue is called towards people.
    pub(crate) fn name_of(&mut self, id: QueueId) -> Option<String> {
        if let Some(queue) = self.resident.get(&id) {
            return Some(queue.def.name.clone());
        }
        let stored = self.index.get(&QueueKey { queue: id });
        let value = stored.unwrap_or_else(|error| {
            self.failed.get_or_insert(error);
            None
        })?;
        definition(id, value).map(|(_, _, def, _)| def.name)
    }

    /// The queue. Nothing that the index keeps may be changed through it.
    pub(crate) fn get(&mut self, id: QueueId) -> Option<&mut Queue> {
        let epoch_max = self.epoch_max;
        let Self { resident, index, names, rules, of_filters, idle, failed, gone, .. } = self;
        Shelf { resident, index, names, rules, of_filters, idle, failed, epoch_max, gone }.find(id)
    }

    /// The queue, to be changed. With it every change of what the index keeps begins.
    pub(crate) fn change(&mut self, id: QueueId) -> Option<&mut Queue> {
        if self.is_rebuilding && !self.is_gone(id) && !id.is_transient() && self.get(id).is_none() {
            self.make_provisional(id);
        }
        let Self {
            resident,
            index,
            names,
            rules,
            of_filters,
            idle,
            failed,
            gone,
            epoch,
            epoch_max,
            gather,
            dirty,
            ..
        } = self;
        let epoch_max = *epoch_max;
        let shelf =
            Shelf { resident, index, names, rules, of_filters, idle, failed, epoch_max, gone };
        let queue = shelf.find(id)?;
        if queue.dirty_in != *epoch && !id.is_transient() {
            // Before its first change since the last checkpoint began, that one takes it as it is.
            if let Some(gather) = gather
                && queue.dirty_in != 0
            {
                queue.write(&mut gather.batch);
            }
            queue.dirty_in = *epoch;
            dirty.push(id);
        }
        Some(queue)
    }

    /// Whether a queue was deleted that the index may still have.
    fn is_gone(&self, id: QueueId) -> bool {
        self.gone.0.contains(&id) || self.gone.1.contains(&id)
    }

    fn make_provisional(&mut self, id: QueueId) {
        let namespace = self.intern("");
        let def = QueueDef {
            id,
            name: String::new(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            retention: Retention::Time,
            policy: Arc::default(),
            arguments: Vec::new(),
        };
        let mut queue = Queue::new(namespace, Found::ByName, def, Position(0));
        queue.is_provisional = true;
        self.resident.insert(id, Box::new(queue));
    }

    pub(crate) fn insert(&mut self, id: QueueId, mut queue: Queue) {
        queue.follow_filters(&self.of_filters);
        self.gone.0.remove(&id);
        self.resident.insert(id, Box::new(queue));
        self.change(id);
    }

    /// Takes a queue out. Call [`Queues::change`] before.
    pub(crate) fn remove(&mut self, id: QueueId) -> Option<Box<Queue>> {
        if !id.is_transient() {
            self.gone.0.insert(id);
        }
        self.resident.remove(&id)
    }

    /// Those in memory.
    pub(crate) fn resident(&self) -> impl Iterator<Item = (QueueId, &Queue)> {
        self.resident.iter().map(|(id, queue)| (*id, &**queue))
    }

    pub(crate) fn len(&self) -> usize {
        self.resident.len()
    }

    // Checkpoints.

    /// How many queues wait to be written down.
    pub(crate) fn changed(&self) -> usize {
        self.dirty.len()
    }

    /// From here on a checkpoint is being gathered, beginning with what `batch` has already.
    pub(crate) fn begin_checkpoint(&mut self, batch: Batch) {
        let queues = std::mem::take(&mut self.dirty);
        self.epoch += 1;
        let gone = std::mem::take(&mut self.gone.0);
        self.gone.1.extend(gone);
        self.gather = Some(Gather { batch, written: 0, queues });
    }

    /// Writes up to `count` more queues; true when all are written.
    pub(crate) fn gather(&mut self, count: usize) -> bool {
        let Some(gather) = &mut self.gather else { return true };
        for _ in 0..count {
            let Some(id) = gather.queues.get(gather.written) else { return true };
            gather.written += 1;
            if let Some(queue) = self.resident.get_mut(id)
                && queue.dirty_in != 0
                && queue.dirty_in != self.epoch
            {
                queue.write(&mut gather.batch);
                queue.dirty_in = 0;
            }
        }
        gather.written >= gather.queues.len()
    }

    /// What was gathered, and of which queues.
    pub(crate) fn take_gathered(&mut self) -> Option<(Batch, Vec<QueueId>)> {
        let gather = self.gather.take()?;
        Some((gather.batch, gather.queues))
    }

    /// The index has what was gathered of these queues.
    pub(crate) fn begin_evicting(&mut self, written: Vec<QueueId>) {
        self.gone.1.clear();
        self.evicting = written;
        self.evicting.append(&mut self.asleep);
    }

    /// Somebody who read a queue went away: it is looked at again when the next checkpoint is written,
    /// even if that has nothing new of it.
    pub(crate) fn note_asleep(&mut self, id: QueueId) {
        self.asleep.push(id);
    }

    pub(crate) fn is_evicting(&self) -> bool {
        !self.evicting.is_empty()
    }

    /// Lets blocks of up to `count` written queues leave memory, and queues that nobody uses.
    /// Returns those that left, as their namespaces know them.
    pub(crate) fn evict(&mut self, count: usize) -> Vec<(Arc<str>, Bytes)> {
        self.compact_idle();
        for _ in 0..count {
            let Some(id) = self.evicting.pop() else { break };
            let Some(queue) = self.resident.get_mut(&id) else { continue };
            queue.evict();
            if queue.leaves_early() && queue.may_leave() {
                self.leave(id);
                continue;
            }
            if !queue.is_listed {
                queue.is_listed = true;
                self.idle.push_back(id);
            }
        }
        let mut left = Vec::new();
        let excess = self.resident.len().saturating_sub(self.resident_max);
        for _ in 0..self.idle.len().min(excess).min(count) {
            let Some(id) = self.idle.pop_front() else { break };
            let Some(queue) = self.resident.get(&id) else { continue };
            if !queue.may_leave() {
                self.idle.push_back(id);
                continue;
            }
            if let Some(queue) = self.leave(id)
                && queue.found == Found::ByName
            {
                let name = Bytes::copy_from_slice(queue.def.name.as_bytes());
                left.push((queue.namespace.clone(), name));
            }
        }
        left
    }
}

impl Queues {
    /// Queues that left and came again are on the list as often.
    fn compact_idle(&mut self) {
        let Self { idle, resident, .. } = self;
        if idle.len() > 2 * resident.len() + IDLE_SLACK {
            let mut seen = FxHashSet::default();
            idle.retain(|id| resident.contains_key(id) && seen.insert(*id));
        }
    }

    /// A queue leaves memory; the index has it.
    fn leave(&mut self, id: QueueId) -> Option<Box<Queue>> {
        let queue = self.resident.remove(&id)?;
        let epochs = queue.cursors().map(|(_, cursor)| cursor.epoch());
        self.epoch_max = epochs.fold(self.epoch_max, u32::max);
        Some(queue)
    }

    #[cfg(test)]
    pub(crate) fn idle_len(&self) -> usize {
        self.idle.len()
    }
}

/// A queue from the index.
fn load(
    index: &Index,
    names: &mut FxHashSet<Arc<str>>,
    id: QueueId,
) -> Result<Option<Queue>, IndexError> {
    if id.is_transient() {
        return Ok(None);
    }
    let Some(value) = index.get(&QueueKey { queue: id })? else { return Ok(None) };
    let Some((namespace, found, def, home)) = definition(id, value) else { return Ok(None) };
    let state = index.get(&QueueStateKey { queue: id })?.unwrap_or_default();
    let has_cursors = def.retention != Retention::Unsettled;
    let mut queue = Queue::new(intern(names, &namespace), found, def, home);
    queue.restore(&state);
    queue.is_listed = true;
    if has_cursors {
        for found in index.cursors(id) {
            let (key, CursorValue { name, policy, progress }) = found?;
            let policy = DeliveryPolicy::decode(&mut Reader::new(policy)).unwrap_or_default();
            let cursor = Cursor::restore(name, shared_delivery(&policy), &progress);
            queue.insert_cursor(key.cursor, cursor);
        }
    }
    Ok(Some(queue))
}

fn intern(names: &mut FxHashSet<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = names.get(name) {
        return known.clone();
    }
    let name: Arc<str> = name.into();
    names.insert(name.clone());
    name
}
