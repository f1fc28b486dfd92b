//! Publishing: route, give the record its places, plan it, apply it.

use std::{mem, sync::Arc};

use bytes::Bytes;
use mainstem_index::Entry as Place;
use mainstem_log::FRAME_HEADER_BYTES;
use mainstem_schemas::{
    ConsumerId, Dialect, Entrance, Path, Position, QueueId, Record, Table, address::ROOT_EXCHANGE,
};
use smallvec::SmallVec;
use tokio::sync::OwnedSemaphorePermit;

use super::{Commit, send};
use crate::{
    command::{ClientId, Publish, Published, Reply, Retention},
    entry::{KIND_PUBLISH, encode_targets},
    error::Refusal,
    exchange::Targets,
    inbox::{Delivery, Notice},
    namespace::{Namespace, Reader},
};

/// Connected readers that get a copy and keep nothing.
type LiveReaders = SmallVec<[(ClientId, ConsumerId, u64); 4]>;

/// Who gets a record.
#[derive(Default)]
struct Route {
    queues: Targets,
    live: LiveReaders,
}

impl Commit {
    pub(super) fn publish(
        &mut self,
        client: ClientId,
        batch: Vec<Publish>,
        permit: OwnedSemaphorePermit,
        reply: Reply<Vec<Published>>,
    ) {
        let Some(namespace) = self.namespace_of(client) else { return };
        let needs_sync = mem::replace(&mut self.open.needs_sync, false);
        self.counts.published += batch.len() as u64;
        let outcomes: Vec<Published> =
            batch.iter().map(|publish| self.publish_one(&namespace, publish)).collect();
        if self.open.needs_sync {
            self.open.published.push((reply, outcomes));
        } else {
            send(reply, outcomes);
        }
        self.open.needs_sync |= needs_sync;
        self.open.permits.push(permit);
    }

    fn publish_one(&mut self, namespace: &Arc<str>, publish: &Publish) -> Published {
        let record = &publish.record;
        let (size, max) = (record.data_len(), self.config.message_bytes_max);
        // Properties have no bound of their own here; an entry must fit into a segment.
        if size > max || record.bytes().len() as u64 > self.config.segment_bytes / 2 {
            return Published::Refused(Refusal::TooLarge { size, max });
        }
        if self.is_full {
            return Published::Refused(Refusal::DiskFull);
        }
        let route = match self.route(namespace, publish) {
            Ok(route) => route,
            Err(refusal) => return Published::Refused(refusal),
        };
        let readers = route.queues.len() + route.live.len();
        let (position, size, offset) = if route.queues.is_empty() && !record.is_retain() {
            (Position::default(), record.bytes().len(), None)
        } else {
            self.store(&route.queues, record)
        };
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        for (client, consumer, options) in route.live {
            self.deliver_live(client, consumer, options, position, size, record);
        }
        if readers == 0 {
            self.counts.unroutable += 1;
        }
        Published::Taken { readers: u32::try_from(readers).unwrap_or(u32::MAX), offset }
    }

    fn route(&mut self, namespace: &Arc<str>, publish: &Publish) -> Result<Route, Refusal> {
        let views = self.views;
        let record = &publish.record;
        let headers = move || -> Table { views.of(record).props };
        let Some(space) = self.state.namespaces.get(namespace) else {
            return Ok(Route::default());
        };
        let mut route = Route::default();
        let address = record.address();
        let (path, is_private) = match address.entrance() {
            Entrance::Exchange { name, key } if name.is_empty() => {
                for key in std::iter::once(&key).chain(&publish.extra_keys) {
                    route.queues.extend(space.named.get(key).copied());
                }
                (Path::default(), true)
            }
            Entrance::Exchange { name, key } => {
                let exchange = std::str::from_utf8(&name)
                    .ok()
                    .and_then(|name| space.exchanges.get(name))
                    .ok_or_else(|| Refusal::NoExchange(lossy(&name)))?;
                if exchange.def.internal {
                    return Err(Refusal::Internal(exchange.def.name.clone()));
                }
                for key in std::iter::once(&key).chain(&publish.extra_keys) {
                    space.exchanges.route(exchange, key, &headers, &mut route.queues);
                }
                let is_private = exchange.private || space.readers.is_empty();
                (if is_private { Path::default() } else { address.path() }, is_private)
            }
            Entrance::Path => {
                let path = address.path();
                route_path(space, &path, &headers, &mut route.queues);
                (path, false)
            }
        };
        if !is_private {
            space.readers.find(path.segments(), true, |reader| match reader {
                Reader::Queue(id) => route.queues.push(*id),
                Reader::Live { client, consumer, options } => {
                    route.live.push((*client, *consumer, *options));
                }
            });
        }
        if route.queues.len() > 1 {
            route.queues.sort_unstable();
            route.queues.dedup();
        }
        Ok(route)
    }

