//! From the inbox to PUBLISH packets: merge, window, encode, settle.

use std::collections::{HashMap, VecDeque};

use bytes::BytesMut;
use mainstem_broker::{Broker, Delivery, Notice};
use mainstem_schemas::{
    Address, Dialect, Filter, Origin, Position, Record, RecordId, Settlement, UnixMillis, Verdict,
};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::{SmallVec, smallvec};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    connection::{Connection, End},
    statistics,
};
use crate::{
    codec::{
        Fault, Outgoing, OutgoingProperties, Qos, Reason, Reply, Version, publish::TooLarge,
        reply::Ears,
    },
    normalize::{Foreign, expiry_left_s, native_properties, outgoing::count_dropped},
    session::{Aliases, Copy, Options, aliases::Naming},
};

/// Positions remembered while retained messages are sent, to not send one twice.
const SEEN_MAX: usize = 4096;
/// Messages above QoS 0 that are noted and sent at a time.
const FLIGHTS_MAX: usize = 1024;

/// Where a subscription's retained messages are.
#[derive(Debug)]
struct Search {
    filter: Filter,
    options: Options,
    places: VecDeque<(Position, u32)>,
}

/// Retained messages that new subscriptions still wait for.
#[derive(Debug, Default)]
pub(super) struct Retained {
    /// What is being sent: places of one subscription.
    search: Option<Search>,
    /// Those whose turn comes, each once, however often it was asked for: the places are looked up
    /// then, so that only one subscription's are held at a time.
    waiting: VecDeque<Filter>,
    wanted: HashMap<Filter, Options>,
    /// Records that came live since: their retained copies would come twice.
    seen: FxHashSet<Position>,
}

impl Retained {
    pub(super) fn add(&mut self, filter: &Filter, options: Options) {
        if self.wanted.insert(filter.clone(), options).is_none() {
            self.waiting.push_back(filter.clone());
        }
    }

    /// The subscription ended ([MQTT-3.10.4-2]).
    pub(super) fn remove(&mut self, filter: &Filter) {
        if self.wanted.remove(filter).is_some() {
            self.waiting.retain(|waiting| waiting != filter);
        }
        self.search.take_if(|search| search.filter == *filter);
        self.forget_seen();
    }

    fn is_idle(&self) -> bool {
        self.search.is_none() && self.waiting.is_empty()
    }

    fn forget_seen(&mut self) {
        if self.is_idle() {
            self.seen.clear();
        }
    }

    fn see(&mut self, position: Position) {
        if !self.is_idle() && position.0 != 0 && self.seen.len() < SEEN_MAX {
            self.seen.insert(position);
        }
    }

    /// The options of the subscription whose turn it is.
    fn current(&self) -> Option<Options> {
        match &self.search {
            Some(search) => Some(search.options),
            None => self.wanted.get(self.waiting.front()?).copied(),
        }
    }

    /// The subscription whose places are to be looked up, if it is time for that.
    fn next_search(&mut self) -> Option<(Filter, Options)> {
        if self.search.is_some() {
            return None;
        }
        let filter = self.waiting.pop_front()?;
        let options = self.wanted.remove(&filter)?;
        Some((filter, options))
    }

