//! The store's own benchmark: what the store promises, beside the machine's limit measured in the
//! same run, without any protocol.

use std::{
    env,
    fmt::Write,
    fs,
    future::Future,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use raw::Recycled;

use crate::{
    clock::{now_nanos, since},
    figure::{Figure, HEAD, millis, rate, volume},
    load::Result,
    report::Setting,
};

mod child;

mod flow;
mod raw;
mod subject;
mod usage;

mod backlog;
mod delays;
mod fan_out;
mod latency;
mod queues;
mod rates;
mod turnover;

pub use child::serve;

/// The thread of the store's clients.
const CLIENTS: &str = "clients";

/// What is measured together.
struct Scenario {
    name: &'static str,
    what: &'static str,
    /// After this long it is given up.
    bound: Duration,
    run: fn(&Bench) -> Result<Vec<Figure>>,
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

const ALL: &[Scenario] = &[
    Scenario {
        name: "append",
        what: "Synced appends: 1 KiB payloads, the queues emptied every 200 ms",
        bound: minutes(2),
        run: rates::append,
    },
    Scenario {
        name: "flow-one",
        what: "256 B payloads in batches of 500 to 1 queue, consumed and settled",
        bound: minutes(3),
        run: |bench| rates::flow(bench, &rates::ONE),
    },
    Scenario {
        name: "flow-thousand",
        what: "The same to 1,000 queues at random",
        bound: minutes(3),
        run: |bench| rates::flow(bench, &rates::THOUSAND),
    },
    Scenario {
        name: "flow-million",
        what: "The same to 1,000,000 queues at random",
        bound: minutes(10),
        run: |bench| rates::flow(bench, &rates::MILLION),
    },
    Scenario {
        name: "flow-kib",
        what: "1 KiB payloads in batches of 500 to 1,000 queues, consumed and settled",
        bound: minutes(3),
        run: |bench| rates::flow(bench, &rates::KIB),
    },
    Scenario {
        name: "flow-singly",
        what: "256 B payloads published one by one to 1,000 queues, 2,000 in flight, consumed and \
               settled",
        bound: minutes(3),
        run: |bench| rates::flow(bench, &rates::SINGLY),
    },
    Scenario {
        name: "queues-filled",
        what: "1,000,000 durable queues with one record each",
        bound: minutes(10),
        run: queues::with_a_record,
    },
    Scenario {
        name: "queues-declared",
        what: "10,000,000 durable queues declared",
        bound: minutes(20),
        run: queues::declared,
    },
    Scenario {
        name: "backlog",
        what: "A backlog of 20,000,000 records in one queue, 256 B payloads",
        bound: minutes(15),
        run: backlog::run,
    },
    Scenario {
        name: "fan-out",
        what: "One record to 10,000 queues bound to a fan-out exchange",
        bound: minutes(2),
        run: fan_out::run,
    },
    Scenario {
        name: "delays",
        what: "1,000,000 pending delays",
        bound: minutes(5),
        run: delays::run,
    },
    Scenario {
        name: "turnover",
        what: "One stuck record per 100,000 in a queue that turns over 50 GiB of 1 KiB payloads",
        bound: minutes(20),
        run: turnover::run,
    },
    Scenario {
        name: "latency",
        what: "Half the maximum rate: 256 B payloads to 1,000 queues, consumed and settled",
        bound: minutes(15),
        run: latency::run,
    },
];

pub struct Plan {
    out: Option<PathBuf>,
    only: String,
    quick: bool,
    data: PathBuf,
}

impl Plan {
    pub fn parse(options: &[&str]) -> Result<Self> {
        let program = env::current_exe()?;
        let beside = program.parent().ok_or("the program has no folder")?;
        let mut plan = Self {
            out: None,
            only: String::new(),
            quick: false,
            // Beside the program rather than in /tmp, which may be memory: syncs are free there.
            data: beside.join(format!("store-bench-{}", std::process::id())),
        };
        let mut options = options.iter();
        while let Some(option) = options.next() {
            let mut value = || options.next().ok_or_else(|| format!("{option} wants a value"));
            match *option {
                "--out" => plan.out = Some(PathBuf::from(value()?)),
                "--only" => (*value()?).clone_into(&mut plan.only),
                "--data" => plan.data = PathBuf::from(value()?),
                "--quick" => plan.quick = true,
                _ => return Err(format!("unknown option {option}").into()),
            }
        }
        Ok(plan)
    }
}

/// What a scenario works with.
struct Bench {
    quick: bool,
    data: PathBuf,
    raw: Recycled,
    /// Bytes per second.
    memcpy: f64,
    /// Packed blocks per second.
    rocksdb: f64,
    bound: Duration,
}

impl Bench {
    fn new(plan: &Plan) -> Result<Self> {
        fs::create_dir_all(&plan.data)?;
        let rocksdb = raw::rocksdb(&plan.data.join("rocksdb"), pick(plan.quick, 200, 2000) * 1000)?;
        Ok(Self {
            quick: plan.quick,
            data: plan.data.clone(),
            raw: Recycled::create(&plan.data.join("recycled"))?,
            memcpy: raw::memcpy(),
            rocksdb,
            bound: Duration::ZERO,
        })
    }

    /// A size for a run in a hurry, or the one the promise is about.
    fn size(&self, quick: u64, full: u64) -> u64 {
        pick(self.quick, quick, full)
    }

    /// An empty folder; what another scenario left there goes.
    fn fresh(&self) -> Result<PathBuf> {
        let folder = self.data.join("store");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        Ok(folder)
    }

    /// Runs a scenario's future within the scenario's bound.
    fn block_on<T: Send>(&self, future: impl Future<Output = Result<T>> + Send) -> Result<T> {
        block_on(async { tokio::time::timeout(self.bound, future).await? })
    }
}

const fn pick(is_quick: bool, quick: u64, full: u64) -> u64 {
    if is_quick { quick } else { full }
}

/// Clients of the store share one thread, beside the store's own; its name tells what it used.
fn block_on<T: Send>(future: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    thread::scope(|scope| {
        let clients = thread::Builder::new().name(CLIENTS.to_owned());
        let clients = clients.spawn_scoped(scope, move || runtime.block_on(future))?;
        clients.join().map_err(|_| "the clients found themselves in error")?
    })
}

/// All scenarios, or those the plan selects; the report goes to the terminal and to a file.
pub fn run(plan: &Plan) -> Result<()> {
    let start = now_nanos();
    let text = measure_all(plan);
    fs::remove_dir_all(&plan.data)?;
    let mut text = text?;
    write!(text, "\nAll of it took {} s.\n", since(start, now_nanos()).as_secs())?;
    println!("\n{text}");
    if let Some(out) = &plan.out {
        fs::write(out, &text)?;
    }
    Ok(())
}

fn measure_all(plan: &Plan) -> Result<String> {
    let mut bench = Bench::new(plan)?;
    let mut text = heading(&bench, &plan.data)?;
    println!("{text}");
    for scenario in ALL.iter().filter(|each| each.name.contains(&plan.only)) {
        println!("{}: {}", scenario.name, scenario.what);
        write!(text, "\n## {}\n\n{}.\n\n{HEAD}\n", scenario.name, scenario.what)?;
        bench.bound = scenario.bound;
        let start = now_nanos();
        let figures = (scenario.run)(&bench).unwrap_or_else(|error| {
            vec![Figure::missing(scenario.name, "all of it", &format!("failed: {error}"))]
        });
        for figure in figures {
            println!("{}", figure.line());
            writeln!(text, "{}", figure.row())?;
        }
        println!("  ({} s)", since(start, now_nanos()).as_secs());
    }
    text.push_str(NOTES);
    Ok(text)
}

const NOTES: &str = "
## Reading it

- The store runs without any protocol, `fsync` on, on the same cores as its clients, which share one thread. A client stamps each record and encodes it into an allocation of its own, as a front-end does, inside the measured time; it takes each delivery with its body and settles it, all that one wake-up brought as one batch. What that costs is under *where the time goes*.
- Settings are the defaults, but for an inbox of 65,536 deliveries and 64 MiB, since one client here stands for very many connections. At most 100,000 records are published and not yet taken.
- The machine's limit is measured right after the figure: synced writes, one after another, as large as the mean write of the log thread was, into a file of 512 MiB that was written before, of which the best quarter counts. Its rate over the bytes that the log wrote per record is the disk's limit in records.
- A ratio is the store's figure as a part of the limit; for a time it is a multiple of the limit's.
- Starts are timed from the making of the process until its first publish was confirmed; the operating system's cache is left as it is. Memory is the resident size of that process, its clients among it.
- Disk use is blocks allocated, with segments kept in reserve and the index.
";

fn heading(bench: &Bench, data: &Path) -> Result<String> {
    let mut text =
        "# What the store does\n\nWritten by `make bench-store`; not edited by hand.\n\n"
            .to_owned();
    text.push_str(&Setting::look(data)?.lines());
    if bench.quick {
        text.push_str("- **A quick run**: sizes and times are a tenth or less of those promised\n");
    }
    let lone = bench.raw.measure(1, Duration::from_secs(pick(bench.quick, 1, 5)))?.latency;
    writeln!(
        text,
        "- The machine: memcpy {}/s; RocksDB alone takes {} blocks of 400 B ({} entries) without \
         its log; a lone synced 4 KiB write p50 {}, p99 {}; a new file in synced steps of 2 MiB \
         {}/s; synced writes one after another into a file written before:",
        volume(bench.memcpy),
        rate(bench.rocksdb),
        rate(bench.rocksdb * raw::ENTRIES_PER_VALUE as f64),
        millis(lone.percentile(50)),
        millis(lone.percentile(99)),
        volume(raw::new_file(&data.join("new"))?),
    )?;
    for kib in [4, 64, 256, 1024, 4096] {
        let synced = bench.raw.measure(kib << 10, Duration::from_millis(500))?;
        writeln!(
            text,
            "  - {kib} KiB: {}/s, p50 {}, p99 {}",
            volume(synced.bytes_per_second),
            millis(synced.latency.percentile(50)),
            millis(synced.latency.percentile(99)),
        )?;
    }
    Ok(text)
}
