//! Any to any: every publisher of the matrix against every reader of it, by the official client
//! libraries in Python and in Node, each language in both roles.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it counted"
)]

#[path = "interop/properties.rs"]
mod properties;

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use mainstem_tests::{
    Deadline, Language, Matrix, Peer, Ports, Server,
    matrix::{By, Publisher},
    peer, server,
};
use md5::{Digest, Md5};
use properties::{Arrival, findings};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The rules of queues that RabbitMQ keeps, held by its own client.
#[test]
fn queues_keep_rabbitmqs_rules() {
    rules_hold("amqp_rules.py", |ports| vec![ports.amqp]);
}

/// The same for the types of exchange that RabbitMQ has by plugins.
#[test]
fn exchanges_keep_rabbitmqs_rules() {
    rules_hold("amqp_exchange_rules.py", |ports| vec![ports.amqp]);
}

/// What careless servers get wrong, asked with raw frames.
#[test]
fn no_trap_of_amqp_is_stepped_into() {
    rules_hold("amqp_traps.py", |ports| vec![ports.amqp]);
}

/// What users may do is set over HTTP, and holds by every protocol and every spelling of an address.
#[test]
fn permissions_hold_whatever_is_spoken() {
    let users = r#"[{ name = "guest", password = "guest", tags = ["administrator"], loopback_only = true },
        { name = "job", password = "job", access_key = "job-key", secret_key = "job-secret" }]"#;
    let server = Server::start_with(&[&format!("users={}", users.replace('\n', " "))]);
    let Ports { amqp, mqtt, rocketmq, http, .. } = server.ports();
    let ports = [amqp, mqtt, rocketmq, http].map(|port| port.to_string());
    holds("permissions.py", &ports.each_ref().map(String::as_str));
}

/// The definitions that a real RabbitMQ wrote are those of a Mainstem, too.
#[test]
fn definitions_of_a_rabbitmq_move_over() {
    let server = Server::start();
    let Ports { amqp, http, .. } = server.ports();
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/rabbitmq_definitions.json");
    holds("definitions.py", &[&amqp.to_string(), &http.to_string(), recorded]);
}

/// What RocketMQ's own client may expect of messages that do not come at once.
#[test]
fn rocketmqs_client_finds_rocketmq() {
    rules_hold("rocketmq_rules.py", |ports| vec![ports.rocketmq]);
}

/// The same of reading by offset.
#[test]
fn a_job_reads_rocketmq_by_offset() {
    rules_hold("rocketmq_offsets.py", |ports| vec![ports.rocketmq]);
}

/// The same of lite topics, and of topics of one type.
#[test]
fn rocketmqs_client_finds_lite_topics() {
    let topics = r#"[{ name = "sessions", type = "LITE" }, { name = "ordered", type = "FIFO" }]"#;
    let server = Server::start_with(&[&format!("rocketmq.topics={topics}")]);
    let ports = server.ports();
    holds("rocketmq_lite.py", &[&ports.rocketmq.to_string(), &ports.http.to_string()]);
}

/// Requests and their answers cross, also to a queue that stands for one connection only.
#[test]
fn replies_cross_protocols() {
    rules_hold("replies.py", |ports| vec![ports.amqp, ports.mqtt]);
}

/// Many and bad peers at once: each hurts its own connection only. A tenth of the full crowd.
#[test]
fn a_crowd_of_bad_peers_hurts_nobody_else() {
    let server = Server::start();
    holds("amqp_crowd.py", &[&server.ports().amqp.to_string(), &server.pid().to_string()]);
}

/// What was delayed comes after a kill, none of it early. How late is measured on a quiet machine.
#[test]
fn delays_outlive_a_kill() {
    let data = TempDir::new().unwrap();
    let (binary, data) = (server::binary().to_str().unwrap(), data.path().to_str().unwrap());
    holds("amqp_delays.py", &[binary, data, "1000", "4000", "1000"]);
}

/// The same of what MQTT acknowledged: nothing lost, nothing of QoS 2 twice.
#[test]
fn what_mqtt_acknowledged_outlives_kills() {
    let data = TempDir::new().unwrap();
    let (binary, data) = (server::binary().to_str().unwrap(), data.path().to_str().unwrap());
    holds("mqtt_kills.py", &[binary, data, "5"]);
}

fn rules_hold(script: &str, asked: fn(&Ports) -> Vec<u16>) {
    let server = Server::start();
    let ports: Vec<String> = asked(&server.ports()).iter().map(u16::to_string).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    holds(script, &ports);
}

fn holds(script: &str, arguments: &[&str]) {
    let (holds, said) = peer::run(Language::Python, script, arguments);
    println!("{said}");
    assert!(holds, "a rule was broken: {said}");
}

