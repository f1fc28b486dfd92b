//! `POST /topics/<path>`: the body becomes a record at that address.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use mainstem_broker::{LoginError, Publish, Published, Refusal};
use mainstem_schemas::{Credentials, RecordId, Secret};
use serde::Serialize;

use super::{Gate, Peer, normalize};

/// The answer to a publish.
#[derive(Serialize)]
struct Taken {
    /// The record's id.
    id: String,
    /// How many queues and live readers it reached.
    readers: u32,
}

/// Why a publish was refused, and the status that says so.
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

pub(super) async fn publish(
    State(gate): State<Gate>,
    Extension(Peer(peer)): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let secret = match secret(&headers) {
        Ok(secret) => secret,
        Err(refused) => return refused.into_response(),
    };
    let credentials = Credentials { namespace: "/".to_owned(), secret, peer };
    match take(&gate, &credentials, &uri, &headers, &body).await {
        Ok((id, readers)) => Json(Taken { id: id.to_string(), readers }).into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// Returns when the record is as durable as the store's level says.
async fn take(
    gate: &Gate,
    credentials: &Credentials,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(RecordId, u32), Refused> {
    let (client, _inbox) = gate.broker.login(credentials).await.map_err(login_refused)?;
    let address = normalize::address(uri.path())
        .ok_or_else(|| Refused(StatusCode::BAD_REQUEST, "the path names no topic".to_owned()))?;
    let durable = uri.query() != Some("durable=false");
    let namespace = client.principal().namespace.clone();
    let record = normalize::record(&client.stamp(), &namespace, &address, headers, durable, body)
        .map_err(|error| Refused(StatusCode::BAD_REQUEST, error.to_string()))?;
    let id = record.id();
    let receipt = client.publish(vec![Publish::new(record)]).await.map_err(refused)?;
    let outcome = receipt.await.map_err(refused)?.into_iter().next();
    client.close().await;
    match outcome {
        Some(Published::Taken { readers, .. }) => Ok((id, readers)),
        Some(Published::Held(_) | Published::Again) => Ok((id, 0)),
        Some(Published::Refused(refusal)) => Err(refused(refusal)),
        None => Err(refused(Refusal::Closed)),
    }
}

pub(super) fn secret(headers: &HeaderMap) -> Result<Secret, Refused> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(Secret::Anonymous) };
    let proof = || {
        let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Secret::Token(encoded.trim().as_bytes().to_vec()));
        }
        let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let (user, password) = (decoded.get(..colon)?, decoded.get(colon + 1..)?);
        let user = String::from_utf8(user.to_vec()).ok()?;
        scheme
            .eq_ignore_ascii_case("basic")
            .then(|| Secret::Password { user, password: password.to_vec() })
    };
    proof().ok_or_else(|| {
        let reason = "only Basic and Bearer authorization are understood";
        Refused(StatusCode::UNAUTHORIZED, reason.to_owned())
    })
}

pub(super) fn login_refused(error: LoginError) -> Refused {
    let status = match error {
        LoginError::BadCredentials => StatusCode::UNAUTHORIZED,
        LoginError::LoopbackOnly | LoginError::NoNamespace | LoginError::NoAccess => {
            StatusCode::FORBIDDEN
        }
        LoginError::Closed | LoginError::Busy => StatusCode::SERVICE_UNAVAILABLE,
    };
    Refused(status, error.to_string())
}

pub(super) fn refused(refusal: Refusal) -> Refused {
    let status = match &refusal {
        Refusal::NoExchange(_) | Refusal::NoQueue(_) | Refusal::NoTopic(_) => StatusCode::NOT_FOUND,
        Refusal::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Denied { .. } => StatusCode::FORBIDDEN,
        Refusal::DiskFull | Refusal::QueueFull(_) | Refusal::Limit { .. } => {
            StatusCode::INSUFFICIENT_STORAGE
        }
        Refusal::Unreadable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Refusal::Closed => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Locked(_)
        | Refusal::InUse(_)
        | Refusal::NotEmpty(_)
        | Refusal::ExclusiveConsumer(_)
        | Refusal::ConsumerExists(_)
        | Refusal::Internal(_)
        | Refusal::DefaultExchange
        | Refusal::Predeclared(_)
        | Refusal::BadArguments(_)
        | Refusal::Ranked(_)
        | Refusal::Stale => StatusCode::CONFLICT,
    };
    Refused(status, refusal.to_string())
}

/// RFC 9457.
#[derive(Serialize)]
struct Problem {
    status: u16,
    title: String,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(status, title) = self;
        let mut response =
            (status, Json(Problem { status: status.as_u16(), title })).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                header::HeaderValue::from_static("Basic realm=\"mainstem\""),
            );
        }
        response
    }
}
