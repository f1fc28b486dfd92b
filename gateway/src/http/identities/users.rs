//! Users: who they are, and what proves it.

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
        directory::Account,
        password::{Algorithm, Kept},
    },
    http::{Gate, caller::Caller, management::Failure},
};

/// Names in one request to delete users.
const BULK_MAX: usize = 10_000;

/// Tags, as a list or as words between commas.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Tags {
    Words(String),
    List(Vec<String>),
}

impl Tags {
    pub(super) fn list(self) -> Vec<String> {
        match self {
            Self::Words(words) => words
                .split(',')
                .map(|word| word.trim().to_owned())
                .filter(|word| !word.is_empty())
                .collect(),
            Self::List(list) => list,
        }
    }
}

#[derive(Deserialize)]
pub(in crate::http) struct Wanted {
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    password_hash: Option<String>,
    #[serde(default)]
    hashing_algorithm: Option<String>,
    #[serde(default)]
    tags: Option<Tags>,
}

#[derive(Deserialize)]
pub(super) struct Several {
    users: Vec<String>,
}

pub(in crate::http) fn shown(name: &str, account: &Account) -> Value {
    let kept = account.shown();
    json!({
        "name": name,
        "password_hash": kept.hash(),
        "hashing_algorithm": kept.algorithm().word(),
        "tags": account.tags,
        "limits": {},
    })
}

pub(super) async fn whoami(caller: Caller) -> Json<Value> {
    Json(json!({ "name": caller.name, "tags": caller.tags }))
}

/// As RabbitMQ hashes, for what is to be put where hashes are.
pub(super) async fn hash(
    caller: Caller,
    Path(password): Path<String>,
) -> Result<Json<Value>, Failure> {
    caller.must_administrate()?;
    Ok(Json(json!({ "ok": Kept::salted(password.as_bytes()).hash() })))
}

pub(super) async fn list(caller: Caller, State(gate): State<Gate>) -> Result<Json<Value>, Failure> {
    caller.must_administrate()?;
    let directory = gate.registry.directory();
    Ok(Json(directory.users.iter().map(|(name, account)| shown(name, account)).collect()))
}

pub(super) async fn without_permissions(
    caller: Caller,
    State(gate): State<Gate>,
) -> Result<Json<Value>, Failure> {
    caller.must_administrate()?;
    let directory = gate.registry.directory();
    let has_some = |user: &str| directory.permissions.keys().any(|(_, other)| other == user);
    let without = directory.users.iter().filter(|(name, _)| !has_some(name));
    Ok(Json(without.map(|(name, account)| shown(name, account)).collect()))
}

pub(super) async fn show(
    caller: Caller,
    State(gate): State<Gate>,
    Path(user): Path<String>,
) -> Result<Json<Value>, Failure> {
    caller.must_administrate()?;
    let directory = gate.registry.directory();
    let account = directory.users.get(&user).ok_or_else(Failure::not_found)?;
    Ok(Json(shown(&user, account)))
}

pub(super) async fn set(
    caller: Caller,
    State(gate): State<Gate>,
    Path(user): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    caller.must_administrate()?;
    Ok(made(put(&gate, &user, read(&body)?).await?))
}

/// Makes or changes a user; tells whether it is new.
pub(in crate::http) async fn put(gate: &Gate, user: &str, wanted: Wanted) -> Result<bool, Failure> {
    let Wanted { password, password_hash, hashing_algorithm, tags } = wanted;
    let directory = gate.registry.directory();
    let known = directory.users.get(user);
    let kept = match (password, password_hash) {
        (Some(_), Some(_)) => {
            return Err(Failure::bad("password and password_hash are both given"));
        }
        (Some(password), None) if password.is_empty() => Kept::none(),
        (Some(password), None) => gate.registry.hash(password.into_bytes()).await?,
        (None, Some(hash)) => {
            let word = hashing_algorithm.as_deref().unwrap_or_else(|| Algorithm::Sha256.word());
            let algorithm = Algorithm::from_word(word)
                .ok_or_else(|| Failure::bad(format!("hashing_algorithm {word} is not known")))?;
            Kept::read(algorithm, &hash)
                .ok_or_else(|| Failure::bad(format!("password_hash is no hash of {word}")))?
        }
        // Without one it stays as it is.
        (None, None) => known.map_or_else(Kept::none, Account::shown),
    };
    let before = || known.map(|known| known.tags.clone()).unwrap_or_default();
    let tags = tags.map_or_else(before, Tags::list);
    Ok(gate.registry.set_user(user, &kept, &tags).await?)
}

pub(super) async fn delete(
    caller: Caller,
    State(gate): State<Gate>,
    Path(user): Path<String>,
) -> Result<StatusCode, Failure> {
    caller.must_administrate()?;
    gone(gate.registry.delete_user(&user).await?)
}

pub(super) async fn bulk_delete(
    caller: Caller,
    State(gate): State<Gate>,
    body: Bytes,
) -> Result<StatusCode, Failure> {
    caller.must_administrate()?;
    let Several { users } = read(&body)?;
    if users.len() > BULK_MAX {
        return Err(Failure::bad(format!("more than {BULK_MAX} users at once")));
    }
    for user in users {
        // One that is not there is as wished.
        let _was_there = gate.registry.delete_user(&user).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
