//! One connection: its socket, its session, and what it has under way in the store.

use std::{collections::VecDeque, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use mainstem_broker::{
    Broker, Call, Client, Delivery, Entered, Inbox, Line, LoginError, Notice, Publish, Published,
    Receipt, Refusal,
};
use mainstem_schemas::{Credentials, Record, Secret, Settlement};
use tokio::{
    net::TcpStream,
    time::{self, Interval, MissedTickBehavior, Sleep},
};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use super::{
    ask, deliver,
    output::Output,
    stream::{self, Reader},
};
use crate::{
    codec::{Frame, PROTOCOL_HEADER, frame},
    limits::Limits,
    normalize::Delaying,
    session::{Effect, Effects, Fault, Session, Then, Ticket},
};

mod notices;
mod publishing;

/// The first read of a connection; later ones grow with what comes.
const READ_BYTES_MIN: usize = 4 << 10;
/// The namespace a login is tried in before the client has named its own.
const DEFAULT_NAMESPACE: &str = "/";
/// Heartbeats go out, and silence is counted, in halves of the interval; the peer is taken for
/// dead after three whole ones.
const SILENT_HALVES_MAX: u32 = 6;
/// How long to read what a peer still sends after our last word, so that it gets that word.
const LINGER: Duration = Duration::from_secs(1);
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(60);
/// "Never", for an alarm.
const FAR: Duration = Duration::from_secs(86_400 * 365);

/// Everything that can wake a connection.
enum Event {
    Read(io::Result<usize>),
    /// Frames that were read wait no more for the peer to take its answers.
    Behind,
    Writable(io::Result<()>),
    Notices,
    Outcome(Result<Vec<Published>, Refusal>),
    Alarm,
    /// It is time to look for deliveries that nobody settles.
    Look,
    /// An operator wants something.
    Called(Call),
    Shutdown,
}

/// What the alarm is set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Running,
    Closing,
}

/// The way into the store, once let in.
struct Attached {
    client: Client,
    inbox: Inbox,
}

/// A publish whose outcome is awaited.
struct Sent {
    ticket: Ticket,
    /// Kept for a return.
    record: Option<Record>,
}

/// A batch of publishes whose outcome is awaited.
struct Waiting {
    receipt: Receipt,
    sent: Vec<Sent>,
}

struct Connection {
    line: Arc<Line>,
    broker: Broker,
    limits: Arc<Limits>,
    shutdown: CancellationToken,
    reader: Reader,
    input: BytesMut,
    read_bytes: usize,
    /// Frames were read that wait until the peer has taken its answers to others.
    is_behind: bool,
    output: Output,
    session: Session,
    effects: Effects,
    login: Option<Secret>,
    attached: Option<Attached>,
    /// Counted in its virtual host and with its user, and on the roll.
    entered: Option<Entered>,
    /// What the exchange last published to with a delay does about it, for the frames at hand.
    last_delaying: Option<(Bytes, Delaying)>,
    /// Publishes and settlements of the frames at hand, not sent yet.
    publishes: Vec<Publish>,
    sent: Vec<Sent>,
    settlements: Vec<Settlement>,
    waiting: VecDeque<Waiting>,
    notices: Vec<Notice>,
    deliveries: Vec<Delivery>,
    alarm: Pin<Box<Sleep>>,
    looks: Interval,
    stage: Stage,
    silent_halves: u32,
    /// Set when the session has ended: close after this pause.
    hangup: Option<Duration>,
    told_shutdown: bool,
}

