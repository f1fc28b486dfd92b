//! What must be true of an index by itself: what it says it holds of the log is what it holds,
//! and all of that can be read.

use std::collections::BTreeMap;

use mainstem_index::{
    BindingKey, BlockKey, CursorKey, CursorName, Entry as Place, ExchangeKey, HeldKey, Index,
    LANE_SHIFT, ParameterKey, PointerKey, Progress, QueueKey, QueueName, QueueStateKey,
    QueueStateValue, RetainedKey, SegmentKey, SessionKey, SubscriptionKey, WriterKey,
};
use mainstem_log::Reader;
use mainstem_schemas::{CursorId, Position, QueueId, Record, UnixMillis};

use crate::{
    command::Retention,
    entry::{Entry, carries_record, decode_carried},
    open::read,
    policy::Policy,
    state::{HOME_BYTES, body_bytes},
};

/// A queue as the index has it.
pub(super) struct Stored {
    pub(super) name: QueueName,
    pub(super) policy: Policy,
    /// It keeps everything, and is bounded for the room that takes.
    keeps_all: bool,
    pub(super) state: QueueStateValue,
    /// Live entries: the number of the record, and its place.
    pub(super) entries: BTreeMap<u64, (u64, Place)>,
    pub(super) cursors: BTreeMap<CursorId, (CursorName, Progress)>,
}

/// All that the index has, with records by the numbers the run gave them.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) queues: BTreeMap<QueueId, Stored>,
    pub(super) held: BTreeMap<u64, UnixMillis>,
    pub(super) sessions: Vec<String>,
    /// Session and the text of the filter, and the queue and cursor.
    pub(super) subscriptions: BTreeMap<(String, Option<String>, String), (QueueId, CursorId)>,
}

