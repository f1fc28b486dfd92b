//! The runner: for every scenario all its servers are up with fresh data, and take turns.

use std::{collections::BTreeSet, env, fs, path::PathBuf, thread, time::Duration};

use crate::{
    clock::{now_nanos, since},
    load::{Load, Measured, Result},
    process::Pid,
    report::{self, Findings},
    scenario::{ALL, Contender, Scenario},
    server::{Kind, Places, Server},
};

const WARM_UP: Duration = Duration::from_secs(1);
/// Between two runs, so that the one before pays for its own clearing up.
const PAUSE: Duration = Duration::from_millis(300);

pub struct Plan {
    out: Option<PathBuf>,
    duration: Duration,
    rounds: usize,
    only: String,
    places: Places,
}

impl Plan {
    pub fn parse(options: &[&str]) -> Result<Self> {
        let beside = env::current_exe()?;
        let beside = beside.parent().ok_or("the program has no folder")?;
        let mut plan = Self {
            out: None,
            duration: Duration::from_secs(4),
            rounds: 3,
            only: String::new(),
            places: Places {
                // Beside the program rather than in /tmp, which may be memory: syncs are free there.
                data: beside.join(format!("bench-data-{}", std::process::id())),
                mainstem: beside.join("mainstem"),
            },
        };
        for option in options.chunks(2) {
            match *option {
                ["--out", file] => plan.out = Some(PathBuf::from(file)),
                ["--seconds", seconds] => plan.duration = Duration::from_secs(seconds.parse()?),
                ["--rounds", rounds] => plan.rounds = rounds.parse()?,
                ["--only", word] => word.clone_into(&mut plan.only),
                ["--mainstem", program] => plan.places.mainstem = PathBuf::from(program),
                _ => return Err(format!("unknown option {option:?}").into()),
            }
        }
        Ok(plan)
    }
}

/// All scenarios, or those the plan selects; the report goes to the terminal and to a file.
pub fn run(plan: &Plan) -> Result<()> {
    fs::create_dir_all(&plan.places.data)?;
    let start = now_nanos();
    let findings = measure_all(plan);
    fs::remove_dir_all(&plan.places.data)?;
    let findings = findings?;
    let text = report::render(&findings, since(start, now_nanos()));
    println!("\n{text}");
    if let Some(out) = &plan.out {
        fs::write(out, &text)?;
    }
    Ok(())
}

fn measure_all(plan: &Plan) -> Result<Findings> {
    let selected: Vec<_> = ALL.iter().filter(|each| each.name.contains(&plan.only)).collect();
    let mut findings = Findings::new(plan.duration, plan.rounds, &plan.places.data)?;
    let mut kinds: Vec<Kind> = Vec::new();
    for kind in selected.iter().flat_map(|scenario| scenario.contenders).map(|each| each.kind) {
        if kinds.contains(&kind) {
            continue;
        }
        kinds.push(kind);
        match kind.missing(&plan.places) {
            Some(remedy) => {
                println!("not measured: {remedy}");
                findings.missing.push(remedy);
            }
            None => findings.versions.push(kind.version()),
        }
    }
    for scenario in selected {
        println!("\n{}: {}", scenario.name, scenario.what);
        let runs = measure(scenario, plan, &mut findings.failures)?;
        findings.scenarios.push((scenario, runs));
    }
    Ok(findings)
}

/// The measured runs of each contender, in the order of the scenario.
fn measure(
    scenario: &Scenario,
    plan: &Plan,
    failures: &mut BTreeSet<String>,
) -> Result<Vec<(&'static Contender, Vec<Measured>)>> {
    let mut servers: Vec<Server> = Vec::new();
    let mut runs: Vec<(&'static Contender, Vec<Measured>)> = Vec::new();
    for contender in scenario.contenders {
        let kind = contender.kind;
        if kind.missing(&plan.places).is_some() {
            continue;
        }
        if !servers.iter().any(|server| server.kind == kind) {
            servers.push(kind.start(&plan.places)?);
        }
        runs.push((contender, Vec::new()));
    }
    let (warm_ups, rounds) = if scenario.once { (0, 1) } else { (1, plan.rounds) };
    for round in 0..warm_ups + rounds {
        let is_warm_up = round < warm_ups;
        for (contender, measured) in &mut runs {
            let Some(server) = servers.iter().find(|server| server.kind == contender.kind) else {
                continue;
            };
            let load = Load {
                port: (scenario.port)(&server.ports),
                pid: server.pid,
                duration: if is_warm_up { WARM_UP } else { plan.duration },
                run: u32::try_from(now_nanos() % 1_000_000_007)?,
                queue_type: contender.queue_type,
            };
            match (scenario.run)(load) {
                Ok(run) if !is_warm_up => {
                    println!("{}", report::line(contender.name, &run));
                    measured.push(run);
                }
                Ok(_) => {}
                Err(error) => {
                    let failure = format!("{}, {}: {error}", scenario.name, contender.name);
                    println!("failed: {failure}");
                    failures.insert(failure);
                }
            }
            thread::sleep(PAUSE);
        }
    }
    Ok(runs)
}

/// One run against a server that somebody else started.
pub fn one(scenario: &str, port: &str, pid: &str, seconds: &str) -> Result<()> {
    let found = ALL.iter().find(|each| each.name == scenario);
    let names: Vec<_> = ALL.iter().map(|each| each.name).collect();
    let found = found.ok_or_else(|| format!("no scenario {scenario}; there are {names:?}"))?;
    let run = (found.run)(Load {
        port: port.parse()?,
        pid: Pid(pid.parse()?),
        duration: Duration::from_secs(seconds.parse()?),
        run: std::process::id(),
        queue_type: None,
    })?;
    println!("{}", report::line("server", &run));
    Ok(())
}
