//! Who may log in, and what they may do then: the configuration's users and those that were set since.

pub mod directory;
pub mod grant;
pub mod operator;
pub mod password;
pub mod registry;
pub mod tokens;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use hmac::{Hmac, Mac};
use mainstem_broker::{AllRights, Authenticator, Challenge, LoginError, Office, Rights, now};
use mainstem_schemas::{Credentials, Principal, Secret, UnixMillis, Warrant as Shown};
use ring::{hmac as keyed, rand::SystemRandom};
use sha1::Sha1;
use subtle::ConstantTimeEq;

use crate::{
    config::{Anonymous, Config},
    scram::Scram,
};
use directory::{Account, Directory, Proof, Said};
use grant::{Grant, TopicPermission, Whose};
use operator::{OPERATOR, Token};
use password::Kept;
use tokens::{TokenRights, Tokens, Warrant, is_token};

/// The name of somebody without one.
pub const ANONYMOUS: &str = "anonymous";

/// Passwords that were found right and are not hashed again, so that whoever comes back is quick.
const PROVEN_MAX: usize = 65_536;

/// Patterns, and what they were made of.
type Ready = (Said, Arc<Grant>);

/// Users' rights in namespaces that are kept ready.
const GRANTS_MAX: usize = 16_384;

/// Everybody who may come in.
pub struct Access {
    anonymous: Anonymous,
    directory: RwLock<Arc<Directory>>,
    /// How often the directory was replaced, and once more.
    edition: AtomicU64,
    scram: Scram,
    /// Of names, hashes and passwords that belong together, under a key that is this process's own.
    proven: Mutex<HashSet<[u8; 32]>>,
    /// Shared by all who may do everything, since those are most.
    all: Arc<AllRights>,
    /// What users may do in namespaces, made ready once for all their connections, and from what.
    grants: Mutex<HashMap<(String, String), Ready>>,
    secret: keyed::Key,
    tokens: Option<Tokens>,
    clock: fn() -> UnixMillis,
    /// Lets whoever may read the data directory in.
    operator: Token,
}

/// Somebody who showed who they are.
pub struct Identity {
    pub name: String,
    pub tags: Vec<String>,
    /// What a token permits, in the place of what is set for the name.
    pub(crate) warrant: Option<Arc<Warrant>>,
}

