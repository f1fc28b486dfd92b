//! The program `mainstem`.

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
    time::Instant,
};

use mainstem::{
    Config, Server,
    command_line::{Command, CommandLine, HELP},
    logging,
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
        Command::Log(log) => match line.data_dir(log) {
            Ok(data) => return ExitCode::from(log.run(&data, &mut BufWriter::new(io::stdout()))),
            Err(error) => return fail(EX_CONFIG, &error),
        },
        Command::Serve => match line.load() {
            Ok(config) => return run(config, started),
            Err(error) => return fail(EX_CONFIG, &error),
        },
    }
    ExitCode::SUCCESS
}

fn run(config: Config, started: Instant) -> ExitCode {
    if let Err(error) = logging::start(&config.log) {
        return fail(EX_CONFIG, &error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(EX_OSERR, &error),
    };
    runtime.block_on(serve(config, started))
}

async fn serve(config: Config, started: Instant) -> ExitCode {
    let (terminate, interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
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
    let mut signals = Signals { terminate, interrupt };
    tokio::select! {
        // Whichever comes first decides how the process ends; the other no longer matters.
        () = signals.next() => {}
        reason = server.broker().failed() => return fail(EX_IOERR, &reason),
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
    /// Waits for one of them. Cancel-safe.
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
