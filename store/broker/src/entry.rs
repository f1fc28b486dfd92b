//! The entries of the log: everything durable that ever happened, in the order it happened.
//!
//! An entry's kind is in its frame; its body is drawn above each variant. Varints are unsigned
//! LEB128, texts and blobs stand behind a varint length. Persisted: never renumber a kind.

use bytes::{BufMut, Bytes};
use mainstem_index::{CursorName, LaneState, ParameterKey, QueueName};
use mainstem_schemas::{
    CursorId, Filter, Offset, Position, QueueId, RecordError, Table, UnixMillis,
    value::{decode_table, encode_table},
    wire::{Reader, Short, put_blob, put_varint},
};

use crate::{
    command::{Bind, ExchangeDef, ExchangeKind, Retention},
    cursor::Returned,
    policy::{DeliveryPolicy, Policy},
    ranges::Spans,
};

mod body;
mod name;
mod placed;

pub(crate) use body::{
    Carried, Head, KIND_HOLD, KIND_MOVE, KIND_PUBLISH, Once, carries_record, decode_carried,
    decode_record, encode_head, names_writer,
};
pub(crate) use placed::Placed;

use name::{
    decode_cursor_name, decode_queue_name, decode_subscription, encode_cursor_name,
    encode_queue_name, encode_subscription,
};

/// A durable change that is not a publish.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// 2: `(varint queue, varint cursor, varint n, n * (varint from, varint len))*`, half-open
    /// ranges of offsets that a cursor is done with.
    Settle(Vec<Settled>),
    /// 3: `text namespace | text name | u8 kind | u8 flags | table`.
    DeclareExchange { namespace: String, def: ExchangeDef },
    /// 4: `text namespace | text name`.
    DeleteExchange { namespace: String, name: String },
    /// 5: `text namespace | u8 name kind | name | u8 auto_delete | u8 retention | blob policy |
    /// table`. The queue's id is the entry's position.
    DeclareQueue(DeclaredQueue),
    /// 6: `varint queue`.
    DeleteQueue { queue: QueueId },
    /// 7: `text namespace | text source | u8 to_exchange | text destination | blob key | table`.
    Bind { namespace: String, bind: Bind },
    /// 8: as 7.
    Unbind { namespace: String, bind: Bind },
    /// 9: `varint queue | varint below`: the queue forgets what is before this offset.
    Trim { queue: QueueId, below: Offset },
    /// 10: `varint queue | u8 name kind | text name | varint start | policy`. The cursor's id is
    /// the entry's position.
    OpenCursor { queue: QueueId, name: CursorName, start: Offset, policy: DeliveryPolicy },
    /// 11: `varint queue | varint cursor`.
    CloseCursor { queue: QueueId, cursor: CursorId },
    /// 12: `text namespace | text id | varint expiry_s | varint detached`.
    Session { namespace: String, id: String, expiry_s: u32, detached: UnixMillis },
    /// 13: `text namespace | text id`. Its subscriptions go with it; cursors have entries of
    /// their own.
    EndSession { namespace: String, id: String },
    /// 14: `text namespace | text session | u8 shared | text share | filter | varint options |
    /// u8 live | varint queue | varint cursor`.
    Subscribe(Subscribed),
    /// 15: `text namespace | text session | u8 shared | text share | filter`.
    Unsubscribe { namespace: String, session: String, share: Option<String>, filter: Filter },
    /// 16: `varint queue | varint cursor | (varint offset, varint attempts, varint until)*`:
    /// records that came back.
    Returned { queue: QueueId, cursor: CursorId, records: Vec<(u64, Returned)> },
    /// 18: a body that is in the log already comes to queues; drawn at [`Placed`].
    Place(Placed),
    /// 20: `varint queue | varint n | n * (varint first, varint next) | as 5`: all of a queue but
    /// its entries and cursors, stated again because the log's beginning goes.
    QueueImage { queue: QueueId, lanes: Vec<LaneState>, declared: DeclaredQueue },
    /// 21: `varint queue | varint cursor | u8 name kind | text name | varint n | n * varint floor |
    /// policy`: a cursor, stated again. What it settled above its floors follows as 2, what
    /// came back as 16. It stands for everything the cursor went through before.
    CursorImage {
        queue: QueueId,
        cursor: CursorId,
        name: CursorName,
        floors: Vec<Offset>,
        policy: DeliveryPolicy,
    },
    /// 22: `varint below`: the log needs nothing before this position any more.
    Trimmed { below: Position },
    /// 23: `text namespace | text writer | varint sequence | varint seen`: stated again.
    Writer { namespace: String, writer: String, sequence: u64, seen: UnixMillis },
    /// 24: `text namespace | text component | text name | table`: a setting that is kept with the
    /// data, or its new value.
    SetParameter { key: ParameterKey, value: Table },
    /// 25: `text namespace | text component | text name`.
    DeleteParameter { key: ParameterKey },
}

