//! The server itself: whether it is there and well, what it is, and its end.

use std::{thread, time::Duration};

use axum::http::Method;
use serde_json::{Value as Json, json};

use super::{
    DATA, Failure, SOFTWARE, Session, TRY_AGAIN, UNAVAILABLE, USAGE, node_name, output::Output,
    patience,
};
use crate::remote::Remote;

type Done = Result<Output, Failure>;

/// Between two looks whether a server has come, or has gone.
const LOOK: Duration = Duration::from_millis(100);
/// How long a server may take to start when nobody says, in seconds.
const START_S: u64 = 300;

pub(super) fn version(session: &Session) -> Done {
    Ok(Output::Text(session.config.interop.rabbitmq_version.clone()))
}

pub(super) fn ping(session: &Session) -> Done {
    session.must(Method::GET, "/api/whoami", None)?;
    Ok(Output::Text("Ping succeeded".to_owned()))
}

pub(super) fn health(session: &Session) -> Done {
    let reply = session.ask(Method::GET, "/readyz", None)?;
    match reply.is_fine() {
        true => Ok(Output::Text("Health check passed".to_owned())),
        false => Err(Failure::new(UNAVAILABLE, "the server is stopping")),
    }
}

pub(super) fn check_alarms(session: &Session) -> Done {
    let reply = session.ask(Method::GET, "/api/health/checks/local-alarms", None)?;
    if reply.is_fine() {
        let text = format!("Node {} reported no local alarms", node_name(&session.call));
        return Ok(Output::Text(text));
    }
    Err(Failure::new(UNAVAILABLE, reply.reason()))
}

/// Waits for the server; one that does not come in time is as one that is not there.
pub(super) fn await_startup(session: &Session) -> Done {
    let wait = match session.call.option("--timeout") {
        Some(_) => patience(&session.call),
        None => Duration::from_secs(START_S),
    };
    let looks = wait.as_millis() / LOOK.as_millis();
    let mut why = None;
    for _ in 0..=looks {
        let asked = Remote::open(&session.config.data_dir, patience(&session.call))
            .and_then(|remote| remote.ask(&Method::GET, "/readyz", None));
        match asked {
            Ok(reply) if reply.is_fine() => return Ok(Output::Nothing),
            Ok(_) => {}
            Err(error) => why = Some(error),
        }
        thread::sleep(LOOK);
    }
    match why {
        Some(error) => Err(session.unreachable(&error)),
        None => Err(Failure::new(TRY_AGAIN, "the server is stopping")),
    }
}

/// Asks it to end, and waits until nobody answers any more.
pub(super) fn stop(session: &Session) -> Done {
    let asked = session.ask(Method::POST, "/api/v1/stop", None);
    match asked {
        Ok(reply) if reply.is_fine() => {}
        Ok(reply) => return Err(Failure::of(&reply)),
        Err(_) if session.call.has("--idempotent") => return Ok(Output::Nothing),
        Err(failure) => return Err(failure),
    }
    let looks = patience(&session.call).as_millis() / LOOK.as_millis();
    for _ in 0..=looks {
        // The file goes last.
        if Remote::open(&session.config.data_dir, LOOK).is_err() {
            return Ok(Output::Nothing);
        }
        thread::sleep(LOOK);
    }
    Err(Failure::new(TRY_AGAIN, "the server is still stopping"))
}

/// All that there are are enabled.
pub(super) fn enable_feature_flag(session: &Session) -> Done {
    let wanted = session.call.argument(0);
    let flags = session.list("/api/feature-flags")?;
    if wanted == "all" || flags.iter().any(|flag| flag["name"] == wanted) {
        return Ok(Output::Nothing);
    }
    Err(Failure::new(SOFTWARE, format!("feature flag '{wanted}' is not supported")))
}

/// There is no such mark, and whoever sets one has to know.
pub(super) fn set_watermark(session: &Session) -> Done {
    let call = &session.call;
    let wrong = |reason: &str| Err(Failure::misuse(DATA, call, &format!("Bad argument{reason}")));
    match (call.argument(0), call.arguments.get(1)) {
        ("absolute", Some(_)) => {}
        (_, Some(_)) => {
            return Err(Failure::misuse(USAGE, call, "too many arguments."));
        }
        (fraction, None) => match fraction.parse::<f64>() {
            Ok(fraction) if (0.0..=1.0).contains(&fraction) => {}
            Ok(_) => return wrong(": The threshold should be a fraction between 0.0 and 1.0"),
            Err(_) => return wrong("."),
        },
    }
    Err(Failure::new(
        SOFTWARE,
        "nothing was set: this server has no memory high watermark and never blocks publishers for want of memory. \
         Every buffer has a bound of its own in the configuration (store.*_max, store.tail_cache_bytes, \
         amqp.unpublished_bytes_max, ...)",
    ))
}

