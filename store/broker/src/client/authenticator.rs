//! Who verifies peers, by one proof or by an exchange.

use mainstem_schemas::{Credentials, Principal};

use super::{Broker, Client};
use crate::{
    error::{LoginError, Refusal},
    inbox::Inbox,
};

/// What a server says first to a client that proves that it knows a password without sending it
/// (SCRAM-SHA-256, RFC 5802 and 7677).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Never given before; printable and without a comma.
    pub nonce: String,
    /// Always the same for a name.
    pub salt: Vec<u8>,
    pub iterations: u32,
}

/// Verifies who somebody is. Chosen when the process starts.
pub trait Authenticator: Send + Sync {
    /// The identity behind `credentials`, allowed in the namespace they ask for.
    fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError>;

    /// What a client of this name is to prove itself with; names that nobody has are answered in the
    /// same way. `None` where no such exchange is offered.
    fn challenge(&self, _user: &str) -> Option<Challenge> {
        None
    }

    /// The server's own proof that it knows the user's password, over what both said. Only for a user
    /// who was verified.
    fn countersign(&self, _user: &str, _said: &[u8]) -> Vec<u8> {
        Vec::new()
    }
}

/// The name that the server itself goes by.
const OWN_NAME: &str = "mainstem";

impl Broker {
    /// A client of the server's own, which speaks for those who cannot any more.
    pub async fn own_client(&self, namespace: &str) -> Result<(Client, Inbox), Refusal> {
        self.admit(Principal { name: OWN_NAME.into(), namespace: namespace.into() }).await
    }

    /// The identity behind `credentials`, without letting it in.
    pub fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError> {
        self.shared.authenticator.verify(credentials)
    }

    /// See [`Authenticator::challenge`].
    #[must_use]
    pub fn challenge(&self, user: &str) -> Option<Challenge> {
        self.shared.authenticator.challenge(user)
    }

    /// See [`Authenticator::countersign`].
    #[must_use]
    pub fn countersign(&self, user: &str, said: &[u8]) -> Vec<u8> {
        self.shared.authenticator.countersign(user, said)
    }
}
