//! Users, virtual hosts and what the ones may do in the others.

use axum::http::Method;
use serde_json::{Value as Json, json};

use super::{
    DATA, Failure, NO_USER, SOFTWARE, Session, UNAVAILABLE,
    output::{Output, Rows},
    password, set_field,
};
use crate::remote::segment;

type Done = Result<Output, Failure>;

impl Session {
    fn user(&self) -> &str {
        self.call.argument(0)
    }

    fn user_path(&self) -> String {
        format!("/api/users/{}", segment(self.user()))
    }

    fn has_user(&self) -> Result<bool, Failure> {
        Ok(self.ask(Method::GET, &self.user_path(), None)?.status != 404)
    }

    /// Errors: there is no such user.
    fn must_have_user(&self) -> Result<(), Failure> {
        let missing = || Failure::new(NO_USER, format!("User \"{}\" does not exist", self.user()));
        self.has_user()?.then_some(()).ok_or_else(missing)
    }

    /// Errors: there is no such user, or the virtual host is not there.
    fn must_have_place(&self) -> Result<(), Failure> {
        if !self.has_user()? {
            return Err(Failure::new(NO_USER, format!("User {} does not exist", self.user())));
        }
        let vhost = self.call.vhost();
        if self.has_vhost(vhost)? {
            return Ok(());
        }
        Err(Failure::new(UNAVAILABLE, format!("Virtual host {vhost} does not exist")))
    }

    pub(super) fn has_vhost(&self, vhost: &str) -> Result<bool, Failure> {
        let path = format!("/api/vhosts/{}", segment(vhost));
        Ok(self.ask(Method::GET, &path, None)?.status != 404)
    }

    /// Errors: there is no such virtual host.
    pub(super) fn must_have_vhost(&self, vhost: &str) -> Result<(), Failure> {
        let missing = || Failure::bare(DATA, format!("Virtual host '{vhost}' does not exist"));
        self.has_vhost(vhost)?.then_some(()).ok_or_else(missing)
    }
}

/// The fields of objects, in columns of the same names.
pub(super) fn rows(columns: &[&str], objects: &[Json]) -> Rows {
    let row = |object: &Json| columns.iter().map(|name| object[*name].clone()).collect();
    Rows {
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        rows: objects.iter().map(row).collect(),
        has_line_for_none: true,
    }
}

pub(super) fn add_user(session: &Session) -> Done {
    let password = password(session)?;
    if session.has_user()? {
        let text = format!("User \"{}\" already exists", session.user());
        return Err(Failure::new(SOFTWARE, text));
    }
    let field =
        if session.call.has("--pre-hashed-password") { "password_hash" } else { "password" };
    let body = json!({ field: password, "tags": [] });
    session.must(Method::PUT, &session.user_path(), Some(&body))?;
    Ok(Output::Note(
        "Done. Don't forget to grant the user permissions to some virtual hosts! See 'rabbitmqctl help \
         set_permissions' to learn more."
            .to_owned(),
    ))
}

/// Whoever is known and may not use the API has proved who it is as well.
pub(super) fn authenticate_user(session: &Session) -> Done {
    let (user, password) = (session.user().to_owned(), password(session)?);
    let reply = session
        .open()?
        .as_user(&user, &password)
        .ask(&Method::GET, "/api/whoami", None)
        .map_err(|error| session.unreachable(&error))?;
    if reply.is_fine() || reply.reason() == "Not management user" {
        return Ok(Output::Text("Success".to_owned()));
    }
    let text = format!(
        "Error: failed to authenticate user \"{user}\"\nuser '{user}' - invalid credentials"
    );
    Err(Failure::new(DATA, text))
}

pub(super) fn change_password(session: &Session) -> Done {
    set_password(session, &password(session)?)
}

pub(super) fn clear_password(session: &Session) -> Done {
    set_password(session, "")
}

fn set_password(session: &Session, password: &str) -> Done {
    session.must_have_user()?;
    let body = json!({ "password": password });
    session.must(Method::PUT, &session.user_path(), Some(&body))?;
    Ok(Output::Nothing)
}

pub(super) fn delete_user(session: &Session) -> Done {
    session.must_have_user()?;
    session.must(Method::DELETE, &session.user_path(), None)?;
    Ok(Output::Nothing)
}

pub(super) fn list_users(session: &Session) -> Done {
    let mut users = session.list("/api/users")?;
    for user in &mut users {
        set_field(user, "user", user["name"].clone());
    }
    Ok(Output::Rows(rows(&["user", "tags"], &users)))
}

