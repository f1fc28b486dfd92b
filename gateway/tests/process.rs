//! The program as an operator meets it: what it says, how it fails, how it stops.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

const LISTENERS: [(&str, &str); 5] = [
    ("amqp", "AMQP 0-9-1"),
    ("mqtt", "MQTT 3.1.1 and 5"),
    ("rocketmq", "RocketMQ gRPC"),
    ("http", "HTTP"),
    ("metrics", "Prometheus"),
];

fn command(data: &Path, sets: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstem"));
    command.arg("serve").arg(format!("--set=data_dir={}", data.display()));
    for (name, _) in LISTENERS {
        command.arg(format!("--set=listeners.{name}.bind=127.0.0.1:0"));
    }
    command.args(sets.iter().map(|set| format!("--set={set}")));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A server that is ready.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
    /// The ports in the order of [`LISTENERS`].
    ports: Vec<u16>,
}

impl Running {
    fn start(data: &Path, sets: &[&str]) -> Self {
        let mut child = command(data, sets).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut ports = Vec::new();
        for (_, label) in LISTENERS {
            let line = next_line(&mut output);
            let address = line.strip_prefix(label).unwrap().trim_start();
            let port = address.strip_prefix("listening on 127.0.0.1:").unwrap();
            ports.push(port.parse().unwrap());
        }
        let ready = next_line(&mut output);
        assert!(ready.starts_with("ready in ") && ready.ends_with(" ms"), "{ready}");
        Self { child, output, ports }
    }

    /// Sends a request, and answers the status line, the header and the body.
    fn http(&self, head: &str, body: &str) -> (String, String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[3])).unwrap();
        let length = body.len();
        let request = format!(
            "{head}\r\nhost: t\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let (status, header) = head.split_once("\r\n").unwrap();
        (status.to_owned(), header.to_owned(), body.to_owned())
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Waits for the end; answers the exit code and the last line said.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let code = self.child.wait().unwrap().code();
        (code, rest.lines().last().unwrap_or_default().to_owned())
    }
}

/// A test that fails leaves no server behind.
impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn next_line(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Runs a command that is to fail; answers its exit code and what it said.
fn failure(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn it_says_where_it_listens_and_stops_on_either_signal() {
    for signal in ["-TERM", "-INT"] {
        let data = tempfile::tempdir().unwrap();
        let server = Running::start(data.path(), &[]);
        assert_eq!(server.http("GET /livez HTTP/1.1", "").0, "HTTP/1.1 200 OK");
        assert_eq!(server.http("GET /readyz HTTP/1.1", "").2, "ready\n");
        server.signal(signal);
        assert_eq!(server.end(), (Some(0), "stopped".to_owned()));
    }
}

#[test]
fn a_taken_port_is_named_with_the_remedy() {
    let data = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let set = format!("listeners.mqtt.bind=127.0.0.1:{port}");
    let (code, said) = failure(command(data.path(), &[&set]));
    assert_eq!(code, Some(69));
    assert_eq!(
        said,
        format!(
            "mainstem: MQTT 3.1.1 and 5: port {port} on 127.0.0.1 is taken by another process: stop it, \
             or listen elsewhere with --set listeners.mqtt.bind=127.0.0.1:PORT\n"
        )
    );
}

#[test]
fn a_data_directory_in_use_is_named() {
    let data = tempfile::tempdir().unwrap();
    let _first = Running::start(data.path(), &[]);
    let (code, said) = failure(command(data.path(), &[]));
    assert_eq!(code, Some(75), "{said}");
    assert!(said.contains("is in use by another process"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let data = tempfile::NamedTempFile::new().unwrap();
    let (code, said) = failure(command(&data.path().join("below"), &[]));
    assert_eq!(code, Some(73), "{said}");
    assert!(said.contains("cannot use the data directory"), "{said}");
}

#[test]
fn a_wrong_key_is_a_configuration_error() {
    let data = tempfile::tempdir().unwrap();
    let (code, said) = failure(command(data.path(), &["store.durabilty=fsync"]));
    assert_eq!(code, Some(78));
    assert_eq!(
        said,
        "mainstem: --set store.durabilty=fsync: unknown key 'store.durabilty' \
         (did you mean 'store.durability'?)\n"
    );
}

#[test]
fn the_default_file_is_right() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/mainstem.toml");
    let mut check = Command::new(env!("CARGO_BIN_EXE_mainstem"));
    let Output { status, stdout, .. } =
        check.args(["check-config", "--config", file]).output().unwrap();
    assert!(status.success());
    assert_eq!(String::from_utf8(stdout).unwrap(), "the configuration is right\n");
}

#[test]
fn http_publishes_and_counts() {
    let data = tempfile::tempdir().unwrap();
    let server = Running::start(data.path(), &["store.message_bytes_max=1000"]);
    let post = "POST /topics/plant/oven HTTP/1.1\r\ncontent-type: text/plain";
    let (status, _, body) = server.http(post, "21.5");
    assert_eq!(status, "HTTP/1.1 200 OK", "{body}");
    assert!(body.starts_with("{\"id\":\"") && body.ends_with("\",\"readers\":0}"), "{body}");
    let large = "x".repeat(2000);
    assert_eq!(server.http(post, &large).0, "HTTP/1.1 413 Payload Too Large");
    let (status, _, text) = server.http("GET /metrics HTTP/1.1", "");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(text.contains("mainstem_build_info{version="), "{text}");
}

#[test]
fn http_asks_for_a_password_when_anonymous_is_off() {
    let data = tempfile::tempdir().unwrap();
    let server = Running::start(data.path(), &["anonymous=off"]);
    let (status, header, _) = server.http("POST /topics/a HTTP/1.1", "x");
    assert_eq!(status, "HTTP/1.1 401 Unauthorized");
    assert!(header.contains("www-authenticate: Basic realm=\"mainstem\""), "{header}");
    let basic =
        |encoded: &str| format!("POST /topics/a HTTP/1.1\r\nauthorization: Basic {encoded}");
    // guest:guest, then guest:wrong.
    assert_eq!(server.http(&basic("Z3Vlc3Q6Z3Vlc3Q="), "x").0, "HTTP/1.1 200 OK");
    assert_eq!(server.http(&basic("Z3Vlc3Q6d3Jvbmc="), "x").0, "HTTP/1.1 401 Unauthorized");
}
