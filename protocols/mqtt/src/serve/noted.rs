//! QoS 2 to a client, over restarts of the server: a session that is kept notes under which packet
//! identifier a message is sent before it is, and that the client has it before PUBREL says so. A
//! note is a subscription that brings nothing. Mostly one of them is for a whole run of messages,
//! and that they are settled says that the client has them.

use std::collections::VecDeque;

use mainstem_broker::{
    Client, GroupRef, Receipt, Refusal, SessionOpened, Subscribe as Ask, Unsettled,
};
use mainstem_schemas::{CursorId, Filter, Offset, QueueId, RecordId, filter::Step};
use rustc_hash::FxHashSet;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    connection::{Connection, End},
    subscribing::{Asking, in_order},
};
use crate::{
    codec::{
        Reason, Reply,
        subscribe::{RUN_MARK, SENT_MARK},
    },
    session::{Note, Noted, Run, Stage, options::MARK},
};

/// The bits of a note's options.
const RELEASED: u64 = 1;
const LOOSE: u64 = 1 << 1;
/// Where in the options of a run stands how many of its messages were completed.
const COMPLETED_SHIFT: u32 = 8;
/// The same for its limit.
const LIMIT_SHIFT: u32 = 24;

/// The notes of a session.
pub(super) fn notes(found: &SessionOpened) -> impl Iterator<Item = Note> {
    found.subscriptions.iter().filter_map(|held| {
        let (packet_id, record) = read(&held.subscribe.filter)?;
        let options = held.subscribe.options;
        let is_released = options & RELEASED != 0;
        let stage = if is_released { Stage::Released } else { Stage::Published };
        Some(Note { packet_id, record, stage, is_loose: options & LOOSE != 0 })
    })
}

/// The runs of a session.
pub(super) fn runs(found: &SessionOpened) -> Vec<Noted> {
    let runs = found.subscriptions.iter().filter_map(|held| {
        let options = held.subscribe.options;
        let count = |shift: u32| u16::try_from(options >> shift & 0xffff).unwrap_or(u16::MAX);
        let run = read_run(&held.subscribe.filter)?;
        Some(Noted { run, completed: count(COMPLETED_SHIFT), limit: count(LIMIT_SHIFT) })
    });
    runs.collect()
}

/// What is not settled of each.
pub(super) async fn unsettled(
    client: &Client,
    runs: Vec<Noted>,
) -> Result<Vec<(Noted, Unsettled)>, Refusal> {
    let asking = runs.iter().map(|Noted { run, .. }| -> Asking<'_, Unsettled> {
        let cursor = GroupRef { queue: run.queue, cursor: run.cursor };
        let offsets = (Offset(run.from), Offset(run.below()));
        Box::pin(client.unsettled(cursor, offsets))
    });
    let answers: Result<Vec<_>, _> = in_order(asking.collect()).await.into_iter().collect();
    Ok(runs.into_iter().zip(answers?).collect())
}

/// QoS 2 messages that the client has said it has.
#[derive(Debug, Default)]
pub(super) struct Releasing {
    /// Their packet identifiers, of this read, as often as it did.
    received: Vec<u16>,
    /// Those whose settlements are on their way to the disk.
    settling: VecDeque<(Receipt<bool>, Vec<u16>)>,
}

impl Releasing {
    pub(super) fn add(&mut self, packet_id: u16) {
        self.received.push(packet_id);
    }

    /// Returns when the first settlements are as durable as it gets. Cancel-safe: a receipt keeps
    /// what it has.
    pub(super) async fn settled(releasing: &mut Option<Box<Self>>) -> Result<Vec<bool>, Refusal> {
        let first = releasing.as_mut().and_then(|releasing| releasing.settling.front_mut());
        match first {
            Some((receipt, _)) => receipt.await,
            None => std::future::pending().await,
        }
    }
}

fn run_filter(run: Run) -> Filter {
    let Run { queue, cursor, from, first_id } = run;
    let text = format!("{RUN_MARK}{first_id}/{:x}/{:x}/{from:x}", queue.0, cursor.0);
    Filter::parse(&text).expect("numbers have no wildcards")
}

fn read_run(filter: &Filter) -> Option<Run> {
    let [Step::Exact(mark), Step::Exact(id), Step::Exact(queue), Step::Exact(cursor), from] =
        filter.steps()
    else {
        return None;
    };
    let Step::Exact(from) = from else { return None };
    if mark != RUN_MARK.strip_suffix('/')?.as_bytes() {
        return None;
    }
    let text = |bytes| std::str::from_utf8(bytes).ok();
    Some(Run {
        queue: QueueId(u64::from_str_radix(text(queue)?, 16).ok()?),
        cursor: CursorId(u64::from_str_radix(text(cursor)?, 16).ok()?),
        from: u64::from_str_radix(text(from)?, 16).ok()?,
        first_id: text(id)?.parse().ok()?,
    })
}

fn filter(note: Note) -> Filter {
    let record = u128::from_be_bytes(note.record.0);
    let text = format!("{SENT_MARK}{}/{record:032x}", note.packet_id);
    Filter::parse(&text).expect("numbers have no wildcards")
}

