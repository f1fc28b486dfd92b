//! The dashboard and the alert rules in `deploy/` name only what the server tells.

use std::{
    env,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use mainstem_tests::{Amqp, Deadline, Server, http, untried};
use serde_json::Value as Json;

const DASHBOARD: &str = include_str!("../../deploy/grafana/mainstem.json");
const ALERTS: &str = include_str!("../../deploy/prometheus/alerts.yml");

/// Names of metrics of ours, or of the process, in an expression.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("mainstem_") || word.starts_with("process_"))
}

/// All texts under a key, at any depth.
fn gather<'a>(json: &'a Json, key: &str, out: &mut Vec<&'a str>) {
    match json {
        Json::Object(fields) => {
            for (name, value) in fields {
                out.extend(value.as_str().filter(|_| name == key));
                gather(value, key, out);
            }
        }
        Json::Array(all) => all.iter().for_each(|one| gather(one, key, out)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_that_a_dashboard_or_an_alert_names_is_there() {
    let dashboard: Json = serde_json::from_str(DASHBOARD).unwrap();
    let mut expressions = Vec::new();
    gather(&dashboard, "expr", &mut expressions);
    let alerts = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    expressions.extend(alerts);
    assert!(expressions.len() > 40, "{}", expressions.len());
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids: Vec<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    ids.dedup();
    assert_eq!(ids.len(), panels.len(), "a panel's id is there twice");
    let server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    amqp.queue("q", None).await;
    amqp.publish("", "q", b"x").await;
    assert!(amqp.take("q").await.is_some());
    let deadline = Deadline::seconds(20);
    loop {
        let page = http::get(server.ports().metrics, "/metrics").body;
        let is_there = |name: &str| {
            let mut lines = page.lines().filter_map(|line| line.strip_prefix(name));
            lines.any(|rest| rest.starts_with([' ', '{']))
        };
        let missing: Vec<_> = expressions
            .iter()
            .flat_map(|expression| names(expression))
            .filter(|name| !is_there(name))
            .collect();
        if missing.is_empty() {
            return check_with_promtool(&page);
        }
        assert!(!deadline.passed(), "not told: {missing:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// What Prometheus itself says to them, where its tool is.
fn check_with_promtool(page: &str) {
    let tool = env::var_os("MAINSTEM_PROMTOOL").unwrap_or_else(|| "promtool".into());
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus/prometheus.yml");
    let mut config = Command::new(&tool);
    config.args(["check", "config"]).arg(deploy);
    let Ok(checked) = config.output() else {
        return untried::say(
            "not tried on this machine: alert rules, without promtool (Debian: prometheus)",
        );
    };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let mut metrics = Command::new(&tool);
    metrics.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut metrics = metrics.spawn().unwrap();
    metrics.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let said = metrics.wait_with_output().unwrap();
    // With 3 it says what it would name otherwise.
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(matches!(said.status.code(), Some(0 | 3)), "{text}");
}
