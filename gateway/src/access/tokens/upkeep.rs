//! What goes on beside: keys are read anew, and connections end whose tokens have.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use mainstem_broker::{Broker, now};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Tokens;
use crate::access::{Access, warrant};

/// How often connections are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The keys are not read more often, whatever tokens come.
const REFRESH_MIN: Duration = Duration::from_secs(10);
const EXPIRED: &str = "the token has expired";

/// Goes on until the server stops. Does nothing where no tokens are taken.
pub(crate) async fn keep_up(access: Arc<Access>, broker: Broker, shutdown: CancellationToken) {
    let Some(every) = access.tokens().map(Tokens::refresh_every) else { return };
    let mut refreshed = Instant::now();
    while shutdown.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let tokens = access.tokens();
        let is_stale = tokens.is_some_and(|tokens| tokens.is_stale.load(Ordering::Relaxed));
        let age = refreshed.elapsed();
        if age >= every || is_stale && age >= REFRESH_MIN {
            refresh(access.clone()).await;
            refreshed = Instant::now();
        }
        if let Some(tokens) = tokens {
            end_expired(tokens, &broker);
        }
    }
}

/// Reads the issuer's keys. What is wrong with that is logged: those that were read before stay.
pub(crate) async fn refresh(access: Arc<Access>) {
    let read = move || {
        let Some(tokens) = access.tokens() else { return };
        tokens.is_stale.store(false, Ordering::Relaxed);
        if let Err(error) = tokens.refresh() {
            tracing::error!(event = "keys_unread", "cannot read the keys of tokens: {error}");
        }
    };
    // It ends early only with the runtime.
    let _read = tokio::task::spawn_blocking(read).await;
}

/// Looks at the connections only when the first of their tokens may have come to its end.
fn end_expired(tokens: &Tokens, broker: &Broker) {
    let now = now();
    if tokens.soonest.load(Ordering::Relaxed) > now.0 {
        return;
    }
    tokens.soonest.store(u64::MAX, Ordering::Relaxed);
    for standing in broker.connections() {
        let Some(warrant) = warrant(standing.principal()) else { continue };
        let end = warrant.token().expires.0;
        if end <= now.0 {
            standing.end(EXPIRED);
        } else {
            tokens.soonest.fetch_min(end, Ordering::Relaxed);
        }
    }
}
