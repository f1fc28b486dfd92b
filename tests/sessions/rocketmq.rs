//! Sessions of RocketMQ: calls over gRPC, and bytes that are none.

#[path = "rocketmq/caller.rs"]
mod caller;
#[path = "rocketmq/session.rs"]
mod session;

use fastrand::Rng;
use lapin::options::QueueDeleteOptions;
use mainstem_tests::{Amqp, Ports};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::{
    arena::{self, Tally},
    chance::damage,
    promises::Kept,
};

/// Clients of a round.
const SESSIONS_MAX: usize = 6;
/// Bounds that a session can reach, and short waits for those who are silent.
const SETTINGS: [&str; 6] = [
    "store.message_bytes_max=4194304",
    "store.tail_cache_bytes=16777216",
    "rocketmq.poll_ms_min=10",
    "rocketmq.poll_ms_max=200",
    "rocketmq.handshake_ms=1000",
    "rocketmq.client_expiry_ms=3000",
];
/// An HTTP/2 connection preface, an empty SETTINGS frame, and the HEADERS of a call.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x04\x01\x05\0\0\0\x01\x83\x86\x84\x41";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rocketmq_sessions_harm_nobody_else() {
    arena::play(&SETTINGS, round).await;
}

async fn round(ports: Ports, seed: u64) -> Result<Tally, String> {
    let mut random = Rng::with_seed(seed);
    let keeper = Amqp::connect(ports.amqp).await;
    let kept = format!("kept-{seed}");
    keeper.queue(&kept, Some(("amq.topic", &kept))).await;
    let mut sessions = JoinSet::new();
    for number in 0..random.usize(1..=SESSIONS_MAX) {
        let (seed, kept) = (random.u64(..), kept.clone());
        sessions.spawn(async move {
            let played = session::play(ports.rocketmq, seed, number, &kept).await;
            played.map_err(|why| format!("session {number}: {why}"))
        });
    }
    let mut beginning = BEGINNING.to_vec();
    damage(&mut random, &mut beginning);
    let mut stranger = TcpStream::connect(("127.0.0.1", ports.rocketmq)).await.unwrap();
    // It may hang up at any byte.
    let _gone = stranger.write_all(&beginning).await;
    let mut tally = Tally::default();
    let mut all = Vec::new();
    while let Some(played) = sessions.join_next().await {
        let session = played.map_err(|error| error.to_string())??;
        tally.add(Tally {
            sessions: 1,
            damaged: session.damaged,
            refused: session.refused,
            confirmed: session.confirmed,
            delivered: session.delivered,
        });
        all.push(session.promises);
    }
    Kept::take(&keeper.channel, &kept).await.check(&all.iter().collect::<Vec<_>>())?;
    let options = QueueDeleteOptions::default();
    keeper.channel.queue_delete(kept.into(), options).await.unwrap();
    keeper.connection.close(200, "done".into()).await.map_err(|error| error.to_string())?;
    Ok(tally)
}
