//! How many connections and channels a peer may have, and what it is told at the bound.

use mainstem_broker::usage::{Over, Scope};

use super::{Channel, Code, Effect, Effects, Fault, Session};
use crate::codec::Reply;

impl Session {
    /// The virtual host, or the user, has as many connections as it may.
    pub fn turned_away(&mut self, vhost: &str, over: &Over, effects: &mut Effects) {
        let (user, max) = (&self.user, over.max);
        let text = match &over.scope {
            Scope::Namespace(_) => format!(
                "access to vhost '{vhost}' refused for user '{user}': connection limit ({max}) is \
                 reached"
            ),
            Scope::User(_) => format!(
                "connection refused for user '{user}': user connection limit ({max}) is reached"
            ),
        };
        self.fail(0, &Fault::new(Code::NotAllowed, text), (10, 40), effects);
    }

    /// channel_max counts open channels; it does not bound their numbers.
    pub(super) fn open_channel(
        &mut self,
        channel: u16,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let others = self.channels.len();
        if others >= usize::from(self.channel_max) {
            let text = format!(
                "number of channels opened ({others}) has reached the negotiated channel_max ({})",
                self.channel_max
            );
            return Err(Fault::new(Code::NotAllowed, text));
        }
        self.channel_lives = self.channel_lives.wrapping_add(1);
        self.channels.insert(channel, Channel::new(self.channel_lives));
        effects.push_back(Effect::CountChannel { channel, others });
        Ok(())
    }

    /// What came of [`Effect::CountChannel`]. That a user has as many channels as it may and opens
    /// one more ends the connection.
    pub fn channel_counted(
        &mut self,
        channel: u16,
        counted: Result<(), Over>,
        effects: &mut Effects,
    ) {
        let Err(over) = counted else {
            return effects.push_back(Effect::Write { channel, reply: Reply::ChannelOpenOk });
        };
        let text = format!(
            "number of channels opened for user '{}' has reached the maximum allowed user limit \
             of ({})",
            self.user, over.max
        );
        self.fail(0, &Fault::new(Code::NotAllowed, text), (20, 10), effects);
    }

    /// Channels that are open.
    #[must_use]
    pub fn channels_open(&self) -> usize {
        self.channels.len()
    }
}
