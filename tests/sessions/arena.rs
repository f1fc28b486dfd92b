//! A server among bad company: what must hold of it after every round.

use std::{env, fs, time::Duration};

use mainstem_tests::{Deadline, Ports, Server, http};
use tokio::time;

use crate::witness::Witness;

/// Rounds when nobody says how long.
const ROUNDS: u64 = 12;
/// Between two looks at what the server counts, which is slow to come.
const ROUNDS_PER_COUNT: u64 = 25;
/// How long the server may take to let go of what a connection had.
const LET_GO_S: u64 = 20;
/// The most memory the server may ever have taken.
const RESIDENT_KIB_MAX: u64 = 512 << 10;

/// What the sessions of a round came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub sessions: u64,
    /// That were damaged.
    pub damaged: u64,
    /// That the server ended with its reason.
    pub refused: u64,
    /// Publishes that were confirmed, and looked for.
    pub confirmed: u64,
    /// Messages that the sessions were sent.
    pub delivered: u64,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.damaged += other.damaged;
        self.refused += other.refused;
        self.confirmed += other.confirmed;
        self.delivered += other.delivered;
    }
}

/// What a server that nobody but the witnesses uses has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Idle {
    sockets: usize,
    clients: u64,
}

struct Arena {
    /// They end before the server does.
    witnesses: [Witness; 2],
    server: Server,
    idle: Idle,
}

/// Plays rounds against one server, with these settings of it. Panics with the number of the round
/// in which something was not as it must be.
pub async fn play<F>(settings: &[&str], round: impl Fn(Ports, u64) -> F)
where
    F: Future<Output = Result<Tally, String>>,
{
    let number = |name| env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let mut arena = Arena::open(settings).await;
    let ports = arena.server.ports();
    let seconds = number("SESSION_SECONDS");
    let one = number("SESSION_SEED");
    let first = one.unwrap_or_else(|| seconds.map_or(0, |_| u64::from(fastrand::u32(..))));
    let deadline = Deadline::seconds(seconds.unwrap_or_else(|| u64::from(u32::MAX)));
    let count = if one.is_some() { 1 } else { seconds.map_or(ROUNDS, |_| u64::MAX) };
    let mut tally = Tally::default();
    let mut played = 0;
    while played < count && !deadline.passed() {
        let seed = first + played;
        played += 1;
        let counts = played % ROUNDS_PER_COUNT == 0 || played == count || deadline.passed();
        let played = match round(ports, seed).await {
            Ok(played) => arena.check(counts).await.map(|()| played),
            Err(why) => Err(why),
        };
        match played {
            Ok(played) => tally.add(played),
            Err(why) => {
                let log = arena.server.log();
                let last = log[log.len().saturating_sub(20)..].join("\n");
                panic!("SESSION_SEED={seed}: {why}\nthe server's last words:\n{last}");
            }
        }
    }
    arena.check(true).await.unwrap_or_else(|why| panic!("after the last round: {why}"));
    let [amqp, mqtt] = arena.witnesses.each_ref().map(Witness::seen);
    println!(
        "{played} rounds from SESSION_SEED={first} in {:.0?}: {tally:?}; witnesses (messages, \
         slowest ms): AMQP {amqp:?}, MQTT {mqtt:?}; {} KiB resident at most",
        deadline.elapsed(),
        resident_max_kib(arena.server.pid()),
    );
}

impl Arena {
    async fn open(settings: &[&str]) -> Self {
        let server = Server::start_with(settings);
        let mut witnesses = Witness::all(server.ports()).await;
        for witness in &mut witnesses {
            witness.check().await.unwrap();
        }
        // Before anybody asks over HTTP.
        let sockets = sockets(server.pid());
        let clients = Deadline::seconds(LET_GO_S).until("the clients to be counted", || {
            clients(server.ports()).filter(|clients| *clients == 2)
        });
        let idle = Idle { sockets, clients };
        Self { server, witnesses, idle }
    }

    async fn check(&mut self, counts: bool) -> Result<(), String> {
        if !self.server.is_running() {
            return Err("the server has ended".to_owned());
        }
        let log = self.server.log();
        let is_bad = |line: &&String| line.contains("panicked") || line.contains("ERROR");
        if let Some(line) = log.iter().find(is_bad) {
            return Err(format!("the server says: {line}"));
        }
        for witness in &mut self.witnesses {
            witness.check().await?;
        }
        let resident = resident_max_kib(self.server.pid());
        if resident > RESIDENT_KIB_MAX {
            return Err(format!("the server took {resident} KiB of memory"));
        }
        let deadline = Deadline::seconds(LET_GO_S);
        loop {
            let sockets = sockets(self.server.pid());
            let clients =
                if counts { clients(self.server.ports()) } else { Some(self.idle.clients) };
            let now = Idle { sockets, clients: clients.unwrap_or(0) };
            if now == self.idle {
                return Ok(());
            }
            if deadline.passed() {
                return Err(format!("{now:?} is left, and {:?} was there before", self.idle));
            }
            time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Clients of the store, as the server told last.
fn clients(ports: Ports) -> Option<u64> {
    format!("{:.0}", http::metric(ports.http, "mainstem_clients")?).parse().ok()
}

/// Open sockets of a process.
fn sockets(pid: u32) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let names = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    names.filter(|name| name.to_string_lossy().starts_with("socket:")).count()
}

/// The most memory that a process ever had in RAM, in KiB.
fn resident_max_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
