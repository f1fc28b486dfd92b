//! Publishes on their way out of the session, and what becomes of them: confirms, returns,
//! transactions.

use mainstem_broker::{Did, Published, Refusal};
use mainstem_schemas::{Settlement, Verdict};

use super::{
    Ask, Code, Effect, Effects, Fault, Request, Run, Session, Then, Ticket,
    channel::{Mode, Transaction},
    effect::Content,
};
use crate::codec::{Reply, method::BasicPublish};

impl Session {
    /// A content is whole: publish it, or keep it for the commit.
    pub(super) fn published_whole(
        &mut self,
        channel: u16,
        publish: &BasicPublish,
        content: Content,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        if !self.has_published {
            self.has_published = true;
            self.tell_blocked(effects);
        }
        let now = self.now;
        let Some(open) = self.channels.get_mut(&channel) else { return Ok(()) };
        let mut confirm = None;
        match &mut open.mode {
            Mode::Plain => {}
            Mode::Confirm { last } => {
                *last += 1;
                confirm = Some(*last);
            }
            Mode::Transaction(transaction) => {
                transaction.keep(content, publish.mandatory);
                return Ok(());
            }
        }
        open.meter.add(now, Did::Publish, 1);
        let ticket = Ticket { channel, life: open.life, confirm, mandatory: publish.mandatory };
        effects.push_back(Effect::Publish { ticket, content });
        Ok(())
    }

    /// Whether the message goes back to its publisher: nobody wanted it, and it was mandatory.
    /// The return is to be written before [`Session::published`] is told.
    #[must_use]
    pub fn is_returned(&self, ticket: &Ticket, outcome: &Published) -> bool {
        let unwanted = matches!(outcome, Published::Taken { readers: 0, .. });
        let open = self.channels.get(&ticket.channel);
        let alive = open.is_some_and(|open| open.life == ticket.life && !open.closing);
        ticket.mandatory && unwanted && alive
    }

    /// What became of a publish. Outcomes come in the order of the publishes, so the confirms of
    /// a channel are consecutive and are told together; [`Session::flush_confirms`] ends a batch.
    pub fn published(&mut self, ticket: &Ticket, outcome: &Published, effects: &mut Effects) {
        if let Published::Taken { readers: 0, .. } = outcome {
            let did = if ticket.mandatory { Did::Return } else { Did::Drop };
            self.note(ticket.channel, did, 1);
        }
        match outcome {
            Published::Taken { .. } | Published::Held(_) | Published::Again => {
                self.confirmed(ticket, effects);
            }
            // RabbitMQ nacks what a queue at its limit refuses.
            Published::Refused(
                Refusal::DiskFull | Refusal::QueueFull(_) | Refusal::Limit { .. },
            ) => self.refused_for_now(ticket, effects),
            Published::Refused(refusal) => {
                let fault = Fault::refused(refusal, "exchange", &self.vhost);
                self.fail_publish(ticket, &fault, effects);
            }
        }
    }

    fn confirmed(&mut self, ticket: &Ticket, effects: &mut Effects) {
        let Some(tag) = ticket.confirm else { return };
        let open = self.channels.get(&ticket.channel);
        if open.is_none_or(|open| open.life != ticket.life || open.closing) {
            return;
        }
        match &mut self.run {
            Some(run) if run.channel == ticket.channel && run.last + 1 == tag => run.last = tag,
            Some(_) | None => {
                self.flush_confirms(effects);
                self.run = Some(Run { channel: ticket.channel, first: tag, last: tag });
            }
        }
    }

    fn refused_for_now(&mut self, ticket: &Ticket, effects: &mut Effects) {
        self.flush_confirms(effects);
        let Some(delivery_tag) = ticket.confirm else { return };
        let open = self.channels.get(&ticket.channel);
        if open.is_some_and(|open| open.life == ticket.life && !open.closing) {
            self.note_answered(ticket.channel, 1);
            let reply = Reply::Nack { delivery_tag };
            effects.push_back(Effect::Write { channel: ticket.channel, reply });
        }
    }

    /// Writes the confirms that were held back to be told together.
    pub fn flush_confirms(&mut self, effects: &mut Effects) {
        if let Some(Run { channel, first, last }) = self.run.take() {
            let count = last - first + 1;
            self.note(channel, Did::Confirm, count);
            self.note_answered(channel, count);
            let reply = Reply::Ack { delivery_tag: last, multiple: first < last };
            effects.push_back(Effect::Write { channel, reply });
        }
    }

    fn note_answered(&mut self, channel: u16, count: u64) {
        if let Some(open) = self.channels.get_mut(&channel) {
            open.answered += count;
        }
    }

