//! Very many MQTT clients: what those cost that are there and say nothing, and those that are away.

use std::{
    env,
    fmt::Write as _,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use mainstem_broker::{
    describe::Field,
    survey::{self, Seen},
};
use mainstem_schemas::Position;

use crate::{
    clock::{now_nanos, since},
    figure::{Figure, HEAD, millis, seconds, volume},
    load::{Result, refused},
    mqtt::{
        connection::Connection,
        packet::{Qos, Session},
    },
    report::Setting,
    server::{Kind, Places},
};

/// Threads that connect: enough for group commits to be full.
const HANDS: u64 = 64;
/// Sessions that are asked what they have, of very many.
const ASKED: u64 = 100;
const KIB_EACH_MAX: u64 = 8;
const RESIDENT_MIB_MAX: u64 = 1536;
const RESTART_MAX: Duration = Duration::from_secs(10);
/// Descriptors that a process needs besides those of its clients.
const OTHER_FILES: u64 = 300;
/// What the server still does of itself once nobody asks it anything.
const SETTLE: Duration = Duration::from_secs(3);

pub struct Plan {
    out: Option<PathBuf>,
    sessions: u64,
    sharing: u64,
    idle: u64,
    places: Places,
}

impl Plan {
    pub fn parse(options: &[&str]) -> Result<Self> {
        let program = env::current_exe()?;
        let beside = program.parent().ok_or("the program has no folder")?;
        let mut plan = Self {
            out: None,
            sessions: 1_000_000,
            sharing: 100_000,
            idle: 20_000,
            places: Places {
                data: beside.join(format!("scale-data-{}", std::process::id())),
                mainstem: beside.join("mainstem"),
            },
        };
        for option in options.chunks(2) {
            match *option {
                ["--out", file] => plan.out = Some(PathBuf::from(file)),
                ["--sessions", count] => plan.sessions = count.parse()?,
                ["--sharing", count] => plan.sharing = count.parse()?,
                ["--idle", count] => plan.idle = count.parse()?,
                ["--mainstem", program] => plan.places.mainstem = PathBuf::from(program),
                _ => return Err(format!("unknown option {option:?}").into()),
            }
        }
        Ok(plan)
    }
}

/// Measures, and writes what it found to the terminal and to a file.
pub fn run(plan: &Plan) -> Result<()> {
    fs::create_dir_all(&plan.places.data)?;
    let measured = measure(plan);
    fs::remove_dir_all(&plan.places.data)?;
    let text = measured?;
    println!("\n{text}");
    if let Some(out) = &plan.out {
        fs::write(out, &text)?;
    }
    Ok(())
}

fn measure(plan: &Plan) -> Result<String> {
    let mut text =
        "# Very many MQTT clients\n\nWritten by `make bench-scale`; not edited by hand.\n\n"
            .to_owned();
    text.push_str(&Setting::look(&plan.places.data)?.lines());
    write!(text, "\n{HEAD}\n")?;
    for scenario in [idle, sleeping, sharing] {
        for figure in scenario(plan)? {
            println!("{}", figure.line());
            writeln!(text, "{}", figure.row())?;
        }
    }
    text.push_str(NOTES);
    Ok(text)
}

const NOTES: &str = "
Memory is the server's resident size, with the store's default settings. A restart is timed from the
start of the process until it greets a client, with the operating system's cache as it is.
";

/// Connections that were made and say nothing.
fn idle(plan: &Plan) -> Result<Vec<Figure>> {
    let server = Kind::Mainstem.start(&plan.places)?;
    let limit = files_max()?.saturating_sub(OTHER_FILES);
    let count = plan.idle.min(limit);
    let before = server.pid.resident_kib()?;
    let port = server.ports.mqtt;
    let mut open = Vec::new();
    for number in 0..count {
        open.push(Connection::open(port, &format!("idle-{number}"), Session::Clean)?);
    }
    thread::sleep(SETTLE);
    let after = server.pid.resident_kib()?;
    let each = after.saturating_sub(before) as f64 * 1024.0 / count as f64;
    let what = match count < plan.idle {
        true => {
            format!("{count} idle connections (a process may have {} files here)", files_max()?)
        }
        false => format!("{count} idle connections"),
    };
    Ok(vec![
        Figure::new(what, format!("{} of memory each", volume(each)))
            .bar(format!("at most {KIB_EACH_MAX} KiB"), each <= (KIB_EACH_MAX << 10) as f64),
    ])
}

/// Sessions of clients that are away, each with a filter of its own.
fn sleeping(plan: &Plan) -> Result<Vec<Figure>> {
    let mut server = Kind::Mainstem.start(&plan.places)?;
    let count = plan.sessions;
    let name = |number: u64| format!("device-{number}");
    let filter = |number: u64| format!("fleet/{}/{number}/command", number % 1000);
    let start = now_nanos();
    each(count, &|number| {
        let mut device = Connection::open(server.ports.mqtt, &name(number), Session::Persistent)?;
        device.subscribe(&filter(number), Qos::AtLeastOnce)?;
        device.close()
    })?;
    let took = since(start, now_nanos());
    thread::sleep(SETTLE);
    let (resident, peak) = (server.pid.resident_mib()?, server.pid.peak_mib()?);
    server.kill()?;
    let start = now_nanos();
    server.start_again(&plan.places)?;
    let mut publisher = Connection::open(server.ports.mqtt, "office", Session::Clean)?;
    let restart = since(start, now_nanos());
    thread::sleep(SETTLE);
    let again = server.pid.resident_mib()?;
    let step = (count / ASKED).max(1);
    for number in (0..count).step_by(usize::try_from(step)?) {
        publisher.publish(&filter(number), number.to_string().as_bytes())?;
        let mut device = Connection::resume(server.ports.mqtt, &name(number))?;
        let got = device.receive()?;
        if got != number.to_string().as_bytes() {
            return Err(refused("a session got what is not its own").into());
        }
        device.close()?;
    }
    Ok(vec![
        Figure::new(
            format!("{count} sleeping sessions with a filter each, made in {}", seconds(took)),
            format!("{resident} MiB (peak {peak}, after a restart {again})"),
        )
        .bar(format!("under {RESIDENT_MIB_MAX} MiB"), resident.max(again) < RESIDENT_MIB_MAX),
        Figure::new(
            format!(
                "kill -9, then serving after; {} of them then got what is theirs",
                count / step
            ),
            seconds(restart),
        )
        .bar(format!("under {}", seconds(RESTART_MAX)), restart < RESTART_MAX),
    ])
}

/// Sessions of clients that are away, all with one filter.
fn sharing(plan: &Plan) -> Result<Vec<Figure>> {
    let server = Kind::Mainstem.start(&plan.places)?;
    let (port, count) = (server.ports.mqtt, plan.sharing);
    let name = |number: u64| format!("reader-{number}");
    each(count, &|number| {
        let mut reader = Connection::open(port, &name(number), Session::Persistent)?;
        reader.subscribe("news/#", Qos::AtLeastOnce)?;
        reader.close()
    })?;
    let mut publisher = Connection::open(port, "office", Session::Clean)?;
    publisher.publish("news/first", b"first")?;
    let start = now_nanos();
    publisher.publish("news/today", &[b'x'; 1024])?;
    let took = since(start, now_nanos());
    for number in (0..count).step_by(usize::try_from((count / ASKED).max(1))?) {
        let mut reader = Connection::resume(port, &name(number))?;
        let both = (reader.receive()?, reader.receive()?);
        if both.0 != b"first" || both.1 != [b'x'; 1024] {
            return Err(refused("a session did not get both messages").into());
        }
        reader.close()?;
    }
    let (bytes, places) = last_publish(&server.data)?;
    Ok(vec![
        Figure::new(
            format!("one publish of 1 KiB for {count} sleeping sessions of one filter"),
            format!(
                "{} of log and {places} index entries, acknowledged after {}",
                volume(bytes as f64),
                millis(took)
            ),
        )
        .bar("one of each", places == 1),
    ])
}

/// What the log has of the newest publish: its size, and in how many queues it was placed.
fn last_publish(data: &Path) -> Result<(u64, usize)> {
    let mut found = Ok((0, 0));
    let mut look = |seen: Seen<'_>| {
        if seen.kind() == "publish" {
            found = seen.describe().map(|said| (seen.size(), said.fields.iter().map(places).sum()));
        }
        ControlFlow::Continue(())
    };
    survey::walk(&data.join("data"), Position(0), &mut look, &mut |_| ())?;
    Ok(found?)
}

fn places((_, field): &(&str, Field)) -> usize {
    if let Field::Places(places) = field { places.len() } else { 0 }
}

/// Does it for each number below `count`, with many hands.
fn each(count: u64, job: &(dyn Fn(u64) -> std::io::Result<()> + Sync)) -> Result<()> {
    thread::scope(|scope| {
        let hands: Vec<_> = (0..HANDS)
            .map(|hand| {
                scope.spawn(move || {
                    (hand..count).step_by(usize::try_from(HANDS).unwrap_or(1)).try_for_each(job)
                })
            })
            .collect();
        for hand in hands {
            hand.join().map_err(|_| "a thread ended badly")??;
        }
        Ok(())
    })
}

/// How many files a process may have open.
fn files_max() -> Result<u64> {
    let said = Command::new("sh").args(["-c", "ulimit -n"]).output()?.stdout;
    Ok(String::from_utf8_lossy(&said).trim().parse().unwrap_or(u64::MAX))
}
