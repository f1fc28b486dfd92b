//! The open index as its callers see it: batches, crashes, ranges and damage.

use std::fs;

use mainstem_schemas::{CursorId, Filter, Offset, Path as AddressPath, UnixMillis};

use super::*;
use crate::keys::{
    BindingKey, BindingValue, CursorValue, Entry, ExchangeKey, ExchangeValue, LANE_SHIFT,
    LaneState, NameKey, Progress, QueueKey, QueueName, QueueStateKey, QueueStateValue, QueueValue,
    ReaderKey, RetainedKey, RetainedValue, SessionKey, SessionValue, SubscriptionKey,
    SubscriptionValue,
};

mod damage;
mod ranges;

fn open() -> (tempfile::TempDir, Index) {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(dir.path()).unwrap();
    (dir, index)
}

/// What a kill at this moment leaves: the files as they are, without RocksDB's orderly close,
/// which would flush.
fn crash(dir: &tempfile::TempDir) -> (tempfile::TempDir, Index) {
    // A kill is a moment and a copy is not: RocksDB may delete a file in between, and then
    // the copy is made anew.
    let copy = loop {
        let copy = tempfile::tempdir().unwrap();
        match copy_files(dir.path(), copy.path()) {
            Ok(()) => break copy,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
        }
    };
    let index = Index::open(copy.path()).unwrap();
    (copy, index)
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for file in fs::read_dir(from)? {
        let file = file?;
        fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

fn state(next: u64) -> QueueStateValue {
    QueueStateValue {
        lanes: vec![LaneState { first: Offset(0), next: Offset(next) }],
        ..QueueStateValue::default()
    }
}

fn state_key(queue: u64) -> QueueStateKey {
    QueueStateKey { queue: QueueId(queue) }
}

fn block(number: u64) -> BlockValue {
    let entries = vec![Entry { position: Position(number + 1), ..Entry::default() }];
    BlockValue { first: Offset(number * keys::BLOCK_ENTRIES), entries }
}

fn put_block(batch: &mut Batch, queue: u64, number: u64) {
    batch.put(&BlockKey { queue: QueueId(queue), number }, &block(number));
}

/// Definition, state, three blocks, two cursors, two lookups and the reader's mark.
fn put_queue(batch: &mut Batch, queue: u64) {
    let value = QueueValue {
        namespace: "/".to_owned(),
        name: QueueName::Named(format!("q{queue}")),
        auto_delete: false,
        retention: 0,
        home: Position(queue),
        policy: Bytes::new(),
        arguments: Vec::new(),
    };
    batch.put(&QueueKey { queue: QueueId(queue) }, &value);
    batch.put(&state_key(queue), &state(300));
    for number in 0..3 {
        put_block(batch, queue, number);
    }
    for cursor in [CursorId::MAIN, CursorId(u64::MAX)] {
        let progress = Progress { floors: vec![Offset(1)], ..Progress::default() };
        let value = CursorValue { progress, ..CursorValue::default() };
        batch.put(&CursorKey { queue: QueueId(queue), cursor }, &value);
    }
    for bucket in [0, u64::MAX] {
        batch.put(&lookup(queue, bucket, u64::MAX, u64::MAX), &());
    }
    batch.put(&ReaderKey { queue: QueueId(queue) }, &());
}

fn lookup(queue: u64, bucket: u64, hash: u64, offset: u64) -> LookupKey {
    LookupKey { queue: QueueId(queue), bucket, hash, offset: Offset(offset) }
}

fn count<K: Entity>(index: &Index) -> usize {
    index.scan::<K>().map(|item| item.map(|_| ()).unwrap()).count()
}

fn block_numbers(index: &Index, queue: u64) -> Vec<u64> {
    let blocks = index.scan::<BlockKey>().map(|item| item.unwrap().0);
    blocks.filter(|key| key.queue == QueueId(queue)).map(|key| key.number).collect()
}

#[test]
fn a_new_index_has_applied_nothing() {
    let (_dir, index) = open();
    assert_eq!(index.applied(), Position(0));
    assert_eq!(index.get(&MetaKey).unwrap(), None);
    assert_eq!(index.block(QueueId(1), 0).unwrap(), None);
}

#[test]
fn a_batch_and_its_position_are_visible_together_or_not_at_all() {
    let (_dir, index) = open();
    let mut dropped = index.batch();
    dropped.put(&state_key(1), &state(1));
    drop(dropped);
    assert_eq!(index.get(&state_key(1)).unwrap(), None);

    let mut batch = index.batch();
    assert!(batch.is_empty());
    batch.put(&state_key(1), &state(1));
    put_block(&mut batch, 1, 0);
    assert!(!batch.is_empty());
    index.commit(batch, Position(70)).unwrap();
    assert_eq!(index.get(&state_key(1)).unwrap(), Some(state(1)));
    assert_eq!(index.block(QueueId(1), 0).unwrap(), Some(block(0)));
    assert_eq!(index.applied(), Position(70));
    let meta = MetaValue { applied: Position(70), version: VERSION };
    assert_eq!(index.get(&MetaKey).unwrap(), Some(meta));
}

#[test]
fn the_later_change_in_a_batch_wins() {
    let (_dir, index) = open();
    let mut batch = index.batch();
    batch.put(&state_key(1), &state(1));
    batch.delete(&state_key(1));
    batch.delete(&state_key(2));
    batch.put(&state_key(2), &state(2));
    put_queue(&mut batch, 3);
    batch.delete_queue(QueueId(3));
    put_block(&mut batch, 3, 9);
    index.commit(batch, Position(1)).unwrap();
    assert_eq!(index.get(&state_key(1)).unwrap(), None);
    assert_eq!(index.get(&state_key(2)).unwrap(), Some(state(2)));
    assert_eq!(count::<QueueKey>(&index), 0);
    assert_eq!(block_numbers(&index, 3), [9]);
}

#[test]
fn a_reopened_index_has_what_was_flushed() {
    let (dir, index) = open();
    let mut batch = index.batch();
    put_queue(&mut batch, 7);
    index.commit(batch, Position(5)).unwrap();
    assert_eq!(index.flush().unwrap(), Position(5));
    let hash = index.state_hash().unwrap();
    drop(index);
    let index = Index::open(dir.path()).unwrap();
    assert_eq!(index.applied(), Position(5));
    assert_eq!(index.state_hash().unwrap(), hash);
}

#[test]
fn a_crash_loses_what_was_not_flushed_and_the_position_with_it() {
    let (dir, index) = open();
    let mut batch = index.batch();
    batch.put(&state_key(1), &state(1));
    index.commit(batch, Position(5)).unwrap();
    index.flush().unwrap();
    let mut batch = index.batch();
    batch.put(&state_key(1), &state(2));
    batch.put(&state_key(2), &state(2));
    index.commit(batch, Position(6)).unwrap();

    let (_copy, after) = crash(&dir);
    assert_eq!(after.applied(), Position(5));
    assert_eq!(after.get(&state_key(1)).unwrap(), Some(state(1)));
    assert_eq!(after.get(&state_key(2)).unwrap(), None);
}

#[test]
fn a_flush_beside_commits_takes_whole_batches() {
    let (dir, index) = open();
    let flusher = std::thread::spawn({
        let index = index.clone();
        move || (0..5).map(|_| index.flush().unwrap()).max().unwrap()
    });
    let mut position = 0;
    while !flusher.is_finished() || position < 100 {
        position += 1;
        let mut batch = index.batch();
        for queue in 0..20 {
            batch.put(&state_key(queue), &state(position));
        }
        index.commit(batch, Position(position)).unwrap();
    }
    let flushed = flusher.join().unwrap();

    let (_copy, after) = crash(&dir);
    let applied = after.applied();
    assert!(flushed <= applied && applied <= Position(position));
    for item in after.scan::<QueueStateKey>() {
        assert_eq!(item.unwrap().1, state(applied.0));
    }
}

#[test]
fn deleting_a_queue_leaves_its_neighbours_whole() {
    for victim in [0, 255, 256, u64::MAX] {
        let (_dir, index) = open();
        let mut batch = index.batch();
        let neighbours = [victim.wrapping_sub(1), victim.wrapping_add(1)];
        for queue in neighbours {
            put_queue(&mut batch, queue);
        }
        index.commit(batch, Position(3)).unwrap();
        let without = index.state_hash().unwrap();

        let mut batch = index.batch();
        put_queue(&mut batch, victim);
        index.commit(batch, Position(3)).unwrap();
        assert_eq!(index.cursors(QueueId(victim)).count(), 2);
        assert_ne!(index.state_hash().unwrap(), without);

        let mut batch = index.batch();
        batch.delete_queue(QueueId(victim));
        index.commit(batch, Position(3)).unwrap();
        assert_eq!(index.cursors(QueueId(victim)).count(), 0);
        assert_eq!(index.state_hash().unwrap(), without, "queue {victim}");
        assert_eq!(index.cursors(QueueId(neighbours[0])).count(), 2);
    }
}

#[test]
fn blocks_are_deleted_from_and_up_to_not_including() {
    for len in [0, 1, 5, 63, 64, 500] {
        let (_dir, index) = open();
        let mut batch = index.batch();
        for number in 0..len + 20 {
            put_block(&mut batch, 1, number);
            put_block(&mut batch, 2, number);
        }
        index.commit(batch, Position(1)).unwrap();
        let mut batch = index.batch();
        batch.delete_blocks(QueueId(1), 10, 10 + len);
        index.commit(batch, Position(2)).unwrap();
        let left: Vec<u64> = (0..10).chain(10 + len..len + 20).collect();
        assert_eq!(block_numbers(&index, 1), left);
        assert_eq!(block_numbers(&index, 2).len() as u64, len + 20);
    }
}

#[test]
fn the_hash_is_of_the_content_not_of_how_it_was_written() {
    let (_dir, straight) = open();
    let mut batch = straight.batch();
    for queue in 0..50 {
        put_queue(&mut batch, queue);
    }
    straight.commit(batch, Position(9)).unwrap();

    let (_dir, crooked) = open();
    for queue in (0..60).rev() {
        let mut batch = crooked.batch();
        batch.put(&state_key(queue), &state(1));
        put_queue(&mut batch, queue);
        crooked.commit(batch, Position(0)).unwrap();
        if queue % 20 == 0 {
            crooked.flush().unwrap();
        }
    }
    let mut batch = crooked.batch();
    for queue in 50..60 {
        batch.delete_queue(QueueId(queue));
    }
    crooked.commit(batch, Position(9)).unwrap();
    assert_eq!(straight.state_hash().unwrap(), crooked.state_hash().unwrap());

    let mut batch = crooked.batch();
    batch.put(&state_key(49), &state(301));
    crooked.commit(batch, Position(9)).unwrap();
    assert_ne!(straight.state_hash().unwrap(), crooked.state_hash().unwrap());
}

#[test]
fn a_scan_sees_every_key_of_its_kind_and_no_other() {
    let (_dir, index) = open();
    let (namespace, name) = ("/".to_owned(), "x".to_owned());
    let exchange = ExchangeKey { namespace: namespace.clone(), name: name.clone() };
    let exchange_value = ExchangeValue { kind: 2, internal: true, ..ExchangeValue::default() };
    let binding = BindingKey {
        namespace: namespace.clone(),
        source: name.clone(),
        to_exchange: false,
        destination: "q1".to_owned(),
        key: "a.#".into(),
        arguments: Bytes::new(),
    };
    let binding_value = BindingValue { home: Position(7), queue: QueueId(1) };
    let session = SessionKey { namespace: namespace.clone(), id: name.clone() };
    let session_value = SessionValue { expiry_s: 60, detached: UnixMillis(9), home: Position(8) };
    let filter = Filter::parse("a/+").unwrap();
    let subscription =
        SubscriptionKey { namespace: namespace.clone(), session: name, share: None, filter };
    let subscription_value = SubscriptionValue {
        options: 1,
        queue: QueueId(1),
        cursor: CursorId(2),
        ..SubscriptionValue::default()
    };
    let retained = RetainedKey { namespace, path: AddressPath::of(["a", "b"]) };
    let retained_value = RetainedValue { position: Position(3), size: 4, expiry: UnixMillis::NONE };

    let mut batch = index.batch();
    batch.put(&exchange, &exchange_value);
    batch.put(&binding, &binding_value);
    put_queue(&mut batch, 1);
    put_queue(&mut batch, 2);
    batch.put(&session, &session_value);
    batch.put(&subscription, &subscription_value);
    batch.put(&retained, &retained_value);
    index.commit(batch, Position(4)).unwrap();

    fn all<K: Entity>(index: &Index) -> Vec<(K, K::Value)> {
        index.scan::<K>().map(Result::unwrap).collect()
    }
    assert_eq!(all(&index), [(exchange, exchange_value)]);
    assert_eq!(all(&index), [(binding, binding_value)]);
    assert_eq!(all(&index), [(session, session_value)]);
    assert_eq!(all(&index), [(subscription, subscription_value)]);
    assert_eq!(all(&index), [(retained, retained_value)]);
    assert_eq!(all(&index), [(state_key(1), state(300)), (state_key(2), state(300))]);
    assert_eq!(count::<QueueKey>(&index), 2);
    assert_eq!(count::<CursorKey>(&index), 4);
    assert_eq!(count::<BlockKey>(&index), 6);
    assert_eq!(count::<LookupKey>(&index), 4);
    assert_eq!(count::<ReaderKey>(&index), 2);
    assert_eq!(count::<NameKey>(&index), 0);
    assert_eq!(count::<MetaKey>(&index), 1);
}

#[test]
fn damage_is_named() {
    let (_dir, index) = open();
    let mut stored = Vec::new();
    keys::write_key(&state_key(1), &mut stored);
    index.shared.db.put(&stored, b"\xff").unwrap();
    let message = "the index is damaged: the value of the queue state under key \
                   0000040000000000000001 does not decode";
    assert_eq!(index.get(&state_key(1)).unwrap_err().to_string(), message);
    let error = index.scan::<QueueStateKey>().next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), message);

    index.shared.db.put([0, 0, KeyKind::Cursor as u8, 1], b"").unwrap();
    let error = index.scan::<CursorKey>().next().unwrap().unwrap_err();
    let message = "the index is damaged: the key of the cursor under key 00000601 does not decode";
    assert_eq!(error.to_string(), message);
}

