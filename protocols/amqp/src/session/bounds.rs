//! What a peer is told whose virtual host or user has as much as it may.

use mainstem_broker::usage::{Over, Scope};

use super::{Code, Effects, Fault, Session};

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

    /// The user has as many channels as it may: that one more was opened ends the connection.
    pub fn channel_turned_away(&mut self, over: &Over, effects: &mut Effects) {
        // The answer that it was opened.
        effects.clear();
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
