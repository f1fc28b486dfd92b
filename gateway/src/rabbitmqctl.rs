//! `mainstem rabbitmqctl`, or the program called by that name: RabbitMQ's command line for scripts and test
//! suites, in its words and with its exit codes. It asks the running server over HTTP.

#![expect(clippy::indexing_slicing, reason = "a field that JSON has not is null")]

mod arguments;
mod commands;
mod definitions;
mod identities;
mod listings;
mod node;
mod output;
mod queues;
mod rules;

use std::{
    cell::{Cell, OnceCell},
    fs,
    io::{self, IsTerminal, Write},
    process::{Command, Stdio},
    time::Duration,
};

use axum::http::Method;
use serde_json::Value;

use crate::{
    Config,
    remote::{Remote, RemoteError, Reply},
};
use arguments::{Call, Misuse};
use output::Output;

/// Names of programs that this stands for.
pub const NAMES: [&str; 2] = ["rabbitmqctl", "rabbitmq-diagnostics"];

/// RabbitMQ's exit codes, which are those of `sysexits.h`.
const USAGE: u8 = 64;
const DATA: u8 = 65;
const NO_USER: u8 = 67;
const UNAVAILABLE: u8 = 69;
const SOFTWARE: u8 = 70;
const TRY_AGAIN: u8 = 75;
const CONFIG: u8 = 78;

/// How long an answer may take when nobody says.
const PATIENCE_S: u64 = 60;

/// Why a command did not do what it says.
struct Failure {
    code: u8,
    /// As it is printed.
    text: String,
}

impl Failure {
    fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: format!("Error:\n{}", text.into()) }
    }

    /// What cannot be meant so.
    fn misuse(code: u8, call: &Call, reason: &str) -> Self {
        Self::bare(code, complaint(call.command, &call.given, reason))
    }

    /// What stands by itself.
    fn bare(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// What the server did not do for a reason of its own.
    fn of(reply: &Reply) -> Self {
        Self::new(UNAVAILABLE, reply.reason())
    }
}

/// One call, and the server that it is for.
struct Session {
    call: Call,
    config: Config,
    /// Opened by the first question, since some commands have none.
    remote: OnceCell<Remote>,
    /// What people are still to be told before it is done.
    banner: Cell<String>,
}

impl Session {
    /// Says what is done, once.
    fn announce(&self) {
        let banner = self.banner.take();
        if !banner.is_empty() {
            say(&mut io::stdout(), &format!("{banner}\n"));
        }
    }

    fn remote(&self) -> Result<&Remote, Failure> {
        if let Some(remote) = self.remote.get() {
            return Ok(remote);
        }
        let opened = self.open()?;
        Ok(self.remote.get_or_init(|| opened))
    }

    fn open(&self) -> Result<Remote, Failure> {
        self.announce();
        let opened = Remote::open(&self.config.data_dir, patience(&self.call));
        opened.map_err(|error| self.unreachable(&error))
    }

    /// Asks for a path by a method. Errors: the server does not answer.
    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Reply, Failure> {
        self.remote()?.ask(&method, path, body).map_err(|error| self.unreachable(&error))
    }

    /// As [`Session::ask`], with a document.
    fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Reply, Failure> {
        self.remote()?.send(&method, path, body, &[]).map_err(|error| self.unreachable(&error))
    }

    /// Deletes what is at a path, for a reason that whom it concerns is told.
    fn delete_for(&self, path: &str, reason: &str) -> Result<Reply, Failure> {
        let headers = [("x-reason", reason)];
        let asked = self.remote()?.send(&Method::DELETE, path, Vec::new(), &headers);
        asked.map_err(|error| self.unreachable(&error))
    }

    /// As [`Session::ask`]. Errors: the server refuses.
    fn must(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let reply = self.ask(method, path, body)?;
        if reply.is_fine() { Ok(reply.json()) } else { Err(Failure::of(&reply)) }
    }

    /// A list that is looked up.
    fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        match self.must(Method::GET, path, None)? {
            Value::Array(items) => Ok(items),
            _ => Err(Failure::new(SOFTWARE, format!("{path} is no list"))),
        }
    }

    fn unreachable(&self, error: &RemoteError) -> Failure {
        unreachable(&node_name(&self.call), error)
    }
}

fn unreachable(node: &str, error: &RemoteError) -> Failure {
    if matches!(error, RemoteError::Late(..)) {
        return Failure::bare(
            TRY_AGAIN,
            format!("Error: operation on node {node} timed out: {error}"),
        );
    }
    Failure::bare(
        UNAVAILABLE,
        format!("Error: unable to perform an operation on node '{node}': {error}"),
    )
}

