//! Records through the store: published by some clients, consumed and settled by others.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use mainstem_broker::{Broker, Client, Inbox, Notice, Published, Receipt};
use mainstem_schemas::{Settlement, Verdict};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};

use super::{
    CLIENTS,
    subject::{self, Names},
    usage::Usage,
};
use crate::{
    clock::{now_nanos, since},
    figure::per_second,
    histogram::Histogram,
    load::Result,
    process::Pid,
};

/// Published and not yet taken by the consumers: publishers wait for them, so that what is
/// measured is a flow and not a growing backlog.
pub(super) const UNTAKEN_MAX: usize = 100_000;

/// What is sent where.
#[derive(Clone)]
pub(super) struct Flow {
    /// Each record goes to one of these at random.
    pub(super) queues: Range<u64>,
    pub(super) data_bytes: usize,
    /// Records published by one call.
    pub(super) batch: u64,
    /// Records of one publisher that wait for their confirm.
    pub(super) in_flight: u64,
    pub(super) records: u64,
    pub(super) publishers: u64,
    pub(super) consumers: u64,
}

/// What came of it.
pub(super) struct Outcome {
    pub(super) records: u64,
    pub(super) elapsed: Duration,
    pub(super) confirm: Histogram,
    /// Deliveries whose body had to be read from the disk.
    pub(super) cold: u64,
    pub(super) log: Usage,
    pub(super) commit: Usage,
    clients: Usage,
    /// Of the whole process.
    cpu: Duration,
}

/// Looks at what was used before and after.
struct Meter {
    start: u64,
    log: Usage,
    commit: Usage,
    clients: Usage,
    cpu: Duration,
}

impl Meter {
    fn start() -> Result<Self> {
        let log = Usage::of_threads("log")?;
        let commit = Usage::of_threads("commit")?;
        let clients = Usage::of_threads(CLIENTS)?;
        Ok(Self { log, commit, clients, cpu: Pid::own().cpu()?, start: now_nanos() })
    }

    fn stop(self, records: u64, confirm: Histogram, progress: &Progress) -> Result<Outcome> {
        let elapsed = since(self.start, now_nanos());
        Ok(Outcome {
            records,
            elapsed,
            confirm,
            cold: progress.cold.load(Relaxed),
            log: Usage::of_threads("log")?.since(self.log),
            commit: Usage::of_threads("commit")?.since(self.commit),
            clients: Usage::of_threads(CLIENTS)?.since(self.clients),
            cpu: Pid::own().cpu()?.saturating_sub(self.cpu),
        })
    }
}

impl Outcome {
    pub(super) fn rate(&self) -> f64 {
        per_second(self.records, self.elapsed)
    }

    /// Where the time went.
    pub(super) fn effort(&self) -> String {
        let busy = |cpu: Duration| cpu.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9);
        let each = |cpu: Duration| cpu.as_nanos() / u128::from(self.records.max(1));
        let (commit, clients, log) = (self.commit.cpu, self.clients.cpu, self.log.cpu);
        format!(
            "commit thread {:.2} cores ({} ns a record), clients {:.2} ({} ns), log thread {:.2}, \
             index and new segments {:.2}; {} B written per record in writes of {} kB, {} % read \
             back from disk",
            busy(commit),
            each(commit),
            busy(clients),
            each(clients),
            busy(log),
            busy(self.cpu.saturating_sub(commit + clients + log)),
            self.log.written_bytes / self.records.max(1),
            self.log.write_bytes() / 1000,
            self.cold * 100 / self.records.max(1),
        )
    }
}

/// How far the consumers are.
pub(super) struct Progress {
    /// Consumers are done when they have taken so many.
    goal: u64,
    /// Every so manieth delivery is never settled; 0 for none.
    stuck_every: u64,
    pub(super) taken: AtomicU64,
    pub(super) stuck: AtomicU64,
    pub(super) published: AtomicU64,
    cold: AtomicU64,
    done: Notify,
    room: Semaphore,
}

impl Progress {
    pub(super) fn new(goal: u64, stuck_every: u64) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        let room = Semaphore::new(UNTAKEN_MAX);
        let (taken, stuck, published, cold) = (zero(), zero(), zero(), zero());
        let done = Notify::new();
        Arc::new(Self { goal, stuck_every, taken, stuck, published, cold, done, room })
    }
}

/// Declares what is missing, attaches the consumers, then measures until the last record was
/// taken and settled, or without consumers until the last one was confirmed.
pub(super) async fn run(broker: &Broker, flow: &Flow) -> Result<Outcome> {
    run_with(broker, flow, Progress::new(flow.records, 0)).await
}

pub(super) async fn run_with(
    broker: &Broker,
    flow: &Flow,
    progress: Arc<Progress>,
) -> Result<Outcome> {
    let (client, _inbox) = subject::login(broker).await?;
    subject::declare_all(&client, flow.queues.clone()).await?;
    let mut consumers = attach(broker, flow.queues.clone(), flow.consumers, &progress).await?;
    let names = Names::new(flow.queues.clone());
    let data = Bytes::from(vec![b'm'; flow.data_bytes]);
    let mut publishers = JoinSet::new();
    let meter = Meter::start()?;
    for _ in 0..flow.publishers {
        let (client, _inbox) = subject::login(broker).await?;
        let publisher = Publisher {
            client,
            names: names.clone(),
            data: data.clone(),
            flow: flow.clone(),
            progress: progress.clone(),
        };
        publishers.spawn(publisher.run());
    }
    let mut confirm = Histogram::default();
    while let Some(ended) = publishers.join_next().await {
        confirm.add(&ended??);
    }
    if flow.consumers > 0 {
        finish(&mut consumers, &progress).await?;
    }
    meter.stop(flow.records, confirm, &progress)
}

