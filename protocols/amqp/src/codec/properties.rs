//! The fourteen properties of the basic class: read in place, and written.
//!
//! ```text
//! flags:u16  bit 15 content_type ... bit 2 cluster_id, bit 0 "another flag word follows"
//! then each property whose bit is set, in that order
//! ```

use bytes::{BufMut, BytesMut};

use super::{
    cursor::{Cursor, Malformed},
    table,
};

/// The properties, as slices of the content header. `headers` is a table's entries without the
/// length in front.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    pub content_type: Option<&'a [u8]>,
    pub content_encoding: Option<&'a [u8]>,
    pub headers: Option<&'a [u8]>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<&'a [u8]>,
    pub reply_to: Option<&'a [u8]>,
    pub expiration: Option<&'a [u8]>,
    pub message_id: Option<&'a [u8]>,
    pub timestamp: Option<u64>,
    pub kind: Option<&'a [u8]>,
    pub user_id: Option<&'a [u8]>,
    pub app_id: Option<&'a [u8]>,
    pub cluster_id: Option<&'a [u8]>,
}

const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const KIND: u16 = 1 << 5;
const USER_ID: u16 = 1 << 4;
const APP_ID: u16 = 1 << 3;
const CLUSTER_ID: u16 = 1 << 2;
/// Property bits the class does not have, and the continuation no one has ever sent.
const UNKNOWN: u16 = 0b11;

impl<'a> Properties<'a> {
    /// Reads flags and properties. Errors: they end too early, or have bits the class has not.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let flags = cursor.u16()?;
        if flags & UNKNOWN != 0 {
            return Err(Malformed);
        }
        let short = |bit: u16, cursor: &mut Cursor<'a>| {
            if flags & bit == 0 { Ok(None) } else { cursor.short_string().map(Some) }
        };
        let mut out = Self {
            content_type: short(CONTENT_TYPE, &mut cursor)?,
            content_encoding: short(CONTENT_ENCODING, &mut cursor)?,
            ..Self::default()
        };
        if flags & HEADERS != 0 {
            out.headers = Some(cursor.long_string()?);
        }
        if flags & DELIVERY_MODE != 0 {
            out.delivery_mode = Some(cursor.u8()?);
        }
        if flags & PRIORITY != 0 {
            out.priority = Some(cursor.u8()?);
        }
        out.correlation_id = short(CORRELATION_ID, &mut cursor)?;
        out.reply_to = short(REPLY_TO, &mut cursor)?;
        out.expiration = short(EXPIRATION, &mut cursor)?;
        out.message_id = short(MESSAGE_ID, &mut cursor)?;
        if flags & TIMESTAMP != 0 {
            out.timestamp = Some(cursor.u64()?);
        }
        out.kind = short(KIND, &mut cursor)?;
        out.user_id = short(USER_ID, &mut cursor)?;
        out.app_id = short(APP_ID, &mut cursor)?;
        out.cluster_id = short(CLUSTER_ID, &mut cursor)?;
        Ok(out)
    }

    /// Writes flags and properties. Short strings over 255 bytes are cut there.
    pub fn put(&self, out: &mut BytesMut) {
        self.put_with(out, |out| {
            if let Some(headers) = self.headers {
                out.put_slice(headers);
            }
        });
    }

    /// As [`Properties::put`], with the entries that `headers` writes in place of its own. The
    /// table is left out when there were no headers and none are written.
    pub fn put_with(&self, out: &mut BytesMut, headers: impl FnOnce(&mut BytesMut)) {
        let flags_at = out.len();
        out.put_u16(0);
        put_short(out, self.content_type);
        put_short(out, self.content_encoding);
        let table_at = out.len();
        table::put_behind_length(out, headers);
        let has_headers = self.headers.is_some() || out.len() > table_at + 4;
        if !has_headers {
            out.truncate(table_at);
        }
        put_octet(out, self.delivery_mode);
        put_octet(out, self.priority);
        put_short(out, self.correlation_id);
        put_short(out, self.reply_to);
        put_short(out, self.expiration);
        put_short(out, self.message_id);
        if let Some(timestamp) = self.timestamp {
            out.put_u64(timestamp);
        }
        put_short(out, self.kind);
        put_short(out, self.user_id);
        put_short(out, self.app_id);
        put_short(out, self.cluster_id);
        let flags = self.flags() | if has_headers { HEADERS } else { 0 };
        if let Some(slot) = out.get_mut(flags_at..flags_at + 2) {
            slot.copy_from_slice(&flags.to_be_bytes());
        }
    }

    fn flags(&self) -> u16 {
        let bit = |is_set: bool, bit: u16| if is_set { bit } else { 0 };
        bit(self.content_type.is_some(), CONTENT_TYPE)
            | bit(self.content_encoding.is_some(), CONTENT_ENCODING)
            | bit(self.delivery_mode.is_some(), DELIVERY_MODE)
            | bit(self.priority.is_some(), PRIORITY)
            | bit(self.correlation_id.is_some(), CORRELATION_ID)
            | bit(self.reply_to.is_some(), REPLY_TO)
            | bit(self.expiration.is_some(), EXPIRATION)
            | bit(self.message_id.is_some(), MESSAGE_ID)
            | bit(self.timestamp.is_some(), TIMESTAMP)
            | bit(self.kind.is_some(), KIND)
            | bit(self.user_id.is_some(), USER_ID)
            | bit(self.app_id.is_some(), APP_ID)
            | bit(self.cluster_id.is_some(), CLUSTER_ID)
    }
}

fn put_short(out: &mut BytesMut, text: Option<&[u8]>) {
    if let Some(text) = text {
        table::put_short_string(out, text);
    }
}

fn put_octet(out: &mut BytesMut, octet: Option<u8>) {
    if let Some(octet) = octet {
        out.put_u8(octet);
    }
}
