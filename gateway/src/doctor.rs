//! `mainstem doctor`: looks at the machine as a server of this configuration would find it, and says in words
//! what is wrong. It changes nothing; what it writes to try the disk it removes.

mod certificates;
mod disk;

use std::{
    fs,
    io::{self, Write},
    path::Path,
    time::{Duration, SystemTime},
};

use axum::http::Method;

use crate::{
    Config, Protocol,
    access::operator::OPERATOR,
    listeners::{self, BindError},
    remote::Remote,
};

/// How grave it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// It works, and may not for long, or not for many.
    Doubtful,
    Bad,
}

/// What was found.
#[derive(Debug)]
struct Finding {
    about: &'static str,
    verdict: Verdict,
    words: String,
}

impl Finding {
    fn new(about: &'static str, verdict: Verdict, words: impl Into<String>) -> Self {
        Self { about, verdict, words: words.into() }
    }

    fn fine(about: &'static str, words: impl Into<String>) -> Self {
        Self::new(about, Verdict::Fine, words)
    }

    fn doubtful(about: &'static str, words: impl Into<String>) -> Self {
        Self::new(about, Verdict::Doubtful, words)
    }

    fn bad(about: &'static str, words: impl Into<String>) -> Self {
        Self::new(about, Verdict::Bad, words)
    }
}

/// Nothing is bad; something is.
pub const WELL: u8 = 0;
pub const ILL: u8 = 1;

/// Descriptors below which a server soon refuses clients.
const DESCRIPTORS_MIN: u64 = 4096;
/// How far file times may be ahead of the clock.
const AHEAD_MAX: Duration = Duration::from_secs(60);
/// How long a running server may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Looks at everything, says what it found, and answers the exit code.
pub fn run(config: &Config, out: &mut dyn Write) -> u8 {
    #[expect(clippy::disallowed_methods, reason = "the machine's clock is what is looked at")]
    let now = SystemTime::now();
    let mut findings = ports(config);
    findings.extend(disk::look(config));
    findings.push(descriptors(config));
    findings.push(clock(&config.data_dir, now));
    findings.extend(certificates::look(config, now));
    for Finding { about, verdict, words } in &findings {
        let verdict = match verdict {
            Verdict::Fine => "ok",
            Verdict::Doubtful => "doubtful",
            Verdict::Bad => "BAD",
        };
        let _closed = writeln!(out, "{verdict:<9}{about:<13}{words}");
    }
    let is_ill = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    if is_ill { ILL } else { WELL }
}

fn ports(config: &Config) -> Vec<Finding> {
    let about = "ports";
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Finding::bad(about, format!("cannot try them: {error}"))],
    };
    let bound = {
        // A listener belongs to a runtime.
        let _inside = runtime.enter();
        let wanted = Protocol::ALL.into_iter().filter_map(|it| Some((it, it.bind(config)?)));
        let tried = wanted.filter_map(|(protocol, address)| {
            let error = listeners::bind(protocol, address).err()?;
            Some(match error {
                // A server warns, and serves the rest.
                BindError::Taken(Protocol::Metrics, _) => {
                    Finding::doubtful(about, error.to_string())
                }
                _ => Finding::bad(about, error.to_string()),
            })
        });
        tried.collect::<Vec<_>>()
    };
    drop(runtime);
    if bound.is_empty() {
        return vec![Finding::fine(about, "all are free")];
    }
    if is_running(config) {
        let words = "a server is running on this data directory, and has its ports";
        return vec![Finding::fine(about, words)];
    }
    bound
}

/// Whether a server answers that has this data directory: one that knows its operator.
fn is_running(config: &Config) -> bool {
    let asked = Remote::open(&config.data_dir, ANSWER)
        .and_then(|remote| remote.ask(&Method::GET, "/api/whoami", None));
    asked.is_ok_and(|reply| {
        reply.status == 200 && reply.json().get("name").is_some_and(|name| name == OPERATOR)
    })
}

fn descriptors(config: &Config) -> Finding {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let clients = config.amqp.connections_max
        + config.mqtt.connections_max
        + config.rocketmq.connections_max
        + config.http.connections_max;
    judge_descriptors(&limits, clients as u64)
}

fn judge_descriptors(limits: &str, clients: u64) -> Finding {
    let about = "descriptors";
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    let Some(max) = soft.and_then(|soft| soft.parse::<u64>().ok()) else {
        return match soft {
            Some("unlimited") => Finding::fine(about, "as many files and sockets as it likes"),
            _ => Finding::doubtful(about, "this system does not tell how many may be open"),
        };
    };
    let words = format!("{max} files and sockets may be open (ulimit -n)");
    let raise = "raise it, as LimitNOFILE= in a systemd unit does";
    if max < DESCRIPTORS_MIN {
        return Finding::bad(about, format!("only {words}: {raise}"));
    }
    if max < clients {
        let words =
            format!("{words}, and the configuration lets {clients} clients connect: {raise}");
        return Finding::doubtful(about, words);
    }
    Finding::fine(about, words)
}