const LANGUAGES: [Language; 2] = [Language::Python, Language::Node];
/// How long the slowest single step may take.
const STEP_S: u64 = 30;
/// How long to listen to one program before looking at the other.
const LOOK_MS: u64 = 20;
const BIG_BYTES: usize = 256 << 10;
const FINDINGS_SHOWN: usize = 60;

/// The bodies every publisher sends. The marker goes last: what has not come before it, to a
/// reader that gets things in order, does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// With every property the protocol has.
    Text,
    Binary,
    Empty,
    Big,
    Marker,
}

impl Variant {
    const ALL: [Self; 4] = [Self::Text, Self::Binary, Self::Empty, Self::Big];

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Binary => "binary",
            Self::Empty => "empty",
            Self::Big => "big",
            Self::Marker => "marker",
        }
    }

    fn body(self, token: &str) -> Vec<u8> {
        let mut body = format!("token:{token}\n").into_bytes();
        match self {
            Self::Text => body.extend("Zuluft 21,5 \u{b0}C \u{2713}".as_bytes()),
            Self::Binary => body.extend(0..=u8::MAX),
            Self::Empty => body.clear(),
            Self::Big => body.extend((0..=u8::MAX).cycle().skip(7).step_by(31).take(BIG_BYTES)),
            Self::Marker => {}
        }
        body
    }

    /// RocketMQ's clients refuse to send an empty body.
    fn can_be_sent_by(self, by: By) -> bool {
        self != Self::Empty || by != By::Rocketmq
    }
}

/// One message that was sent.
struct Sent {
    row: String,
    publisher: Publisher,
    variant: Variant,
    from: Language,
    /// The id its library gave it, where it did.
    id: Option<String>,
}

/// One copy that arrived at a reader.
struct Received {
    column: String,
    at: Language,
    event: Value,
}

struct Run {
    matrix: Matrix,
    peers: Vec<(Language, Peer)>,
    sent: BTreeMap<String, Sent>,
    received: Vec<Received>,
    findings: Vec<String>,
}

#[test]
fn every_cell_gives_exactly_what_the_rules_say() {
    let clock = Deadline::seconds(600);
    let server = Server::start();
    let peer = |language: Language| {
        let script = format!("peer.{}", language.name());
        (language, Peer::start(language, &script, server.ports()))
    };
    let mut run = Run {
        matrix: Matrix::load(),
        peers: LANGUAGES.map(peer).into(),
        sent: BTreeMap::new(),
        received: Vec::new(),
        findings: Vec::new(),
    };
    run.declare();
    run.start_readers();
    run.publish_everything();
    run.await_arrivals();
    run.count_copies();
    run.check_arrivals();
    let (cells, rows) = (run.matrix.publishers.len() * run.matrix.readers.len(), run.sent.len());
    let (copies, took) = (run.received.len(), clock.elapsed());
    println!("matrix: {cells} cells, {rows} messages sent, {copies} copies received, {took:.1?}");
    let shown: Vec<_> = run.findings.iter().take(FINDINGS_SHOWN).cloned().collect();
    let count = run.findings.len();
    assert!(count == 0, "{count} findings, the first are:\n{}", shown.join("\n"));
}

impl Run {
    fn declare(&mut self) {
        let exchanges = serde_json::to_value(&self.matrix.exchanges).unwrap();
        let declare = json!({"op": "declare", "exchanges": exchanges, "queues": ["jobs"]});
        self.peers[0].1.send(&declare);
        self.await_events(0, "declared", 1);
    }

    /// Starts every reader in both languages. They are all in place before the first message.
    fn start_readers(&mut self) {
        for index in 0..self.peers.len() {
            let language = self.peers[index].0;
            let readers = self.matrix.readers.clone();
            for (name, reader) in &readers {
                let mut command = serde_json::to_value(reader.named(language.name())).unwrap();
                command["op"] = json!("read");
                command["reader"] = json!(name);
                self.peers[index].1.send(&command);
            }
            self.await_events(index, "ready", readers.len());
        }
    }

    fn publish_everything(&mut self) {
        let publishers = self.matrix.publishers.clone();
        for (index, from) in LANGUAGES.into_iter().enumerate() {
            for (row, publisher) in &publishers {
                for variant in Variant::ALL {
                    self.publish(index, from, row, publisher, variant);
                }
            }
        }
        for (row, publisher) in &publishers {
            self.publish(0, LANGUAGES[0], row, publisher, Variant::Marker);
        }
    }

