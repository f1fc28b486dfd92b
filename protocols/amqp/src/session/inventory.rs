//! What an operator sees of a connection, and how it is ended from outside.

use std::sync::Arc;

use mainstem_broker::{
    Did, Introduction, Line,
    roll::{self, Channel as Seen, Named},
};
use mainstem_schemas::UnixMillis;

use super::{
    Code, Effects, Fault, Phase, Session,
    channel::{Channel, Mode},
};

impl Session {
    /// What is known of the client when it is let in. What it says of itself is told once.
    pub fn introduce(&mut self, line: Arc<Line>) -> Introduction {
        Introduction {
            line,
            protocol: "AMQP 0-9-1",
            mechanism: self.mechanism,
            client_id: String::new(),
            properties: std::mem::take(&mut self.client_properties),
            frame_bytes_max: u32::try_from(self.frame_max).unwrap_or(u32::MAX),
            heartbeat_s: self.heartbeat_s,
            channels_max: self.channel_max,
        }
    }

    /// The channels that are open, by number.
    #[must_use]
    pub fn channels(&self, now: UnixMillis) -> Vec<roll::Channel> {
        let open = self.channels.iter().filter(|(_, open)| !open.closing);
        let see = |(number, open): (&u16, &Channel)| self.see(*number, open, now);
        let mut seen: Vec<Seen> = open.map(see).collect();
        seen.sort_unstable_by_key(|channel| channel.number);
        seen
    }

    fn see(&self, number: u16, open: &Channel, now: UnixMillis) -> Seen {
        let timeout_ms = |id| self.readers.get(id).map_or(0, |reader| reader.timeout_ms);
        let consumers = open.consumers.iter().map(|(tag, id)| Named {
            consumer: *id,
            name: String::from_utf8_lossy(tag).into_owned(),
            settle_max_ms: timeout_ms(id),
        });
        let (uncommitted, settlements_uncommitted) = match &open.mode {
            Mode::Transaction(waiting) => {
                (waiting.publishes.len() as u64, waiting.settled.len() as u64)
            }
            Mode::Plain | Mode::Confirm { .. } => (0, 0),
        };
        let unconfirmed = match open.mode {
            Mode::Confirm { last } => last.saturating_sub(open.answered),
            Mode::Plain | Mode::Transaction(_) => 0,
        };
        Seen {
            number,
            // What a commit would settle is not settled yet.
            unsettled: open.unsettled.len() as u64 + settlements_uncommitted,
            prefetch: open.prefetch,
            shared_prefetch: open.shared_prefetch,
            confirms: matches!(open.mode, Mode::Confirm { .. }),
            is_transactional: matches!(open.mode, Mode::Transaction(_)),
            uncommitted,
            settlements_uncommitted,
            unconfirmed,
            counts: open.meter.read(now),
            consumers: consumers.collect(),
        }
    }

    /// Something happened on a channel.
    pub(crate) fn note(&mut self, channel: u16, did: Did, count: u64) {
        if count > 0
            && let Some(open) = self.channels.get_mut(&channel)
        {
            open.meter.add(self.now, did, count);
        }
    }

    /// Somebody wants the connection ended.
    pub fn end(&mut self, reason: &str, effects: &mut Effects) {
        if self.phase == Phase::Running {
            self.fail(0, &Fault::new(Code::ConnectionForced, reason), (0, 0), effects);
        }
    }
}
