//! A `mainstem` process of a test's own: ports of its own, a data directory of its own.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread,
};

use tempfile::TempDir;

use crate::{untried, wait::Deadline};

/// How long a server may take to listen, and to end.
const START_S: u64 = 30;
const END_S: u64 = 30;

/// Where it listens on the loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ports {
    pub amqp: u16,
    pub mqtt: u16,
    pub rocketmq: u16,
    pub http: u16,
    pub metrics: u16,
}

impl Ports {
    fn all(&self) -> [(&'static str, u16); 5] {
        [
            ("amqp", self.amqp),
            ("mqtt", self.mqtt),
            ("rocketmq", self.rocketmq),
            ("http", self.http),
            ("metrics", self.metrics),
        ]
    }

    /// Reads one line of the server's start: `AMQP 0-9-1 ... listening on 127.0.0.1:PORT`.
    fn note(&mut self, line: &str) {
        let Some((head, tail)) = line.split_once("listening on ") else { return };
        let address = tail.split_whitespace().next().unwrap_or_default();
        let Some(port) = address.rsplit(':').next().and_then(|port| port.parse().ok()) else {
            return;
        };
        let names = ["AMQP", "MQTT", "RocketMQ", "HTTP", "Prometheus"];
        let is_named = |name: &&str| head.split_whitespace().any(|word| word == *name);
        match names.into_iter().find(is_named) {
            Some("AMQP") => self.amqp = port,
            Some("MQTT") => self.mqtt = port,
            Some("RocketMQ") => self.rocketmq = port,
            Some("HTTP") => self.http = port,
            Some("Prometheus") => self.metrics = port,
            _ => {}
        }
    }

    fn complete(&self) -> bool {
        self.all().into_iter().all(|(_, port)| port != 0)
    }
}

/// What to start.
#[derive(Debug)]
pub struct Setup {
    pub data_dir: PathBuf,
    /// Zeros let the system choose.
    pub ports: Ports,
    /// Further settings, as `key=value`.
    pub settings: Vec<String>,
    /// A configuration file.
    pub file: Option<PathBuf>,
    /// Gives the server a file system of its own of this size, which ends with it: other processes
    /// see an empty data directory.
    pub disk_bytes: Option<u64>,
}

/// Whether a process may have a file system of its own here; if not, that is said aloud, or where
/// it is demanded a failure.
#[must_use]
pub fn can_mount() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]);
    let may = command.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !may {
        untried::without_disk("it gives no mount namespaces (unshare)");
    }
    may
}

impl Setup {
    /// Any ports, this data directory.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            ports: Ports::default(),
            settings: Vec::new(),
            file: None,
            disk_bytes: None,
        }
    }

    fn command(&self) -> Command {
        let mut command = self.disk_bytes.map_or_else(program, |bytes| {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--mount", "sh", "-c"]);
            command.arg(format!(
                "mount -t tmpfs -o size={bytes} tmpfs \"$1\" && shift && exec \"$@\""
            ));
            command.arg("sh").arg(&self.data_dir).arg(binary());
            command
        });
        command.args(["--set", &format!("data_dir={}", self.data_dir.display())]);
        for (name, port) in self.ports.all() {
            command.args(["--set", &format!("listeners.{name}.bind=127.0.0.1:{port}")]);
        }
        if let Some(file) = &self.file {
            command.arg("--config").arg(file);
        }
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        // A configuration file of the directory the tests run in is not the test's.
        command.current_dir(&self.data_dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a server that is expected to refuse to start, and answers how it ended and what it
    /// said.
    #[must_use]
    pub fn run_to_end(&self) -> (ExitStatus, String) {
        let mut child = self.command().spawn().unwrap();
        let deadline = Deadline::seconds(END_S);
        let lines = Lines::of(&mut child);
        let mut child = Reaped(child);
        let status =
            deadline.until("the server to refuse", || child.0.try_wait().expect("our child"));
        lines.finish();
        (status, lines.all().join("\n"))
    }
}

/// A running server. It is killed when this is dropped.
pub struct Server {
    setup: Setup,
    child: Reaped,
    lines: Lines,
    ports: Ports,
    /// Keeps the directory of [`Server::start`] until the end.
    _temporary: Option<TempDir>,
}

impl Server {
    /// A server on ports of the system's choice with an empty data directory.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Server::start`], with further settings.
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Self {
        let temporary = TempDir::new().unwrap();
        let mut setup = Setup::new(temporary.path());
        setup.settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Self::start_setup(setup);
        server._temporary = Some(temporary);
        server
    }

    /// Starts what a setup describes and waits until it listens everywhere.
    #[must_use]
    pub fn start_setup(mut setup: Setup) -> Self {
        let (child, lines, ports) = spawn(&setup);
        setup.ports = ports;
        Self { setup, child, lines, ports, _temporary: None }
    }

    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.setup.data_dir
    }

    /// What it has printed since its last start.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.lines.all()
    }

    /// Ends it as a power cut of the process would: `SIGKILL`.
    pub fn kill(&mut self) {
        self.child.end();
    }

    /// Asks it to end by `SIGTERM`, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        let status = Deadline::seconds(END_S)
            .until("the server to drain and end", || self.child.0.try_wait().expect("our child"));
        self.lines.finish();
        status
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Starts it again on the same ports and data.
    pub fn restart(&mut self) {
        self.kill();
        (self.child, self.lines, self.ports) = spawn(&self.setup);
    }

    /// How the process ended, once it has by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.0.try_wait().unwrap()?;
        self.lines.finish();
        Some(status)
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        self.child.0.try_wait().unwrap().is_none()
    }
}

