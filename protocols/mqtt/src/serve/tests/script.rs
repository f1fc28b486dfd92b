//! Conversations written down byte by byte: the files beside this one, one case after another,
//! each with a server of its own.
//!
//! ```text
//! case its_name                 what must hold; the table in tests/mqtt_statements.txt names it
//! with receive_max = 2          a setting of the server
//! a> [10: "MQTT" 04 02 0000 "a"]        client a says a packet (its length is put in)
//! a< [20: 00 00] [d0:]                  and hears these, in this order
//! a<~ [40: 0001] [30: "t" 'hi']         or these, in any order
//! a< closed | a< nothing                the end of the connection; no packet before PINGRESP
//! a lost | wait 1200 | restart          the network fails; milliseconds; the server starts anew
//! ```
//!
//! Bytes: `0a1b` hex, `"text"` with its length, `'text'` without, `{..}` behind its length (a
//! property block), `x*70000` a byte so often, `??` any byte, `*` anything up to the packet's end.
//! `hello5 id [flags]`, `hello4 id [flags]`, `resume5 id seconds 0|1` and `resume4 id 0|1` connect
//! and hear CONNACK with session present; `sub filter options [id]` subscribes by MQTT 5.

use std::collections::HashMap;

use super::*;

/// One expected byte; `Rest` matches all that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Byte(u8),
    Any,
    Rest,
}

/// A packet's bytes, or their pattern.
type Pattern = Vec<Want>;

fn bytes_of(pattern: &[Want]) -> Vec<u8> {
    let byte = |want: &Want| match want {
        Want::Byte(byte) => *byte,
        other => panic!("{other:?} cannot be said"),
    };
    pattern.iter().map(byte).collect()
}

fn lengthened(len: usize) -> Pattern {
    let mut out = BytesMut::new();
    crate::codec::output::put_varint(&mut out, len);
    out.iter().map(|byte| Want::Byte(*byte)).collect()
}

/// Reads bytes until `end`.
fn read(text: &mut &str, end: Option<char>) -> Pattern {
    let mut out = Vec::new();
    loop {
        *text = text.trim_start();
        let Some(first) = text.chars().next() else {
            assert!(end.is_none(), "{end:?} is missing");
            return out;
        };
        if Some(first) == end {
            *text = &text[1..];
            return out;
        }
        match first {
            '"' | '\'' => {
                let (quoted, rest) = text[1..].split_once(first).expect("a closed quotation");
                *text = rest;
                if first == '"' {
                    let len = u16::try_from(quoted.len()).unwrap().to_be_bytes();
                    out.extend(len.map(Want::Byte));
                }
                out.extend(quoted.bytes().map(Want::Byte));
            }
            '{' | '[' => {
                *text = &text[1..];
                let inner = if first == '{' { read(text, Some('}')) } else { read_packet(text) };
                if first == '{' {
                    out.extend(lengthened(inner.len()));
                }
                out.extend(inner);
            }
            '*' => {
                *text = &text[1..];
                out.push(Want::Rest);
            }
            _ => {
                let len = text.find([' ', ']', '}']).unwrap_or(text.len());
                assert!(len > 0, "what is {text}?");
                let (word, rest) = text.split_at(len);
                *text = rest;
                out.extend(word_bytes(word));
            }
        }
    }
}

/// Reads the rest of `[xx: ..]`.
fn read_packet(text: &mut &str) -> Pattern {
    let (first, rest) = text.split_once(':').expect("a packet has a first byte");
    *text = rest;
    let body = read(text, Some(']'));
    let mut packet = vec![Want::Byte(u8::from_str_radix(first, 16).unwrap())];
    if body.contains(&Want::Rest) {
        // Its length is not known, and at most 127.
        packet.push(Want::Any);
    } else {
        packet.extend(lengthened(body.len()));
    }
    packet.extend(body);
    packet
}

