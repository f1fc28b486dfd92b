//! The end of a run of the store, and what must be true then.

use std::{fs, path::Path};

use mainstem_index::{CursorName, Progress, QueueName};
use mainstem_log::sim::Faults;
use mainstem_schemas::{CursorId, Position};
use tokio::sync::oneshot;

use super::Game;
use crate::{
    command::Command,
    open::Recovered,
    sim::{
        audit::{Contents, Stored, audit, is_settled},
        model::{Done, Hold, Kind, Reader},
        world::{World, copy_index, now, open_index, replay},
    },
    state::State,
};

/// Writes all that a state says to its index.
fn write_down(state: &mut State, end: Position) {
    state.begin_checkpoint();
    while !state.gather(usize::MAX) {}
    let (batch, _) = state.finish_gathering().expect("it was begun").split();
    assert!(state.queues.failed.is_none(), "the index failed");
    state.index.commit(batch, end).unwrap();
}

impl Game {
    /// Something is wrong with the disk from now on, or not any more.
    pub(super) fn break_disk(&mut self) {
        if self.is_dying {
            return;
        }
        let files = self.world().reader.files();
        let mut faults = Faults::default();
        match self.rng.u8(..8) {
            0 => {
                faults.calls_left = Some(self.rng.u64(..120));
                self.is_dying = true;
            }
            1 => {
                faults.syncs_to_fail = 1;
                self.is_dying = true;
            }
            2 if self.rng.bool() => {
                faults.lies = self.rng.u64(1..4);
                self.model.is_lied_to = true;
            }
            3..6 => {
                let bytes = files * self.config.segment_bytes;
                faults.space_bytes = Some(usize::try_from(bytes).unwrap());
                faults.short_writes = self.rng.bool();
            }
            _ => {}
        }
        self.tell(|| format!("the disk: {faults:?}"));
        self.disk.set_faults(faults);
    }

    /// The store ends, by a crash or in good order, and starts again. False when what is left
    /// cannot be opened, which only a disk that lied may do.
    pub(super) fn crash(&mut self, failed: bool) -> bool {
        self.take_notices_of(false, |_| true);
        self.take_answers();
        let world = self.world.take().expect("the store is open");
        let dir = self.dir.join(self.dirs.to_string());
        let copy = self.index_dir();
        let closes = !failed && !self.is_dying && self.rng.u8(..4) == 0;
        if closes {
            self.tell(|| "the store is closed".to_owned());
            self.disk.set_faults(Faults::default());
            world.close().unwrap_or_else(|error| panic!("it cannot be closed: {error}"));
            copy_index(&dir, &copy);
            self.disk.restart();
        } else {
            self.tell(|| "the power goes".to_owned());
            copy_index(&dir, &copy);
            drop(world);
            self.disk.crash();
        }
        fs::remove_dir_all(&dir).unwrap();
        self.is_dying = false;
        let Some(contents) = self.look(&copy) else { return false };
        self.adopt(&contents);
        if self.rng.u8(..4) == 0 {
            self.tell(|| "the index is lost".to_owned());
            fs::remove_dir_all(&copy).unwrap();
        }
        let world = match World::start(&self.disk, &self.config, &copy) {
            Ok(world) => world,
            Err(error) => panic!("the store does not open: {error}"),
        };
        self.world =
            Some(world.unwrap_or_else(|error| panic!("the store does not begin: {error}")));
        self.reattach();
        true
    }

