//! The measured runs as text: one line each while they happen, tables of medians at the end.

use std::{
    collections::BTreeSet, env, fmt::Write, fs, path::Path, process::Command, time::Duration,
};

use crate::{
    load::{Measured, Result},
    null,
    scenario::{Bar, Contender, Scenario},
};

const MAINSTEM: &str = "Mainstem";

type Runs = Vec<(&'static Contender, Vec<Measured>)>;

/// Everything a report says.
pub struct Findings {
    pub scenarios: Vec<(&'static Scenario, Runs)>,
    pub versions: Vec<String>,
    pub missing: Vec<String>,
    pub failures: BTreeSet<String>,
    duration: Duration,
    rounds: usize,
    setting: Setting,
}

/// Where and when; the load is that before the first run.
pub struct Setting {
    commit: String,
    date: String,
    machine: String,
    load: String,
    sync: String,
    command: String,
}

impl Findings {
    /// Syncs to `data` are timed first: they tell whether the machine is quiet.
    pub fn new(duration: Duration, rounds: usize, data: &Path) -> Result<Self> {
        Ok(Self {
            scenarios: Vec::new(),
            versions: Vec::new(),
            missing: Vec::new(),
            failures: BTreeSet::new(),
            duration,
            rounds,
            setting: Setting::look(data)?,
        })
    }
}

impl Setting {
    /// Looks around; `data` is where syncs are timed.
    pub fn look(data: &Path) -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpus.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(": ")).map_or("", |(_, model)| model);
        let cores = std::thread::available_parallelism()?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Ok(Self {
            commit: said(Command::new("git").args(["describe", "--always", "--dirty"])),
            date: said(Command::new("date").args(["-u", "+%F %R UTC"])),
            machine: format!(
                "{cores} x {model}, {} GiB, Linux {}",
                memory.unwrap_or(0) >> 20,
                kernel.trim()
            ),
            load: fs::read_to_string("/proc/loadavg")?
                .split(' ')
                .take(2)
                .collect::<Vec<_>>()
                .join(" "),
            sync: null::sync_times(data)?,
            command: match env::args().skip(1).map(|word| here(&word)).collect::<Vec<_>>().join(" ")
            {
                given if given.is_empty() => "make bench".to_owned(),
                given => format!("cargo run --release -p mainstem-benches -- {given}"),
            },
        })
    }
}

impl Setting {
    /// The lines a report begins with.
    #[must_use]
    pub fn lines(&self) -> String {
        let Self { commit, date, machine, load, sync, command } = self;
        format!(
            "- Commit {commit}, {date}\n- Machine: {machine}; load average before the first run \
             {load}, a synced 4 KiB write takes {sync} (p50 / p99)\n- Command: `{command}`\n"
        )
    }
}

/// A word of a command as others can give it: a path of this machine by what follows the folder it
/// was given in, or by its name.
fn here(word: &str) -> String {
    let path = Path::new(word);
    if !path.is_absolute() {
        return word.to_owned();
    }
    let folder = env::current_dir().unwrap_or_default();
    let name = path.file_name().map(Path::new).unwrap_or(path);
    path.strip_prefix(folder).unwrap_or(name).display().to_string()
}

fn said(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

/// One run.
pub fn line(name: &str, run: &Measured) -> String {
    format!(
        "{name:17} {:>9.0} msg/s  confirm p50/p99 {} ms  delivery p50/p99 {} ms  CPU s/M {:.2} \
         (client {:.2})  peak {} MiB",
        run.rate(),
        latencies(&[run], |run| &run.outcome.confirm),
        latencies(&[run], |run| &run.outcome.delivery),
        run.server_cpu_per_million(),
        run.client_cpu_per_million(),
        run.peak_mib,
    )
}

pub fn render(findings: &Findings, took: Duration) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = heading(&mut text, findings, took);
    for (scenario, runs) in &findings.scenarios {
        let _ = table(&mut text, scenario, runs);
        for bar in scenario.bars {
            let _ = verdict(&mut text, bar, runs);
        }
    }
    text.push_str(NOTES);
    text
}

fn heading(text: &mut String, findings: &Findings, took: Duration) -> std::fmt::Result {
    let Findings { setting, versions, missing, failures, duration, rounds, .. } = findings;
    writeln!(text, "# Results\n")?;
    writeln!(text, "Written by `make bench`; not edited by hand.\n")?;
    text.push_str(&setting.lines());
    writeln!(
        text,
        "- Each server: one warm-up, then {rounds} runs of {} s in turns with the others; medians, \
         with the lowest and highest run in brackets. All of it took {} s.",
        duration.as_secs(),
        took.as_secs()
    )?;
    writeln!(text, "- Measured: {}", versions.join(", "))?;
    for remedy in missing {
        writeln!(text, "- Not measured: {remedy}")?;
    }
    for failure in failures {
        writeln!(text, "- **Failed**: {failure}")?;
    }
    Ok(())
}

