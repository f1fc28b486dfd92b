//! What operators ask: of the reference's `Admin` the level of the log, and of our own topics, groups,
//! how far they have read, and dead letters.

mod calls;
mod groups;
mod redrive;
mod topics;

use mainstem_broker::{Client, Inbox, Office};
use mainstem_schemas::{Credentials, Secret};
use tonic::{Request, Response, Status};

use super::{Front, calls::peer};
use crate::codec::{
    header::Operator,
    proto::{
        ChangeLogLevelRequest, ChangeLogLevelResponse, Code, admin_server::Admin,
        change_log_level_request::Level,
    },
    status::Fault,
};

/// An operator who was let in, for as long as one call lasts.
pub(super) struct Desk {
    pub(super) client: Client,
    /// Nothing comes there.
    _inbox: Inbox,
}

impl Desk {
    pub(super) fn namespace(&self) -> &str {
        &self.client.principal().namespace
    }
}

impl Front {
    /// Lets the sender of a request in who looks after at least so much. Errors: who gives no name, as at the
    /// HTTP API.
    async fn desk<T>(&self, request: &Request<T>, least: Office) -> Result<Desk, Fault> {
        let Operator { namespace, secret } = Operator::parse(request.metadata())?;
        if matches!(secret, Secret::Anonymous) {
            return Err(Fault::new(Code::Unauthorized, "operators log in by name"));
        }
        let namespace = if namespace.is_empty() { "/".to_owned() } else { namespace };
        let peer = peer(request)?.0.peer;
        let credentials = Credentials { namespace, secret, peer };
        let (client, inbox) = self.broker.login(&credentials).await?;
        if client.office() < least {
            let tag = match least {
                Office::Administrator => "administrator",
                Office::None | Office::Manager | Office::Monitor => "management",
            };
            let user = &client.principal().name;
            let text = format!("user '{user}' has not the tag '{tag}', nor one that says more");
            return Err(Fault::new(Code::Forbidden, text));
        }
        let desk = Desk { client, _inbox: inbox };
        self.learn_terms(desk.namespace()).await?;
        Ok(desk)
    }
}

/// Its answer has no status, so that a refusal is a gRPC error.
#[tonic::async_trait]
impl Admin for Front {
    async fn change_log_level(
        &self,
        request: Request<ChangeLogLevelRequest>,
    ) -> Result<Response<ChangeLogLevelResponse>, Status> {
        let desk = self.desk(&request, Office::Administrator).await;
        let desk = desk.map_err(|fault| match fault.code {
            Code::Forbidden => Status::permission_denied(fault.message),
            Code::Unauthorized => Status::unauthenticated(fault.message),
            Code::TooManyRequests => Status::resource_exhausted(fault.message),
            _ => Status::internal(fault.message),
        })?;
        let level = match Level::try_from(request.into_inner().level) {
            Ok(Level::Trace) => "trace",
            Ok(Level::Debug) => "debug",
            Ok(Level::Info) => "info",
            Ok(Level::Warn) => "warn",
            Ok(Level::Error) => "error",
            Err(_) => return Err(Status::invalid_argument("there is no such level")),
        };
        (self.set_log_level)(level).map_err(Status::failed_precondition)?;
        let user = &desk.client.principal().name;
        tracing::warn!(event = "log_level_changed", level, %user, "another log level");
        Ok(Response::new(ChangeLogLevelResponse { remark: format!("the log level is {level}") }))
    }
}
