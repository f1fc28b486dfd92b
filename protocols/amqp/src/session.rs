//! The conversation with one client: what each frame means after the frames before it.
//!
//! Pure: frames, answers of the store and deliveries go in, [`Effect`]s come out. Time comes in
//! as an argument; randomness as a seed.
//!
//! ```text
//! starting --start-ok--> verifying --logged in--> tuning --tune-ok--> opening --open--> entering
//!                                                                                          |
//!             closed <--close-ok-- closing <------------- our close ------------------- running
//!               ^--------------------------------- their close ----------------------------/
//! ```

pub mod effect;
pub mod fault;

mod basic;
mod bounds;
mod channel;
pub(crate) mod equivalence;
mod handshake;
mod inventory;
mod policy;
mod publish;
mod sieve;
pub(crate) mod topology;
mod unpublished;
mod unsettled;

pub use basic::Handing;
pub(crate) use basic::{DIRECT_REPLY, check_gettable, counts_returns};
pub use effect::{Answer, Answered, Ask, Content, Effect, Request, Then, Ticket};
pub use equivalence::{kind_words, type_word};
pub use fault::{Code, Fault};
pub use sieve::Sieve;

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use mainstem_schemas::{ConsumerId, Settlement, Table, UnixMillis, Verdict};
use rustc_hash::FxHashMap;

use crate::{
    codec::{Frame, Kind, Method, MethodFault, Reply, method::BasicPublish},
    limits::Limits,
};
use channel::Channel;
use unpublished::Unpublished;

/// Largest frame before the peers have agreed on one (RabbitMQ 4.1: `initial_frame_max`).
const FRAME_MAX_UNTUNED: usize = 8192;

/// What is to be done, in order.
pub type Effects = VecDeque<Effect>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Verifying,
    Tuning,
    Opening,
    Entering,
    Running,
    /// We sent connection.close; everything but the answer is discarded.
    Closing,
    Closed,
}

/// What the client said it understands.
#[derive(Clone, Copy, Debug, Default)]
struct Capabilities {
    authentication_failure_close: bool,
    consumer_cancel_notify: bool,
    connection_blocked: bool,
}

/// A consumer of this connection.
#[derive(Debug)]
struct Reader {
    channel: u16,
    queue: String,
    consumer_tag: Bytes,
    is_stream: bool,
    /// It is told how often a record came back.
    counts_returns: bool,
    /// How long it may leave a delivery unsettled; 0 for any time.
    timeout_ms: u64,
    sieve: Sieve,
}

/// Consecutive confirms of one channel that can be told in one.
#[derive(Clone, Copy, Debug)]
struct Run {
    channel: u16,
    first: u64,
    last: u64,
}

/// One client's conversation.
#[derive(Debug)]
pub struct Session {
    limits: Arc<Limits>,
    /// Largest body the store takes.
    body_max: usize,
    phase: Phase,
    random: fastrand::Rng,
    now: UnixMillis,
    capabilities: Capabilities,
    mechanism: &'static str,
    /// What it said of itself, until that is told.
    client_properties: Table,
    /// The name in the client's certificate, where the transport verified one.
    certified: Option<String>,
    user: String,
    vhost: String,
    channel_max: u16,
    frame_max: usize,
    heartbeat_s: u16,
    channels: FxHashMap<u16, Channel>,
    channel_lives: u32,
    readers: FxHashMap<ConsumerId, Reader>,
    last_consumer: u64,
    run: Option<Run>,
    /// The shortest time that somebody's deliveries may stay unsettled; 0 for any time.
    shortest_timeout_ms: u64,
    unpublished: Unpublished,
    has_published: bool,
    disk_low: bool,
    told_blocked: bool,
}

impl Session {
    /// A conversation in which the client sent the protocol header; begins with our
    /// connection.start. `seed` makes server-chosen names unguessable.
    /// `certified` is the name in the client's certificate, where the transport verified one.
    pub fn start(
        limits: Arc<Limits>,
        body_max: usize,
        seed: u64,
        certified: Option<String>,
        effects: &mut Effects,
    ) -> Self {
        let reply = handshake::start(&limits, certified.is_some());
        effects.push_back(Effect::Write { channel: 0, reply });
        let frame_max = FRAME_MAX_UNTUNED.min(limits.frame_max_bytes as usize);
        Self {
            channel_max: limits.channel_max,
            shortest_timeout_ms: limits.delivery_ack_timeout_ms,
            frame_max,
            limits,
            body_max,
            phase: Phase::Starting,
            random: fastrand::Rng::with_seed(seed),
            now: UnixMillis::NONE,
            capabilities: Capabilities::default(),
            mechanism: "",
            client_properties: Table::new(),
            certified,
            user: String::new(),
            vhost: String::new(),
            heartbeat_s: 0,
            channels: FxHashMap::default(),
            channel_lives: 0,
            readers: FxHashMap::default(),
            last_consumer: 0,
            run: None,
            unpublished: Unpublished::default(),
            has_published: false,
            disk_low: false,
            told_blocked: false,
        }
    }