impl Access {
    /// What the configuration says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let users = config.users.iter();
        let secret = keyed::Key::generate(keyed::HMAC_SHA256, &SystemRandom::new());
        Self {
            anonymous: config.anonymous,
            directory: RwLock::new(Arc::new(Directory::of(config))),
            edition: AtomicU64::new(1),
            scram: Scram::new(users.map(|user| (&*user.name, &*user.password))),
            proven: Mutex::default(),
            all: Arc::new(AllRights),
            grants: Mutex::default(),
            secret: secret.expect("the system gives random bytes"),
            tokens: Tokens::of(&config.tokens),
            clock: now,
            operator: Token::new(),
        }
    }

    /// What lets whoever may read the data directory in.
    #[must_use]
    pub fn operator(&self) -> &Token {
        &self.operator
    }

    /// As it is now.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes it for everybody. Two changes at a time come one after the other.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Directory)) {
        let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut directory));
        drop(directory);
        self.edition.fetch_add(1, Ordering::Release);
    }

    fn is_password(&self, user: &str, account: &Account, password: &[u8]) -> bool {
        match &account.proof {
            Proof::Plain(known, _) => known.as_bytes().ct_eq(password).into(),
            Proof::Kept(kept) if kept.is_quick() => kept.is_of(password),
            Proof::Kept(kept) => {
                let mark = self.mark(user, kept, password);
                if self.is_proven(&mark) {
                    return true;
                }
                let is_right = kept.is_of(password);
                if is_right {
                    let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
                    if proven.len() >= PROVEN_MAX {
                        proven.clear();
                    }
                    proven.insert(mark);
                }
                is_right
            }
        }
    }

    fn is_proven(&self, mark: &[u8; 32]) -> bool {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).contains(mark)
    }

    fn mark(&self, user: &str, kept: &Kept, password: &[u8]) -> [u8; 32] {
        let mut context = keyed::Context::with_key(&self.secret);
        for part in [user.as_bytes(), kept.hash().as_bytes(), password] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut mark = [0; 32];
        mark.copy_from_slice(context.sign().as_ref());
        mark
    }

    /// What a user may do in a namespace. Shared by all its connections, unless it hangs on what each calls
    /// itself.
    fn grant(&self, directory: &Directory, whose: Whose<'_>) -> Option<Arc<Grant>> {
        let said = directory.said(whose)?;
        if said.1.values().any(TopicPermission::names_client) {
            return Some(Arc::new(directory.grant(whose)?));
        }
        let of = (whose.namespace.to_owned(), whose.user.to_owned());
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, grant)) = grants.get(&of).filter(|(known, _)| *known == said) {
            return Some(grant.clone());
        }
        if grants.len() >= GRANTS_MAX {
            grants.clear();
        }
        let grant = Arc::new(directory.grant(whose)?);
        grants.insert(of, (said, grant.clone()));
        Some(grant)
    }

    /// Whose credentials these are, whatever namespace they are for, and the tags of that user.
    pub fn user_of(&self, credentials: &Credentials) -> Result<Identity, LoginError> {
        if let Some(warrant) = self.warrant_of(credentials) {
            let warrant = warrant?;
            let token = warrant.token();
            let (name, tags) = (token.name.clone(), token.tags().to_vec());
            return Ok(Identity { name, tags, warrant: Some(warrant) });
        }
        let directory = self.directory();
        let name = self.name_of(&directory, credentials)?;
        if name == OPERATOR {
            let tags = vec!["administrator".to_owned()];
            return Ok(Identity { name, tags, warrant: None });
        }
        let tags = directory.users.get(&name).map(|user| user.tags.clone()).unwrap_or_default();
        Ok(Identity { name, tags, warrant: None })
    }

    /// Whoever issues tokens, if somebody does.
    pub(crate) fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    /// What a token in the place of a password permits. It is never tried as a password.
    fn warrant_of(&self, credentials: &Credentials) -> Option<Result<Arc<Warrant>, LoginError>> {
        let (Secret::Password { password, .. } | Secret::Token(password)) = &credentials.secret
        else {
            return None;
        };
        let tokens = self.tokens.as_ref().filter(|_| is_token(password))?;
        let token = tokens.verify(password, (self.clock)()).map_err(|odd| {
            let peer = credentials.peer;
            tracing::info!(event = "token_refused", %peer, "a token is not taken: {odd}");
            LoginError::BadCredentials
        });
        Some(token.map(|token| Arc::new(Warrant::new(token))))
    }

    /// Whose credentials these are.
    fn name_of(
        &self,
        directory: &Directory,
        credentials: &Credentials,
    ) -> Result<String, LoginError> {
        let local = is_loopback(credentials.peer.ip());
        let account = |name: &str| directory.users.get(name);
        let found = match &credentials.secret {
            Secret::Anonymous => {
                return match self.anonymous {
                    Anonymous::Anywhere => Ok(ANONYMOUS.to_owned()),
                    Anonymous::Loopback if local => Ok(ANONYMOUS.to_owned()),
                    Anonymous::Loopback | Anonymous::Off => Err(LoginError::BadCredentials),
                };
            }
            Secret::Password { user, password } => account(user)
                .filter(|account| self.is_password(user, account, password))
                .map(|account| (user.as_str(), account)),
            Secret::Certificate { user } => account(user).map(|account| (user.as_str(), account)),
            Secret::Scram { user, said, proof } => {
                let proves = self.scram.prove(user, said, proof);
                // Of a password that was set since, it knows nothing.
                let found =
                    account(user).filter(|account| matches!(account.proof, Proof::Plain(..)));
                found.filter(|_| proves).map(|account| (user.as_str(), account))
            }
            Secret::Token(token) => {
                let is_right = self.operator.is(token) && local;
                return if is_right {
                    Ok(OPERATOR.to_owned())
                } else {
                    Err(LoginError::BadCredentials)
                };
            }
            Secret::Signature { key, signed, mac } => {
                directory.by_key(key).filter(|(_, account)| signs(account, signed, mac))
            }
        };
        match found {
            None => Err(LoginError::BadCredentials),
            Some((_, account)) if account.loopback_only && !local => Err(LoginError::LoopbackOnly),
            Some((name, _)) => Ok(name.to_owned()),
        }
    }
}

fn signs(account: &Account, signed: &[u8], mac: &[u8]) -> bool {
    let Ok(mut expected) = Hmac::<Sha1>::new_from_slice(account.secret_key.as_bytes()) else {
        return false;
    };
    expected.update(signed);
    // Compares in constant time.
    expected.verify_slice(mac).is_ok()
}

impl Authenticator for Access {
    fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError> {
        let directory = self.directory();
        let namespace = &credentials.namespace;
        if let Some(warrant) = self.warrant_of(credentials) {
            let warrant = warrant?;
            let token = warrant.token();
            return match directory.namespaces.contains_key(namespace) {
                false => Err(LoginError::NoNamespace),
                true if !token.sees(namespace) => Err(LoginError::NoAccess),
                true => Ok(Principal {
                    warrant: Some(Shown(warrant)),
                    ..Principal::named(token.name.as_str(), namespace.as_str())
                }),
            };
        }
        let name: Arc<str> = self.name_of(&directory, credentials)?.into();
        if !directory.namespaces.contains_key(namespace) {
            return Err(LoginError::NoNamespace);
        }
        let of = (namespace.clone(), (*name).to_owned());
        let needs_no_permission =
            matches!(credentials.secret, Secret::Anonymous | Secret::Token(_));
        if !needs_no_permission && !directory.permissions.contains_key(&of) {
            return Err(LoginError::NoAccess);
        }
        Ok(Principal::named(name, namespace.as_str()))
    }

