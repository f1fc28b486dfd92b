//! Who asks: somebody who may log in, by name and password.

use axum::{
    Extension, Json,
    extract::FromRequestParts,
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use mainstem_broker::LoginError;
use mainstem_schemas::{Credentials, Secret};
use serde_json::json;

use super::super::{Gate, Peer, publish::secret};

/// A verified caller.
pub(super) struct Caller;

impl FromRequestParts<Gate> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Response> {
        // Nobody sees others without a name of their own, whatever the rule for clients is.
        let Ok(secret @ Secret::Password { .. }) = secret(&parts.headers) else {
            return Err(refused("Login failed"));
        };
        let peer = Extension::<Peer>::from_request_parts(parts, gate).await;
        let Extension(Peer(peer)) = peer.map_err(IntoResponse::into_response)?;
        let namespace = gate.config.namespaces.first().cloned().unwrap_or_default();
        match gate.broker.verify(&Credentials { namespace, secret, peer }) {
            Ok(_) => Ok(Self),
            Err(LoginError::LoopbackOnly) => Err(refused("User can only log in via localhost")),
            Err(LoginError::BadCredentials | LoginError::NoNamespace) => {
                Err(refused("Login failed"))
            }
            Err(LoginError::Closed) => Err(super::closed()),
        }
    }
}

fn refused(reason: &str) -> Response {
    let body = Json(json!({"error": "not_authorized", "reason": reason}));
    let mut response = (StatusCode::UNAUTHORIZED, body).into_response();
    let realm = HeaderValue::from_static("Basic realm=\"RabbitMQ Management\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
    response
}
