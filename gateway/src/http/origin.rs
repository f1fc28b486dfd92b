//! Web pages. To the server a browser on its own machine is loopback, whatever page it shows; so what
//! may log in from loopback only is kept from the pages of other machines.

use std::net::IpAddr;

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Gate, Peer, management::Failure};
use crate::access::is_loopback;

/// Refuses what a page of another machine sends from this one, unless `http.origins` names it.
/// Whoever is no browser names no origin.
pub(super) async fn refuse_foreign(
    State(gate): State<Gate>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && is_loopback(peer.ip())
        && !origin.to_str().is_ok_and(|origin| is_welcome(origin, &gate.config.http.origins))
    {
        let path = request.uri().path();
        tracing::info!(?origin, path, "refused a page that http.origins does not name");
        return (StatusCode::FORBIDDEN, "http.origins does not name this page's\n").into_response();
    }
    next.run(request).await
}

/// Refuses what a page of anybody else sends to the API, from wherever: a browser adds the password that
/// its user once gave. Whoever is no browser names no origin.
pub(super) async fn refuse_others(
    State(gate): State<Gate>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if !is_ours(&gate, peer.ip(), request.headers()) {
        let reason = "http.origins does not name this page's";
        return Failure::new(StatusCode::FORBIDDEN, "forbidden", reason).into_response();
    }
    next.run(request).await
}

fn is_ours(gate: &Gate, peer: IpAddr, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let (origin, host) = (text(header::ORIGIN), text(header::HOST));
    let named = &gate.config.http.origins;
    let is_ours = match is_loopback(peer) {
        // A page may have any name lead to this machine, and then names itself so, or nothing.
        true => {
            host.is_none_or(|host| is_here(host, &gate.node.name, named))
                && origin.is_none_or(|origin| is_welcome(origin, named))
        }
        false => origin.is_none_or(|origin| {
            is_own(origin, host) || named.iter().any(|name| name.eq_ignore_ascii_case(origin))
        }),
    };
    if !is_ours {
        tracing::info!(?origin, ?host, "refused a page that http.origins does not name");
    }
    is_ours
}

/// Whether a request of this machine names this machine: by an address, as `localhost`, by its own name, or
/// as one of the origins that are welcome.
fn is_here(host: &str, node: &str, named: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let own = node.split_once('@').map_or(node, |(_, own)| own);
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.eq_ignore_ascii_case(own)
        || named.iter().any(|origin| {
            origin.split_once("://").is_some_and(|(_, named)| named.eq_ignore_ascii_case(host))
        })
}

/// Whether a page came from where it asks now.
fn is_own(origin: &str, host: Option<&str>) -> bool {
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_some() && authority == host
}

/// The `Host` of the request is not asked: a page may have any name lead to this machine.
fn is_welcome(origin: &str, named: &[String]) -> bool {
    if named.iter().any(|name| name.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_this_machine_names_this_machine() {
        let named = ["https://panel.example:8443".to_owned()];
        for host in
            ["localhost", "localhost:15672", "127.0.0.1:15672", "[::1]:15672", "192.0.2.7", "box:1"]
        {
            assert!(is_here(host, "rabbit@box", &named), "{host}");
        }
        assert!(is_here("panel.example:8443", "rabbit@box", &named));
        for host in ["evil.example:15672", "", "localhost.evil.example", "panel.example", "a b"] {
            assert!(!is_here(host, "rabbit@box", &named), "{host}");
        }
    }

    #[test]
    fn a_page_is_the_servers_own_where_it_came_from_it() {
        assert!(is_own("http://box:15672", Some("box:15672")));
        for origin in ["null", "", "http://box", "http://box:15673", "http://evil", "box:15672"] {
            assert!(!is_own(origin, Some("box:15672")), "{origin}");
        }
        assert!(!is_own("http://box", None) && !is_own("null", None));
    }

    #[test]
    fn pages_of_this_machine_and_named_ones_are_welcome() {
        let named = ["https://panel.example".to_owned()];
        for origin in [
            "http://localhost",
            "https://LOCALHOST:3000",
            "http://127.0.0.1:8080",
            "http://[::1]:3000",
            "https://panel.example",
        ] {
            assert!(is_welcome(origin, &named), "{origin}");
        }
        for origin in [
            "null",
            "",
            "file://",
            "https://evil.example",
            "https://panel.example:444",
            "http://panel.example",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://localhost@evil.example",
            "http://192.0.2.1",
        ] {
            assert!(!is_welcome(origin, &named), "{origin}");
        }
    }
}
