//! Sessions of AMQP: what they do to each other and to what is kept.

#[path = "amqp/ledger.rs"]
mod ledger;
#[path = "amqp/names.rs"]
mod names;
#[path = "amqp/properties.rs"]
mod properties;
#[path = "amqp/script.rs"]
mod script;
#[path = "amqp/session.rs"]
mod session;
#[path = "amqp/speech.rs"]
mod speech;
#[path = "amqp/table.rs"]
mod table;

use std::time::Duration;

use fastrand::Rng;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use mainstem_tests::{Amqp, Deadline, Ports, clients::reply_code};
use tokio::{task::JoinSet, time};

use crate::{
    arena::{self, Tally},
    promises::Kept,
};
use names::{Names, own};
use session::Spoken;
use speech::Goodbye;

/// Sessions of a round.
const SESSIONS_MAX: usize = 10;
/// How long what belonged to a connection may outlive it.
const OUTLIVE_S: u64 = 20;
const RESOURCE_LOCKED: u16 = 405;
/// Bounds that a session can reach, and short waits for those who do not answer.
const SETTINGS: [&str; 7] = [
    "store.message_bytes_max=4194304",
    "store.tail_cache_bytes=16777216",
    "amqp.unpublished_bytes_max=16777216",
    "amqp.write_bytes_max=4194304",
    "amqp.handshake_ms=2000",
    "amqp.close_wait_ms=1000",
    "amqp.login_refused_delay_ms=100",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn amqp_sessions_harm_nobody_else() {
    arena::play(&SETTINGS, round).await;
}

async fn round(ports: Ports, seed: u64) -> Result<Tally, String> {
    let mut random = Rng::with_seed(seed);
    let keeper = Amqp::connect(ports.amqp).await;
    let names = Names::new(&mut random, format!("kept-{seed}"));
    keeper.queue(&names.kept, None).await;
    let founder = script::found(random.u64(..), &names);
    let founder = session::speak(ports.amqp, founder, &names.kept).await;
    founder.map_err(|why| format!("the founder: {why}"))?;
    let mut sessions = JoinSet::new();
    for number in 0..random.usize(1..=SESSIONS_MAX) {
        let script = script::write(random.u64(..), number, &names);
        let kept = names.kept.clone();
        sessions.spawn(async move { (number, session::speak(ports.amqp, script, &kept).await) });
    }
    let mut tally = Tally::default();
    let mut all = Vec::new();
    while let Some(spoken) = sessions.join_next().await {
        let (number, spoken) = spoken.map_err(|error| error.to_string())?;
        let spoken = spoken.map_err(|why| format!("session {number}: {why}"))?;
        tally.add(count(&spoken));
        all.push((spoken.speech.named, spoken.ledger.into_promises()));
    }
    let kept = Kept::take(&keeper.channel, &names.kept).await;
    kept.check(&all.iter().map(|(_, promises)| promises).collect::<Vec<_>>())?;
    let named: Vec<_> = all.into_iter().flat_map(|(named, _)| named).collect();
    clear(&keeper, &names, named).await?;
    Ok(tally)
}

fn count(spoken: &Spoken) -> Tally {
    let Spoken { ledger: _, speech, is_damaged } = spoken;
    Tally {
        sessions: 1,
        damaged: u64::from(*is_damaged),
        refused: u64::from(matches!(speech.goodbye, Some(Goodbye::Close(..)))),
        confirmed: speech.confirmed,
        delivered: speech.delivered,
    }
}

/// Deletes everything. What belonged to a connection alone must have gone with it.
async fn clear(keeper: &Amqp, names: &Names, named: Vec<String>) -> Result<(), String> {
    let mut queues: Vec<_> = names.queues.iter().map(|queue| queue.name.to_owned()).collect();
    queues.extend((0..SESSIONS_MAX).flat_map(|n| [own(n), format!("flooded-{n}")]));
    queues.push(names.kept.clone());
    queues.extend(named);
    let mut channel = keeper.connection.create_channel().await.unwrap();
    for queue in &queues {
        let deadline = Deadline::seconds(OUTLIVE_S);
        let options = QueueDeleteOptions::default();
        while let Err(error) = channel.queue_delete(queue.as_str().into(), options).await {
            if reply_code(&error) != Some(RESOURCE_LOCKED) {
                return Err(format!("the queue {queue} is not deleted: {error}"));
            }
            if deadline.passed() {
                return Err(format!("the queue {queue} has outlived its connection"));
            }
            time::sleep(Duration::from_millis(10)).await;
            channel = keeper.connection.create_channel().await.unwrap();
        }
    }
    for exchange in &names.exchanges {
        let options = ExchangeDeleteOptions::default();
        channel.exchange_delete(exchange.name.into(), options).await.unwrap();
    }
    keeper.connection.close(200, "done".into()).await.map_err(|error| error.to_string())
}
