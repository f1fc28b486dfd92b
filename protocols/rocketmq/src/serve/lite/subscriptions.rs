//! The lite topics that one client reads, and those of them that have something.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use mainstem_broker::GroupRef;
use mainstem_schemas::DeliveryId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::codec::{proto::Code, status::Fault};

/// What the task that watches a lite topic goes by.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) group: GroupRef,
    pub(super) stop: CancellationToken,
    /// What was told of was looked at.
    pub(super) again: Notify,
    empty: AtomicBool,
}

impl Watched {
    /// Whether there was nothing where something was told of.
    pub(super) fn was_empty(&self) -> bool {
        self.empty.swap(false, Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Inner {
    topic: String,
    group: String,
    subscribed: BTreeMap<String, (GroupRef, Arc<Watched>)>,
    /// Those that have something, in the order in which that was told.
    ready: VecDeque<String>,
    /// The last attempt that got something, and what.
    attempt: Option<(String, Vec<DeliveryId>)>,
}

/// One client's.
#[derive(Debug)]
pub(in crate::serve) struct Lites {
    inner: Mutex<Inner>,
    /// Rings when one of them has something.
    pub(super) bell: Notify,
    gone: CancellationToken,
}

impl Lites {
    /// Of a client that is here until `gone`.
    pub(in crate::serve) fn new(gone: CancellationToken) -> Self {
        Self { inner: Mutex::default(), bell: Notify::new(), gone }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// Whether the client ever subscribed a lite topic.
    pub(in crate::serve) fn is_bound(&self) -> bool {
        !self.lock().topic.is_empty()
    }

    /// The topic and the group.
    pub(super) fn binding(&self) -> Option<(String, String)> {
        let inner = self.lock();
        (!inner.topic.is_empty()).then(|| (inner.topic.clone(), inner.group.clone()))
    }

    /// A client reads the lite topics of one topic in one group; what it read of another goes.
    pub(super) fn bind(&self, topic: &str, group: &str) {
        let mut inner = self.lock();
        if inner.topic != topic || inner.group != group {
            inner.drop_all_but(&BTreeSet::new());
            topic.clone_into(&mut inner.topic);
            group.clone_into(&mut inner.group);
        }
    }

    /// Those of `wanted` that are not subscribed, if there is room for them.
    pub(super) fn missing(&self, wanted: &[String], max: usize) -> Result<Vec<String>, Fault> {
        let inner = self.lock();
        let fresh: BTreeSet<&String> =
            wanted.iter().filter(|lite| !inner.subscribed.contains_key(*lite)).collect();
        if !fresh.is_empty() && inner.subscribed.len() + fresh.len() > max {
            let text = format!("a client may subscribe {max} lite topics");
            return Err(Fault::new(Code::LiteSubscriptionQuotaExceeded, text));
        }
        Ok(fresh.into_iter().cloned().collect())
    }

    /// Subscribes one; `None` when that happened already.
    pub(super) fn add(&self, lite: &str, group: GroupRef) -> Option<Arc<Watched>> {
        let mut inner = self.lock();
        if inner.subscribed.contains_key(lite) {
            return None;
        }
        let stop = self.gone.child_token();
        let (again, empty) = (Notify::new(), AtomicBool::new(false));
        let watched = Arc::new(Watched { group, stop, again, empty });
        inner.subscribed.insert(lite.to_owned(), (group, watched.clone()));
        Some(watched)
    }

    pub(super) fn remove(&self, lites: &[String]) {
        let mut inner = self.lock();
        for lite in lites {
            if let Some((_, watched)) = inner.subscribed.remove(lite) {
                watched.stop.cancel();
            }
        }
    }

    /// All others go.
    pub(super) fn keep(&self, lites: &[String]) {
        self.lock().drop_all_but(&lites.iter().map(String::as_str).collect());
    }

    /// The group's place is another one.
    pub(super) fn moved(&self, lite: &str, group: GroupRef) {
        if let Some((known, _)) = self.lock().subscribed.get_mut(lite) {
            *known = group;
        }
    }

    pub(super) fn group_of(&self, lite: &str) -> Option<GroupRef> {
        self.lock().subscribed.get(lite).map(|(group, _)| *group)
    }

    /// One of them has something.
    pub(super) fn tell(&self, lite: &str) {
        self.lock().ready.push_back(lite.to_owned());
        self.bell.notify_waiters();
    }

    /// The one that has had something for the longest time.
    pub(super) fn next(&self) -> Option<Taken> {
        let mut inner = self.lock();
        loop {
            let lite = inner.ready.pop_front()?;
            // It may have been given up meanwhile.
            if let Some((group, watched)) = inner.subscribed.get(&lite) {
                let (group, watched) = (*group, watched.clone());
                return Some(Taken { lite, group, watched, had_something: false });
            }
        }
    }

    /// What an attempt got, if it comes again.
    pub(super) fn take_attempt(&self, attempt: &str) -> Vec<DeliveryId> {
        let mut inner = self.lock();
        match inner.attempt.take() {
            Some((last, ids)) if last == attempt => ids,
            last => {
                inner.attempt = last;
                Vec::new()
            }
        }
    }

    pub(super) fn note_attempt(&self, attempt: &str, ids: Vec<DeliveryId>) {
        if !attempt.is_empty() {
            self.lock().attempt = Some((attempt.to_owned(), ids));
        }
    }
}

impl Inner {
    fn drop_all_but(&mut self, lites: &BTreeSet<&str>) {
        self.subscribed.retain(|lite, (_, watched)| {
            let stays = lites.contains(lite.as_str());
            if !stays {
                watched.stop.cancel();
            }
            stays
        });
        let Self { subscribed, ready, .. } = self;
        ready.retain(|lite| subscribed.contains_key(lite));
    }
}

/// A lite topic that is being looked at. It is watched again when this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) lite: String,
    pub(super) group: GroupRef,
    watched: Arc<Watched>,
    pub(super) had_something: bool,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.watched.empty.store(!self.had_something, Ordering::Relaxed);
        self.watched.again.notify_one();
    }
}
