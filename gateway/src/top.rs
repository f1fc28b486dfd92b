//! `mainstem top`: what the running server does, again and again, as a table.

use std::{
    io::{self, IsTerminal, Write},
    thread,
    time::Duration,
};

use axum::http::Method;
use serde_json::Value as Json;

use crate::{
    Config,
    remote::{Remote, RemoteError, Reply},
    terminal,
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Queues that are shown: those that hold most.
const QUEUES: usize = 20;

/// The server cannot be asked.
pub const UNAVAILABLE: u8 = 69;

/// Shows it, once or until whoever looks has seen enough, and answers the exit code.
pub fn run(config: &Config, is_once: bool, out: &mut dyn Write) -> u8 {
    let is_screen = !is_once && io::stdout().is_terminal();
    let remote = match Remote::open(&config.data_dir, ANSWER) {
        Ok(remote) => remote,
        Err(error) => return fail(&error),
    };
    loop {
        let page = match page(&remote) {
            Ok(page) => page,
            Err(error) => return fail(&error),
        };
        // From the top left of an empty screen.
        let clear = if is_screen { "\x1b[H\x1b[2J" } else { "" };
        if write!(out, "{clear}{page}").and_then(|()| out.flush()).is_err() || is_once {
            return 0;
        }
        thread::sleep(LOOK);
    }
}

fn fail(error: &RemoteError) -> u8 {
    let _closed = writeln!(io::stderr(), "mainstem: {error}");
    UNAVAILABLE
}

fn page(remote: &Remote) -> Result<String, RemoteError> {
    let ask = |path: &str| {
        remote.ask(&Method::GET, path, None).as_ref().map_or_else(|_| Json::Null, Reply::json)
    };
    // The first question tells whether anybody is there.
    let overview = remote.ask(&Method::GET, "/api/overview", None)?.json();
    let node = ask("/api/nodes");
    let path = format!("/api/queues?sort=messages&sort_reverse=true&page=1&page_size={QUEUES}");
    let queues = ask(&path);
    Ok(format!("{}\n{}", head(&overview, &node), table(&queues)))
}

fn at<'a>(json: &'a Json, pointer: &str) -> &'a Json {
    json.pointer(pointer).unwrap_or(&Json::Null)
}

fn number(json: &Json, pointer: &str) -> u64 {
    at(json, pointer).as_u64().unwrap_or_default()
}

fn rate(json: &Json, name: &str) -> f64 {
    at(json, &format!("/message_stats/{name}_details/rate")).as_f64().unwrap_or_default()
}

fn head(overview: &Json, nodes: &Json) -> String {
    let word = |pointer| at(overview, pointer).as_str().unwrap_or_default();
    let node = at(nodes, "/0");
    let alarm = match at(node, "/disk_free_alarm").as_bool() {
        Some(true) => "  ALARM: no room for publishes",
        _ => "",
    };
    format!(
        "{} {} on {}, up {} s, {} MiB{alarm}\n\
         {} connections, {} channels, {} consumers, {} queues, {} exchanges\n\
         {:.0} in/s, {:.0} out/s, {:.0} settled/s; {} ready, {} unsettled\n",
        word("/product_name"),
        word("/product_version"),
        word("/node"),
        number(node, "/uptime") / 1000,
        number(node, "/mem_used") >> 20,
        number(overview, "/object_totals/connections"),
        number(overview, "/object_totals/channels"),
        number(overview, "/object_totals/consumers"),
        number(overview, "/object_totals/queues"),
        number(overview, "/object_totals/exchanges"),
        rate(overview, "publish"),
        rate(overview, "deliver_get"),
        rate(overview, "ack"),
        number(overview, "/queue_totals/messages_ready"),
        number(overview, "/queue_totals/messages_unacknowledged"),
    )
}

/// The queues that hold most.
fn table(queues: &Json) -> String {
    let mut text = format!(
        "{:<40} {:>9} {:>12} {:>12} {:>9}\n",
        "QUEUE", "TYPE", "READY", "UNSETTLED", "CONSUMERS"
    );
    let all = at(queues, "/items").as_array().map(Vec::as_slice).unwrap_or_default();
    for queue in all {
        let word = |pointer| at(queue, pointer).as_str().unwrap_or_default();
        let name = match word("/vhost") {
            "/" => word("/name").to_owned(),
            vhost => format!("{vhost}:{}", word("/name")),
        };
        let name = terminal::shown(&name);
        text.push_str(&format!(
            "{name:<40} {:>9} {:>12} {:>12} {:>9}\n",
            word("/type"),
            number(queue, "/messages_ready"),
            number(queue, "/messages_unacknowledged"),
            number(queue, "/consumers"),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_has_the_totals_and_the_fullest_queues() {
        let overview = json!({
            "product_name": "Mainstem", "product_version": "0.1.0", "node": "rabbit@box",
            "message_stats": { "publish_details": { "rate": 12.4 } },
            "object_totals": { "connections": 3, "queues": 2 },
            "queue_totals": { "messages_ready": 7, "messages_unacknowledged": 1 },
        });
        let nodes = json!([{ "uptime": 5000, "mem_used": 64 << 20, "disk_free_alarm": true }]);
        let head = head(&overview, &nodes);
        assert!(head.starts_with(
            "Mainstem 0.1.0 on rabbit@box, up 5 s, 64 MiB  ALARM: no room for publishes\n3 connections, "
        ), "{head}");
        assert!(head.ends_with("12 in/s, 0 out/s, 0 settled/s; 7 ready, 1 unsettled\n"), "{head}");
        let queue =
            json!({ "name": "q", "vhost": "plant", "type": "classic", "messages_ready": 7 });
        let table = table(&json!({ "items": [queue] }));
        let row = table.lines().nth(1).unwrap();
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>(),
            ["plant:q", "classic", "7", "0", "0"]
        );
        let odd = json!({ "name": "a\x1b[2J\nb", "vhost": "/" });
        assert!(super::table(&json!({ "items": [odd] })).contains("\na\\u{1b}[2J\\nb "));
    }
}
