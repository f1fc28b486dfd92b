//! What the process was asked to do.

use std::path::PathBuf;

use crate::{
    completions::SHELLS,
    config::{Config, ConfigError, Sources},
    log_command::{Action, LogCommand, Selection},
};

/// The text of `--help`.
pub const HELP: &str = "\
mainstem: one server in which MQTT, AMQP 0-9-1 and RocketMQ clients read each other's messages

Usage: mainstem [COMMAND] [OPTIONS]

Commands:
  serve          serve all protocols until SIGTERM or Ctrl-C (the default)
  check-config   read the configuration, say whether it is right, and end
  config explain print every setting with where it comes from; secrets are hidden
  doctor         look at the machine as a server would find it; ends with 1 if something is bad
  top            what the running server does, as a table
  pub, sub       messages out and in by hand, over mqtt, amqp, rocketmq or http (pub --help)
  completions    what bash, zsh or fish read to complete commands
  rabbitmqctl    RabbitMQ's command line: `mainstem rabbitmqctl help` (also by being called by that name)
  log inspect    show the log's entries, one on a line
  log verify     check every entry, and name every damaged place: ends with 0 if the log is sound,
                 1 if it is damaged, 2 if it cannot be read
  log stats      what each file of the log holds, and how much of it is still needed

Options:
  --config FILE  a TOML file; what it leaves out keeps its default (see deploy/mainstem.toml). Else
                 $MAINSTEM_CONFIG, else /etc/mainstem/mainstem.toml, if it is there
  --set A.B=C    set one key, over all else; may be given again
