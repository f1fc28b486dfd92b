//! The operator of this machine: whoever may read the data directory is administrator, without a password,
//! over HTTP from loopback, as whoever has RabbitMQ's cookie is.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::Protocol;

/// Its name where one is told. No user may have it.
pub const OPERATOR: &str = "$operator";

const TOKEN_BYTES: usize = 32;

/// A secret of one start of the server.
pub struct Token(String);

impl Token {
    /// A new one.
    pub(super) fn new() -> Self {
        let mut bytes = [0; TOKEN_BYTES];
        SystemRandom::new().fill(&mut bytes).expect("the system gives random bytes");
        Self(BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// As it is sent.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// Compares in constant time.
    pub(super) fn is(&self, other: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(other).into()
    }
}

/// What the file says: where to ask, and by which secret.
#[derive(Serialize, Deserialize)]
pub struct Entrance {
    pub http: SocketAddr,
    pub token: String,
}

/// Where it is.
#[must_use]
pub fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("operator.json")
}

impl Entrance {
    pub(crate) fn new(token: &Token, addresses: &[(Protocol, SocketAddr)]) -> Self {
        let http = addresses.iter().find(|(protocol, _)| *protocol == Protocol::Http);
        let mut http =
            http.map_or_else(|| (Ipv4Addr::LOCALHOST, 0).into(), |(_, address)| *address);
        if http.ip().is_unspecified() {
            let loopback: IpAddr = match http.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            http.set_ip(loopback);
        }
        Self { http, token: token.text().to_owned() }
    }

    /// For its owner's eyes only. Whoever reads it finds all of it.
    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        let draft = file.with_extension("new");
        // One that is left of a start that was cut short may be open to others.
        let _was_there = fs::remove_file(&draft);
        let mut options = fs::OpenOptions::new();
        let mut open = options.create_new(true).write(true).mode(0o600).open(&draft)?;
        serde_json::to_writer(&mut open, self)?;
        fs::rename(draft, file)
    }

    /// Errors: there is none, or it is not ours to read.
    pub fn read(file: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(file)?)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn the_file_is_for_its_owner_whatever_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path());
        for open in [path.clone(), path.with_extension("new")] {
            fs::write(&open, "old").unwrap();
            fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();
        }
        let addresses = [(Protocol::Http, "[::]:7".parse().unwrap())];
        let token = Token::new();
        Entrance::new(&token, &addresses).write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let read = Entrance::read(&path).unwrap();
        assert_eq!(
            (read.http.to_string().as_str(), read.token.as_str()),
            ("[::1]:7", token.text())
        );
        assert!(token.is(read.token.as_bytes()) && token.text().len() > 40);
    }
}
