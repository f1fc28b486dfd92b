//! Tokens that an issuer signs (JWT, RFC 7519), in the place of a password: who somebody is, what they
//! may do, and until when.

mod keys;
mod scopes;
pub(crate) mod upkeep;

use std::{
    fs,
    io::Read,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mainstem_broker::{Act, Rights};
use mainstem_schemas::UnixMillis;
use serde::Deserialize;
use serde_json::{Map, Value};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::{ANONYMOUS, operator::OPERATOR};
use keys::{Key, decode};
use scopes::Scopes;

/// Bytes of a token, which is mostly in the place of a password.
const TOKEN_BYTES_MAX: usize = 65_536;
/// Keys that a token is tried with which names none.
const TRIED_MAX: usize = 8;
/// Bytes of a set of keys.
const KEYS_BYTES_MAX: u64 = 1 << 20;
/// How long an issuer may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whose tokens are taken, and how they are read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Where its keys are: an address, or `file:` and a path; empty where no tokens are taken.
    pub keys: String,
    /// The authorities that vouch for that address, as a PEM file; empty for those of the web.
    pub ca: PathBuf,
    /// What `iss` must be; empty for anything.
    pub name: String,
    /// What must be among `aud`; empty for anything.
    pub audience: String,
    /// What scopes begin with that are meant for this server.
    pub scope_prefix: String,
    /// The claims that have scopes, beside `scope`.
    pub scope_claims: Vec<String>,
    /// The claims that say whose a token is, the first that there is.
    pub name_claims: Vec<String>,
    /// How often the keys are read anew, in seconds.
    pub refresh_s: u64,
    /// How far clocks may differ, in seconds.
    pub leeway_s: u64,
}

/// The issuer, and its keys as they were read last.
pub(crate) struct Tokens {
    issuer: Issuer,
    keys: RwLock<Vec<Key>>,
    /// A token came that no key has signed; the issuer may have another by now.
    is_stale: AtomicBool,
    /// When the first of those ends that somebody has, as far as is known; in milliseconds.
    soonest: AtomicU64,
}

/// Why a token is not taken. Nobody but the operator is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Odd {
    #[error("it is no token")]
    Form,
    #[error("no key of the issuer has signed it")]
    Signature,
    #[error("it is not valid now")]
    Time,
    #[error("it is of another issuer, or for somebody else")]
    Party,
    #[error("it does not say whose it is, or is of a name that nobody has")]
    Name,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) name: String,
    pub(crate) expires: UnixMillis,
    scopes: Scopes,
}

impl Token {
    pub(crate) fn tags(&self) -> &[String] {
        &self.scopes.tags
    }

    /// Whether there is anything to do in a namespace.
    pub(crate) fn sees(&self, namespace: &str) -> bool {
        self.scopes.sees(namespace)
    }
}

impl Tokens {
    /// `None` where no tokens are taken.
    pub(crate) fn of(issuer: &Issuer) -> Option<Self> {
        let (keys, is_stale) = (RwLock::default(), AtomicBool::new(false));
        let (issuer, soonest) = (issuer.clone(), AtomicU64::new(u64::MAX));
        let is_set = !issuer.keys.is_empty();
        is_set.then_some(Self { issuer, keys, is_stale, soonest })
    }

    pub(crate) fn refresh_every(&self) -> Duration {
        Duration::from_secs(self.issuer.refresh_s.max(1))
    }

    /// Reads the issuer's keys, which may take seconds. Those that were read before stay where that
    /// fails.
    pub(crate) fn refresh(&self) -> Result<(), String> {
        let keys = keys::read(&self.fetch()?)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    fn fetch(&self) -> Result<Vec<u8>, String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let mut body = Vec::new();
        if let Some(path) = self.issuer.keys.strip_prefix("file:") {
            let file = fs::File::open(path).map_err(|error| said(&error))?;
            file.take(KEYS_BYTES_MAX).read_to_end(&mut body).map_err(|error| said(&error))?;
            return Ok(body);
        }
        let mut tls = TlsConfig::builder();
        if !self.issuer.ca.as_os_str().is_empty() {
            let pem = fs::read(&self.issuer.ca).map_err(|error| said(&error))?;
            let all = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let all: Vec<Certificate<'static>> = all.collect();
            tls = tls.root_certs(RootCerts::Specific(Arc::new(all)));
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .max_redirects(3)
            .tls_config(tls.build())
            .build();
        let answer = ureq::Agent::new_with_config(config).get(&self.issuer.keys).call();
        let mut answer = answer.map_err(|error| said(&error))?;
        let reader = answer.body_mut().with_config().limit(KEYS_BYTES_MAX);
        reader.read_to_vec().map_err(|error| said(&error))
    }

    /// What a token says that is valid at `now`.
    pub(crate) fn verify(&self, token: &[u8], now: UnixMillis) -> Result<Token, Odd> {
        let text = std::str::from_utf8(token).map_err(|_| Odd::Form)?;
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Odd::Form);
        }
        let (signed, mac) = text.rsplit_once('.').ok_or(Odd::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(Odd::Form)?;
        let header = object(header).ok_or(Odd::Form)?;
        let algorithm = text_of(&header, "alg").ok_or(Odd::Form)?;
        let mac = decode(mac).ok_or(Odd::Form)?;
        // RFC 7515 §4.1.11: what must be understood is not.
        if header.contains_key("crit") {
            return Err(Odd::Form);
        }
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let named = keys.iter().filter(|key| key.is(text_of(&header, "kid")));
        let mut named = named.take(TRIED_MAX);
        if !named.any(|key| key.signed(algorithm, signed.as_bytes(), &mac)) {
            self.is_stale.store(true, Ordering::Relaxed);
            return Err(Odd::Signature);
        }
        drop(keys);
        let token = self.read(&object(claims).ok_or(Odd::Form)?, now)?;
        self.soonest.fetch_min(token.expires.0, Ordering::Relaxed);
        Ok(token)
    }

