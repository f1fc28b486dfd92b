//! What a log entry says, for people and for programs that look into a log.

use bytes::Bytes;
use mainstem_index::{CursorName, LANE_SHIFT, ParameterKey};
use mainstem_log::Frame;
use mainstem_schemas::{
    CursorId, Filter, Offset, Position, QueueId, Record, UnixMillis, wire::Reader,
};

use crate::{
    command::Bind,
    entry::{
        Carried, DeclaredQueue, Entry, EntryError, Head, KIND_HOLD, KIND_MOVE, KIND_PLACE,
        KIND_PUBLISH, Placed, Subscribed, carries_record, decode_carried, decode_record,
    },
    passage::{Passage, Reason},
    policy::{DeadLetter, DeliveryPolicy, Overflow, Policy},
    state,
    state::UNDECIDED,
};

/// A log entry in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// What happened, one of [`KINDS`].
    pub kind: &'static str,
    /// When, if the entry says so.
    pub time: Option<UnixMillis>,
    /// What it says, in reading order.
    pub fields: Vec<(&'static str, Field)>,
    /// The queue it gives a name to.
    pub names: Option<(QueueId, String)>,
}

/// One thing that an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    Number(u64),
    Text(String),
    Time(UnixMillis),
    Position(Position),
    Queue(QueueId),
    Cursor(CursorId),
    /// Queues, and the record's place in each.
    Places(Vec<(QueueId, Spot)>),
    /// Half-open ranges of places in a queue.
    Ranges(Vec<(Spot, Spot)>),
}

/// A place in a queue as people see it: which number within which priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    pub priority: u8,
    pub number: u64,
}

/// Every kind of entry in words.
pub const KINDS: [&str; 27] = [
    "publish",
    "hold",
    "move",
    "settle",
    "returned",
    "dead-letter",
    "release",
    "end-hold",
    "declare-queue",
    "delete-queue",
    "queue-image",
    "trim-queue",
    "declare-exchange",
    "delete-exchange",
    "bind",
    "unbind",
    "open-cursor",
    "close-cursor",
    "cursor-image",
    "session",
    "end-session",
    "subscribe",
    "unsubscribe",
    "writer",
    "set-parameter",
    "delete-parameter",
    "trimmed",
];

impl From<u64> for Spot {
    fn from(offset: u64) -> Self {
        let [priority, ..] = offset.to_be_bytes();
        Self { priority, number: offset & ((1 << LANE_SHIFT) - 1) }
    }
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.priority {
            0 => write!(f, "{}", self.number),
            priority => write!(f, "p{priority}.{}", self.number),
        }
    }
}

impl Described {
    /// Whether it is about this queue.
    #[must_use]
    pub fn is_about(&self, queue: QueueId) -> bool {
        self.fields.iter().any(|(_, field)| match field {
            Field::Queue(id) => *id == queue,
            Field::Places(places) => places.iter().any(|(id, _)| *id == queue),
            Field::Number(_)
            | Field::Text(_)
            | Field::Time(_)
            | Field::Position(_)
            | Field::Cursor(_)
            | Field::Ranges(_) => false,
        })
    }

    fn text(&mut self, name: &'static str, text: impl Into<String>) {
        self.fields.push((name, Field::Text(text.into())));
    }

    fn number(&mut self, name: &'static str, number: u64) {
        self.fields.push((name, Field::Number(number)));
    }

    fn time(&mut self, name: &'static str, time: UnixMillis) {
        if time.is_set() {
            self.fields.push((name, Field::Time(time)));
        }
    }

    fn position(&mut self, name: &'static str, position: Position) {
        self.fields.push((name, Field::Position(position)));
    }

    fn queue(&mut self, queue: QueueId) {
        self.fields.push(("queue", Field::Queue(queue)));
    }

    fn cursor(&mut self, cursor: CursorId) {
        self.fields.push(("cursor", Field::Cursor(cursor)));
    }

    /// Says it if it is so.
    fn mark(&mut self, name: &'static str, is_so: bool) {
        if is_so {
            self.text(name, "yes");
        }
    }
}