/// The number that a run gave a record.
pub(super) fn number_of(record: &Record) -> u64 {
    let data = record.data();
    data.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// Bytes and references by segment.
struct Recount {
    segment_bytes: u64,
    refs: BTreeMap<u64, (u64, u64)>,
}

impl Recount {
    fn add(&mut self, position: Position, bytes: u64) {
        let (refs, all) = self.refs.entry(position.0 / self.segment_bytes).or_default();
        *refs += 1;
        *all += bytes;
    }

    fn home(&mut self, home: Position) {
        assert_ne!(home.0, 0, "a definition without a home");
        self.add(home, HOME_BYTES.into());
    }
}

/// The number of a body, and how long it is.
fn body(reader: Option<&Reader>, position: Position, size: u32, what: &str) -> Option<(u64, u32)> {
    match read(reader?, position, size) {
        Ok((record, _)) => Some((number_of(&record), body_bytes(&record))),
        Err(error) => panic!("{what}: what stands at {position:?} cannot be read: {error}"),
    }
}

/// Reads everything, and checks that it fits together. Without a reader of the log, bodies are not
/// looked at.
pub(super) fn audit(index: &Index, segment_bytes: u64, reader: Option<&Reader>) -> Contents {
    let mut contents = Contents::default();
    let mut recount = Recount { segment_bytes, refs: BTreeMap::new() };
    for found in index.scan::<QueueKey>() {
        let (QueueKey { queue }, value) = found.unwrap();
        recount.home(value.home);
        let state = index.get(&QueueStateKey { queue }).unwrap().unwrap_or_default();
        let policy = Policy::decode(value.policy).unwrap();
        let keeps_all = value.retention == Retention::Time as u8;
        let (entries, cursors) = (BTreeMap::new(), BTreeMap::new());
        let stored = Stored { name: value.name, policy, keeps_all, state, entries, cursors };
        contents.queues.insert(queue, stored);
    }
    for found in index.scan::<CursorKey>() {
        let (key, value) = found.unwrap();
        let queue = contents.queues.get_mut(&key.queue).expect("a cursor has a queue");
        queue.cursors.insert(key.cursor, (value.name, value.progress));
    }
    for found in index.scan::<BlockKey>() {
        let (key, block) = found.unwrap();
        let queue = contents.queues.get_mut(&key.queue).expect("a block has a queue");
        for (offset, place) in (block.first.0..).zip(block.entries) {
            let lane = queue.state.lanes.iter();
            let lane = lane.into_iter().find(|l| l.first.0 >> LANE_SHIFT == offset >> LANE_SHIFT);
            let lane = lane.unwrap_or_else(|| panic!("{:?}: {offset} is in no lane", key.queue));
            if place.is_hole() || offset < lane.first.0 {
                continue;
            }
            assert!(offset < lane.next.0, "{:?}: {offset} is behind the lane's end", key.queue);
            recount.add(place.position, u64::from(place.size));
            let what = format!("{:?} {:?} offset {offset}", key.queue, queue.name);
            let (number, bytes) =
                body(reader, place.position, place.size, &what).unwrap_or((0, place.body));
            assert_eq!(place.body, bytes, "{what}: (right) bytes of the body");
            queue.entries.insert(offset, (number, place));
        }
    }
    for found in index.scan::<ParameterKey>() {
        recount.home(found.unwrap().1.home);
    }
    check_queues(&contents, segment_bytes);
    scan_others(index, reader, &mut contents, &mut recount);
    let mut stated = BTreeMap::new();
    for found in index.scan::<SegmentKey>() {
        let (SegmentKey { number }, value) = found.unwrap();
        stated.insert(number, (value.refs, value.bytes));
    }
    assert_eq!(stated, recount.refs, "(left) the segments' counts (right) counted again");
    contents
}

/// A queue's own counts are those of its entries.
fn check_queues(contents: &Contents, segment_bytes: u64) {
    for (id, queue) in &contents.queues {
        let bytes = |place: &Place| if queue.keeps_all { place.size } else { place.body };
        let bytes: u64 = queue.entries.values().map(|(_, place)| u64::from(bytes(place))).sum();
        let counted = (queue.entries.len() as u64, bytes);
        assert_eq!((queue.state.live, queue.state.bytes), counted, "{id:?} {:?}", queue.name);
        let mut used: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (_, place) in queue.entries.values() {
            let used = used.entry(place.position.0 / segment_bytes).or_default();
            *used = (used.0 + 1, used.1 + u64::from(place.size));
        }
        let stated = queue.state.segments.iter().map(|used| (used.number, (used.refs, used.bytes)));
        assert_eq!(stated.collect::<BTreeMap<_, _>>(), used, "{id:?} {:?}", queue.name);
        let Some(main) = &queue.state.main else { continue };
        for offset in queue.entries.keys() {
            assert!(!is_settled(main, *offset), "{id:?}: {offset} is settled and kept");
        }
    }
}

/// Whether a cursor is done with an offset.
pub(super) fn is_settled(progress: &Progress, offset: u64) -> bool {
    let lane = offset >> LANE_SHIFT;
    let floor = progress.floors.iter().find(|floor| floor.0 >> LANE_SHIFT == lane);
    floor.is_some_and(|floor| offset < floor.0)
        || progress.settled.iter().any(|(from, to)| (from.0..to.0).contains(&offset))
}

fn scan_others(
    index: &Index,
    reader: Option<&Reader>,
    contents: &mut Contents,
    recount: &mut Recount,
) {
    for found in index.scan::<ExchangeKey>() {
        recount.home(found.unwrap().1.home);
    }
    for found in index.scan::<BindingKey>() {
        let (key, value) = found.unwrap();
        recount.home(value.home);
        let is_known = key.to_exchange || contents.queues.contains_key(&value.queue);
        assert!(is_known, "a binding to a queue that is gone: {key:?}");
    }
    for found in index.scan::<SessionKey>() {
        let (key, value) = found.unwrap();
        recount.home(value.home);
        contents.sessions.push(key.id);
    }
    for found in index.scan::<SubscriptionKey>() {
        let (key, value) = found.unwrap();
        recount.home(value.home);
        assert!(contents.sessions.contains(&key.session), "a subscription without a session");
        let filter = String::from_utf8(key.filter.render().to_vec()).unwrap();
        let held = (value.queue, value.cursor);
        contents.subscriptions.insert((key.session, key.share, filter), held);
    }
    for found in index.scan::<WriterKey>() {
        recount.home(found.unwrap().1.home);
    }
    for found in index.scan::<RetainedKey>() {
        let value = found.unwrap().1;
        recount.add(value.position, u64::from(value.size));
        body(reader, value.position, value.size, "retained");
    }
    for found in index.scan::<HeldKey>() {
        let (key, value) = found.unwrap();
        recount.add(value.position, u64::from(value.size));
        let found = body(reader, value.position, value.size, "held");
        let number = found.map_or(0, |(number, _)| number);
        contents.held.insert(number, key.due);
    }
    for found in index.scan::<PointerKey>() {
        recount.add(found.unwrap().0.body, 0);
    }
}

/// The first keys that two indexes do not agree on.
pub(super) fn difference(left: &Index, right: &Index) -> String {
    let mut found = Vec::new();
    macro_rules! compare {
        ($($key:ty),*) => {
            $({
                let all = |index: &Index| -> BTreeMap<String, String> {
                    let pairs = index.scan::<$key>().map(Result::unwrap);
                    pairs.map(|(key, value)| (format!("{key:?}"), format!("{value:?}"))).collect()
                };
                let (left, right) = (all(left), all(right));
                for (key, value) in &left {
                    let other = right.get(key);
                    if other != Some(value) {
                        found.push(format!("\n  {key}:\n    {value}\n    {}", other.map_or("none", |o| o)));
                    }
                }
                for (key, value) in right.iter().filter(|(key, _)| !left.contains_key(*key)) {
                    found.push(format!("\n  {key}:\n    none\n    {value}"));
                }
            })*
        };
    }
    compare!(
        QueueKey,
        QueueStateKey,
        BlockKey,
        CursorKey,
        SegmentKey,
        ExchangeKey,
        BindingKey,
        SessionKey,
        SubscriptionKey,
        WriterKey,
        RetainedKey,
        HeldKey,
        PointerKey,
        mainstem_index::NameKey,
        mainstem_index::ReaderKey
    );
    found.truncate(12);
    found.concat()
}

/// Tells all that a log says.
pub(super) fn show_log(reader: &Reader) {
    let shown = reader.scan(reader.first(), reader.end(), &mut |position, frame| {
        if carries_record(frame.kind) {
            let carried = decode_carried(frame.body).unwrap();
            let number = number_of(&carried.record);
            println!(
                "  {}: kind {} of {number} {:?} {:?}",
                position.0, frame.kind, carried.head, carried.targets
            );
        } else {
            println!("  {}: {:?}", position.0, Entry::decode(frame.kind, frame.body).unwrap());
        }
        true
    });
    shown.unwrap();
}
