//! How many connections and channels namespaces and users have, and may have.
//!
//! Front-ends count themselves in as they let peers in, without asking the commit thread; the limits
//! are parameters, which that thread tells of when they change.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use mainstem_schemas::{Principal, Table, UnixMillis, Value, value::find};

use crate::{
    meter::{Did, Spoken, Totals, Traffic},
    roll::{Introduction, Roll, Standing},
};

/// Whose limit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Namespace(String),
    User(String),
}

/// Of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bounded {
    Connections,
    /// A namespace's.
    Queues,
    /// A user's.
    Channels,
}

/// A limit that is reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {max} for {scope:?} is reached")]
pub struct Over {
    pub scope: Scope,
    pub max: u64,
}

impl Scope {
    /// Whether it can have such a limit.
    pub(crate) fn bounds(&self, bounded: Bounded) -> bool {
        match (self, bounded) {
            (_, Bounded::Connections)
            | (Self::Namespace(_), Bounded::Queues)
            | (Self::User(_), Bounded::Channels) => true,
            (Self::Namespace(_), Bounded::Channels) | (Self::User(_), Bounded::Queues) => false,
        }
    }

    /// The namespace and component under which its limits are kept.
    pub(crate) fn place(&self) -> (&str, &'static str) {
        match self {
            Self::Namespace(name) => (name, NAMESPACE_LIMITS),
            Self::User(name) => (name, USER_LIMITS),
        }
    }
}

pub(crate) const NAMESPACE_LIMITS: &str = "namespace-limits";
/// Kept under the user's name in place of a namespace's.
pub(crate) const USER_LIMITS: &str = "user-limits";

impl Bounded {
    /// RabbitMQ's name of the limit.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Connections => "max-connections",
            Self::Queues => "max-queues",
            Self::Channels => "max-channels",
        }
    }

    /// Reads [`Bounded::word`] back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Connections, Self::Queues, Self::Channels].into_iter().find(|o| o.word() == word)
    }
}

/// As a limit is kept.
pub(crate) fn to_table(max: u64) -> Table {
    vec![("value".to_owned(), Value::Int(i64::try_from(max).unwrap_or(i64::MAX)))]
}

pub(crate) fn from_table(table: &Table) -> Option<u64> {
    u64::try_from(find(table, "value")?.as_int()?).ok()
}

#[derive(Debug, Default)]
struct Party {
    connections: u64,
    channels: u64,
    connections_max: Option<u64>,
    channels_max: Option<u64>,
}

impl Party {
    /// One of its connections has this many channels open now.
    fn keep_channels(&mut self, counted: &mut u64, open: u64) {
        self.channels = self.channels.saturating_sub(*counted).saturating_add(open);
        *counted = open;
    }

    fn is_idle(&self) -> bool {
        self.connections == 0
            && self.channels == 0
            && self.connections_max.is_none()
            && self.channels_max.is_none()
    }
}

#[derive(Debug, Default)]
struct Counts {
    namespaces: HashMap<String, Party>,
    users: HashMap<String, Party>,
}

#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// Never held over anything that waits.
    counts: Mutex<Counts>,
    pub(crate) roll: Roll,
    out_of_room: AtomicBool,
    pub(crate) totals: Totals,
    /// By the words for protocols that connections come with.
    spoken: Mutex<BTreeMap<&'static str, Arc<Spoken>>>,
}

impl Usage {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Nothing in here can panic half way.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is counted of a protocol.
    pub(crate) fn spoken(&self, protocol: &'static str) -> Arc<Spoken> {
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        spoken.entry(protocol).or_default().clone()
    }

    /// What came and went by each protocol that somebody came by.
    pub(crate) fn traffic(&self) -> Vec<(&'static str, Traffic)> {
        let spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        spoken.iter().map(|(protocol, spoken)| (*protocol, spoken.read())).collect()
    }

    /// All namespaces' connections, and all users' channels.
    pub(crate) fn occupancy(&self) -> (u64, u64) {
        let counts = self.counts();
        let connections = counts.namespaces.values().map(|party| party.connections).sum();
        (connections, counts.users.values().map(|party| party.channels).sum())
    }

    /// Publishes are refused for want of room from now on, or are taken again.
    pub(crate) fn note_room(&self, is_out: bool) {
        self.out_of_room.store(is_out, Ordering::Relaxed);
    }

    pub(crate) fn is_out_of_room(&self) -> bool {
        self.out_of_room.load(Ordering::Relaxed)
    }

    /// A limit was set or taken back.
    pub(crate) fn limit(&self, scope: &Scope, bounded: Bounded, max: Option<u64>) {
        let mut counts = self.counts();
        let (parties, name) = match scope {
            Scope::Namespace(name) => (&mut counts.namespaces, name),
            Scope::User(name) => (&mut counts.users, name),
        };
        let party = parties.entry(name.clone()).or_default();
        match bounded {
            Bounded::Connections => party.connections_max = max,
            Bounded::Channels => party.channels_max = max,
            // The commit thread counts queues.
            Bounded::Queues => {}
        }
        if party.is_idle() {
            parties.remove(name);
        }
    }

