//! Signs of life: the telemetry stream with the settings, heartbeats, and goodbyes.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::{
    Front,
    calls::{namespace, peer},
    incoming::Peer,
    members::Member,
};
use crate::{
    codec::{
        header::Caller,
        names,
        proto::{
            Code, HeartbeatRequest, HeartbeatResponse, NotifyClientTerminationRequest,
            NotifyClientTerminationResponse, Resource, Settings, TelemetryCommand,
            settings::PubSub, telemetry_command,
        },
        status::{self, Fault},
    },
    session::{self, Effect, group::GroupTerms},
};

/// Answers and commands that may wait for a client to read them.
const ANSWERS_MAX: usize = 16;

/// The way to a client.
pub(super) type Commands = mpsc::Sender<Command>;
/// A command, or how the stream ends.
pub(super) type Command = Result<TelemetryCommand, Status>;

impl Front {
    /// Opens the stream at once: the Rust client waits for its headers before it says a word.
    pub(super) fn on_telemetry(
        &self,
        request: Request<Streaming<TelemetryCommand>>,
    ) -> Result<ReceiverStream<Result<TelemetryCommand, Status>>, Status> {
        let caller = Caller::parse(request.metadata()).map_err(|fault| stream_error(&fault))?;
        let peer = peer(&request).map_err(|fault| stream_error(&fault))?;
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let front = self.clone();
        tokio::spawn(async move {
            let shutdown = front.shutdown.clone();
            // Cancel-safe: when the server ends, what was not answered need not be.
            let ended = tokio::select! {
                ended = front.converse(&caller, &peer, request.into_inner(), &answers) => ended,
                () = shutdown.cancelled() => Ok(()),
                () = answers.closed() => Ok(()),
            };
            if let Err(error) = ended {
                // An error means that the client is gone, and with it who would read this.
                let _gone = answers.send(Err(error)).await;
            }
        });
        Ok(ReceiverStream::new(stream))
    }

    /// Answers a client's commands until it has no more.
    async fn converse(
        &self,
        caller: &Caller,
        peer: &Peer,
        mut commands: Streaming<TelemetryCommand>,
        answers: &Commands,
    ) -> Result<(), Status> {
        while let Some(command) = commands.message().await? {
            let Some(telemetry_command::Command::Settings(settings)) = &command.command else {
                continue;
            };
            let namespace = namespace(caller, first_resource(settings));
            let member = self.member(caller, &namespace, peer).await;
            let member = member.map_err(|fault| stream_error(&fault))?;
            let learnt = self.learn_terms(&namespace).await.map_err(Fault::from);
            learnt.map_err(|fault| stream_error(&fault))?;
            let group = self.served(&member, settings);
            match session::on_telemetry(command, &group, &self.limits) {
                Effect::Settle(settled) => {
                    let answer = session::answer(&settled);
                    *member.settings() = Some(*settled);
                    member.listens(answers, &peer.0);
                    if answers.send(Ok(answer)).await.is_err() {
                        return Ok(());
                    }
                }
                Effect::End(text) => return Err(Status::invalid_argument(text)),
                Effect::Nothing => {}
            }
        }
        Ok(())
    }

    /// How the group of a consumer is served.
    fn served(&self, member: &Member, settings: &Settings) -> GroupTerms {
        let Some(PubSub::Subscription(subscription)) = &settings.pub_sub else {
            return GroupTerms::default();
        };
        let group = subscription.group.as_ref().map_or("", |group| group.name.as_str());
        let topics = subscription.subscriptions.iter().filter_map(|entry| entry.topic.as_ref());
        let topics = topics.map(|topic| topic.name.as_str());
        let ordered = Some(self.reads_in_order(&member.namespace, group, topics));
        GroupTerms { ordered, ..self.group_terms(&member.namespace, group) }
    }

    /// A heartbeat of a client whose settings are not known makes newer clients send them again.
    pub(super) async fn on_heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<HeartbeatResponse, Fault> {
        let call = self.call(&request, request.get_ref().group.as_ref()).await?;
        if let Some(group) = request.get_ref().group.as_ref().filter(|g| !g.name.is_empty()) {
            names::check_group(&group.name, &self.limits)?;
        }
        if call.member.settings().is_none() {
            let text = "the settings of this client are not known";
            return Err(Fault::new(Code::UnrecognizedClientType, text));
        }
        Ok(HeartbeatResponse { status: Some(status::ok()) })
    }

    /// Always succeeds: a client that cannot say goodbye cannot shut down.
    pub(super) async fn on_termination(
        &self,
        request: Request<NotifyClientTerminationRequest>,
    ) -> Result<NotifyClientTerminationResponse, Fault> {
        let call = self.call(&request, request.get_ref().group.as_ref()).await?;
        self.leave(&call.caller, &call.member.namespace);
        Ok(NotifyClientTerminationResponse { status: Some(status::ok()) })
    }
}

fn first_resource(settings: &Settings) -> Option<&Resource> {
    match settings.pub_sub.as_ref()? {
        PubSub::Publishing(publishing) => publishing.topics.first(),
        PubSub::Subscription(subscription) => subscription.group.as_ref(),
    }
}

/// Telemetry's answers have no status of their own for a refusal: it ends the stream.
fn stream_error(fault: &Fault) -> Status {
    match fault.code {
        Code::Unauthorized => Status::unauthenticated(&fault.message),
        Code::InternalServerError => Status::internal(&fault.message),
        Code::TooManyRequests => Status::resource_exhausted(&fault.message),
        _ => Status::invalid_argument(&fault.message),
    }
}