    fn read(&self, claims: &Map<String, Value>, now: UnixMillis) -> Result<Token, Odd> {
        let issuer = &self.issuer;
        let leeway_ms = issuer.leeway_s.saturating_mul(1000);
        let time = |claim: &str| {
            let seconds = claims.get(claim)?.as_f64().filter(|seconds| *seconds >= 0.0)?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is not negative, and a cast stops at the largest"
            )]
            Some(UnixMillis((seconds * 1000.0) as u64))
        };
        // One that never ends could never be taken back.
        let expires = time("exp").ok_or(Odd::Time)?.plus(leeway_ms);
        let begins = time("nbf").unwrap_or(UnixMillis(0));
        if expires.0 <= now.0 || begins.0 > now.plus(leeway_ms).0 {
            return Err(Odd::Time);
        }
        let is_ours = |claim: &str, wanted: &str| {
            wanted.is_empty() || words(claims.get(claim)).any(|word| word == wanted)
        };
        if !is_ours("iss", &issuer.name) || !is_ours("aud", &issuer.audience) {
            return Err(Odd::Party);
        }
        let mut names = issuer.name_claims.iter().filter_map(|claim| text_of(claims, claim));
        let name = names.find(|name| !name.is_empty()).ok_or(Odd::Name)?.to_owned();
        if name == OPERATOR || name == ANONYMOUS {
            return Err(Odd::Name);
        }
        let scopes = std::iter::once("scope").chain(issuer.scope_claims.iter().map(String::as_str));
        let scopes = scopes.flat_map(|claim| words(claims.get(claim)));
        let scopes = Scopes::read(scopes.flat_map(str::split_whitespace), &issuer.scope_prefix);
        Ok(Token { name, expires, scopes })
    }
}

/// Whether a password has the form of a token.
pub(crate) fn is_token(password: &[u8]) -> bool {
    password.starts_with(b"ey") && password.iter().filter(|byte| **byte == b'.').count() == 2
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&decode(part)?).ok()
}

fn text_of<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

/// A text, or a list of texts.
fn words(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    value.into_iter().chain(list).filter_map(Value::as_str)
}

/// What a connection may do by its token, which may be renewed.
#[derive(Debug)]
pub(crate) struct Warrant {
    token: RwLock<Arc<Token>>,
}

impl Warrant {
    pub(crate) fn new(token: Token) -> Self {
        Self { token: RwLock::new(Arc::new(token)) }
    }

    pub(crate) fn token(&self) -> Arc<Token> {
        self.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn renew(&self, token: Token) {
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(token);
    }
}

/// The rights of a token in a namespace: none when its time is over.
pub(crate) struct TokenRights {
    pub(crate) warrant: Arc<Warrant>,
    pub(crate) namespace: Arc<str>,
    pub(crate) clock: fn() -> UnixMillis,
}

impl TokenRights {
    fn valid(&self) -> Option<Arc<Token>> {
        let token = self.warrant.token();
        (token.expires.0 > (self.clock)().0).then_some(token)
    }
}

impl Rights for TokenRights {
    fn is_all(&self) -> bool {
        false
    }

    fn may(&self, act: Act, name: &str) -> bool {
        self.valid().is_some_and(|token| token.scopes.may(&self.namespace, act, name))
    }

    fn may_use_key(&self, act: Act, exchange: &str, key: &[u8]) -> bool {
        let namespace = &self.namespace;
        self.valid().is_some_and(|token| token.scopes.may_use_key(namespace, act, exchange, key))
    }

    fn bounds_keys(&self, exchange: &str) -> bool {
        self.warrant.token().scopes.bounds_keys(&self.namespace, exchange)
    }
}

#[cfg(test)]
mod tests;
