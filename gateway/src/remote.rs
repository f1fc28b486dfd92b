//! The running server of this machine, as its operator asks it over HTTP: found by what it left in the data
//! directory ([`Entrance`]).

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    body::Body,
    http::{Method, Request, header},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::access::operator::{self, Entrance};

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Why nothing was answered.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error(
        "no server is running on {data}, or it is not yours to read: {path}: {error}",
        data = .0.display(), path = operator::file(.0).display(), error = .1
    )]
    NoEntrance(PathBuf, io::Error),
    #[error("nobody answers at {0}: {1}")]
    Unreachable(String, String),
    #[error("no answer from {0} within {1:?}")]
    Late(String, Duration),
    #[error("cannot ask: {0}")]
    System(io::Error),
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Reply {
    /// Whether it was done.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON; null for none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What the API says went wrong.
    #[must_use]
    pub fn reason(&self) -> String {
        let json = self.json();
        let said = ["reason", "title", "error"].iter().find_map(|field| json.get(*field)?.as_str());
        said.map_or_else(|| format!("status {}", self.status), str::to_owned)
    }
}

/// Where the server is, and who asks.
pub struct Remote {
    address: String,
    authorization: Option<String>,
    patience: Duration,
}

impl Remote {
    /// The server that has this data directory, asked by its operator, who waits so long for each answer.
    pub fn open(data_dir: &Path, patience: Duration) -> Result<Self, RemoteError> {
        let entrance = Entrance::read(&operator::file(data_dir))
            .map_err(|error| RemoteError::NoEntrance(data_dir.to_owned(), error))?;
        let authorization = Some(format!("Bearer {}", entrance.token));
        Ok(Self { address: entrance.http.to_string(), authorization, patience })
    }

    /// A server somewhere, asked by nobody in particular.
    #[must_use]
    pub fn at(host: &str, port: u16, patience: Duration) -> Self {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        Self { address: format!("{host}:{port}"), authorization: None, patience }
    }

    /// The same server asked by somebody else from then on.
    #[must_use]
    pub fn as_user(self, user: &str, password: &str) -> Self {
        let login = BASE64_STANDARD.encode(format!("{user}:{password}"));
        Self { authorization: Some(format!("Basic {login}")), ..self }
    }

    /// Asks for a path by a method, with JSON or nothing. Errors: there is no answer at all.
    pub fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reply, RemoteError> {
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        self.send(method, path, body, &[])
    }

    /// As [`Remote::request`], for those who have nothing else to do.
    pub fn send(
        &self,
        method: &Method,
        path: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> Result<Reply, RemoteError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(RemoteError::System)?;
        runtime.block_on(self.request(method, path, body, headers))
    }

    /// Asks for a path by a method, with bytes and further headers. Errors: there is no answer at all.
    pub async fn request(
        &self,
        method: &Method,
        path: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> Result<Reply, RemoteError> {
        let exchange = self.exchange(method, path, body, headers);
        match tokio::time::timeout(self.patience, exchange).await {
            Ok(answered) => {
                answered.map_err(|error| RemoteError::Unreachable(self.address.clone(), error))
            }
            Err(_) => Err(RemoteError::Late(self.address.clone(), self.patience)),
        }
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> Result<Reply, String> {
        let stream = TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?;
        let text = |error: hyper::Error| error.to_string();
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.address)
            .header(header::CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).map_err(|error| error.to_string())?;
        let answered = async {
            let answer = sender.send_request(request).await.map_err(text)?;
            let status = answer.status().as_u16();
            let body = axum::body::to_bytes(Body::new(answer.into_body()), ANSWER_BYTES_MAX).await;
            let body = body.map_err(|error| error.to_string())?.to_vec();
            Ok(Reply { status, body })
        };
        let mut answered = std::pin::pin!(answered);
        tokio::select! {
            // Not lost when the connection ends first: it is polled again below.
            reply = &mut answered => reply,
            _ended = connection => answered.await,
        }
    }
}

/// A name as one part of a path.
#[must_use]
pub fn segment(name: &str) -> String {
    let mut written = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            written.push(char::from(byte));
        } else {
            written.push_str(&format!("%{byte:02X}"));
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_part_of_a_path() {
        assert_eq!(segment("/"), "%2F");
        assert_eq!(segment("a b/ü-_.~?#%"), "a%20b%2F%C3%BC-_.~%3F%23%25");
    }
}