/// Takes and settles `records` that are in the queues already.
pub(super) async fn drain(broker: &Broker, queues: Range<u64>, records: u64) -> Result<Outcome> {
    let progress = Progress::new(records, 0);
    let meter = Meter::start()?;
    let mut consumers = attach(broker, queues, 1, &progress).await?;
    finish(&mut consumers, &progress).await?;
    meter.stop(records, Histogram::default(), &progress)
}

/// Waits until the consumers reached their goal; until then none may end.
pub(super) async fn finish(consumers: &mut JoinSet<Result<()>>, progress: &Progress) -> Result<()> {
    tokio::select! {
        () = progress.done.notified() => {}
        Some(ended) = consumers.join_next() => {
            ended??;
            return Err("a consumer ended before its time".into());
        }
    }
    consumers.shutdown().await;
    Ok(())
}

/// Starts consumers, each with its share of the queues.
pub(super) async fn attach(
    broker: &Broker,
    queues: Range<u64>,
    consumers: u64,
    progress: &Arc<Progress>,
) -> Result<JoinSet<Result<()>>> {
    let mut tasks = JoinSet::new();
    for number in 0..consumers {
        let (client, inbox) = subject::login(broker).await?;
        // Deliveries come at once and wait for the task below.
        tasks.spawn(take_all(client.clone(), inbox, progress.clone()));
        let mine = queues.clone();
        subject::for_each(mine, move |queue| {
            let client = client.clone();
            async move {
                if queue % consumers == number {
                    subject::consume(&client, queue).await?;
                }
                Ok(())
            }
        })
        .await?;
    }
    Ok(tasks)
}

/// Takes deliveries with their bodies and settles each, for ever.
async fn take_all(client: Arc<Client>, mut inbox: Inbox, progress: Arc<Progress>) -> Result<()> {
    let mut notices = Vec::new();
    let mut deliveries = Vec::new();
    loop {
        client.recv(&mut inbox, &mut notices).await;
        for notice in notices.drain(..) {
            match notice {
                Notice::Delivery(delivery) => deliveries.push(delivery),
                Notice::Blocked => return Err("the disk is full".into()),
                Notice::Unblocked | Notice::Cancelled(_) => {}
                Notice::TakenOver | Notice::Closing => return Err("the store closed".into()),
            }
        }
        let cold = deliveries.iter().filter(|delivery| delivery.record.is_none()).count();
        client.resolve(&mut deliveries).await?;
        let count = deliveries.len();
        let taken = progress.taken.fetch_add(count as u64, Relaxed);
        let every = progress.stuck_every;
        let is_stuck = |number: u64| every > 0 && number.is_multiple_of(every);
        let verdict = Verdict::Accept;
        let settled: Vec<Settlement> = (taken..)
            .zip(deliveries.drain(..))
            .filter(|(number, _)| !is_stuck(*number))
            .map(|(_, delivery)| Settlement { id: delivery.id, verdict })
            .collect();
        progress.stuck.fetch_add((count - settled.len()) as u64, Relaxed);
        progress.cold.fetch_add(cold as u64, Relaxed);
        client.settle(settled).await?;
        progress.room.add_permits(count);
        if taken + count as u64 >= progress.goal {
            progress.done.notify_one();
        }
    }
}

struct Publisher {
    client: Arc<Client>,
    names: Names,
    data: Bytes,
    flow: Flow,
    progress: Arc<Progress>,
}

impl Publisher {
    /// Publishes its share and answers how long the confirms took.
    async fn run(self) -> Result<Histogram> {
        let Flow { batch, in_flight, records, publishers, consumers, .. } = self.flow;
        let mut confirm = Histogram::default();
        let mut waiting: VecDeque<(u64, Receipt)> = VecDeque::new();
        let mut left = records / publishers;
        while left > 0 {
            let count = batch.min(left);
            left -= count;
            if consumers > 0 {
                self.progress.room.acquire_many(u32::try_from(count)?).await?.forget();
            }
            let one =
                |_| subject::publish(&self.client, Bytes::new(), self.names.any(), &self.data);
            let records = (0..count).map(one).collect::<Result<Vec<_>>>()?;
            waiting.push_back((now_nanos(), self.client.publish(records).await?));
            self.progress.published.fetch_add(count, Relaxed);
            while waiting.len() as u64 * batch >= in_flight
                && let Some((sent, receipt)) = waiting.pop_front()
            {
                all_taken(&receipt.await?)?;
                confirm.record(now_nanos() - sent);
            }
        }
        for (sent, receipt) in waiting {
            all_taken(&receipt.await?)?;
            confirm.record(now_nanos() - sent);
        }
        Ok(confirm)
    }
}

/// Every record must have reached a queue.
pub(super) fn all_taken(outcomes: &[Published]) -> Result<()> {
    let is_lost = |outcome: &&Published| !matches!(outcome, Published::Taken { readers: 1.., .. });
    outcomes.iter().find(is_lost).map_or(Ok(()), |lost| Err(format!("{lost:?}").into()))
}
