//! Who may log in: the users, the namespaces and the anonymous rule of the configuration.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use hmac::{Hmac, Mac};
use mainstem_broker::{Authenticator, Challenge, LoginError};
use mainstem_schemas::{Credentials, Principal, Secret};
use sha1::Sha1;
use subtle::ConstantTimeEq;

use crate::{
    config::{Anonymous, Config, User},
    scram::Scram,
};

/// The name of somebody without one.
pub const ANONYMOUS: &str = "anonymous";

/// The identities of a configuration.
pub struct StaticUsers {
    anonymous: Anonymous,
    namespaces: HashSet<String>,
    users: HashMap<String, User>,
    /// Access key -> user name.
    keys: HashMap<String, String>,
    scram: Scram,
}

impl StaticUsers {
    /// The identities of this configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let users = config.users.iter();
        let keys = users.clone().filter(|user| !user.access_key.is_empty());
        Self {
            anonymous: config.anonymous,
            namespaces: config.namespaces.iter().cloned().collect(),
            keys: keys.map(|user| (user.access_key.clone(), user.name.clone())).collect(),
            scram: Scram::new(users.clone().map(|user| (&*user.name, &*user.password))),
            users: users.map(|user| (user.name.clone(), user.clone())).collect(),
        }
    }

    fn user_by_password(&self, name: &str, password: &[u8]) -> Option<&User> {
        let user = self.users.get(name)?;
        let same: bool = user.password.as_bytes().ct_eq(password).into();
        same.then_some(user)
    }

    fn user_by_signature(&self, key: &str, signed: &[u8], mac: &[u8]) -> Option<&User> {
        let user = self.users.get(self.keys.get(key)?)?;
        let mut expected = Hmac::<Sha1>::new_from_slice(user.secret_key.as_bytes()).ok()?;
        expected.update(signed);
        // Compares in constant time.
        expected.verify_slice(mac).ok().map(|()| user)
    }

    fn name_of(&self, credentials: &Credentials) -> Result<&str, LoginError> {
        let local = is_loopback(credentials.peer.ip());
        let user = match &credentials.secret {
            Secret::Anonymous => {
                return match self.anonymous {
                    Anonymous::Anywhere => Ok(ANONYMOUS),
                    Anonymous::Loopback if local => Ok(ANONYMOUS),
                    Anonymous::Loopback | Anonymous::Off => Err(LoginError::BadCredentials),
                };
            }
            Secret::Password { user, password } => self.user_by_password(user, password),
            Secret::Certificate { user } => self.users.get(user),
            Secret::Scram { user, said, proof } => {
                let proves = self.scram.prove(user, said, proof);
                self.users.get(user).filter(|_| proves)
            }
            Secret::Signature { key, signed, mac } => self.user_by_signature(key, signed, mac),
        };
        match user {
            None => Err(LoginError::BadCredentials),
            Some(user) if user.loopback_only && !local => Err(LoginError::LoopbackOnly),
            Some(user) => Ok(&user.name),
        }
    }
}

impl Authenticator for StaticUsers {
    fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError> {
        let name: Arc<str> = self.name_of(credentials)?.into();
        if !self.namespaces.contains(&credentials.namespace) {
            return Err(LoginError::NoNamespace);
        }
        Ok(Principal { name, namespace: credentials.namespace.as_str().into() })
    }

    fn challenge(&self, user: &str) -> Option<Challenge> {
        Some(self.scram.challenge(user))
    }

    fn countersign(&self, user: &str, said: &[u8]) -> Vec<u8> {
        self.scram.countersign(user, said)
    }
}

/// Whether a peer is on this machine, also when an IPv6 socket shows its IPv4 address.
pub(crate) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

    const LOCAL: &str = "127.0.0.1:9";
    const MAPPED: &str = "[::ffff:127.0.0.1]:9";
    const REMOTE: &str = "192.0.2.1:9";

    fn verify(
        sets: &[&str],
        secret: Secret,
        peer: &str,
        namespace: &str,
    ) -> Result<String, LoginError> {
        let layers: Vec<_> = sets.iter().map(|text| Layer::Set((*text).to_owned())).collect();
        let users = StaticUsers::new(&Config::load(&layers).unwrap());
        let peer = peer.parse().unwrap();
        let principal =
            users.verify(&Credentials { namespace: namespace.to_owned(), secret, peer })?;
        assert_eq!(&*principal.namespace, namespace);
        Ok(principal.name.to_string())
    }

    fn password(user: &str, password: &str) -> Secret {
        Secret::Password { user: user.to_owned(), password: password.as_bytes().to_vec() }
    }

    #[test]
    fn guest_is_for_loopback_only() {
        assert_eq!(verify(&[], password("guest", "guest"), LOCAL, "/"), Ok("guest".to_owned()));
        assert_eq!(verify(&[], password("guest", "guest"), MAPPED, "/"), Ok("guest".to_owned()));
        let remote = verify(&[], password("guest", "guest"), REMOTE, "/");
        assert_eq!(remote, Err(LoginError::LoopbackOnly));
        // A wrong password says nothing about the account.
        let wrong = verify(&[], password("guest", "Guest"), REMOTE, "/");
        assert_eq!(wrong, Err(LoginError::BadCredentials));
    }

    #[test]
    fn anonymous_comes_from_where_the_rule_says() {
        let anonymous = |sets: &[&str], peer| verify(sets, Secret::Anonymous, peer, "/").is_ok();
        assert!(anonymous(&[], LOCAL) && !anonymous(&[], REMOTE));
        assert!(!anonymous(&["anonymous=off"], LOCAL));
        assert!(anonymous(&["anonymous=anywhere"], REMOTE));
    }

    #[test]
    fn only_listed_namespaces_exist() {
        let login =
            |sets: &[&str], namespace| verify(sets, password("guest", "guest"), LOCAL, namespace);
        assert_eq!(login(&[], "other"), Err(LoginError::NoNamespace));
        assert!(login(&["namespaces=['/', 'other']"], "other").is_ok());
    }

    #[test]
    fn a_signature_is_checked_with_the_keys_secret() {
        let set = "users=[{name='job', password='p', access_key='ak', secret_key='key'}]";
        let text = b"The quick brown fox jumps over the lazy dog";
        // RFC 2104's HMAC-SHA1 of that text with the key "key".
        let mac = [
            0xde, 0x7c, 0x9b, 0x85, 0xb8, 0xb7, 0x8a, 0xa6, 0xbc, 0x8a, 0x7a, 0x36, 0xf7, 0x0a,
            0x90, 0x70, 0x1c, 0x9d, 0xb4, 0xd9,
        ];
        let signed = |key: &str, mac: &[u8]| Secret::Signature {
            key: key.to_owned(),
            signed: text.to_vec(),
            mac: mac.to_vec(),
        };
        assert_eq!(verify(&[set], signed("ak", &mac), REMOTE, "/"), Ok("job".to_owned()));
        assert!(verify(&[set], signed("ak", &mac[..19]), REMOTE, "/").is_err());
        assert!(verify(&[set], signed("job", &mac), REMOTE, "/").is_err());
    }
}
