//! Who asks the API, and what their tags let them do (RabbitMQ's management plugin).

use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use mainstem_broker::{LoginError, Refusal};
use mainstem_schemas::{Credentials, Secret};
use serde_json::json;

use super::{Gate, Peer, publish::secret};
use crate::access::registry::AccessError;

/// A user who may use the API.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) tags: Vec<String>,
}

impl Caller {
    fn has_one_of(&self, tags: &[&str]) -> bool {
        self.tags.iter().any(|tag| tags.contains(&tag.as_str()))
    }

    /// Errors: the caller does not look after the whole server.
    pub(super) fn must_administrate(&self) -> Result<(), ApiFault> {
        self.has_one_of(&["administrator"]).then_some(()).ok_or_else(ApiFault::not_authorised)
    }

    /// Whether it sees what is everybody's.
    pub(super) fn monitors(&self) -> bool {
        self.has_one_of(&["administrator", "monitoring"])
    }

    /// Errors: the caller may not see what is everybody's.
    pub(super) fn must_monitor(&self) -> Result<(), ApiFault> {
        self.monitors().then_some(()).ok_or_else(ApiFault::not_authorised)
    }

    /// Errors: the caller may not say what queues and exchanges go by.
    pub(super) fn must_make_policies(&self) -> Result<(), ApiFault> {
        let may = self.has_one_of(&["administrator", "policymaker"]);
        may.then_some(()).ok_or_else(ApiFault::not_authorised)
    }

    /// Errors: the caller has nothing to do with that namespace, or there is none.
    pub(super) fn must_see(&self, gate: &Gate, namespace: &str) -> Result<(), ApiFault> {
        let directory = gate.registry.directory();
        if !directory.namespaces.contains_key(namespace) {
            return Err(ApiFault::not_found());
        }
        self.sees(gate, namespace).then_some(()).ok_or_else(ApiFault::not_authorised)
    }

    /// Whether the caller may do anything in that namespace, or see everything.
    pub(super) fn sees(&self, gate: &Gate, namespace: &str) -> bool {
        let of = (namespace.to_owned(), self.name.clone());
        self.monitors() || gate.registry.directory().permissions.contains_key(&of)
    }
}

impl FromRequestParts<Gate> for Caller {
    type Rejection = ApiFault;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, ApiFault> {
        let Some(Peer(peer)) = parts.extensions.get::<Peer>().copied() else {
            return Err(ApiFault::login_failed());
        };
        let secret = secret(&parts.headers).map_err(|_| ApiFault::login_failed())?;
        if matches!(secret, Secret::Anonymous) {
            return Err(ApiFault::login_failed());
        }
        let credentials = Credentials { namespace: String::new(), secret, peer };
        let (name, tags) = gate.registry.authenticate(&credentials).await?;
        let caller = Self { name, tags };
        if !caller.has_one_of(&["administrator", "monitoring", "policymaker", "management"]) {
            return Err(ApiFault::refused("Not management user"));
        }
        Ok(caller)
    }
}

/// Why a request is not carried out, in the API's own shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiFault {
    status: StatusCode,
    error: &'static str,
    reason: String,
}

impl ApiFault {
    pub(super) fn bad(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error: "bad_request", reason: reason.into() }
    }

    pub(super) fn not_found() -> Self {
        let (status, reason) = (StatusCode::NOT_FOUND, "Not Found".to_owned());
        Self { status, error: "Object Not Found", reason }
    }

    fn login_failed() -> Self {
        Self::refused("Login failed")
    }

    fn refused(reason: &str) -> Self {
        let status = StatusCode::UNAUTHORIZED;
        Self { status, error: "not_authorized", reason: reason.to_owned() }
    }

    pub(super) fn foreign() -> Self {
        let reason = "http.origins does not name this page's".to_owned();
        Self { status: StatusCode::FORBIDDEN, error: "forbidden", reason }
    }

    fn not_authorised() -> Self {
        Self::refused("User not authorised to access object")
    }
}

impl IntoResponse for ApiFault {
    fn into_response(self) -> Response {
        let Self { status, error, reason } = self;
        let body = Json(json!({ "error": error, "reason": reason }));
        let mut response = (status, body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let realm = HeaderValue::from_static("Basic realm=\"Mainstem Management\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
        }
        response
    }
}

impl From<LoginError> for ApiFault {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::BadCredentials | LoginError::NoNamespace | LoginError::NoAccess => {
                Self::login_failed()
            }
            LoginError::LoopbackOnly => Self::refused("User can only log in via localhost"),
            LoginError::Busy | LoginError::Closed => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                error: "service_unavailable",
                reason: error.to_string(),
            },
        }
    }
}

impl From<AccessError> for ApiFault {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Wrong(reason) => Self::bad(reason),
            AccessError::NoUser(_) | AccessError::NoNamespace(_) => Self::bad(error.to_string()),
            AccessError::Store(refusal) => refusal.into(),
        }
    }
}

impl From<Refusal> for ApiFault {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::NoExchange(_) | Refusal::NoQueue(_) | Refusal::NoTopic(_) => {
                return Self::not_found();
            }
            Refusal::Denied { .. } => return Self::not_authorised(),
            Refusal::Closed | Refusal::DiskFull => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Unreadable(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => return Self::bad(refusal.to_string()),
        };
        Self { status, error: "service_unavailable", reason: refusal.to_string() }
    }
}
