//! Ranges: what is in them, what is not, and what is deleted with them.

use super::*;
use crate::keys::{BLOCK_ENTRIES, HeldValue};

fn held(due: u64, position: u64) -> HeldKey {
    HeldKey { due: UnixMillis(due), origin: Position(position) }
}

fn wake(at: u64, queue: u64) -> WakeKey {
    WakeKey { at: UnixMillis(at), queue: QueueId(queue) }
}

fn pointer(body: u64, frame: u64) -> PointerKey {
    PointerKey { body: Position(body), frame: Position(frame) }
}

fn keys_of<K, V>(items: impl Iterator<Item = Result<(K, V), IndexError>>) -> Vec<K> {
    items.map(|item| item.unwrap().0).collect()
}

fn commit(index: &Index, change: impl FnOnce(&mut Batch)) {
    let mut batch = index.batch();
    change(&mut batch);
    index.commit(batch, Position(1)).unwrap();
}

/// Times, positions and numbers over the borders of their bytes.
const NUMBERS: [u64; 7] = [0, 1, 255, 256, 1 << 40, u64::MAX - 1, u64::MAX];

#[test]
fn ranges_begin_with_their_start_and_end_before_their_end() {
    let (_dir, index) = open();
    let value = HeldValue { position: Position(2), size: 5, namespace: "/".to_owned() };
    commit(&index, |batch| {
        for at in NUMBERS.into_iter().rev() {
            for other in [u64::MAX, 0] {
                batch.put(&held(at, other), &value);
                batch.put(&wake(at, other), &());
                batch.put(&pointer(at, other), &9);
            }
        }
    });
    for from in NUMBERS {
        for to in NUMBERS {
            let within = NUMBERS.into_iter().filter(|at| (from..to).contains(at));
            let within: Vec<_> = within.flat_map(|at| [(at, 0), (at, u64::MAX)]).collect();
            let (from_time, to_time) = (UnixMillis(from), UnixMillis(to));
            let found = index.held(from_time, to_time).map(|item| {
                let (key, found) = item.unwrap();
                assert_eq!(found, value);
                (key.due.0, key.origin.0)
            });
            assert_eq!(found.collect::<Vec<_>>(), within);
            let found = keys_of(index.wakes(from_time, to_time));
            assert_eq!(
                found,
                within.iter().map(|(at, queue)| wake(*at, *queue)).collect::<Vec<_>>()
            );
            let found = keys_of(index.pointers(Position(from), Position(to)));
            assert_eq!(
                found,
                within.iter().map(|(body, frame)| pointer(*body, *frame)).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn ranges_are_deleted_half_open_and_empty_ones_harm_nothing() {
    for from in NUMBERS {
        for to in NUMBERS {
            let (_dir, index) = open();
            commit(&index, |batch| {
                for number in NUMBERS {
                    batch.put(&pointer(number, 3), &9);
                }
            });
            commit(&index, |batch| {
                batch.delete_pointers(Position(from), Position(to));
                batch.put(&state_key(1), &state(1));
            });
            let left = NUMBERS.into_iter().filter(|body| !(from..to).contains(body));
            let left: Vec<_> = left.map(|body| pointer(body, 3)).collect();
            assert_eq!(keys_of(index.scan::<PointerKey>()), left);
            assert_eq!(index.get(&state_key(1)).unwrap(), Some(state(1)), "the rest of the batch");
        }
    }
}

#[test]
fn lookups_are_of_one_hash_in_one_bucket_of_one_queue() {
    let (_dir, index) = open();
    let near = [1, 2, u64::MAX - 1, u64::MAX];
    commit(&index, |batch| {
        for queue in near {
            for bucket in near {
                for hash in near {
                    batch.put(&lookup(queue, bucket, hash, 3 << LANE_SHIFT), &());
                    batch.put(&lookup(queue, bucket, hash, 7), &());
                }
            }
        }
    });
    for queue in near {
        for bucket in near {
            for hash in near {
                let found = keys_of(index.lookups(QueueId(queue), bucket, hash));
                let of = |offset| lookup(queue, bucket, hash, offset);
                assert_eq!(found, [of(7), of(3 << LANE_SHIFT)]);
            }
        }
    }
    assert_eq!(index.lookups(QueueId(1), 1, 3).count(), 0);

    commit(&index, |batch| batch.delete_lookups(QueueId(2), u64::MAX - 1));
    let left = index.scan::<LookupKey>().map(|item| item.unwrap().0);
    let left: Vec<_> = left.filter(|key| key.queue == QueueId(2)).collect();
    assert_eq!(left.len(), 2 * 4 * 2);
    assert!(left.iter().all(|key| key.bucket >= u64::MAX - 1));
    assert_eq!(count::<LookupKey>(&index), 3 * 4 * 4 * 2 + 2 * 4 * 2);
}

#[test]
fn a_block_whose_entries_do_not_belong_in_it_is_damage() {
    let (_dir, index) = open();
    commit(&index, |batch| {
        put_block(batch, 1, 3);
        batch.put(&BlockKey { queue: QueueId(1), number: 4 }, &block(5));
    });
    assert_eq!(index.block(QueueId(1), 3).unwrap(), Some(block(3)));
    let damaged = index.block(QueueId(1), 4).unwrap_err();
    assert!(matches!(damaged, IndexError::Damaged { kind: KeyKind::Block, .. }));
}

#[test]
fn a_block_written_from_a_slice_is_the_block() {
    let (_dir, index) = open();
    let entry = |n: u64| Entry { position: Position(n), size: 9, group: 3, ..Entry::default() };
    let entries: Vec<_> =
        (0..BLOCK_ENTRIES).map(|n| if n % 3 == 0 { Entry::HOLE } else { entry(n) }).collect();
    let number = Offset(7 << LANE_SHIFT).0 / BLOCK_ENTRIES + 2;
    commit(&index, |batch| batch.put_block(QueueId(1), Offset(number * BLOCK_ENTRIES), &entries));
    let found = index.block(QueueId(1), number).unwrap().unwrap();
    assert_eq!(found.first, Offset((7 << LANE_SHIFT) + 2 * BLOCK_ENTRIES));
    assert_eq!(found.entries, entries);

    let hash = index.state_hash().unwrap();
    commit(&index, |batch| batch.put(&BlockKey { queue: QueueId(1), number }, &found));
    assert_eq!(index.state_hash().unwrap(), hash);
}

#[test]
fn threads_share_the_index_and_hand_over_batches() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    fn handed_over<T: Send + 'static>() {}
    shared::<Index>();
    shared::<Tuning>();
    handed_over::<Batch>();
    handed_over::<IndexError>();
}

#[test]
fn an_index_in_little_memory_holds_the_same() {
    let (_dir, straight) = open();
    let dir = tempfile::tempdir().unwrap();
    let tuning = Tuning { memtable_bytes: 64 << 10, memtables_max: 2, block_cache_bytes: 64 << 10 };
    let small = Index::open_with(dir.path(), tuning).unwrap();
    for index in [&straight, &small] {
        for batch_number in 0..20 {
            commit(index, |batch| {
                for queue in 0..100 {
                    put_queue(batch, batch_number * 100 + queue);
                }
            });
        }
    }
    assert_eq!(small.state_hash().unwrap(), straight.state_hash().unwrap());
}

/// Names of ten bytes, ids as far apart as log entries are.
#[test]
fn a_declared_queue_takes_under_120_bytes_on_the_disk() {
    const QUEUES: u64 = 200_000;
    let (dir, index) = open();
    for part in 0..20 {
        commit(&index, |batch| {
            for n in (part..QUEUES).step_by(20) {
                put_declared(batch, n);
            }
        });
    }
    index.flush().unwrap();
    index.shared.db.compact_range::<&[u8], &[u8]>(None, None);
    assert_eq!(count::<NameKey>(&index) as u64, QUEUES);
    drop(index);
    let files = fs::read_dir(dir.path()).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    println!("{:.1} bytes a queue", bytes as f64 / QUEUES as f64);
    assert!(bytes < 120 * QUEUES, "{} bytes a queue", bytes / QUEUES);
}

/// As a plain declaration leaves it.
fn put_declared(batch: &mut Batch, n: u64) {
    let queue = QueueId((1 << 40) + n * 96);
    let (namespace, name) =
        ("/".to_owned(), format!("q-{:08}", n.wrapping_mul(2_654_435_761) % 100_000_000));
    let value = QueueValue {
        namespace: namespace.clone(),
        name: QueueName::Named(name.clone()),
        auto_delete: false,
        retention: 0,
        home: Position(queue.0),
        policy: Bytes::new(),
        arguments: Vec::new(),
    };
    batch.put(&QueueKey { queue }, &value);
    batch.put(&NameKey { namespace, name }, &queue);
    let state = QueueStateValue {
        lanes: vec![LaneState { first: Offset(1), next: Offset(1) }],
        main: Some(Progress { floors: vec![Offset(1)], ..Progress::default() }),
        ..QueueStateValue::default()
    };
    batch.put(&QueueStateKey { queue }, &state);
}

#[test]
fn names_are_a_namespaces_own_and_go_on_behind_one_of_them() {
    let (_dir, index) = open();
    let name = |namespace: &str, name: &str| NameKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let names = ["", "a", "a\0", "b", "\u{10ffff}"];
    commit(&index, |batch| {
        for namespace in ["", "/", "0", "/b"] {
            for (id, one) in (0..).zip(names) {
                batch.put(&name(namespace, one), &QueueId(id));
            }
        }
    });
    let all = names.map(|one| name("/", one));
    assert_eq!(keys_of(index.names("/", None)), all);
    for (at, last) in names.iter().enumerate() {
        assert_eq!(keys_of(index.names("/", Some(last))), all[at + 1..], "behind {last:?}");
    }
    assert_eq!(keys_of(index.names("/", Some("aa"))), all[3..]);
}

#[test]
fn ascending_look_ups_find_what_single_ones_find() {
    let (_dir, index) = open();
    let there = |queue: u64| queue.is_multiple_of(3) || (100..200).contains(&queue);
    commit(&index, |batch| {
        for queue in (0..1000).filter(|queue| there(*queue)) {
            batch.put(&state_key(queue), &state(queue));
            // Of other kinds, before and behind.
            batch.put(&wake(queue, queue), &());
        }
    });
    for step in [1, 2, 3, 7, 40, 333, 2000] {
        let mut ascending = index.ascending();
        for queue in (0..1100).step_by(step) {
            let found = ascending.get(&state_key(queue)).unwrap();
            assert_eq!(found, index.get(&state_key(queue)).unwrap(), "{queue} by {step}");
            assert_eq!(found.is_some(), queue < 1000 && there(queue));
        }
    }
}
