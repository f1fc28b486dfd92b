//! Who asks the API, and what their tags let them do (RabbitMQ's management plugin).

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use mainstem_broker::{Client, Inbox};
use mainstem_schemas::{Credentials, Secret};

use crate::access::{Identity, tokens::Warrant};

use super::{Gate, Peer, management::Failure, publish::secret};

/// A user who may use the API.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) tags: Vec<String>,
    warrant: Option<Arc<Warrant>>,
    /// What showed who it is, for no namespace yet.
    credentials: Credentials,
}

impl Caller {
    fn has_one_of(&self, tags: &[&str]) -> bool {
        self.tags.iter().any(|tag| tags.contains(&tag.as_str()))
    }

    /// Whether it is a user who is kept here, and not the operator or the bearer of a token.
    pub(super) fn is_user(&self) -> bool {
        self.warrant.is_none() && !self.is_operator()
    }

    /// Whether it showed what only this machine's operator has.
    pub(super) fn is_operator(&self) -> bool {
        let is_token = matches!(self.credentials.secret, Secret::Token(_));
        is_token && self.warrant.is_none()
    }

    /// Errors: the caller does not look after the whole server.
    pub(super) fn must_administrate(&self) -> Result<(), Failure> {
        self.has_one_of(&["administrator"]).then_some(()).ok_or_else(not_authorised)
    }

    /// Whether it sees what is everybody's.
    pub(super) fn monitors(&self) -> bool {
        self.has_one_of(&["administrator", "monitoring"])
    }

    /// Errors: the caller may not see what is everybody's.
    pub(super) fn must_monitor(&self) -> Result<(), Failure> {
        self.monitors().then_some(()).ok_or_else(not_authorised)
    }

    /// Errors: the caller may not say what queues and exchanges go by.
    pub(super) fn must_make_policies(&self) -> Result<(), Failure> {
        let may = self.has_one_of(&["administrator", "policymaker"]);
        may.then_some(()).ok_or_else(not_authorised)
    }

    /// Errors: the caller has nothing to do with that namespace, or there is none.
    pub(super) fn must_see(&self, gate: &Gate, namespace: &str) -> Result<(), Failure> {
        let directory = gate.registry.directory();
        if !directory.namespaces.contains_key(namespace) {
            return Err(Failure::not_found());
        }
        self.sees(gate, namespace).then_some(()).ok_or_else(not_authorised)
    }

    /// Lets the caller work in a namespace. Errors: there is none of that name, or nothing for it to do.
    pub(super) async fn enter(
        &self,
        gate: &Gate,
        namespace: &str,
    ) -> Result<(Client, Inbox), Failure> {
        let credentials =
            Credentials { namespace: namespace.to_owned(), ..self.credentials.clone() };
        Ok(gate.broker.login(&credentials).await?)
    }

    /// Whether the caller may do anything in that namespace, or see everything.
    pub(super) fn sees(&self, gate: &Gate, namespace: &str) -> bool {
        let of = (namespace.to_owned(), self.name.clone());
        let is_named = || match &self.warrant {
            Some(warrant) => warrant.token().sees(namespace),
            None => gate.registry.directory().permissions.contains_key(&of),
        };
        self.monitors() || is_named()
    }
}

impl FromRequestParts<Gate> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, gate: &Gate) -> Result<Self, Failure> {
        let Some(Peer(peer)) = parts.extensions.get::<Peer>().copied() else {
            return Err(login_failed());
        };
        let secret = secret(&parts.headers).map_err(|_| login_failed())?;
        if matches!(secret, Secret::Anonymous) {
            return Err(login_failed());
        }
        let credentials = Credentials { namespace: String::new(), secret, peer };
        let Identity { name, tags, warrant } = gate.registry.authenticate(&credentials).await?;
        let caller = Self { name, tags, warrant, credentials };
        if !caller.has_one_of(&["administrator", "monitoring", "policymaker", "management"]) {
            return Err(Failure::unauthorized("Not management user"));
        }
        Ok(caller)
    }
}

fn login_failed() -> Failure {
    Failure::unauthorized("Login failed")
}

fn not_authorised() -> Failure {
    Failure::unauthorized("User not authorised to access object")
}
