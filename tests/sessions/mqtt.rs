//! Sessions of MQTT: what they do to each other and to what is kept.

#[path = "mqtt/script.rs"]
mod script;
#[path = "mqtt/session.rs"]
mod session;
#[path = "mqtt/talk.rs"]
mod talk;

use std::time::Duration;

use fastrand::Rng;
use lapin::options::QueueDeleteOptions;
use mainstem_tests::{Amqp, Ports};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time,
};

use crate::{
    arena::{self, Tally},
    promises::Kept,
};

/// Sessions of a round.
const SESSIONS_MAX: usize = 10;
/// How long a new client may wait for the end of the one that had its identifier.
const TAKEOVER: Duration = Duration::from_secs(20);
/// Bounds that a session can reach, and short waits for those who do not answer.
const SETTINGS: [&str; 4] = [
    "store.message_bytes_max=4194304",
    "store.tail_cache_bytes=16777216",
    "mqtt.connect_timeout_ms=2000",
    "mqtt.goodbye_ms=1000",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mqtt_sessions_harm_nobody_else() {
    arena::play(&SETTINGS, round).await;
}

async fn round(ports: Ports, seed: u64) -> Result<Tally, String> {
    let mut random = Rng::with_seed(seed);
    let keeper = Amqp::connect(ports.amqp).await;
    let (kept, queue) = (format!("kept/{seed}"), format!("kept.{seed}"));
    keeper.queue(&queue, Some(("amq.topic", &queue))).await;
    let mut sessions = JoinSet::new();
    for number in 0..random.usize(1..=SESSIONS_MAX) {
        let script = script::write(random.u64(..), number, seed, &kept);
        let (is_damaged, kept) = (script.is_damaged, kept.clone());
        sessions
            .spawn(async move { (number, is_damaged, session::speak(ports, script, &kept).await) });
    }
    let mut tally = Tally::default();
    let mut all = Vec::new();
    while let Some(spoken) = sessions.join_next().await {
        let (number, is_damaged, talk) = spoken.map_err(|error| error.to_string())?;
        let talk = talk.map_err(|why| format!("session {number}: {why}"))?;
        tally.add(Tally {
            sessions: 1,
            damaged: u64::from(is_damaged),
            refused: u64::from(talk.goodbye.is_some()),
            confirmed: talk.confirmed,
            delivered: talk.delivered,
        });
        all.push(talk.promises);
    }
    for number in 0..=SESSIONS_MAX {
        let client_id = script::client_id(seed, number);
        let ended = time::timeout(TAKEOVER, take_over(ports.mqtt, &client_id)).await;
        ended
            .map_err(|_| format!("{client_id} cannot be taken over"))?
            .map_err(|error| format!("{client_id} is not let in: {error}"))?;
    }
    Kept::take(&keeper.channel, &queue).await.check(&all.iter().collect::<Vec<_>>())?;
    for queue in [&*queue, "mq"] {
        let options = QueueDeleteOptions::default();
        keeper.channel.queue_delete(queue.into(), options).await.unwrap();
    }
    keeper.connection.close(200, "done".into()).await.map_err(|error| error.to_string())?;
    Ok(tally)
}

/// Ends a session that was kept, and who may still hold it.
async fn take_over(port: u16, client_id: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(&script::hello(client_id)).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    if answer != [0x20, 2, 0, 0] {
        return Err(std::io::Error::other(format!("{answer:?}")));
    }
    stream.write_all(&script::packet(0xe0, b"")).await?;
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}