/// The kind of an entry in words, without most of the work of [`describe`].
pub(crate) fn kind_of(frame: &Frame) -> &'static str {
    match frame.kind {
        KIND_PUBLISH => "publish",
        2 => "settle",
        3 => "declare-exchange",
        4 => "delete-exchange",
        5 => "declare-queue",
        6 => "delete-queue",
        7 => "bind",
        8 => "unbind",
        9 => "trim-queue",
        10 => "open-cursor",
        11 => "close-cursor",
        12 => "session",
        13 => "end-session",
        14 => "subscribe",
        15 => "unsubscribe",
        16 => "returned",
        KIND_HOLD => "hold",
        KIND_PLACE => {
            Placed::decode(Reader::new(frame.body.clone())).map_or("?", |p| kind_placed(&p))
        }
        KIND_MOVE => "move",
        20 => "queue-image",
        21 => "cursor-image",
        22 => "trimmed",
        23 => "writer",
        24 => "set-parameter",
        25 => "delete-parameter",
        _ => "?",
    }
}

/// When the entry was made, if it says so.
pub(crate) fn time_of(frame: &Frame) -> Option<UnixMillis> {
    let time = if carries_record(frame.kind) {
        decode_record(frame.body.clone()).ok()?.appended()
    } else if frame.kind == KIND_PLACE {
        Placed::decode(Reader::new(frame.body.clone())).ok()?.appended
    } else {
        UnixMillis::NONE
    };
    time.is_set().then_some(time)
}

/// What an entry says. Errors: why its body makes no sense.
pub(crate) fn describe(position: Position, frame: &Frame) -> Result<Described, String> {
    describe_entry(position, frame).map_err(|error| error.to_string())
}

fn describe_entry(position: Position, frame: &Frame) -> Result<Described, EntryError> {
    let time = time_of(frame);
    let mut out = Described { kind: kind_of(frame), time, ..Described::default() };
    if carries_record(frame.kind) {
        say_carried(&mut out, &decode_carried(frame.body.clone())?);
    } else {
        say(&mut out, position, Entry::decode(frame.kind, frame.body.clone())?)?;
    }
    Ok(out)
}

fn say_carried(out: &mut Described, carried: &Carried) {
    let Carried { head, targets, record } = carried;
    say_record(out, record);
    let Head { once, keys, held, origin, from, seen, retained } = head;
    if let Some(once) = once {
        out.text("writer", once.writer.clone());
        out.number("sequence", once.sequence);
    }
    if !keys.is_empty() {
        out.number("keys", keys.len() as u64);
    }
    if *held == UNDECIDED {
        out.text("held", "for a decision");
    } else {
        out.time("held_until", *held);
    }
    if origin.0 != 0 {
        out.position("first_held_at", *origin);
    }
    if from.0 != 0 {
        out.position("moved_from", *from);
    }
    out.mark("seen", *seen);
    out.mark("still_retained", *retained);
    if !targets.is_empty() {
        out.fields.push(("to", places(targets)));
    }
}

fn say_record(out: &mut Described, record: &Record) {
    let address = record.address();
    out.text("namespace", record.namespace());
    out.text("address", lossy(&address.first));
    if !address.second.is_empty() {
        out.text("key", lossy(&address.second));
    }
    out.text("from", record.origin().name());
    out.number("bytes", record.data_len() as u64);
    out.text("id", record.id().to_string());
    out.mark("retain", record.is_retain());
    if record.priority() > 0 {
        out.number("priority", u64::from(record.priority()));
    }
    out.time("expires", record.expiry());
    out.time("deliver_at", record.deliver_at());
}

fn say(out: &mut Described, position: Position, entry: Entry) -> Result<(), EntryError> {
    match entry {
        Entry::Settle(settled) => {
            for one in settled {
                out.queue(one.queue);
                say_cursor(out, one.cursor);
                let ranges = one.ranges.iter().map(|(from, to)| ((*from).into(), (*to).into()));
                out.fields.push(("done", Field::Ranges(ranges.collect())));
            }
        }
        Entry::DeclareExchange { namespace, def } => {
            out.text("namespace", namespace);
            out.text("exchange", def.name);
            out.text("type", format!("{:?}", def.kind).to_lowercase());
            out.mark("auto_delete", def.auto_delete);
            out.mark("internal", def.internal);
            say_arguments(out, &def.arguments);
        }
        Entry::DeleteExchange { namespace, name } => {
            out.text("namespace", namespace);
            out.text("exchange", name);
        }
        Entry::DeclareQueue(declared) => say_queue(out, QueueId(position.0), &declared),
        Entry::DeleteQueue { queue } => out.queue(queue),
        Entry::Bind { namespace, bind } | Entry::Unbind { namespace, bind } => {
            say_binding(out, namespace, &bind);
        }
        Entry::Trim { queue, below } => {
            out.queue(queue);
            out.text("below", Spot::from(below.0).to_string());
        }
        Entry::OpenCursor { queue, name, start, policy } => {
            out.queue(queue);
            out.cursor(CursorId(position.0));
            say_cursor_name(out, &name);
            out.text("start", Spot::from(start.0).to_string());
            say_delivery(out, &policy);
        }
        Entry::CloseCursor { queue, cursor } => {
            out.queue(queue);
            say_cursor(out, cursor);
        }
        other => say_more(out, other)?,
    }
    Ok(())
}

