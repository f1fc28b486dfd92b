//! What a connection has sent and what is not published yet: how much memory it takes.

use super::{Code, Fault, Session};

/// Kept up to date with every frame, so that nobody adds up all channels.
#[derive(Debug, Default)]
pub(super) struct Unpublished {
    /// Of all channels together.
    pub(super) bytes: usize,
    /// The channel whose unfinished message may still be a slice of what was read last.
    attached: Option<u16>,
}

impl Session {
    /// What a channel holds may have changed.
    pub(super) fn recount(&mut self, channel: u16) {
        let Some(open) = self.channels.get_mut(&channel) else { return };
        let bytes = open.unpublished_bytes();
        let before = std::mem::replace(&mut open.counted_bytes, bytes);
        self.unpublished.bytes = self.unpublished.bytes - before + bytes;
    }

    pub(super) fn forget_channel(&mut self, channel: u16) {
        let counted = self.channels.remove(&channel).map_or(0, |open| open.counted_bytes);
        self.unpublished.bytes -= counted;
    }

    /// A message begins on a channel. Mostly it is whole before another one begins, and needs no
    /// memory of its own till then.
    pub(super) fn attach(&mut self, channel: u16) {
        if self.unpublished.attached != Some(channel) {
            self.detach();
            self.unpublished.attached = Some(channel);
        }
    }

    /// All that was read at once has been handled: what is unfinished keeps nothing else of it.
    pub fn detach(&mut self) {
        let attached = self.unpublished.attached.take();
        if let Some(open) = attached.and_then(|channel| self.channels.get_mut(&channel)) {
            open.incoming.detach();
        }
    }

    /// Whether the connection has sent more than it may that is not published yet. One message
    /// always has room, with its header.
    pub(super) fn check_unpublished(&self) -> Result<(), Fault> {
        let whole_message = self.body_max.saturating_add(2 * self.frame_max);
        let max = self.limits.unpublished_bytes_max.max(whole_message);
        if self.unpublished.bytes <= max {
            return Ok(());
        }
        let text = format!("more than {max} bytes were sent that are not published yet");
        Err(Fault::new(Code::ResourceError, text))
    }
}
