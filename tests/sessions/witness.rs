//! Clients that behave, all the while: what they publish comes back, as sent, in order, soon, and
//! their connections stay.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lapin::{options::BasicConsumeOptions, types::FieldTable};
use mainstem_tests::{Amqp, Deadline, Mqtt, Ports};
use rumqttc::QoS;
use tokio::{task::JoinHandle, time};
use tokio_stream::StreamExt;

/// Nobody else's names: dead letters of what is published to the topic may go to a queue that is
/// named like it.
const QUEUE: &str = "the-witness-sees-all";
const TOPIC: &str = "the-witness/sees-all";
/// Between one message and the next.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a message may take to be confirmed and delivered, on a machine that is busy.
const SLOWEST_MS: u64 = 10_000;

/// One of them.
pub struct Witness {
    protocol: &'static str,
    task: JoinHandle<()>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    messages: AtomicU64,
    slowest_ms: AtomicU64,
}

impl Witness {
    pub async fn all(ports: Ports) -> [Self; 2] {
        let amqp = Amqp::connect(ports.amqp).await;
        amqp.queue(QUEUE, None).await;
        let mut mqtt = Mqtt::connect(ports.mqtt, QUEUE).await;
        mqtt.subscribe(TOPIC, QoS::AtLeastOnce).await;
        [
            Self::watch("AMQP", |seen| over_amqp(amqp, seen)),
            Self::watch("MQTT", |seen| over_mqtt(mqtt, seen)),
        ]
    }

    fn watch<F>(protocol: &'static str, watch: impl FnOnce(Arc<Seen>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let seen = Arc::new(Seen::default());
        Self { protocol, task: tokio::spawn(watch(seen.clone())), seen }
    }

    /// Messages seen, and how long the slowest took in milliseconds.
    pub fn seen(&self) -> (u64, u64) {
        let Seen { messages, slowest_ms } = &*self.seen;
        (messages.load(Ordering::Relaxed), slowest_ms.load(Ordering::Relaxed))
    }

    /// Waits for two more messages: one of them was sent after the call.
    pub async fn check(&mut self) -> Result<(), String> {
        let wanted = self.seen().0 + 2;
        let more = async {
            while self.seen().0 < wanted && !self.task.is_finished() {
                time::sleep(PAUSE).await;
            }
        };
        let in_time = time::timeout(Duration::from_millis(2 * SLOWEST_MS), more).await.is_ok();
        let protocol = self.protocol;
        if self.task.is_finished() {
            let end = (&mut self.task).await;
            return Err(format!("the {protocol} witness saw what must not be: {end:?}"));
        }
        match (in_time, self.seen().1) {
            (false, _) => Err(format!("the {protocol} witness gets nothing any more")),
            (_, slowest) if slowest > SLOWEST_MS => {
                Err(format!("the {protocol} witness waited {slowest} ms"))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    fn note(&self, since: &Deadline) {
        let took = u64::try_from(since.elapsed().as_millis()).unwrap();
        self.slowest_ms.fetch_max(took, Ordering::Relaxed);
        self.messages.fetch_add(1, Ordering::Relaxed);
    }
}

/// Every one differs, and some are large.
fn body(number: u64) -> Vec<u8> {
    let mut body = number.to_string().into_bytes();
    body.resize(if number.is_multiple_of(16) { 100_000 } else { 100 }, b'.');
    body
}

fn unlike(number: u64, came: &[u8]) -> String {
    let begin = String::from_utf8_lossy(&came[..came.len().min(200)]).into_owned();
    format!("in place of message {number} came {} bytes: {begin}", came.len())
}

async fn over_amqp(amqp: Amqp, seen: Arc<Seen>) {
    let (queue, none) = (QUEUE.into(), FieldTable::default());
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consumer = amqp.channel.basic_consume(queue, "w".into(), no_ack, none);
    let mut consumer = consumer.await.unwrap();
    for number in 0.. {
        let body = body(number);
        let since = Deadline::millis(SLOWEST_MS);
        amqp.publish("", QUEUE, &body).await;
        let came = time::timeout(2 * since.left(), consumer.next()).await;
        let came = came.expect("a confirmed message is delivered").unwrap().unwrap();
        assert!(came.data == body, "{}", unlike(number, &came.data));
        seen.note(&since);
        time::sleep(PAUSE).await;
    }
}

async fn over_mqtt(mut mqtt: Mqtt, seen: Arc<Seen>) {
    for number in 0.. {
        let body = body(number);
        let since = Deadline::millis(SLOWEST_MS);
        mqtt.publish(TOPIC, false, &body).await;
        let came = mqtt.next().await.body;
        assert!(came == body, "{}", unlike(number, &came));
        seen.note(&since);
        time::sleep(PAUSE).await;
    }
}