fn say_more(out: &mut Described, entry: Entry) -> Result<(), EntryError> {
    match entry {
        Entry::Session { namespace, id, expiry_s, detached } => {
            out.text("namespace", namespace);
            out.text("session", id);
            match expiry_s {
                u32::MAX => out.text("kept", "for ever"),
                seconds => out.number("kept_s", u64::from(seconds)),
            }
            out.time("detached", detached);
        }
        Entry::EndSession { namespace, id } => {
            out.text("namespace", namespace);
            out.text("session", id);
        }
        Entry::Subscribe(subscribed) => {
            let Subscribed { namespace, session, share, filter, queue, cursor, .. } = subscribed;
            say_subscription(out, (namespace, session, share), &filter);
            out.queue(queue);
            say_cursor(out, cursor);
        }
        Entry::Unsubscribe { namespace, session, share, filter } => {
            say_subscription(out, (namespace, session, share), &filter);
        }
        Entry::Returned { queue, cursor, records } => {
            out.queue(queue);
            say_cursor(out, cursor);
            for (offset, returned) in records {
                out.text("record", Spot::from(offset).to_string());
                out.number("attempts", u64::from(returned.attempts));
                out.time("rests_until", returned.until);
            }
        }
        Entry::Place(placed) => say_placed(out, &placed)?,
        Entry::QueueImage { queue, lanes, declared } => {
            say_queue(out, queue, &declared);
            let bounds = |lane: &mainstem_index::LaneState| (spot(lane.first), spot(lane.next));
            out.fields.push(("holds", Field::Ranges(lanes.iter().map(bounds).collect())));
        }
        Entry::CursorImage { queue, cursor, name, floors, policy } => {
            out.queue(queue);
            say_cursor(out, cursor);
            say_cursor_name(out, &name);
            for floor in floors {
                out.text("floor", spot(floor).to_string());
            }
            say_delivery(out, &policy);
        }
        Entry::Trimmed { below } => out.position("below", below),
        Entry::Writer { namespace, writer, sequence, seen } => {
            out.text("namespace", namespace);
            out.text("writer", writer);
            out.number("sequence", sequence);
            out.time("seen", seen);
        }
        Entry::SetParameter { key, value } => {
            say_parameter(out, key);
            say_arguments(out, &value);
        }
        Entry::DeleteParameter { key } => say_parameter(out, key),
        _ => unreachable!("`say` keeps every other entry"),
    }
    Ok(())
}

fn kind_placed(placed: &Placed) -> &'static str {
    match (placed.passage.is_empty(), placed.targets.is_empty()) {
        (false, _) => "dead-letter",
        (true, false) => "release",
        (true, true) => "end-hold",
    }
}

fn say_placed(out: &mut Described, placed: &Placed) -> Result<(), EntryError> {
    if !placed.passage.is_empty() {
        let passage = Passage::of(placed)?;
        if let Some(death) = passage.deaths.first() {
            out.text("died_in", death.queue.clone());
            out.text("reason", reason(death.reason));
            out.number("times", death.count);
        }
        out.text("address", lossy(&passage.address.first));
        if !passage.address.second.is_empty() {
            out.text("key", lossy(&passage.address.second));
        }
    }
    out.position("body", placed.source);
    out.number("size", u64::from(placed.size));
    out.number("body_bytes", u64::from(placed.body));
    if placed.held.is_set() && placed.held.0 != u64::MAX {
        out.time("held_until", placed.held);
    }
    out.time("expires", placed.expiry);
    out.mark("seen", placed.flags & state::SEEN != 0);
    if !placed.targets.is_empty() {
        out.fields.push(("to", places(&placed.targets)));
    }
    Ok(())
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Rejected => "rejected",
        Reason::Expired => "expired",
        Reason::Overflow => "overflow",
        Reason::Attempts => "attempts",
    }
}

