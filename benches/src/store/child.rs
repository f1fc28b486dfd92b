//! A store in a process of its own, so that its memory can be measured and it can be killed.
//!
//! The child opens the store, answers that it serves, then does what each line of its standard
//! input says and answers `done` with a number.

use std::{
    env,
    io::{BufRead, BufReader, Write as _, stdin},
    path::Path,
    process::{self, Child as Process, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel},
    thread,
    time::Duration,
};

use mainstem_broker::Broker;

use super::{
    block_on,
    flow::{self, Flow},
    subject,
};
use crate::{
    clock::{now_nanos, since},
    load::Result,
    process::Pid,
};

/// Answers that may wait to be read.
const LINES_MAX: usize = 64;
const LOOK_EVERY: Duration = Duration::from_millis(100);
const RESIDENT_MIB_MAX: u64 = 12 << 10;
/// Queues that only the child's own sign of life uses.
const PROBE: u64 = 99_999_999;

pub(super) struct Child {
    process: Process,
    input: ChildStdin,
    lines: Receiver<String>,
    pub(super) pid: Pid,
    /// From the start of the process until a publish was confirmed.
    pub(super) until_serving: Duration,
}

impl Child {
    /// Starts a store on `data` and waits until it serves.
    pub(super) fn start(data: &Path, patience: Duration) -> Result<Self> {
        let start = now_nanos();
        let mut process = Command::new(env::current_exe()?)
            .arg("store-child")
            .arg(data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().ok_or("no standard input")?;
        let output = process.stdout.take().ok_or("no standard output")?;
        let (sender, lines) = sync_channel(LINES_MAX);
        // Ends with the child.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let pid = Pid(process.id());
        let mut child = Self { process, input, lines, pid, until_serving: Duration::ZERO };
        child.answer(patience)?;
        child.until_serving = since(start, now_nanos());
        Ok(child)
    }

    /// Has the child do something, and answers its number.
    pub(super) fn ask(&mut self, words: &str, patience: Duration) -> Result<f64> {
        self.tell(words)?;
        self.answer(patience).map_err(|error| format!("{words}: {error}").into())
    }

    pub(super) fn tell(&mut self, words: &str) -> Result<()> {
        Ok(writeln!(self.input, "{words}")?)
    }

    /// The next answer. Errors: none came in time, or the child takes more memory than a machine
    /// has to spare for one of its programs.
    fn answer(&mut self, patience: Duration) -> Result<f64> {
        let start = now_nanos();
        let line = loop {
            match self.lines.recv_timeout(LOOK_EVERY) {
                Ok(line) => break line,
                Err(RecvTimeoutError::Disconnected) => return Err("the child ended".into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let resident = self.pid.resident_mib()?;
            if resident > RESIDENT_MIB_MAX {
                self.end()?;
                return Err(format!("given up at {resident} MiB resident").into());
            }
            if since(start, now_nanos()) > patience {
                self.end()?;
                return Err(format!("given up after {} s", patience.as_secs()).into());
            }
        };
        let number = line.strip_prefix("done ").ok_or_else(|| format!("the child says: {line}"))?;
        Ok(number.parse()?)
    }

    /// Errors: it does not work at what it was told last any more.
    pub(super) fn expect_busy(&self) -> Result<()> {
        match self.lines.try_recv() {
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) => Err("the child ended".into()),
            Ok(line) => Err(format!("the child says: {line}").into()),
        }
    }

    /// As `kill -9` does.
    pub(super) fn kill(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ended = self.end();
    }
}

/// The child's side. It ends when its standard input does.
pub fn serve(data: &Path) -> Result<()> {
    let broker = subject::open(data)?;
    block_on(show_life(&broker))?;
    println!("done 0");
    let (sender, orders) = sync_channel(LINES_MAX);
    thread::spawn(move || {
        for line in stdin().lines().map_while(std::result::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
        // Whoever started it is gone, in the middle of its work perhaps.
        process::exit(0);
    });
    for line in orders {
        let words: Vec<&str> = line.split(' ').collect();
        println!("done {}", block_on(act(&broker, &words))?);
    }
    Ok(())
}

async fn show_life(broker: &Broker) -> Result<()> {
    let (client, _inbox) = subject::login(broker).await?;
    subject::declare(&client, PROBE).await?;
    let key = subject::queue_name(PROBE).into();
    let publish = subject::publish(&client, Default::default(), key, b"alive")?;
    flow::all_taken(&client.publish(vec![publish]).await?.await?)?;
    client.purge_queue(subject::queue_name(PROBE)).await?;
    Ok(())
}

async fn act(broker: &Broker, words: &[&str]) -> Result<f64> {
    let (client, _inbox) = subject::login(broker).await?;
    match *words {
        ["declare", count] => {
            subject::declare_all(&client, 0..count.parse()?).await?;
            Ok(0.0)
        }
        // One record to each queue.
        ["fill", count, bytes] => {
            let data = vec![b'm'; bytes.parse()?];
            subject::for_each(0..count.parse()?, move |number| {
                let (client, data) = (client.clone(), data.clone());
                async move {
                    let key = subject::queue_name(number).into();
                    let publish = subject::publish(&client, Default::default(), key, &data)?;
                    flow::all_taken(&client.publish(vec![publish]).await?.await?)
                }
            })
            .await?;
            Ok(0.0)
        }
        ["stop"] => {
            broker.stop().await;
            Ok(0.0)
        }
        // Publishing alone, to one queue.
        ["publish", queue, records, bytes] => {
            let (queue, records, bytes) = (queue.parse()?, records.parse()?, bytes.parse()?);
            let flow = Flow { consumers: 0, ..one_queue(queue, records, bytes) };
            Ok(flow::run(broker, &flow).await?.rate())
        }
        ["consume", queue, records] => {
            let queue: u64 = queue.parse()?;
            Ok(flow::drain(broker, queue..queue + 1, records.parse()?).await?.rate())
        }
        ["load", queues, records, bytes] => {
            let queues = 0..queues.parse()?;
            let flow = Flow { queues, ..one_queue(0, records.parse()?, bytes.parse()?) };
            Ok(flow::run(broker, &flow).await?.rate())
        }
        _ => Err(format!("{words:?} means nothing here").into()),
    }
}

fn one_queue(queue: u64, records: u64, data_bytes: usize) -> Flow {
    Flow {
        queues: queue..queue + 1,
        data_bytes,
        batch: 500,
        in_flight: 20_000,
        records,
        publishers: 1,
        consumers: 1,
    }
}