fn table(text: &mut String, scenario: &Scenario, runs: &Runs) -> std::fmt::Result {
    writeln!(text, "\n## {}\n\n{}.\n", scenario.name, scenario.what)?;
    writeln!(
        text,
        "| server | msg/s | Mainstem is | confirm p50 / p99 ms | delivery p50 / p99 ms | \
         server CPU s per million | client CPU s per million | peak RSS MiB |"
    )?;
    writeln!(text, "| --- | --- | --- | --- | --- | --- | --- | --- |")?;
    let mainstem = of(runs, MAINSTEM);
    for (contender, measured) in runs {
        if measured.is_empty() {
            writeln!(text, "| {} | - | - | - | - | - | - | - |", contender.name)?;
            continue;
        }
        let all: Vec<&Measured> = measured.iter().collect();
        let peaks: Vec<u64> = measured.iter().map(|run| run.peak_mib).collect();
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.2} | {:.2} | {} |",
            contender.name,
            spread(measured),
            factor(median(mainstem, Measured::rate), median(measured, Measured::rate)),
            latencies(&all, |run| &run.outcome.confirm),
            latencies(&all, |run| &run.outcome.delivery),
            median(measured, Measured::server_cpu_per_million).unwrap_or(0.0),
            median(measured, Measured::client_cpu_per_million).unwrap_or(0.0),
            peaks.iter().max().unwrap_or(&0),
        )?;
    }
    Ok(())
}

fn verdict(text: &mut String, bar: &Bar, runs: &Runs) -> std::fmt::Result {
    let (ours, theirs) = (of(runs, MAINSTEM), of(runs, bar.against));
    let (Some(our_rate), Some(their_rate)) =
        (median(ours, Measured::rate), median(theirs, Measured::rate))
    else {
        return writeln!(text, "\nBar against {}: not measured.", bar.against);
    };
    let met = |yes: bool| if yes { "met" } else { "**missed**" };
    let rate = our_rate / their_rate;
    write!(
        text,
        "\nBar: {:.0} x the rate of {}: {rate:.2} x, {}.",
        bar.rate,
        bar.against,
        met(rate >= bar.rate)
    )?;
    if let (Some(limit), Some(our_cpu), Some(their_cpu)) = (
        bar.cpu,
        median(ours, Measured::server_cpu_per_million),
        median(theirs, Measured::server_cpu_per_million),
    ) {
        let cpu = our_cpu / their_cpu;
        write!(
            text,
            " At most {limit:.2} x its CPU per message: {cpu:.3} x, {}.",
            met(cpu <= limit)
        )?;
    }
    writeln!(text)
}

fn of<'a>(runs: &'a Runs, name: &str) -> &'a [Measured] {
    let found = runs.iter().find(|(contender, _)| contender.name == name);
    found.map_or(&[], |(_, measured)| measured)
}

fn median(runs: &[Measured], of: impl Fn(&Measured) -> f64) -> Option<f64> {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn spread(runs: &[Measured]) -> String {
    let rates = || runs.iter().map(Measured::rate);
    let lowest = rates().fold(f64::INFINITY, f64::min);
    let highest = rates().fold(0.0, f64::max);
    let middle = median(runs, Measured::rate).unwrap_or(0.0);
    format!("{middle:.0} ({lowest:.0}-{highest:.0})")
}

fn factor(ours: Option<f64>, theirs: Option<f64>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2} x", ours / theirs),
        _ => "-".to_owned(),
    }
}

/// Percentiles over all runs together; a scenario without such a moment has none.
fn latencies(runs: &[&Measured], of: impl Fn(&Measured) -> &crate::histogram::Histogram) -> String {
    let mut all = crate::histogram::Histogram::default();
    runs.iter().for_each(|run| all.add(of(run)));
    if all.is_empty() {
        return "-".to_owned();
    }
    let ms = |percent| all.percentile(percent).as_secs_f64() * 1e3;
    format!("{:.2} / {:.2}", ms(50), ms(99))
}

const NOTES: &str = "
## Reading it

- Client and servers share the machine; a rate is what both together reach. The client's own cost is beside the server's, and `null+sync` shows what the client reaches when the server does next to nothing.
- Processor time is that of the server's process with all its threads, from `/proc/PID/stat`; peak memory is its highest resident size during a run, from `VmHWM`, reset before each run.
- Latencies are those of a full window, so they say how long the window is in messages rather than how fast one message is. Where a publisher outruns its consumer, the delivery latency is the backlog; the rate counts until the last delivery.
- Mainstem confirms after `fdatasync`, in every scenario with a confirm. It keeps every message in its log.
- RabbitMQ 3.10 syncs too, in batches, both its classic queues (`fsync`) and its quorum queues, here with one member (`fdatasync`).
- Mosquitto acknowledges from memory: `persistence true` saves its database every 30 minutes and when it stops, so `kill -9` loses every message it acknowledged since. With saving on every change it does a few hundred publishes a second.
- rumqttd keeps everything in memory, without a bound at these rates, and nothing on disk.
- null+sync is not a broker: it answers the protocol, appends the bodies of one turn of its loop to one file, syncs it, and confirms. It is the ceiling of what a durable server could do here.
";