    pub(super) fn confirm_select(
        &mut self,
        channel: u16,
        no_wait: bool,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let Some(open) = self.channels.get_mut(&channel) else { return Ok(()) };
        match open.mode {
            Mode::Plain => open.mode = Mode::Confirm { last: 0 },
            Mode::Confirm { .. } => {}
            Mode::Transaction(_) => {
                let text = "cannot switch from tx to confirm mode";
                return Err(Fault::new(Code::PreconditionFailed, text));
            }
        }
        if !no_wait {
            effects.push_back(Effect::Ask(Ask::reply(channel, Reply::ConfirmSelectOk)));
        }
        Ok(())
    }

    pub(super) fn tx_select(&mut self, channel: u16, effects: &mut Effects) -> Result<(), Fault> {
        let Some(open) = self.channels.get_mut(&channel) else { return Ok(()) };
        match open.mode {
            Mode::Plain => open.mode = Mode::Transaction(Transaction::default()),
            Mode::Transaction(_) => {}
            Mode::Confirm { .. } => {
                let text = "cannot switch from confirm to tx mode";
                return Err(Fault::new(Code::PreconditionFailed, text));
            }
        }
        effects.push_back(Effect::Ask(Ask::reply(channel, Reply::TxSelectOk)));
        Ok(())
    }

    /// Lets everything out that waited; commit-ok follows when it has its outcome, after the
    /// returns.
    pub(super) fn tx_commit(&mut self, channel: u16, effects: &mut Effects) -> Result<Ask, Fault> {
        let (life, transaction) = self.transaction(channel)?;
        let Transaction { publishes, settled, .. } = std::mem::take(transaction);
        self.recount(channel);
        self.note(channel, Did::Publish, publishes.len() as u64);
        let accepted = settled.iter().filter(|(_, _, verdict)| *verdict == Verdict::Accept).count();
        self.note(channel, Did::Ack, accepted as u64);
        for (content, mandatory) in publishes {
            let ticket = Ticket { channel, life, confirm: None, mandatory };
            effects.push_back(Effect::Publish { ticket, content });
        }
        for (_, held, verdict) in settled {
            effects.push_back(Effect::Settle(Settlement { id: held.id, verdict }));
        }
        Ok(Ask { channel, request: Request::Barrier, then: Then::Committed })
    }

    /// Forgets the publishes and un-settles the deliveries; it gives none back to the queue.
    pub(super) fn tx_rollback(&mut self, channel: u16, effects: &mut Effects) -> Result<(), Fault> {
        let (_, transaction) = self.transaction(channel)?;
        let settled = std::mem::take(transaction).settled;
        if let Some(open) = self.channels.get_mut(&channel) {
            open.unsettled
                .put_back(settled.into_iter().map(|(tag, held, _)| (tag, held)).collect());
        }
        self.recount(channel);
        effects.push_back(Effect::Write { channel, reply: Reply::TxRollbackOk });
        Ok(())
    }

    fn transaction(&mut self, channel: u16) -> Result<(u32, &mut Transaction), Fault> {
        if let Some(open) = self.channels.get_mut(&channel)
            && let Mode::Transaction(transaction) = &mut open.mode
        {
            return Ok((open.life, transaction));
        }
        Err(Fault::new(Code::PreconditionFailed, "channel is not transactional"))
    }

    /// basic.ack, basic.nack, basic.reject. Tag 0 with `multiple` means all there are, and none
    /// is no error; any other tag must be unsettled.
    pub(super) fn settle(
        &mut self,
        channel: u16,
        tag: u64,
        multiple: bool,
        verdict: Verdict,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let now = self.now;
        let Some(open) = self.channels.get_mut(&channel) else { return Ok(()) };
        let unknown = || Fault::unknown_delivery_tag(tag);
        if let Mode::Transaction(transaction) = &mut open.mode {
            let taken = open.unsettled.take_tagged(tag, multiple).ok_or_else(unknown)?;
            transaction.settled.extend(taken.into_iter().map(|(tag, held)| (tag, held, verdict)));
            return Ok(());
        }
        if !multiple {
            let id = open.unsettled.take(tag).ok_or_else(unknown)?.id;
            if verdict == Verdict::Accept {
                open.meter.add(now, Did::Ack, 1);
            }
            effects.push_back(Effect::Settle(Settlement { id, verdict }));
            return Ok(());
        }
        let taken = open.unsettled.take_tagged(tag, true).ok_or_else(unknown)?;
        if verdict == Verdict::Accept && !taken.is_empty() {
            open.meter.add(now, Did::Ack, taken.len() as u64);
        }
        let settlements = taken.into_iter().map(|(_, held)| Settlement { id: held.id, verdict });
        effects.extend(settlements.map(Effect::Settle));
        Ok(())
    }
}
