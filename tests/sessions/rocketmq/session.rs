//! One client's calls, mostly well-formed, in an order that chance makes.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use mainstem_rocketmq::codec::proto::{
    self, AckMessageEntry, AckMessageRequest, ChangeInvisibleDurationRequest, Code,
    EndTransactionRequest, FilterExpression, ForwardMessageToDeadLetterQueueRequest,
    HeartbeatRequest, Message, MessageQueue, MessageType, NotifyClientTerminationRequest,
    QueryAssignmentRequest, QueryRouteRequest, RecallMessageRequest, ReceiveMessageRequest,
    ReceiveMessageResponse, Resource, SendMessageRequest, SendMessageResponse, Settings,
    SystemProperties, TelemetryCommand, receive_message_response::Content,
    telemetry_command::Command,
};
use prost::Message as _;
use tokio::{task::JoinSet, time};

use super::caller::{Answered, Caller};
use crate::{
    chance::{damage, edge, once_in, one_of},
    promises::{Bodies, Promises},
};

const CALLS_MAX: usize = 60;
const TOPICS: [&str; 4] = ["bad-a", "bad-b", "%RETRY%g", ""];
const GROUPS: [&str; 4] = ["g", "h", "%bad", ""];
/// Calls that no test of theirs knows what to say to.
const OTHERS: [&str; 6] =
    ["PullMessage", "UpdateOffset", "GetOffset", "QueryOffset", "SyncLiteSubscription", "Nothing"];

/// A client under way.
pub struct Session {
    random: Rng,
    kept: String,
    caller: Caller,
    bodies: Bodies,
    handles: Vec<(String, String)>,
    pub promises: Promises,
    pub calls: u64,
    pub damaged: u64,
    pub refused: u64,
    pub confirmed: u64,
    pub delivered: u64,
}

fn resource(name: &str) -> Option<Resource> {
    Some(Resource { name: name.to_owned(), ..Default::default() })
}

/// Plays it to the end. Errors: the server did what it must not.
pub async fn play(port: u16, seed: u64, number: usize, kept: &str) -> Result<Session, String> {
    let caller = Caller::connect(port, &format!("bad-{seed}")).await?;
    let mut random = Rng::with_seed(seed);
    let bodies = Bodies::new(number, &mut random);
    let mut session = Session {
        random,
        kept: kept.to_owned(),
        caller,
        bodies,
        handles: Vec::new(),
        promises: Promises::default(),
        calls: 0,
        damaged: 0,
        refused: 0,
        confirmed: 0,
        delivered: 0,
    };
    for _ in 0..session.random.usize(1..CALLS_MAX) {
        match session.random.u8(..16) {
            0..5 => session.send().await?,
            5..8 => session.receive().await?,
            8..12 => session.settle().await?,
            12 => session.talk().await?,
            _ => session.rarely().await?,
        }
    }
    if once_in(&mut session.random, 4) {
        session.flood().await?;
    }
    // Others are forgotten when they were silent for long.
    if session.random.bool() {
        let goodbye = NotifyClientTerminationRequest { group: resource("g") }.encode_to_vec();
        session.say("NotifyClientTermination", goodbye).await?;
    }
    Ok(session)
}

impl Session {
    /// Calls with one message, which may be damaged on its way, as may be who calls.
    async fn say(&mut self, name: &str, mut message: Vec<u8>) -> Result<Option<Answered>, String> {
        let is_damaged = once_in(&mut self.random, 4);
        let mut caller = self.caller.clone();
        if is_damaged {
            match self.random.u8(..8) {
                0 => {
                    caller.client_id =
                        one_of(&mut self.random, &[b"".as_slice(), b" ", b"\xff\xfe"]).to_vec();
                }
                1 => message = (0..self.random.usize(..300)).map(|_| self.random.u8(..)).collect(),
                _ => damage(&mut self.random, &mut message),
            }
        }
        let answered = self.call(caller, name, message).await?;
        self.damaged += u64::from(is_damaged);
        Ok((!is_damaged).then_some(answered))
    }

    async fn call(
        &mut self,
        mut caller: Caller,
        name: &str,
        message: Vec<u8>,
    ) -> Result<Answered, String> {
        let answered = caller.call(name, tokio_stream::once(Bytes::from(message))).await?;
        self.calls += 1;
        self.refused += u64::from(answered.is_refused);
        Ok(answered)
    }

