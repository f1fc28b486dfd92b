//! Who asks, and what of the server that is theirs to see.

use std::ops::Deref;

use axum::{extract::FromRequestParts, http::request::Parts};
use mainstem_broker::{Client, Inbox};

use super::{answer::Failure, gathering::Query};
use crate::http::{Gate, caller};

/// Somebody who logged in, and what they ask for. Every handler takes one.
pub(super) struct Caller {
    pub(super) gate: Gate,
    who: caller::Caller,
    pub(super) query: Query,
}

impl Deref for Caller {
    type Target = caller::Caller;

    fn deref(&self) -> &caller::Caller {
        &self.who
    }
}

impl FromRequestParts<Gate> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Failure> {
        let who = caller::Caller::from_request_parts(parts, gate).await?;
        let query = Query::of(&parts.uri)?;
        Ok(Self { gate: gate.clone(), who, query })
    }
}

impl Caller {
    /// Lets the caller work in a namespace. Errors: there is none of that name, or nothing for it to do.
    pub(super) async fn enter(&self, namespace: &str) -> Result<(Client, Inbox), Failure> {
        self.who.enter(&self.gate, namespace).await
    }

    /// Errors: there is no such namespace, or the caller has nothing to do with it.
    pub(super) fn check_namespace(&self, namespace: &str) -> Result<(), Failure> {
        self.must_see(&self.gate, namespace)
    }

    /// Those of which the caller may list what they have, by name.
    pub(super) fn namespaces(&self) -> Vec<String> {
        let directory = self.gate.registry.directory();
        let all = directory.namespaces.keys();
        all.filter(|namespace| self.sees(&self.gate, namespace)).cloned().collect()
    }
}

impl Gate {
    /// The users there are, by name.
    pub(super) fn users(&self) -> Vec<String> {
        self.registry.directory().users.keys().cloned().collect()
    }
}
