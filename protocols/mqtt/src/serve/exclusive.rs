//! `$exclusive/<filter>`: one connected client at a time has the subscription. It is free again
//! when that client unsubscribes or goes; a session that comes back has it if nobody else does.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use mainstem_schemas::Filter;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Connection;
use crate::session::Options;

type Key = (Arc<str>, Filter);
type Taken = Arc<Mutex<HashSet<Key>>>;

/// The filters that are taken. The mutex is std's: it is held for one look into the set.
#[derive(Debug, Default)]
pub(super) struct Exclusives {
    taken: Taken,
}

/// Held as long as the subscription is.
#[derive(Debug)]
pub(super) struct Claim {
    taken: Taken,
    key: Key,
}

/// A connection's claims.
pub(super) type Claims = HashMap<Filter, Claim>;

impl Exclusives {
    /// Takes a filter, if nobody has it.
    fn take(&self, key: Key) -> Option<Claim> {
        let is_free = self.taken.lock().expect("no holder of this lock panics").insert(key.clone());
        is_free.then(|| Claim { taken: self.taken.clone(), key })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.taken.lock().expect("no holder of this lock panics").remove(&self.key);
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Whether the client has a filter for itself now.
    pub(super) fn claim(&mut self, filter: &Filter) -> bool {
        if self.claims.contains_key(filter) {
            return true;
        }
        let key = (self.identity.namespace.clone(), filter.clone());
        let claim = self.server.exclusives.take(key);
        claim.map(|claim| self.claims.insert(filter.clone(), claim)).is_some()
    }

    /// Takes again what the session had for itself; what another has meanwhile is lost to it.
    pub(super) async fn resume_claims(&mut self, had: Vec<(Filter, Options)>) {
        for (filter, _) in had {
            if !self.claim(&filter) {
                // A store that closed keeps nothing of it either.
                let _existed = self.client.unsubscribe(filter, None).await;
                self.subscriptions = self.subscriptions.saturating_sub(1);
            }
        }
    }
}
