//! A kept session's subscription.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    CursorId, Filter, Position, QueueId,
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader, field};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionKey {
    pub namespace: String,
    pub session: String,
    /// The shared group whose members compete; `None` for a reader of its own.
    pub share: Option<String>,
    pub filter: Filter,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionValue {
    /// The front-end's own; handed back with every delivery.
    pub options: u64,
    /// Served from memory while connected, nothing kept: `queue` and `cursor` are 0.
    pub live: bool,
    pub queue: QueueId,
    pub cursor: CursorId,
    /// The log entry that made it as it is now.
    pub home: Position,
}

impl Entity for SubscriptionKey {
    const KIND: KeyKind = KeyKind::Subscription;
    type Value = SubscriptionValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        field::put_blob(out, self.namespace.as_bytes());
        field::put_blob(out, self.session.as_bytes());
        field::put_bool(out, self.share.is_some());
        if let Some(share) = &self.share {
            field::put_blob(out, share.as_bytes());
        }
        self.filter.encode(out);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        let namespace = reader.text()?;
        let session = reader.text()?;
        let share = if reader.bool()? { Some(reader.text()?) } else { None };
        let mut last = Reader::new(reader.last_blob());
        let filter = Filter::decode(&mut last)?;
        if !last.is_empty() {
            return Err(Short);
        }
        Ok(Self { namespace, session, share, filter })
    }

    fn ser_value(value: &SubscriptionValue, out: &mut Vec<u8>) {
        out.put_u64_le(value.options);
        field::put_bool(out, value.live);
        out.put_u64_le(value.queue.0);
        out.put_u64_le(value.cursor.0);
        wire::put_varint(out, value.home.0);
    }

    fn deser_value(bytes: Bytes) -> Result<SubscriptionValue, Short> {
        let mut reader = Reader::new(bytes);
        let value = SubscriptionValue {
            options: reader.u64()?,
            live: field::read_bool(&mut reader)?,
            queue: QueueId(reader.u64()?),
            cursor: CursorId(reader.u64()?),
            home: Position(reader.varint()?),
        };
        if reader.is_empty() { Ok(value) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, filter, noise, text};

    proptest! {
        #[test]
        fn reads_back(
            namespace in text(), session in text(), share in prop::option::of(text()),
            filter in filter(), options: u64, live: bool, queue: u64, cursor: u64,
            home: u64,
        ) {
            let (queue, cursor, home) = (QueueId(queue), CursorId(cursor), Position(home));
            let value = SubscriptionValue { options, live, queue, cursor, home };
            check(&SubscriptionKey { namespace, session, share, filter }, &value);
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<SubscriptionKey>(&noise);
        }
    }
}
