//! What a client has said, read back from the bytes that went out, damage and all: what it may be
//! promised for it.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use mainstem_amqp::codec::{ContentHeader, Frame, Kind, Method, MethodFault};

use super::script::{PLAIN, PROTOCOL};
use crate::promises::Promises;

const FRAME_MAX: usize = 131_072;

/// A message's header, and its body as far as it came.
type Content = (ContentHeader, Vec<u8>);

/// What one channel promises for a publish.
#[derive(Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Plain,
    Confirm,
    Transaction,
}

/// A message to the kept queue; `None` for any other publish.
type Kept = Option<Bytes>;

/// What was said on one opening of a channel, the first: after that one nobody knows when the
/// server began to listen again.
#[derive(Debug, Default)]
struct Channel {
    mode: Mode,
    incoming: Option<(Publish, Option<Content>)>,
    /// By confirm number, from 1.
    confirms: Vec<Kept>,
    transaction: Vec<Kept>,
    commits: Vec<Vec<Kept>>,
    withdrawn: Vec<Kept>,
    /// Whether the gets that are not answered yet settle what they get.
    gets: VecDeque<bool>,
    /// Methods that want an answer.
    asked: usize,
    /// It was closed, by either side.
    is_over: bool,
    /// The client's closes that were not answered.
    closes: usize,
}

#[derive(Debug)]
struct Publish {
    exchange: Bytes,
    routing_key: Bytes,
}

/// What was said on a connection.
#[derive(Debug)]
pub struct Ledger {
    kept: String,
    said: BytesMut,
    /// The protocol header is still to come.
    is_new: bool,
    /// What was said last can not be understood, and nothing after it.
    is_garbled: bool,
    /// The server may end the connection without a word.
    pub may_hang_up: bool,
    /// What the client takes; 0 until it said so.
    pub frame_max: usize,
    channels: BTreeMap<u16, Channel>,
    promises: Promises,
}

impl Ledger {
    pub fn new(kept: &str) -> Self {
        Self {
            kept: kept.to_owned(),
            said: BytesMut::new(),
            is_new: true,
            is_garbled: false,
            may_hang_up: false,
            frame_max: 0,
            channels: BTreeMap::new(),
            promises: Promises::default(),
        }
    }

    /// These bytes go out.
    pub fn say(&mut self, bytes: &[u8]) {
        self.said.extend_from_slice(bytes);
        if self.is_new {
            if self.said.len() < PROTOCOL.len() {
                return;
            }
            let header = self.said.split_to(PROTOCOL.len());
            self.is_new = false;
            self.may_hang_up = header != PROTOCOL && header != b"AMQP\x01\x01\x00\x09".as_slice();
        }
        while !self.is_garbled {
            match Frame::split(&mut self.said, FRAME_MAX) {
                Ok(Some(frame)) => self.note(&frame),
                Ok(None) => return,
                Err(_) => self.is_garbled = true,
            }
        }
    }

    fn note(&mut self, frame: &Frame) {
        let is_kept = |publish: &Publish| {
            publish.exchange.is_empty() && publish.routing_key == self.kept.as_bytes()
        };
        match (frame.kind, self.channels.get_mut(&frame.channel)) {
            (Kind::Method, _) => match Method::decode(&frame.payload) {
                Ok(method) => self.note_method(frame.channel, method),
                Err(MethodFault::Unknown { .. }) => self.may_hang_up = true,
                Err(MethodFault::Truncated) => self.is_garbled = true,
            },
            (Kind::Header, Some(Channel { incoming: Some((_, header)), .. })) => {
                let Ok(said) = ContentHeader::decode(&frame.payload) else { return };
                let is_whole = said.body_size == 0;
                *header = Some((said, Vec::new()));
                if is_whole {
                    self.finish(frame.channel);
                }
            }
            (Kind::Body, Some(Channel { incoming: Some((publish, Some((header, body)))), .. })) => {
                if is_kept(publish) {
                    body.extend_from_slice(&frame.payload);
                } else {
                    body.resize(body.len() + frame.payload.len(), 0);
                }
                if u64::try_from(body.len()).unwrap() >= header.body_size {
                    self.finish(frame.channel);
                }
            }
            _ => {}
        }
    }

    fn note_method(&mut self, channel: u16, method: Method) {
        match &method {
            Method::StartOk { mechanism, response, .. } => {
                let is_good = &**mechanism == b"PLAIN" && &**response == b"\0guest\0guest";
                self.may_hang_up |= !is_good;
            }
            Method::TuneOk { frame_max, heartbeat, .. } => {
                self.frame_max = usize::try_from(*frame_max).unwrap();
                self.may_hang_up |= (1..10).contains(heartbeat);
            }
            Method::ChannelOpen => drop(self.channels.entry(channel).or_default()),
            _ => {}
        }
        let Some(open) = self.channels.get_mut(&channel) else { return };
        open.asked += usize::from(wants_answer(&method));
        match method {
            Method::ConfirmSelect { .. } if open.mode == Mode::Plain => open.mode = Mode::Confirm,
            Method::TxSelect if open.mode == Mode::Plain => open.mode = Mode::Transaction,
            Method::TxCommit if open.mode == Mode::Transaction => {
                open.commits.push(std::mem::take(&mut open.transaction));
            }
            Method::TxRollback => open.withdrawn.append(&mut open.transaction),
            Method::Publish(publish) => {
                let publish = Publish {
                    exchange: publish.exchange.clone(),
                    routing_key: publish.routing_key,
                };
                open.incoming = Some((publish, None));
            }
            Method::Get { no_ack, .. } => open.gets.push_back(no_ack),
            Method::ChannelClose { .. } => {
                open.is_over = true;
                open.closes += 1;
            }
            _ => {}
        }
    }

