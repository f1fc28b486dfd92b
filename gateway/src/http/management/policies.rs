//! `/api/policies` and `/api/operator-policies`.

use axum::extract::Path;
use mainstem_broker::{ApplyTo, Authority, Rule};
use serde_json::{Value as Json, json};

use super::{
    answer::{self, Answer, Failure},
    body::Body,
    caller::Caller,
    gathering::{self, Gathering},
    values,
};

pub(super) async fn list_all(authority: Authority, caller: Caller) -> Answer {
    let mut all = Gathering::new(&caller.query)?;
    for namespace in caller.namespaces() {
        gather(authority, &caller, &namespace, &mut all).await?;
    }
    all.answer()
}

pub(super) async fn list(authority: Authority, caller: Caller, vhost: String) -> Answer {
    caller.check_namespace(&vhost)?;
    let mut all = Gathering::new(&caller.query)?;
    gather(authority, &caller, &vhost, &mut all).await?;
    all.answer()
}

async fn gather(
    authority: Authority,
    caller: &Caller,
    vhost: &str,
    all: &mut Gathering,
) -> Result<(), Failure> {
    for rule in caller.gate.broker.list_policies(vhost, authority).await? {
        all.add(&rule.name, || shown(vhost, &rule));
    }
    Ok(())
}

pub(super) async fn show(
    authority: Authority,
    caller: Caller,
    path: Path<(String, String)>,
) -> Answer {
    let (vhost, name) = path.0;
    let found = find(authority, &caller, &vhost, &name).await?;
    let found = found.ok_or_else(Failure::not_found)?;
    gathering::show(&caller.query, shown(&vhost, &found))
}

async fn find(
    authority: Authority,
    caller: &Caller,
    vhost: &str,
    name: &str,
) -> Result<Option<Rule>, Failure> {
    caller.check_namespace(vhost)?;
    let all = caller.gate.broker.list_policies(vhost, authority).await?;
    Ok(all.into_iter().find(|rule| rule.name == name))
}

pub(super) async fn set(
    authority: Authority,
    caller: Caller,
    path: Path<(String, String)>,
    body: Body,
) -> Answer {
    may_set(authority, &caller)?;
    let (vhost, name) = path.0;
    let before = find(authority, &caller, &vhost, &name).await?;
    let default = if authority == Authority::User { "all" } else { "queues" };
    let word = body.text("apply-to")?.unwrap_or(default);
    let unknown = || Failure::bad(format!("apply-to is '{word}', which is none of its words"));
    body.value("definition")?;
    let rule = Rule {
        name,
        pattern: body.wanted_text("pattern")?.to_owned(),
        apply_to: ApplyTo::from_word(word).ok_or_else(unknown)?,
        priority: body.int("priority")?.unwrap_or(0),
        definition: body.table("definition")?,
    };
    caller.gate.broker.set_policy(&vhost, authority, rule).await?;
    Ok(answer::put(before.is_none()))
}

pub(super) async fn delete(
    authority: Authority,
    caller: Caller,
    path: Path<(String, String)>,
) -> Answer {
    may_set(authority, &caller)?;
    let (vhost, name) = path.0;
    caller.check_namespace(&vhost)?;
    if !caller.gate.broker.delete_policy(&vhost, authority, &name).await? {
        return Err(Failure::not_found());
    }
    Ok(answer::gone())
}

/// What operators say is theirs alone.
fn may_set(authority: Authority, caller: &Caller) -> Result<(), Failure> {
    match authority {
        Authority::User => caller.must_make_policies(),
        Authority::Operator => caller.must_administrate(),
    }
}

pub(super) fn shown(vhost: &str, rule: &Rule) -> Json {
    json!({
        "vhost": vhost,
        "name": rule.name,
        "pattern": rule.pattern,
        "apply-to": rule.apply_to.word(),
        "priority": rule.priority,
        "definition": values::show_table(&rule.definition),
    })
}
