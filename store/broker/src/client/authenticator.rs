//! Who verifies peers, by one proof or by an exchange.

use std::sync::Arc;

use mainstem_schemas::{Credentials, Principal};
use tokio::sync::Semaphore;

use super::{AllRights, Broker, Client, Rights};
use crate::{
    error::{LoginError, Refusal},
    inbox::Inbox,
    meter::Did,
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

/// Logins that wait for their passwords to be hashed: at 30 ms each, and one at a time, 15 s.
const HASHING_WAIT_MAX: usize = 512;

/// Passwords are hashed one at a time, so that a flood of logins takes one core at most.
pub(crate) struct Hashing {
    waiting: Semaphore,
    working: Semaphore,
}

impl Default for Hashing {
    fn default() -> Self {
        Self { waiting: Semaphore::new(HASHING_WAIT_MAX), working: Semaphore::new(1) }
    }
}

/// What somebody may look after, besides what their rights say; each of them also what stands before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Office {
    /// Nothing: they send and read.
    #[default]
    None,
    /// What their rights reach.
    Manager,
    /// To see what is everybody's.
    Monitor,
    /// The whole server.
    Administrator,
}

/// Verifies who somebody is, and says what they may do. Chosen when the process starts.
pub trait Authenticator: Send + Sync {
    /// The identity behind `credentials`, allowed in the namespace they ask for.
    fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError>;

    /// Whether [`Authenticator::verify`] answers within microseconds. Where it does not, since a password
    /// is to be hashed, it is asked beside the threads that serve.
    fn is_quick(&self, _credentials: &Credentials) -> bool {
        true
    }

    /// What an identity may do that calls itself so, for as long as the edition is the same.
    fn rights(&self, _principal: &Principal, _client_id: Option<&str>) -> Arc<dyn Rights> {
        Arc::new(AllRights)
    }

    /// Puts a new secret in the place of the one that an identity showed when it was let in, which
    /// comes to its end. Passwords do not.
    fn renew(&self, _principal: &Principal, _secret: &[u8]) -> Result<(), LoginError> {
        Ok(())
    }

    /// What an identity looks after now.
    fn office(&self, _principal: &Principal) -> Office {
        Office::None
    }

    /// Grows when anybody's rights may have changed; at least 1.
    fn edition(&self) -> u64 {
        1
    }

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

impl Client {
    /// What it looks after now.
    #[must_use]
    pub fn office(&self) -> Office {
        self.shared.authenticator.office(&self.principal)
    }
}

/// The name that the server itself goes by.
const OWN_NAME: &str = "mainstem";

impl Broker {
    /// A client of the server's own, which speaks for those who cannot any more.
    pub async fn own_client(&self, namespace: &str) -> Result<(Client, Inbox), Refusal> {
        self.admit(Principal::named(OWN_NAME, namespace), true).await
    }

    /// The identity behind a proof that [`Authenticator::is_quick`] to check, without letting it in.
    pub fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError> {
        self.shared.authenticator.verify(credentials)
    }

    /// The identity behind `credentials`, without letting it in. Errors: [`LoginError::Busy`] when too
    /// many wait whose passwords are to be hashed.
    pub async fn identify(&self, credentials: &Credentials) -> Result<Principal, LoginError> {
        let authenticator = &self.shared.authenticator;
        let found = if authenticator.is_quick(credentials) {
            authenticator.verify(credentials)
        } else {
            let (authenticator, credentials) = (authenticator.clone(), credentials.clone());
            self.hash_beside(move || authenticator.verify(&credentials)).await?
        };
        let did = if found.is_ok() { Did::LogIn } else { Did::FailLogin };
        self.shared.usage.totals.add(did, 1);
        found
    }

    /// Does what hashes a password beside the threads that serve, one after the other. Errors:
    /// [`LoginError::Busy`] when too many wait for that.
    pub async fn hash_beside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LoginError> {
        let Hashing { waiting, working } = &self.shared.hashing;
        let _waits = waiting.try_acquire().map_err(|_| LoginError::Busy)?;
        let _works = working.acquire().await.map_err(|_| LoginError::Closed)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| LoginError::Closed)
    }

    /// See [`Authenticator::renew`].
    pub fn renew(&self, principal: &Principal, secret: &[u8]) -> Result<(), LoginError> {
        self.shared.authenticator.renew(principal, secret)
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