/// Serves one client until it leaves.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    broker: Broker,
    limits: Arc<Limits>,
    shutdown: CancellationToken,
    tls: Option<Arc<ServerConfig>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let line = Line::new(peer, stream.local_addr()?, tls.is_some());
    let mut input = BytesMut::with_capacity(READ_BYTES_MIN);
    let wait = Duration::from_millis(limits.handshake_ms);
    let begin = async {
        let (mut reader, writer, certified) = stream::open(stream, tls).await?;
        let header = read_header(&mut reader, &mut input, &line).await?;
        io::Result::Ok((reader, writer, certified, header))
    };
    let begun = tokio::select! {
        begun = time::timeout(wait, begin) => begun,
        () = shutdown.cancelled() => return Ok(()),
    };
    let Ok(begun) = begun else { return Ok(()) };
    let (reader, writer, certified, header) = begun?;
    let mut output = Output::new(writer, line.clone());
    if !matches!(header, PROTOCOL_HEADER | frame::PROTOCOL_HEADER_0_9) {
        output.buffer.extend_from_slice(&PROTOCOL_HEADER);
        return part(reader, output).await;
    }
    let mut effects = Effects::new();
    let body_max = broker.config().message_bytes_max;
    let seed = fastrand::u64(..);
    let session = Session::start(limits.clone(), body_max, seed, certified, &mut effects);
    let looks = looks(session.shortest_timeout_ms());
    let mut connection = Connection {
        line,
        broker,
        limits,
        shutdown,
        reader,
        input,
        read_bytes: READ_BYTES_MIN,
        is_behind: false,
        output,
        session,
        effects,
        login: None,
        attached: None,
        entered: None,
        last_delaying: None,
        publishes: Vec::new(),
        sent: Vec::new(),
        settlements: Vec::new(),
        waiting: VecDeque::new(),
        notices: Vec::new(),
        deliveries: Vec::new(),
        alarm: Box::pin(time::sleep(wait)),
        looks,
        stage: Stage::Opening,
        silent_halves: 0,
        hangup: None,
        told_shutdown: false,
    };
    connection.run().await?;
    let Connection { reader, output, hangup, .. } = connection;
    match hangup {
        Some(Duration::ZERO) | None => part(reader, output).await,
        Some(pause) => {
            time::sleep(pause).await;
            Ok(())
        }
    }
}