#[test]
fn a_block_in_the_wrong_place_is_damage() {
    let (_dir, index) = open();
    let mut batch = index.batch();
    batch.put(&BlockKey { queue: QueueId(1), number: 4 }, &block(5));
    index.commit(batch, Position(1)).unwrap();
    let error = index.block(QueueId(1), 4).unwrap_err();
    assert!(matches!(error, IndexError::Damaged { kind: KeyKind::Block, part: Part::Value, .. }));
}

#[test]
fn an_index_of_another_version_is_refused() {
    let (dir, index) = open();
    let (mut key, mut value) = (Vec::new(), Vec::new());
    keys::write_key(&MetaKey, &mut key);
    MetaKey::ser_value(&MetaValue { applied: Position(1), version: VERSION + 1 }, &mut value);
    index.shared.db.put(&key, &value).unwrap();
    drop(index);
    assert!(
        matches!(Index::open(dir.path()), Err(IndexError::Version { found, .. }) if found == VERSION + 1)
    );
}

#[test]
fn an_index_is_open_once_at_a_time() {
    let (dir, _index) = open();
    assert!(matches!(Index::open(dir.path()), Err(IndexError::Open { .. })));
}

#[test]
fn a_removed_index_is_gone_whole_though_a_crash_came_between() {
    let dir = tempfile::tempdir().unwrap();
    let (path, gone) = (dir.path().join("index"), dir.path().join("index.gone"));
    let fill = || {
        let index = Index::open(&path).unwrap();
        let mut batch = index.batch();
        batch.put(&state_key(1), &state(1));
        index.commit(batch, Position(1)).unwrap();
        index.flush().unwrap();
    };
    // A crash behind the renaming, when half of the files were deleted.
    fill();
    fs::rename(&path, &gone).unwrap();
    fs::remove_file(gone.join("CURRENT")).unwrap();
    let index = Index::open(&path).unwrap();
    assert_eq!((index.applied(), index.get(&state_key(1)).unwrap()), (Position(0), None));
    assert!(!gone.exists(), "what was left takes no room");
    drop(index);
    // And a removing after such a crash, before anybody opened it.
    fill();
    fs::create_dir_all(gone.join("more")).unwrap();
    fs::write(dir.path().join("neighbour"), b"stays").unwrap();
    Index::remove(&path).unwrap();
    assert!(!path.exists() && !gone.exists() && dir.path().join("neighbour").exists());
    assert!(matches!(Index::remove(&path), Err(IndexError::Remove { .. })), "there is none");
}