fn word_bytes(word: &str) -> Pattern {
    if word.chars().all(|char| char == '?') {
        return vec![Want::Any; word.len() / 2];
    }
    if let Some((text, count)) = word.split_once('*') {
        let byte = text.bytes().next().expect("a byte to be repeated");
        return vec![Want::Byte(byte); count.parse().unwrap()];
    }
    assert!(word.len().is_multiple_of(2), "{word} is no hex");
    let pairs = (0..word.len()).step_by(2).map(|at| &word[at..at + 2]);
    pairs.map(|pair| Want::Byte(u8::from_str_radix(pair, 16).expect(word))).collect()
}

fn matches(pattern: &[Want], heard: &[u8]) -> bool {
    let mut heard = heard.iter();
    for want in pattern {
        match want {
            Want::Rest => return true,
            Want::Any if heard.next().is_some() => {}
            Want::Byte(byte) if heard.next() == Some(byte) => {}
            Want::Any | Want::Byte(_) => return false,
        }
    }
    heard.next().is_none()
}

/// Packets on a line.
fn packets(mut text: &str) -> Vec<Pattern> {
    let mut out = Vec::new();
    while let Some(rest) = text.trim_start().strip_prefix('[') {
        text = rest;
        out.push(read_packet(&mut text));
    }
    assert!(text.trim().is_empty(), "{text} is no packet");
    out
}

struct Stage {
    server: Server,
    limits: Limits,
    peers: HashMap<String, Peer>,
}

impl Stage {
    async fn peer(&mut self, name: &str) -> &mut Peer {
        if !self.peers.contains_key(name) {
            let peer = Peer::open(&self.server).await;
            self.peers.insert(name.to_owned(), peer);
        }
        self.peers.get_mut(name).unwrap()
    }

    async fn act(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "wait" {
            return tokio::time::sleep(Duration::from_millis(rest.parse().unwrap())).await;
        }
        if word == "restart" {
            self.peers.clear();
            return self.restart().await;
        }
        if let Some(name) = word.strip_suffix('>') {
            let bytes = bytes_of(&read(&mut &*rest, None));
            return self.peer(name).await.say(&bytes).await;
        }
        if let Some(name) = word.strip_suffix("<~") {
            let mut wanted = packets(rest);
            while !wanted.is_empty() {
                let heard = self.hear(name).await.expect("a packet");
                let at = wanted.iter().position(|want| matches(want, &heard));
                wanted.remove(at.unwrap_or_else(|| panic!("unwanted: {heard:02x?}")));
            }
            return;
        }
        if let Some(name) = word.strip_suffix('<') {
            return self.expect(name, rest).await;
        }
        if rest == "lost" {
            // What follows finds the connection ended.
            if let Some(peer) = self.peers.remove(word) {
                peer.lose().await;
            }
            return;
        }
        self.shorthand(word, rest).await;
    }

    async fn expect(&mut self, name: &str, text: &str) {
        match text {
            "closed" => {
                let heard = self.hear(name).await;
                assert!(heard.is_none(), "said {heard:02x?} before the end");
                self.peers.remove(name);
            }
            "nothing" => self.peer(name).await.expect_nothing().await,
            _ => {
                for want in packets(text) {
                    let heard = self.hear(name).await.expect("a packet");
                    assert!(matches(&want, &heard), "heard {heard:02x?}, wanted {want:?}");
                }
            }
        }
    }

    async fn hear(&mut self, name: &str) -> Option<Vec<u8>> {
        let frame = self.peer(name).await.hear().await?;
        Some(packet(frame.first, &frame.body))
    }