/// Offsets of one cursor that are settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) queue: QueueId,
    pub(crate) cursor: CursorId,
    pub(crate) ranges: Spans,
}

/// A queue's definition as logged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeclaredQueue {
    pub(crate) namespace: String,
    pub(crate) name: QueueName,
    pub(crate) auto_delete: bool,
    pub(crate) retention: Retention,
    pub(crate) policy: Policy,
    pub(crate) arguments: Table,
}

/// A session's subscription as logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscribed {
    pub(crate) namespace: String,
    pub(crate) session: String,
    pub(crate) share: Option<String>,
    pub(crate) filter: Filter,
    pub(crate) options: u64,
    pub(crate) live: bool,
    pub(crate) queue: QueueId,
    pub(crate) cursor: CursorId,
}

impl Retention {
    pub(crate) fn from_u8(value: u8) -> Option<Self> {
        [Self::Unsettled, Self::Cursors, Self::Time].into_iter().find(|r| *r as u8 == value)
    }
}

/// Why a log entry's body makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntryError {
    #[error("the entry's body ends too early or holds a value out of range")]
    Short,
    #[error("the entry has the unknown kind {0}")]
    Kind(u8),
    #[error("{0}")]
    Record(#[from] RecordError),
}

impl From<Short> for EntryError {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

impl Entry {
    /// The frame kind.
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Settle(_) => 2,
            Self::DeclareExchange { .. } => 3,
            Self::DeleteExchange { .. } => 4,
            Self::DeclareQueue(_) => 5,
            Self::DeleteQueue { .. } => 6,
            Self::Bind { .. } => 7,
            Self::Unbind { .. } => 8,
            Self::Trim { .. } => 9,
            Self::OpenCursor { .. } => 10,
            Self::CloseCursor { .. } => 11,
            Self::Session { .. } => 12,
            Self::EndSession { .. } => 13,
            Self::Subscribe(_) => 14,
            Self::Unsubscribe { .. } => 15,
            Self::Returned { .. } => 16,
            Self::Place(_) => KIND_PLACE,
            Self::QueueImage { .. } => 20,
            Self::CursorImage { .. } => 21,
            Self::Trimmed { .. } => 22,
            Self::Writer { .. } => 23,
            Self::SetParameter { .. } => 24,
            Self::DeleteParameter { .. } => 25,
        }
    }

    /// The frame body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let put_text = |out: &mut Vec<u8>, text: &str| put_blob(out, text.as_bytes());
        match self {
            Self::Settle(settled) => {
                for one in settled {
                    put_varint(&mut out, one.queue.0);
                    put_varint(&mut out, one.cursor.0);
                    put_varint(&mut out, one.ranges.len() as u64);
                    for (from, to) in &one.ranges {
                        put_varint(&mut out, *from);
                        put_varint(&mut out, to.saturating_sub(*from));
                    }
                }
            }
            Self::DeclareExchange { namespace, def } => {
                put_text(&mut out, namespace);
                put_text(&mut out, &def.name);
                out.put_u8(def.kind as u8);
                out.put_u8(u8::from(def.auto_delete) | u8::from(def.internal) << 1);
                encode_table(&def.arguments, &mut out);
            }
            Self::DeleteExchange { namespace, name } => {
                put_text(&mut out, namespace);
                put_text(&mut out, name);
            }
            Self::DeclareQueue(queue) => queue.encode(&mut out),
            Self::DeleteQueue { queue } => put_varint(&mut out, queue.0),
            Self::Bind { namespace, bind } | Self::Unbind { namespace, bind } => {
                put_text(&mut out, namespace);
                put_text(&mut out, &bind.source);
                out.put_u8(u8::from(bind.to_exchange));
                put_text(&mut out, &bind.destination);
                put_blob(&mut out, &bind.key);
                encode_table(&bind.arguments, &mut out);
            }
            Self::Trim { queue, below } => {
                put_varint(&mut out, queue.0);
                put_varint(&mut out, below.0);
            }
            Self::OpenCursor { queue, name, start, policy } => {
                put_varint(&mut out, queue.0);
                encode_cursor_name(name, &mut out);
                put_varint(&mut out, start.0);
                policy.encode(&mut out);
            }
            Self::CloseCursor { queue, cursor } => {
                put_varint(&mut out, queue.0);
                put_varint(&mut out, cursor.0);
            }
            Self::Session { namespace, id, expiry_s, detached } => {
                put_text(&mut out, namespace);
                put_text(&mut out, id);
                put_varint(&mut out, u64::from(*expiry_s));
                put_varint(&mut out, detached.0);
            }
            Self::EndSession { namespace, id } => {
                put_text(&mut out, namespace);
                put_text(&mut out, id);
            }
            Self::Subscribe(subscribed) => subscribed.encode(&mut out),
            Self::Unsubscribe { namespace, session, share, filter } => {
                encode_subscription(namespace, session, share.as_deref(), filter, &mut out);
            }
            _ => self.encode_restated(&mut out),
        }
        out
    }

    fn encode_restated(&self, out: &mut Vec<u8>) {
        match self {
            Self::Returned { queue, cursor, records } => {
                put_varint(out, queue.0);
                put_varint(out, cursor.0);
                for (offset, returned) in records {
                    put_varint(out, *offset);
                    put_varint(out, u64::from(returned.attempts));
                    put_varint(out, returned.until.0);
                }
            }
            Self::Place(placed) => placed.encode(out),
            Self::QueueImage { queue, lanes, declared } => {
                put_varint(out, queue.0);
                put_varint(out, lanes.len() as u64);
                for lane in lanes {
                    put_varint(out, lane.first.0);
                    put_varint(out, lane.next.0);
                }
                declared.encode(out);
            }
            Self::CursorImage { queue, cursor, name, floors, policy } => {
                put_varint(out, queue.0);
                put_varint(out, cursor.0);
                encode_cursor_name(name, out);
                put_varint(out, floors.len() as u64);
                for floor in floors {
                    put_varint(out, floor.0);
                }
                policy.encode(out);
            }
            Self::Trimmed { below } => put_varint(out, below.0),
            Self::Writer { namespace, writer, sequence, seen } => {
                put_blob(out, namespace.as_bytes());
                put_blob(out, writer.as_bytes());
                put_varint(out, *sequence);
                put_varint(out, seen.0);
            }
            Self::SetParameter { key, value } => {
                encode_parameter(key, out);
                encode_table(value, out);
            }
            Self::DeleteParameter { key } => encode_parameter(key, out),
            _ => unreachable!("`encode` keeps every other entry"),
        }
    }

    /// Reads an entry that is not a publish.
    pub(crate) fn decode(kind: u8, body: Bytes) -> Result<Self, EntryError> {
        let mut r = Reader::new(body);
        Ok(match kind {
            2 => Self::Settle(decode_settle(r)?),
            3 => {
                let (namespace, name) = (r.text()?, r.text()?);
                let kind = ExchangeKind::from_u8(r.u8()?).ok_or(EntryError::Short)?;
                let flags = r.u8()?;
                let def = ExchangeDef {
                    name,
                    kind,
                    durable: true,
                    auto_delete: flags & 1 != 0,
                    internal: flags & 2 != 0,
                    arguments: decode_table(r.rest())?,
                };
                Self::DeclareExchange { namespace, def }
            }
            4 => Self::DeleteExchange { namespace: r.text()?, name: r.text()? },
            5 => Self::DeclareQueue(DeclaredQueue::decode(r)?),
            6 => Self::DeleteQueue { queue: QueueId(r.varint()?) },
            7 => {
                let (namespace, bind) = decode_bind(r)?;
                Self::Bind { namespace, bind }
            }
            8 => {
                let (namespace, bind) = decode_bind(r)?;
                Self::Unbind { namespace, bind }
            }
            9 => Self::Trim { queue: QueueId(r.varint()?), below: Offset(r.varint()?) },
            10 => Self::OpenCursor {
                queue: QueueId(r.varint()?),
                name: decode_cursor_name(&mut r)?,
                start: Offset(r.varint()?),
                policy: DeliveryPolicy::decode(&mut r)?,
            },
            11 => Self::CloseCursor { queue: QueueId(r.varint()?), cursor: CursorId(r.varint()?) },
            12 => Self::Session {
                namespace: r.text()?,
                id: r.text()?,
                expiry_s: u32::try_from(r.varint()?).map_err(|_| EntryError::Short)?,
                detached: UnixMillis(r.varint()?),
            },
            13 => Self::EndSession { namespace: r.text()?, id: r.text()? },
            14 => Self::Subscribe(Subscribed::decode(&mut r)?),
            15 => {
                let (namespace, session, share, filter) = decode_subscription(&mut r)?;
                Self::Unsubscribe { namespace, session, share, filter }
            }
            _ => return Self::decode_restated(kind, r),
        })
    }

    fn decode_restated(kind: u8, mut r: Reader) -> Result<Self, EntryError> {
        Ok(match kind {
            16 => {
                let (queue, cursor) = (QueueId(r.varint()?), CursorId(r.varint()?));
                let mut records = Vec::new();
                while !r.is_empty() {
                    let offset = r.varint()?;
                    let attempts = u32::try_from(r.varint()?).map_err(|_| EntryError::Short)?;
                    records.push((offset, Returned { attempts, until: UnixMillis(r.varint()?) }));
                }
                Self::Returned { queue, cursor, records }
            }
            KIND_PLACE => Self::Place(Placed::decode(r)?),
            20 => {
                let queue = QueueId(r.varint()?);
                let mut lanes = Vec::new();
                for _ in 0..r.varint()? {
                    let (first, next) = (Offset(r.varint()?), Offset(r.varint()?));
                    lanes.push(LaneState { first, next });
                }
                Self::QueueImage { queue, lanes, declared: DeclaredQueue::decode(r)? }
            }
            21 => {
                let (queue, cursor) = (QueueId(r.varint()?), CursorId(r.varint()?));
                let name = decode_cursor_name(&mut r)?;
                let mut floors = Vec::new();
                for _ in 0..r.varint()? {
                    floors.push(Offset(r.varint()?));
                }
                let policy = DeliveryPolicy::decode(&mut r)?;
                Self::CursorImage { queue, cursor, name, floors, policy }
            }
            22 => Self::Trimmed { below: Position(r.varint()?) },
            23 => Self::Writer {
                namespace: r.text()?,
                writer: r.text()?,
                sequence: r.varint()?,
                seen: UnixMillis(r.varint()?),
            },
            24 => Self::SetParameter {
                key: decode_parameter(&mut r)?,
                value: decode_table(r.rest())?,
            },
            25 => Self::DeleteParameter { key: decode_parameter(&mut r)? },
            _ => return Err(EntryError::Kind(kind)),
        })
    }
}

