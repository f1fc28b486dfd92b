//! A body that comes to queues, again or later.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Position, QueueId, UnixMillis,
    wire::{Reader, Short, put_blob, put_varint},
};

/// A body that is in the log already and comes to queues: what was held is let go, or a record
/// died in one queue and goes to another. With no targets it only ends the holding.
///
/// `varint source | varint size | varint expiry | varint appended | u8 flags | varint group |
/// varint body | varint held | varint origin | blob passage | varint n | n * u64 |
/// (varint queue, varint offset)*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Where the body is.
    pub(crate) source: Position,
    /// Bytes of the body's entry.
    pub(crate) size: u32,
    pub(crate) expiry: UnixMillis,
    pub(crate) appended: UnixMillis,
    pub(crate) flags: u8,
    pub(crate) group: u32,
    /// Bytes of the body itself.
    pub(crate) body: u32,
    /// It was held until this time and is so no longer; unset if it was not held.
    pub(crate) held: UnixMillis,
    /// Where what was held stood first.
    pub(crate) origin: Position,
    /// A `Passage`; empty for none. With one, the queues point here and not to the body.
    pub(crate) passage: Bytes,
    /// Hashes of the keys it can be looked up by where it comes to.
    pub(crate) keys: Vec<u64>,
    pub(crate) targets: Vec<(QueueId, u64)>,
}

impl Placed {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.source.0);
        put_varint(out, u64::from(self.size));
        put_varint(out, self.expiry.0);
        put_varint(out, self.appended.0);
        out.put_u8(self.flags);
        put_varint(out, u64::from(self.group));
        put_varint(out, u64::from(self.body));
        put_varint(out, self.held.0);
        put_varint(out, self.origin.0);
        put_blob(out, &self.passage);
        put_varint(out, self.keys.len() as u64);
        for key in &self.keys {
            out.put_u64_le(*key);
        }
        for (queue, offset) in &self.targets {
            put_varint(out, queue.0);
            put_varint(out, *offset);
        }
    }

    pub(crate) fn decode(mut r: Reader) -> Result<Self, Short> {
        let source = Position(r.varint()?);
        let size = u32::try_from(r.varint()?).map_err(|_| Short)?;
        let (expiry, appended) = (UnixMillis(r.varint()?), UnixMillis(r.varint()?));
        let flags = r.u8()?;
        let group = u32::try_from(r.varint()?).map_err(|_| Short)?;
        let body = u32::try_from(r.varint()?).map_err(|_| Short)?;
        let (held, origin) = (UnixMillis(r.varint()?), Position(r.varint()?));
        let passage = r.blob()?;
        let mut keys = Vec::new();
        for _ in 0..r.varint()? {
            keys.push(r.u64()?);
        }
        let mut targets = Vec::new();
        while !r.is_empty() {
            targets.push((QueueId(r.varint()?), r.varint()?));
        }
        Ok(Self {
            source,
            size,
            expiry,
            appended,
            flags,
            group,
            body,
            held,
            origin,
            passage,
            keys,
            targets,
        })
    }
}
