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

/// One bound socket for each protocol that is served, in the order of [`Protocol::ALL`]. Where the
/// port for Prometheus is taken, a second server on a machine does without: what is there is at the
/// HTTP port, too.
pub fn bind_all(config: &Config) -> Result<Vec<(Protocol, TcpListener)>, BindError> {
    let mut bound = Vec::new();
    for protocol in Protocol::ALL {
        let Some(address) = protocol.bind(config) else { continue };
        match bind(protocol, address) {
            Ok(listener) => bound.push((protocol, listener)),
            Err(error @ BindError::Taken(Protocol::Metrics, _)) => {
                tracing::warn!(event = "metrics_port_taken", "{error}; it is not served");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(bound)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

    #[tokio::test]
    async fn a_taken_port_stops_a_server_unless_it_is_prometheuss() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap();
        let bind = |odd: &str| {
            let names = ["amqp", "mqtt", "rocketmq", "http", "metrics"];
            let layers = names.map(|name| {
                let address = if name == odd { taken } else { "127.0.0.1:0".parse().unwrap() };
                Layer::Set(format!("listeners.{name}.bind={address}"))
            });
            let bound = bind_all(&Config::load(&layers).unwrap());
            bound.map(|all| all.into_iter().map(|(protocol, _)| protocol).collect::<Vec<_>>())
        };
        assert!(bind("").unwrap().contains(&Protocol::Metrics));
        let without = bind("metrics").unwrap();
        assert!(!without.contains(&Protocol::Metrics) && without.contains(&Protocol::Http));
        assert!(matches!(bind("http"), Err(BindError::Taken(Protocol::Http, _))));
    }
}
