//! A map that mostly holds one entry, or a few: there are millions of it, and a tree's node has room for
//! eleven.

use std::collections::BTreeMap;

/// So many are kept in a row; more in a tree.
const ROW_MAX: usize = 16;

/// Entries by key, ascending.
#[derive(Debug)]
pub(crate) enum Few<K, V> {
    Row(Vec<(K, V)>),
    #[expect(clippy::box_collection, reason = "without the box, a row takes the room of a tree")]
    Tree(Box<BTreeMap<K, V>>),
}

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self::Row(Vec::new())
    }
}

fn find<K: Ord, V>(row: &[(K, V)], key: &K) -> Result<usize, usize> {
    row.binary_search_by(|(other, _)| other.cmp(key))
}

impl<K: Ord, V> Few<K, V> {
    /// Whether there are few.
    pub(crate) fn is_row(&self) -> bool {
        matches!(self, Self::Row(_))
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Row(row) => row.is_empty(),
            Self::Tree(tree) => tree.is_empty(),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::Row(row) => row.get(find(row, key).ok()?).map(|(_, value)| value),
            Self::Tree(tree) => tree.get(key),
        }
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::Row(row) => {
                let at = find(row, key).ok()?;
                row.get_mut(at).map(|(_, value)| value)
            }
            Self::Tree(tree) => tree.get_mut(key),
        }
    }

    /// Returns what was there under this key.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let row = match self {
            Self::Row(row) => row,
            Self::Tree(tree) => return tree.insert(key, value),
        };
        match find(row, &key) {
            Ok(at) => row.get_mut(at).map(|(_, before)| std::mem::replace(before, value)),
            Err(at) if row.len() < ROW_MAX => {
                if row.len() == row.capacity() {
                    row.reserve_exact(row.len().max(1));
                }
                row.insert(at, (key, value));
                None
            }
            Err(_) => {
                let mut tree: BTreeMap<K, V> = std::mem::take(row).into_iter().collect();
                tree.insert(key, value);
                *self = Self::Tree(Box::new(tree));
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::Row(row) => {
                let (_, value) = row.remove(find(row, key).ok()?);
                if row.is_empty() {
                    *row = Vec::new();
                }
                Some(value)
            }
            Self::Tree(tree) => {
                let removed = tree.remove(key);
                if tree.is_empty() {
                    *self = Self::default();
                }
                removed
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (row, tree) = match self {
            Self::Row(row) => (Some(row), None),
            Self::Tree(tree) => (None, Some(tree)),
        };
        let row = row.into_iter().flatten().map(|(key, value)| (key, value));
        row.chain(tree.into_iter().flat_map(|tree| tree.iter()))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        let (row, tree) = match self {
            Self::Row(row) => (Some(row), None),
            Self::Tree(tree) => (None, Some(tree)),
        };
        let row = row.into_iter().flatten().map(|(key, value)| (&*key, value));
        row.chain(tree.into_iter().flat_map(|tree| tree.iter_mut()))
    }

    /// Those whose keys are not below this one.
    pub(crate) fn iter_from(&self, from: K) -> impl Iterator<Item = (&K, &V)> {
        let (row, tree) = match self {
            Self::Row(row) => {
                let at = row.partition_point(|(key, _)| *key < from);
                (row.get(at..), None)
            }
            Self::Tree(tree) => (None, Some(tree.range(from..))),
        };
        let row = row.into_iter().flatten().map(|(key, value)| (key, value));
        row.chain(tree.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_what_a_tree_does() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut few, mut tree) = (Few::default(), BTreeMap::new());
            for step in 0..400 {
                let key = rng.u8(..if seed % 2 == 0 { 8 } else { 60 });
                if rng.u8(..5) < if step < 200 { 4 } else { 1 } {
                    assert_eq!(few.insert(key, step), tree.insert(key, step));
                } else {
                    assert_eq!(few.remove(&key), tree.remove(&key));
                }
                let key = rng.u8(..60);
                assert_eq!(few.get(&key), tree.get(&key));
                assert_eq!(few.get_mut(&key), tree.get_mut(&key));
                assert!(few.iter().eq(tree.iter()) && few.iter_mut().eq(tree.iter_mut()));
                assert!(few.iter_from(key).eq(tree.range(key..)));
                assert_eq!(few.is_empty(), tree.is_empty());
            }
        }
    }
}