    /// What the log and an index say together, which must be what the log says alone.
    fn look(&mut self, index: &Path) -> Option<Contents> {
        let (with, alone) = (self.dir.join("with"), self.dir.join("alone"));
        copy_index(index, &with);
        let raw = open_index(&with);
        // It is what was true at one position, whatever came later.
        self.tell(|| format!("the index is at {:?}", raw.applied()));
        audit(&raw, self.config.segment_bytes, None);
        drop(raw);
        let kept = replay(&self.disk.fork(), &self.config, &with);
        let Recovered { mut state, opened, .. } = match kept {
            Ok(recovered) => recovered,
            Err(error) => {
                assert!(self.model.is_lied_to, "the log cannot be opened: {error}");
                return None;
            }
        };
        if self.model.is_lied_to {
            // Anything may be missing, so nothing can be said but that nobody falls over it.
            drop(replay(&self.disk.fork(), &self.config, &alone));
            return None;
        }
        let end = opened.3.end;
        if self.tells {
            super::super::audit::show_log(&opened.2);
        }
        write_down(&mut state, end);
        let contents = audit(&state.index, self.config.segment_bytes, Some(&opened.2));
        let rebuilt = replay(&self.disk.fork(), &self.config, &alone);
        let mut rebuilt = rebuilt.unwrap_or_else(|error| panic!("the log alone: {error}"));
        write_down(&mut rebuilt.state, end);
        audit(&rebuilt.state.index, self.config.segment_bytes, Some(&rebuilt.opened.2));
        self.compare(&state, &rebuilt.state, opened.3.first);
        self.check_keys(&state.index, &contents);
        self.check_keys(&rebuilt.state.index, &contents);
        self.check_once(&contents);
        drop((state, rebuilt, opened));
        fs::remove_dir_all(&with).unwrap();
        fs::remove_dir_all(&alone).unwrap();
        Some(contents)
    }

    fn compare(&self, kept: &State, rebuilt: &State, first: Position) {
        let hashes = (kept.index.state_hash().unwrap(), rebuilt.index.state_hash().unwrap());
        if hashes.0 != hashes.1 {
            let difference = super::super::audit::difference(&kept.index, &rebuilt.index);
            panic!("the log from {first:?} does not tell what the index has: {difference}");
        }
    }

    /// What is there after a start is what is true from now on, and must be all that was promised.
    fn adopt(&mut self, contents: &Contents) {
        self.peers.clear();
        self.waits.clear();
        self.hands.clear();
        self.readings.clear();
        self.forget_brief();
        let is_lied_to = std::mem::take(&mut self.model.is_lied_to);
        if !is_lied_to {
            self.check_owed(contents);
        }
        let places: Vec<_> =
            self.model.readers.iter().map(|reader| find(contents, &reader.kind)).collect();
        let known: Vec<_> = self.model.readers.iter().filter_map(|reader| reader.place).collect();
        for (reader, place) in self.model.readers.iter_mut().zip(places) {
            reader.seen.clear();
            reader.last.clear();
            reader.is_order_off = false;
            reader.is_blind = false;
            reader.acked.clear();
            reader.ended.clear();
            reader.purged.clear();
            reader.was_purged = false;
            reader.out.clear();
            reader.rests.clear();
            let Some((id, stored, cursor)) = place else {
                reader.is_gone = true;
                continue;
            };
            let is_it = match reader.place {
                Some(place) => place == (id, cursor),
                None => !reader.is_gone && !known.contains(&(id, cursor)),
            };
            if reader.is_confirmed_gone || !reader.is_durable || !is_it {
                reader.is_gone = true;
                continue;
            }
            if reader.is_gone {
                // Its end was not written.
                reader.is_loose = true;
                reader.is_gone = false;
            }
            reader.is_confirmed = true;
            reader.place = Some((id, cursor));
            reader.over = progress(stored, cursor);
            let there = pending(stored, &reader.over);
            reader.numbers = there.iter().map(|(offset, number)| (*offset, *number)).collect();
            let there: std::collections::BTreeSet<u64> =
                there.into_iter().map(|(_, n)| n).collect();
            reader.done.retain(|number, done| {
                let comes_again = there.contains(number) && (*done != Done::Acked || is_lied_to);
                *done = Done::Acked;
                !comes_again
            });
            reader.rejected.clear();
            reader.owed = there.into_iter().map(|number| (number, true)).collect();
        }
        self.adopt_strangers(contents);
        self.adopt_holds(contents, is_lied_to);
        self.model.unsure.extend(std::mem::take(&mut self.model.bindings));
    }

    /// Queues whose making or end was on its way.
    fn adopt_strangers(&mut self, contents: &Contents) {
        for (id, stored) in &contents.queues {
            let QueueName::Named(name) = &stored.name else { continue };
            let kind = Kind::Queue(name.clone());
            if self.model.find(&kind).is_some() {
                continue;
            }
            let mut reader = Reader::new(kind, stored.policy.clone(), true, now());
            reader.place = Some((*id, CursorId::MAIN));
            reader.is_loose = true;
            reader.is_confirmed = true;
            self.model.readers.push(reader);
        }
    }