/// The kind of a [`Placed`] entry.
pub(crate) const KIND_PLACE: u8 = 18;

impl DeclaredQueue {
    fn encode(&self, out: &mut Vec<u8>) {
        put_blob(out, self.namespace.as_bytes());
        encode_queue_name(&self.name, out);
        out.put_u8(u8::from(self.auto_delete));
        out.put_u8(self.retention as u8);
        let mut policy = Vec::new();
        self.policy.encode(&mut policy);
        put_blob(out, &policy);
        encode_table(&self.arguments, out);
    }

    fn decode(mut r: Reader) -> Result<Self, Short> {
        Ok(Self {
            namespace: r.text()?,
            name: decode_queue_name(&mut r)?,
            auto_delete: r.u8()? != 0,
            retention: Retention::from_u8(r.u8()?).ok_or(Short)?,
            policy: Policy::decode(r.blob()?)?,
            arguments: decode_table(r.rest())?,
        })
    }
}

impl Subscribed {
    fn encode(&self, out: &mut Vec<u8>) {
        let share = self.share.as_deref();
        encode_subscription(&self.namespace, &self.session, share, &self.filter, out);
        put_varint(out, self.options);
        out.put_u8(u8::from(self.live));
        put_varint(out, self.queue.0);
        put_varint(out, self.cursor.0);
    }

