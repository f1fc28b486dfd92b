//! QoS 2 to a client, over restarts of the server: a session that is kept notes under which packet
//! identifier a message is sent before it is, and that the client has it before PUBREL says so. A
//! note is a subscription that brings nothing.

use mainstem_broker::{Client, Refusal, SessionOpened, Subscribe as Ask};
use mainstem_schemas::{Filter, RecordId, filter::Step};
use rustc_hash::FxHashSet;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    connection::{Connection, End},
    subscribing::{Asking, in_order},
};
use crate::{
    codec::{Reason, Reply, subscribe::SENT_MARK},
    session::{Note, Stage, options::MARK},
};

/// The bits of a note's options.
const RELEASED: u64 = 1;
const LOOSE: u64 = 1 << 1;

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

fn write(client: &Client, note: Note) -> Asking<'_, ()> {
    let released = if note.stage == Stage::Released { RELEASED } else { 0 };
    let loose = if note.is_loose { LOOSE } else { 0 };
    let options = MARK | released | loose;
    let ask = Ask { filter: filter(note), share: None, options, live: true };
    Box::pin(async move { client.subscribe(ask).await.map(drop) })
}

fn take_back(client: &Client, note: Note) -> Asking<'_, ()> {
    Box::pin(async move { client.unsubscribe(filter(note), None).await.map(drop) })
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Returns when the notes are as durable as it gets.
    pub(super) async fn note(&self, notes: Vec<Note>) -> Result<(), End> {
        self.all(notes.into_iter().map(|note| write(&self.client, note)).collect()).await
    }

    /// Sends PUBREL for what the client has, when that is noted; forgets what is done.
    pub(super) async fn see_to_notes(&mut self) -> Result<(), End> {
        let mut received = std::mem::take(&mut self.received);
        let mut seen = FxHashSet::default();
        received.retain(|packet_id| seen.insert(*packet_id));
        let outbound = &mut self.session.outbound;
        let notes = received.iter().filter_map(|id| outbound.note_released(*id)).collect();
        // First, so that no restart finds the note without it and brings the message again.
        self.flush_settlements().await?;
        self.note(notes).await?;
        for packet_id in received {
            self.send(&Reply::PubRel { packet_id, reason: Reason::SUCCESS });
        }
        let over = self.session.outbound.take_over();
        self.all(over.into_iter().map(|note| take_back(&self.client, note)).collect()).await
    }

    async fn all(&self, asking: Vec<Asking<'_, ()>>) -> Result<(), End> {
        let answers: Result<Vec<()>, Refusal> = in_order(asking).await.into_iter().collect();
        answers.map(drop).map_err(|_| End::Closing)
    }
}
