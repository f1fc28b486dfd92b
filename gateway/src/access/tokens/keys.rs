//! The keys that an issuer signs with (JWK, RFC 7517 and 7518), and signatures by them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey},
};
use serde::Deserialize;

/// A key.
pub(super) struct Key {
    /// Empty for none.
    id: String,
    /// What it is for, if it says so.
    algorithm: String,
    material: Material,
}

enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    Shared(Vec<u8>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Jwk {
    kty: String,
    kid: String,
    alg: String,
    r#use: String,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
    k: String,
}

/// The keys of a set that are for signatures and of a kind that is known here.
pub(super) fn read(json: &[u8]) -> Result<Vec<Key>, String> {
    let set: Set = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let jwks = set.keys.into_iter().filter_map(|jwk| serde_json::from_value::<Jwk>(jwk).ok());
    let keys: Vec<Key> = jwks.filter_map(Key::of).collect();
    if keys.is_empty() { Err("it has no key for signatures".to_owned()) } else { Ok(keys) }
}

/// Base64 as tokens and keys have it.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

impl Key {
    fn of(jwk: Jwk) -> Option<Self> {
        if !matches!(&*jwk.r#use, "" | "sig") {
            return None;
        }
        let bytes = |text: &str| decode(text).filter(|bytes| !bytes.is_empty());
        let point = || Some([vec![4], bytes(&jwk.x)?, bytes(&jwk.y)?].concat());
        let material = match (&*jwk.kty, &*jwk.crv) {
            ("RSA", _) => Material::Rsa { n: bytes(&jwk.n)?, e: bytes(&jwk.e)? },
            ("EC", "P-256") => Material::P256(point()?),
            ("EC", "P-384") => Material::P384(point()?),
            ("OKP", "Ed25519") => Material::Ed25519(bytes(&jwk.x)?),
            ("oct", _) => Material::Shared(bytes(&jwk.k)?),
            _ => return None,
        };
        Some(Self { id: jwk.kid, algorithm: jwk.alg, material })
    }

    /// Whether it may be the one that a token names; a token that names none is tried with all.
    pub(super) fn is(&self, id: Option<&str>) -> bool {
        id.is_none_or(|id| self.id == id)
    }

    /// Whether a signature is this key's, by an algorithm that goes with it: what the token says
    /// never makes a public key a shared one (RFC 8725 §3.1).
    pub(super) fn signed(&self, algorithm: &str, text: &[u8], mac: &[u8]) -> bool {
        if !self.algorithm.is_empty() && self.algorithm != algorithm {
            return false;
        }
        let of_point =
            |kind, point: &[u8]| UnparsedPublicKey::new(kind, point).verify(text, mac).is_ok();
        match (&self.material, algorithm) {
            (Material::Rsa { n, e }, _) => rsa(algorithm).is_some_and(|kind| {
                RsaPublicKeyComponents { n, e }.verify(kind, text, mac).is_ok()
            }),
            (Material::P256(point), "ES256") => {
                of_point(&signature::ECDSA_P256_SHA256_FIXED, point)
            }
            (Material::P384(point), "ES384") => {
                of_point(&signature::ECDSA_P384_SHA384_FIXED, point)
            }
            (Material::Ed25519(key), "EdDSA") => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(text, mac).is_ok()
            }
            (Material::Shared(key), _) => shared(algorithm)
                .is_some_and(|kind| hmac::verify(&hmac::Key::new(kind, key), text, mac).is_ok()),
            _ => false,
        }
    }
}

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn shared(algorithm: &str) -> Option<hmac::Algorithm> {
    Some(match algorithm {
        "HS256" => hmac::HMAC_SHA256,
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515 A.1 and A.3: the payload is the same.
    const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt\
                           cGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    const SHARED: &str = r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#;
    const P256: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

    fn key(jwk: &str) -> Key {
        read(format!("{{\"keys\":[{jwk}]}}").as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn the_rfcs_own_signatures_hold() {
        let shared = format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{PAYLOAD}");
        let mac = decode("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").unwrap();
        assert!(key(SHARED).signed("HS256", shared.as_bytes(), &mac));
        assert!(!key(SHARED).signed("HS384", shared.as_bytes(), &mac));
        assert!(!key(SHARED).signed("HS256", &shared.as_bytes()[1..], &mac));
        let point = format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}");
        let mac = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let mac = decode(mac).unwrap();
        assert!(key(P256).signed("ES256", point.as_bytes(), &mac));
        assert!(!key(P256).signed("ES384", point.as_bytes(), &mac));
        assert!(!key(P256).signed("none", point.as_bytes(), b""));
        assert!(!key(P256).signed("HS256", point.as_bytes(), &mac));
    }

    #[test]
    fn keys_of_other_kinds_are_passed_over() {
        let odd = r#"{"keys":[{"kty":"EC","crv":"P-521","x":"AA","y":"AA"},{"kty":"RSA","use":"enc",
            "n":"AA","e":"AQAB"},{"kty":"oct"},7]}"#;
        assert!(read(odd.as_bytes()).is_err());
        assert!(read(b"{}").is_err() && read(b"").is_err());
        let ours = key(r#"{"kty":"oct","kid":"a","alg":"HS256","k":"AAAA"}"#);
        assert!(ours.is(None) && ours.is(Some("a")) && !ours.is(Some("b")));
        assert!(!ours.signed("HS512", b"", b""));
    }
}