    fn decode(r: &mut Reader) -> Result<Self, Short> {
        let (namespace, session, share, filter) = decode_subscription(r)?;
        Ok(Self {
            namespace,
            session,
            share,
            filter,
            options: r.varint()?,
            live: r.u8()? != 0,
            queue: QueueId(r.varint()?),
            cursor: CursorId(r.varint()?),
        })
    }
}

fn decode_settle(mut r: Reader) -> Result<Vec<Settled>, Short> {
    let mut settled = Vec::new();
    while !r.is_empty() {
        let (queue, cursor) = (QueueId(r.varint()?), CursorId(r.varint()?));
        let count = r.varint()?;
        let mut ranges = Spans::new();
        for _ in 0..count {
            let from = r.varint()?;
            ranges.push((from, from.checked_add(r.varint()?).ok_or(Short)?));
        }
        settled.push(Settled { queue, cursor, ranges });
    }
    Ok(settled)
}

fn decode_bind(mut r: Reader) -> Result<(String, Bind), Short> {
    let namespace = r.text()?;
    let bind = Bind {
        source: r.text()?,
        to_exchange: r.u8()? != 0,
        destination: r.text()?,
        key: r.blob()?,
        arguments: decode_table(r.rest())?,
    };
    Ok((namespace, bind))
}

fn encode_parameter(key: &ParameterKey, out: &mut Vec<u8>) {
    for text in [&key.namespace, &key.component, &key.name] {
        put_blob(out, text.as_bytes());
    }
}

fn decode_parameter(r: &mut Reader) -> Result<ParameterKey, Short> {
    Ok(ParameterKey { namespace: r.text()?, component: r.text()?, name: r.text()? })
}
