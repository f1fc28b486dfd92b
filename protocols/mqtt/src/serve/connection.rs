//! One client's connection: the state, and the loop that everything wakes.

use std::{collections::VecDeque, io, mem, pin::Pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use mainstem_broker::{
    Call, Client, Entered, Inbox, Line, Notice, Published, Receipt, Refusal, SessionOpened,
    Subscription,
};
use mainstem_schemas::{Filter, Settlement, Verdict, filter::Step};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, Sleep},
};

use super::{
    Server,
    appetite::Appetite,
    delivering::Retained,
    exactly_once::ExactlyOnce,
    exclusive::Claims,
    greeting::{self, Opened},
    noted::Releasing,
    pace::Pace,
    peers::Holder,
    proving::Proving,
    publishing::Owed,
    statistics::{self, Watching},
    subscribing::Queues,
};
use crate::{
    codec::{self, Fault, Qos, Reason, Reply, Will, frame, reply::Ears, subscribe::MARK},
    normalize::testament::Safe,
    session::{Aliases, DeliveryIds, Effect, Options, Session},
};

/// Who the client is.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) namespace: Arc<str>,
    pub(super) client_id: String,
    /// The server chose the client identifier.
    pub(super) is_assigned: bool,
    pub(super) publisher: u64,
}

impl Identity {
    /// The name it has among all clients.
    pub(super) fn key(&self) -> (Arc<str>, String) {
        (self.namespace.clone(), self.client_id.clone())
    }
}

/// A client's connection.
pub(super) struct Connection<R, W> {
    pub(super) server: Arc<Server>,
    pub(super) client: Client,
    pub(super) inbox: Inbox,
    /// Counted in its namespace and with its user, and on the roll, until the session is closed.
    entered: Entered,
    pub(super) line: Arc<Line>,
    pub(super) holder: Holder,
    pub(super) identity: Identity,
    pub(super) session: Session,
    pub(super) session_expiry_s: u32,
    pub(super) ears: Ears,
    /// Whether the client could be told that it is let in.
    is_greeted: bool,
    pub(super) aliases: Aliases,
    /// Aside, since most have none. With it, where it is kept.
    pub(super) will: Option<Box<(Will, Option<Safe>)>>,
    pub(super) reader: R,
    pub(super) writer: W,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    /// It was given something since it was flushed last.
    owes_flush: bool,
    /// Messages in the output that are not counted with everybody's yet.
    pub(super) publishes_sent: usize,
    /// Publishes on their way to the disk, and the acknowledgements owed for them.
    pub(super) receipts: VecDeque<(Receipt, Vec<Owed>)>,
    pub(super) settlements: Vec<Settlement>,
    pub(super) notices: Vec<Notice>,
    pub(super) exactly: ExactlyOnce,
    /// Aside, since most never get a message of QoS 2.
    pub(super) releasing: Option<Box<Releasing>>,
    pub(super) watching: Watching,
    pub(super) claims: Claims,
    /// What the session had for itself alone in its last connection.
    had_alone: Vec<(Filter, Options)>,
    /// Aside, since most have what was retained long ago.
    pub(super) retained: Option<Box<Retained>>,
    pub(super) queues: Queues,
    /// Subscriptions that are neither shared nor of queues: with two, deliveries may be merged.
    pub(super) subscriptions: usize,
    pub(super) effects: Vec<Effect>,
    /// There for a client that proved who it is by an exchange: it may begin another.
    pub(super) proving: Option<Box<Option<Proving>>>,
    appetite: Appetite,
    pub(super) pace: Option<Box<Pace>>,
    /// It published too fast, and no other message of it is taken until then.
    paused: Option<Instant>,
    started: Instant,
    timer: Pin<Box<Sleep>>,
}

/// Why the talk ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client sent DISCONNECT.
    Left { publishes_will: bool, session_expiry_s: Option<u32> },
    /// The network was lost.
    Lost,
    /// The client broke the rules, or the server's limits.
    Fault(Fault),
    /// Another connection has the client id now, with a new session or with this one.
    TakenOver { clean: bool },
    /// An operator wants it, for this reason.
    Forced(String),
    /// The server shuts down.
    Closing,
}

/// Everything that can wake the task.
enum Event {
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Inbox,
    Receipt(Result<Vec<Published>, Refusal>),
    Forgotten(Result<Vec<bool>, Refusal>),
    Settled(Result<Vec<bool>, Refusal>),
    /// It is time to tell statistics.
    Statistics,
    /// There is room for retained messages.
    Retained,
    Timer,
    Wanted,
    /// An operator wants something.
    Called(Call),
    Shutdown,
}

