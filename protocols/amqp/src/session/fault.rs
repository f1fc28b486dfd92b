//! What a peer did wrong, in RabbitMQ's codes and words.

use mainstem_broker::Refusal;

use crate::codec::{FrameFault, reply::Close};

/// A reply code, with the name RabbitMQ writes in front of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    ContentTooLarge = 311,
    ConnectionForced = 320,
    AccessRefused = 403,
    NotFound = 404,
    ResourceLocked = 405,
    PreconditionFailed = 406,
    FrameError = 501,
    SyntaxError = 502,
    CommandInvalid = 503,
    ChannelError = 504,
    UnexpectedFrame = 505,
    ResourceError = 506,
    NotAllowed = 530,
    NotImplemented = 540,
    InternalError = 541,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Self::ContentTooLarge => "CONTENT_TOO_LARGE",
            Self::ConnectionForced => "CONNECTION_FORCED",
            Self::AccessRefused => "ACCESS_REFUSED",
            Self::NotFound => "NOT_FOUND",
            Self::ResourceLocked => "RESOURCE_LOCKED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::FrameError => "FRAME_ERROR",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::CommandInvalid => "COMMAND_INVALID",
            Self::ChannelError => "CHANNEL_ERROR",
            Self::UnexpectedFrame => "UNEXPECTED_FRAME",
            Self::ResourceError => "RESOURCE_ERROR",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    /// Whether it ends the connection, not only the channel.
    #[must_use]
    pub fn is_hard(self) -> bool {
        match self {
            Self::ContentTooLarge
            | Self::AccessRefused
            | Self::NotFound
            | Self::ResourceLocked
            | Self::PreconditionFailed => false,
            Self::ConnectionForced
            | Self::FrameError
            | Self::SyntaxError
            | Self::CommandInvalid
            | Self::ChannelError
            | Self::UnexpectedFrame
            | Self::ResourceError
            | Self::NotAllowed
            | Self::NotImplemented
            | Self::InternalError => true,
        }
    }
}

/// A peer's mistake, or our reason to part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} - {text}", .code.name())]
pub struct Fault {
    pub code: Code,
    pub text: String,
}

impl Fault {
    /// A fault of this code.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The arguments of the close that tells it; `method` is what failed. A text that is too long ends
    /// in dots, as RabbitMQ's.
    #[must_use]
    pub fn close(&self, (class, method): (u16, u16)) -> Close {
        let mut text = self.to_string();
        if text.len() > usize::from(u8::MAX) {
            const DOTS: &str = "...";
            let room = usize::from(u8::MAX) - DOTS.len();
            let end = (0..=room).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(end.unwrap_or(0));
            text.push_str(DOTS);
        }
        Close { code: self.code as u16, text, class, method }
    }

    pub(crate) fn no_queue(name: &str, vhost: &str) -> Self {
        Self::new(Code::NotFound, format!("no queue '{name}' in vhost '{vhost}'"))
    }

    pub(crate) fn no_exchange(name: &str, vhost: &str) -> Self {
        Self::new(Code::NotFound, format!("no exchange '{name}' in vhost '{vhost}'"))
    }

    pub(crate) fn locked(name: &str, vhost: &str) -> Self {
        let text = format!(
            "cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could \
             be originally declared on another connection or the exclusive property value does \
             not match that of the original declaration."
        );
        Self::new(Code::ResourceLocked, text)
    }

    pub(crate) fn default_exchange() -> Self {
        Self::new(Code::AccessRefused, "operation not permitted on the default exchange")
    }

    /// `kind` is "queue" or "exchange".
    pub(crate) fn reserved(kind: &str, name: &str) -> Self {
        let text = format!("{kind} name '{name}' contains reserved prefix 'amq.*'");
        Self::new(Code::AccessRefused, text)
    }

    pub(crate) fn unknown_delivery_tag(tag: u64) -> Self {
        Self::new(Code::PreconditionFailed, format!("unknown delivery tag {tag}"))
    }

