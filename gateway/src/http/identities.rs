//! `/api/users`, `/api/vhosts`, `/api/permissions` and `/api/topic-permissions`, as RabbitMQ's management
//! plugin has them.

pub(super) mod permissions;
pub(super) mod users;
pub(super) mod vhosts;

use axum::{
    Router,
    body::Bytes,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::de::DeserializeOwned;

use super::{Gate, management::Failure};

pub(super) fn router() -> Router<Gate> {
    Router::new()
        .route("/api/whoami", get(users::whoami))
        .route("/api/auth/hash_password/{password}", get(users::hash))
        .route("/api/users", get(users::list))
        .route("/api/users/", get(users::list))
        .route("/api/users/without-permissions", get(users::without_permissions))
        .route("/api/users/bulk-delete", post(users::bulk_delete))
        .route("/api/users/{user}", get(users::show).put(users::set).delete(users::delete))
        .route("/api/users/{user}/permissions", get(permissions::of_user))
        .route("/api/users/{user}/topic-permissions", get(permissions::topics_of_user))
        .route("/api/vhosts", get(vhosts::list))
        .route("/api/vhosts/{vhost}", get(vhosts::show).put(vhosts::set).delete(vhosts::delete))
        .route("/api/vhosts/{vhost}/permissions", get(permissions::of_vhost))
        .route("/api/vhosts/{vhost}/topic-permissions", get(permissions::topics_of_vhost))
        .route("/api/permissions", get(permissions::list))
        .route(
            "/api/permissions/{vhost}/{user}",
            get(permissions::show).put(permissions::set).delete(permissions::delete),
        )
        .route("/api/topic-permissions", get(permissions::topics))
        .route(
            "/api/topic-permissions/{vhost}/{user}",
            get(permissions::show_topics)
                .put(permissions::set_topic)
                .delete(permissions::delete_topics),
        )
        .route(
            "/api/topic-permissions/{vhost}/{user}/{exchange}",
            axum::routing::delete(permissions::delete_topic),
        )
}

/// What a request brings; an empty one stands for an object with nothing in it.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Failure> {
    let body = if body.is_empty() { b"{}" } else { &body[..] };
    serde_json::from_slice(body).map_err(|error| Failure::bad(format!("not_json: {error}")))
}

/// The answer to what makes or changes something.
fn made(is_new: bool) -> Response {
    if is_new { StatusCode::CREATED } else { StatusCode::NO_CONTENT }.into_response()
}

/// The answer to what takes something away.
fn gone(was_there: bool) -> Result<StatusCode, Failure> {
    was_there.then_some(StatusCode::NO_CONTENT).ok_or_else(Failure::not_found)
}
