//! A server under measurement: its own ports, its own data folder, ended by its process id.

mod mainstem;
mod mosquitto;
mod rabbitmq;

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    clock::{now_nanos, since},
    load::Result,
    process::Pid,
};

const START_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Mainstem,
    RabbitMq,
    Mosquitto,
    #[cfg(feature = "rumqttd")]
    Rumqttd,
    NullSync,
}

/// Where the runner finds and puts things.
pub struct Places {
    pub data: PathBuf,
    pub mainstem: PathBuf,
}

#[derive(Clone, Copy, Default)]
pub struct Ports {
    pub amqp: u16,
    pub mqtt: u16,
    pub grpc: u16,
    /// HTTP of Mainstem; distribution of RabbitMQ.
    pub other: u16,
}

/// Killed when dropped: whatever it keeps belongs to the run and goes with it.
pub struct Server {
    pub kind: Kind,
    pub ports: Ports,
    /// The process that serves, which may be a descendant of what was started.
    pub pid: Pid,
    /// Its folder: what it keeps, and what it says.
    pub data: PathBuf,
    processes: Vec<Process>,
}

struct Process(Child);

impl Kind {
    /// What is missing, with the remedy; `None` when the server can be started.
    pub fn missing(self, places: &Places) -> Option<String> {
        match self {
            Self::Mainstem if !places.mainstem.exists() => Some(format!(
                "{} is not there: cargo build --release -p mainstem",
                places.mainstem.display()
            )),
            Self::RabbitMq => rabbitmq::missing(),
            Self::Mosquitto => mosquitto::missing(),
            #[cfg(feature = "rumqttd")]
            Self::Rumqttd => None,
            Self::Mainstem | Self::NullSync => None,
        }
    }

    pub fn version(self) -> String {
        match self {
            Self::Mainstem => "Mainstem".into(),
            Self::RabbitMq => rabbitmq::version(),
            Self::Mosquitto => mosquitto::version(),
            #[cfg(feature = "rumqttd")]
            Self::Rumqttd => "rumqttd 0.20".into(),
            Self::NullSync => "null+sync".into(),
        }
    }

    fn serving(self, processes: &[Process]) -> Result<Pid> {
        let started = processes.last().ok_or("nothing was started")?;
        let started = Pid(started.0.id());
        if self != Self::RabbitMq {
            return Ok(started);
        }
        let found = started.descendant("beam.smp");
        found.ok_or_else(|| "no beam.smp below the script that was started".into())
    }

    pub fn start(self, places: &Places) -> Result<Server> {
        let ports = Ports { amqp: free()?, mqtt: free()?, grpc: free()?, other: free()? };
        let data = places.data.join(format!("{self:?}-{}", ports.amqp));
        fs::create_dir_all(&data)?;
        let data = data.canonicalize()?;
        let processes = match self {
            Self::Mainstem => mainstem::start(&places.mainstem, &data, ports)?,
            Self::RabbitMq => rabbitmq::start(&data, ports)?,
            Self::Mosquitto => mosquitto::start(&data, ports)?,
            #[cfg(feature = "rumqttd")]
            Self::Rumqttd => own("rumqttd", &data, ports)?,
            Self::NullSync => own("null", &data, ports)?,
        };
        let port = match self {
            Self::Mainstem | Self::RabbitMq | Self::NullSync => ports.amqp,
            Self::Mosquitto => ports.mqtt,
            #[cfg(feature = "rumqttd")]
            Self::Rumqttd => ports.mqtt,
        };
        let found = wait_until_it_accepts(port).and_then(|()| self.serving(&processes));
        let pid = found.map_err(|error| format!("{self:?}: {error}\n{}", output(&data)))?;
        Ok(Server { kind: self, ports, pid, data, processes })
    }
}

impl Server {
    /// As `kill -9` does, and leaves what it kept.
    pub fn kill(&mut self) -> Result<()> {
        Command::new("kill").args(["-KILL", &self.pid.0.to_string()]).status()?;
        self.processes.clear();
        Ok(())
    }

    /// Mainstem again, on what it kept.
    pub fn start_again(&mut self, places: &Places) -> Result<()> {
        self.processes = mainstem::start(&places.mainstem, &self.data, self.ports)?;
        wait_until_it_accepts(self.ports.mqtt)?;
        self.pid = self.kind.serving(&self.processes)?;
        Ok(())
    }
}

/// This program itself in another role.
fn own(role: &str, data: &Path, ports: Ports) -> Result<Vec<Process>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role).arg(ports.amqp.to_string()).arg(ports.mqtt.to_string()).arg(data);
    Ok(vec![spawn(command, data)?])
}

fn free() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn spawn(mut command: Command, data: &Path) -> io::Result<Process> {
    let output = File::options().create(true).append(true).open(data.join("output.log"))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    command.spawn().map(Process)
}

fn wait_until_it_accepts(port: u16) -> Result<()> {
    let start = now_nanos();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if since(start, now_nanos()) > START_MAX {
            let waited = START_MAX.as_secs();
            return Err(format!("does not accept on port {port} after {waited} s").into());
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// What a server that did not start had to say.
fn output(data: &Path) -> String {
    fs::read_to_string(data.join("output.log")).unwrap_or_default()
}

/// The program's first line of output that is not empty, or why there is none.
fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.stdin(Stdio::null()).output() else { return "unknown".into() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown").to_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        // The serving process may not be a child of ours, so its children do not end with it.
        let _ = Command::new("kill").args(["-KILL", &self.pid.0.to_string()]).status();
        self.processes.clear();
        let _ = fs::remove_dir_all(&self.data);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