pub(super) fn set_user_tags(session: &Session) -> Done {
    session.must_have_user()?;
    let tags = session.call.arguments.get(1..).unwrap_or_default();
    session.must(Method::PUT, &session.user_path(), Some(&json!({ "tags": tags })))?;
    Ok(Output::Nothing)
}

pub(super) fn add_vhost(session: &Session) -> Done {
    let mut body = json!({});
    for (option, field) in [
        ("--description", "description"),
        ("--tags", "tags"),
        ("--default-queue-type", "default_queue_type"),
    ] {
        if let Some(value) = session.call.option(option) {
            set_field(&mut body, field, Json::from(value));
        }
    }
    let path = format!("/api/vhosts/{}", segment(session.call.argument(0)));
    session.must(Method::PUT, &path, Some(&body))?;
    Ok(Output::Nothing)
}

pub(super) fn delete_vhost(session: &Session) -> Done {
    let vhost = session.call.argument(0);
    session.must_have_vhost(vhost)?;
    session.must(Method::DELETE, &format!("/api/vhosts/{}", segment(vhost)), None)?;
    Ok(Output::Nothing)
}

fn place(session: &Session, kind: &str) -> String {
    format!("/api/{kind}/{}/{}", segment(session.call.vhost()), segment(session.user()))
}

pub(super) fn set_permissions(session: &Session) -> Done {
    session.must_have_place()?;
    let [configure, write, read] = [1, 2, 3].map(|at| session.call.argument(at));
    let body = json!({ "configure": configure, "write": write, "read": read });
    session.must(Method::PUT, &place(session, "permissions"), Some(&body))?;
    Ok(Output::Nothing)
}

pub(super) fn clear_permissions(session: &Session) -> Done {
    session.must_have_place()?;
    clear(session, &place(session, "permissions"))
}

/// What is not there is as wished.
fn clear(session: &Session, path: &str) -> Done {
    let reply = session.ask(Method::DELETE, path, None)?;
    if reply.is_fine() || reply.status == 404 {
        return Ok(Output::Nothing);
    }
    Err(Failure::of(&reply))
}

pub(super) fn list_permissions(session: &Session) -> Done {
    let columns = ["user", "configure", "write", "read"];
    list_of_vhost(session, "permissions", &columns)
}

pub(super) fn list_topic_permissions(session: &Session) -> Done {
    let columns = ["user", "exchange", "write", "read"];
    list_of_vhost(session, "topic-permissions", &columns)
}

fn list_of_vhost(session: &Session, kind: &str, columns: &[&str]) -> Done {
    let vhost = session.call.vhost();
    session.must_have_vhost(vhost)?;
    let all = session.list(&format!("/api/vhosts/{}/{kind}", segment(vhost)))?;
    Ok(Output::Rows(rows(columns, &all)))
}

pub(super) fn list_user_permissions(session: &Session) -> Done {
    let columns = ["vhost", "configure", "write", "read"];
    list_of_user(session, "permissions", &columns)
}

pub(super) fn list_user_topic_permissions(session: &Session) -> Done {
    let columns = ["vhost", "exchange", "write", "read"];
    list_of_user(session, "topic-permissions", &columns)
}

fn list_of_user(session: &Session, kind: &str, columns: &[&str]) -> Done {
    if !session.has_user()? {
        let text = format!("{{:no_such_user, {}}}", Json::from(session.user()));
        return Err(Failure::new(UNAVAILABLE, text));
    }
    let all = session.list(&format!("{}/{kind}", session.user_path()))?;
    Ok(Output::Rows(rows(columns, &all)))
}

pub(super) fn set_topic_permissions(session: &Session) -> Done {
    session.must_have_place()?;
    let [exchange, write, read] = [1, 2, 3].map(|at| session.call.argument(at));
    let body = json!({ "exchange": exchange, "write": write, "read": read });
    session.must(Method::PUT, &place(session, "topic-permissions"), Some(&body))?;
    Ok(Output::Nothing)
}

pub(super) fn clear_topic_permissions(session: &Session) -> Done {
    session.must_have_place()?;
    let mut path = place(session, "topic-permissions");
    if let Some(exchange) = session.call.arguments.get(1) {
        path.push('/');
        path.push_str(&segment(exchange));
    }
    clear(session, &path)
}
