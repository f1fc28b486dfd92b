//! The names of queues, in order: what the index has, and what came or went since.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use bytes::Bytes;
use mainstem_index::NameKey;
use mainstem_schemas::QueueId;

use super::State;

impl State {
    /// Named queues of a namespace behind a name, up to `max` of them; and the name that was looked at
    /// last, if there may be more behind it.
    pub(crate) fn names_behind(
        &mut self,
        namespace: &str,
        after: Option<&str>,
        max: usize,
    ) -> (BTreeMap<String, QueueId>, Option<String>) {
        let mut found = BTreeMap::new();
        // Where the first of those lists was left that go on.
        let mut end: Option<String> = None;
        let index = self.index.clone();
        for (looked, stored) in (1..).zip(index.names(namespace, after)) {
            let stored = stored.map(Some);
            let Some((key, id)) = self.sound::<Option<(NameKey, QueueId)>>(stored) else { break };
            let named = &self.namespace(namespace).named;
            let known = named.get(key.name.as_bytes()).copied();
            if let Some(id) = known.unwrap_or(Some(id)) {
                found.insert(key.name.clone(), id);
            }
            if looked == max {
                end = Some(key.name);
                break;
            }
        }
        for names in self.fresh_names(namespace, after, max) {
            let last = names.last().filter(|_| names.len() == max).cloned();
            end = end.into_iter().chain(last).min();
            for name in names {
                let named = &self.namespace(namespace).named;
                if let Some(Some(id)) = named.get(name.as_bytes()).copied() {
                    found.insert(name, id);
                }
            }
        }
        if let Some(end) = &end {
            let _behind = found.split_off(&format!("{end}\0"));
        }
        if found.len() > max
            && let Some(name) = found.keys().nth(max).cloned()
        {
            let _behind = found.split_off(&name);
            end = found.keys().last().cloned();
        }
        (found, end)
    }

    /// Up to `max` names behind one of each list of those that the index may not have.
    fn fresh_names(
        &mut self,
        namespace: &str,
        after: Option<&str>,
        max: usize,
    ) -> [Vec<String>; 3] {
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let behind = after.unwrap_or_default().as_bytes();
        let is_behind = |name: &[u8]| after.is_none() || name > behind;
        let of: Arc<str> = self.queues.intern(namespace);
        let from = (of.clone(), Bytes::copy_from_slice(behind));
        let changed = [&self.renamed.open, &self.renamed.gathered].map(|changed| {
            let all = changed.range(from.clone()..).take_while(|(space, _)| *space == of);
            let names = all.map(|(_, name)| &**name).filter(|name| is_behind(name));
            names.take(max).map(text).collect::<Vec<_>>()
        });
        let [open, gathered] = changed;
        let space = self.namespace(namespace);
        let transient = match after {
            Some(_) => space.transient.range::<[u8], _>((Excluded(behind), Unbounded)),
            None => space.transient.range::<[u8], _>((Unbounded::<&[u8]>, Unbounded)),
        };
        [open, gathered, transient.take(max).map(|name| text(name)).collect()]
    }
}