/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The type of a packet that is a message.
const PUBLISH: u8 = 3;

/// How long the timer sleeps when there is nothing to wake for.
const NO_DEADLINE: Duration = Duration::from_secs(3600);

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// The connection for an opened session, its CONNACK waiting to be written.
    pub(super) fn begin(
        server: Arc<Server>,
        opened: Opened,
        (reader, writer, line): (R, W, Arc<Line>),
        input: BytesMut,
    ) -> Self {
        let mut output = BytesMut::new();
        let ears = opened.ears;
        let is_greeted =
            opened.connack.encode(ears.version, ears.packet_bytes_max, &mut output).is_ok();
        let topic_alias_max = opened.connect.properties.topic_alias_max;
        let aliases = Aliases::new(topic_alias_max.min(server.limits.topic_alias_max));
        let sys_interval_s = server.limits.sys_interval_s;
        let marks = greeting::queue_marks(&opened.found);
        let exactly = ExactlyOnce::resume(&opened.found, &opened.identity.client_id);
        let pace = server.paces.of(&opened.identity.key(), &server.limits, Instant::now());
        let appetite = Appetite::new(server.limits.read_bytes_max);
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self {
            server,
            client: opened.client,
            inbox: opened.inbox,
            entered: opened.entered,
            line,
            holder: opened.holder,
            identity: opened.identity,
            session: opened.session,
            session_expiry_s: opened.session_expiry_s,
            ears,
            is_greeted,
            aliases,
            // [MQTT-3.1.2-8]: who was never let in has none.
            will: opened.connect.will.filter(|_| is_greeted).map(|will| Box::new((will, None))),
            reader,
            writer,
            input,
            output,
            owes_flush: false,
            receipts: VecDeque::new(),
            settlements: Vec::new(),
            notices: Vec::new(),
            publishes_sent: 0,
            claims: Claims::default(),
            had_alone: exclusive_of(&opened.found),
            exactly,
            watching: Watching::resume(&opened.found, sys_interval_s),
            retained: None,
            subscriptions: opened.found.subscriptions.iter().filter(|held| !is_mark(held)).count(),
            queues: Queues::resume(marks),
            effects: Vec::new(),
            proving: opened.connect.properties.auth_method.is_some().then(Box::default),
            appetite,
            pace,
            paused: None,
            releasing: None,
            started: Instant::now(),
            timer,
        }
    }

    /// Talks with the client until something ends it.
    pub(super) async fn talk(&mut self) -> End {
        if !self.is_greeted {
            // [MQTT-3.14.0-1]: nothing may be said before CONNACK, and CONNACK is too large.
            return End::Lost;
        }
        let had_alone = mem::take(&mut self.had_alone);
        // What is rare is kept aside, for the memory of idle connections.
        Box::pin(self.resume_claims(had_alone)).await;
        Box::pin(self.resume_queues()).await;
        if let Err(end) = self.send_waiting().await {
            return end;
        }
        // What came in one segment with the CONNECT.
        if let Err(end) = self.take_packets().await {
            return end;
        }
        loop {
            let event = self.next_event().await;
            let turn = match event {
                Event::Read(Ok(0) | Err(_)) | Event::Written(Err(_)) => Err(End::Lost),
                Event::Read(Ok(bytes)) => self.on_bytes(bytes).await,
                Event::Written(Ok(bytes)) => {
                    // What the writer took may stay in the TLS session until it is flushed.
                    self.owes_flush = self.line.is_encrypted && bytes > 0;
                    if bytes > 0 {
                        self.line.sent.add(bytes);
                    }
                    let sent = mem::take(&mut self.publishes_sent);
                    statistics::count(&self.server.statistics.publishes_sent, sent);
                    statistics::count(&self.server.statistics.bytes_sent, bytes);
                    Ok(())
                }
                Event::Statistics => {
                    self.tell_statistics();
                    Ok(())
                }
                Event::Inbox => self.on_inbox().await,
                Event::Receipt(outcome) => self.on_receipt(outcome),
                Event::Forgotten(known) => self.on_forgotten(known),
                Event::Settled(known) => self.on_settled(known),
                Event::Retained => self.send_retained().await,
                Event::Timer => self.on_timer().await,
                Event::Wanted => Err(End::TakenOver { clean: self.holder.is_wanted_clean() }),
                Event::Called(Call::End(reason)) => Err(End::Forced(reason)),
                // It has no channels to tell of.
                Event::Called(Call::Look(_)) => Ok(()),
                Event::Shutdown => Err(End::Closing),
            };
            if let Err(end) = turn {
                return end;
            }
            if let Err(end) = self.end_turn().await {
                return end;
            }
        }
    }

    async fn end_turn(&mut self) -> Result<(), End> {
        self.send_waiting().await?;
        self.line.waits(self.output.len());
        self.flush_settlements().await
    }

    /// Waits for the next event. Every branch is cancel-safe: `read_buf` and `write_buf` do
    /// nothing until they are done, a receipt and the inbox keep what they have.
    async fn next_event(&mut self) -> Event {
        let write_bytes_max = self.server.limits.write_bytes_max;
        let has_room = self.output.len() < write_bytes_max;
        let receive_max = self.server.limits.receive_max;
        let may_read = has_room
            && !self.is_held()
            && !self.session.is_full()
            && !self.exactly.is_full(receive_max);
        let has_retained = has_room && self.retained_ready();
        if may_read {
            self.appetite.reserve(&mut self.input);
        }
        let receipts = &mut self.receipts;
        let receipt = async move {
            match receipts.front_mut() {
                Some((receipt, _)) => receipt.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            written = write(&mut self.writer, &mut self.output),
                if !self.output.is_empty() || self.owes_flush => Event::Written(written),
            read = self.reader.read_buf(&mut self.input), if may_read => Event::Read(read),
            outcome = receipt => Event::Receipt(outcome),
            known = self.exactly.forgotten() => Event::Forgotten(known),
            known = Releasing::settled(&mut self.releasing) => Event::Settled(known),
            () = self.watching.due(), if has_room => Event::Statistics,
            () = self.client.recv(&mut self.inbox, &mut self.notices), if has_room => Event::Inbox,
            () = std::future::ready(()), if has_retained => Event::Retained,
            () = self.timer.as_mut() => Event::Timer,
            () = self.holder.wanted() => Event::Wanted,
            call = self.entered.standing().called() => Event::Called(call),
            () = self.server.shutdown.cancelled() => Event::Shutdown,
        }
    }

    async fn on_bytes(&mut self, bytes: usize) -> Result<(), End> {
        self.session.heard(self.started.elapsed());
        statistics::count(&self.server.statistics.bytes_received, bytes);
        self.line.received.add(bytes);
        self.appetite.feed(bytes);
        self.take_packets().await?;
        // An idle connection does not keep the memory of its largest packet.
        if self.input.is_empty() && self.input.capacity() > 2 * self.appetite.max() {
            self.input = BytesMut::new();
        }
        Ok(())
    }

    /// Acts on every whole packet that was read and is not held. All its publishes are one batch.
    async fn take_packets(&mut self) -> Result<(), End> {
        let packet_bytes_max = self.server.limits.packet_bytes_max as usize;
        let mut batch = self.start_batch();
        let mut talk = Ok(());
        // What is held stays where it is, and what comes behind it.
        while talk.is_ok() && !self.is_held() {
            talk = match frame::next(&mut self.input, packet_bytes_max) {
                Ok(None) => break,
                Ok(Some(frame)) => match codec::decode(&frame, self.ears.version) {
                    Ok(packet) => {
                        let mut effects = mem::take(&mut self.effects);
                        let meant = self.session.receive(packet, &mut effects);
                        let mut done = meant.map_err(End::Fault);
                        for effect in effects.drain(..) {
                            if done.is_ok() {
                                done = self.apply(effect, &mut batch).await;
                            }
                        }
                        self.effects = effects;
                        done
                    }
                    Err(fault) => Err(End::Fault(fault)),
                },
                Err(fault) => Err(End::Fault(fault)),
            };
        }
        // What came before the packet that ended the talk counts.
        self.publish(batch).await?;
        self.exactly.forget(&self.client).await?;
        if self.has_news() {
            // What is rare is kept aside, for the memory of idle connections.
            Box::pin(self.see_to_notes()).await?;
        }
        talk
    }

    async fn apply(
        &mut self,
        effect: Effect,
        batch: &mut super::publishing::Batch,
    ) -> Result<(), End> {
        match effect {
            Effect::Store(publish) => {
                let is_lasting = publish.qos == Qos::ExactlyOnce && self.session_expiry_s > 0;
                if is_lasting && !self.exactly.is_named() {
                    let id = &self.identity.client_id;
                    Box::pin(self.exactly.name(&self.client, id)).await?;
                }
                self.keep_pace(publish.payload.len());
                self.add_to_batch(publish, batch);
            }
            Effect::Send(reply) => self.send(&reply),
            Effect::Release { packet_id, is_known } => self.release(packet_id, is_known),
            Effect::Received { packet_id } if self.session_expiry_s > 0 => {
                self.releasing.get_or_insert_default().add(packet_id);
            }
            Effect::Received { packet_id } => {
                self.send(&Reply::PubRel { packet_id, reason: Reason::SUCCESS });
            }
            Effect::Settle(deliveries) => self.settle(deliveries, Verdict::Accept),
            Effect::Subscribe(subscribe) => {
                // What was published before must be there for the subscription's retained copies.
                let before = mem::replace(batch, self.start_batch());
                self.publish(before).await?;
                Box::pin(self.subscribe(subscribe)).await?;
            }
            Effect::Unsubscribe(unsubscribe) => {
                let before = mem::replace(batch, self.start_batch());
                self.publish(before).await?;
                Box::pin(self.unsubscribe(unsubscribe)).await?;
            }
            Effect::Prove(auth) => self.prove(&auth)?,
            Effect::Leave { publishes_will, session_expiry_s } => {
                return Err(End::Left { publishes_will, session_expiry_s });
            }
        }
        Ok(())
    }

    /// The client publishes so many bytes. From whoever is too fast no other message is taken for a
    /// while, and it need not be heard meanwhile. It may owe more than one pause is long, so that what
    /// comes behind its next message, like a ping, is answered before it gives us up.
    fn keep_pace(&mut self, bytes: usize) {
        let Some(pace) = &mut self.pace else { return };
        let now = Instant::now();
        let Some(due) = pace.spend(1, bytes, now) else { return };
        metrics::counter!("mainstem_paused_total", "proto" => "mqtt").increment(1);
        let half = self.session.keep_alive() / 2;
        let until = due.min(now + if half.is_zero() { PAUSE_MAX } else { half.min(PAUSE_MAX) });
        self.paused = Some(until);
        self.session.heard(until.duration_since(self.started));
        self.timer.as_mut().reset(until);
    }

    /// Whether what was read begins with a message that is not to be taken yet. Everything else is.
    fn is_held(&self) -> bool {
        self.paused.is_some() && self.input.first().is_some_and(|first| first >> 4 == PUBLISH)
    }

    async fn on_timer(&mut self) -> Result<(), End> {
        if let Some(until) = self.paused
            && until > Instant::now()
        {
            self.timer.as_mut().reset(until);
            return Ok(());
        }
        if self.paused.take().is_some() {
            self.take_packets().await?;
            if let Some(until) = self.paused {
                self.timer.as_mut().reset(until);
                return Ok(());
            }
        }
        let now = self.started.elapsed();
        let wake = match self.session.deadline() {
            Some(deadline) if deadline <= now => {
                let text = "[MQTT-3.1.2-22] nothing was heard for one and a half keep alives";
                return Err(End::Fault(Fault::new(Reason::KEEP_ALIVE_TIMEOUT, text)));
            }
            Some(deadline) => self.started + deadline,
            None => self.started + now + NO_DEADLINE,
        };
        self.timer.as_mut().reset(wake);
        Ok(())
    }

    pub(super) fn send(&mut self, reply: &Reply) {
        reply.encode(&self.ears, &mut self.output);
    }

    pub(super) fn settle(&mut self, deliveries: DeliveryIds, verdict: Verdict) {
        for id in deliveries {
            self.session.outbound.pass(&id);
            self.settlements.push(Settlement { id, verdict });
        }
    }

    pub(super) async fn flush_settlements(&mut self) -> Result<(), End> {
        if self.settlements.is_empty() {
            return Ok(());
        }
        let batch = mem::take(&mut self.settlements);
        self.client.settle(batch).await.map_err(|_| End::Closing)
    }
}

/// Writes some of what there is; where there is nothing, flushes what was written. Cancel-safe.
async fn write<W: AsyncWrite + Unpin>(writer: &mut W, output: &mut BytesMut) -> io::Result<usize> {
    if output.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    writer.write_buf(output).await
}

/// Whether a subscription is a note of ours and none of the client's.
fn is_mark(held: &Subscription) -> bool {
    let first = held.subscribe.filter.steps().first();
    matches!(first, Some(Step::Exact(level)) if level.starts_with(MARK.as_bytes()))
}

/// The subscriptions that a session had for itself alone.
fn exclusive_of(found: &SessionOpened) -> Vec<(Filter, Options)> {
    let held = found.subscriptions.iter().map(|held| &held.subscribe);
    held.map(|held| (held.filter.clone(), Options::unpack(held.options)))
        .filter(|(_, options)| options.exclusive)
        .collect()
}
