//! What is said in an exchange of SCRAM-SHA-256 (RFC 5802, RFC 7677). The proofs are made and checked
//! elsewhere: here is only text.

use base64::{Engine, prelude::BASE64_STANDARD};

/// The method's name, in CONNECT and AUTH.
pub const METHOD: &str = "SCRAM-SHA-256";

/// No message of a client is longer.
const BYTES_MAX: usize = 2048;

/// A client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What comes before the part that is signed; it comes again, in the client's last message.
    header: String,
    bare: String,
    user: String,
    nonce: String,
}

/// What a client said to prove that it knows a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub user: String,
    /// What both sides said, to be signed.
    pub said: String,
    pub proof: Vec<u8>,
}

/// An exchange in which the server has challenged the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    hello: Hello,
    nonce: String,
    challenge: String,
}

impl Hello {
    /// Reads it; `None` for what is not as it must be, or asks for what is not offered: a channel
    /// binding, extensions, somebody else's authority.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let message = text(message)?;
        let mut parts = message.splitn(3, ',');
        let (binding, authority, bare) = (parts.next()?, parts.next()?, parts.next()?);
        if !matches!(binding, "n" | "y") {
            return None;
        }
        let mut attributes = bare.split(',');
        let user = plain(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=").filter(|nonce| !nonce.is_empty())?;
        let is_own = authority.is_empty() || authority.strip_prefix("a=").and_then(plain)? == user;
        is_own.then(|| Self {
            header: format!("{binding},{authority},"),
            bare: bare.to_owned(),
            user,
            nonce: nonce.to_owned(),
        })
    }

    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }
}

fn text(message: &[u8]) -> Option<&str> {
    std::str::from_utf8(message).ok().filter(|text| text.len() <= BYTES_MAX)
}

/// A name as it is meant: a comma and an equals sign are written `=2C` and `=3D`.
fn plain(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let (mark, rest) = part.split_at_checked(2)?;
        out.push(match mark {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        out.push_str(rest);
    }
    (!out.is_empty()).then_some(out)
}

impl Exchange {
    /// Answers a first message. The server's nonce is printable and without a comma.
    #[must_use]
    pub fn begin(hello: Hello, nonce: &str, salt: &[u8], iterations: u32) -> Self {
        let nonce = format!("{}{nonce}", hello.nonce);
        let challenge = format!("r={nonce},s={},i={iterations}", BASE64_STANDARD.encode(salt));
        Self { hello, nonce, challenge }
    }

    /// The server's first message.
    #[must_use]
    pub fn challenge(&self) -> &str {
        &self.challenge
    }

    /// Reads the client's last message; `None` for one that does not belong to this exchange.
    #[must_use]
    pub fn finish(self, message: &[u8]) -> Option<Proof> {
        let message = text(message)?;
        let (unsigned, proof) = message.rsplit_once(",p=")?;
        let mut attributes = unsigned.split(',');
        let header = attributes.next()?.strip_prefix("c=")?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let is_same = BASE64_STANDARD.decode(header).ok()? == self.hello.header.as_bytes();
        if !is_same || nonce != self.nonce {
            return None;
        }
        let said = format!("{},{},{unsigned}", self.hello.bare, self.challenge);
        Some(Proof { user: self.hello.user, said, proof: BASE64_STANDARD.decode(proof).ok()? })
    }
}

/// The server's last message.
#[must_use]
pub fn countersigned(signature: &[u8]) -> String {
    format!("v={}", BASE64_STANDARD.encode(signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

    fn begun(hello: &str) -> Exchange {
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        Exchange::begin(Hello::read(hello.as_bytes()).unwrap(), NONCE, &salt, 4096)
    }

    #[test]
    fn an_exchange_is_that_of_rfc_7677() {
        let exchange = begun(HELLO);
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(exchange.challenge(), challenge);
        let unsigned = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let last = format!("{unsigned},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let proof = exchange.finish(last.as_bytes()).unwrap();
        assert_eq!(proof.user, "user");
        assert_eq!(proof.said, format!("n=user,r=rOprNGfwEbeRWgbNEkqO,{challenge},{unsigned}"));
        assert_eq!(proof.proof.len(), 32);
        assert_eq!(countersigned(&[0; 3]), "v=AAAA");
    }

    #[test]
    fn names_are_read_as_they_are_meant() {
        let user = |text: &str| Hello::read(text.as_bytes()).map(|hello| hello.user);
        assert_eq!(user("n,,n=a=2Cb=3Dc,r=x").as_deref(), Some("a,b=c"));
        assert_eq!(user("y,a=me,n=me,r=x,ext=1").as_deref(), Some("me"));
        for wrong in [
            "",
            "n,,",
            "n,,n=a",
            "n,,n=a,r=",
            "n,,n=,r=x",
            "n,,n=a=2cb,r=x",
            "n,,n=a=,r=x",
            "n,a=you,n=me,r=x",
            "p=tls-unique,,n=a,r=x",
            "n,,m=ext,n=a,r=x",
            "n,,r=x,n=a",
            "x,,n=a,r=x",
        ] {
            assert_eq!(user(wrong), None, "{wrong}");
        }
        assert_eq!(Hello::read(b"n,,n=\xff,r=x"), None);
    }

    #[test]
    fn the_last_message_belongs_to_the_first() {
        let nonce = format!("rOprNGfwEbeRWgbNEkqO{NONCE}");
        let finish = |text: String| begun(HELLO).finish(text.as_bytes());
        assert!(finish(format!("c=biws,r={nonce},p=AAAA")).is_some());
        for wrong in [
            format!("c=eSws,r={nonce},p=AAAA"),
            format!("c=biws,r={nonce}x,p=AAAA"),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO,p=AAAA".to_owned(),
            format!("c=biws,r={nonce}"),
            format!("c=biws,r={nonce},p=!"),
            format!("r={nonce},c=biws,p=AAAA"),
            String::new(),
        ] {
            assert_eq!(finish(wrong.clone()), None, "{wrong}");
        }
    }
}