pub(super) fn status(session: &Session) -> Done {
    let (overview, node) = look(session)?;
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let totals = &overview["object_totals"];
    let alarms = alarms(&node);
    let uptime_s = node["uptime"].as_u64().unwrap_or_default() / 1000;
    let vhosts = session.list("/api/vhosts")?.len();
    let mut page = String::new();
    let mut section = |title: &str, lines: &[String]| {
        page.push_str(&format!("{title}\n\n"));
        let none = ["(none)".to_owned()];
        for line in if lines.is_empty() { &none[..] } else { lines } {
            page.push_str(&format!("{line}\n"));
        }
        page.push('\n');
    };
    section(
        "Runtime",
        &[
            format!("OS PID: {}", text(&node["os_pid"])),
            "OS: Linux".to_owned(),
            format!("Uptime (seconds): {uptime_s}"),
            "Is under maintenance?: false".to_owned(),
            format!("RabbitMQ version: {}", text(&overview["rabbitmq_version"])),
            format!("Product: Mainstem {}", text(&overview["product_version"])),
            format!("Node name: {}", text(&node["name"])),
        ],
    );
    section("Data directory", &[format!("Node data directory: {}", text(&node["db_dir"]))]);
    section("Alarms", &alarms);
    section("Memory", &[format!("Total memory used: {}", gigabytes(&node["mem_used"]))]);
    let descriptors =
        [("Total", "fd_used", "fd_total"), ("Sockets", "sockets_used", "sockets_total")];
    let lines = descriptors
        .map(|(of, used, total)| format!("{of}: {}, limit: {}", node[used], node[total]));
    section("File Descriptors", &lines);
    section(
        "Totals",
        &[
            format!("Connection count: {}", totals["connections"]),
            format!("Queue count: {}", totals["queues"]),
            format!("Virtual host count: {vhosts}"),
        ],
    );
    section("Listeners", &listeners(&overview, ""));
    let report = json!({
        "pid": text(&node["os_pid"]).parse::<u64>().unwrap_or_default(),
        "os": "Linux",
        "uptime": uptime_s,
        "is_under_maintenance": false,
        "rabbitmq_version": overview["rabbitmq_version"],
        "product_name": "Mainstem",
        "product_version": overview["product_version"],
        "node": node["name"],
        "data_directory": node["db_dir"],
        "alarms": alarms,
        "memory": { "total": { "rss": node["mem_used"] } },
        "file_descriptors": {
            "total_used": node["fd_used"],
            "total_limit": node["fd_total"],
            "sockets_used": node["sockets_used"],
            "sockets_limit": node["sockets_total"],
        },
        "totals": {
            "connection_count": totals["connections"],
            "queue_count": totals["queues"],
            "virtual_host_count": vhosts,
        },
        "listeners": overview["listeners"],
    });
    Ok(Output::Report(page, report))
}

pub(super) fn cluster_status(session: &Session) -> Done {
    let (overview, node) = look(session)?;
    let flags = session.list("/api/feature-flags")?;
    let alarms = alarms(&node);
    let name = node["name"].as_str().unwrap_or_default().to_owned();
    let version = overview["rabbitmq_version"].as_str().unwrap_or_default();
    let cluster = overview["cluster_name"].as_str().unwrap_or_default();
    let lines = |lines: &[String]| match lines {
        [] => "(none)".to_owned(),
        lines => lines.join("\n"),
    };
    let state = flags.iter().map(|flag| {
        let word = |field: &str| flag[field].as_str().unwrap_or_default();
        format!("Flag: {}, state: {}", word("name"), word("state"))
    });
    let page = format!(
        "Basics\n\nCluster name: {cluster}\n\nDisk Nodes\n\n{name}\n\nRunning Nodes\n\n{name}\n\nVersions\n\n\
         {name}: RabbitMQ {version} (Mainstem)\n\nMaintenance status\n\nNode: {name}, status: not under \
         maintenance\n\nAlarms\n\n{}\n\nNetwork Partitions\n\n(none)\n\nListeners\n\n{}\n\nFeature flags\n\n{}\n",
        lines(&alarms),
        lines(&listeners(&overview, &format!("Node: {name}, "))),
        lines(&state.collect::<Vec<_>>()),
    );
    let report = json!({
        "alarms": alarms,
        "cluster_name": cluster,
        "disk_nodes": [name],
        "feature_flags": flags,
        "listeners": { name.clone(): overview["listeners"] },
        "maintenance_status": { name.clone(): "not under maintenance" },
        "partitions": {},
        "ram_nodes": [],
        "running_nodes": [name],
        "versions": { name.clone(): { "rabbitmq_name": "RabbitMQ", "rabbitmq_version": version } },
    });
    Ok(Output::Report(page, report))
}

/// The server as a whole, and its node.
fn look(session: &Session) -> Result<(Json, Json), Failure> {
    let overview = session.must(Method::GET, "/api/overview", None)?;
    let mut nodes = session.list("/api/nodes")?;
    let node = nodes.pop().ok_or_else(|| Failure::new(SOFTWARE, "the server tells of no node"))?;
    Ok((overview, node))
}

fn alarms(node: &Json) -> Vec<String> {
    let alarms = [("mem_alarm", "Memory alarm"), ("disk_free_alarm", "Free disk space alarm")];
    let some = alarms.iter().filter(|(field, _)| node[*field] == true);
    some.map(|(_, words)| format!("{words} on node {}", node["name"])).collect()
}

fn listeners(overview: &Json, before: &str) -> Vec<String> {
    let all = overview["listeners"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |one: &Json| {
        let word = |field: &str| one[field].as_str().unwrap_or_default();
        let (ip, protocol) = (word("ip_address"), word("protocol"));
        let (interface, between) = match before {
            "" => ("Interface", ""),
            before => ("interface", before),
        };
        let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        format!("{between}{interface}: {ip}, port: {}, protocol: {protocol}", one["port"])
    };
    all.iter().map(line).collect()
}

fn gigabytes(bytes: &Json) -> String {
    format!("{:.4} gb", bytes.as_f64().unwrap_or_default() / 1e9)
}