    pub(crate) fn enter(
        self: &Arc<Self>,
        principal: &Principal,
        number: u64,
        introduction: Introduction,
        now: UnixMillis,
    ) -> Result<Entered, Over> {
        let (namespace, user) = (&*principal.namespace, &*principal.name);
        let mut counts = self.counts();
        let over = |party: Option<&Party>, scope: Scope| {
            let max = party.and_then(|p| p.connections_max.filter(|max| p.connections >= *max));
            max.map_or(Ok(()), |max| Err(Over { scope, max }))
        };
        over(counts.namespaces.get(namespace), Scope::Namespace(namespace.to_owned()))?;
        over(counts.users.get(user), Scope::User(user.to_owned()))?;
        counts.namespaces.entry(namespace.to_owned()).or_default().connections += 1;
        counts.users.entry(user.to_owned()).or_default().connections += 1;
        drop(counts);
        let spoken = self.spoken(introduction.protocol);
        spoken.opened.fetch_add(1, Ordering::Relaxed);
        let standing = self.roll.enter(number, principal, introduction, now);
        Ok(Entered { usage: self.clone(), spoken, standing, channels: 0 })
    }
}

/// A connection that is counted and stands on the roll, for as long as this lives.
#[derive(Debug)]
pub struct Entered {
    usage: Arc<Usage>,
    spoken: Arc<Spoken>,
    standing: Arc<Standing>,
    channels: u64,
}

impl Entered {
    /// What stands on the roll.
    #[must_use]
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// The connection opens a channel besides so many others. Errors: with those the user has as many
    /// as it may.
    pub fn open_channel(&mut self, others: usize) -> Result<(), Over> {
        let mut counts = self.usage.counts();
        let user = &*self.standing.principal().name;
        let party = counts.users.entry(user.to_owned()).or_default();
        let closed = self.channels.saturating_sub(others as u64);
        self.usage.totals.add(Did::CloseChannel, closed);
        party.keep_channels(&mut self.channels, others as u64);
        if let Some(max) = party.channels_max.filter(|max| party.channels >= *max) {
            return Err(Over { scope: Scope::User(user.to_owned()), max });
        }
        party.keep_channels(&mut self.channels, others as u64 + 1);
        self.usage.totals.add(Did::OpenChannel, 1);
        self.standing.keep_channels(self.channels);
        Ok(())
    }

    /// The connection has this many channels open now.
    pub fn keep_channels(&mut self, open: usize) {
        if open as u64 != self.channels {
            let mut counts = self.usage.counts();
            let user = self.standing.principal().name.to_string();
            let party = counts.users.entry(user).or_default();
            let closed = self.channels.saturating_sub(open as u64);
            self.usage.totals.add(Did::CloseChannel, closed);
            party.keep_channels(&mut self.channels, open as u64);
            self.standing.keep_channels(self.channels);
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.keep_channels(0);
        self.usage.roll.leave(&self.standing);
        self.spoken.closed.fetch_add(1, Ordering::Relaxed);
        let principal = self.standing.principal();
        let mut counts = self.usage.counts();
        let Counts { namespaces, users } = &mut *counts;
        for (parties, name) in [(namespaces, &*principal.namespace), (users, &*principal.name)] {
            if let Some(party) = parties.get_mut(name) {
                party.connections = party.connections.saturating_sub(1);
                if party.is_idle() {
                    parties.remove(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::atomic::{AtomicU64, Ordering},
    };

    use super::*;
    use crate::roll::Line;

    #[test]
    fn connections_and_channels_are_counted_as_they_come_and_go() {
        let usage = Arc::new(Usage::default());
        let numbers = AtomicU64::new(1);
        let enter = |name: &str| {
            let principal = Principal::named(name, "/");
            let at = SocketAddr::from(([127, 0, 0, 1], 1));
            let introduction = Introduction {
                line: Line::new(at, at, false),
                protocol: "spoken",
                mechanism: "",
                client_id: String::new(),
                properties: Table::new(),
                frame_bytes_max: 0,
                heartbeat_s: 0,
                channels_max: 0,
            };
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            usage.enter(&principal, number, introduction, UnixMillis(1))
        };
        let (all, ann) = (Scope::Namespace("/".to_owned()), Scope::User("ann".to_owned()));
        let mut first = enter("ann").unwrap();
        usage.limit(&ann, Bounded::Connections, Some(1));
        let over = enter("ann").unwrap_err();
        assert_eq!(over, Over { scope: ann.clone(), max: 1 });
        usage.limit(&all, Bounded::Connections, Some(2));
        let second = enter("bob").unwrap();
        assert_eq!(enter("bob").unwrap_err(), Over { scope: all.clone(), max: 2 });
        drop(second);
        let mut second = enter("bob").unwrap();
        usage.limit(&ann, Bounded::Channels, Some(2));
        assert_eq!((first.open_channel(0), first.open_channel(1)), (Ok(()), Ok(())));
        assert_eq!(first.open_channel(2), Err(Over { scope: ann.clone(), max: 2 }));
        assert_eq!(second.open_channel(0), Ok(()), "another user");
        first.keep_channels(1);
        assert_eq!(first.open_channel(1), Ok(()));
        assert_eq!(first.open_channel(1), Ok(()), "one was closed since");
        drop((first, second));
        for (scope, bounded) in
            [(&ann, Bounded::Connections), (&ann, Bounded::Channels), (&all, Bounded::Connections)]
        {
            usage.limit(scope, bounded, None);
        }
        let counts = usage.counts();
        assert!(counts.namespaces.is_empty() && counts.users.is_empty(), "{counts:?}");
    }
}
