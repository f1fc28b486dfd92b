//! Wills: kept in the store before their client hears that it is let in, published or forgotten when it
//! goes, and after a crash seen to by the next start.

use std::{sync::Arc, time::Duration};

use mainstem_broker::{Client, Publish as Offer, Published, Refusal};
use tokio_util::task::TaskTracker;

use super::{Server, greeting::Opened, peers::Holder};
use crate::{
    codec::Version,
    normalize::{
        Message, Sender, publisher_hash,
        testament::{Safe, Testament},
    },
};

/// Kept wills that are read at a time.
const READ_AT_ONCE: usize = 64;

/// What becomes of a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Published,
    Forgotten,
    /// Its time has not come, and the server ends: the next one sees to it.
    Left,
}

/// Keeps the will of a client that is about to be let in. Where the store takes nothing, the will lasts
/// as long as the process.
pub(super) async fn keep(opened: &mut Opened) {
    let Some(will) = &opened.connect.will else { return };
    let testament = Testament {
        version: opened.connect.version,
        client_id: opened.identity.client_id.clone(),
        session_expiry_s: opened.session_expiry_s,
        will: will.clone(),
    };
    let stamp = opened.client.stamp();
    let safe = Safe::new(stamp.id);
    let record = safe.record(&opened.identity.namespace, stamp, &testament.encode());
    let Ok(record) = record else { return };
    let kept = async { opened.client.publish(vec![Offer::new(record)]).await?.await };
    match kept.await.as_deref() {
        Ok([Published::Taken { .. }]) => opened.safe = Some(safe),
        refused => {
            let client = opened.identity.client_id.as_str();
            tracing::warn!(client, ?refused, "a will is not kept, and would be lost by a crash");
        }
    }
}

/// Waits for a will's delay, unless the client comes back before.
pub(super) async fn outwait(server: &Server, holder: &Holder, delay_s: u32) -> Fate {
    let Ok(_place) = server.wills.try_acquire() else { return Fate::Published };
    // Dropping any of these loses nothing.
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(u64::from(delay_s))) => Fate::Published,
        () = holder.wanted() => goes_on(!holder.is_wanted_clean()),
        () = server.shutdown.cancelled() => Fate::Left,
    }
}

/// A session that goes on has no use for the will of its last connection.
pub(super) fn goes_on(goes_on: bool) -> Fate {
    if goes_on { Fate::Forgotten } else { Fate::Published }
}

/// Takes a will out of where it was kept, and returns when that is as durable as it gets.
pub(super) async fn forget(client: &Client, safe: &Safe) {
    let emptied = safe.record(&client.principal().namespace, client.stamp(), &[]);
    let Ok(emptied) = emptied else { return };
    let forgotten = async { client.publish(vec![Offer::new(emptied)]).await?.await };
    if let Err(refusal) = forgotten.await {
        tracing::warn!(%refusal, "a will is not forgotten");
    }
}

/// Publishes a will or not, and takes it out of where it was kept. Both are written together.
pub(super) async fn carry_out(
    server: &Server,
    client: &Client,
    testament: Testament,
    safe: Option<&Safe>,
    fate: Fate,
) {
    if fate == Fate::Left && safe.is_some() {
        return;
    }
    let Testament { version, client_id, will, .. } = testament;
    let namespace = &*client.principal().namespace;
    let mut offers = Vec::new();
    // One that was not kept is better late than never.
    if fate != Fate::Forgotten {
        let sender = sender(server, version, namespace, &client_id);
        match Message::from(will).record(&sender, client.stamp()) {
            Ok(record) => offers.push(Offer::new(record)),
            Err(refused) => tracing::warn!(client_id, refused.text, "a will was not published"),
        }
    }
    let emptied = safe.and_then(|safe| safe.record(namespace, client.stamp(), &[]).ok());
    offers.extend(emptied.map(Offer::new));
    if offers.is_empty() {
        return;
    }
    if let Err(refusal) = client.publish(offers).await {
        tracing::warn!(client_id, %refusal, "a will was not published");
    }
}

fn sender<'a>(
    server: &Server,
    version: Version,
    namespace: &'a str,
    client_id: &str,
) -> Sender<'a> {
    Sender {
        version,
        namespace,
        publisher: publisher_hash(namespace, client_id),
        topic_levels_max: server.limits.topic_levels_max,
        delay_max_s: server.limits.delay_max_s,
    }
}

/// Sees to the wills of a namespace whose clients were connected when the last process ended, or
/// whose delay was not over. Their delay begins anew, since nobody knows when they were lost.
pub(super) async fn execute_all(
    server: &Arc<Server>,
    tasks: &TaskTracker,
    namespace: &str,
) -> Result<(), Refusal> {
    let (client, _inbox) = server.broker.own_client(namespace).await?;
    let client = Arc::new(client);
    let places = client.retained(Safe::all()).await?;
    for some in places.chunks(READ_AT_ONCE) {
        for found in client.read(some.to_vec()).await? {
            // What the disk does not give back is named by the store.
            let Ok(record) = found else { continue };
            let Some((safe, testament)) = Testament::read(&record) else { continue };
            let delay_s = testament.will.properties.will_delay_s.min(testament.session_expiry_s);
            if delay_s == 0 {
                carry_out(server, &client, testament, Some(&safe), Fate::Published).await;
                continue;
            }
            let key = (client.principal().namespace.clone(), testament.client_id.clone());
            let patience = Duration::from_millis(server.limits.goodbye_ms);
            let holder = server.peers.take(key, false, patience).await;
            let (server, client) = (server.clone(), client.clone());
            tasks.spawn(async move {
                let fate = outwait(&server, &holder, delay_s).await;
                carry_out(&server, &client, testament, Some(&safe), fate).await;
            });
        }
    }
    Ok(())
}
