//! Mainstem as `make run` starts it, with the default durability, on other ports.

use std::{fs, path::Path, process::Command};

use super::{Ports, Process, spawn};
use crate::load::Result;

pub(super) fn start(program: &Path, data: &Path, ports: Ports) -> Result<Vec<Process>> {
    let config = data.join("mainstem.toml");
    fs::write(&config, settings(data, ports))?;
    let mut mainstem = Command::new(program);
    mainstem.arg("serve").arg("--config").arg(config);
    Ok(vec![spawn(mainstem, data)?])
}

fn settings(data: &Path, ports: Ports) -> String {
    format!(
        "data_dir = \"{}\"\n\
         [listeners.amqp]\nbind = \"127.0.0.1:{}\"\n\
         [listeners.mqtt]\nbind = \"127.0.0.1:{}\"\n\
         [listeners.rocketmq]\nbind = \"127.0.0.1:{}\"\n\
         [listeners.http]\nbind = \"127.0.0.1:{}\"\n\
         [listeners.metrics]\nbind = \"\"\n",
        data.join("data").display(),
        ports.amqp,
        ports.mqtt,
        ports.grpc,
        ports.other
    )
}
