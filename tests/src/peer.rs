//! A client program in another language: commands go in as JSON lines, events come out.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{server::Ports, wait::Deadline};

/// Events a peer may be ahead of the test that reads them; then it waits.
const EVENTS_MAX: usize = 100_000;

/// What a client program is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Language {
    Python,
    Node,
}

impl Language {
    /// The short word used in names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "py",
            Self::Node => "js",
        }
    }

    /// A command that runs `script`. Panics with the remedy where the interpreter or its packages
    /// are missing: these tests are never skipped.
    #[must_use]
    pub fn command(self, script: &Path) -> Command {
        match self {
            Self::Python => {
                let python = setting("MAINSTEM_PYTHON", "python/bin/python");
                assert!(
                    python.is_file(),
                    "no Python with the client packages at {}: `make tools` installs them, \
                     or point MAINSTEM_PYTHON at one with pika, paho-mqtt and \
                     rocketmq-python-client",
                    python.display()
                );
                let mut command = Command::new(python);
                command.arg("-u").arg(script);
                command
            }
            Self::Node => {
                let modules = setting("MAINSTEM_NODE_MODULES", "node/node_modules");
                assert!(
                    modules.join("rocketmq-client-nodejs").is_dir(),
                    "no Node client packages in {}: `make tools` installs them, or point \
                     MAINSTEM_NODE_MODULES at a node_modules with amqplib, mqtt and \
                     rocketmq-client-nodejs",
                    modules.display()
                );
                let mut command = Command::new("node");
                command.arg(script).env("NODE_PATH", modules);
                command
            }
        }
    }
}

/// What `variable` says, or what `make tools` made.
fn setting(variable: &str, below_tools: &str) -> PathBuf {
    let tools = || {
        let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
        let tools = env::var_os("MAINSTEM_TOOLS").map(PathBuf::from);
        tools.unwrap_or_else(|| home.join(".cache/mainstem/tools")).join(below_tools)
    };
    env::var_os(variable).map_or_else(tools, PathBuf::from)
}

/// Runs `script` of `tests/interop` to its end, and answers whether it succeeded and what it said.
#[must_use]
pub fn run(language: Language, script: &str, arguments: &[&str]) -> (bool, String) {
    let home = TempDir::new().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(script);
    let mut command = language.command(&script);
    command.args(arguments).env("HOME", home.path()).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// A running client program. It is killed when this is dropped.
pub struct Peer {
    name: &'static str,
    child: Child,
    commands: ChildStdin,
    events: Receiver<Value>,
    /// Its home directory: client libraries write log files there.
    _home: TempDir,
}

impl Peer {
    /// Starts `script` of `tests/interop` against a server's ports.
    #[must_use]
    pub fn start(language: Language, script: &str, ports: Ports) -> Self {
        let home = TempDir::new().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(script);
        let mut child = language
            .command(&script)
            .env("HOME", home.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("MAINSTEM_PORTS", serde_json::to_string(&ports).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {language:?}: {error}"));
        let commands = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, events) = sync_channel(EVENTS_MAX);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Ok(event) = serde_json::from_str(&line) else {
                    eprintln!("[peer] {line}");
                    continue;
                };
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        Self { name: language.name(), child, commands, events, _home: home }
    }

    /// Gives a command.
    pub fn send(&mut self, command: &Value) {
        let mut line = command.to_string();
        line.push('\n');
        self.commands.write_all(line.as_bytes()).unwrap();
        self.commands.flush().unwrap();
    }

    /// The next event, if one comes before the deadline. Panics when the program ended.
    pub fn next(&mut self, deadline: Deadline) -> Option<Value> {
        match self.events.recv_timeout(deadline.left()) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                panic!("the {} client program ended: {:?}", self.name, self.child.wait())
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
