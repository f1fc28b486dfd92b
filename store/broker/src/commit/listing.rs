//! Lists of exchanges, bindings, named queues and topics, a page in each turn.

mod topics;

use std::{
    collections::BTreeSet,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use bytes::Bytes;
use mainstem_schemas::{CursorId, QueueId, UnixMillis};

use super::{Commit, send};
use crate::{
    command::{Bind, ListCommand},
    exchange::{BindingKey, Destination, Exchange},
    listing::{BindingPlace, BindingsOf, ExchangeShown, ITEMS_MAX, Page, QueueShown},
    queue::Queue,
    rules::Rules,
};

/// Queues that one page reads from the index: each takes some tens of microseconds.
const READ_PER_PAGE: usize = 128;

impl Commit {
    pub(super) fn handle_list(&mut self, namespace: &str, ask: ListCommand) {
        match ask {
            ListCommand::Exchanges { after, reply } => {
                send(reply, self.list_exchanges(namespace, after.as_deref()));
            }
            ListCommand::Exchange { name, reply } => {
                let space = self.state.namespace(namespace);
                let found = space.exchanges.get(&name);
                send(reply, found.map(|exchange| show_exchange(exchange, &space.rules, self.now)));
            }
            ListCommand::Nameless { reply } => {
                send(reply, self.state.namespace(namespace).nameless.read(self.now));
            }
            ListCommand::Bindings { of, after, reply } => {
                send(reply, self.list_bindings(namespace, &of, after));
            }
            ListCommand::Queues { after, reply } => {
                send(reply, self.list_queues(namespace, after.as_deref()));
            }
            ListCommand::Queue { name, reply } => {
                send(reply, self.show_queue(namespace, &name));
            }
            ListCommand::Topics { after, reply } => {
                send(reply, self.list_topics(namespace, after.as_deref()));
            }
            ListCommand::Topic { name, reply } => send(reply, self.show_topic(namespace, &name)),
            ListCommand::Groups { of, after, reply } => {
                send(reply, self.list_groups(namespace, &of, after));
            }
        }
    }

    fn list_exchanges(
        &mut self,
        namespace: &str,
        after: Option<&str>,
    ) -> Page<ExchangeShown, String> {
        let space = self.state.namespace(namespace);
        let all = space.exchanges.iter();
        let is_behind =
            |exchange: &&Exchange| after.is_none_or(|after| *exchange.def.name > *after);
        let mut behind: Vec<&Exchange> = all.filter(is_behind).collect();
        let has_more = behind.len() > ITEMS_MAX;
        if has_more {
            behind.select_nth_unstable_by(ITEMS_MAX, |a, b| a.def.name.cmp(&b.def.name));
            behind.truncate(ITEMS_MAX);
        }
        behind.sort_unstable_by(|a, b| a.def.name.cmp(&b.def.name));
        let now = self.now;
        let shown = behind.into_iter().map(|exchange| show_exchange(exchange, &space.rules, now));
        let items: Vec<ExchangeShown> = shown.collect();
        let last = items.last().map(|last| last.def.name.clone());
        Page { items, next: last.filter(|_| has_more) }
    }

    fn list_queues(&mut self, namespace: &str, after: Option<&str>) -> Page<QueueShown, String> {
        let rules = self.state.namespace(namespace).rules.clone();
        let (names, mut next) = self.state.names_behind(namespace, after, ITEMS_MAX);
        let (mut items, mut read) = (Vec::new(), 0);
        for (name, id) in names {
            read += usize::from(self.state.queues.peek(id).is_none());
            items.extend(self.describe_queue(id, &rules));
            if read == READ_PER_PAGE {
                next = Some(name);
                break;
            }
        }
        Page { items, next }
    }

    fn show_queue(&mut self, namespace: &str, name: &str) -> Option<QueueShown> {
        let rules = self.state.namespace(namespace).rules.clone();
        let id = self.state.find_named(namespace, name.as_bytes())?;
        let head = self.head_of(id);
        self.describe_queue(id, &rules).map(|shown| QueueShown { head, ..shown })
    }

    fn describe_queue(&mut self, id: QueueId, rules: &Arc<Rules>) -> Option<QueueShown> {
        // Only those in memory have consumers, or something settled in this turn.
        let stats = self.state.queues.peek(id).is_some().then(|| self.stats(id));
        let now = self.now;
        self.state.queues.look(id, |queue: &Queue| {
            let (ready, ready_bytes) = queue.ready();
            let idle = crate::QueueStats { ready, ..crate::QueueStats::default() };
            let stats = stats.unwrap_or(idle);
            QueueShown {
                def: queue.def.clone(),
                stats,
                counts: queue.told(now, &stats),
                ready_bytes,
                unsettled_bytes: queue.bytes.saturating_sub(ready_bytes),
                head: UnixMillis::NONE,
                ruled: rules.ruling_of_queue(&queue.def),
            }
        })
    }

    /// When the record was appended that is to be delivered next.
    fn head_of(&mut self, id: QueueId) -> UnixMillis {
        let Some(queue) = self.state.queues.get(id) else { return UnixMillis::NONE };
        let first = match queue.cursor_and_lanes(CursorId::MAIN) {
            Some((main, lanes)) => main.peek(lanes),
            None => Some(queue.first()).filter(|first| *first < queue.next()),
        };
        let Some(first) = first else { return UnixMillis::NONE };
        let place = queue.get(first, &self.state.index);
        self.state.sound(place).map_or(UnixMillis::NONE, |place| place.appended)
    }

    fn list_bindings(
        &mut self,
        namespace: &str,
        of: &BindingsOf,
        after: Option<BindingPlace>,
    ) -> Page<Bind, BindingPlace> {
        let mut page = Page { items: Vec::new(), next: None };
        let destination = match &of.destination {
            None => None,
            Some((name, true)) => Some(Destination::Exchange(name.clone())),
            Some((name, false)) => match self.state.find_named(namespace, name.as_bytes()) {
                Some(id) => Some(Destination::Queue(id)),
                None => return page,
            },
        };
        let mut found = Vec::new();
        for source in self.sources(namespace, of, destination.as_ref(), after.as_ref()) {
            let exchanges = &self.state.namespace(namespace).exchanges;
            let Some(exchange) = exchanges.get(&source) else { continue };
            let from = match (&after, &destination) {
                (Some(after), _) if after.source == source => Excluded(after.binding.clone()),
                (_, Some(to)) => {
                    let (key, arguments) = (Bytes::new(), Bytes::new());
                    Included(BindingKey { destination: to.clone(), key, arguments })
                }
                _ => Unbounded,
            };
            let room = ITEMS_MAX - found.len();
            let behind = exchange.bindings.range((from, Unbounded));
            let wanted = behind.take_while(|(key, _)| {
                destination.as_ref().is_none_or(|to| key.destination == *to)
            });
            found.extend(
                wanted
                    .take(room)
                    .map(|(key, bound)| (source.clone(), key.clone(), bound.arguments.clone())),
            );
            if found.len() == ITEMS_MAX {
                break;
            }
        }
        if found.len() == ITEMS_MAX {
            let last = found.last();
            page.next = last.map(|(source, binding, _)| BindingPlace {
                source: source.clone(),
                binding: binding.clone(),
            });
        }
        for (source, binding, arguments) in found {
            let (destination, to_exchange) = match binding.destination {
                Destination::Exchange(name) => (name, true),
                Destination::Queue(id) => match self.state.queues.name_of(id) {
                    Some(name) => (name, false),
                    None => continue,
                },
            };
            let key = binding.key;
            page.items.push(Bind { source, destination, to_exchange, key, arguments });
        }
        page
    }

    /// The exchanges that may have such bindings, from the place on, by name.
    fn sources(
        &mut self,
        namespace: &str,
        of: &BindingsOf,
        destination: Option<&Destination>,
        after: Option<&BindingPlace>,
    ) -> BTreeSet<String> {
        if let Some(source) = &of.source {
            return BTreeSet::from([source.clone()]);
        }
        let is_behind = |name: &&String| after.is_none_or(|after| **name >= after.source);
        if let Some(Destination::Queue(id)) = destination {
            let bound = self.state.bound.get(id).into_iter().flatten();
            return bound.map(|(source, _)| source).filter(is_behind).cloned().collect();
        }
        let bound = self.state.namespace(namespace).exchanges.iter();
        let bound = bound.filter(|exchange| !exchange.bindings.is_empty());
        bound.map(|exchange| &exchange.def.name).filter(is_behind).cloned().collect()
    }
}

fn show_exchange(exchange: &Exchange, rules: &Rules, now: UnixMillis) -> ExchangeShown {
    let ruled = rules.ruling_of_exchange(&exchange.def);
    ExchangeShown { def: exchange.def.clone(), ruled, counts: exchange.counts(now) }
}