fn read(filter: &Filter) -> Option<(u16, RecordId)> {
    let [Step::Exact(mark), Step::Exact(packet_id), Step::Exact(record)] = filter.steps() else {
        return None;
    };
    if mark != SENT_MARK.strip_suffix('/')?.as_bytes() {
        return None;
    }
    let packet_id = std::str::from_utf8(packet_id).ok()?.parse().ok()?;
    let record = u128::from_str_radix(std::str::from_utf8(record).ok()?, 16).ok()?;
    Some((packet_id, RecordId(record.to_be_bytes())))
}

fn ask_of_run(noted: Noted) -> Ask {
    let Noted { run, completed, limit } = noted;
    let counts = u64::from(completed) << COMPLETED_SHIFT | u64::from(limit) << LIMIT_SHIFT;
    let options = MARK | counts;
    Ask { filter: run_filter(run), share: None, options, live: true }
}

fn ask_of(note: Note) -> Ask {
    let released = if note.stage == Stage::Released { RELEASED } else { 0 };
    let loose = if note.is_loose { LOOSE } else { 0 };
    Ask { filter: filter(note), share: None, options: MARK | released | loose, live: true }
}

fn write(client: &Client, ask: Ask) -> Asking<'_, ()> {
    Box::pin(async move { client.subscribe(ask).await.map(drop) })
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Returns when the notes are as durable as it gets.
    pub(super) async fn note(&self, notes: Vec<Note>, runs: Vec<Noted>) -> Result<(), End> {
        let asks = runs.into_iter().map(ask_of_run).chain(notes.into_iter().map(ask_of));
        let answers = in_order(asks.map(|ask| write(&self.client, ask)).collect()).await;
        answers
            .into_iter()
            .collect::<Result<Vec<()>, Refusal>>()
            .map(drop)
            .map_err(|_| End::Closing)
    }

    /// Whether there is anything to see to for [`Connection::see_to_notes`].
    pub(super) fn has_news(&self) -> bool {
        let has_received =
            self.releasing.as_ref().is_some_and(|releasing| !releasing.received.is_empty());
        has_received || self.session.outbound.has_news()
    }

    /// Sends PUBREL for what the client has, when that is kept; forgets what is done.
    pub(super) async fn see_to_notes(&mut self) -> Result<(), End> {
        if let Some(releasing) = &mut self.releasing
            && !releasing.received.is_empty()
        {
            let mut received = std::mem::take(&mut releasing.received);
            let mut seen = FxHashSet::default();
            received.retain(|packet_id| seen.insert(*packet_id));
            let is_in_run = |packet_id: &u16| self.session.outbound.is_in_run(*packet_id);
            let (in_runs, noted) = received.into_iter().partition(is_in_run);
            self.release_settled(in_runs).await?;
            self.release_noted(noted).await?;
        }
        let outbound = &mut self.session.outbound;
        let (news, over) = (outbound.take_run_news(), outbound.take_over_runs());
        let over = over.into_iter().map(run_filter);
        let over: Vec<Filter> = over.chain(outbound.take_over().into_iter().map(filter)).collect();
        if news.is_empty() && over.is_empty() {
            return Ok(());
        }
        // First, so that no restart finds neither the note nor that the message is settled.
        self.flush_settlements().await?;
        let asks = news.into_iter().map(ask_of_run).collect();
        self.client.subscribe_unheard(asks, over).await.map_err(|_| End::Closing)
    }

    /// Sends PUBREL for messages in runs when their settlements are as durable as it gets.
    async fn release_settled(&mut self, packet_ids: Vec<u16>) -> Result<(), End> {
        let Some(releasing) = self.releasing.as_mut().filter(|_| !packet_ids.is_empty()) else {
            return Ok(());
        };
        let settlements = std::mem::take(&mut self.settlements);
        if settlements.is_empty() {
            // It said so before. What is settling is released when that is done.
            let mut settling = releasing.settling.iter().flat_map(|(_, ids)| ids);
            if settling.all(|id| !packet_ids.contains(id)) {
                self.send_releases(packet_ids);
            }
            return Ok(());
        }
        let receipt = self.client.settle_with_receipt(settlements).await;
        releasing.settling.push_back((receipt.map_err(|_| End::Closing)?, packet_ids));
        Ok(())
    }

    async fn release_noted(&mut self, packet_ids: Vec<u16>) -> Result<(), End> {
        if packet_ids.is_empty() {
            return Ok(());
        }
        let outbound = &mut self.session.outbound;
        let notes = packet_ids.iter().filter_map(|id| outbound.note_released(*id)).collect();
        // First, so that no restart finds the note without it and brings the message again.
        self.flush_settlements().await?;
        self.note(notes, Vec::new()).await?;
        self.send_releases(packet_ids);
        Ok(())
    }

    pub(super) fn on_settled(&mut self, known: Result<Vec<bool>, Refusal>) -> Result<(), End> {
        known.map_err(|_| End::Closing)?;
        let settling = self.releasing.as_mut().and_then(|all| all.settling.pop_front());
        self.send_releases(settling.map(|(_, packet_ids)| packet_ids).unwrap_or_default());
        Ok(())
    }

    fn send_releases(&mut self, packet_ids: Vec<u16>) {
        for packet_id in packet_ids {
            self.send(&Reply::PubRel { packet_id, reason: Reason::SUCCESS });
        }
    }
}
