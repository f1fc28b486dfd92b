//! The program behind `make bench` and `make bench-store`.
#![expect(clippy::print_stdout, reason = "a program whose output is its product")]

use std::{env, path::PathBuf, process::ExitCode};

#[cfg(feature = "rumqttd")]
use mainstem_benches::rumqttd;
use mainstem_benches::{
    compare::{self, Plan},
    load::Result,
    null, scale, store,
};

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
mainstem-benches
    as compare --out benches/RESULTS.md
mainstem-benches compare [--out FILE] [--seconds N] [--rounds N] [--only WORD] [--mainstem PROGRAM]
    starts every server itself and measures all of them; WORD selects scenarios by their name
mainstem-benches run SCENARIO PORT PID [SECONDS]
    one run against a server that is up, e.g. under a profiler; SCENARIO as compare names them
mainstem-benches scale [--out FILE] [--sessions N] [--sharing N] [--idle N] [--mainstem PROGRAM]
    very many MQTT clients, connected and away
mainstem-benches store [--out FILE] [--only WORD] [--quick] [--data FOLDER]
    the store by itself, beside the limits of the machine
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match act(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("mainstem-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *words.as_slice() {
        [] => compare::run(&Plan::parse(&["--out", "benches/RESULTS.md"])?),
        ["compare", ref options @ ..] => compare::run(&Plan::parse(options)?),
        ["run", scenario, port, pid] => compare::one(scenario, port, pid, "5"),
        ["run", scenario, port, pid, seconds] => compare::one(scenario, port, pid, seconds),
        ["store", ref options @ ..] => store::run(&store::Plan::parse(options)?),
        ["scale", ref options @ ..] => scale::run(&scale::Plan::parse(options)?),
        ["store-child", data] => store::serve(&PathBuf::from(data)),
        ["null", amqp, mqtt, data] => {
            null::serve(amqp.parse()?, mqtt.parse()?, &PathBuf::from(data))
        }
        #[cfg(feature = "rumqttd")]
        ["rumqttd", _, mqtt, _] => rumqttd::serve(mqtt.parse()?),
        _ => Err(USAGE.into()),
    }
}
