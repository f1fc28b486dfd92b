//! The process: settings, identities, listeners, TLS, health and metrics, and the way down.
//!
//! Reading order: [`config`] is what an operator says; [`server`] starts and stops everything by
//! it; [`protocols`] is the one place that knows which protocols exist.

pub mod access;
pub mod command_line;
pub mod completions;
pub mod config;
pub mod doctor;
pub mod http;
pub mod listeners;
pub mod log_command;
pub mod logging;
pub mod messages;
pub mod metrics;
pub mod protocols;
pub mod rabbitmqctl;
pub mod reload;
pub mod remote;
mod scram;
pub mod server;
mod terminal;
pub mod tls;
pub mod top;

pub use config::Config;
pub use protocols::Protocol;
pub use server::{Server, StartError};
