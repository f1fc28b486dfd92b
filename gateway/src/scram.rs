//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677): what it keeps of a password, and the proofs
//! of both sides.

use std::{collections::HashMap, num::NonZeroU32};

use base64::{Engine, prelude::BASE64_STANDARD};
use mainstem_broker::Challenge;
use ring::{
    digest, hmac, pbkdf2,
    rand::{SecureRandom, SystemRandom},
};
use subtle::ConstantTimeEq;

/// RFC 7677 §4 asks for at least so many.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("it is not zero");
const KEY_BYTES: usize = digest::SHA256_OUTPUT_LEN;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;

/// What proves a password, and nothing that gives it away.
struct Keys {
    stored: [u8; KEY_BYTES],
    server: hmac::Key,
}

impl Keys {
    fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut salted);
        let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client = hmac::sign(&salted, b"Client Key");
        let server = hmac::sign(&salted, b"Server Key");
        Self { stored: sha256(client.as_ref()), server: hmac_key(server.as_ref()) }
    }

    /// RFC 5802 §3: the proof is the client's key under a signature by the stored one.
    fn prove(&self, said: &[u8], proof: &[u8]) -> bool {
        let signature = hmac::sign(&hmac_key(&self.stored), said);
        if proof.len() != KEY_BYTES {
            return false;
        }
        let client: Vec<u8> = signature.as_ref().iter().zip(proof).map(|(a, b)| a ^ b).collect();
        sha256(&client).ct_eq(&self.stored).into()
    }
}

fn hmac_key(bytes: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, bytes)
}

fn sha256(bytes: &[u8]) -> [u8; KEY_BYTES] {
    let mut out = [0; KEY_BYTES];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// The keys of all users, derived beforehand: to prove takes as long for a name that nobody has. Salts are
/// by name and by process, so that they do not tell either which names there are.
pub(crate) struct Scram {
    random: SystemRandom,
    secret: hmac::Key,
    keys: HashMap<String, Keys>,
    /// For names that nobody has; no password leads to them.
    nobody: Keys,
}

impl Scram {
    /// For these names and passwords. Takes a millisecond or two for each.
    pub(crate) fn new<'a>(users: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let random = SystemRandom::new();
        let nobody =
            Keys { stored: bytes(&random), server: hmac_key(&bytes::<KEY_BYTES>(&random)) };
        let secret = hmac_key(&bytes::<KEY_BYTES>(&random));
        let mut scram = Self { random, secret, keys: HashMap::new(), nobody };
        for (user, password) in users {
            let keys = Keys::derive(password.as_bytes(), &scram.salt(user), ITERATIONS);
            scram.keys.insert(user.to_owned(), keys);
        }
        scram
    }

    fn salt(&self, user: &str) -> Vec<u8> {
        let whole = hmac::sign(&self.secret, user.as_bytes());
        whole.as_ref().iter().copied().take(SALT_BYTES).collect()
    }

    pub(crate) fn challenge(&self, user: &str) -> Challenge {
        let nonce = BASE64_STANDARD.encode(bytes::<NONCE_BYTES>(&self.random));
        Challenge { nonce, salt: self.salt(user), iterations: ITERATIONS.get() }
    }

    fn keys(&self, user: &str) -> &Keys {
        self.keys.get(user).unwrap_or(&self.nobody)
    }

    /// Whether a client that said this knows the password.
    pub(crate) fn prove(&self, user: &str, said: &[u8], proof: &[u8]) -> bool {
        self.keys(user).prove(said, proof)
    }

    pub(crate) fn countersign(&self, user: &str, said: &[u8]) -> Vec<u8> {
        hmac::sign(&self.keys(user).server, said).as_ref().to_vec()
    }
}

fn bytes<const N: usize>(random: &SystemRandom) -> [u8; N] {
    let mut out = [0; N];
    random.fill(&mut out).expect("the system gives random bytes");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_are_those_of_rfc_7677() {
        let said = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
                    r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
                    c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let bytes = |text: &str| BASE64_STANDARD.decode(text).unwrap();
        let keys = Keys::derive(b"pencil", &bytes("W22ZaJ0SNY7soEsUEjb6gQ=="), ITERATIONS);
        let proof = bytes("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert!(keys.prove(said.as_bytes(), &proof));
        assert!(!keys.prove(b"something else", &proof));
        assert!(!keys.prove(said.as_bytes(), &proof[1..]));
        let signature = hmac::sign(&keys.server, said.as_bytes());
        assert_eq!(signature.as_ref(), bytes("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    }

    #[test]
    fn nobody_learns_which_names_there_are() {
        let scram = Scram::new([("guest", "guest")]);
        let (known, unknown) = (scram.challenge("guest"), scram.challenge("nobody"));
        assert_eq!(
            known.salt,
            scram.challenge("guest").salt,
            "clients may keep the salted password"
        );
        assert_eq!((unknown.salt.len(), unknown.iterations), (known.salt.len(), known.iterations));
        assert_ne!(unknown.salt, known.salt);
        assert_ne!(known.nonce, scram.challenge("guest").nonce);
        assert!(!known.nonce.contains(','));
        assert!(!scram.prove("nobody", b"said", &[0; KEY_BYTES]));
    }
}
