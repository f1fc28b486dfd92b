//! Virtual hosts, which are namespaces.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{gone, made, read, users::Tags};
use crate::{
    access::{directory::Described, grant::Permission},
    http::{Gate, caller::Caller, management::Failure},
};

#[derive(Deserialize)]
pub(in crate::http) struct Wanted {
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    tags: Option<Tags>,
    #[serde(default)]
    default_queue_type: Option<String>,
}

pub(in crate::http) fn shown(name: &str, described: &Described) -> Value {
    let Described { description, tags, default_queue_type, .. } = described;
    let default_queue_type = match default_queue_type.as_str() {
        "" | "undefined" => "classic",
        named => named,
    };
    json!({
        "name": name,
        "description": description,
        "tags": tags,
        "default_queue_type": default_queue_type,
        "metadata": {
            "description": description,
            "tags": tags,
            "default_queue_type": default_queue_type,
        },
        "tracing": false,
    })
}

/// What is exported, and how it is.
fn told(gate: &Gate, name: &str, described: &Described) -> Value {
    let mut told = shown(name, described);
    if let Some(fields) = told.as_object_mut() {
        let state = json!({ gate.node.name.as_str(): "running" });
        fields.insert("cluster_state".to_owned(), state);
    }
    told
}

pub(super) async fn list(caller: Caller, State(gate): State<Gate>) -> Json<Value> {
    let directory = gate.registry.directory();
    let seen = directory.namespaces.iter().filter(|(name, _)| caller.sees(&gate, name));
    Json(seen.map(|(name, described)| told(&gate, name, described)).collect())
}

pub(super) async fn show(
    caller: Caller,
    State(gate): State<Gate>,
    Path(vhost): Path<String>,
) -> Result<Json<Value>, Failure> {
    caller.must_see(&gate, &vhost)?;
    let directory = gate.registry.directory();
    let described = directory.namespaces.get(&vhost).ok_or_else(Failure::not_found)?;
    Ok(Json(told(&gate, &vhost, described)))
}

/// Who makes a virtual host may do everything in it; the operator may anyway.
pub(super) async fn set(
    caller: Caller,
    State(gate): State<Gate>,
    Path(vhost): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    caller.must_administrate()?;
    let is_new = put(&gate, &vhost, read(&body)?).await?;
    if is_new && caller.is_user() {
        gate.registry.set_permission(&vhost, &caller.name, &Permission::all()).await?;
    }
    Ok(made(is_new))
}

/// Makes a virtual host, or describes one anew; tells whether it is new.
pub(in crate::http) async fn put(
    gate: &Gate,
    vhost: &str,
    wanted: Wanted,
) -> Result<bool, Failure> {
    let Wanted { description, tags, default_queue_type } = wanted;
    let known = gate.registry.directory().namespaces.get(vhost).cloned().unwrap_or_default();
    let mut described = known;
    if let Some(description) = description {
        described.description = description;
    }
    if let Some(tags) = tags {
        described.tags = tags.list();
    }
    if let Some(default_queue_type) = default_queue_type {
        described.default_queue_type = default_queue_type;
    }
    Ok(gate.registry.set_namespace(vhost, &described).await?)
}

pub(super) async fn delete(
    caller: Caller,
    State(gate): State<Gate>,
    Path(vhost): Path<String>,
) -> Result<StatusCode, Failure> {
    caller.must_administrate()?;
    gone(gate.registry.delete_namespace(&vhost).await?)
}
