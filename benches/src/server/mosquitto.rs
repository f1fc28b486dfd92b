//! Mosquitto as Debian packages it, without limits on what is queued or on its way.

use std::{fs, path::Path, process::Command};

use super::{Ports, Process, first_line, spawn};
use crate::load::Result;

const PROGRAM: &str = "/usr/sbin/mosquitto";

pub(super) fn missing() -> Option<String> {
    let remedy = "Mosquitto is not installed: apt-get install mosquitto, and stop what the \
                  package starts (systemctl disable --now mosquitto)";
    (!Path::new(PROGRAM).exists()).then(|| remedy.to_owned())
}

pub(super) fn version() -> String {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f=${Version}", "mosquitto"]);
    format!("Mosquitto {}", first_line(&mut query))
}

pub(super) fn start(data: &Path, ports: Ports) -> Result<Vec<Process>> {
    let config = data.join("mosquitto.conf");
    fs::write(
        &config,
        format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n\
             max_queued_messages 0\nmax_inflight_messages 0\npersistence true\n\
             persistence_location {}/\nuser root\n",
            ports.mqtt,
            data.display()
        ),
    )?;
    let mut mosquitto = Command::new(PROGRAM);
    mosquitto.arg("-c").arg(config);
    Ok(vec![spawn(mosquitto, data)?])
}