    fn message(&mut self, topic: &str, body: Vec<u8>) -> Message {
        let random = &mut self.random;
        let is_kept = topic == self.kept;
        let kinds =
            [MessageType::Fifo, MessageType::Delay, MessageType::Transaction, MessageType::Lite];
        let kind =
            if is_kept || random.bool() { MessageType::Normal } else { one_of(random, &kinds) };
        let system_properties = SystemProperties {
            tag: (!is_kept && random.bool()).then(|| "tag".to_owned()),
            message_id: format!("{:x}", random.u128(..)),
            message_type: kind as i32,
            message_group: (kind == MessageType::Fifo).then(|| "group".to_owned()),
            delivery_timestamp: (kind == MessageType::Delay).then(|| prost_types::Timestamp {
                seconds: edge(random).cast_signed(),
                nanos: random.i32(..),
            }),
            body_encoding: 1,
            ..Default::default()
        };
        Message {
            topic: resource(topic),
            system_properties: Some(system_properties),
            body: body.into(),
            ..Default::default()
        }
    }

    async fn send(&mut self) -> Result<(), String> {
        if self.random.u8(..3) > 0 {
            let topic = one_of(&mut self.random, &TOPICS);
            let size = if once_in(&mut self.random, 8) { 200_000 } else { 100 };
            let count = self.random.usize(..4);
            let messages = (0..count).map(|_| self.message(topic, vec![b'b'; size])).collect();
            let request = SendMessageRequest { messages }.encode_to_vec();
            return self.say("SendMessage", request).await.map(drop);
        }
        let body = Bytes::from(self.bodies.next());
        let topic = self.kept.clone();
        let message = self.message(&topic, body.to_vec());
        let request = SendMessageRequest { messages: vec![message] }.encode_to_vec();
        self.promises.say(body.clone());
        let answered = self.call(self.caller.clone(), "SendMessage", request).await?;
        if answered.code != Code::Ok as i32 {
            return Err(format!("a good message is answered with {}", answered.code));
        }
        for answer in answered.messages {
            let answer = SendMessageResponse::decode(answer).map_err(|error| error.to_string())?;
            if answer.entries.len() != 1 {
                return Err(format!("{} results for a message", answer.entries.len()));
            }
        }
        self.confirmed += 1;
        self.promises.owed.insert(body);
        Ok(())
    }