    /// Largest frame both sides take, in bytes.
    #[must_use]
    pub fn frame_max(&self) -> usize {
        self.frame_max
    }

    /// The interval of heartbeats; 0 for none, and until it is agreed.
    #[must_use]
    pub fn heartbeat_s(&self) -> u16 {
        self.heartbeat_s
    }

    /// Whether the connection is open: no handshake under way, no close.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether the handshake is not yet done.
    #[must_use]
    pub fn is_opening(&self) -> bool {
        match self.phase {
            Phase::Starting
            | Phase::Verifying
            | Phase::Tuning
            | Phase::Opening
            | Phase::Entering => true,
            Phase::Running | Phase::Closing | Phase::Closed => false,
        }
    }

    /// Whether we wait for the answer to our connection.close.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    /// The namespace, once entered.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// Takes one frame.
    pub fn handle(&mut self, frame: Frame, now: UnixMillis, effects: &mut Effects) {
        self.now = now;
        match self.phase {
            Phase::Closed => {}
            Phase::Closing => self.handle_closing(&frame, effects),
            Phase::Starting
            | Phase::Verifying
            | Phase::Tuning
            | Phase::Opening
            | Phase::Entering
            | Phase::Running => self.handle_live(frame, effects),
        }
    }

    fn handle_live(&mut self, frame: Frame, effects: &mut Effects) {
        let Frame { kind, channel, payload } = frame;
        match kind {
            Kind::Heartbeat if channel == 0 => {}
            Kind::Heartbeat => {
                let text = format!("heartbeat frame on channel {channel}");
                self.fail(0, &Fault::new(Code::UnexpectedFrame, text), (0, 0), effects);
            }
            Kind::Method => match Method::decode(&payload) {
                Ok(method) => {
                    let id = method.id();
                    if let Err(fault) = self.handle_method(channel, method, effects) {
                        self.fail(channel, &fault, id, effects);
                    }
                }
                // RabbitMQ drops the connection without a word.
                Err(MethodFault::Unknown { .. }) => self.hang_up(0, effects),
                Err(fault @ MethodFault::Truncated) => {
                    let fault = Fault::new(Code::FrameError, fault.to_string());
                    self.fail(0, &fault, (0, 0), effects);
                }
            },
            Kind::Header | Kind::Body => {
                if let Err(fault) = self.handle_content(channel, kind, payload, effects) {
                    self.fail(channel, &fault, (60, 40), effects);
                }
            }
        }
    }

    /// We asked for the end: only the answer counts, or that the client asks too.
    fn handle_closing(&mut self, frame: &Frame, effects: &mut Effects) {
        if frame.kind != Kind::Method || frame.channel != 0 {
            return;
        }
        match Method::decode(&frame.payload) {
            Ok(Method::CloseOk) => self.hang_up(0, effects),
            Ok(Method::Close { .. }) => {
                effects.push_back(Effect::Write { channel: 0, reply: Reply::CloseOk });
            }
            Ok(_) | Err(_) => {}
        }
    }

    fn handle_method(
        &mut self,
        channel: u16,
        method: Method,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        if let Method::Close { .. } = method {
            self.phase = Phase::Closing;
            effects.push_back(Effect::Leave);
            effects.push_back(Effect::Write { channel: 0, reply: Reply::CloseOk });
            self.hang_up(0, effects);
            return Ok(());
        }
        if self.phase != Phase::Running {
            return self.handle_handshake(channel, method, effects);
        }
        if channel == 0 {
            return self.handle_connection(method, effects);
        }
        match (self.channels.get_mut(&channel), &method) {
            (Some(open), _) if open.closing => {
                self.handle_closing_channel(channel, &method, effects);
                Ok(())
            }
            (Some(_), Method::ChannelOpen) => {
                Err(Fault::new(Code::ChannelError, "second 'channel.open' seen"))
            }
            (Some(open), _) => {
                open.method()?;
                self.handle_channel(channel, method, effects)
            }
            (None, Method::ChannelOpen) => self.open_channel(channel, effects),
            // Both sides closed at once; ours was answered by theirs.
            (None, Method::ChannelCloseOk) => Ok(()),
            (None, _) => Err(Fault::new(Code::ChannelError, "expected 'channel.open'")),
        }
    }

    fn handle_connection(&mut self, method: Method, effects: &mut Effects) -> Result<(), Fault> {
        match method {
            Method::UpdateSecret { secret } => {
                effects.push_back(Effect::Renew(secret));
                Ok(())
            }
            other => {
                let (class, method) = other.id();
                let text = format!("unexpected method {class}.{method} on channel 0");
                Err(Fault::new(Code::CommandInvalid, text))
            }
        }
    }

