//! Web pages. To the server a browser on its own machine is loopback, whatever page it shows; so what
//! may log in from loopback only is kept from the pages of other machines.

use axum::{
    Extension,
    extract::{Request, State},
    http::{StatusCode, Uri, header},
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

/// Refuses what any page sends but those of the browser's own machine and those that `http.origins`
/// names, wherever the browser is.
pub(super) async fn refuse_pages(
    State(gate): State<Gate>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && !origin.to_str().is_ok_and(|origin| is_welcome(origin, &gate.config.http.origins))
    {
        let path = request.uri().path();
        tracing::info!(?origin, path, "refused a page that http.origins does not name");
        let reason = "http.origins does not name this page's";
        return Failure::new(StatusCode::FORBIDDEN, "forbidden", reason).into_response();
    }
    next.run(request).await
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
