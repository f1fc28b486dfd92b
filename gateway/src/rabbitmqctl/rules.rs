//! Policies, parameters and limits.

use axum::http::Method;
use serde_json::{Map, Value as Json, json};

use super::{
    Failure, SOFTWARE, Session, UNAVAILABLE,
    arguments::Call,
    identities::rows,
    output::{Output, Rows},
    set_field,
};
use crate::remote::segment;

type Done = Result<Output, Failure>;

/// What RabbitMQ keeps the limits of a virtual host under.
const LIMITS: (&str, &str) = ("vhost-limits", "limits");

fn parse(text: &str) -> Result<Json, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::new(UNAVAILABLE, format!("JSON decoding error. Reason: {error}")))
}

fn invalid(reason: &str) -> Failure {
    Failure::new(UNAVAILABLE, format!("Validation failed\n\n{reason}\n"))
}

/// Asks for a change whose words the server judges.
fn put(session: &Session, path: &str, body: &Json) -> Done {
    let reply = session.ask(Method::PUT, path, Some(body))?;
    if reply.is_fine() { Ok(Output::Nothing) } else { Err(invalid(&reply.reason())) }
}

fn delete(session: &Session, path: &str) -> Done {
    let reply = session.ask(Method::DELETE, path, None)?;
    match reply.status {
        404 => Err(Failure::new(UNAVAILABLE, "Parameter does not exist")),
        _ if reply.is_fine() => Ok(Output::Nothing),
        _ => Err(Failure::of(&reply)),
    }
}

fn of_vhost(session: &Session, kind: &str, name: &str) -> String {
    format!("/api/{kind}/{}/{}", segment(session.call.vhost()), segment(name))
}

fn set_rule(session: &Session, kind: &str) -> Done {
    let [name, pattern, definition] = [0, 1, 2].map(|at| session.call.argument(at));
    let apply_to = session.call.option("--apply-to").unwrap_or("all");
    let priority = session.call.option("--priority").unwrap_or("0");
    let body = json!({
        "pattern": pattern,
        "definition": parse(definition)?,
        "apply-to": apply_to,
        "priority": priority,
    });
    put(session, &of_vhost(session, kind, name), &body)
}

fn list_rules(session: &Session, kind: &str) -> Done {
    let vhost = session.call.vhost();
    session.must_have_vhost(vhost)?;
    let mut all = session.list(&format!("/api/{kind}/{}", segment(vhost)))?;
    for rule in &mut all {
        set_field(rule, "definition", Json::from(rule["definition"].to_string()));
    }
    let columns = ["vhost", "name", "pattern", "apply-to", "definition", "priority"];
    Ok(Output::Rows(rows(&columns, &all)))
}

pub(super) fn set_policy(session: &Session) -> Done {
    set_rule(session, "policies")
}

pub(super) fn set_operator_policy(session: &Session) -> Done {
    set_rule(session, "operator-policies")
}

pub(super) fn clear_policy(session: &Session) -> Done {
    delete(session, &of_vhost(session, "policies", session.call.argument(0)))
}

pub(super) fn clear_operator_policy(session: &Session) -> Done {
    delete(session, &of_vhost(session, "operator-policies", session.call.argument(0)))
}

pub(super) fn list_policies(session: &Session) -> Done {
    list_rules(session, "policies")
}

pub(super) fn list_operator_policies(session: &Session) -> Done {
    list_rules(session, "operator-policies")
}

fn parameter(session: &Session) -> String {
    let [component, name] = [0, 1].map(|at| segment(session.call.argument(at)));
    format!("/api/parameters/{component}/{}/{name}", segment(session.call.vhost()))
}

fn names_limits(call: &Call) -> bool {
    (call.argument(0), call.argument(1)) == LIMITS
}

pub(super) fn set_parameter(session: &Session) -> Done {
    let value = parse(session.call.argument(2))?;
    if names_limits(&session.call) {
        return replace_limits(session, &value);
    }
    put(session, &parameter(session), &json!({ "value": value }))
}

pub(super) fn clear_parameter(session: &Session) -> Done {
    if names_limits(&session.call) {
        return clear_vhost_limits(session);
    }
    delete(session, &parameter(session))
}

pub(super) fn list_parameters(session: &Session) -> Done {
    let vhost = session.call.vhost();
    session.must_have_vhost(vhost)?;
    let mut all = session.list("/api/parameters")?;
    all.retain(|one| one["vhost"] == vhost);
    let limits = vhost_limits(session)?;
    if !limits.is_empty() {
        all.push(json!({ "component": LIMITS.0, "name": LIMITS.1, "value": limits }));
    }
    Ok(Output::Rows(written(&["component", "name", "value"], all)))
}

/// Values are shown as JSON, whatever the format is.
fn written(columns: &[&str], mut all: Vec<Json>) -> Rows {
    for one in &mut all {
        set_field(one, "value", Json::from(one["value"].to_string()));
    }
    rows(columns, &all)
}