    /// Plans the record into the open batch and puts its place into its queues.
    fn store(
        &mut self,
        queues: &[QueueId],
        record: &Record,
    ) -> (Position, usize, Option<mainstem_schemas::Offset>) {
        let mut durable: SmallVec<[(QueueId, u64); 8]> = SmallVec::new();
        let mut offset = None;
        for id in queues.iter().filter(|id| !id.is_transient()) {
            let Some(queue) = self.state.queues.get(id) else { continue };
            durable.push((*id, queue.entries.next));
            if queue.def.retention == Retention::Time {
                offset = Some(mainstem_schemas::Offset(queue.entries.next));
            }
        }
        let mut head = mem::take(&mut self.scratch);
        encode_targets(&durable, &mut head);
        let position = self.plan(KIND_PUBLISH, &[&head, record.bytes()]);
        let size = FRAME_HEADER_BYTES + head.len() + record.bytes().len();
        self.scratch = head;
        let short = u32::try_from(size).unwrap_or(u32::MAX);
        self.state.apply_publish(position, short, &durable, record);
        for (id, _) in &durable {
            self.open.touched.push(*id);
        }
        for id in queues.iter().filter(|id| id.is_transient()) {
            if let Some(queue) = self.state.queues.get_mut(id) {
                let (expiry, appended) = (record.expiry(), record.appended());
                queue.push(Place { position, size: short, expiry, appended, flags: 0 });
                self.touch(*id);
            }
        }
        let kept = !durable.is_empty() || record.is_retain();
        if kept && record.is_durable() {
            self.open.needs_sync = true;
        }
        self.tail.push(position, record.clone(), self.written);
        (position, size, offset)
    }

    fn deliver_live(
        &mut self,
        client: ClientId,
        consumer: ConsumerId,
        options: u64,
        position: Position,
        size: u32,
        record: &Record,
    ) {
        let Some(member) = self.members.get_mut(&client) else { return };
        if !member.has_room() {
            self.counts.dropped += 1;
            return;
        }
        self.counts.delivered += 1;
        let delivery = Delivery {
            id: Delivery::NO_ID,
            consumer,
            options,
            position,
            attempt: 1,
            redelivered: false,
            needs_settle: false,
            record: Some(record.clone()),
            size,
        };
        self.notify(client, Notice::Delivery(delivery));
    }
}

/// A record that came by path enters at the root exchange with its whole path as the key, and at
/// the exchange its first segment names with the rest as the key.
fn route_path(space: &Namespace, path: &Path, headers: &dyn Fn() -> Table, queues: &mut Targets) {
    if let Some(root) = space.exchanges.get(ROOT_EXCHANGE)
        && !root.bindings.is_empty()
    {
        space.exchanges.route(root, &path.render(Dialect::Amqp), headers, queues);
    }
    let Some((first, rest)) = path.split_first(Dialect::Amqp) else { return };
    let named = std::str::from_utf8(first).ok().and_then(|name| space.exchanges.get(name));
    if let Some(exchange) = named
        && exchange.def.name != ROOT_EXCHANGE
        && !exchange.def.internal
    {
        space.exchanges.route(exchange, &rest, headers, queues);
    }
}

fn lossy(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