    fn publish(
        &mut self,
        index: usize,
        from: Language,
        row: &str,
        publisher: &Publisher,
        variant: Variant,
    ) {
        if !variant.can_be_sent_by(publisher.by) {
            return;
        }
        let token = format!("{row}_{}_{}", from.name(), variant.name());
        let publisher = publisher.named(&token);
        let mut command = serde_json::to_value(&publisher).unwrap();
        command["op"] = json!("publish");
        command["token"] = json!(token);
        command["body"] = json!(BASE64.encode(variant.body(&token)));
        if variant == Variant::Text {
            command["say"] = properties::say(&token);
        }
        let sent = Sent { row: row.to_owned(), publisher, variant, from, id: None };
        self.sent.insert(token, sent);
        self.peers[index].1.send(&command);
        self.await_events(index, "published", 1);
    }

    /// Takes a peer's events until `count` of this kind (or failures) have come.
    fn await_events(&mut self, index: usize, kind: &str, count: usize) {
        let deadline = Deadline::seconds(STEP_S);
        let mut seen = 0;
        while seen < count {
            let Some(event) = self.peers[index].1.next(deadline) else {
                let language = self.peers[index].0;
                self.findings.push(format!("{language:?}: {seen} of {count} `{kind}` came"));
                return;
            };
            seen += usize::from(event["event"] == kind || event["event"] == "failed");
            self.note(index, event);
        }
    }

    fn note(&mut self, index: usize, event: Value) {
        let at = self.peers[index].0;
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        match event["event"].as_str() {
            Some("received") => {
                self.received.push(Received { column: text("reader"), at, event });
            }
            Some("published") => {
                let id = event["message_id"].as_str().map(str::to_owned);
                if let Some(sent) = self.sent.get_mut(&text("token")) {
                    sent.id = id;
                }
            }
            Some("failed") => {
                self.findings.push(format!("{at:?}: {} failed: {}", text("what"), text("error")));
            }
            _ => {}
        }
    }

    /// Waits until everything that is due has arrived, the markers last, or nothing more comes.
    fn await_arrivals(&mut self) {
        let due: u64 = self
            .sent
            .values()
            .flat_map(|sent| self.matrix.readers.iter().map(move |reader| (sent, reader)))
            .map(|(sent, (column, reader))| {
                let programs = if reader.together { 1 } else { LANGUAGES.len() as u64 };
                u64::from(self.matrix.copies(&sent.row, column)) * programs
            })
            .sum();
        let deadline = Deadline::seconds(STEP_S);
        while (self.received.len() as u64) < due && !deadline.passed() {
            for index in 0..self.peers.len() {
                while let Some(event) = self.peers[index].1.next(Deadline::millis(LOOK_MS)) {
                    self.note(index, event);
                }
            }
        }
    }

    /// Exactly one copy or exactly none, per cell, body and pair of languages.
    fn count_copies(&mut self) {
        let mut counts: BTreeMap<(&str, &str, Language), u32> = BTreeMap::new();
        for received in &self.received {
            let token = received.event["token"].as_str().unwrap_or_default();
            let together = self.matrix.readers[&received.column].together;
            let at = if together { LANGUAGES[0] } else { received.at };
            *counts.entry((token, &received.column, at)).or_default() += 1;
        }
        for (token, sent) in &self.sent {
            for (column, reader) in &self.matrix.readers {
                let expected = self.matrix.copies(&sent.row, column);
                let programs = if reader.together { 1 } else { LANGUAGES.len() };
                for at in LANGUAGES.into_iter().take(programs) {
                    let got = counts.remove(&(token, column, at)).unwrap_or_default();
                    if got != expected {
                        self.findings.push(format!(
                            "{} ({}) -> {column} ({}), {}: {got} copies, should be {expected}",
                            sent.row,
                            sent.from.name(),
                            at.name(),
                            sent.variant.name(),
                        ));
                    }
                }
            }
        }
        let unknown = counts.keys().map(|(token, column, _)| format!("{column}: what is {token}?"));
        self.findings.extend(unknown);
    }

    /// Bodies are identical, and properties are what MAPPING.md says.
    fn check_arrivals(&mut self) {
        let mut found = Vec::new();
        for received in &self.received {
            let token = received.event["token"].as_str().unwrap_or_default();
            let Some(sent) = self.sent.get(token) else { continue };
            let reader = &self.matrix.readers[&received.column];
            let at = format!("{token} -> {} ({})", received.column, received.at.name());
            let body = sent.variant.body(token);
            let md5: String = Md5::digest(&body).iter().map(|b| format!("{b:02x}")).collect();
            if received.event["md5"] != json!(md5) {
                let size = &received.event["size"];
                found.push(format!("{at}: another body, of {size} bytes for {}", body.len()));
            }
            let arrival = Arrival {
                publisher: &sent.publisher,
                token,
                says: sent.variant == Variant::Text,
                sent_id: sent.id.as_deref(),
                reader: reader.by,
                qos: reader.qos,
                said: &received.event["said"],
            };
            found.extend(findings(&arrival).into_iter().map(|finding| format!("{at}: {finding}")));
        }
        self.findings.extend(found);
    }
}
