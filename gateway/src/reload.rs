//! What SIGHUP does: the configuration and the certificate are read again. What can be followed at once is; what
//! cannot is said.

use crate::{
    Config, Server,
    config::{ConfigError, Layer, Sources, explain},
    logging,
};

/// Keys that are followed at once. Certificates are read again whether their keys changed or not.
const FOLLOWED: [&str; 3] = ["log.level", "tls.certificate", "tls.key"];

/// What a process was started with, and what follows changes.
pub struct Reload {
    sources: Sources,
    started: Vec<Layer>,
}

impl Reload {
    #[must_use]
    pub fn new(sources: Sources, started: Vec<Layer>) -> Self {
        Self { sources, started }
    }

    /// Reads all of it again. What is wrong changes nothing and is logged.
    pub fn again(&self, server: &Server) {
        match self.read() {
            Ok((config, waiting)) => {
                self.follow(server, &config);
                for key in waiting {
                    tracing::warn!(
                        event = "reload_waits",
                        key,
                        "changed, and is followed after a restart"
                    );
                }
            }
            Err(error) => {
                tracing::error!(event = "reload_refused", %error, "the configuration stays as it was");
            }
        }
    }

    /// The configuration as it is now, and the keys that differ from the start and cannot be followed.
    fn read(&self) -> Result<(Config, Vec<String>), ConfigError> {
        let now = self.sources.layers()?;
        let config = Config::load(&now)?;
        let mut changed = explain::changed(&self.started, &now)?;
        changed.retain(|key| !FOLLOWED.contains(&key.as_str()));
        Ok((config, changed))
    }

    fn follow(&self, server: &Server, config: &Config) {
        match logging::set_level(&config.log.level) {
            Ok(()) => tracing::info!(
                event = "reloaded",
                level = config.log.level,
                "the log's level is read again"
            ),
            Err(error) => {
                tracing::error!(event = "reload_refused", %error, "the log's level stays as it was");
            }
        }
        match server.certificates().reload(config) {
            Ok(()) => tracing::info!(event = "reloaded", "the certificate is read again"),
            Err(error) => {
                tracing::error!(event = "reload_refused", %error, "the certificate stays as it was");
            }
        }
    }
}
