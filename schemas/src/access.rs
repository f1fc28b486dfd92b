//! Who somebody says they are, and who they turned out to be.

use std::{any::Any, net::SocketAddr, sync::Arc};

/// What a peer offers to be let in.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The namespace it wants to work in; `/` is the default one.
    pub namespace: String,
    pub secret: Secret,
    /// Where the peer is; some accounts are for loopback only.
    pub peer: SocketAddr,
}

/// The proof a peer offers.
#[derive(Clone)]
pub enum Secret {
    /// No name, no proof.
    Anonymous,
    /// A name and a password in clear.
    Password { user: String, password: Vec<u8> },
    /// A name that the transport vouches for: it stood in a client certificate that was verified.
    Certificate { user: String },
    /// A name, what both sides said in an exchange of SCRAM-SHA-256 (its AuthMessage, RFC 5802 §3), and
    /// the client's proof that it knows the password.
    Scram { user: String, said: Vec<u8>, proof: Vec<u8> },
    /// A secret that this start of the server gave to whoever may read its data directory.
    Token(Vec<u8>),
    /// A key name, what was signed, and the HMAC-SHA1 of it by the key's secret.
    Signature { key: String, signed: Vec<u8>, mac: Vec<u8> },
}

/// Written by hand so that no log line can show a password.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Password { user, .. } => write!(f, "Password({user})"),
            Self::Certificate { user } => write!(f, "Certificate({user})"),
            Self::Scram { user, .. } => write!(f, "Scram({user})"),
            Self::Token(_) => f.write_str("Token"),
            Self::Signature { key, .. } => write!(f, "Signature({key})"),
        }
    }
}

/// An identity that was verified. Only an authenticator makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// What its authenticator goes by besides the name.
    pub warrant: Option<Warrant>,
}

impl Principal {
    /// Somebody who may do what goes with the name.
    #[must_use]
    pub fn named(name: impl Into<Arc<str>>, namespace: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), namespace: namespace.into(), warrant: None }
    }
}

/// What was shown at a login and says more than a name; only the authenticator reads it.
#[derive(Clone)]
pub struct Warrant(pub Arc<dyn Any + Send + Sync>);

/// Written by hand so that no log line can show a secret.
impl std::fmt::Debug for Warrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Warrant")
    }
}

impl PartialEq for Warrant {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Warrant {}
