//! What is done to queues and connections.

use std::{thread, time::Duration};

use axum::http::Method;
use serde_json::Value as Json;

use super::{Failure, Session, USAGE, listings, output::Output};
use crate::remote::segment;

type Done = Result<Output, Failure>;

fn queue(session: &Session) -> String {
    format!("/api/queues/{}/{}", segment(session.call.vhost()), segment(session.call.argument(0)))
}

pub(super) fn purge(session: &Session) -> Done {
    let path = format!("{}/contents", queue(session));
    let reply = session.ask(Method::DELETE, &path, None)?;
    match reply.status {
        404 => Err(Failure::new(super::UNAVAILABLE, "not_found")),
        _ if reply.is_fine() => Ok(Output::Nothing),
        _ => Err(Failure::of(&reply)),
    }
}

pub(super) fn delete(session: &Session) -> Done {
    let mut path = queue(session);
    let found = session.ask(Method::GET, &path, None)?;
    if found.status == 404 {
        return Err(Failure::new(USAGE, "Queue not found"));
    }
    let ready = &found.json()["messages_ready"];
    let conditions = ["if-empty", "if-unused"];
    let some = conditions.iter().filter(|name| session.call.has(&format!("--{name}")));
    let some: Vec<_> = some.map(|name| format!("{name}=true")).collect();
    if !some.is_empty() {
        path = format!("{path}?{}", some.join("&"));
    }
    let reply = session.ask(Method::DELETE, &path, None)?;
    if reply.is_fine() {
        let text = format!("Queue was successfully deleted with {ready} ready messages");
        return Ok(Output::Text(text));
    }
    let reason = reply.reason();
    let text = match () {
        () if reason.contains("in use") => "Queue is in use".to_owned(),
        () if reason.contains("not empty") => "Queue is not empty".to_owned(),
        () => reason,
    };
    Err(Failure::new(USAGE, text))
}

fn end(session: &Session, name: &str, reason: &str) -> Result<bool, Failure> {
    let path = format!("/api/connections/{}", segment(name));
    let reply = session.delete_for(&path, reason)?;
    match reply.status {
        404 => Ok(false),
        _ if reply.is_fine() => Ok(true),
        _ => Err(Failure::of(&reply)),
    }
}

/// One that has gone is as wished.
pub(super) fn close_connection(session: &Session) -> Done {
    let [pid, reason] = [0, 1].map(|at| session.call.argument(at));
    end(session, &listings::name_of(pid), reason)?;
    Ok(Output::Nothing)
}

pub(super) fn close_all_connections(session: &Session) -> Done {
    let (call, all) = (&session.call, session.call.has("--global"));
    let wanted = |one: &Json| all || one["vhost"] == call.vhost();
    end_all(session, call.argument(0), wanted)
}

pub(super) fn close_all_user_connections(session: &Session) -> Done {
    let user = session.call.argument(0);
    end_all(session, session.call.argument(1), |one| one["user"] == user)
}

fn end_all(session: &Session, reason: &str, is_wanted: impl Fn(&Json) -> bool) -> Done {
    let number = |option| session.call.option(option).and_then(|text: &str| text.parse().ok());
    let limit = number("--limit").filter(|limit| *limit > 0).unwrap_or(u64::MAX);
    let pause = Duration::from_millis(number("--per-connection-delay").unwrap_or(0));
    let mut ended = 0;
    for connection in session.list("/api/connections")? {
        let Some(name) = connection["name"].as_str().filter(|_| is_wanted(&connection)) else {
            continue;
        };
        if ended == limit {
            break;
        }
        if end(session, name, reason)? {
            ended += 1;
        }
        thread::sleep(pause);
    }
    Ok(Output::Text(format!("Closed {ended} connections")))
}
