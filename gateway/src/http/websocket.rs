//! `GET /mqtt`: the handshake of a WebSocket (RFC 6455 §4.2) that speaks MQTT from then on.

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use mainstem_broker::Line;
use sha1::{Digest, Sha1};

use super::{Gate, Local, Peer};

/// What a key is joined with (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The subprotocols that are spoken: MQTT's own name ([MQTT-6.0.0-3]), and the one before it.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

pub(super) async fn upgrade(
    State(gate): State<Gate>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(local): Extension<Local>,
    mut request: Request,
) -> Response {
    let refused = |text| (StatusCode::BAD_REQUEST, text).into_response();
    let headers = request.headers();
    if !has_token(headers, header::CONNECTION, "upgrade")
        || !has_token(headers, header::UPGRADE, "websocket")
    {
        return (StatusCode::UPGRADE_REQUIRED, [(header::UPGRADE, "websocket")]).into_response();
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let version = [(header::SEC_WEBSOCKET_VERSION, "13")];
        return (StatusCode::UPGRADE_REQUIRED, version).into_response();
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return refused("the handshake has no key\n");
    };
    let spoken = SUBPROTOCOLS
        .into_iter()
        .find(|name| has_token(headers, header::SEC_WEBSOCKET_PROTOCOL, name));
    let Some(spoken) = spoken else { return refused("the subprotocol is mqtt\n") };
    let accept = accept(key);
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return refused("this connection cannot be upgraded\n");
    };
    let handshake = async move {
        let ended = |error| tracing::debug!(%error, "a WebSocket ended in its handshake");
        upgrade.await.map(TokioIo::new).map_err(ended).ok()
    };
    if !gate.mqtt.websocket(handshake, Line::new(peer, local.address, local.is_encrypted)) {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many connections\n").into_response();
    }
    let answer = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
        (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(spoken)),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, answer).into_response()
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|each| each.trim().eq_ignore_ascii_case(token))
}

fn accept(key: &HeaderValue) -> HeaderValue {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let text = BASE64_STANDARD.encode(digest);
    HeaderValue::from_str(&text).expect("base64 may stand in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_in_rfc_6455() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