    /// The next places to read, all for one subscription: at most `max`, and no more after
    /// `bytes_max`.
    fn next(&mut self, max: usize, bytes_max: usize) -> Option<(Options, Vec<(Position, u32)>)> {
        let Search { options, places, .. } = self.search.as_mut()?;
        let options = *options;
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while chunk.len() < max && bytes < bytes_max {
            let Some((position, size)) = places.pop_front() else { break };
            if !self.seen.contains(&position) {
                chunk.push((position, size));
                bytes += size as usize;
            }
        }
        if places.is_empty() {
            self.search = None;
        }
        self.forget_seen();
        Some((options, chunk))
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Acts on everything the inbox had.
    pub(super) async fn on_inbox(&mut self) -> Result<(), End> {
        let mut deliveries = Vec::with_capacity(self.notices.len());
        let mut turn = Ok(());
        for notice in self.notices.drain(..) {
            match notice {
                Notice::Delivery(delivery) => deliveries.push(delivery),
                Notice::Cancelled(consumer) => self.queues.forget(consumer),
                // The session's next holder came by another listener.
                Notice::TakenOver => turn = Err(End::TakenOver { clean: false }),
                Notice::Closing => turn = Err(End::Closing),
                // A refused publish says it to those whom it concerns.
                Notice::Blocked | Notice::Unblocked => {}
            }
        }
        if turn.is_ok() {
            self.client.resolve(&mut deliveries).await.map_err(|_| End::Closing)?;
            self.deliver(deliveries).await?;
        } else {
            self.give_back(&deliveries);
        }
        turn
    }

    /// Deliveries that the client will not see on this connection.
    pub(super) fn give_back(&mut self, deliveries: &[Delivery]) {
        let unread = deliveries.iter().filter(|delivery| delivery.needs_settle);
        let verdict = Verdict::Unread;
        self.settlements.extend(unread.map(|delivery| Settlement { id: delivery.id, verdict }));
    }

    async fn deliver(&mut self, deliveries: Vec<Delivery>) -> Result<(), End> {
        let now = self.server.broker.now();
        let mut copies: Vec<Copy> = Vec::with_capacity(deliveries.len());
        // With one subscription no record can come twice.
        let merges = self.subscriptions > 1;
        let mut places: FxHashMap<(RecordId, Option<Address>), usize> = FxHashMap::default();
        for delivery in deliveries {
            if let (None, Some(retained)) = (&delivery.passage, &mut self.retained) {
                retained.see(delivery.position);
            }
            let options = Options::unpack(delivery.options);
            if options.shared && !self.may_have(&delivery) {
                // The others of its group get it once this one is gone.
                let text = "the client may not have what its group gets any more";
                return Err(End::Fault(Fault::new(Reason::NOT_AUTHORIZED, text)));
            }
            let Some(copy) = self.copy_of(&delivery, options, now) else {
                if delivery.needs_settle {
                    self.settle(smallvec![delivery.id], Verdict::Accept);
                }
                continue;
            };
            if merges && !copy.competing && !self.session.outbound.was_alone(&copy) {
                // A dead letter is a message of its own, and another one at each address.
                let of = (copy.record.id(), copy.again.clone());
                let place = *places.entry(of).or_insert(copies.len());
                if let Some(first) = copies.get_mut(place) {
                    first.merge(copy);
                    continue;
                }
            }
            copies.push(copy);
        }
        self.dispatch(copies, now).await
    }

    /// The copy for a delivery; `None` for one that the client shall not get.
    fn may_have(&self, delivery: &Delivery) -> bool {
        let again = delivery.passage.as_ref().map(|passage| &passage.address);
        delivery.record.as_ref().is_none_or(|record| self.client.may_see(record, again))
    }

    fn copy_of(&self, delivery: &Delivery, options: Options, now: UnixMillis) -> Option<Copy> {
        // Whoever published to a mark of ours, it is none of the client's subscriptions.
        let record = delivery.record.clone().filter(|_| !options.mark)?;
        let again = delivery.passage.as_ref().map(|passage| passage.address.clone());
        // Who published a dead letter again asked nobody to retain it.
        let retain = options.retain_as_published && record.is_retain() && again.is_none();
        let mut copy = self.copy_of_record(record, again, (options, retain), now)?;
        if delivery.needs_settle {
            copy.deliveries.push(delivery.id);
        }
        Some(copy)
    }

    fn copy_of_record(
        &self,
        record: Record,
        again: Option<Address>,
        (options, retain): (Options, bool),
        now: UnixMillis,
    ) -> Option<Copy> {
        let is_own = options.no_local && record.publisher() == self.identity.publisher;
        let published = Qos::from_bits(record.qos()).unwrap_or(Qos::ExactlyOnce);
        let copy = Copy {
            qos: published.min(options.granted),
            retain,
            subscription_ids: options.subscription_id.into_iter().collect(),
            deliveries: SmallVec::new(),
            competing: options.shared || options.queue,
            record,
            again,
        };
        // [MQTT-3.3.2-5]: not started yet, so it need not be.
        let is_over = copy.expiry().reached(now);
        // What a group or a queue has was asked about when it was subscribed to.
        let is_seen = copy.competing || self.client.may_see(&copy.record, copy.again.as_ref());
        (!is_own && !is_over && is_seen).then_some(copy)
    }

    /// Sends copies in their order, as far as the client takes them.
    async fn dispatch(&mut self, copies: Vec<Copy>, now: UnixMillis) -> Result<(), End> {
        for copy in copies {
            if copy.qos == Qos::AtMostOnce {
                // At once where possible, so that it does not overtake without need.
                self.send_waiting_at(now).await?;
                self.send_at_most_once(copy, now);
            } else {
                let had = self.session.outbound.push(copy);
                self.settle(had, Verdict::Accept);
            }
        }
        self.send_waiting_at(now).await
    }

    fn send_at_most_once(&mut self, copy: Copy, now: UnixMillis) {
        let stance = Stance { packet_id: 0, dup: false, now };
        let aliases = &mut self.aliases;
        let broker = &self.server.broker;
        if write(&copy, stance, (&self.ears, aliases), broker, &mut self.output).is_ok() {
            self.publishes_sent += 1;
        } else {
            statistics::count(&self.server.statistics.publishes_dropped, 1);
            tracing::info!(
                client = self.identity.client_id,
                "a message is too large for its client"
            );
        }
        self.settle(copy.deliveries, Verdict::Accept);
    }

    /// Sends what waits for the client's receive maximum, as far as there is room.
    pub(super) async fn send_waiting(&mut self) -> Result<(), End> {
        if !self.session.outbound.has_waiting() {
            return Ok(());
        }
        self.send_waiting_at(self.server.broker.now()).await
    }

    async fn send_waiting_at(&mut self, now: UnixMillis) -> Result<(), End> {
        let write_bytes_max = self.server.limits.write_bytes_max;
        while self.output.len() < write_bytes_max {
            let (mut flights, mut notes) = (Vec::new(), Vec::new());
            let mut bytes = self.output.len();
            while bytes < write_bytes_max && flights.len() < FLIGHTS_MAX {
                let Some((flight, dup)) = self.session.outbound.next_to_send() else { break };
                let packet_id = flight.packet_id;
                bytes += flight.copy.as_ref().map_or(0, |copy| copy.record.data_len());
                flights.push((packet_id, dup));
                notes.extend(self.session.outbound.take_note(packet_id));
            }
            if flights.is_empty() {
                break;
            }
            let runs = self.session.outbound.take_begun_runs();
            if !notes.is_empty() || !runs.is_empty() {
                Box::pin(self.note(notes, runs)).await?;
            }
            for (packet_id, dup) in flights {
                self.send_flight(Stance { packet_id, dup, now });
            }
        }
        Ok(())
    }

    fn send_flight(&mut self, stance: Stance) {
        let packet_id = stance.packet_id;
        let Some(flight) = self.session.outbound.flight(packet_id) else { return };
        let Some(copy) = &flight.copy else {
            return self.send(&Reply::PubRel { packet_id, reason: Reason::SUCCESS });
        };
        let ears = (&self.ears, &mut self.aliases);
        let counts = &self.server.statistics;
        if write(copy, stance, ears, &self.server.broker, &mut self.output).is_ok() {
            self.publishes_sent += 1;
        } else {
            statistics::count(&counts.publishes_dropped, 1);
            // [MQTT-3.1.2-25]: as if the client had completed it.
            let deliveries = self.session.outbound.abandon(packet_id);
            self.settle(deliveries, Verdict::Accept);
        }
    }

    /// Whether retained messages wait and the client takes some now.
    pub(super) fn retained_ready(&self) -> bool {
        let waiting = self.retained.as_ref().and_then(|retained| retained.current());
        let Some(options) = waiting else { return false };
        options.granted == Qos::AtMostOnce || self.session.outbound.room() > 0
    }

    /// Sends the next few retained messages, with RETAIN ([MQTT-3.3.1-8]).
    pub(super) async fn send_retained(&mut self) -> Result<(), End> {
        let Some(retained) = &mut self.retained else { return Ok(()) };
        if let Some((filter, options)) = retained.next_search() {
            let places = self.client.retained(filter.clone()).await.map_err(|_| End::Closing)?;
            retained.search = Some(Search { filter, options, places: places.into() });
        }
        let Some(options) = retained.current() else { return Ok(()) };
        let mut max = self.server.limits.retained_chunk;
        if options.granted != Qos::AtMostOnce {
            max = max.min(self.session.outbound.room());
        }
        let write_bytes_max = self.server.limits.write_bytes_max;
        let Some((options, places)) = retained.next(max.max(1), write_bytes_max) else {
            return Ok(());
        };
        self.retained.take_if(|retained| retained.is_idle());
        let records = self.client.read(places).await.map_err(|_| End::Closing)?;
        let now = self.server.broker.now();
        // What cannot be read any more was replaced meanwhile, or is damaged and was named.
        let records = records.into_iter().flatten();
        let copies =
            records.filter_map(|record| self.copy_of_record(record, None, (options, true), now));
        let copies = copies.collect();
        self.dispatch(copies, now).await
    }
}

impl Copy {
    /// Where it was published the last time.
    fn address(&self) -> Address {
        self.again.clone().unwrap_or_else(|| self.record.address())
    }

