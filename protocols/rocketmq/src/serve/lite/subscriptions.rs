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
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Binding;
use crate::{
    codec::{proto::Code, status::Fault},
    limits::Limits,
};

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
    /// It reads all lite topics of the topic, by the group's place in that.
    takes_all: bool,
    subscribed: BTreeMap<String, (GroupRef, Arc<Watched>)>,
    /// Those that room is kept for while they are opened, by how many requests.
    opening: BTreeMap<String, usize>,
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

    /// Reads all lite topics of a topic from now on, those to come too.
    pub(super) fn take_all(&self, binding: &Binding) {
        let mut inner = self.lock();
        inner.drop_all_but(&BTreeSet::new());
        binding.topic.clone_into(&mut inner.topic);
        binding.group.clone_into(&mut inner.group);
        inner.takes_all = true;
        drop(inner);
        self.bell.notify_waiters();
    }

    /// Reads those that it subscribed by name again.
    pub(super) fn take_named(&self) {
        self.lock().takes_all = false;
        self.bell.notify_waiters();
    }

    pub(super) fn takes_all(&self) -> bool {
        self.lock().takes_all
    }

    /// Keeps room for those of `wanted` that are not subscribed. A client reads the lite topics of
    /// one topic in one group: what it read of another goes, and with `is_all` what is not wanted any
    /// more. Nothing goes if there is no room.
    pub(super) fn reserve(
        &self,
        binding: &Binding,
        wanted: &[String],
        is_all: bool,
        bounds: &Bounds,
    ) -> Result<Reserved<'_>, Fault> {
        let mut inner = self.lock();
        let is_other = inner.topic != binding.topic || inner.group != binding.group;
        let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
        let stays = |lite: &str| !is_other && (!is_all || wanted.contains(lite));
        let Inner { subscribed, opening, .. } = &*inner;
        let kept = subscribed.keys().map(String::as_str).filter(|lite| stays(lite));
        let all: BTreeSet<&str> =
            kept.chain(opening.keys().map(String::as_str)).chain(wanted.iter().copied()).collect();
        let is_fresh = |lite: &&str| is_other || !subscribed.contains_key(*lite);
        let names: Vec<String> =
            wanted.iter().copied().filter(is_fresh).map(str::to_owned).collect();
        let max = bounds.each_max;
        if !names.is_empty() && all.len() > max {
            let text = format!("a client may subscribe {max} lite topics");
            return Err(Fault::new(Code::LiteSubscriptionQuotaExceeded, text));
        }
        let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let places = bounds.all.clone().try_acquire_many_owned(count).map_err(|_| {
            let text = "clients have subscribed as many lite topics as they may together";
            Fault::new(Code::LiteSubscriptionQuotaExceeded, text)
        })?;
        inner.takes_all &= !is_other && !is_all;
        if is_other {
            inner.drop_all_but(&BTreeSet::new());
            binding.topic.clone_into(&mut inner.topic);
            binding.group.clone_into(&mut inner.group);
        } else if is_all {
            inner.drop_all_but(&wanted);
        }
        for lite in &names {
            *inner.opening.entry(lite.clone()).or_default() += 1;
        }
        Ok(Reserved { lites: self, names, places })
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
        inner.forget_ready();
    }

    /// All go.
    pub(super) fn clear(&self) {
        self.lock().drop_all_but(&BTreeSet::new());
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

    /// One of them has something, says who watches it.
    pub(super) fn tell(&self, lite: &str, watched: &Watched) {
        let mut inner = self.lock();
        let known = inner.subscribed.get(lite);
        // The watcher of one that was given up may say so late.
        if known.is_some_and(|(_, known)| std::ptr::eq(Arc::as_ptr(known), watched)) {
            inner.ready.push_back(lite.to_owned());
            drop(inner);
            self.bell.notify_waiters();
        }
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
        self.forget_ready();
    }

    /// What is given up is not told of.
    fn forget_ready(&mut self) {
        let Self { subscribed, ready, .. } = self;
        ready.retain(|lite| subscribed.contains_key(lite));
    }
}

/// How many lite topics may be subscribed.
#[derive(Debug)]
pub(in crate::serve) struct Bounds {
    each_max: usize,
    /// Room for those of all clients.
    all: Arc<Semaphore>,
}

impl Bounds {
    pub(in crate::serve) fn new(limits: &Limits) -> Self {
        let all = limits.lite_subscriptions_total_max.min(Semaphore::MAX_PERMITS);
        Self { each_max: limits.lite_subscriptions_max, all: Arc::new(Semaphore::new(all)) }
    }
}

/// Room for lite topics that are being opened.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    lites: &'a Lites,
    names: Vec<String>,
    places: OwnedSemaphorePermit,
}

impl Reserved<'_> {
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// One of them is subscribed for as long as it has this.
    pub(super) fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        self.places.split(1)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let opening = &mut self.lites.lock().opening;
        for lite in &self.names {
            if let Some(count) = opening.get_mut(lite) {
                *count -= 1;
                if *count == 0 {
                    opening.remove(lite);
                }
            }
        }
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