/// The node as it was named, or as the server of this machine names itself.
fn node_name(call: &Call) -> String {
    if let Some(name) = call.option("--node") {
        return name.to_owned();
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("rabbit@{}", host.trim().split('.').next().unwrap_or("localhost"))
}

/// How long an answer may take; a timeout that is no number or none is none of ours.
fn patience(call: &Call) -> Duration {
    let given = call.option("--timeout").and_then(|text| text.parse().ok());
    Duration::from_secs(given.filter(|seconds| *seconds > 0).unwrap_or(PATIENCE_S))
}

/// Makes the call that these arguments describe, and answers the exit code.
#[must_use]
pub fn run(arguments: Vec<String>) -> u8 {
    let call = match Call::parse(arguments) {
        Ok(call) => call,
        Err(misuse) => return refuse(&misuse),
    };
    match perform(call) {
        Ok(()) => 0,
        Err(Failure { code, text }) => {
            say(&mut io::stderr(), &format!("{}\n", text.trim_end()));
            code
        }
    }
}

fn perform(call: Call) -> Result<(), Failure> {
    let (format, is_silent) = (call.format, call.has("--silent"));
    let is_quiet = is_silent || call.has("--quiet") || !format.is_for_people();
    let has_headers = !is_silent && !call.has("--no-table-headers");
    let banner = if is_quiet { String::new() } else { commands::banner(&call) };
    let config = call.sources.layers().and_then(|layers| Config::load(&layers));
    let config = config.map_err(|error| Failure::new(CONFIG, error.to_string()))?;
    let session = Session { call, config, remote: OnceCell::new(), banner: Cell::new(banner) };
    let output = (session.call.command.run)(&session)?;
    session.announce();
    if !(is_quiet && matches!(output, Output::Note(_))) {
        say(&mut io::stdout(), &output.write(format, has_headers));
    }
    Ok(())
}

/// How a command is used.
fn usage(command: &commands::Command) -> String {
    let general = "rabbitmqctl [--node <node>] [--longnames] [--quiet]";
    format!("\nUsage\n\n{general} {} {}\n", command.name, command.usage)
}

fn complaint(command: &commands::Command, given: &[String], reason: &str) -> String {
    let given = given.join(" ");
    let said = format!("Error (argument validation): {reason}\nArguments given:\n\t{given}\n");
    format!("{said}{}", usage(command))
}

fn refuse(misuse: &Misuse) -> u8 {
    match misuse {
        Misuse::Help(Some(command)) => {
            say(&mut io::stdout(), &usage(command));
            0
        }
        Misuse::Help(None) => {
            say(&mut io::stdout(), &overview());
            0
        }
        Misuse::NoCommand(name) if commands::ABSENT.contains(&name.as_str()) => {
            let text = format!(
                "Error:\n'{name}' is a command of RabbitMQ's that this server has nothing for\n"
            );
            say(&mut io::stderr(), &text);
            SOFTWARE
        }
        Misuse::NoCommand(name) => {
            let names = commands::COMMANDS.iter().map(|command| command.name);
            let hint = match crate::config::layers::nearest(name, names) {
                Some(near) => format!("Did you mean '{near}'? \n"),
                None => overview(),
            };
            say(&mut io::stderr(), &format!("\nCommand '{name}' not found. \n{hint}"));
            USAGE
        }
        Misuse::Wrong { command, given, reason } => {
            say(&mut io::stderr(), &complaint(command, given, reason));
            USAGE
        }
    }
}

fn overview() -> String {
    let mut text =
        "\nUsage\n\nrabbitmqctl [--node <node>] [--timeout <timeout>] [--longnames] [--quiet] \
                    <command> [<command options>]\n\nAvailable commands:\n\n"
            .to_owned();
    for command in &commands::COMMANDS {
        text.push_str(&format!("   {} {}\n", command.name, command.usage));
    }
    text.push_str(
        "\nGeneral options: --node, -n NAME (any is taken); --vhost, -p NAME; --timeout, -t SECONDS; --quiet, \
         -q; --silent, -s; --formatter table|json|csv|pretty_table; --no-table-headers\n\
         The server is found by its data directory: --config FILE, --set data_dir=DIR, or MAINSTEM_CONFIG, \
         MAINSTEM__DATA_DIR in the environment\n",
    );
    text
}

/// Sets a field of an object.
fn set_field(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

/// A closed output is no reason to say something else.
fn say(out: &mut dyn Write, text: &str) {
    let _closed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A password that was left out, from the standard input, without showing it.
fn password(session: &Session) -> Result<String, Failure> {
    if let Some(given) = session.call.arguments.get(1) {
        return Ok(given.clone());
    }
    session.announce();
    let is_typed = io::stdin().is_terminal();
    let echo = |way: &str| {
        if is_typed {
            // Without it the password is seen, and works all the same.
            let _best_effort = Command::new("stty").arg(way).stdin(Stdio::inherit()).status();
        }
    };
    say(&mut io::stdout(), "Password: \n");
    echo("-echo");
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    echo("echo");
    match read {
        Ok(0) => Err(Failure::new(DATA, "no password was given")),
        Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(Failure::new(DATA, error.to_string())),
    }
}