    fn is_quick(&self, credentials: &Credentials) -> bool {
        let Secret::Password { user, password } = &credentials.secret else { return true };
        if self.tokens.is_some() && is_token(password) {
            return true;
        }
        let directory = self.directory();
        match directory.users.get(user).map(|account| &account.proof) {
            Some(Proof::Kept(kept)) if !kept.is_quick() => {
                self.is_proven(&self.mark(user, kept, password))
            }
            _ => true,
        }
    }

    fn rights(&self, principal: &Principal, client_id: Option<&str>) -> Arc<dyn Rights> {
        let (user, namespace) = (&*principal.name, &*principal.namespace);
        if let Some(warrant) = warrant(principal) {
            let namespace = principal.namespace.clone();
            return Arc::new(TokenRights { warrant, namespace, clock: self.clock });
        }
        let directory = self.directory();
        if !directory.namespaces.contains_key(namespace) {
            return Arc::new(Grant::none());
        }
        if user == OPERATOR {
            return self.all.clone();
        }
        if user == ANONYMOUS && !directory.users.contains_key(ANONYMOUS) {
            return self.all.clone();
        }
        match self.grant(&directory, Whose { user, namespace, client_id }) {
            Some(grant) if grant.is_all() => self.all.clone(),
            Some(grant) => grant,
            None => Arc::new(Grant::none()),
        }
    }

    fn renew(&self, principal: &Principal, secret: &[u8]) -> Result<(), LoginError> {
        let (Some(warrant), Some(tokens)) = (warrant(principal), &self.tokens) else {
            return Ok(());
        };
        let token =
            tokens.verify(secret, (self.clock)()).map_err(|_| LoginError::BadCredentials)?;
        if token.name != *principal.name || !token.sees(&principal.namespace) {
            return Err(LoginError::NoAccess);
        }
        warrant.renew(token);
        Ok(())
    }

    /// By their tags, as the HTTP API does.
    fn office(&self, principal: &Principal) -> Office {
        let directory = self.directory();
        let token = warrant(principal).map(|warrant| warrant.token());
        let tags = match &token {
            Some(token) => token.tags(),
            None => directory.users.get(&*principal.name).map_or(&[][..], |user| &user.tags),
        };
        let offices = tags.iter().map(|tag| match tag.as_str() {
            "administrator" => Office::Administrator,
            "monitoring" => Office::Monitor,
            "policymaker" | "management" => Office::Manager,
            _ => Office::None,
        });
        offices.max().unwrap_or_default()
    }

    fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }

    fn challenge(&self, user: &str) -> Option<Challenge> {
        Some(self.scram.challenge(user))
    }

    fn countersign(&self, user: &str, said: &[u8]) -> Vec<u8> {
        self.scram.countersign(user, said)
    }
}

/// What a token permits that an identity showed.
pub(crate) fn warrant(principal: &Principal) -> Option<Arc<Warrant>> {
    principal.warrant.as_ref()?.0.clone().downcast().ok()
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
        let users = Access::new(&Config::load(&layers).unwrap());
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
    fn the_token_is_for_loopback_only_and_of_one_start() {
        let access = Access::new(&Config::default());
        let token = access.operator().text().as_bytes().to_vec();
        let verify = |token: &[u8], peer: &str, namespace: &str| {
            let (secret, peer) = (Secret::Token(token.to_vec()), peer.parse().unwrap());
            let credentials = Credentials { namespace: namespace.to_owned(), secret, peer };
            access.verify(&credentials).map(|principal| access.rights(&principal, None).is_all())
        };
        assert_eq!(verify(&token, LOCAL, "/"), Ok(true));
        assert_eq!(verify(&token, MAPPED, "/"), Ok(true));
        assert_eq!(verify(&token, LOCAL, "nowhere"), Err(LoginError::NoNamespace));
        let other = Access::new(&Config::default()).operator().text().as_bytes().to_vec();
        for (wrong, peer) in
            [(&token[..], REMOTE), (&token[1..], LOCAL), (&other[..], LOCAL), (b"", LOCAL)]
        {
            assert_eq!(verify(wrong, peer, "/"), Err(LoginError::BadCredentials));
        }
        // Nobody is it by another proof.
        assert!(
            access
                .verify(&Credentials {
                    namespace: "/".to_owned(),
                    secret: Secret::Certificate { user: OPERATOR.to_owned() },
                    peer: LOCAL.parse().unwrap(),
                })
                .is_err()
        );
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
