//! Tokens of an issuer of our own.

use std::fs;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::json;

use super::*;
use crate::config::Config;

const NOW_S: u64 = 1_800_000_000;
const NOW: UnixMillis = UnixMillis(NOW_S * 1000);

/// Somebody who signs.
struct Signer(Ed25519KeyPair);

impl Signer {
    fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    fn jwk(&self, id: &str) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": id, "x": x})
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let mac = self.0.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.as_ref()))
    }
}

/// An issuer whose keys are in a file.
struct Shop {
    signer: Signer,
    tokens: Tokens,
    dir: tempfile::TempDir,
}

fn shop() -> Shop {
    let (signer, dir) = (Signer::new(), tempfile::tempdir().unwrap());
    let path = dir.path().join("keys.json");
    fs::write(&path, json!({"keys": [signer.jwk("one")]}).to_string()).unwrap();
    let issuer = Issuer {
        keys: format!("file:{}", path.display()),
        name: "https://issuer".to_owned(),
        scope_claims: vec!["roles".to_owned()],
        ..Config::default().tokens
    };
    let tokens = Tokens::of(&issuer).unwrap();
    tokens.refresh().unwrap();
    Shop { signer, tokens, dir }
}

fn claims() -> Value {
    json!({
        "iss": "https://issuer", "aud": ["rabbitmq", "other"], "exp": NOW_S + 60, "sub": "ann",
        "scope": "openid rabbitmq.read:*/orders rabbitmq.write:%2F/*",
        "roles": ["rabbitmq.tag:monitoring"],
    })
}

impl Shop {
    fn verify(&self, header: &Value, claims: &Value) -> Result<Token, Odd> {
        self.tokens.verify(self.signer.token(header, claims).as_bytes(), NOW)
    }

    fn with(&self, claim: &str, value: Value) -> Result<Token, Odd> {
        let mut claims = claims();
        claims[claim] = value;
        self.verify(&json!({"alg": "EdDSA", "kid": "one"}), &claims)
    }
}

#[test]
fn a_token_says_who_somebody_is_and_what_they_may_do() {
    let shop = shop();
    let token = shop.verify(&json!({"alg": "EdDSA", "kid": "one"}), &claims()).unwrap();
    assert_eq!((&*token.name, token.tags()), ("ann", &["monitoring".to_owned()][..]));
    assert_eq!(token.expires, UnixMillis((NOW_S + 65) * 1000));
    assert!(token.sees("elsewhere") && token.sees("/"));
    let warrant = Arc::new(Warrant::new(token.clone()));
    let rights = |namespace: &str, clock| TokenRights {
        warrant: warrant.clone(),
        namespace: namespace.into(),
        clock,
    };
    let root = rights("/", || NOW);
    assert!(root.may(Act::Read, "orders") && root.may(Act::Write, "x") && !root.is_all());
    assert!(!root.may(Act::Read, "x") && !root.may(Act::Configure, "orders"));
    assert!(!rights("elsewhere", || NOW).may(Act::Write, "x"));
    let over = rights("/", || UnixMillis((NOW_S + 65) * 1000));
    assert!(!over.may(Act::Read, "orders") && !over.may_use_key(Act::Write, "x", b"k"));
    warrant.renew(Token { expires: UnixMillis(u64::MAX), ..token });
    assert!(over.may(Act::Read, "orders"));
}

#[test]
fn what_is_not_the_issuers_or_not_for_us_or_not_now_is_refused() {
    let shop = shop();
    let alg = |alg: &str| shop.verify(&json!({"alg": alg, "kid": "one"}), &claims());
    assert!(alg("EdDSA").is_ok());
    for odd in ["none", "HS256", "ES256", "eddsa"] {
        assert_eq!(alg(odd), Err(Odd::Signature), "{odd}");
    }
    let header = |header: Value| shop.verify(&header, &claims());
    assert!(header(json!({"alg": "EdDSA"})).is_ok(), "any key of the issuer");
    assert_eq!(header(json!({"alg": "EdDSA", "kid": "two"})), Err(Odd::Signature));
    assert_eq!(header(json!({"alg": "EdDSA", "crit": ["b64"]})), Err(Odd::Form));
    assert_eq!(header(json!({})), Err(Odd::Form));
    let other = Signer::new().token(&json!({"alg": "EdDSA", "kid": "one"}), &claims());
    assert_eq!(shop.tokens.verify(other.as_bytes(), NOW), Err(Odd::Signature));
    for (claim, value, odd) in [
        ("exp", json!(NOW_S - 5), Odd::Time),
        ("exp", Value::Null, Odd::Time),
        ("exp", json!("soon"), Odd::Time),
        ("nbf", json!(NOW_S + 6), Odd::Time),
        ("iss", json!("https://other"), Odd::Party),
        ("aud", json!("other"), Odd::Party),
        ("aud", Value::Null, Odd::Party),
        ("sub", json!(""), Odd::Name),
        ("sub", json!(7), Odd::Name),
        ("sub", json!("$operator"), Odd::Name),
        ("sub", json!("anonymous"), Odd::Name),
    ] {
        assert_eq!(shop.with(claim, value.clone()), Err(odd), "{claim} {value}");
    }
    assert!(
        shop.with("exp", json!(NOW_S - 4)).is_ok() && shop.with("aud", json!("rabbitmq")).is_ok()
    );
    for odd in ["", ".", "..", "a.b", "ey.ey.ey", "ey\u{e9}.x.y"] {
        assert!(shop.tokens.verify(odd.as_bytes(), NOW).is_err(), "{odd}");
    }
    let whole = shop.signer.token(&json!({"alg": "EdDSA"}), &claims());
    for at in (0..whole.len()).filter(|at| whole.as_bytes()[*at] != b'.') {
        let mut bytes = whole.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        // The last two bits of the last letter say nothing.
        let is_same = at == whole.len() - 1;
        assert!(shop.tokens.verify(&bytes, NOW).is_err() || is_same, "changed at {at}");
    }
}

#[test]
fn keys_are_read_anew_and_stay_when_that_fails() {
    let shop = shop();
    let path = shop.dir.path().join("keys.json");
    let header = json!({"alg": "EdDSA"});
    let second = Signer::new();
    let token = second.token(&header, &claims());
    assert!(!shop.tokens.is_stale.load(Ordering::Relaxed));
    assert_eq!(shop.tokens.verify(token.as_bytes(), NOW), Err(Odd::Signature));
    assert!(shop.tokens.is_stale.load(Ordering::Relaxed), "the issuer may have another key");
    fs::write(&path, "{}").unwrap();
    assert!(shop.tokens.refresh().is_err());
    assert!(shop.verify(&header, &claims()).is_ok());
    fs::write(&path, json!({"keys": [second.jwk("two")]}).to_string()).unwrap();
    shop.tokens.refresh().unwrap();
    assert!(shop.tokens.verify(token.as_bytes(), NOW).is_ok());
    assert_eq!(shop.verify(&header, &claims()), Err(Odd::Signature), "the old one is gone");
}