    fn check_owed(&self, contents: &Contents) {
        let places: Vec<_> =
            self.model.readers.iter().map(|reader| find(contents, &reader.kind)).collect();
        let there: Vec<std::collections::BTreeSet<u64>> = places
            .iter()
            .map(|place| {
                let its =
                    place.map(|(_, stored, cursor)| pending(stored, &progress(stored, cursor)));
                its.unwrap_or_default().into_iter().map(|(_, number)| number).collect()
            })
            .collect();
        for (reader, place) in self.model.readers.iter().zip(&places) {
            let must =
                reader.is_confirmed && reader.is_durable && !reader.is_gone && !reader.is_loose;
            assert!(!must || place.is_some(), "gone: {reader:?}");
            if let (Some(known), Some((id, _, cursor))) = (reader.place, place)
                && must
            {
                assert_eq!(known, (*id, *cursor), "another one: {:?}", reader.kind);
            }
        }
        let present =
            |at: usize, number: u64| there.get(at).is_some_and(|its| its.contains(&number));
        let missing = self.model.missing(now(), &present);
        assert!(missing.is_empty(), "lost: {missing:#?}");
        for (reader, place) in self.model.readers.iter().zip(&places) {
            let Some((id, stored, cursor)) = place else { continue };
            if reader.is_gone || reader.place != Some((*id, *cursor)) {
                continue;
            }
            for (offset, number) in pending(stored, &progress(stored, *cursor)) {
                let is_back = reader.acked.contains(&offset);
                assert!(!is_back, "{number} was settled for sure in {:?}", reader.kind);
            }
        }
    }

    fn adopt_holds(&mut self, contents: &Contents, is_lied_to: bool) {
        for (number, sent) in &mut self.model.sent {
            let is_held = contents.held.contains_key(number);
            match sent.hold {
                Hold::Due(due) if sent.is_confirmed && due > now() && sent.is_durable => {
                    assert!(is_held || is_lied_to, "{number} is held no more: {sent:?}");
                }
                Hold::Undecided if sent.is_confirmed && sent.is_durable => {
                    assert!(is_held || is_lied_to, "{number} is undecided no more: {sent:?}");
                }
                Hold::Decided(_) if is_held => sent.hold = Hold::Undecided,
                _ => {}
            }
        }
    }

    /// All that can be read is read, and then the log must let go of it.
    pub(super) fn finish(&mut self) {
        if self.settle_down(40).is_err() {
            return;
        }
        let (reply, mut answer) = oneshot::channel();
        self.world().commands.push(Command::Checkpoint { reply });
        if self.settle_down(60).is_err() {
            return;
        }
        let hash = answer.try_recv().expect("a checkpoint is answered");
        self.tell(|| format!("the state's hash is {hash:x}"));
    }
}

/// What a cursor is done with.
fn progress(stored: &Stored, cursor: CursorId) -> Progress {
    match stored.cursors.get(&cursor) {
        Some((_, progress)) => progress.clone(),
        None => stored.state.main.clone().unwrap_or_default(),
    }
}

/// What is still to be got.
fn pending(stored: &Stored, progress: &Progress) -> Vec<(u64, u64)> {
    let entries = stored.entries.iter().map(|(offset, (number, _))| (*offset, *number));
    entries.filter(|(offset, _)| !is_settled(progress, *offset)).collect()
}

/// Where a reader is in the index.
fn find<'a>(
    contents: &'a Contents,
    kind: &Kind,
) -> Option<(mainstem_schemas::QueueId, &'a Stored, CursorId)> {
    if let Kind::Subscription { session, share, filter } = kind {
        let key = (session.clone(), share.clone(), filter.clone());
        let (queue, cursor) = contents.subscriptions.get(&key)?;
        return Some((*queue, contents.queues.get(queue)?, *cursor));
    }
    contents.queues.iter().find_map(|(id, stored)| match (kind, &stored.name) {
        (Kind::Queue(name), QueueName::Named(named)) if name == named => {
            Some((*id, stored, CursorId::MAIN))
        }
        (Kind::Group(topic, group), QueueName::Topic(named)) if topic == named => {
            let is_it = |name: &CursorName| *name == CursorName::Group(group.clone());
            let cursor = stored.cursors.iter().find(|(_, (name, _))| is_it(name))?;
            Some((*id, stored, *cursor.0))
        }
        _ => None,
    })
}
