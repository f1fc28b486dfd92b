//! A stored record: a fixed header, the sender's own property bytes, and the payload.
//!
//! The bytes are drawn in `RECORD.md`. A [`Record`] is a checked view over one allocation; every
//! accessor hands out a slice of it.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Address, Doors, Origin, UnixMillis, address::TOPIC_KEY_PREFIX};

/// The version that [`RecordDraft::encode`] writes, in the first byte.
pub const VERSION: u8 = 1;
/// Bytes before the variable part.
pub const HEADER_BYTES: usize = 80;

/// Bits of the header's flags. Persisted: never renumber.
pub mod flags {
    /// The publisher asked for it to outlive a restart.
    pub const DURABLE: u16 = 1;
    /// It is to be kept as the last record of its address.
    pub const RETAIN: u16 = 1 << 1;
    /// The address's second part is a lite topic.
    pub const LITE: u16 = 1 << 2;
    /// The native block says something that is for routing only, and for no reader.
    pub const CONFIDENTIAL: u16 = 1 << 3;
    /// Its sender may not write everywhere that its path leads to: see [`crate::Doors`].
    pub const CONFINED: u16 = 1 << 4;
}

/// A UUIDv7: milliseconds since the epoch, then random bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RecordId(pub [u8; 16]);

impl RecordId {
    /// The id for a record made at `now`, with 74 of `random`'s bits (RFC 9562 §5.7).
    #[must_use]
    pub fn new(now: UnixMillis, random: u128) -> Self {
        let time = (u128::from(now.0) & 0xffff_ffff_ffff) << 80;
        let rand_a = (random >> 64) & 0xfff;
        let rand_b = random & 0x3fff_ffff_ffff_ffff;
        Self((time | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b).to_be_bytes())
    }
}

/// The usual text of a UUID: 36 characters.
impl std::fmt::Display for RecordId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record's bytes end too early")]
    Short,
    #[error("the record has version {0}, this program reads version {VERSION}")]
    Version(u8),
    #[error("the record names an unknown origin {0}")]
    Origin(u8),
    #[error("the record's lengths do not add up to its size")]
    Lengths,
    #[error("the record's address is longer than 65535 bytes")]
    AddressTooLong,
    #[error("the record is longer than 4 GiB")]
    TooLong,
}

/// What a front-end fills in to make a record.
#[derive(Clone, Debug)]
pub struct RecordDraft<'a> {
    pub address: &'a Address,
    pub namespace: &'a str,
    /// Bits of [`flags`]; `LITE` is taken from the address.
    pub flags: u16,
    pub id: RecordId,
    /// When the server took it in.
    pub now: UnixMillis,
    /// When it stops being worth delivering; unset for never.
    pub expiry: UnixMillis,
    /// When it may be delivered; unset for at once.
    pub deliver_at: UnixMillis,
    pub priority: u8,
    /// MQTT's quality of service, 0 to 2; 1 for what another protocol sent to be kept.
    pub qos: u8,
    /// Hash of the sender's session, for readers that do not want their own records; 0 if none.
    pub publisher: u64,
    /// Hash of the ordering key; 0 if none.
    pub partition: u64,
    /// The sender's property bytes, verbatim.
    pub native: &'a [u8],
    /// The payload, verbatim.
    pub data: &'a [u8],
}

impl<'a> RecordDraft<'a> {
    /// A draft with everything optional unset.
    #[must_use]
    pub fn new(address: &'a Address, namespace: &'a str, native: &'a [u8], data: &'a [u8]) -> Self {
        Self {
            address,
            namespace,
            flags: 0,
            id: RecordId::default(),
            now: UnixMillis::NONE,
            expiry: UnixMillis::NONE,
            deliver_at: UnixMillis::NONE,
            priority: 0,
            qos: 0,
            publisher: 0,
            partition: 0,
            native,
            data,
        }
    }

    /// The record. Errors: an address part over 65,535 bytes, a block over 4 GiB.
    pub fn encode(&self) -> Result<Record, RecordError> {
        let part =
            |bytes: &[u8]| u16::try_from(bytes.len()).map_err(|_| RecordError::AddressTooLong);
        let block = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| RecordError::TooLong);
        let address = self.address;
        let size = HEADER_BYTES
            + self.namespace.len()
            + address.first.len()
            + address.second.len()
            + self.native.len()
            + self.data.len();
        let mut out = BytesMut::with_capacity(size);
        out.put_u8(VERSION);
        out.put_u8(address.origin as u8);
        out.put_u16_le(self.flags | if address.lite { flags::LITE } else { 0 });
        out.put_u8(self.priority);
        out.put_u8(self.qos);
        out.put_u16_le(part(self.namespace.as_bytes())?);
        out.put_slice(&self.id.0);
        out.put_u64_le(self.now.0);
        out.put_u64_le(self.expiry.0);
        out.put_u64_le(self.deliver_at.0);
        out.put_u64_le(self.publisher);
        out.put_u64_le(self.partition);
        out.put_u16_le(part(&address.first)?);
        out.put_u16_le(part(&address.second)?);
        out.put_u32_le(block(self.native)?);
        out.put_u32_le(block(self.data)?);
        out.put_u32_le(0);
        debug_assert_eq!(out.len(), HEADER_BYTES);
        out.put_slice(self.namespace.as_bytes());
        out.put_slice(&address.first);
        out.put_slice(&address.second);
        out.put_slice(self.native);
        out.put_slice(self.data);
        Ok(Record { bytes: out.freeze() })
    }
}

