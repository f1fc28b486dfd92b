//! Every command, led to what does it.

use super::{Commit, Fatal, send};
use crate::{command::Command, member::Member};

impl Commit {
    pub(super) fn handle(&mut self, command: Command) -> Result<(), Fatal> {
        match command {
            Command::Publish { client, batch, permit, reply } => {
                self.publish(client, batch, permit, reply);
            }
            Command::Settle { client, batch, reply } => self.settle(client, &batch, reply),
            Command::Room { client } => self.on_room(client),
            Command::Attach { client, namespace, outbox } => {
                self.state.namespace(&namespace);
                self.members.insert(client, Member::new(namespace, outbox));
            }
            Command::Detach { client, reply } => {
                self.detach(client);
                self.answer_durably(reply, ());
            }
            Command::SetPool { client, pool, limit } => self.set_pool(client, pool, limit),
            Command::Consume { client, consume, reply } => {
                send(reply, self.consume(client, consume));
            }
            Command::Cancel { client, consumer, reply } => {
                send(reply, self.cancel(client, consumer));
            }
            Command::Get { client, queue, settle_at_once, reply } => {
                let got = self.get(client, &queue, settle_at_once)?;
                if matches!(got, Ok(None)) && self.is_late(client, &queue) {
                    self.get_later(Command::Get { client, queue, settle_at_once, reply });
                } else if matches!(got, Ok(None)) && self.has_unwritten(client, &queue) {
                    // The caller may have put it there just now, and expects to find it.
                    self.deferred.push(Command::Get { client, queue, settle_at_once, reply });
                } else {
                    if matches!(got, Ok(None)) {
                        self.note_empty(client, &queue);
                    }
                    send(reply, got);
                }
            }
            Command::Fetch { client, fetch, reply } => self.fetch(client, fetch, reply),
            Command::Renew { client, id, claim, reply } => {
                send(reply, self.renew(client, id, claim));
            }
            Command::Retained { client, filter, reply } => {
                self.look_for_retained(client, filter, reply);
            }
            Command::Empty { namespace, reply } => {
                let is_empty = self.empty_some(&namespace);
                self.answer_durably(Some(reply), is_empty);
            }
            Command::Checkpoint { reply } => self.checkpoint_wanted.push(reply),
            Command::Stop { reply } => self.begin_stop(reply),
            other => self.handle_definition(other),
        }
        Ok(())
    }

    /// Commands that declare, find or end something.
    fn handle_definition(&mut self, command: Command) {
        match command {
            Command::DeclareExchange { client, request, reply } => {
                let declared = self.declare_exchange(client, request);
                self.answer_durably(Some(reply), declared);
            }
            Command::FindExchange { client, name, reply } => {
                send(reply, self.find_exchange(client, &name));
            }
            Command::DeleteExchange { client, name, if_unused, reply } => {
                let deleted = self.delete_exchange(client, &name, if_unused);
                self.answer_durably(Some(reply), deleted);
            }
            Command::DeclareQueue { client, request, reply } => {
                let declared = self.declare_queue(client, request);
                self.answer_durably(Some(reply), declared);
            }
            Command::FindQueue { client, name, reply } => {
                send(reply, self.find_queue(client, &name));
            }
            Command::DeleteQueue { client, name, if_unused, if_empty, reply } => {
                let deleted = self.delete_queue(client, &name, if_unused, if_empty);
                self.answer_durably(Some(reply), deleted);
            }
            Command::PurgeQueue { client, name, reply } => {
                self.purge_queue(client, &name, reply);
            }
            Command::SetParameter { key, value, reply } => {
                self.set_parameter(key, value, reply);
            }
            Command::DeleteParameter { key, reply } => {
                let known = self.delete_parameter(key);
                self.answer_durably(Some(reply), known);
            }
            Command::Parameters { namespace, component, reply } => {
                send(reply, self.list_parameters(&namespace, &component));
            }
            // What its exchange remembers is written for it: not more than the disk takes at once.
            Command::Bind { client, bind, reply } if self.must_replay_later(client, &bind) => {
                self.deferred.push(Command::Bind { client, bind, reply });
            }
            Command::Bind { client, bind, reply } => {
                let bound = self.bind(client, bind);
                self.answer_durably(Some(reply), bound);
            }
            Command::Unbind { client, bind, reply } => {
                let unbound = self.unbind(client, bind);
                self.answer_durably(Some(reply), unbound);
            }
            Command::OpenSession { client, open, reply } => {
                let opened = self.open_session(client, open);
                self.answer_durably(Some(reply), opened);
            }
            Command::CloseSession { client, expiry_s, parcel, reply } => {
                self.close_session(client, expiry_s, parcel);
                self.answer_durably(Some(reply), ());
            }
            Command::Subscribe { client, subscribe, reply } => {
                let subscribed = self.subscribe(client, subscribe);
                self.answer_durably(Some(reply), subscribed);
            }
            Command::Unsubscribe { client, filter, share, reply } => {
                let had = self.unsubscribe(client, filter, share);
                self.answer_durably(Some(reply), had);
            }
            other => self.handle_body(other),
        }
    }

    /// Commands about topics, groups, single records, and consumers.
    fn handle_body(&mut self, command: Command) {
        match command {
            Command::OpenTopic { client, topic, create, reply } => {
                let opened = self.open_topic(client, &topic, create);
                self.answer_durably(Some(reply), opened);
            }
            Command::OpenGroup { client, topic, group, policy, reply } => {
                let opened = self.open_group(client, &topic, group, policy);
                self.answer_durably(Some(reply), opened);
            }
            Command::Topic { client, ask } => self.handle_topic(client, ask),
            Command::List { namespace, ask } => self.handle_list(&namespace, ask),
            Command::Forget { client, writers, permit, reply } => {
                self.forget(client, writers, permit, reply);
            }
            Command::Decide { client, id, record, publish, reply } => {
                let decided = self.decide(client, id, record, publish);
                self.answer_durably(Some(reply), decided);
            }
            Command::Undecided { client, from, max, reply } => {
                let found = self.list_undecided(client, from, max);
                let newest = found.0.iter().map(|(_, position, _)| *position).max();
                self.answer_when_down(reply, found, newest);
            }
            Command::FindUndecided { client, ids, reply } => {
                let found = self.find_undecided(client, &ids);
                let newest = found.iter().map(|(_, position, _)| *position).max();
                self.answer_when_down(reply, found, newest);
            }
            Command::Lookup { client, topic, key, max, reply } => {
                let found = self.look_up(client, &topic, &key, max);
                let newest = found.iter().flatten().map(|(_, position, _)| *position).max();
                self.answer_when_down(reply, found, newest);
            }
            Command::Locate { ids, reply } => {
                let places = ids.into_iter().map(|id| self.locate(id)).collect();
                send(reply, places);
            }
            Command::Unsettled { cursor, offsets, reply } => {
                let unsettled = self.unsettled(cursor, offsets);
                self.answer_durably(Some(reply), unsettled);
            }
            Command::Unreadable { client, id } => self.set_aside(client, id),
            Command::Consumers { clients, after, max, reply } => {
                send(reply, self.list_consumers(&clients, after, max));
            }
            _ => unreachable!("`handle` keeps every other command"),
        }
    }
}
