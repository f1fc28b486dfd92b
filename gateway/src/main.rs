//! The program `mainstem`.

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
    time::Instant,
};

use mainstem::{
    Config, Server,
    command_line::{Command, CommandLine, HELP},
    completions,
    config::{Layer, Sources, explain},
    doctor, logging,
    messages::{self, Direction},
    rabbitmqctl,
    reload::Reload,
    top,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Records are made on one thread and freed on another, which the system's allocator makes dear.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `sysexits.h`: wrong arguments, a failure of the operating system, a failure of the disk, a
/// wrong configuration.
const EX_USAGE: u8 = 64;
const EX_OSERR: u8 = 71;
const EX_IOERR: u8 = 74;
const EX_CONFIG: u8 = 78;

fn main() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "how long starting took is told once, here")]
    let started = Instant::now();
    let mut arguments: Vec<String> = std::env::args().collect();
    let program = arguments.first().and_then(|path| path.rsplit('/').next());
    if program.is_some_and(|name| rabbitmqctl::NAMES.contains(&name)) {
        return ExitCode::from(rabbitmqctl::run(arguments.split_off(1)));
    }
    match arguments.get(1).map(String::as_str) {
        Some("rabbitmqctl") => return ExitCode::from(rabbitmqctl::run(arguments.split_off(2))),
        Some("pub") => return by_hand(Direction::Out, &arguments.split_off(2)),
        Some("sub") => return by_hand(Direction::In, &arguments.split_off(2)),
        Some(_) | None => {}
    }
    let line = match CommandLine::parse(std::env::args().skip(1)) {
        Ok(line) => line,
        Err(error) => return fail(EX_USAGE, &error),
    };
    match &line.command {
        Command::Help => say(HELP.trim_end()),
        Command::Version => say(concat!("mainstem ", env!("CARGO_PKG_VERSION"))),
        Command::CheckConfig => match line.load() {
            Ok(_) => say("the configuration is right"),
            Err(error) => return fail(EX_CONFIG, &error),
        },
        Command::Explain => {
            match line.sources.layers().and_then(|layers| explain::lines(&layers)) {
                Ok(lines) => say(&lines.join("\n")),
                Err(error) => return fail(EX_CONFIG, &error),
            }
        }
        Command::Doctor => match line.load() {
            Ok(config) => return ExitCode::from(doctor::run(&config, &mut io::stdout())),
            Err(error) => return fail(EX_CONFIG, &error),
        },
        Command::Top { is_once } => match line.load() {
            Ok(config) => return ExitCode::from(top::run(&config, *is_once, &mut io::stdout())),
            Err(error) => return fail(EX_CONFIG, &error),
        },
        Command::Completions(shell) => {
            say(completions::script(shell).unwrap_or_default().trim_end());
        }
        Command::Log(log) => match line.data_dir(log) {
            Ok(data) => return ExitCode::from(log.run(&data, &mut BufWriter::new(io::stdout()))),
            Err(error) => return fail(EX_CONFIG, &error),
        },
        Command::Serve => match line.sources.layers() {
            Ok(layers) => return run(line.sources, layers, started),
            Err(error) => return fail(EX_CONFIG, &error),
        },
    }
    ExitCode::SUCCESS
}

/// Messages out or in.
fn by_hand(direction: Direction, arguments: &[String]) -> ExitCode {
    let options = match messages::Options::parse(direction, arguments) {
        Ok(Some(options)) => options,
        Ok(None) => {
            say(messages::HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(EX_USAGE, &error),
    };
    match options.sources.layers().and_then(|layers| Config::load(&layers)) {
        Ok(config) => ExitCode::from(messages::run(&options, &config, &mut io::stdout())),
        Err(error) => fail(EX_CONFIG, &error),
    }
}

fn run(sources: Sources, layers: Vec<Layer>, started: Instant) -> ExitCode {
    let config = match Config::load(&layers) {
        Ok(config) => config,
        Err(error) => return fail(EX_CONFIG, &error),
    };
    if let Err(error) = logging::start(&config.log) {
        return fail(EX_CONFIG, &error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(EX_OSERR, &error),
    };
    runtime.block_on(serve(config, Reload::new(sources, layers), started))
}

async fn serve(config: Config, reload: Reload, started: Instant) -> ExitCode {
    let (mut signals, mut hangup) = match (Signals::new(), signal(SignalKind::hangup())) {
        (Ok(signals), Ok(hangup)) => (signals, hangup),
        (Err(error), _) | (_, Err(error)) => return fail(EX_OSERR, &error),
    };
    let server = match Server::start(config).await {
        Ok(server) => server,
        Err(error) => return fail(error.exit_code(), &error),
    };
    for (protocol, address) in server.addresses() {
        say(&format!("{:<16} listening on {address}", protocol.label()));
    }
    say(&format!("ready in {} ms", started.elapsed().as_millis()));
    loop {
        tokio::select! {
            // Whichever comes first decides how the process ends; the others no longer matter.
            () = signals.next() => break,
            () = server.asked_to_stop() => break,
            reason = server.broker().failed() => return fail(EX_IOERR, &reason),
            _ = hangup.recv() => reload.again(&server),
        }
    }
    say("stopping: waiting for connections to end (a second signal stops at once)");
    tokio::select! {
        // Both branches end the process, so nothing is lost when one is dropped.
        in_time = server.stop() => {
            say(if in_time { "stopped" } else { "stopped; some connections had to be cut" });
            ExitCode::SUCCESS
        }
        () = signals.next() => ExitCode::FAILURE,
    }
}

/// The signals that ask the process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits until one of them asks for the end. Cancel-safe.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// One line to whoever started the process. A closed output is no reason to stop serving.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _closed = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    let _closed = writeln!(io::stderr(), "mainstem: {error}");
    ExitCode::from(code)
}