/// A record whose header was checked: every accessor is in bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    bytes: Bytes,
}

impl Record {
    /// Reads a stored record. Errors: the bytes are not exactly one record of this version.
    pub fn decode(bytes: Bytes) -> Result<Self, RecordError> {
        if bytes.len() < HEADER_BYTES {
            return Err(RecordError::Short);
        }
        let record = Self { bytes };
        if record.u8_at(0) != VERSION {
            return Err(RecordError::Version(record.u8_at(0)));
        }
        let origin = record.u8_at(1);
        Origin::from_u8(origin).ok_or(RecordError::Origin(origin))?;
        if record.data_start().checked_add(record.data_len()) != Some(record.bytes.len()) {
            return Err(RecordError::Lengths);
        }
        if std::str::from_utf8(record.slice(HEADER_BYTES, record.namespace_len())).is_err() {
            return Err(RecordError::Lengths);
        }
        Ok(record)
    }

    /// All its bytes, as stored.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin::from_u8(self.u8_at(1)).expect("decode and encode admit only known origins")
    }

    /// The same record without a flag of [`flags`].
    #[must_use]
    pub fn without(&self, flag: u16) -> Self {
        if self.flags() & flag == 0 {
            return self.clone();
        }
        let mut bytes = BytesMut::from(self.bytes.as_ref());
        if let Some(slot) = bytes.get_mut(2..4) {
            slot.copy_from_slice(&(self.flags() & !flag).to_le_bytes());
        }
        Self { bytes: bytes.freeze() }
    }

    /// Bits of [`flags`].
    #[must_use]
    pub fn flags(&self) -> u16 {
        u16::from_le_bytes(self.array_at(2))
    }

    /// Whether the publisher asked for it to outlive a restart.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.flags() & flags::DURABLE != 0
    }

    /// Whether it is to be kept as the last record of its address.
    #[must_use]
    pub fn is_retain(&self) -> bool {
        self.flags() & flags::RETAIN != 0
    }

    /// The same, entering only where its own kind of sender does by nature: by the name of a topic at the
    /// exchange of that name, else at the root exchange.
    #[must_use]
    pub fn confined(&self) -> Self {
        let mut bytes = BytesMut::from(&*self.bytes);
        for (at, byte) in (2..).zip((self.flags() | flags::CONFINED).to_le_bytes()) {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        Self { bytes: bytes.freeze() }
    }

    /// Where it may enter.
    #[must_use]
    pub fn doors(&self) -> Doors {
        match self.flags() & flags::CONFINED != 0 {
            false => Doors::Both,
            true => self.address().own_door(),
        }
    }

    #[must_use]
    pub fn priority(&self) -> u8 {
        self.u8_at(4)
    }

    #[must_use]
    pub fn qos(&self) -> u8 {
        self.u8_at(5)
    }

    #[must_use]
    pub fn id(&self) -> RecordId {
        RecordId(self.array_at(8))
    }

    /// When the server took it in.
    #[must_use]
    pub fn appended(&self) -> UnixMillis {
        UnixMillis(u64::from_le_bytes(self.array_at(24)))
    }

    /// When it stops being worth delivering; unset for never.
    #[must_use]
    pub fn expiry(&self) -> UnixMillis {
        UnixMillis(u64::from_le_bytes(self.array_at(32)))
    }

    /// When it may be delivered; unset for at once.
    #[must_use]
    pub fn deliver_at(&self) -> UnixMillis {
        UnixMillis(u64::from_le_bytes(self.array_at(40)))
    }

    /// Hash of the sender's session; 0 if none.
    #[must_use]
    pub fn publisher(&self) -> u64 {
        u64::from_le_bytes(self.array_at(48))
    }

    /// Hash of the ordering key; 0 if none.
    #[must_use]
    pub fn partition(&self) -> u64 {
        u64::from_le_bytes(self.array_at(56))
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        std::str::from_utf8(self.slice(HEADER_BYTES, self.namespace_len()))
            .expect("decode and encode admit only UTF-8 here")
    }

    #[must_use]
    pub fn address(&self) -> Address {
        let start = HEADER_BYTES + self.namespace_len();
        let middle = start + self.first_len();
        Address {
            origin: self.origin(),
            first: self.bytes.slice(start..middle),
            second: self.bytes.slice(middle..middle + self.second_len()),
            lite: self.flags() & flags::LITE != 0,
        }
    }

    /// The queue that a direct message names: the same as its address says, without making one.
    /// `None` for every other record.
    #[must_use]
    pub fn direct_queue(&self) -> Option<&[u8]> {
        if self.origin() != Origin::Amqp || self.first_len() > 0 {
            return None;
        }
        let start = HEADER_BYTES + self.namespace_len();
        let name = self.slice(start, self.second_len());
        (!name.starts_with(TOPIC_KEY_PREFIX.as_bytes())).then_some(name)
    }

    /// The sender's property bytes, verbatim.
    #[must_use]
    pub fn native(&self) -> Bytes {
        self.bytes.slice_ref(self.native_bytes())
    }

    /// The first part of the address, for a look: to share it costs more, where many do so at once.
    #[must_use]
    pub fn first_bytes(&self) -> &[u8] {
        let start = HEADER_BYTES + self.namespace_len();
        self.bytes.get(start..start + self.first_len()).unwrap_or_default()
    }

    /// The native properties, for a look.
    #[must_use]
    pub fn native_bytes(&self) -> &[u8] {
        let start = self.native_start();
        self.bytes.get(start..start + self.native_len()).unwrap_or_default()
    }

    /// The payload, for a look.
    #[must_use]
    pub fn data_bytes(&self) -> &[u8] {
        self.bytes.get(self.data_start()..).unwrap_or_default()
    }

    /// The payload, verbatim.
    #[must_use]
    pub fn data(&self) -> Bytes {
        self.bytes.slice_ref(self.data_bytes())
    }

    /// Size of the payload in bytes.
    #[must_use]
    pub fn data_len(&self) -> usize {
        u32::from_le_bytes(self.array_at(72)) as usize
    }

    fn namespace_len(&self) -> usize {
        usize::from(u16::from_le_bytes(self.array_at(6)))
    }

    fn first_len(&self) -> usize {
        usize::from(u16::from_le_bytes(self.array_at(64)))
    }

    fn second_len(&self) -> usize {
        usize::from(u16::from_le_bytes(self.array_at(66)))
    }

    fn native_len(&self) -> usize {
        u32::from_le_bytes(self.array_at(68)) as usize
    }

    fn native_start(&self) -> usize {
        HEADER_BYTES + self.namespace_len() + self.first_len() + self.second_len()
    }

    fn data_start(&self) -> usize {
        self.native_start() + self.native_len()
    }

    fn u8_at(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or_default()
    }

    fn slice(&self, at: usize, len: usize) -> &[u8] {
        self.bytes.get(at..at + len).unwrap_or_default()
    }

    fn array_at<const N: usize>(&self, at: usize) -> [u8; N] {
        self.slice(at, N).try_into().unwrap_or([0; N])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        let address = Address::amqp("orders".into(), "eu.new".into());
        let mut draft = RecordDraft::new(&address, "/", b"native", b"payload");
        draft.flags = flags::DURABLE;
        draft.id = RecordId::new(UnixMillis(1_700_000_000_000), 7);
        draft.now = UnixMillis(5);
        draft.expiry = UnixMillis(9);
        draft.priority = 3;
        draft.qos = 1;
        draft.publisher = 11;
        draft.encode().unwrap()
    }

    #[test]
    fn a_record_reads_back() {
        let record = Record::decode(sample().bytes().clone()).unwrap();
        assert_eq!(record.origin(), Origin::Amqp);
        assert!(record.is_durable() && !record.is_retain());
        assert_eq!(record.namespace(), "/");
        assert_eq!(record.address(), Address::amqp("orders".into(), "eu.new".into()));
        assert_eq!(record.native(), "native");
        assert_eq!(record.data(), "payload");
        assert_eq!((record.appended(), record.expiry()), (UnixMillis(5), UnixMillis(9)));
        assert_eq!((record.priority(), record.qos(), record.publisher()), (3, 1, 11));
        assert_eq!(record.id().to_string(), "018bcfe5-6800-7000-8000-000000000007");
    }

    #[test]
    fn cut_or_altered_bytes_are_an_error() {
        let bytes = sample().bytes().clone();
        for len in 0..bytes.len() {
            assert!(Record::decode(bytes.slice(..len)).is_err());
        }
        let mut wrong = bytes.to_vec();
        wrong[0] = 9;
        assert_eq!(Record::decode(wrong.into()), Err(RecordError::Version(9)));
    }
}
