//! The listening sockets: all are bound before anything is served.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::{Config, Protocol};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Why a protocol cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "{label}: port {port} on {ip} is taken by another process: stop it, or listen elsewhere with --set {key}={ip}:PORT",
        label = .0.label(), port = .1.port(), ip = bracketed(*.1), key = .0.bind_key()
    )]
    Taken(Protocol, SocketAddr),
    #[error(
        "{label}: not allowed to listen on {address}: ports below 1024 need a privilege; choose another with --set {key}={ip}:PORT",
        label = .0.label(), address = .1, ip = bracketed(*.1), key = .0.bind_key()
    )]
    NotAllowed(Protocol, SocketAddr),
    #[error(
        "{label}: cannot listen on {address}: {error} (set by {key})",
        label = .0.label(), address = .1, error = .2, key = .0.bind_key()
    )]
    Other(Protocol, SocketAddr, io::Error),
}

/// One bound socket for each protocol that is served, in the order of [`Protocol::ALL`].
pub fn bind_all(config: &Config) -> Result<Vec<(Protocol, TcpListener)>, BindError> {
    let wanted = Protocol::ALL.into_iter().filter_map(|it| Some((it, it.bind(config)?)));
    wanted.map(|(protocol, address)| Ok((protocol, bind(protocol, address)?))).collect()
}

/// Binds one.
pub(crate) fn bind(protocol: Protocol, address: SocketAddr) -> Result<TcpListener, BindError> {
    open(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken(protocol, address),
        io::ErrorKind::PermissionDenied => BindError::NotAllowed(protocol, address),
        _ => BindError::Other(protocol, address, error),
    })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that a restart does not wait for the last connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bracketed(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}