    /// The words for the store's refusal of a request. `kind` says whether the request was about
    /// a "queue" or an "exchange".
    pub(crate) fn refused(refusal: &Refusal, kind: &str, vhost: &str) -> Self {
        match refusal {
            Refusal::NoExchange(name) => Self::no_exchange(name, vhost),
            Refusal::NoQueue(name) | Refusal::NoTopic(name) => Self::no_queue(name, vhost),
            Refusal::Locked(name) => Self::locked(name, vhost),
            Refusal::InUse(name) => Self::new(
                Code::PreconditionFailed,
                format!("{kind} '{name}' in vhost '{vhost}' in use"),
            ),
            Refusal::NotEmpty(name) => Self::new(
                Code::PreconditionFailed,
                format!("queue '{name}' in vhost '{vhost}' not empty"),
            ),
            Refusal::ExclusiveConsumer(name) => Self::new(
                Code::AccessRefused,
                format!("queue '{name}' in vhost '{vhost}' in exclusive use"),
            ),
            Refusal::Internal(name) => Self::new(
                Code::AccessRefused,
                format!("cannot publish to internal exchange '{name}' in vhost '{vhost}'"),
            ),
            Refusal::Denied { what, user } => Self::new(
                Code::AccessRefused,
                format!("access to {what} in vhost '{vhost}' refused for user '{user}'"),
            ),
            Refusal::DefaultExchange => Self::default_exchange(),
            Refusal::Predeclared(name) => Self::reserved("exchange", name),
            Refusal::BadArguments(why) => Self::new(Code::PreconditionFailed, why.clone()),
            Refusal::TooLarge { size, max } => Self::too_large(*size as u64, *max),
            Refusal::DiskFull => Self::new(Code::PreconditionFailed, "the disk is full"),
            Refusal::QueueFull(_) | Refusal::Limit { .. } => {
                Self::new(Code::PreconditionFailed, refusal.to_string())
            }
            Refusal::ConsumerExists(_)
            | Refusal::Stale
            | Refusal::Unreadable(_)
            | Refusal::Ranked(_) => Self::new(Code::InternalError, refusal.to_string()),
            Refusal::Closed => Self::shutdown(),
        }
    }

    pub(crate) fn queue_limit(name: &str, vhost: &str, max: u64) -> Self {
        let text = format!(
            "cannot declare queue '{name}': queue limit in vhost '{vhost}' ({max}) is reached"
        );
        Self::new(Code::PreconditionFailed, text)
    }

    pub(crate) fn unsettled_for_long(channel: u16, timeout_ms: u64) -> Self {
        let text = format!(
            "delivery acknowledgement on channel {channel} timed out. Timeout value used: \
             {timeout_ms} ms. This timeout value can be configured, see consumers doc guide to \
             learn more"
        );
        Self::new(Code::PreconditionFailed, text)
    }

    pub(crate) fn too_large(size: u64, max: usize) -> Self {
        let text = format!("message size {size} is larger than configured max size {max}");
        Self::new(Code::PreconditionFailed, text)
    }

    pub(crate) fn shutdown() -> Self {
        let text = "broker forced connection closure with reason 'shutdown'";
        Self::new(Code::ConnectionForced, text)
    }

    pub(crate) fn malformed(what: &str) -> Self {
        Self::new(Code::SyntaxError, format!("{what} is malformed"))
    }

    pub(crate) fn not_implemented(text: impl Into<String>) -> Self {
        Self::new(Code::NotImplemented, text)
    }
}

impl From<FrameFault> for Fault {
    fn from(fault: FrameFault) -> Self {
        Self::new(Code::FrameError, fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_ends_in_dots() {
        let text = |len| Fault::new(Code::NotFound, "x".repeat(len)).close((0, 0)).text;
        // "NOT_FOUND - " goes before.
        assert_eq!(text(243).len(), 255);
        assert!(text(243).ends_with("xxx"));
        assert_eq!((text(244).len(), text(244).ends_with("xx...")), (255, true));
        let wide = Fault::new(Code::NotFound, "\u{e9}".repeat(200)).close((0, 0)).text;
        assert!(wide.ends_with("\u{e9}...") && wide.len() <= 255, "{wide}");
    }
}
