//! A password as it is kept: a hash that tells whether a password is the one, and nothing else.

use argon2::{Argon2, PasswordHasher, PasswordVerifier, password_hash::phc::PasswordHash};
use base64::{Engine, prelude::BASE64_STANDARD};
use md5::{Digest, Md5};
use ring::digest;
use subtle::ConstantTimeEq;

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    algorithm: Algorithm,
    /// As it is shown: for RabbitMQ's algorithms the salt and the hash in base64, else a PHC string.
    hash: String,
}

/// Written by hand so that no log line can show a hash.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kept({:?})", self.algorithm)
    }
}

/// How a password is hashed: ours, and those that RabbitMQ's definitions come with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Argon2id,
    Sha256,
    Sha512,
    Md5,
}

/// The salt that RabbitMQ puts before a hash.
const SALT_BYTES: usize = 4;

impl Algorithm {
    const ALL: [Self; 4] = [Self::Argon2id, Self::Sha256, Self::Sha512, Self::Md5];

    /// RabbitMQ's name of it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Argon2id => "argon2id",
            Self::Sha256 => "rabbit_password_hashing_sha256",
            Self::Sha512 => "rabbit_password_hashing_sha512",
            Self::Md5 => "rabbit_password_hashing_md5",
        }
    }

    /// Reads [`Algorithm::word`] back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }

    fn salted(self, salt: &[u8], password: &[u8]) -> Vec<u8> {
        let both = [salt, password].concat();
        match self {
            Self::Sha256 => digest::digest(&digest::SHA256, &both).as_ref().to_vec(),
            Self::Sha512 => digest::digest(&digest::SHA512, &both).as_ref().to_vec(),
            Self::Md5 => Md5::digest(&both).to_vec(),
            Self::Argon2id => Vec::new(),
        }
    }
}

impl Kept {
    /// Hashes a password, which takes some 30 ms and 19 MiB (OWASP's parameters for argon2id).
    #[must_use]
    pub fn of(password: &[u8]) -> Self {
        let hash = Argon2::default().hash_password(password);
        let hash = hash.expect("the salt and the parameters are the library's own").to_string();
        Self { algorithm: Algorithm::Argon2id, hash }
    }

    /// Hashes a password as RabbitMQ does.
    #[must_use]
    pub fn salted(password: &[u8]) -> Self {
        let salt: [u8; SALT_BYTES] = ring::rand::generate(&ring::rand::SystemRandom::new())
            .expect("the system gives random bytes")
            .expose();
        let hash = [&salt[..], &Algorithm::Sha256.salted(&salt, password)].concat();
        Self { algorithm: Algorithm::Sha256, hash: BASE64_STANDARD.encode(hash) }
    }

    /// No password is the one.
    #[must_use]
    pub fn none() -> Self {
        Self { algorithm: Algorithm::Sha256, hash: String::new() }
    }

    /// A hash that was made elsewhere; an empty one is nobody's password. `None` if it cannot be one of
    /// this algorithm.
    #[must_use]
    pub fn read(algorithm: Algorithm, hash: &str) -> Option<Self> {
        let is_one = match algorithm {
            Algorithm::Argon2id => PasswordHash::new(hash).is_ok(),
            other => {
                let len = SALT_BYTES + other.salted(&[], &[]).len();
                BASE64_STANDARD.decode(hash).is_ok_and(|bytes| bytes.len() == len)
            }
        };
        (hash.is_empty() || is_one).then(|| Self { algorithm, hash: hash.to_owned() })
    }

    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// As it is shown, and read back.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Whether to compare with it takes microseconds.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        self.algorithm != Algorithm::Argon2id || self.hash.is_empty()
    }

    /// Whether this is the password.
    #[must_use]
    pub fn is_of(&self, password: &[u8]) -> bool {
        if self.hash.is_empty() {
            return false;
        }
        if self.algorithm == Algorithm::Argon2id {
            return PasswordHash::new(&self.hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok());
        }
        let Ok(bytes) = BASE64_STANDARD.decode(&self.hash) else { return false };
        let Some((salt, hash)) = bytes.split_at_checked(SALT_BYTES) else { return false };
        self.algorithm.salted(salt, password).ct_eq(hash).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_rabbitmq_are_understood() {
        // From RabbitMQ's guide to passwords.
        for (hash, password) in [
            ("27cx5+wEi8R8uwTeTr3hk5azuV3yYxxAtwPPhCyrbdsxVhqq", "foobarbaz"),
            ("kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR", "test12"),
        ] {
            let kept = Kept::read(Algorithm::Sha256, hash).unwrap();
            assert!(kept.is_of(password.as_bytes()) && kept.is_quick());
            assert!(!kept.is_of(b"") && !kept.is_of(b"foobarba"));
            assert_eq!(Kept::read(Algorithm::Sha512, hash), None);
        }
    }

    #[test]
    fn every_algorithm_tells_the_password_from_others() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Md5] {
            let hash = [&b"salt"[..], &algorithm.salted(b"salt", b"secret")].concat();
            let kept = Kept::read(algorithm, &BASE64_STANDARD.encode(hash)).unwrap();
            assert!(kept.is_of(b"secret") && !kept.is_of(b"Secret"), "{algorithm:?}");
            assert_eq!(Algorithm::from_word(algorithm.word()), Some(algorithm));
        }
        let kept = Kept::of(b"secret");
        assert!(kept.is_of(b"secret") && !kept.is_of(b"Secret") && !kept.is_quick());
        assert_eq!(Kept::read(Algorithm::Argon2id, kept.hash()), Some(kept.clone()));
        assert_ne!(Kept::of(b"secret"), kept, "the salt is another one");
        assert!(!format!("{kept:?}").contains(kept.hash()));
    }

    #[test]
    fn who_has_no_hash_has_no_password() {
        let kept = Kept::read(Algorithm::Sha256, "").unwrap();
        assert!(!kept.is_of(b"") && !kept.is_of(b"x"));
        for noise in ["x", "AAAA", "$argon2id$", "\u{0}"] {
            for algorithm in Algorithm::ALL {
                assert_eq!(Kept::read(algorithm, noise), None, "{noise} {algorithm:?}");
            }
        }
    }
}