    fn wish(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let queue = MessageQueue { topic: resource(one_of(random, &TOPICS)), ..Default::default() };
        let filters = ["*", "tag || b", "a > 1 AND b IS NOT NULL", "((((", "a IN ('x'"];
        let expression = one_of(random, &filters).to_owned();
        let seconds = one_of(random, &[0, 0, 1, -1, i64::MAX]);
        let hidden = one_of(random, &[1, 10, 60, -1, i64::MAX]);
        ReceiveMessageRequest {
            group: resource(one_of(random, &GROUPS)),
            message_queue: Some(queue),
            filter_expression: once_in(random, 3)
                .then(|| FilterExpression { r#type: random.i32(..4), expression }),
            batch_size: one_of(random, &[1, 8, 32, 0, -1, i32::MAX]),
            auto_renew: random.bool(),
            invisible_duration: Some(prost_types::Duration { seconds: hidden, nanos: 0 }),
            long_polling_timeout: Some(prost_types::Duration { seconds, nanos: 1_000_000 }),
            attempt_id: random.bool().then(|| "again".to_owned()),
        }
        .encode_to_vec()
    }

    async fn receive(&mut self) -> Result<(), String> {
        let wish = self.wish();
        let Some(answered) = self.say("ReceiveMessage", wish).await? else { return Ok(()) };
        for part in answered.messages {
            let part = ReceiveMessageResponse::decode(part).map_err(|error| error.to_string())?;
            if let Some(Content::Message(message)) = part.content {
                self.delivered += 1;
                let system = message.system_properties.unwrap_or_default();
                let topic = message.topic.unwrap_or_default().name;
                self.handles.push((topic, system.receipt_handle.unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// With a handle that is good, used already, damaged, or none.
    async fn settle(&mut self) -> Result<(), String> {
        let random = &mut self.random;
        let (mut of, mut handle) = match self.handles.len() {
            0 => ("bad-a".to_owned(), "none".to_owned()),
            count => self.handles[random.usize(..count)].clone(),
        };
        match random.u8(..8) {
            0 => handle = "A".repeat(75),
            1 => {
                let mut bytes = handle.into_bytes();
                damage(random, &mut bytes);
                handle = String::from_utf8_lossy(&bytes).into_owned();
            }
            2 => of = "bad-b".to_owned(),
            _ => {}
        }
        let (group, topic) = (resource(one_of(random, &GROUPS)), resource(&of));
        let invisible_duration = Some(prost_types::Duration {
            seconds: edge(random).cast_signed(),
            nanos: random.i32(..),
        });
        let (name, request) = match random.u8(..6) {
            0..3 => {
                let entry = AckMessageEntry { receipt_handle: handle, ..Default::default() };
                let entries = vec![entry; random.usize(..4)];
                ("AckMessage", AckMessageRequest { group, topic, entries }.encode_to_vec())
            }
            3 | 4 => {
                let request = ChangeInvisibleDurationRequest {
                    group,
                    topic,
                    receipt_handle: handle,
                    invisible_duration,
                    ..Default::default()
                };
                ("ChangeInvisibleDuration", request.encode_to_vec())
            }
            _ => {
                let request = ForwardMessageToDeadLetterQueueRequest {
                    group,
                    topic,
                    receipt_handle: handle,
                    delivery_attempt: random.i32(..),
                    max_delivery_attempts: random.i32(..),
                    ..Default::default()
                };
                ("ForwardMessageToDeadLetterQueue", request.encode_to_vec())
            }
        };
        self.say(name, request).await.map(drop)
    }

    /// Telemetry in any order: settings of a client, what only a server says, and damaged ones.
    async fn talk(&mut self) -> Result<(), String> {
        let mut said = Vec::new();
        for _ in 0..self.random.usize(1..6) {
            let command = match self.random.u8(..4) {
                0..2 => Command::Settings(Settings {
                    client_type: Some(self.random.i32(..8)),
                    ..Default::default()
                }),
                2 => Command::VerifyMessageCommand(proto::VerifyMessageCommand::default()),
                _ => Command::ThreadStackTrace(proto::ThreadStackTrace::default()),
            };
            let mut bytes =
                TelemetryCommand { status: None, command: Some(command) }.encode_to_vec();
            if once_in(&mut self.random, 4) {
                damage(&mut self.random, &mut bytes);
            }
            said.push(Bytes::from(bytes));
        }
        self.calls += 1;
        let answered = self.caller.call("Telemetry", tokio_stream::iter(said)).await?;
        self.refused += u64::from(answered.is_refused);
        Ok(())
    }

    async fn rarely(&mut self) -> Result<(), String> {
        let random = &mut self.random;
        let (group, topic) = (resource(one_of(random, &GROUPS)), resource(one_of(random, &TOPICS)));
        let (name, request) = match random.u8(..8) {
            0 => ("QueryRoute", QueryRouteRequest { topic, endpoints: None }.encode_to_vec()),
            1 => {
                let request = QueryAssignmentRequest { topic, group, endpoints: None };
                ("QueryAssignment", request.encode_to_vec())
            }
            2 | 3 => {
                let client_type = random.i32(..8);
                ("Heartbeat", HeartbeatRequest { group, client_type }.encode_to_vec())
            }
            4 => {
                let request = EndTransactionRequest {
                    topic,
                    message_id: "m".to_owned(),
                    transaction_id: format!("{:x}", edge(random)),
                    resolution: random.i32(..4),
                    source: random.i32(..4),
                    trace_context: String::new(),
                };
                ("EndTransaction", request.encode_to_vec())
            }
            5 => {
                let recall_handle = format!("{:x}", random.u128(..));
                ("RecallMessage", RecallMessageRequest { topic, recall_handle }.encode_to_vec())
            }
            _ => (
                one_of(random, &OTHERS),
                HeartbeatRequest { group, client_type: 1 }.encode_to_vec(),
            ),
        };
        self.say(name, request).await.map(drop)
    }

    /// Many polls at once, most of which nobody waits for to the end.
    async fn flood(&mut self) -> Result<(), String> {
        let mut polls = JoinSet::new();
        for _ in 0..self.random.usize(50..400) {
            let (mut caller, wish) = (self.caller.clone(), Bytes::from(self.wish()));
            polls.spawn(async move {
                caller.call("ReceiveMessage", tokio_stream::once(wish)).await.map(drop)
            });
        }
        let patience = Duration::from_millis(self.random.u64(..200));
        let waited = async {
            while let Some(poll) = polls.join_next().await {
                poll.map_err(|error| error.to_string())??;
            }
            Ok(())
        };
        time::timeout(patience, waited).await.unwrap_or(Ok(()))
    }
}