/// A clock that is behind shows, since files were written later than it says; one that is ahead does not.
fn clock(data_dir: &Path, now: SystemTime) -> Finding {
    let about = "clock";
    let program = std::env::current_exe().into_iter();
    let data = ["log", "index"].map(|name| data_dir.join(name)).into_iter();
    let newest = data
        .filter_map(|folder| folder.read_dir().ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .chain(program)
        .filter_map(|path| Some((fs::metadata(&path).and_then(|it| it.modified()).ok()?, path)))
        .max();
    let Some((newest, path)) = newest else {
        return Finding::fine(about, "there is nothing to compare it with");
    };
    match newest.duration_since(now) {
        Ok(ahead) if ahead > AHEAD_MAX => Finding::bad(
            about,
            format!(
                "it is {} behind the time at which {} was written: set it, or wait, before serving; expiry and \
                 delays go by it",
                span(ahead),
                path.display()
            ),
        ),
        _ => Finding::fine(
            about,
            "not behind what was written here (whether it is ahead cannot be seen from here)",
        ),
    }
}

/// A length of time in words.
fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The error in words that a person acts on.
fn io_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::StorageFull => "the disk is full".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

    fn config(data: &Path, port: u16) -> Config {
        let mut sets = vec![format!("data_dir={}", data.display())];
        for name in ["amqp", "mqtt", "rocketmq", "http", "metrics"] {
            sets.push(format!("listeners.{name}.bind=127.0.0.1:{port}"));
        }
        Config::load(&sets.into_iter().map(Layer::Set).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_taken_port_is_named_with_the_key_that_moves_it() {
        let folder = tempfile::tempdir().unwrap();
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let found = ports(&config(folder.path(), port));
        let (doubts, bad): (Vec<_>, Vec<_>) =
            found.iter().partition(|finding| finding.verdict == Verdict::Doubtful);
        assert_eq!((doubts.len(), bad.len()), (1, 4), "{found:?}");
        assert!(doubts[0].words.contains("listeners.metrics.bind="), "{found:?}");
        let words = format!("port {port} on 127.0.0.1 is taken by another process");
        assert!(found[0].words.contains(&words) && found[0].words.contains("listeners.amqp.bind="));
        let free = ports(&config(folder.path(), 0));
        assert_eq!((free.len(), free[0].verdict), (1, Verdict::Fine));
    }

    #[test]
    fn only_who_knows_the_operator_is_the_running_server() {
        let folder = tempfile::tempdir().unwrap();
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let left = serde_json::json!({ "http": other.local_addr().unwrap(), "token": "t" });
        fs::write(folder.path().join("operator.json"), left.to_string()).unwrap();
        let said = [("401 Unauthorized", OPERATOR), ("200 OK", "guest"), ("200 OK", OPERATOR)];
        let answering = std::thread::spawn(move || {
            for (status, name) in said {
                let (mut stream, _) = other.accept().unwrap();
                let _request = io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
                let body = serde_json::json!({ "name": name }).to_string();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).unwrap();
            }
        });
        let config = config(folder.path(), 0);
        assert_eq!(said.map(|_| is_running(&config)), [false, false, true]);
        answering.join().unwrap();
        assert!(!is_running(&config));
    }

    #[test]
    fn too_few_descriptors_are_told_with_what_to_do() {
        let judge = |line: &str, clients| judge_descriptors(line, clients);
        let few = judge("Max open files            1024                 524288 files", 10);
        assert_eq!(few.verdict, Verdict::Bad);
        assert!(few.words.contains("only 1024 files") && few.words.contains("LimitNOFILE"));
        let some = judge("Max open files            20000                524288 files", 30_000);
        assert_eq!(some.verdict, Verdict::Doubtful);
        assert_eq!(judge("Max open files  1048576  1048576 files", 30_000).verdict, Verdict::Fine);
        assert_eq!(judge("", 1).verdict, Verdict::Doubtful);
    }

    #[test]
    fn a_clock_behind_the_newest_file_of_the_log_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::create_dir(&log).unwrap();
        let file = fs::File::create(log.join("0.log")).unwrap();
        #[expect(clippy::disallowed_methods, reason = "file times are of the real clock")]
        let now = SystemTime::now();
        assert_eq!(clock(folder.path(), now).verdict, Verdict::Fine);
        file.set_modified(now + Duration::from_secs(3 * 86_400)).unwrap();
        let found = clock(folder.path(), now);
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(found.words.contains("days behind") && found.words.contains("0.log"), "{found:?}");
    }
}
