//! Definitions, from a file and to one.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use axum::http::Method;
use serde_json::Value as Json;

use super::{DATA, Failure, Session, output::Output};

type Done = Result<Output, Failure>;

fn must_be_json(session: &Session) -> Result<(), Failure> {
    match session.call.option("--format") {
        None | Some("json" | "JSON") => Ok(()),
        Some(other) => Err(Failure::new(DATA, format!("no format '{other}': json"))),
    }
}

pub(super) fn import(session: &Session) -> Done {
    must_be_json(session)?;
    let unreadable = |error: io::Error| Failure::new(DATA, format!("cannot read it: {error}"));
    let text = match session.call.argument(0) {
        "" | "-" => {
            session.announce();
            let mut text = Vec::new();
            io::stdin().read_to_end(&mut text).map_err(unreadable)?;
            text
        }
        path if !Path::new(path).exists() => {
            let reason = format!("Bad argument: File {path} does not exist");
            return Err(Failure::misuse(DATA, &session.call, &reason));
        }
        path => fs::read(path).map_err(unreadable)?,
    };
    if let Err(error) = serde_json::from_slice::<Json>(&text) {
        let text = format!("Failed to deserialise input (format: JSON) (error: {error})");
        return Err(Failure::new(DATA, text));
    }
    let reply = session.send(Method::POST, "/api/definitions", text)?;
    match reply.is_fine() {
        true => Ok(Output::Note("Successfully imported the definitions.".to_owned())),
        false => Err(Failure::new(DATA, reply.reason())),
    }
}

pub(super) fn export(session: &Session) -> Done {
    must_be_json(session)?;
    let document = session.must(Method::GET, "/api/definitions", None)?;
    match session.call.argument(0) {
        "-" => Ok(Output::Text(document.to_string())),
        path => {
            let written = fs::write(path, document.to_string());
            written.map_err(|error| Failure::new(DATA, format!("cannot write {path}: {error}")))?;
            Ok(Output::Nothing)
        }
    }
}
