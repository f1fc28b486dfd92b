//! What a client's requests mean given what it said before: its settings, how long its polls
//! last, and in which order its group may read. Pure: time is an argument.

pub mod group;
pub mod order;
pub mod poll;
pub mod settings;

use crate::{
    codec::{
        proto::{
            Message, NotifyUnsubscribeLiteCommand, RecoverOrphanedTransactionCommand,
            TelemetryCommand, telemetry_command::Command,
        },
        status,
    },
    limits::Limits,
};

/// What a telemetry command makes the server do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Keep these settings for the client, and answer with them.
    Settle(Box<settings::Settled>),
    /// The stream ends with `INVALID_ARGUMENT` and this text.
    End(String),
    /// An answer to a command that was never sent.
    Nothing,
}

/// What a command on the telemetry stream means.
#[must_use]
pub fn on_telemetry(
    command: TelemetryCommand,
    group: &group::GroupTerms,
    limits: &Limits,
) -> Effect {
    match command.command {
        Some(Command::Settings(sent)) => match settings::settle(sent, group, limits) {
            Ok(settled) => Effect::Settle(Box::new(settled)),
            Err(fault) => Effect::End(fault.message),
        },
        Some(
            Command::ThreadStackTrace(_)
            | Command::VerifyMessageResult(_)
            | Command::RecoverOrphanedTransactionCommand(_)
            | Command::PrintThreadStackTraceCommand(_)
            | Command::VerifyMessageCommand(_)
            | Command::ReconnectEndpointsCommand(_)
            | Command::NotifyUnsubscribeLiteCommand(_),
        )
        | None => Effect::Nothing,
    }
}

/// Asks a producer to decide about a transaction that it left open.
#[must_use]
pub fn recover(message: Message, transaction_id: &str) -> TelemetryCommand {
    let transaction_id = transaction_id.to_owned();
    let command = RecoverOrphanedTransactionCommand { message: Some(message), transaction_id };
    TelemetryCommand {
        status: Some(status::ok()),
        command: Some(Command::RecoverOrphanedTransactionCommand(command)),
    }
}

/// Tells a client that another one has a lite topic now.
#[must_use]
pub fn unsubscribe_lite(lite_topic: &str) -> TelemetryCommand {
    let lite_topic = lite_topic.to_owned();
    let command = NotifyUnsubscribeLiteCommand { lite_topic };
    TelemetryCommand {
        status: Some(status::ok()),
        command: Some(Command::NotifyUnsubscribeLiteCommand(command)),
    }
}

/// The answer to settings. Its status must be set: Python's push consumer waits for it.
#[must_use]
pub fn answer(settled: &settings::Settled) -> TelemetryCommand {
    TelemetryCommand {
        status: Some(status::ok()),
        command: Some(Command::Settings(settled.settings.clone())),
    }
}