    /// When it is over.
    fn expiry(&self) -> UnixMillis {
        if self.again.is_some() { UnixMillis::NONE } else { self.record.expiry() }
    }

    /// Takes in another subscription's copy of the same record ([MQTT-3.3.4-2], [MQTT-3.3.4-4]).
    fn merge(&mut self, other: Self) {
        self.qos = self.qos.max(other.qos);
        self.retain |= other.retain;
        self.subscription_ids.extend(other.subscription_ids);
        self.deliveries.extend(other.deliveries);
    }
}

/// What differs between two sendings of one message.
#[derive(Clone, Copy)]
struct Stance {
    packet_id: u16,
    dup: bool,
    now: UnixMillis,
}

/// Appends the PUBLISH for a copy, or nothing when the client cannot take it.
fn write(
    copy: &Copy,
    stance: Stance,
    (ears, aliases): (&Ears, &mut Aliases),
    broker: &Broker,
    out: &mut BytesMut,
) -> Result<(), TooLarge> {
    let record = &copy.record;
    if record.origin() == Origin::Mqtt {
        let again = copy.again.as_ref().map(|address| address.path().render(Dialect::Mqtt));
        let topic = again.as_deref().unwrap_or_else(|| record.first_bytes());
        if topic.is_empty() {
            // A dead letter went to the root exchange without a key.
            count_dropped("address", record.origin());
            return Err(TooLarge);
        }
        let native = native_properties(record.native_bytes());
        return put(copy, stance, (ears, aliases), (topic, native, record.data_bytes()), out);
    }
    let view = broker.view(record);
    let address = copy.address();
    let mut foreign = Foreign::new(record, &address, &view, true);
    if foreign.topic.is_empty() {
        // An AMQP message to the root exchange without a key has no topic.
        count_dropped("address", record.origin());
        return Err(TooLarge);
    }
    let message = (&foreign.topic[..], &foreign.native[..], &foreign.payload[..]);
    let first = put(copy, stance, (ears, aliases), message, out);
    if first.is_ok() || ears.version != Version::V5 || view.props.is_empty() {
        return first;
    }
    foreign = Foreign::new(record, &address, &view, false);
    let message = (&foreign.topic[..], &foreign.native[..], &foreign.payload[..]);
    put(copy, stance, (ears, aliases), message, out)
}

fn put(
    copy: &Copy,
    stance: Stance,
    (ears, aliases): (&Ears, &mut Aliases),
    (topic, native, payload): (&[u8], &[u8], &[u8]),
    out: &mut BytesMut,
) -> Result<(), TooLarge> {
    let naming = aliases.name(topic);
    let (name, topic_alias): (&[u8], _) = match naming {
        Naming::Full => (topic, None),
        Naming::First(alias) => (topic, Some(alias)),
        Naming::Alias(alias) => (&[], Some(alias)),
    };
    let outgoing = Outgoing {
        dup: stance.dup,
        qos: copy.qos,
        retain: copy.retain,
        topic: name,
        packet_id: stance.packet_id,
        properties: OutgoingProperties {
            native,
            expiry_s: expiry_left_s(copy.expiry(), stance.now),
            topic_alias,
            subscription_ids: &copy.subscription_ids,
        },
        payload,
    };
    outgoing.encode(ears.version, ears.packet_bytes_max, out)?;
    aliases.sent(topic, naming);
    Ok(())
}