pub(super) fn set_global_parameter(session: &Session) -> Done {
    let [name, value] = [0, 1].map(|at| session.call.argument(at));
    let path = format!("/api/global-parameters/{}", segment(name));
    put(session, &path, &json!({ "name": name, "value": parse(value)? }))
}

pub(super) fn clear_global_parameter(session: &Session) -> Done {
    delete(session, &format!("/api/global-parameters/{}", segment(session.call.argument(0))))
}

pub(super) fn list_global_parameters(session: &Session) -> Done {
    let all = session.list("/api/global-parameters")?;
    Ok(Output::Rows(written(&["name", "value"], all)))
}

/// The limits that a definition names.
fn limits(text: &str) -> Result<Map<String, Json>, Failure> {
    match parse(text)? {
        Json::Object(limits) => Ok(limits),
        _ => Err(invalid("the limits are not a JSON object")),
    }
}

fn vhost_limits(session: &Session) -> Result<Map<String, Json>, Failure> {
    limits_at(session, &format!("/api/vhost-limits/{}", segment(session.call.vhost())))
}

fn limits_at(session: &Session, path: &str) -> Result<Map<String, Json>, Failure> {
    let all = session.list(path)?;
    let values = all.into_iter().filter_map(|mut one| match one["value"].take() {
        Json::Object(limits) => Some(limits),
        _ => None,
    });
    Ok(values.flatten().collect())
}

pub(super) fn set_vhost_limits(session: &Session) -> Done {
    replace_limits(session, &Json::Object(limits(session.call.argument(0))?))
}

/// Those that are not named are none from then on.
fn replace_limits(session: &Session, wanted: &Json) -> Done {
    let vhost = session.call.vhost();
    session.must_have_vhost(vhost)?;
    let Some(wanted) = wanted.as_object() else {
        return Err(invalid("the limits are not a JSON object"));
    };
    for (limit, value) in wanted {
        put(session, &of_vhost(session, "vhost-limits", limit), &json!({ "value": value }))?;
    }
    for limit in vhost_limits(session)?.keys().filter(|limit| !wanted.contains_key(*limit)) {
        delete(session, &of_vhost(session, "vhost-limits", limit))?;
    }
    Ok(Output::Nothing)
}

pub(super) fn clear_vhost_limits(session: &Session) -> Done {
    replace_limits(session, &json!({}))
}

pub(super) fn list_vhost_limits(session: &Session) -> Done {
    if session.call.has("--global") {
        let all = session.list("/api/vhost-limits")?;
        return Ok(limits_of_all(all, "vhost"));
    }
    session.must_have_vhost(session.call.vhost())?;
    Ok(shown(&vhost_limits(session)?))
}

fn limits_of_all(mut all: Vec<Json>, kind: &str) -> Output {
    for one in &mut all {
        set_field(one, "limits", Json::from(one["value"].to_string()));
    }
    Output::Rows(rows(&[kind, "limits"], &all))
}

/// Where there are none, an empty line stands for them.
fn shown(limits: &Map<String, Json>) -> Output {
    if limits.is_empty() {
        return Output::Rows(Rows { has_line_for_none: true, ..Rows::default() });
    }
    Output::Text(Json::Object(limits.clone()).to_string())
}

fn of_user(session: &Session, user: &str, limit: &str) -> Result<String, Failure> {
    let reply = session.ask(Method::GET, &format!("/api/users/{}", segment(user)), None)?;
    if reply.status == 404 {
        return Err(Failure::new(super::NO_USER, format!("User \"{user}\" does not exist")));
    }
    Ok(format!("/api/user-limits/{}/{}", segment(user), segment(limit)))
}

pub(super) fn set_user_limits(session: &Session) -> Done {
    let user = session.call.argument(0);
    for (limit, value) in limits(session.call.argument(1))? {
        put(session, &of_user(session, user, &limit)?, &json!({ "value": value }))?;
    }
    Ok(Output::Nothing)
}

pub(super) fn clear_user_limits(session: &Session) -> Done {
    let [user, limit] = [0, 1].map(|at| session.call.argument(at));
    let path = of_user(session, user, limit)?;
    if limit != "all" {
        let reply = session.ask(Method::DELETE, &path, None)?;
        return if reply.is_fine() {
            Ok(Output::Nothing)
        } else {
            Err(Failure::new(SOFTWARE, reply.reason()))
        };
    }
    let known = limits_at(session, &format!("/api/user-limits/{}", segment(user)))?;
    for limit in known.keys() {
        delete(session, &of_user(session, user, limit)?)?;
    }
    Ok(Output::Nothing)
}

pub(super) fn list_user_limits(session: &Session) -> Done {
    match session.call.option("--user") {
        Some(user) => {
            of_user(session, user, "")?;
            Ok(shown(&limits_at(session, &format!("/api/user-limits/{}", segment(user)))?))
        }
        None => Ok(limits_of_all(session.list("/api/user-limits")?, "user")),
    }
}