fn say_queue(out: &mut Described, queue: QueueId, declared: &DeclaredQueue) {
    let (found, shown) = state::show(&declared.name);
    out.queue(queue);
    out.text("namespace", declared.namespace.clone());
    out.text(
        "keeps",
        match found {
            crate::queue::Found::ByName => "what is routed to it",
            crate::queue::Found::ByFilter(_) => "what a filter wants",
            crate::queue::Found::AsTopic => "a topic",
        },
    );
    out.text(
        "until",
        match declared.retention {
            crate::Retention::Unsettled => "it is settled",
            crate::Retention::Cursors => "every cursor is past it",
            crate::Retention::Time => "its time is over",
        },
    );
    out.mark("auto_delete", declared.auto_delete);
    say_policy(out, &declared.policy);
    say_arguments(out, &declared.arguments);
    out.names = Some((queue, shown));
}

fn say_policy(out: &mut Described, policy: &Policy) {
    for (name, bound) in [
        ("ttl_ms", policy.ttl_ms),
        ("expires_ms", policy.expires_ms),
        ("len_max", policy.len_max),
        ("bytes_max", policy.bytes_max),
        ("age_max_ms", policy.age_max_ms),
        ("settle_max_ms", policy.settle_max_ms),
    ] {
        if let Some(bound) = bound {
            out.number(name, bound);
        }
    }
    match policy.overflow {
        Overflow::DropHead => {}
        Overflow::Refuse => out.text("overflow", "refuse"),
        Overflow::RefuseDeadLetter => out.text("overflow", "refuse and dead-letter"),
    }
    if policy.priority_max > 0 {
        out.number("priority_max", u64::from(policy.priority_max));
    }
    say_delivery(out, &policy.delivery);
}

fn say_delivery(out: &mut Described, policy: &DeliveryPolicy) {
    match &policy.dead_letter {
        None => {}
        Some(DeadLetter::Exchange { name, key }) => {
            out.text("dead_letter_exchange", name.clone());
            if let Some(key) = key {
                out.text("dead_letter_key", lossy(key));
            }
        }
        Some(DeadLetter::Topic(topic)) => out.text("dead_letter_topic", topic.clone()),
    }
    if let Some(attempts) = policy.attempts_max {
        out.number("attempts_max", u64::from(attempts));
    }
    out.mark("single_active", policy.single_active);
    out.mark("batched", policy.batched);
    out.mark("ordered", policy.ordered);
    if !policy.backoff_ms.is_empty() {
        out.text("backoff_ms", format!("{:?}", policy.backoff_ms));
    }
}

fn say_parameter(out: &mut Described, key: ParameterKey) {
    out.text("namespace", key.namespace);
    out.text("component", key.component);
    out.text("name", key.name);
}

fn say_binding(out: &mut Described, namespace: String, bind: &Bind) {
    out.text("namespace", namespace);
    out.text("exchange", bind.source.clone());
    out.text(if bind.to_exchange { "to_exchange" } else { "to_queue" }, bind.destination.clone());
    out.text("key", lossy(&bind.key));
    say_arguments(out, &bind.arguments);
}

fn say_subscription(
    out: &mut Described,
    (namespace, session, share): (String, String, Option<String>),
    filter: &Filter,
) {
    out.text("namespace", namespace);
    out.text("session", session);
    if let Some(share) = share {
        out.text("share", share);
    }
    out.text("filter", lossy(&filter.render()));
}

fn say_arguments(out: &mut Described, arguments: &mainstem_schemas::Table) {
    if !arguments.is_empty() {
        let names: Vec<_> = arguments.iter().map(|(name, _)| name.as_str()).collect();
        out.text("arguments", names.join(" "));
    }
}

fn say_cursor(out: &mut Described, cursor: CursorId) {
    if cursor != CursorId::MAIN {
        out.cursor(cursor);
    }
}

fn say_cursor_name(out: &mut Described, name: &CursorName) {
    match name {
        CursorName::Main => {}
        CursorName::Session(id) => out.text("session", id.clone()),
        CursorName::Share(share) => out.text("share", share.clone()),
        CursorName::Group(group) => out.text("group", group.clone()),
    }
}

fn places(targets: &[(QueueId, u64)]) -> Field {
    Field::Places(targets.iter().map(|(queue, offset)| (*queue, Spot::from(*offset))).collect())
}

fn spot(offset: Offset) -> Spot {
    offset.0.into()
}

fn lossy(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
