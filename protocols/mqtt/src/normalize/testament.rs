//! A will as it is kept while its client is connected, so that a crash does not take it along.
//!
//! ```text
//! u8 version of the protocol | u8 connect flags | u32 session expiry | text client id | text user | the
//! will's bytes of CONNECT
//! ```
//!
//! It is a retained record at an address of its own, to which nobody can subscribe: a direct message to
//! a queue that no one has. An empty one at the same address forgets it.

use bytes::{BufMut, Bytes, BytesMut};
use mainstem_broker::Stamp;
use mainstem_schemas::{
    Address, Filter, Record, RecordDraft, RecordError, RecordId, address::QUEUE_SEGMENT, flags,
};

use crate::codec::{Fault, Input, Version, Will, connect, output::put_binary, subscribe::MARK};

/// A will, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Testament {
    pub version: Version,
    pub client_id: String,
    /// Who left it, and by whose rights it is published; empty for somebody who was asked when it was
    /// left, and whose will enters only where its own kind does by nature.
    pub user: String,
    pub session_expiry_s: u32,
    pub will: Will,
}

/// Where a testament is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Safe(Bytes);

impl Safe {
    /// One that nobody else uses.
    #[must_use]
    pub fn new(id: RecordId) -> Self {
        Self(format!("{MARK}will/{:032x}", u128::from_be_bytes(id.0)).into())
    }

    /// What finds all of them, and perhaps more.
    #[must_use]
    pub fn all() -> Filter {
        Filter::below(QUEUE_SEGMENT.as_bytes())
    }

    /// The record that puts something in, or with nothing takes out what there is.
    pub fn record(
        &self,
        namespace: &str,
        stamp: Stamp,
        content: &[u8],
    ) -> Result<Record, RecordError> {
        let address = Address::exchange(Bytes::new(), self.0.clone());
        let mut draft = RecordDraft::new(&address, namespace, &[], content);
        draft.id = stamp.id;
        draft.now = stamp.now;
        draft.flags = flags::DURABLE | flags::RETAIN;
        draft.encode()
    }
}

/// Whether a client's message would go where testaments are kept.
#[must_use]
pub fn is_kept_at(address: &Address) -> bool {
    // Other topics need no second look: an escaped `$` begins with `%`.
    if !matches!(address.first.first(), Some(b'$' | b'%')) {
        return false;
    }
    let path = address.path();
    let mut segments = path.segments();
    segments.next() == Some(QUEUE_SEGMENT.as_bytes())
        && segments.next().is_some_and(|name| name.starts_with(MARK.as_bytes()))
}

impl Testament {
    /// What is kept of it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(match self.version {
            Version::V31 => 3,
            Version::V311 => 4,
            Version::V5 => 5,
        });
        out.put_u8(self.will.flags());
        out.put_u32(self.session_expiry_s);
        put_binary(&mut out, self.client_id.as_bytes());
        put_binary(&mut out, self.user.as_bytes());
        out.put_slice(&self.will.raw);
        out.freeze()
    }

    fn decode(bytes: Bytes) -> Result<Self, Fault> {
        let mut input = Input::new(bytes);
        let version = match input.u8()? {
            3 => Version::V31,
            4 => Version::V311,
            5 => Version::V5,
            _ => return Err(Fault::malformed("a will is of no version")),
        };
        let flags = input.u8()?;
        let session_expiry_s = input.u32()?;
        let client_id = input.text()?.as_str().to_owned();
        let user = input.text()?.as_str().to_owned();
        let will = connect::decode_will(&mut input, flags, version)?;
        input.end()?;
        Ok(Self { version, client_id, user, session_expiry_s, will })
    }

    /// Reads a record that [`Safe::all`] found; `None` for one that is no testament.
    #[must_use]
    pub fn read(record: &Record) -> Option<(Safe, Self)> {
        let address = record.address();
        let is_ours = address == Address::exchange(Bytes::new(), address.second.clone())
            && address.second.starts_with(MARK.as_bytes());
        let testament = Self::decode(Bytes::copy_from_slice(&record.data())).ok();
        Some((Safe(address.second), testament.filter(|_| is_ours)?))
    }
}