    /// A content is whole.
    fn finish(&mut self, channel: u16) {
        let Some(open) = self.channels.get_mut(&channel) else { return };
        let Some((publish, Some((header, body)))) = open.incoming.take() else { return };
        let is_kept = publish.exchange.is_empty() && publish.routing_key == self.kept.as_bytes();
        let body = Bytes::from(body);
        if is_kept {
            self.promises.say(body.clone());
        }
        // With other properties it may go elsewhere, or away.
        let is_plain = PLAIN.contains(&&*header.properties);
        let kept = (is_kept && is_plain).then_some(body);
        match open.mode {
            Mode::Plain => {}
            Mode::Confirm => open.confirms.push(kept),
            Mode::Transaction if !open.is_over => open.transaction.push(kept),
            Mode::Transaction => {}
        }
    }

    /// Either side closed a channel: what is promised on its next opening is not followed.
    pub fn end_channel(&mut self, channel: u16) {
        if let Some(open) = self.channels.get_mut(&channel) {
            open.is_over = true;
            open.gets.clear();
        }
    }

    /// Whether nothing is half said: no frame, and no content.
    pub fn is_between_contents(&self) -> bool {
        let is_whole = |channel: &Channel| channel.incoming.is_none();
        self.said.is_empty() && self.channels.values().all(is_whole)
    }

    /// The server answers a close. Tells whether there was one.
    pub fn close_answered(&mut self, channel: u16) -> bool {
        let Some(open) = self.channels.get_mut(&channel) else { return false };
        open.closes = match open.closes.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }

    /// A get was answered: whether what it got is settled already.
    pub fn got(&mut self, channel: u16) -> bool {
        self.channels.get_mut(&channel).and_then(|open| open.gets.pop_front()).unwrap_or(true)
    }

    /// What follows from it, now that it is over.
    pub fn into_promises(self) -> Promises {
        let Self { channels, mut promises, .. } = self;
        for Channel { confirms, withdrawn, transaction, .. } in channels.into_values() {
            let single = |kept: Vec<Kept>| {
                let all = kept.into_iter().flatten();
                all.filter(|body| promises.is_single(body)).collect::<Vec<_>>()
            };
            let (order, gone) = (single(confirms), [single(withdrawn), single(transaction)]);
            promises.orders.push(order);
            promises.withdrawn.extend(gone.into_iter().flatten());
        }
        promises
    }

    /// Whether promises on this channel are followed.
    pub fn follows(&self, channel: u16) -> bool {
        self.channels.get(&channel).is_some_and(|open| !open.is_over)
    }

    /// Publishes on this channel that are to be confirmed.
    pub fn confirms(&self, channel: u16) -> usize {
        self.channels.get(&channel).map_or(0, |open| open.confirms.len())
    }

    /// The server confirmed this publish: if it was to the kept queue, it must be there.
    pub fn confirmed(&mut self, channel: u16, number: usize) {
        let confirms = self.channels.get(&channel).map(|open| &*open.confirms).unwrap_or_default();
        self.promises.owed.extend(confirms.get(number - 1).cloned().flatten());
    }

    /// The server did this commit, counted from 0.
    pub fn committed(&mut self, channel: u16, number: usize) {
        let commits = self.channels.get(&channel).map(|open| &*open.commits).unwrap_or_default();
        self.promises.owed.extend(commits.get(number).into_iter().flatten().flatten().cloned());
    }

    /// Channels that were never closed, with the answers they are owed, and the publishes that
    /// must be confirmed: any other may be refused by a goodbye.
    pub fn open_channels(&self) -> impl Iterator<Item = (u16, usize, Vec<usize>)> {
        let open = self.channels.iter().filter(|(_, open)| !open.is_over);
        open.map(|(number, open)| {
            let kept = open.confirms.iter().zip(1..).filter(|(kept, _)| kept.is_some());
            (*number, open.asked, kept.map(|(_, publish)| publish).collect())
        })
    }
}

fn wants_answer(method: &Method) -> bool {
    match method {
        Method::ChannelOpen
        | Method::AccessRequest
        | Method::QueueUnbind(_)
        | Method::Qos { .. }
        | Method::Get { .. }
        | Method::Recover { .. }
        | Method::ChannelFlow { .. }
        | Method::TxSelect
        | Method::TxCommit
        | Method::TxRollback => true,
        Method::ExchangeDeclare(declare) => !declare.no_wait,
        Method::QueueDeclare(declare) => !declare.no_wait,
        Method::Consume(consume) => !consume.no_wait,
        Method::ExchangeBind(binding)
        | Method::ExchangeUnbind(binding)
        | Method::QueueBind(binding) => !binding.no_wait,
        Method::ExchangeDelete { no_wait, .. }
        | Method::QueuePurge { no_wait, .. }
        | Method::QueueDelete { no_wait, .. }
        | Method::Cancel { no_wait, .. }
        | Method::ConfirmSelect { no_wait } => !no_wait,
        _ => false,
    }
}
