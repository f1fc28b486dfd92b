//! The arguments of a call, as RabbitMQ's tools read them: options may stand anywhere.

use std::collections::BTreeMap;

use super::{
    commands::{self, Command},
    output::Format,
};
use crate::config::Sources;

/// Options that all commands take, with another spelling, and whether they have a value. The last two are not
/// RabbitMQ's: they say whose data directory it is.
const GENERAL: [(&str, &str, bool); 13] = [
    ("--node", "-n", true),
    ("--longnames", "-l", false),
    ("--quiet", "-q", false),
    ("--silent", "-s", false),
    ("--timeout", "-t", true),
    ("--vhost", "-p", true),
    ("--formatter", "", true),
    ("--no-table-headers", "", false),
    ("--erlang-cookie", "", true),
    ("--print-stacktrace", "", false),
    ("--help", "-?", false),
    ("--config", "", true),
    ("--set", "", true),
];

/// What one command takes besides; all of them are in the usage of those that do.
const SPECIAL: [(&str, &str, bool); 19] = [
    ("--priority", "", true),
    ("--apply-to", "", true),
    ("--description", "", true),
    ("--tags", "", true),
    ("--default-queue-type", "", true),
    ("--online", "", false),
    ("--offline", "", false),
    ("--local", "", false),
    ("--if-empty", "-e", false),
    ("--if-unused", "-u", false),
    ("--user", "", true),
    ("--global", "", false),
    ("--limit", "", true),
    ("--per-connection-delay", "", true),
    ("--format", "", true),
    ("--skip-if-unchanged", "", false),
    ("--idempotent", "", false),
    ("--pre-hashed-password", "", false),
    ("--wait", "", false),
];

/// A call of one command.
pub(super) struct Call {
    pub(super) command: &'static Command,
    pub(super) arguments: Vec<String>,
    options: BTreeMap<&'static str, String>,
    /// All that was given, as it is told in complaints.
    pub(super) given: Vec<String>,
    pub(super) format: Format,
    pub(super) sources: Sources,
}

/// Why a call cannot be made.
pub(super) enum Misuse {
    /// No command, or its help, is asked for.
    Help(Option<&'static Command>),
    NoCommand(String),
    Wrong {
        command: &'static Command,
        given: Vec<String>,
        reason: String,
    },
}

impl Call {
    /// Reads what stands behind the program's name.
    pub(super) fn parse(given: Vec<String>) -> Result<Self, Misuse> {
        let (mut arguments, mut options) = (Vec::new(), BTreeMap::new());
        let (mut sets, mut odd) = (Vec::new(), Vec::new());
        let mut rest = given.iter();
        while let Some(argument) = rest.next() {
            if argument == "--" {
                arguments.extend(rest.by_ref().cloned());
                break;
            }
            if !argument.starts_with('-') || argument == "-" {
                arguments.push(argument.clone());
                continue;
            }
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let mut all = GENERAL.iter().chain(&SPECIAL);
            let known = all.find(|(long, short, _)| name == *long || name == *short);
            let Some((long, _, has_value)) = known else {
                odd.push(argument.clone());
                continue;
            };
            let value = match (has_value, inline) {
                (true, Some(value)) => value,
                (true, None) => match rest.next() {
                    Some(value) => value.clone(),
                    None => {
                        odd.push(argument.clone());
                        continue;
                    }
                },
                (false, None) => "true".to_owned(),
                (false, Some(value)) => value,
            };
            if *long == "--set" {
                sets.push(value);
            } else {
                options.insert(*long, value);
            }
        }
        let (command, arguments) = find(arguments, options.contains_key("--help"))?;
        let wrong = |given, reason| Err(Misuse::Wrong { command, given, reason });
        let foreign = options.keys().filter(|name| {
            SPECIAL.iter().any(|(long, ..)| long == *name) && !command.usage.contains(**name)
        });
        odd.extend(foreign.map(|name| (*name).to_owned()));
        if !odd.is_empty() {
            let odd: Vec<_> = odd.iter().map(|name| format!("{name} : ")).collect();
            let reason = format!("Invalid options for this command:\n{}", odd.join("\n"));
            return wrong(given, reason);
        }
        if arguments.len() < command.least {
            return wrong(given, "not enough arguments.".to_owned());
        }
        if arguments.len() > command.most {
            return wrong(given, "too many arguments.".to_owned());
        }
        let word = options.get("--formatter").map_or("table", String::as_str);
        let Some(format) = Format::from_word(word) else {
            return wrong(given, format!("no formatter '{word}': table, json, csv, pretty_table"));
        };
        let file = options.get("--config").map(Into::into);
        let sources = Sources { file, sets };
        Ok(Self { command, arguments, options, given, format, sources })
    }

    /// The value of an option, by its long name.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.option(name).is_some_and(|value| value != "false")
    }

    /// The argument at that place; nothing where there is none.
    pub(super) fn argument(&self, at: usize) -> &str {
        self.arguments.get(at).map_or("", String::as_str)
    }

    pub(super) fn vhost(&self) -> &str {
        self.option("--vhost").unwrap_or("/")
    }
}

/// The command that comes first, and what stands behind it.
fn find(
    mut arguments: Vec<String>,
    wants_help: bool,
) -> Result<(&'static Command, Vec<String>), Misuse> {
    if arguments.is_empty() {
        return Err(Misuse::Help(None));
    }
    let name = arguments.remove(0);
    if name == "help" {
        let of = arguments.first().and_then(|name| commands::find(name));
        return Err(Misuse::Help(of));
    }
    match commands::find(&name) {
        Some(command) if wants_help => Err(Misuse::Help(Some(command))),
        Some(command) => Ok((command, arguments)),
        None => Err(Misuse::NoCommand(name)),
    }
}
