//! Topics, and the groups that read them, as an operator sees them.

use mainstem_index::CursorName;
use mainstem_schemas::{CursorId, Offset, QueueId};

use crate::{
    command::{Keeps, TopicTerms},
    commit::{Commit, listing::READ_PER_PAGE},
    cursor::Cursor,
    listing::{GroupPlace, GroupShown, GroupsOf, ITEMS_MAX, Page, TopicShown},
    queue::Queue,
};

impl Commit {
    /// The topics behind a name, up to `max`; and whether there are more.
    fn topics_behind(
        &mut self,
        namespace: &str,
        is_behind: impl Fn(&str) -> bool,
        max: usize,
    ) -> (Vec<(String, QueueId)>, bool) {
        let topics = self.state.namespace(namespace).topics.iter();
        let mut behind: Vec<(&String, &QueueId)> =
            topics.filter(|(name, _)| is_behind(name)).collect();
        let has_more = behind.len() > max;
        if has_more {
            behind.select_nth_unstable(max);
            behind.truncate(max);
        }
        behind.sort_unstable();
        let found = behind.into_iter().map(|(name, id)| (name.clone(), *id));
        (found.collect(), has_more)
    }

    pub(super) fn list_topics(
        &mut self,
        namespace: &str,
        after: Option<&str>,
    ) -> Page<TopicShown, String> {
        let is_behind = |name: &str| after.is_none_or(|after| name > after);
        let (topics, has_more) = self.topics_behind(namespace, is_behind, ITEMS_MAX);
        let mut last = topics.last().filter(|_| has_more).map(|(name, _)| name.clone());
        let (mut items, mut read) = (Vec::new(), 0);
        for (name, id) in topics {
            read += usize::from(self.state.queues.peek(id).is_none());
            items.extend(self.state.queues.look(id, show_topic));
            if read == READ_PER_PAGE {
                last = Some(name);
                break;
            }
        }
        Page { items, next: last }
    }

    pub(super) fn show_topic(&mut self, namespace: &str, name: &str) -> Option<TopicShown> {
        let id = self.state.namespace(namespace).topic(name)?;
        self.state.queues.look(id, show_topic)
    }

    pub(super) fn list_groups(
        &mut self,
        namespace: &str,
        of: &GroupsOf,
        after: Option<GroupPlace>,
    ) -> Page<GroupShown, GroupPlace> {
        // What was settled in this turn counts.
        self.flush_settled();
        let (topics, mut has_more) = match &of.topic {
            Some(topic) => {
                let found = self.state.namespace(namespace).topic(topic);
                (found.map(|id| (topic.clone(), id)).into_iter().collect(), false)
            }
            None => {
                let from = after.as_ref().map_or("", |after| after.topic.as_str());
                self.topics_behind(namespace, |name| name >= from, ITEMS_MAX)
            }
        };
        let (mut items, mut read, mut looked_at) = (Vec::new(), 0, None);
        for (topic, id) in topics {
            read += usize::from(self.state.queues.peek(id).is_none());
            let behind = after.as_ref().filter(|after| after.topic == topic);
            let is_wanted = |group: &str| {
                of.group.as_ref().is_none_or(|wanted| wanted == group)
                    && behind.is_none_or(|after| *group > *after.group)
            };
            let shown = self.state.queues.look(id, |queue| show_groups(queue, is_wanted));
            items.extend(shown.into_iter().flatten());
            let group = items.last().filter(|last: &&GroupShown| last.topic == topic);
            let group = group.map_or_else(|| LAST_GROUP.to_owned(), |last| last.group.clone());
            looked_at = Some(GroupPlace { topic, group });
            if items.len() >= ITEMS_MAX || read == READ_PER_PAGE {
                has_more = true;
                break;
            }
        }
        if items.len() > ITEMS_MAX {
            items.truncate(ITEMS_MAX);
            looked_at = items
                .last()
                .map(|last| GroupPlace { topic: last.topic.clone(), group: last.group.clone() });
        }
        Page { items, next: looked_at.filter(|_| has_more) }
    }
}

/// Behind the names of all groups.
const LAST_GROUP: &str = "\u{10ffff}";

fn show_topic(queue: &Queue) -> TopicShown {
    let policy = &queue.def.policy;
    let keeps = Keeps { age_max_ms: policy.age_max_ms, bytes_max: policy.bytes_max };
    TopicShown {
        name: queue.def.name.clone(),
        terms: TopicTerms { priority_max: policy.priority_max, keeps: Some(keeps) },
        records: queue.live,
        bytes: queue.bytes,
        first: Offset(queue.first()),
        next: Offset(queue.next()),
        groups: groups(queue).count() as u64,
    }
}

fn groups(queue: &Queue) -> impl Iterator<Item = (CursorId, &Cursor, &String)> {
    queue.cursors().filter_map(|(id, cursor)| match &*cursor.name {
        CursorName::Group(group) => Some((id, cursor, group)),
        _ => None,
    })
}

/// The groups of a queue, by name. If the power went while one was moved, the first cursor is its.
fn show_groups(queue: &Queue, is_wanted: impl Fn(&str) -> bool) -> Vec<GroupShown> {
    let bounds = queue.bounds();
    let mut shown: Vec<GroupShown> = groups(queue)
        .filter(|(_, _, group)| is_wanted(group))
        .map(|(_, cursor, group)| GroupShown {
            topic: queue.def.name.clone(),
            group: group.clone(),
            policy: (*cursor.policy).clone(),
            floor: Offset(cursor.floor_at(queue.first()).max(queue.first())),
            unsettled: bounds.iter().map(|bounds| cursor.unsettled(*bounds)).sum(),
            in_hand: cursor.in_hand.len() as u64,
            waiting: cursor.fetchers.len() as u64,
        })
        .collect();
    shown.sort_by(|a, b| a.group.cmp(&b.group));
    shown.dedup_by(|b, a| a.group == b.group);
    shown
}
