//! What a request's headers say about its sender.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use mainstem_schemas::Secret;
use tonic::metadata::MetadataMap;

use super::{proto::Code, status::Fault};

/// The sender of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The identity of the client across requests and connections; never blank.
    pub client_id: String,
    /// `x-mq-language` as sent; Node sends `HTTP`.
    pub language: String,
    /// `x-mq-client-version` as sent.
    pub version: String,
    /// `x-mq-namespace`; empty when the header is missing.
    pub namespace: String,
    pub secret: Secret,
    /// How long the client waits for the answer, when it says.
    pub timeout: Option<Duration>,
}

impl Caller {
    /// Reads the headers. Errors: no client id, or an `authorization` that is none.
    pub fn parse(metadata: &MetadataMap) -> Result<Self, Fault> {
        let client_id = text(metadata, "x-mq-client-id");
        if client_id.trim().is_empty() {
            return Err(Fault::new(Code::ClientIdRequired, "client id cannot be empty"));
        }
        Ok(Self {
            client_id: client_id.to_owned(),
            language: text(metadata, "x-mq-language").to_owned(),
            version: text(metadata, "x-mq-client-version").to_owned(),
            namespace: text(metadata, "x-mq-namespace").to_owned(),
            secret: signature(metadata)?,
            timeout: timeout(text(metadata, "grpc-timeout")),
        })
    }

    /// Whether it is the Node client, whose nack delays are in wrong units.
    #[must_use]
    pub fn is_node(&self) -> bool {
        self.language.eq_ignore_ascii_case("HTTP")
    }

    /// Whether it knows `ILLEGAL_POLLING_TIME`, which came with 5.0.3.
    #[must_use]
    pub fn knows_illegal_polling_time(&self) -> bool {
        let mut parts = self.version.split(['.', '-']).map(|part| part.parse::<u32>().ok());
        let mut next = || parts.next().flatten();
        match (next(), next(), next()) {
            (Some(major), Some(minor), Some(patch)) => (major, minor, patch) >= (5, 0, 3),
            _ => true,
        }
    }
}

/// Who asks as an operator, and in which namespace. Operators need no client id, and may show a password
/// in place of a signature.
#[derive(Clone, Debug)]
pub struct Operator {
    /// `x-mq-namespace`; empty when the header is missing.
    pub namespace: String,
    pub secret: Secret,
}

impl Operator {
    /// Reads the headers. Errors: an `authorization` that is none.
    pub fn parse(metadata: &MetadataMap) -> Result<Self, Fault> {
        let namespace = text(metadata, "x-mq-namespace").to_owned();
        let authorization = text(metadata, "authorization").trim();
        let secret = match authorization.split_once(' ') {
            Some((scheme, encoded)) if scheme.eq_ignore_ascii_case("Basic") => {
                let malformed =
                    || Fault::new(Code::Unauthorized, "the authorization header is malformed");
                password(encoded.trim()).ok_or_else(malformed)?
            }
            _ => signature(metadata)?,
        };
        Ok(Self { namespace, secret })
    }
}

/// RFC 7617.
fn password(encoded: &str) -> Option<Secret> {
    let decoded = BASE64_STANDARD.decode(encoded).ok()?;
    let at = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = decoded.split_at_checked(at)?;
    let user = String::from_utf8(user.to_vec()).ok()?;
    Some(Secret::Password { user, password: password.get(1..)?.to_vec() })
}

fn signature(metadata: &MetadataMap) -> Result<Secret, Fault> {
    let date = metadata.get("x-mq-date-time").map(|value| value.as_bytes());
    secret(text(metadata, "authorization"), date)
}

fn text<'a>(metadata: &'a MetadataMap, name: &str) -> &'a str {
    metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// `MQv2-HMAC-SHA1 Credential=<key>[/..], SignedHeaders=x-mq-date-time, Signature=<hex>`. The date