fn spawn(setup: &Setup) -> (Reaped, Lines, Ports) {
    let mut child = setup.command().spawn().unwrap();
    let lines = Lines::of(&mut child);
    let mut child = Reaped(child);
    let ports = Deadline::seconds(START_S).until("the server to listen", || {
        if let Some(status) = child.0.try_wait().unwrap() {
            lines.finish();
            panic!("the server ended at once, {status}:\n{}", lines.all().join("\n"));
        }
        let mut ports = Ports::default();
        lines.all().iter().for_each(|line| ports.note(line));
        ports.complete().then_some(ports)
    });
    (child, lines, ports)
}

/// A child process that does not outlive its owner.
struct Reaped(Child);

impl Reaped {
    fn end(&mut self) {
        // An error means that it has ended already.
        let _ended = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.end();
    }
}

/// The lines a process prints, collected by two threads that end with it.
struct Lines {
    all: Arc<Mutex<Vec<String>>>,
    readers: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Lines {
    fn of(child: &mut Child) -> Self {
        let all = Arc::new(Mutex::new(Vec::new()));
        let out = read_lines(child.stdout.take().unwrap(), all.clone());
        let err = read_lines(child.stderr.take().unwrap(), all.clone());
        Self { all, readers: Mutex::new(vec![out, err]) }
    }

    fn all(&self) -> Vec<String> {
        self.all.lock().unwrap().clone()
    }

    /// Waits for the last line of a process that has ended.
    fn finish(&self) {
        for reader in self.readers.lock().unwrap().drain(..) {
            reader.join().unwrap();
        }
    }
}

fn read_lines(
    pipe: impl Read + Send + 'static,
    all: Arc<Mutex<Vec<String>>>,
) -> thread::JoinHandle<()> {
    let echo = env::var_os("MAINSTEM_TEST_LOG").is_some();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if echo {
                eprintln!("[server] {line}");
            }
            all.lock().unwrap().push(line);
        }
    })
}

/// The server program, for whatever else it can do.
#[must_use]
pub fn program() -> Command {
    Command::new(binary())
}

/// The server program: `$MAINSTEM_BIN`, else the one beside this test's own program, which is
/// built when it is not there.
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = env::var_os("MAINSTEM_BIN") {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "MAINSTEM_BIN={} is no file", path.display());
            return fs::canonicalize(path).unwrap();
        }
        // target/release/deps/test-program -> target/release/mainstem
        let program = env::current_exe().unwrap();
        let path = program.parent().and_then(Path::parent).unwrap().join("mainstem");
        if !path.is_file() {
            let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            let target = path.parent().and_then(Path::parent).unwrap();
            build.args(["build", "--release", "-p", "mainstem", "--target-dir"]).arg(target);
            let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
            assert!(built.success(), "cargo build --release -p mainstem failed");
        }
        path
    })
}
