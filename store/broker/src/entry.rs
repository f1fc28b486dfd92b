//! The entries of the log: everything durable that ever happened, in the order it happened.
//!
//! An entry's kind is in its frame; its body is drawn above each variant. Varints are unsigned
//! LEB128, texts and blobs stand behind a varint length. Persisted: never renumber a kind.

use bytes::{BufMut, Bytes};
use mainstem_index::{CursorName, QueueName};
use mainstem_schemas::{
    CursorId, Filter, Offset, QueueId, Record, RecordError, UnixMillis,
    value::{decode_table, encode_table},
    wire::{Reader, Short, put_blob, put_varint},
};

use crate::command::{Bind, ExchangeDef, ExchangeKind, Retention};

/// A published record and the places it got: `u32 targets_bytes | (varint queue, varint offset)*
/// | record`. Kept apart from [`Entry`] because it is the hot one.
pub(crate) const KIND_PUBLISH: u8 = 1;

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
    /// 5: `text namespace | u8 name kind | name | u8 auto_delete | u8 retention | table`. The
    /// queue's id is the entry's position.
    DeclareQueue(DeclaredQueue),
    /// 6: `varint queue`.
    DeleteQueue { queue: QueueId },
    /// 7: `text namespace | text source | u8 to_exchange | text destination | blob key | table`.
    Bind { namespace: String, bind: Bind },
    /// 8: as 7.
    Unbind { namespace: String, bind: Bind },
    /// 9: `varint queue | varint below`: the queue forgets what is before this offset.
    Trim { queue: QueueId, below: Offset },
    /// 10: `varint queue | u8 name kind | text name | varint start`. The cursor's id is the
    /// entry's position.
    OpenCursor { queue: QueueId, name: CursorName, start: Offset },
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
}

/// Offsets of one cursor that are settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) queue: QueueId,
    pub(crate) cursor: CursorId,
    pub(crate) ranges: Vec<(u64, u64)>,
}

/// A queue's definition as logged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeclaredQueue {
    pub(crate) namespace: String,
    pub(crate) name: QueueName,
    pub(crate) auto_delete: bool,
    pub(crate) retention: Retention,
    pub(crate) arguments: mainstem_schemas::Table,
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

impl ExchangeKind {
    pub(crate) fn from_u8(value: u8) -> Option<Self> {
        [Self::Direct, Self::Fanout, Self::Topic, Self::Headers]
            .into_iter()
            .find(|kind| *kind as u8 == value)
    }
}

/// The head of a publish entry's body, to be followed by the record's bytes.
pub(crate) fn encode_targets(targets: &[(QueueId, u64)], out: &mut Vec<u8>) {
    out.clear();
    out.put_u32_le(0);
    for (queue, offset) in targets {
        put_varint(out, queue.0);
        put_varint(out, *offset);
    }
    let len = u32::try_from(out.len().saturating_sub(4)).unwrap_or(u32::MAX);
    if let Some(head) = out.first_chunk_mut::<4>() {
        *head = len.to_le_bytes();
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

/// The record of a publish entry, without looking at its targets.
pub(crate) fn decode_record(body: Bytes) -> Result<Record, EntryError> {
    let mut reader = Reader::new(body);
    let targets = reader.u32()?;
    reader.take(targets as usize)?;
    Ok(Record::decode(reader.rest())?)
}

/// A publish entry's targets and record.
pub(crate) fn decode_publish(body: Bytes) -> Result<(Vec<(QueueId, u64)>, Record), EntryError> {
    let mut reader = Reader::new(body);
    let len = reader.u32()?;
    let mut head = Reader::new(reader.take(len as usize)?);
    let mut targets = Vec::new();
    while !head.is_empty() {
        targets.push((QueueId(head.varint()?), head.varint()?));
    }
    Ok((targets, Record::decode(reader.rest())?))
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
            Self::DeclareQueue(queue) => {
                put_text(&mut out, &queue.namespace);
                encode_queue_name(&queue.name, &mut out);
                out.put_u8(u8::from(queue.auto_delete));
                out.put_u8(queue.retention as u8);
                encode_table(&queue.arguments, &mut out);
            }
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
            Self::OpenCursor { queue, name, start } => {
                put_varint(&mut out, queue.0);
                encode_cursor_name(name, &mut out);
                put_varint(&mut out, start.0);
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
        }
        out
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
            5 => Self::DeclareQueue(DeclaredQueue {
                namespace: r.text()?,
                name: decode_queue_name(&mut r)?,
                auto_delete: r.u8()? != 0,
                retention: Retention::from_u8(r.u8()?).ok_or(EntryError::Short)?,
                arguments: decode_table(r.rest())?,
            }),
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
            _ => return Err(EntryError::Kind(kind)),
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
        let mut ranges = Vec::new();
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

fn encode_queue_name(name: &QueueName, out: &mut Vec<u8>) {
    match name {
        QueueName::Named(name) => {
            out.put_u8(0);
            put_blob(out, name.as_bytes());
        }
        QueueName::Filter(filter) => {
            out.put_u8(1);
            filter.encode(out);
        }
        QueueName::Topic(topic) => {
            out.put_u8(2);
            put_blob(out, topic.as_bytes());
        }
    }
}

fn decode_queue_name(r: &mut Reader) -> Result<QueueName, Short> {
    Ok(match r.u8()? {
        0 => QueueName::Named(r.text()?),
        1 => QueueName::Filter(Filter::decode(r)?),
        2 => QueueName::Topic(r.text()?),
        _ => return Err(Short),
    })
}

fn encode_cursor_name(name: &CursorName, out: &mut Vec<u8>) {
    let (tag, text) = match name {
        CursorName::Main => (0, ""),
        CursorName::Session(id) => (1, id.as_str()),
        CursorName::Share(group) => (2, group.as_str()),
        CursorName::Group(group) => (3, group.as_str()),
    };
    out.put_u8(tag);
    put_blob(out, text.as_bytes());
}

fn decode_cursor_name(r: &mut Reader) -> Result<CursorName, Short> {
    let tag = r.u8()?;
    let text = r.text()?;
    Ok(match tag {
        0 => CursorName::Main,
        1 => CursorName::Session(text),
        2 => CursorName::Share(text),
        3 => CursorName::Group(text),
        _ => return Err(Short),
    })
}

fn encode_subscription(
    namespace: &str,
    session: &str,
    share: Option<&str>,
    filter: &Filter,
    out: &mut Vec<u8>,
) {
    put_blob(out, namespace.as_bytes());
    put_blob(out, session.as_bytes());
    out.put_u8(u8::from(share.is_some()));
    put_blob(out, share.unwrap_or_default().as_bytes());
    filter.encode(out);
}

type SubscriptionKey = (String, String, Option<String>, Filter);

fn decode_subscription(r: &mut Reader) -> Result<SubscriptionKey, Short> {
    let (namespace, session) = (r.text()?, r.text()?);
    let shared = r.u8()? != 0;
    let share = r.text()?;
    Ok((namespace, session, shared.then_some(share), Filter::decode(r)?))
}