/// header is what was signed, byte for byte; it is not parsed. Python sends the header even
/// without a key, which is no proof at all.
fn secret(authorization: &str, date: Option<&[u8]>) -> Result<Secret, Fault> {
    let refused = |why: &str| Fault::new(Code::Unauthorized, why);
    let Some((algorithm, fields)) = authorization.trim().split_once(' ') else {
        return match authorization.trim() {
            "" => Ok(Secret::Anonymous),
            _ => Err(refused("the authorization header is malformed")),
        };
    };
    let field = |name: &str| {
        fields.split(',').find_map(|field| {
            let (key, value) = field.trim().split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let credential = field("Credential").unwrap_or_default();
    let key = credential.split('/').next().unwrap_or_default();
    if key.is_empty() {
        return Ok(Secret::Anonymous);
    }
    if algorithm != "MQv2-HMAC-SHA1" {
        return Err(refused("the signature algorithm is not MQv2-HMAC-SHA1"));
    }
    let mac = field("Signature").and_then(from_hex);
    let mac = mac.ok_or_else(|| refused("the signature is not hexadecimal"))?;
    let signed = date.ok_or_else(|| refused("x-mq-date-time is missing"))?;
    Ok(Secret::Signature { key: key.to_owned(), signed: signed.to_vec(), mac })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

/// gRPC's timeout: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(headers: &[(&'static str, &str)]) -> Result<Caller, Fault> {
        let mut metadata = MetadataMap::new();
        for (name, value) in headers {
            metadata.insert(*name, value.parse().unwrap());
        }
        Caller::parse(&metadata)
    }

    #[test]
    fn a_blank_client_id_is_refused() {
        assert_eq!(caller(&[]).unwrap_err().code, Code::ClientIdRequired);
        assert_eq!(caller(&[("x-mq-client-id", " ")]).unwrap_err().code, Code::ClientIdRequired);
    }

    #[test]
    fn signatures_of_all_clients_are_read() {
        let read = |authorization: &str| {
            let id = ("x-mq-client-id", "c");
            let date = ("x-mq-date-time", "20260101T000000Z");
            caller(&[id, date, ("authorization", authorization)]).map(|caller| caller.secret)
        };
        let head = "MQv2-HMAC-SHA1";
        // Java and Python; then Go, whose key has empty region and service.
        for credential in ["AK", "AK//Rocketmq"] {
            let text = format!(
                "{head} Credential={credential}, SignedHeaders=x-mq-date-time, Signature=0aFF"
            );
            let Ok(Secret::Signature { key, signed, mac }) = read(&text) else { panic!("{text}") };
            assert_eq!((key.as_str(), mac.as_slice()), ("AK", [0x0a, 0xff].as_slice()));
            assert_eq!(signed, b"20260101T000000Z");
        }
        let blank = format!("{head} Credential=, SignedHeaders=x-mq-date-time, Signature=00");
        assert!(matches!(read(&blank), Ok(Secret::Anonymous)));
        for bad in ["x", "Basic Credential=AK, Signature=00", &format!("{head} Credential=AK")] {
            assert_eq!(read(bad).unwrap_err().code, Code::Unauthorized, "{bad}");
        }
        let undated = [
            ("x-mq-client-id", "c"),
            ("authorization", "MQv2-HMAC-SHA1 Credential=A, Signature=00"),
        ];
        assert_eq!(caller(&undated).unwrap_err().code, Code::Unauthorized);
    }

    #[test]
    fn an_operator_shows_a_password_or_signs() {
        let read = |authorization: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("authorization", authorization.parse().unwrap());
            metadata.insert("x-mq-date-time", "now".parse().unwrap());
            Operator::parse(&metadata).map(|operator| operator.secret)
        };
        // RFC 7617 §2.
        let Ok(Secret::Password { user, password }) = read("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
        else {
            panic!("no password")
        };
        assert_eq!((user.as_str(), password.as_slice()), ("Aladdin", &b"open sesame"[..]));
        let signed = read("MQv2-HMAC-SHA1 Credential=AK, Signature=00");
        assert!(matches!(signed, Ok(Secret::Signature { .. })));
        for bad in ["Basic", "Basic ?", "Basic QWxhZGRpbg==", "Bearer x"] {
            let anonymous = matches!(read(bad), Ok(Secret::Anonymous));
            assert!(anonymous || read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_timeout_has_digits_and_a_unit() {
        assert_eq!(timeout("23100m"), Some(Duration::from_millis(23_100)));
        assert_eq!(timeout("3S"), Some(Duration::from_secs(3)));
        for bad in ["", "S", "3", "999999999S", "3x", "é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn old_clients_do_not_know_the_newer_code() {
        let knows = |version: &str| {
            caller(&[("x-mq-client-id", "c"), ("x-mq-client-version", version)])
                .unwrap()
                .knows_illegal_polling_time()
        };
        assert!(!knows("5.0.2"));
        assert!(knows("5.0.3"));
        assert!(knows("5.1.0-SNAPSHOT"));
        assert!(knows(""));
    }
}
