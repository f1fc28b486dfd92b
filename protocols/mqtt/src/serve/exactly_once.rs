//! QoS 2 from a client, over restarts of the server: the store remembers each message that the
//! client has not released, together with its record, under a name made of the session's and the
//! packet identifier; and PUBCOMP says that it has forgotten it. Sessions that end with their
//! connection need none of it.

use std::collections::VecDeque;

use mainstem_broker::{
    Client, Receipt, Refusal, SessionOpened, Subscribe as Ask, Terms, session_writer,
};
use mainstem_schemas::{Filter, filter::Step};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, End};
use crate::{
    codec::{Qos, Reason, Reply, subscribe::WRITER_MARK},
    session::Options,
};

/// A packet identifier that was released, and whether this connection knew it.
type Released = (u16, bool);

/// The names of a session's QoS 2 messages.
#[derive(Debug, Default)]
pub(super) struct ExactlyOnce {
    /// What they begin with: this session's and no other's, not even of the same client identifier.
    name: Option<String>,
    /// Released in this read.
    released: Vec<Released>,
    forgetting: VecDeque<(Receipt<bool>, Vec<Released>)>,
}

impl ExactlyOnce {
    /// Goes on with the name the session has, if it has one.
    pub(super) fn resume(found: &SessionOpened, client_id: &str) -> Self {
        let mut filters = found.subscriptions.iter().map(|held| &held.subscribe.filter);
        let name = filters.find_map(marked_name).map(|name| session_writer(client_id, &name));
        Self { name, ..Self::default() }
    }

    pub(super) fn is_named(&self) -> bool {
        self.name.is_some()
    }

    /// Gives a session that is kept, and has none yet, a name.
    pub(super) async fn name(&mut self, client: &Client, client_id: &str) -> Result<(), End> {
        let name = client.stamp().id.to_string();
        let filter = Filter::parse(&format!("{WRITER_MARK}{name}"));
        let filter = filter.expect("an id has neither wildcards nor separators");
        let options = Options { mark: true, ..Options::default() }.pack();
        let mark = Ask { filter, share: None, options, live: true };
        client.subscribe(mark).await.map_err(|_| End::Closing)?;
        self.name = Some(session_writer(client_id, &name));
        Ok(())
    }

    /// On what terms a message is published, if on any.
    pub(super) fn terms(&self, qos: Qos, packet_id: u16) -> Option<Terms> {
        let name = self.name.as_ref().filter(|_| qos == Qos::ExactlyOnce)?;
        Some(Terms { once: Some((writer(name, packet_id), 1)), ..Terms::default() })
    }

    /// Whether so many releases wait for the store that no more should be read.
    pub(super) fn is_full(&self, max: u16) -> bool {
        let waiting = self.forgetting.iter().map(|(_, released)| released.len());
        waiting.sum::<usize>() >= usize::from(max)
    }

    /// Lets the store forget what was released.
    pub(super) async fn forget(&mut self, client: &Client) -> Result<(), End> {
        let Some(name) = self.name.as_ref().filter(|_| !self.released.is_empty()) else {
            return Ok(());
        };
        let writers = self.released.iter().map(|(id, _)| writer(name, *id)).collect();
        let receipt = client.forget(writers).await.map_err(|_| End::Closing)?;
        self.forgetting.push_back((receipt, std::mem::take(&mut self.released)));
        Ok(())
    }

    /// What the store knew of those that were released first. Cancel-safe: a receipt keeps what
    /// it has.
    pub(super) async fn forgotten(&mut self) -> Result<Vec<bool>, Refusal> {
        match self.forgetting.front_mut() {
            Some((receipt, _)) => receipt.await,
            None => std::future::pending().await,
        }
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Answers PUBREL, at once or when the store has forgotten the message.
    pub(super) fn release(&mut self, packet_id: u16, is_known: bool) {
        if self.exactly.name.is_some() {
            self.exactly.released.push((packet_id, is_known));
        } else {
            self.complete(packet_id, is_known);
        }
    }

    pub(super) fn on_forgotten(&mut self, known: Result<Vec<bool>, Refusal>) -> Result<(), End> {
        let Some((_, released)) = self.exactly.forgetting.pop_front() else { return Ok(()) };
        let known = known.map_err(|_| End::Closing)?;
        for ((packet_id, is_known), was_known) in released.into_iter().zip(known) {
            self.complete(packet_id, is_known || was_known);
        }
        Ok(())
    }

    fn complete(&mut self, packet_id: u16, is_known: bool) {
        let reason = if is_known { Reason::SUCCESS } else { Reason::PACKET_ID_NOT_FOUND };
        self.send(&Reply::PubComp { packet_id, reason });
    }
}

fn writer(name: &str, packet_id: u16) -> String {
    format!("{name} {packet_id}")
}

/// The name a mark keeps.
fn marked_name(filter: &Filter) -> Option<String> {
    let [Step::Exact(mark), Step::Exact(name)] = filter.steps() else { return None };
    let is_mark = WRITER_MARK.strip_suffix('/').is_some_and(|text| mark == text.as_bytes());
    if is_mark { String::from_utf8(name.to_vec()).ok() } else { None }
}