    /// Whether the new secret was taken; a password never ends, so that any is.
    pub fn renewed(&mut self, is_taken: bool, effects: &mut Effects) {
        if is_taken {
            effects.push_back(Effect::Write { channel: 0, reply: Reply::UpdateSecretOk });
        } else {
            let text = "New secret was refused by one of the backends";
            self.fail(0, &Fault::new(Code::NotAllowed, text), (10, 70), effects);
        }
    }

    fn handle_closing_channel(&mut self, channel: u16, method: &Method, effects: &mut Effects) {
        match method {
            Method::ChannelCloseOk => self.forget_channel(channel),
            Method::ChannelClose { .. } => {
                self.forget_channel(channel);
                effects.push_back(Effect::Write { channel, reply: Reply::ChannelCloseOk });
            }
            _ => {}
        }
    }

    fn handle_channel(
        &mut self,
        channel: u16,
        method: Method,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        match method {
            Method::Publish(publish) => self.publish(channel, publish),
            Method::Ack { delivery_tag, multiple } => {
                self.settle(channel, delivery_tag, multiple, Verdict::Accept, effects)
            }
            Method::Nack { delivery_tag, multiple, requeue } => {
                let verdict = if requeue { Verdict::Release } else { Verdict::Reject };
                self.settle(channel, delivery_tag, multiple, verdict, effects)
            }
            Method::Reject { delivery_tag, requeue } => {
                let verdict = if requeue { Verdict::Release } else { Verdict::Reject };
                self.settle(channel, delivery_tag, false, verdict, effects)
            }
            Method::ChannelClose { .. } => {
                self.release_channel(channel, effects);
                self.forget_channel(channel);
                effects.push_back(Effect::Write { channel, reply: Reply::ChannelCloseOk });
                Ok(())
            }
            Method::ChannelFlow { active: true } => {
                let reply = Reply::ChannelFlowOk { active: true };
                effects.push_back(Effect::Write { channel, reply });
                Ok(())
            }
            Method::ChannelFlow { active: false } => Err(Fault::not_implemented("active=false")),
            Method::ChannelCloseOk | Method::ChannelFlowOk | Method::CancelOk => Ok(()),
            Method::AccessRequest => {
                effects.push_back(Effect::Write { channel, reply: Reply::AccessRequestOk });
                Ok(())
            }
            other => self.handle_rare(channel, other, effects),
        }
    }

    fn handle_rare(
        &mut self,
        channel: u16,
        method: Method,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let ask = match method {
            Method::Qos { prefetch_size, prefetch_count, global } => {
                return self.qos(channel, prefetch_size, prefetch_count, global, effects);
            }
            Method::Recover { requeue } => return self.recover(channel, requeue, true, effects),
            Method::RecoverAsync { requeue } => {
                return self.recover(channel, requeue, false, effects);
            }
            Method::ConfirmSelect { no_wait } => {
                return self.confirm_select(channel, no_wait, effects);
            }
            Method::TxSelect => return self.tx_select(channel, effects),
            Method::TxRollback => return self.tx_rollback(channel, effects),
            Method::TxCommit => self.tx_commit(channel, effects)?,
            Method::Consume(consume) => self.consume(channel, consume)?,
            Method::Get { queue, no_ack } => self.get(channel, &queue, no_ack)?,
            Method::Cancel { consumer_tag, no_wait } => {
                match self.cancel(channel, consumer_tag, no_wait, effects) {
                    Some(ask) => ask,
                    None => return Ok(()),
                }
            }
            other => self.topology(channel, other)?,
        };
        effects.push_back(Effect::Ask(ask));
        Ok(())
    }

    fn handle_content(
        &mut self,
        channel: u16,
        kind: Kind,
        payload: Bytes,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        if kind == Kind::Header {
            self.attach(channel);
        }
        let Some(open) = self.channels.get_mut(&channel) else {
            return Err(Fault::new(Code::ChannelError, "expected 'channel.open'"));
        };
        if open.closing {
            return Ok(());
        }
        let whole = match kind {
            Kind::Header => open.header(&payload, self.body_max)?,
            Kind::Body => open.body(payload)?,
            Kind::Method | Kind::Heartbeat => None,
        };
        if let Some((publish, content)) = whole {
            self.published_whole(channel, &publish, content, effects)?;
        }
        self.recount(channel);
        self.check_unpublished()
    }

