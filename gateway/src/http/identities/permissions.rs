//! What users may do in virtual hosts: by names, and by keys at exchanges.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{gone, made, read};
use crate::{
    access::{
        directory::Directory,
        grant::{Permission, TopicPermission},
    },
    http::{Gate, caller::Caller, management::Failure},
};

type Pair = Path<(String, String)>;
type Listed = Result<Json<Value>, Failure>;

#[derive(Deserialize)]
pub(super) struct Wanted {
    configure: String,
    write: String,
    read: String,
}

#[derive(Deserialize)]
pub(super) struct WantedTopic {
    exchange: String,
    write: String,
    read: String,
}

pub(in crate::http) fn all(
    directory: &Directory,
    which: impl Fn(&str, &str) -> bool,
) -> Vec<Value> {
    let some = directory.permissions.iter().filter(|((vhost, user), _)| which(vhost, user));
    some.map(|((vhost, user), Permission { configure, write, read })| {
        json!({
            "user": user,
            "vhost": vhost,
            "configure": configure,
            "write": write,
            "read": read,
        })
    })
    .collect()
}

pub(in crate::http) fn all_topics(
    directory: &Directory,
    which: impl Fn(&str, &str) -> bool,
) -> Vec<Value> {
    let some = directory.topics.iter().filter(|((vhost, user, _), _)| which(vhost, user));
    some.map(|((vhost, user, exchange), TopicPermission { write, read })| {
        json!({
            "user": user,
            "vhost": vhost,
            "exchange": exchange,
            "write": write,
            "read": read,
        })
    })
    .collect()
}

pub(super) async fn list(caller: Caller, State(gate): State<Gate>) -> Listed {
    caller.must_administrate()?;
    Ok(Json(all(&gate.registry.directory(), |_, _| true).into()))
}

pub(super) async fn topics(caller: Caller, State(gate): State<Gate>) -> Listed {
    caller.must_administrate()?;
    Ok(Json(all_topics(&gate.registry.directory(), |_, _| true).into()))
}

pub(super) async fn of_user(
    caller: Caller,
    State(gate): State<Gate>,
    Path(user): Path<String>,
) -> Listed {
    let directory = known_user(&caller, &gate, &user)?;
    Ok(Json(all(&directory, |_, other| other == user).into()))
}

pub(super) async fn topics_of_user(
    caller: Caller,
    State(gate): State<Gate>,
    Path(user): Path<String>,
) -> Listed {
    let directory = known_user(&caller, &gate, &user)?;
    Ok(Json(all_topics(&directory, |_, other| other == user).into()))
}

pub(super) async fn of_vhost(
    caller: Caller,
    State(gate): State<Gate>,
    Path(vhost): Path<String>,
) -> Listed {
    caller.must_administrate()?;
    caller.must_see(&gate, &vhost)?;
    Ok(Json(all(&gate.registry.directory(), |other, _| other == vhost).into()))
}

pub(super) async fn topics_of_vhost(
    caller: Caller,
    State(gate): State<Gate>,
    Path(vhost): Path<String>,
) -> Listed {
    caller.must_administrate()?;
    caller.must_see(&gate, &vhost)?;
    Ok(Json(all_topics(&gate.registry.directory(), |other, _| other == vhost).into()))
}

pub(super) async fn show(
    caller: Caller,
    State(gate): State<Gate>,
    Path((vhost, user)): Pair,
) -> Listed {
    caller.must_administrate()?;
    let found = all(&gate.registry.directory(), |v, u| v == vhost && u == user);
    found.into_iter().next().map(Json).ok_or_else(Failure::not_found)
}

pub(super) async fn show_topics(
    caller: Caller,
    State(gate): State<Gate>,
    Path((vhost, user)): Pair,
) -> Listed {
    caller.must_administrate()?;
    let found = all_topics(&gate.registry.directory(), |v, u| v == vhost && u == user);
    if found.is_empty() {
        return Err(Failure::not_found());
    }
    Ok(Json(found.into()))
}

pub(super) async fn set(
    caller: Caller,
    State(gate): State<Gate>,
    Path((vhost, user)): Pair,
    body: Bytes,
) -> Result<Response, Failure> {
    caller.must_administrate()?;
    let Wanted { configure, write, read } = read(&body)?;
    let permission = Permission { configure, write, read };
    Ok(made(gate.registry.set_permission(&vhost, &user, &permission).await?))
}

pub(super) async fn delete(
    caller: Caller,
    State(gate): State<Gate>,
    Path((vhost, user)): Pair,
) -> Result<StatusCode, Failure> {
    caller.must_administrate()?;
    gone(gate.registry.delete_permission(&vhost, &user).await?)
}

pub(super) async fn set_topic(
    caller: Caller,
    State(gate): State<Gate>,
    Path((vhost, user)): Pair,
    body: Bytes,
) -> Result<Response, Failure> {
    caller.must_administrate()?;
    let WantedTopic { exchange, write, read } = read(&body)?;
    let topic = TopicPermission { write, read };
    Ok(made(gate.registry.set_topic_permission(&vhost, &user, &exchange, &topic).await?))
}

pub(super) async fn delete_topics(
    caller: Caller,
    State(gate): State<Gate>,
    Path((vhost, user)): Pair,
) -> Result<StatusCode, Failure> {
    caller.must_administrate()?;
    gone(gate.registry.delete_topic_permissions(&vhost, &user, None).await?)
}

pub(super) async fn delete_topic(
    caller: Caller,
    State(gate): State<Gate>,
    Path((vhost, user, exchange)): Path<(String, String, String)>,
) -> Result<StatusCode, Failure> {
    caller.must_administrate()?;
    gone(gate.registry.delete_topic_permissions(&vhost, &user, Some(&exchange)).await?)
}

/// A user that there is, for one who may look.
fn known_user(
    caller: &Caller,
    gate: &Gate,
    user: &str,
) -> Result<std::sync::Arc<Directory>, Failure> {
    if caller.name != user {
        caller.must_administrate()?;
    }
    let directory = gate.registry.directory();
    if directory.users.contains_key(user) { Ok(directory) } else { Err(Failure::not_found()) }
}
