//! What the peer publishes and settles: gathered for the store, and what becomes of it.

use mainstem_broker::{Did, Published, Refusal};
use mainstem_schemas::Principal;

use super::{Attached, Connection, Sent, Waiting};
use crate::{
    message,
    normalize::{self, Delaying},
    serve::deliver,
    session::{Content, Fault, Ticket},
};

impl Connection {
    pub(super) async fn publish(&mut self, ticket: Ticket, content: &Content) {
        let delaying = match normalize::delay_ms(content) {
            Some(_) => self.delaying(content).await,
            None => Delaying::Never,
        };
        let Some(Attached { client, .. }) = &self.attached else { return };
        let Principal { namespace, name, .. } = client.principal();
        match normalize::record(content, client.stamp(), namespace, name, delaying) {
            Ok(publish) => {
                if let Err(refusal) = client.may_publish(&publish) {
                    let fault = Fault::refused(&refusal, "exchange", namespace);
                    return self.session.fail_publish(&ticket, &fault, &mut self.effects);
                }
                let record = ticket.mandatory.then(|| publish.record.clone());
                self.sent.push(Sent { ticket, record });
                self.publishes.push(publish);
            }
            Err(fault) => self.session.fail_publish(&ticket, &fault, &mut self.effects),
        }
    }

    /// Whether the exchange holds messages back. Asked once for the frames of one read: it may be
    /// declared anew at any time.
    async fn delaying(&mut self, content: &Content) -> Delaying {
        if let Some((exchange, delaying)) = &self.last_delaying
            && *exchange == content.exchange
        {
            return *delaying;
        }
        let Some(Attached { client, .. }) = &self.attached else { return Delaying::Never };
        let delaying = message::delaying(client, &content.exchange).await;
        self.last_delaying = Some((content.exchange.clone(), delaying));
        delaying
    }

    /// Hands the store what has gathered: publishes, then settlements.
    pub(super) async fn flush(&mut self) {
        let Some(Attached { client, .. }) = &self.attached else {
            self.publishes.clear();
            self.sent.clear();
            self.settlements.clear();
            return;
        };
        let mut done = Ok(());
        if !self.publishes.is_empty() {
            let sent = std::mem::take(&mut self.sent);
            match client.publish(std::mem::take(&mut self.publishes)).await {
                Ok(receipt) => self.waiting.push_back(Waiting { receipt, sent }),
                Err(refusal) => done = Err(refusal),
            }
        }
        if !self.settlements.is_empty() {
            let settled = client.settle(std::mem::take(&mut self.settlements)).await;
            done = done.and(settled);
        }
        self.note_refusal(done);
    }

    /// A refusal of what nobody waits for means that the store has stopped.
    pub(super) fn note_refusal(&mut self, done: Result<(), Refusal>) {
        if let Err(refusal) = done {
            tracing::debug!(peer = %self.line.peer, %refusal, "the store refused");
            self.session.shut_down(&mut self.effects);
        }
    }

    /// Waits for the outcome of everything published so far.
    pub(super) async fn settle_receipts(&mut self) {
        self.flush().await;
        while let Some(first) = self.waiting.front_mut() {
            let outcome = (&mut first.receipt).await;
            self.take_outcome(outcome);
        }
    }

    /// Counts what the store does not know: who waits for a confirm, and what goes back.
    fn note_outcomes(&self, sent: &[Sent], outcomes: &[Published]) {
        let Some(Attached { client, .. }) = &self.attached else { return };
        let (mut waiting, mut told, mut returned, mut dropped) = (0, 0, 0, 0);
        for (Sent { ticket, .. }, outcome) in sent.iter().zip(outcomes) {
            let waits = u64::from(ticket.confirm.is_some());
            waiting += waits;
            told += if matches!(outcome, Published::Refused(_)) { 0 } else { waits };
            if let Published::Taken { readers: 0, .. } = outcome {
                *if ticket.mandatory { &mut returned } else { &mut dropped } += 1;
            }
        }
        let counts = [(Did::AwaitConfirm, waiting), (Did::Confirm, told), (Did::Return, returned)];
        counts.into_iter().for_each(|(did, count)| client.note(did, count));
        client.note(Did::Drop, dropped);
    }

    pub(super) fn take_outcome(&mut self, outcome: Result<Vec<Published>, Refusal>) {
        let Some(Waiting { sent, .. }) = self.waiting.pop_front() else { return };
        let outcomes = match outcome {
            Ok(outcomes) => outcomes,
            Err(refusal) => return self.note_refusal(Err(refusal)),
        };
        self.note_outcomes(&sent, &outcomes);
        for (Sent { ticket, record }, outcome) in sent.into_iter().zip(outcomes) {
            if let Some(record) = record
                && self.session.is_returned(&ticket, &outcome)
            {
                let out = &mut self.output.buffer;
                deliver::put_return(out, &self.session, &self.broker, ticket.channel, &record);
            }
            self.session.published(&ticket, &outcome, &mut self.effects);
        }
        self.session.flush_confirms(&mut self.effects);
    }
}
