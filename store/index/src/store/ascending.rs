//! Many look-ups in the order of their keys.

use std::marker::PhantomData;

use bytes::Bytes;
use rocksdb::{DB, DBRawIteratorWithThreadMode, ReadOptions};

use super::Index;
use crate::{
    IndexError, Part,
    error::damaged,
    keys::{self, Entity},
};

/// Keys that are passed one by one before the next one is looked for.
const STEPS: usize = 8;

/// Looks up keys of one kind, each above the one before.
pub struct Ascending<'a, K> {
    at: DBRawIteratorWithThreadMode<'a, DB>,
    wanted: Vec<u8>,
    kind: PhantomData<K>,
}

impl Index {
    /// For keys that are asked for in ascending order: faster than one by one where most of what lies
    /// between them is asked for too. Sees the index as it is at the call.
    pub fn ascending<K: Entity>(&self) -> Ascending<'_, K> {
        let from = keys::start(K::KIND, &[]);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(keys::after(from.clone()));
        let mut at = self.shared.db.raw_iterator_opt(options);
        at.seek(from);
        Ascending { at, wanted: Vec::new(), kind: PhantomData }
    }
}

impl<K: Entity> Ascending<'_, K> {
    /// The value of `key`, which is above those that were asked for before; below them, nothing is
    /// found.
    pub fn get(&mut self, key: &K) -> Result<Option<K::Value>, IndexError> {
        self.wanted.clear();
        keys::write_key(key, &mut self.wanted);
        let mut steps = 0;
        while self.at.key().is_some_and(|at| *at < *self.wanted) {
            if steps == STEPS {
                self.at.seek(&self.wanted);
                break;
            }
            self.at.next();
            steps += 1;
        }
        // The end, or an error.
        self.at.status().map_err(|source| IndexError::Read { kind: K::KIND, source })?;
        let Some((stored, value)) = self.at.item() else { return Ok(None) };
        if *stored != *self.wanted {
            return Ok(None);
        }
        let value = K::deser_value(Bytes::copy_from_slice(value));
        Ok(Some(value.map_err(|_| damaged::<K>(Part::Value, &self.wanted))?))
    }
}
