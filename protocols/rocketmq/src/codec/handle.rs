//! A receipt handle: one delivery, as opaque text that a client hands back.
//!
//! ```text
//! base64url( u64 queue | u64 cursor | u64 offset | u32 epoch | u64 position | u32 size
//!          | u64 deadline ms | u64 check )          all little-endian, 56 bytes, 75 characters
//! ```
//!
//! The check is a keyed hash over the other fields and the namespace, topic and group that the
//! handle is for. Its key lives as long as the process, as do the deliveries that handles name.

use std::hash::{BuildHasher, RandomState};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{BufMut, Bytes};
use mainstem_schemas::{CursorId, DeliveryId, Offset, Position, QueueId, UnixMillis, wire::Reader};

const BODY_BYTES: usize = 48;
const HANDLE_BYTES: usize = BODY_BYTES + 8;

/// What a handle says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    pub id: DeliveryId,
    /// Where the record is in the log, for as long as the delivery is outstanding.
    pub position: Position,
    pub size: u32,
    /// From when on the handle is worth nothing.
    pub deadline: UnixMillis,
}

/// Whose delivery a handle is for.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Owner<'a> {
    pub namespace: &'a str,
    pub topic: &'a str,
    pub group: &'a str,
}

/// Writes and checks handles.
#[derive(Debug, Default)]
pub struct Sealer {
    key: RandomState,
}

impl Sealer {
    /// The handle's text.
    #[must_use]
    pub fn seal(&self, handle: &Handle, owner: Owner<'_>) -> String {
        let mut out = Vec::with_capacity(HANDLE_BYTES);
        out.put_u64_le(handle.id.queue.0);
        out.put_u64_le(handle.id.cursor.0);
        out.put_u64_le(handle.id.offset.0);
        out.put_u32_le(handle.id.epoch);
        out.put_u64_le(handle.position.0);
        out.put_u32_le(handle.size);
        out.put_u64_le(handle.deadline.0);
        let check = self.key.hash_one((out.as_slice(), owner));
        out.put_u64_le(check);
        URL_SAFE_NO_PAD.encode(out)
    }

    /// Reads a handle that this process sealed for `owner`.
    #[must_use]
    pub fn open(&self, text: &str, owner: Owner<'_>) -> Option<Handle> {
        let bytes = Bytes::from(URL_SAFE_NO_PAD.decode(text).ok()?);
        if bytes.len() != HANDLE_BYTES {
            return None;
        }
        let check = self.key.hash_one((bytes.get(..BODY_BYTES)?, owner));
        let mut reader = Reader::new(bytes);
        let handle = Handle {
            id: DeliveryId {
                queue: QueueId(reader.u64().ok()?),
                cursor: CursorId(reader.u64().ok()?),
                offset: Offset(reader.u64().ok()?),
                epoch: reader.u32().ok()?,
            },
            position: Position(reader.u64().ok()?),
            size: reader.u32().ok()?,
            deadline: UnixMillis(reader.u64().ok()?),
        };
        (reader.u64().ok()? == check).then_some(handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner<'_> = Owner { namespace: "/", topic: "T", group: "g" };

    fn handle() -> Handle {
        Handle {
            id: DeliveryId {
                queue: QueueId(1),
                cursor: CursorId(2),
                offset: Offset(u64::MAX),
                epoch: 4,
            },
            position: Position(5),
            size: 6,
            deadline: UnixMillis(7),
        }
    }

    #[test]
    fn a_handle_reads_back() {
        let sealer = Sealer::default();
        let text = sealer.seal(&handle(), OWNER);
        assert_eq!(text.len(), 75);
        assert_eq!(sealer.open(&text, OWNER), Some(handle()));
    }

    #[test]
    fn an_altered_handle_is_none() {
        let sealer = Sealer::default();
        let text = sealer.seal(&handle(), OWNER);
        let raw = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for at in 0..raw.len() {
            let mut altered = raw.clone();
            altered[at] ^= 1;
            assert_eq!(sealer.open(&URL_SAFE_NO_PAD.encode(altered), OWNER), None, "byte {at}");
        }
        for junk in ["", "v1", "!!!", &text[1..]] {
            assert_eq!(sealer.open(junk, OWNER), None);
        }
    }

    #[test]
    fn a_handle_of_another_group_topic_or_process_is_none() {
        let sealer = Sealer::default();
        let text = sealer.seal(&handle(), OWNER);
        assert_eq!(sealer.open(&text, Owner { group: "h", ..OWNER }), None);
        assert_eq!(sealer.open(&text, Owner { topic: "U", ..OWNER }), None);
        assert_eq!(Sealer::default().open(&text, OWNER), None);
    }
}
