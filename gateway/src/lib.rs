//! The process: settings, identities, listeners, TLS, health and metrics, and the way down.
//!
//! Reading order: [`config`] is what an operator says; [`server`] starts and stops everything by
//! it; [`protocols`] is the one place that knows which protocols exist.

pub mod access;
pub mod command_line;
pub mod config;
pub mod http;
pub mod listeners;
pub mod log_command;
pub mod logging;
pub mod metrics;
pub mod protocols;
mod scram;
pub mod server;
pub mod tls;

pub use config::Config;
pub use protocols::Protocol;
pub use server::{Server, StartError};
