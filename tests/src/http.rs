//! The few HTTP requests the tests make, over a plain socket.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// An answer: its status and its body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The lines before the body.
    pub head: String,
    pub body: String,
}

/// GETs `path` from the server on this port of the loopback.
#[must_use]
pub fn get(port: u16, path: &str) -> Answer {
    request(port, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
}

/// POSTs `body` to `path`.
#[must_use]
pub fn post(port: u16, path: &str, body: &str) -> Answer {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close");
    request(port, &format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

/// Asks for `path` by a method, with header lines of its own, as guest.
#[must_use]
pub fn as_guest_with(port: u16, method: &str, path: &str, headers: &[&str]) -> Answer {
    // guest:guest
    let login = "Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=";
    let lines = headers.iter().fold(login.to_owned(), |lines, line| format!("{lines}\r\n{line}"));
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close");
    request(port, &format!("{head}\r\n{lines}\r\n\r\n"))
}

/// Asks as the user `guest`. Bodies have no content type.
#[must_use]
pub fn as_guest(port: u16, method: &str, path: &str, body: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close");
    let login = "Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=";
    request(port, &format!("{head}\r\n{login}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

/// Sends a request as it stands, which says that the connection is to be closed.
#[must_use]
pub fn request(port: u16, text: &str) -> Answer {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// The value of a metric without labels.
#[must_use]
pub fn metric(port: u16, name: &str) -> Option<f64> {
    let page = get(port, "/metrics").body;
    let line = page
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))?;
    line.rsplit(' ').next()?.parse().ok()
}
