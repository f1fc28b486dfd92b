//! `/api/parameters` and `/api/global-parameters`: values that are kept for who set them.

use axum::extract::Path;
use mainstem_schemas::{Table, Value};
use serde_json::{Value as Json, json};

use super::{
    answer::{self, Answer, Failure},
    body::Body,
    caller::Caller,
    gathering::{self, Gathering},
    values,
};
use crate::http::Gate;

/// What the store calls them, and the one entry of each.
const COMPONENT: &str = "settings";
const VALUE: &str = "value";
/// Stands between a component and a name where both are kept as one.
pub(super) const BETWEEN: char = '\0';
/// Where those are kept that are no namespace's.
pub(super) const GLOBAL: &str = "";
const CLUSTER_NAME: &str = "cluster_name";
/// Settings of these are of no use without an address.
const UPSTREAM: &str = "federation-upstream";

pub(super) async fn list_all(caller: Caller) -> Answer {
    list_of(&caller, None, &caller.namespaces()).await
}

pub(super) async fn list_component(caller: Caller, Path(component): Path<String>) -> Answer {
    list_of(&caller, Some(&component), &caller.namespaces()).await
}

pub(super) async fn list(caller: Caller, path: Path<(String, String)>) -> Answer {
    let (component, vhost) = path.0;
    caller.check_namespace(&vhost)?;
    list_of(&caller, Some(&component), &[vhost]).await
}

async fn list_of(caller: &Caller, component: Option<&str>, namespaces: &[String]) -> Answer {
    let mut all = Gathering::new(&caller.query)?;
    for vhost in namespaces {
        for (key, value) in kept(&caller.gate, vhost).await? {
            let Some((of, name)) = key.split_once(BETWEEN) else { continue };
            if component.is_none_or(|component| component == of) {
                all.add(name, || shown(of, vhost, name, values::show(&value)));
            }
        }
    }
    all.answer()
}

type Place = (String, String, String);

pub(super) async fn show(caller: Caller, Path((component, vhost, name)): Path<Place>) -> Answer {
    caller.check_namespace(&vhost)?;
    let value = find(&caller, &vhost, &key(&component, &name)?).await?;
    let value = value.ok_or_else(Failure::not_found)?;
    gathering::show(&caller.query, shown(&component, &vhost, &name, value))
}

pub(super) async fn set(
    caller: Caller,
    Path((component, vhost, name)): Path<Place>,
    body: Body,
) -> Answer {
    caller.must_make_policies()?;
    caller.check_namespace(&vhost)?;
    let key = key(&component, &name)?;
    let given = body.value("value")?;
    if component == UPSTREAM && given.get("uri").is_none_or(Json::is_null) {
        return Err(Failure::bad("Validation failed\n\nthe upstream has no uri\n"));
    }
    let value = values::value(given)?;
    let before = find(&caller, &vhost, &key).await?;
    keep(&caller.gate, &vhost, &key, value).await?;
    Ok(answer::put(before.is_none()))
}

pub(super) async fn delete(caller: Caller, Path((component, vhost, name)): Path<Place>) -> Answer {
    caller.must_make_policies()?;
    caller.check_namespace(&vhost)?;
    forget(&caller, &vhost, &key(&component, &name)?).await
}

pub(super) async fn list_global(caller: Caller) -> Answer {
    let mut all = Gathering::new(&caller.query)?;
    for (name, value) in global(&caller.gate).await? {
        all.add(&name, || json!({ "name": name, "value": values::show(&value) }));
    }
    all.answer()
}

pub(super) async fn show_global(caller: Caller, Path(name): Path<String>) -> Answer {
    let all = global(&caller.gate).await?;
    let (_, value) =
        all.into_iter().find(|(its, _)| *its == name).ok_or_else(Failure::not_found)?;
    gathering::show(&caller.query, json!({ "name": name, "value": values::show(&value) }))
}

pub(super) async fn set_global(caller: Caller, Path(name): Path<String>, body: Body) -> Answer {
    caller.must_administrate()?;
    let value = values::value(body.value("value")?)?;
    let before = find(&caller, GLOBAL, &name).await?;
    keep(&caller.gate, GLOBAL, &name, value).await?;
    Ok(answer::put(before.is_none()))
}

pub(super) async fn delete_global(caller: Caller, Path(name): Path<String>) -> Answer {
    caller.must_administrate()?;
    forget(&caller, GLOBAL, &name).await
}

/// Those that are no namespace's. What the server is called is one of them, and is set elsewhere.
pub(super) async fn global(gate: &Gate) -> Result<Vec<(String, Value)>, Failure> {
    let mut all = kept(gate, GLOBAL).await?;
    all.retain(|(name, _)| name != CLUSTER_NAME);
    let name = gate.config.amqp.cluster_name.clone();
    all.insert(0, (CLUSTER_NAME.to_owned(), Value::Text(name)));
    Ok(all)
}

/// All values of a namespace, by name.
pub(super) async fn kept(gate: &Gate, namespace: &str) -> Result<Vec<(String, Value)>, Failure> {
    let kept = gate.broker.kept(namespace, COMPONENT).await?.into_iter();
    let value = |table: Table| table.into_iter().next().map(|(_, value)| value);
    Ok(kept.filter_map(|(name, table)| Some((name, value(table)?))).collect())
}

pub(super) async fn keep(
    gate: &Gate,
    namespace: &str,
    name: &str,
    value: Value,
) -> Result<(), Failure> {
    Ok(gate.broker.keep(namespace, COMPONENT, name, vec![(VALUE.to_owned(), value)]).await?)
}

async fn find(caller: &Caller, namespace: &str, key: &str) -> Result<Option<Json>, Failure> {
    let all = kept(&caller.gate, namespace).await?;
    Ok(all.iter().find(|(name, _)| name == key).map(|(_, value)| values::show(value)))
}

async fn forget(caller: &Caller, namespace: &str, key: &str) -> Answer {
    if !caller.gate.broker.let_go(namespace, COMPONENT, key).await? {
        return Err(Failure::not_found());
    }
    Ok(answer::gone())
}

pub(super) fn key(component: &str, name: &str) -> Result<String, Failure> {
    if component.contains(BETWEEN) {
        return Err(Failure::bad("a component's name has no zero byte"));
    }
    Ok(format!("{component}{BETWEEN}{name}"))
}

fn shown(component: &str, vhost: &str, name: &str, value: Json) -> Json {
    json!({ "component": component, "vhost": vhost, "name": name, "value": value })
}