    async fn shorthand(&mut self, name: &str, text: &str) {
        let words: Vec<&str> = text.split(' ').collect();
        let flags = |at: usize, default| {
            words.get(at).map_or(default, |flags| u8::from_str_radix(flags, 16).unwrap())
        };
        let (say, hear) = match words[..] {
            ["hello4", id, ..] => {
                let flags = flags(2, 2);
                (format!("[10: \"MQTT\" 04 {flags:02x} 0000 \"{id}\"]"), "[20: 00 00]".to_owned())
            }
            ["resume4", id, present] => {
                let hear = format!("[20: 0{present} 00]");
                (format!("[10: \"MQTT\" 04 00 0000 \"{id}\"]"), hear)
            }
            ["hello5", id, ..] => {
                let flags = flags(2, 2);
                let say = format!("[10: \"MQTT\" 05 {flags:02x} 0000 {{}} \"{id}\"]");
                (say, "[20: 00 00 *]".to_owned())
            }
            ["resume5", id, seconds, present] => {
                let seconds: u32 = seconds.parse().unwrap();
                let say = format!("[10: \"MQTT\" 05 00 0000 {{11 {seconds:08x}}} \"{id}\"]");
                (say, format!("[20: 0{present} 00 *]"))
            }
            ["sub", filter, options, ..] => {
                let id = words.get(3).map_or(String::new(), |id| format!("0b{id}"));
                let granted = u8::from_str_radix(options, 16).unwrap() & 3;
                let say = format!("[82: 00ee {{{id}}} \"{filter}\" {options}]");
                (say, format!("[90: 00ee {{}} {granted:02x}]"))
            }
            _ => panic!("what is {text}?"),
        };
        let bytes = bytes_of(&read(&mut &*say, None));
        self.peer(name).await.say(&bytes).await;
        self.expect(name, &hear).await;
    }

    /// The server ends in good order and starts again with what it kept.
    async fn restart(&mut self) {
        let Server { broker, shutdown, task, dir, .. } =
            std::mem::replace(&mut self.server, start_with(Limits::default()).await);
        shutdown.cancel();
        task.await.unwrap();
        broker.stop().await;
        drop(broker);
        self.server = start_in(dir, self.limits.clone()).await;
    }
}

async fn play(name: &str, lines: Vec<(usize, &str)>) {
    let (settings, lines): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|(_, line)| line.starts_with("with "));
    let settings: Vec<&str> = settings.iter().map(|(_, line)| &line[5..]).collect();
    let limits: Limits = toml::from_str(&settings.join("\n")).unwrap();
    let server = start_with(limits.clone()).await;
    let mut stage = Stage { server, limits, peers: HashMap::new() };
    for (number, line) in lines {
        // Told only when the test fails.
        println!("{name}, line {number}: {line}");
        stage.act(line).await;
    }
    println!("{name}: holds");
    let Server { broker, shutdown, task, .. } = stage.server;
    drop(stage.peers);
    shutdown.cancel();
    task.await.unwrap();
    broker.stop().await;
}

/// Cases played at a time.
const ABREAST: usize = 8;

/// Every case of a file, each to its end.
async fn play_all(text: &'static str) {
    let mut cases: Vec<(&str, Vec<(usize, &str)>)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split("  # ").next().unwrap_or(line).trim();
        if let Some(name) = line.strip_prefix("case ") {
            cases.push((name, Vec::new()));
        } else if !line.is_empty() && !line.starts_with('#') {
            cases.last_mut().expect("a case comes first").1.push((number + 1, line));
        }
    }
    let (mut playing, mut failed) = (tokio::task::JoinSet::new(), 0);
    let wanted = std::env::var("CASE").unwrap_or_default();
    for (name, lines) in cases.into_iter().filter(|(name, _)| name.contains(&wanted)) {
        playing.spawn(play(name, lines));
        if playing.len() == ABREAST {
            failed += usize::from(playing.join_next().await.unwrap().is_err());
        }
    }
    while let Some(ended) = playing.join_next().await {
        failed += usize::from(ended.is_err());
    }
    assert_eq!(failed, 0, "cases failed: see above which do not hold");
}

#[tokio::test]
async fn the_packets_of_connecting() {
    play_all(include_str!("connecting.txt")).await;
}

#[tokio::test]
async fn the_packets_of_proving() {
    play_all(include_str!("proving.txt")).await;
}

#[tokio::test]
async fn the_packets_of_publishing() {
    play_all(include_str!("publishing.txt")).await;
}

#[tokio::test]
async fn the_packets_of_subscribing() {
    play_all(include_str!("subscribing.txt")).await;
}

#[tokio::test]
async fn the_packets_of_mqtt_3() {
    play_all(include_str!("version_3.txt")).await;
}
