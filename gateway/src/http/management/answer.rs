//! Answers: what went wrong, in the API's own shape, and what was done.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use mainstem_amqp::session::{Code, Fault};
use mainstem_broker::{LoginError, Refusal};
use serde_json::json;

use crate::access::registry::AccessError;

/// Why a request was not done.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    error: &'static str,
    reason: String,
}

/// What a handler answers.
pub(crate) type Answer = Result<Response, Failure>;

impl Failure {
    pub(crate) fn new(status: StatusCode, error: &'static str, reason: impl Into<String>) -> Self {
        Self { status, error, reason: reason.into() }
    }

    pub(crate) fn bad(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", reason)
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Object Not Found", "Not Found")
    }

    /// Whoever asks has not shown who they are, or may not do it.
    pub(crate) fn unauthorized(reason: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not_authorized", reason)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.error, "reason": self.reason });
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let basic = HeaderValue::from_static("Basic realm=\"RabbitMQ Management\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
        }
        response
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault.code {
            Code::NotFound => Self::new(StatusCode::NOT_FOUND, "not_found", fault.text),
            Code::ConnectionForced => Self::from(Refusal::Closed),
            _ => Self::bad(fault.text),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match &refusal {
            Refusal::NoExchange(_) | Refusal::NoQueue(_) => Self::not_found(),
            Refusal::BadArguments(why) => Self::bad(why.clone()),
            Refusal::Denied { .. } => Self::unauthorized(&refusal.to_string()),
            Refusal::Closed => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable",
                refusal.to_string(),
            ),
            _ => Self::bad(refusal.to_string()),
        }
    }
}

impl From<LoginError> for Failure {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::BadCredentials => Self::unauthorized("Login failed"),
            LoginError::LoopbackOnly => Self::unauthorized("User can only log in via localhost"),
            LoginError::NoAccess => {
                Self::unauthorized("User not authorised to access virtual host")
            }
            LoginError::NoNamespace => Self::not_found(),
            LoginError::Closed => Self::from(Refusal::Closed),
            LoginError::Busy => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, "service_unavailable", error.to_string())
            }
        }
    }
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Store(refusal) => refusal.into(),
            wrong => Self::bad(wrong.to_string()),
        }
    }
}

/// 201 for what was made, 204 for what was there.
pub(super) fn put(created: bool) -> Response {
    let status = if created { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    status.into_response()
}

pub(super) fn gone() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// Errors that the framework found get the API's shape as well.
pub(super) async fn shape(response: Response) -> Response {
    let status = response.status();
    let json = HeaderValue::from_static("application/json");
    let is_ours = response.headers().get(header::CONTENT_TYPE) == Some(&json);
    if is_ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let error = match status {
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "payload_too_large",
        _ => "bad_request",
    };
    let reason = status.canonical_reason().unwrap_or_default();
    let mut shaped = Failure::new(status, error, reason).into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        shaped.headers_mut().insert(header::ALLOW, allow.clone());
    }
    shaped
}
