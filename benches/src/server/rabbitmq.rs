//! RabbitMQ as Debian packages it, with its own node name, port mapper and data folder.

use std::{fs, io::Write, path::Path, process::Command};

use super::{Ports, Process, first_line, free, spawn, wait_until_it_accepts};
use crate::load::Result;

/// The script behind /usr/sbin/rabbitmq-server, without its change of user.
const SCRIPT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

pub(super) fn missing() -> Option<String> {
    let remedy = "RabbitMQ is not installed: apt-get install rabbitmq-server, and stop what the \
                  package starts (systemctl disable --now rabbitmq-server)";
    (!Path::new(SCRIPT).exists()).then(|| remedy.to_owned())
}

pub(super) fn version() -> String {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f=${Version}", "rabbitmq-server"]);
    format!("RabbitMQ {}", first_line(&mut query))
}

pub(super) fn start(data: &Path, ports: Ports) -> Result<Vec<Process>> {
    let mapper_port = free()?;
    let mapper = mapper_port.to_string();
    // Started here rather than by the node, which would leave it running behind it.
    let mut epmd = Command::new("epmd");
    epmd.args(["-port", &mapper, "-address", "127.0.0.1"]);
    let epmd = spawn(epmd, data)?;
    wait_until_it_accepts(mapper_port)?;

    let config = data.join("rabbitmq.conf");
    writeln!(
        fs::File::create(&config)?,
        "listeners.tcp.1 = 127.0.0.1:{}\nloopback_users = none",
        ports.amqp
    )?;
    fs::write(data.join("enabled_plugins"), "[].\n")?;
    fs::write(data.join("env.conf"), "")?;
    let mut node = Command::new(SCRIPT);
    node.env("HOME", data)
        .env("RABBITMQ_NODENAME", format!("bench{}@localhost", ports.amqp))
        .env("RABBITMQ_MNESIA_BASE", data.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", data.join("log"))
        .env("RABBITMQ_CONFIG_FILE", config)
        .env("RABBITMQ_CONF_ENV_FILE", data.join("env.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", data.join("enabled_plugins"))
        .env("RABBITMQ_PID_FILE", data.join("pid"))
        .env("RABBITMQ_DIST_PORT", ports.other.to_string())
        .env("ERL_EPMD_PORT", mapper)
        .env("ERL_EPMD_ADDRESS", "127.0.0.1");
    Ok(vec![epmd, spawn(node, data)?])
}