/// A look-up reads little of what it takes to find a key, however many keys a file has.
#[test]
fn a_look_up_among_millions_of_keys_reads_little() {
    const KEYS: u64 = 3_000_000;
    const PARTS: u64 = 6;
    const LOOKS: u64 = 1000;
    let (_dir, index) = open();
    // Each part overlaps all others, so that they become one large file.
    for part in 0..PARTS {
        let mut batch = index.batch();
        for queue in (part..KEYS).step_by(usize::try_from(PARTS).unwrap()) {
            batch.put(&ReaderKey { queue: QueueId(queue) }, &());
        }
        index.commit(batch, Position(part + 1)).unwrap();
        index.flush().unwrap();
    }
    std::thread::sleep(std::time::Duration::from_secs(3));
    let read = || -> u64 {
        let io = fs::read_to_string("/proc/thread-self/io").unwrap();
        let bytes = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        bytes.unwrap().parse().unwrap()
    };
    let before = read();
    for look in 0..LOOKS {
        let queue = QueueId(look * (KEYS / LOOKS));
        assert_eq!(index.get(&ReaderKey { queue }).unwrap(), Some(()));
    }
    let bytes = (read() - before) / LOOKS;
    assert!(bytes < 128 << 10, "{bytes} bytes for one look");
}