    /// Tells the client what it did wrong, and ends what the fault ends.
    pub fn fail(&mut self, channel: u16, fault: &Fault, method: (u16, u16), effects: &mut Effects) {
        let alive = !matches!(self.phase, Phase::Closing | Phase::Closed);
        if !alive {
            return;
        }
        if fault.code.is_hard() || channel == 0 || self.phase != Phase::Running {
            self.flush_confirms(effects);
            self.phase = Phase::Closing;
            let reply = Reply::Close(fault.close(method));
            effects.push_back(Effect::Write { channel: 0, reply });
            self.channels.clear();
            self.unpublished = Unpublished::default();
            self.readers.clear();
            effects.push_back(Effect::Leave);
            return;
        }
        if self.channels.get(&channel).is_none_or(|open| open.closing) {
            return;
        }
        self.flush_confirms(effects);
        self.release_channel(channel, effects);
        if let Some(open) = self.channels.get_mut(&channel) {
            open.closing = true;
            open.incoming = channel::Incoming::Nothing;
            open.mode = channel::Mode::Plain;
        }
        self.recount(channel);
        let reply = Reply::ChannelClose(fault.close(method));
        effects.push_back(Effect::Write { channel, reply });
    }

    /// A fault in one publish, found after the session let it go.
    pub fn fail_publish(&mut self, ticket: &Ticket, fault: &Fault, effects: &mut Effects) {
        let same_life = |open: &Channel| open.life == ticket.life;
        if self.channels.get(&ticket.channel).is_some_and(same_life) {
            self.fail(ticket.channel, fault, (60, 40), effects);
        }
    }

    /// Ends a channel's consumers, then releases what it has unsettled, in that order, so that
    /// nothing comes back to itself.
    fn release_channel(&mut self, channel: u16, effects: &mut Effects) {
        let Some(open) = self.channels.get_mut(&channel) else { return };
        for (_, consumer) in open.consumers.drain() {
            self.readers.remove(&consumer);
            effects.push_back(Effect::Drop(consumer));
        }
        if let channel::Mode::Transaction(transaction) = &mut open.mode {
            let settled = std::mem::take(&mut transaction.settled);
            open.unsettled
                .put_back(settled.into_iter().map(|(tag, held, _)| (tag, held)).collect());
        }
        for id in open.unsettled.take_all() {
            effects.push_back(Effect::Settle(Settlement { id, verdict: Verdict::Release }));
        }
        if std::mem::take(&mut open.shared_prefetch) > 0 {
            effects.push_back(Effect::SetPool { pool: channel, limit: 0 });
        }
    }

    /// The server shuts down.
    pub fn shut_down(&mut self, effects: &mut Effects) {
        match self.phase {
            Phase::Starting | Phase::Verifying => self.hang_up(0, effects),
            Phase::Tuning | Phase::Opening | Phase::Entering | Phase::Running => {
                self.fail(0, &Fault::shutdown(), (0, 0), effects);
            }
            Phase::Closing | Phase::Closed => {}
        }
    }

    fn hang_up(&mut self, after_ms: u64, effects: &mut Effects) {
        self.phase = Phase::Closed;
        effects.push_back(Effect::Hangup { after_ms });
    }

    /// The disk is low, or no longer.
    pub fn disk_low(&mut self, low: bool, effects: &mut Effects) {
        self.disk_low = low;
        if !low && std::mem::take(&mut self.told_blocked) && self.phase == Phase::Running {
            effects.push_back(Effect::Write { channel: 0, reply: Reply::Unblocked });
        }
        self.tell_blocked(effects);
    }

    /// Whether to read no more from this client for now: it publishes, and the disk is low.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.disk_low && self.has_published && self.phase == Phase::Running
    }

    /// Only those who publish are told, once, and only if they understand.
    fn tell_blocked(&mut self, effects: &mut Effects) {
        let wants = self.capabilities.connection_blocked && !self.told_blocked;
        if wants && self.is_blocked() {
            self.told_blocked = true;
            let reply = Reply::Blocked { reason: "low on disk" };
            effects.push_back(Effect::Write { channel: 0, reply });
        }
    }

    /// The method of a publish: its content follows.
    fn publish(&mut self, channel: u16, publish: BasicPublish) -> Result<(), Fault> {
        if publish.immediate {
            return Err(Fault::not_implemented("immediate=true"));
        }
        if let Some(open) = self.channels.get_mut(&channel) {
            open.incoming = channel::Incoming::Method(publish);
        }
        self.attach(channel);
        self.recount(channel);
        Ok(())
    }

    /// 16 random bytes in 22 characters, as RabbitMQ names what it names itself.
    fn random_name(&mut self, prefix: &str) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut bits = self.random.u128(..);
        let mut name = prefix.to_owned();
        for _ in 0..22 {
            let index = usize::try_from(bits & 63).unwrap_or_default();
            name.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'A')));
            bits >>= 6;
        }
        name
    }
}

#[cfg(test)]
mod tests;
