//! Who asks, and what of the server that is theirs to see.

use axum::{extract::FromRequestParts, http::request::Parts};
use mainstem_broker::{Client, Inbox};
use mainstem_schemas::{Credentials, Secret};

use super::{answer::Failure, gathering::Query};
use crate::http::{Gate, Peer, publish::secret};

/// Somebody who logged in. Every handler takes one.
pub(super) struct Caller {
    pub(super) gate: Gate,
    credentials: Credentials,
    pub(super) query: Query,
}

impl FromRequestParts<Gate> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Failure> {
        let peer = parts.extensions.get::<Peer>().copied().ok_or_else(Failure::unauthorized)?;
        let secret = secret(&parts.headers).map_err(|_| Failure::unauthorized())?;
        if matches!(secret, Secret::Anonymous) {
            return Err(Failure::unauthorized());
        }
        let namespace = gate.namespaces().into_iter().next().unwrap_or_default();
        let credentials = Credentials { namespace, secret, peer: peer.0 };
        gate.broker.verify(&credentials)?;
        let query = Query::of(&parts.uri)?;
        Ok(Self { gate: gate.clone(), credentials, query })
    }
}

impl Caller {
    /// Lets the caller work in a namespace. Errors: there is none of that name.
    pub(super) async fn enter(&self, namespace: &str) -> Result<(Client, Inbox), Failure> {
        self.check_namespace(namespace)?;
        let credentials =
            Credentials { namespace: namespace.to_owned(), ..self.credentials.clone() };
        Ok(self.gate.broker.login(&credentials).await?)
    }

    /// Errors: there is no such namespace.
    pub(super) fn check_namespace(&self, namespace: &str) -> Result<(), Failure> {
        let is_known = self.gate.namespaces().iter().any(|known| known == namespace);
        if is_known { Ok(()) } else { Err(Failure::not_found()) }
    }

    /// Those of which the caller may list what they have, by name.
    pub(super) fn namespaces(&self) -> Vec<String> {
        self.gate.namespaces()
    }
}

impl Gate {
    /// The namespaces there are, by name.
    fn namespaces(&self) -> Vec<String> {
        let mut all = self.config.namespaces.clone();
        all.sort_unstable();
        all
    }

    /// The users there are, by name.
    pub(super) fn users(&self) -> Vec<String> {
        let mut all: Vec<String> = self.config.users.iter().map(|user| user.name.clone()).collect();
        all.sort_unstable();
        all
    }
}
