//! `/api/vhost-limits` and `/api/user-limits`.

use axum::extract::Path;
use mainstem_broker::{Bounded, Scope};
use serde_json::{Map, Value as Json, json};

use super::{
    answer::{self, Answer, Failure},
    body::Body,
    caller::Caller,
    gathering::Gathering,
};

pub(super) async fn list_all(caller: Caller) -> Answer {
    list_of(&caller, caller.namespaces().into_iter().map(Scope::Namespace)).await
}

pub(super) async fn list(caller: Caller, Path(vhost): Path<String>) -> Answer {
    caller.check_namespace(&vhost)?;
    list_of(&caller, [Scope::Namespace(vhost)].into_iter()).await
}

pub(super) async fn list_all_users(caller: Caller) -> Answer {
    caller.must_administrate()?;
    list_of(&caller, caller.gate.users().into_iter().map(Scope::User)).await
}

pub(super) async fn list_user(caller: Caller, Path(user): Path<String>) -> Answer {
    caller.must_administrate()?;
    check_user(&caller, &user)?;
    list_of(&caller, [Scope::User(user)].into_iter()).await
}

async fn list_of(caller: &Caller, scopes: impl Iterator<Item = Scope>) -> Answer {
    let mut all = Gathering::new(&caller.query)?;
    for scope in scopes {
        let limits = caller.gate.broker.list_limits(&scope).await?;
        if limits.is_empty() {
            continue;
        }
        let limits = limits.into_iter().map(|(of, max)| (of.word().to_owned(), Json::from(max)));
        let value: Map<String, Json> = limits.collect();
        let (kind, name) = match &scope {
            Scope::Namespace(name) => ("vhost", name),
            Scope::User(name) => ("user", name),
        };
        all.add(name, || json!({ kind: name, "value": value }));
    }
    all.answer()
}

pub(super) async fn set(caller: Caller, path: Path<(String, String)>, body: Body) -> Answer {
    let (vhost, limit) = path.0;
    caller.check_namespace(&vhost)?;
    change(&caller, Scope::Namespace(vhost), &limit, Some(&body)).await
}

pub(super) async fn delete(caller: Caller, path: Path<(String, String)>) -> Answer {
    let (vhost, limit) = path.0;
    caller.check_namespace(&vhost)?;
    change(&caller, Scope::Namespace(vhost), &limit, None).await
}

pub(super) async fn set_user(caller: Caller, path: Path<(String, String)>, body: Body) -> Answer {
    let (user, limit) = path.0;
    check_user(&caller, &user)?;
    change(&caller, Scope::User(user), &limit, Some(&body)).await
}

pub(super) async fn delete_user(caller: Caller, path: Path<(String, String)>) -> Answer {
    let (user, limit) = path.0;
    check_user(&caller, &user)?;
    change(&caller, Scope::User(user), &limit, None).await
}

/// A limit below zero is none.
async fn change(caller: &Caller, scope: Scope, limit: &str, body: Option<&Body>) -> Answer {
    caller.must_administrate()?;
    let unknown = || Failure::bad(format!("unrecognised limit '{limit}'"));
    let bounded = Bounded::from_word(limit).ok_or_else(unknown)?;
    let max = match body {
        Some(body) => {
            let lacking = || Failure::bad("[{key_missing,value}]");
            u64::try_from(body.int("value")?.ok_or_else(lacking)?).ok()
        }
        None => None,
    };
    caller.gate.broker.set_limit(&scope, bounded, max).await?;
    Ok(answer::gone())
}

fn check_user(caller: &Caller, user: &str) -> Result<(), Failure> {
    let is_known = caller.gate.users().iter().any(|known| known == user);
    if is_known { Ok(()) } else { Err(Failure::not_found()) }
}
