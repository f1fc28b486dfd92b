//! A client's message, or its will, as a record.

use bytes::{BufMut, Bytes, BytesMut};
use mainstem_broker::Stamp;
use mainstem_schemas::{Address, Record, RecordDraft, UnixMillis, flags};

use super::{NATIVE_V5, testament};
use crate::codec::{
    Publish, Qos, Reason, Text, Version, Will,
    property::{self, Context, Value, id},
};

/// Who publishes.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    pub version: Version,
    pub namespace: &'a str,
    /// See [`super::publisher_hash`].
    pub publisher: u64,
    pub topic_levels_max: usize,
    pub delay_max_s: u64,
}

/// What PUBLISH and a will have in common.
#[derive(Clone, Debug)]
pub struct Message {
    pub qos: Qos,
    pub retain: bool,
    pub topic: Text,
    pub native: Bytes,
    pub expiry_s: Option<u32>,
    pub payload: Bytes,
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: Reason,
    pub text: &'static str,
}

const DELAYED: &[u8] = b"$delayed/";
const SYS: &[u8] = b"$SYS/";
const OWN: Refused =
    Refused { reason: Reason::NOT_AUTHORIZED, text: "the topic is the server's own" };

impl From<Publish> for Message {
    fn from(publish: Publish) -> Self {
        Self {
            qos: publish.qos,
            retain: publish.retain,
            topic: publish.topic,
            native: publish.properties.native,
            expiry_s: publish.properties.expiry_s,
            payload: publish.payload,
        }
    }
}

impl From<Will> for Message {
    fn from(will: Will) -> Self {
        Self {
            qos: will.qos,
            retain: will.retain,
            topic: will.topic,
            native: will.properties.native,
            expiry_s: will.properties.expiry_s,
            payload: will.payload,
        }
    }
}

impl Message {
    /// The record of this message.
    pub fn record(&self, sender: &Sender<'_>, stamp: Stamp) -> Result<Record, Refused> {
        let (topic, deliver_at) = self.destination(sender, stamp.now)?;
        let levels = topic.iter().filter(|byte| **byte == b'/').count() + 1;
        if levels > sender.topic_levels_max {
            return Err(invalid("the topic has too many levels"));
        }
        let address = Address::mqtt(topic);
        if testament::is_kept_at(&address) {
            return Err(OWN);
        }
        let native = match sender.version {
            Version::V5 => {
                let mut native = BytesMut::with_capacity(1 + self.native.len());
                native.put_u8(NATIVE_V5);
                native.put_slice(&self.native);
                native
            }
            Version::V31 | Version::V311 => BytesMut::new(),
        };
        let mut draft = RecordDraft::new(&address, sender.namespace, &native, &self.payload);
        draft.id = stamp.id;
        draft.now = stamp.now;
        draft.qos = self.qos as u8;
        draft.publisher = sender.publisher;
        draft.deliver_at = deliver_at;
        draft.priority = self.priority();
        if self.qos != Qos::AtMostOnce {
            draft.flags |= flags::DURABLE;
        }
        if self.retain {
            draft.flags |= flags::RETAIN;
        }
        if let Some(seconds) = self.expiry_s {
            draft.expiry = stamp.now.plus(u64::from(seconds) * 1000);
        }
        let too_long = Refused { reason: Reason::IMPLEMENTATION_SPECIFIC, text: "too long" };
        draft.encode().map_err(|_| too_long)
    }

    /// The topic, and for `$delayed/<seconds>/<topic>` when it is due.
    fn destination(
        &self,
        sender: &Sender<'_>,
        now: UnixMillis,
    ) -> Result<(Bytes, UnixMillis), Refused> {
        let topic = self.topic.as_bytes();
        if topic.starts_with(SYS) {
            return Err(OWN);
        }
        let Some(rest) = topic.strip_prefix(DELAYED) else {
            return Ok((topic.clone(), UnixMillis::NONE));
        };
        let slash = rest.iter().position(|byte| *byte == b'/');
        let parts = slash.and_then(|at| rest.split_at_checked(at));
        let seconds: Option<u64> = parts
            .and_then(|(digits, _)| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok())
            .filter(|seconds| *seconds <= sender.delay_max_s);
        let real = parts.and_then(|(_, real)| real.strip_prefix(b"/")).filter(|t| !t.is_empty());
        match (seconds, real) {
            (Some(_), Some(real)) if real.starts_with(SYS) => Err(OWN),
            (Some(seconds), Some(real)) => Ok((topic.slice_ref(real), now.plus(seconds * 1000))),
            _ => Err(invalid("a delayed topic is $delayed/<seconds>/<topic>, within the limit")),
        }
    }

    /// The user property `priority`, if it is a number.
    fn priority(&self) -> u8 {
        let mut priority = 0;
        if self.native.is_empty() {
            return priority;
        }
        // The codec checked these bytes, so that reading them again cannot fail.
        let _checked = property::read_properties(self.native.clone(), Context::Will, |id, v, _| {
            if let (id::USER, Value::Pair(name, value)) = (id, v)
                && name.as_str() == "priority"
            {
                priority = value.as_str().parse().unwrap_or(0);
            }
            Ok(())
        });
        priority
    }
}

fn invalid(text: &'static str) -> Refused {
    Refused { reason: Reason::TOPIC_INVALID, text }
}
