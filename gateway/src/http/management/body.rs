//! What a request carries: one JSON object, whatever its content type says.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use mainstem_schemas::Table;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::{answer::Failure, values};
use crate::http::Gate;

/// The object. An empty body is an empty one.
pub(super) struct Body(Map<String, Json>);

impl FromRequest<Gate> for Body {
    type Rejection = Failure;

    async fn from_request(request: Request, gate: &Gate) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, gate).await.map_err(|rejection| {
            Failure::new(rejection.status(), "bad_request", rejection.body_text())
        })?;
        if bytes.is_empty() {
            return Ok(Self(Map::new()));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Json::Object(object)) => Ok(Self(object)),
            Ok(_) => Err(Failure::bad("the body is not a JSON object")),
            Err(error) => Err(Failure::bad(format!("the body is not JSON: {error}"))),
        }
    }
}

impl Body {
    /// An object within another.
    pub(super) fn of(object: Map<String, Json>) -> Self {
        Self(object)
    }

    /// As something that is read as a whole.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let read = serde_json::from_value(Json::Object(self.0.clone()));
        read.map_err(|error| Failure::bad(error.to_string()))
    }

    pub(super) fn given(&self, key: &str) -> Option<&Json> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Any value. Errors: it is not there.
    pub(super) fn value(&self, key: &str) -> Result<&Json, Failure> {
        self.given(key).ok_or_else(|| missing(key))
    }

    /// A truth; some tools write it as text.
    pub(super) fn flag(&self, key: &str) -> Result<bool, Failure> {
        match self.given(key) {
            None => Ok(false),
            Some(Json::Bool(flag)) => Ok(*flag),
            Some(Json::String(text)) if text == "true" => Ok(true),
            Some(Json::String(text)) if text == "false" => Ok(false),
            Some(_) => Err(Failure::bad(format!("{key} is neither true nor false"))),
        }
    }

    /// A number; some tools write it as text.
    pub(super) fn int(&self, key: &str) -> Result<Option<i64>, Failure> {
        let int = match self.given(key) {
            None => return Ok(None),
            Some(Json::Number(number)) => number.as_i64(),
            Some(Json::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        int.map(Some).ok_or_else(|| Failure::bad(format!("{key} is not a whole number")))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, Failure> {
        match self.given(key) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(_) => Err(Failure::bad(format!("{key} is not a text"))),
        }
    }

    /// A text. Errors: it is not there.
    pub(super) fn wanted_text(&self, key: &str) -> Result<&str, Failure> {
        self.text(key)?.ok_or_else(|| missing(key))
    }

    /// A table. What is not there is empty; some tools write an empty one as an empty array.
    pub(super) fn table(&self, key: &str) -> Result<Table, Failure> {
        match self.given(key) {
            None => Ok(Table::new()),
            Some(Json::Array(none)) if none.is_empty() => Ok(Table::new()),
            Some(Json::Object(object)) => values::table(object),
            Some(_) => Err(Failure::bad(format!("{key} is not an object"))),
        }
    }
}

fn missing(key: &str) -> Failure {
    Failure::bad(format!("[{{key_missing,{key}}}]"))
}