/// When to look for deliveries that nobody settles: each minute, as RabbitMQ, or more often where
/// the timeout is of that order.
fn looks(timeout_ms: u64) -> Interval {
    let mut looks = time::interval(look_interval(timeout_ms));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

fn look_interval(timeout_ms: u64) -> Duration {
    let quarter = Duration::from_millis(timeout_ms / 4);
    if timeout_ms == 0 { LOOK_MAX } else { quarter.clamp(LOOK_MIN, LOOK_MAX) }
}

/// The eight bytes every client begins with.
async fn read_header(
    reader: &mut Reader,
    input: &mut BytesMut,
    line: &Line,
) -> io::Result<[u8; 8]> {
    loop {
        if let Some(header) = input.first_chunk::<8>().copied() {
            let _header = input.split_to(header.len());
            return Ok(header);
        }
        let read = reader.read_buf(input).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.received.add(read);
    }
}

/// Writes the last words, then reads until the peer is gone: closing a socket with unread bytes
/// would take our words back.
async fn part(mut reader: Reader, mut output: Output) -> io::Result<()> {
    let rest = async {
        output.write_all().await?;
        output.finish().await?;
        let mut unread = BytesMut::with_capacity(READ_BYTES_MIN);
        while reader.read_buf(&mut unread).await? > 0 {
            unread.clear();
        }
        Ok(())
    };
    time::timeout(LINGER, rest).await.unwrap_or(Ok(()))
}

impl Connection {
    async fn run(&mut self) -> io::Result<()> {
        self.perform().await;
        self.take_frames().await;
        while self.hangup.is_none() {
            self.output.write_ready()?;
            self.set_stage();
            match self.next().await {
                Event::Read(read) => {
                    let read = read?;
                    if read == 0 {
                        return Ok(());
                    }
                    self.line.received.add(read);
                    self.silent_halves = 0;
                    if read >= self.read_bytes {
                        self.read_bytes = (read * 4).min(self.limits.read_bytes_max);
                    }
                    self.take_frames().await;
                    self.session.detach();
                }
                Event::Behind => {
                    self.take_frames().await;
                    self.session.detach();
                }
                Event::Writable(ready) => ready?,
                Event::Notices => self.take_notices().await,
                Event::Outcome(outcome) => self.take_outcome(outcome),
                Event::Alarm => {
                    if !self.ring() {
                        return Ok(());
                    }
                }
                Event::Look => {
                    self.session.look_at_unsettled(self.broker.now(), &mut self.effects);
                }
                Event::Called(call) => self.answer_call(call),
                Event::Shutdown => {
                    self.told_shutdown = true;
                    self.session.shut_down(&mut self.effects);
                }
            }
            self.perform().await;
            self.flush().await;
            if let Some(entered) = &mut self.entered {
                entered.keep_channels(self.session.channels_open());
            }
            let timeout_ms = self.session.shortest_timeout_ms();
            if look_interval(timeout_ms) != self.looks.period() {
                self.looks = looks(timeout_ms);
            }
        }
        Ok(())
    }

    /// Waits for whatever comes first. Every branch is cancel-safe: reading, writability, the
    /// inbox, a receipt, the alarms, a call and the shutdown lose nothing when another branch wins.
    async fn next(&mut self) -> Event {
        let can_read = self.can_read();
        if self.is_behind && can_read {
            return Event::Behind;
        }
        let is_waiting = self.output.is_waiting();
        let can_deliver = self.output.buffer.len() < self.limits.write_pause_bytes;
        let Self { reader, input, output, attached, notices, waiting, alarm, looks, .. } = self;
        let entered = self.entered.as_ref();
        if can_read {
            input.reserve(self.read_bytes);
        }
        let deliver = async {
            match attached {
                Some(attached) => attached.client.recv(&mut attached.inbox, notices).await,
                None => std::future::pending().await,
            }
        };
        let outcome = async {
            match waiting.front_mut() {
                Some(first) => (&mut first.receipt).await,
                None => std::future::pending().await,
            }
        };
        let called = async {
            match entered {
                Some(entered) => entered.standing().called().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = reader.read_buf(input), if can_read => Event::Read(read),
            outcome = outcome => Event::Outcome(outcome),
            () = deliver, if can_deliver => Event::Notices,
            ready = output.writable(), if is_waiting => Event::Writable(ready),
            () = alarm.as_mut() => Event::Alarm,
            _ = looks.tick() => Event::Look,
            call = called => Event::Called(call),
            () = self.shutdown.cancelled(), if !self.told_shutdown => Event::Shutdown,
        }
    }

    fn answer_call(&mut self, call: Call) {
        match call {
            Call::End(reason) => {
                tracing::info!(line = %self.line, reason, "an operator ends the connection");
                self.session.end(&reason, &mut self.effects);
            }
            Call::Look(look) => {
                // An error means that nobody waits for it any more.
                let _unwanted = look.send(self.session.channels(self.broker.now()));
            }
        }
    }

    /// A peer that does not read, whose publishes wait for the disk, or whose publishes are not
    /// wanted while the disk is low, is read no further.
    fn can_read(&self) -> bool {
        self.output.buffer.len() < self.limits.write_bytes_max
            && self.waiting.len() < self.limits.batches_unconfirmed_max
            && !self.session.is_blocked()
    }

    /// Sets the alarm anew when the connection has come to another stage.
    fn set_stage(&mut self) {
        let stage = if self.session.is_opening() {
            Stage::Opening
        } else if self.session.is_closing() {
            Stage::Closing
        } else {
            Stage::Running
        };
        if stage == self.stage {
            return;
        }
        self.stage = stage;
        let wait = match stage {
            Stage::Opening => Duration::from_millis(self.limits.handshake_ms),
            Stage::Running => self.half_heartbeat(),
            Stage::Closing => Duration::from_millis(self.limits.close_wait_ms),
        };
        self.alarm.set(time::sleep(wait));
    }

    fn half_heartbeat(&self) -> Duration {
        match self.session.heartbeat_s() {
            0 => FAR,
            seconds => Duration::from_secs(seconds.into()) / 2,
        }
    }

    /// Whether to go on. A peer that took too long to open or to close, or fell silent, is
    /// dropped without a word.
    fn ring(&mut self) -> bool {
        if self.stage != Stage::Running {
            return false;
        }
        if self.session.heartbeat_s() > 0 {
            // Silence that is our own doing does not count.
            self.silent_halves = if self.can_read() { self.silent_halves + 1 } else { 0 };
            if self.silent_halves >= SILENT_HALVES_MAX {
                tracing::info!(peer = %self.line.peer, "missed heartbeats");
                return false;
            }
            if !std::mem::take(&mut self.output.is_active) && self.output.buffer.is_empty() {
                frame::put_heartbeat(&mut self.output.buffer);
            }
        }
        self.alarm.set(time::sleep(self.half_heartbeat()));
        true
    }

    /// Handles every whole frame that was read, as long as the peer takes the answers: a short get
    /// may be answered by a large message. Their publishes and settlements go to the store as one
    /// batch each.
    async fn take_frames(&mut self) {
        let now = self.broker.now();
        self.last_delaying = None;
        self.is_behind = false;
        while self.hangup.is_none() {
            if self.output.buffer.len() >= self.limits.write_bytes_max {
                self.is_behind = true;
                return;
            }
            match Frame::split(&mut self.input, self.session.frame_max()) {
                Ok(Some(frame)) => {
                    self.session.handle(frame, now, &mut self.effects);
                    self.perform().await;
                }
                Ok(None) => return,
                Err(fault) => {
                    self.input.clear();
                    if self.session.is_closing() {
                        self.hangup = Some(Duration::ZERO);
                    }
                    self.session.fail(0, &Fault::from(fault), (0, 0), &mut self.effects);
                    return self.perform().await;
                }
            }
        }
    }

    async fn perform(&mut self) {
        while let Some(effect) = self.effects.pop_front() {
            match effect {
                Effect::Write { channel, reply } => reply.put(&mut self.output.buffer, channel),
                Effect::Publish { ticket, content } => self.publish(ticket, &content).await,
                Effect::Settle(settlement) => self.settlements.push(settlement),
                other => self.perform_slowly(other).await,
            }
        }
    }

    /// The effects that wait for the store.
    async fn perform_slowly(&mut self, effect: Effect) {
        match effect {
            Effect::Write { .. } | Effect::Publish { .. } | Effect::Settle(_) => {}
            Effect::CountChannel { channel, others } => {
                let entered = self.entered.as_mut();
                let counted = entered.map_or(Ok(()), |entered| entered.open_channel(others));
                self.session.channel_counted(channel, counted, &mut self.effects);
            }
            Effect::Login(login) => {
                let outcome = self.log_in(DEFAULT_NAMESPACE, &login).await;
                self.login = Some(login);
                self.session.logged_in(outcome, &mut self.effects);
            }
            Effect::Renew(secret) => {
                let client = self.attached.as_ref().map(|attached| &attached.client);
                let renewed = client.map(|client| self.broker.renew(client.principal(), &secret));
                self.session.renewed(renewed == Some(Ok(())), &mut self.effects);
            }
            Effect::Enter { vhost } => {
                let outcome = self.enter(&vhost).await;
                let client = self.attached.as_ref().map(|attached| &attached.client);
                let introduced = client.map(|at| (at, self.session.introduce(self.line.clone())));
                match introduced.map(|(at, words)| self.broker.enter(at, words)).transpose() {
                    Ok(entered) => {
                        self.entered = entered;
                        self.session.entered(vhost, outcome, &mut self.effects);
                    }
                    Err(over) => self.session.turned_away(&vhost, &over, &mut self.effects),
                }
            }
            Effect::SetPool { pool, limit } => {
                self.flush().await;
                if let Some(attached) = &self.attached {
                    let done = attached.client.set_pool(pool, limit).await;
                    self.note_refusal(done);
                }
            }
            Effect::Drop(consumer) => {
                self.flush().await;
                if let Some(attached) = &self.attached {
                    let done = attached.client.cancel(consumer).await.map(drop);
                    self.note_refusal(done);
                }
            }
            Effect::Ask(question) => {
                self.settle_receipts().await;
                if self.session.is_open(question.channel) {
                    self.ask(question.channel, question.request, question.then).await;
                }
            }
            Effect::WriteGot { channel, delivery_tag, delivery, counts_returns, message_count } => {
                let tags = (channel, delivery_tag, message_count);
                let out = &mut self.output.buffer;
                let (session, broker) = (&self.session, &self.broker);
                deliver::put_got(out, session, broker, tags, &delivery, counts_returns);
            }
            Effect::Leave => {
                // The confirms of what was published go in front of the goodbye.
                let mut rest = std::mem::take(&mut self.effects);
                self.settle_receipts().await;
                self.effects.append(&mut rest);
                self.entered = None;
                if let Some(Attached { client, .. }) = self.attached.take() {
                    client.close().await;
                }
            }
            Effect::Hangup { after_ms } => self.hangup = Some(Duration::from_millis(after_ms)),
        }
    }

    async fn ask(&mut self, channel: u16, request: crate::session::Request, then: Then) {
        self.last_delaying = None;
        let Some(attached) = &self.attached else { return };
        let answer = ask(&attached.client, request).await;
        if let Then::Cancelled { .. } = &then {
            // What was handed to the consumer before it ended goes out before cancel-ok.
            self.take_ready_notices().await;
        }
        self.session.answered(channel, then, answer, &mut self.effects);
    }

    fn credentials(&self, namespace: &str, login: &Secret) -> Credentials {
        Credentials { namespace: namespace.to_owned(), secret: login.clone(), peer: self.line.peer }
    }

    async fn log_in(&mut self, namespace: &str, login: &Secret) -> Result<(), LoginError> {
        let credentials = self.credentials(namespace, login);
        let (client, inbox) = self.broker.login(&credentials).await?;
        self.attached = Some(Attached { client, inbox });
        Ok(())
    }

    /// The login was made in the default namespace; for another one it is made again.
    async fn enter(&mut self, vhost: &str) -> Result<(), LoginError> {
        let login = self.login.take().ok_or(LoginError::BadCredentials)?;
        if vhost == DEFAULT_NAMESPACE && self.attached.is_some() {
            return Ok(());
        }
        self.attached = None;
        self.log_in(vhost, &login).await
    }
}