Over the file go conf.d/*.toml beside it, then variables like MAINSTEM__LISTENERS__MQTT__BIND.

  --once         top: show it once
  --help         this text
  --version      the version

Options of log, which only reads and may run beside a server:
  --data DIR     the data directory, instead of the configured one
  --json         one JSON object on a line
  --from N       inspect: begin at this position
  --limit N      inspect: show so many entries at most
  --kind K       inspect: only entries of this kind (publish, settle, declare-queue, ...)
  --queue NAME   inspect: only entries about the queue, topic or filter of this name
";

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Serve,
    CheckConfig,
    Explain,
    Doctor,
    Top { is_once: bool },
    Completions(String),
    Log(LogCommand),
    Help,
    Version,
}

/// A command, and where its settings come from.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandLine {
    pub command: Command,
    pub sources: Sources,
}

/// Why an argument is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    #[error("unknown argument '{0}' (try --help)")]
    Unknown(String),
    #[error("{0} needs a value (try --help)")]
    NoValue(&'static str),
    #[error("log needs one of inspect, verify, stats (try --help)")]
    NoAction,
    #[error("config needs explain (try --help)")]
    NoExplain,
    #[error("no completions for '{0}'; there are: {shells}", shells = SHELLS.join(", "))]
    NoShell(String),
    #[error("{flag} needs a number, found '{found}'")]
    NoNumber { flag: &'static str, found: String },
    #[error("no kind '{0}' of entries; there are: {kinds}", kinds = mainstem_broker::describe::KINDS.join(", "))]
    NoKind(String),
}

impl CommandLine {
    /// Reads the arguments behind the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, UsageError> {
        let mut line = Self { command: Command::Serve, sources: Sources::default() };
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
                "config" if first => match arguments.next().as_deref() {
                    Some("explain") => line.command = Command::Explain,
                    Some(_) | None => return Err(UsageError::NoExplain),
                },
                "doctor" if first => line.command = Command::Doctor,
                "top" if first => line.command = Command::Top { is_once: false },
                "--once" if matches!(line.command, Command::Top { .. }) => {
                    line.command = Command::Top { is_once: true };
                }
                "completions" if first => {
                    let shell = arguments.next().unwrap_or_default();
                    if !SHELLS.contains(&shell.as_str()) {
                        return Err(UsageError::NoShell(shell));
                    }
                    line.command = Command::Completions(shell);
                }
                "log" if first => {
                    let action = match arguments.next().as_deref() {
                        Some("inspect") => Action::Inspect(Selection::default()),
                        Some("verify") => Action::Verify,
                        Some("stats") => Action::Stats,
                        Some("--help" | "-h") => {
                            line.command = Command::Help;
                            break;
                        }
                        Some(_) | None => return Err(UsageError::NoAction),
                    };
                    line.command = Command::Log(LogCommand { action, data: None, json: false });
                }
                "--config" => line.sources.file = Some(value("--config")?.into()),
                "--set" => line.sources.sets.push(value("--set")?),
                "--help" | "-h" => line.command = Command::Help,
                "--version" | "-V" => line.command = Command::Version,
                _ => line.log_option(name, value)?,
            }
            first = false;
        }
        Ok(line)
    }

    /// Reads an option that only `log` has.
    fn log_option(
        &mut self,
        name: &str,
        mut value: impl FnMut(&'static str) -> Result<String, UsageError>,
    ) -> Result<(), UsageError> {
        let unknown = || UsageError::Unknown(name.to_owned());
        let Command::Log(log) = &mut self.command else { return Err(unknown()) };
        let selection = match &mut log.action {
            Action::Inspect(selection) => Some(selection),
            Action::Verify | Action::Stats => None,
        };
        match (name, selection) {
            ("--data", _) => log.data = Some(value("--data")?.into()),
            ("--json", _) => log.json = true,
            ("--from", Some(selection)) => selection.from = number("--from", value("--from")?)?,
            ("--limit", Some(selection)) => {
                selection.limit = Some(number("--limit", value("--limit")?)?);
            }
            ("--kind", Some(selection)) => {
                let kind = value("--kind")?;
                if !mainstem_broker::describe::KINDS.contains(&kind.as_str()) {
                    return Err(UsageError::NoKind(kind));
                }
                selection.kind = Some(kind);
            }
            ("--queue", Some(selection)) => selection.queue = Some(value("--queue")?),
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// The data directory that `log` is to look into.
    pub fn data_dir(&self, log: &LogCommand) -> Result<PathBuf, ConfigError> {
        match &log.data {
            Some(data) => Ok(data.clone()),
            None => Ok(self.load()?.data_dir),
        }
    }

    /// The configuration it asks for.
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.sources.layers()?)
    }
}

fn number(flag: &'static str, found: String) -> Result<u64, UsageError> {
    found.parse().map_err(|_| UsageError::NoNumber { flag, found })
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
        assert_eq!((line.command, line.sources), (Command::Serve, Sources::default()));
    }

    #[test]
    fn settings_keep_their_order_and_their_equals_signs() {
        let line = parse(&["check-config", "--config=a.toml", "--set", "a.b=c", "--set=d=e=f"]);
        let line = line.unwrap();
        assert_eq!(line.command, Command::CheckConfig);
        assert_eq!(line.sources.file, Some("a.toml".into()));
        assert_eq!(line.sources.sets, ["a.b=c", "d=e=f"]);
    }

    #[test]
    fn log_takes_its_options_and_no_others() {
        let line = parse(&["log", "inspect", "--data=d", "--from", "7", "--kind=bind", "--json"]);
        let selection =
            Selection { from: 7, kind: Some("bind".to_owned()), ..Selection::default() };
        let action = Action::Inspect(selection);
        let log = LogCommand { action, data: Some("d".into()), json: true };
        assert_eq!(line.unwrap().command, Command::Log(log));
        assert_eq!(parse(&["log"]), Err(UsageError::NoAction));
        assert_eq!(parse(&["--json"]), Err(UsageError::Unknown("--json".to_owned())));
        let unknown = parse(&["log", "stats", "--from=7"]);
        assert_eq!(unknown, Err(UsageError::Unknown("--from".to_owned())));
        let kind = parse(&["log", "inspect", "--kind=pubish"]).unwrap_err().to_string();
        assert!(kind.starts_with("no kind 'pubish' of entries; there are: publish, "), "{kind}");
        let limit = parse(&["log", "inspect", "--limit=many"]).unwrap_err().to_string();
        assert_eq!(limit, "--limit needs a number, found 'many'");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(parse(&["--st", "x"]), Err(UsageError::Unknown("--st".to_owned())));
        assert_eq!(parse(&["--set"]), Err(UsageError::NoValue("--set")));
        assert_eq!(parse(&["--set", "a=b", "serve"]), Err(UsageError::Unknown("serve".to_owned())));
    }
}
