//! What the process was asked to do.

use std::path::PathBuf;

use crate::config::{Config, ConfigError, Layer};

/// The text of `--help`.
pub const HELP: &str = "\
mainstem: one server in which MQTT, AMQP 0-9-1 and RocketMQ clients read each other's messages

Usage: mainstem [COMMAND] [OPTIONS]

Commands:
  serve          serve all protocols until SIGTERM or Ctrl-C (the default)
  check-config   read the configuration, say whether it is right, and end

Options:
  --config FILE  a TOML file; what it leaves out keeps its default (see deploy/mainstem.toml)
  --set A.B=C    set one key, over the file; may be given again
  --help         this text
  --version      the version
";

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Serve,
    CheckConfig,
    Help,
    Version,
}

/// A command, and where its settings come from.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandLine {
    pub command: Command,
    pub config: Option<PathBuf>,
    pub sets: Vec<String>,
}

/// Why an argument is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    #[error("unknown argument '{0}' (try --help)")]
    Unknown(String),
    #[error("{0} needs a value (try --help)")]
    NoValue(&'static str),
}

impl CommandLine {
    /// Reads the arguments behind the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, UsageError> {
        let mut line = Self { command: Command::Serve, config: None, sets: Vec::new() };
        let mut arguments = arguments.into_iter();
        let mut first = true;
        while let Some(argument) = arguments.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                Some(_) | None => (argument.as_str(), None),
            };
            let mut value =
                |flag| inline.clone().or_else(|| arguments.next()).ok_or(UsageError::NoValue(flag));
            match name {
                "serve" if first => line.command = Command::Serve,
                "check-config" if first => line.command = Command::CheckConfig,
                "--config" => line.config = Some(value("--config")?.into()),
                "--set" => line.sets.push(value("--set")?),
                "--help" | "-h" => line.command = Command::Help,
                "--version" | "-V" => line.command = Command::Version,
                _ => return Err(UsageError::Unknown(argument)),
            }
            first = false;
        }
        Ok(line)
    }

    /// The configuration it asks for.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut layers = Vec::new();
        if let Some(path) = &self.config {
            layers.push(Layer::read(path.clone())?);
        }
        layers.extend(self.sets.iter().cloned().map(Layer::Set));
        Config::load(&layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<CommandLine, UsageError> {
        CommandLine::parse(arguments.iter().map(|text| (*text).to_owned()))
    }

    #[test]
    fn no_arguments_means_serve() {
        let line = parse(&[]).unwrap();
        assert_eq!((line.command, line.config, line.sets.len()), (Command::Serve, None, 0));
    }

    #[test]
    fn settings_keep_their_order_and_their_equals_signs() {
        let line = parse(&["check-config", "--config=a.toml", "--set", "a.b=c", "--set=d=e=f"]);
        let line = line.unwrap();
        assert_eq!(line.command, Command::CheckConfig);
        assert_eq!(line.config, Some("a.toml".into()));
        assert_eq!(line.sets, ["a.b=c", "d=e=f"]);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(parse(&["--st", "x"]), Err(UsageError::Unknown("--st".to_owned())));
        assert_eq!(parse(&["--set"]), Err(UsageError::NoValue("--set")));
        assert_eq!(parse(&["--set", "a=b", "serve"]), Err(UsageError::Unknown("serve".to_owned())));
    }
}
