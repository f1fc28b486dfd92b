//! Reason codes, and the fault of a peer that ends its connection with one.

use std::fmt;

/// An MQTT 5 reason code (MQTT 5 §2.4). Earlier versions have fewer words for the same things.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(pub u8);

impl Reason {
    pub const SUCCESS: Self = Self(0x00);
    pub const DISCONNECT_WITH_WILL: Self = Self(0x04);
    pub const NO_MATCHING_SUBSCRIBERS: Self = Self(0x10);
    pub const NO_SUBSCRIPTION_EXISTED: Self = Self(0x11);
    pub const CONTINUE_AUTHENTICATION: Self = Self(0x18);
    pub const REAUTHENTICATE: Self = Self(0x19);
    pub const UNSPECIFIED: Self = Self(0x80);
    pub const MALFORMED: Self = Self(0x81);
    pub const PROTOCOL_ERROR: Self = Self(0x82);
    pub const IMPLEMENTATION_SPECIFIC: Self = Self(0x83);
    pub const UNSUPPORTED_VERSION: Self = Self(0x84);
    pub const CLIENT_ID_INVALID: Self = Self(0x85);
    pub const BAD_CREDENTIALS: Self = Self(0x86);
    pub const NOT_AUTHORIZED: Self = Self(0x87);
    pub const SERVER_UNAVAILABLE: Self = Self(0x88);
    pub const SERVER_BUSY: Self = Self(0x89);
    pub const BANNED: Self = Self(0x8a);
    pub const SHUTTING_DOWN: Self = Self(0x8b);
    pub const BAD_AUTH_METHOD: Self = Self(0x8c);
    pub const KEEP_ALIVE_TIMEOUT: Self = Self(0x8d);
    pub const TAKEN_OVER: Self = Self(0x8e);
    pub const FILTER_INVALID: Self = Self(0x8f);
    pub const TOPIC_INVALID: Self = Self(0x90);
    pub const PACKET_ID_IN_USE: Self = Self(0x91);
    pub const PACKET_ID_NOT_FOUND: Self = Self(0x92);
    pub const RECEIVE_MAX_EXCEEDED: Self = Self(0x93);
    pub const TOPIC_ALIAS_INVALID: Self = Self(0x94);
    pub const PACKET_TOO_LARGE: Self = Self(0x95);
    pub const QUOTA_EXCEEDED: Self = Self(0x97);
    pub const ADMINISTRATIVE_ACTION: Self = Self(0x98);

    /// Whether it tells of a failure (MQTT 5 §2.4).
    #[must_use]
    pub fn is_failure(self) -> bool {
        self.0 >= 0x80
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reason({:#04x})", self.0)
    }
}

/// What a peer did that its connection does not survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Fault {
    /// What DISCONNECT or CONNACK says.
    pub reason: Reason,
    /// The same in words, with the clause that was broken.
    pub text: &'static str,
}

impl Fault {
    /// Bytes that are no packet.
    #[must_use]
    pub const fn malformed(text: &'static str) -> Self {
        Self { reason: Reason::MALFORMED, text }
    }

    /// A packet that may not be sent, or not now.
    #[must_use]
    pub const fn protocol(text: &'static str) -> Self {
        Self { reason: Reason::PROTOCOL_ERROR, text }
    }

    /// Another fault.
    #[must_use]
    pub const fn new(reason: Reason, text: &'static str) -> Self {
        Self { reason, text }
    }
}
