//! Wills: kept in the store before their client hears that it is let in, published or forgotten when it
//! goes, and after a crash seen to by the next start.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use mainstem_broker::{Client, Publish as Offer, Published, Refusal};
use mainstem_schemas::{Record, RecordId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::TaskTracker;

use super::{Server, connection::Connection, peers::Holder};
use crate::{
    codec::Version,
    normalize::{
        Message, Sender, publisher_hash,
        testament::{Safe, Testament},
    },
};

/// Kept wills that are read at a time.
const READ_AT_ONCE: usize = 64;
/// How often a will is tried again that the store did not take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What becomes of a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Published,
    Forgotten,
    /// Its time has not come, and the server ends: the next one sees to it.
    Left,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Keeps the will of a client that is about to be let in. Where the store takes nothing, the will
    /// lasts as long as the process.
    pub(super) async fn keep_will(&mut self) {
        let Some((will, safe)) = self.will.as_deref_mut() else { return };
        let testament = Testament {
            version: self.ears.version,
            client_id: self.identity.client_id.clone(),
            user: author(&self.client),
            session_expiry_s: self.session_expiry_s,
            will: will.clone(),
        };
        let stamp = self.client.stamp();
        let place = Safe::new(stamp.id);
        let record = place.record(&self.identity.namespace, stamp, &testament.encode());
        let Ok(record) = record else { return };
        match write(&self.client, &[record]).await {
            Ok(None) => *safe = Some(place),
            Ok(Some(refusal)) | Err(refusal) => {
                let client = testament.client_id;
                tracing::warn!(client, %refusal, "a will is not kept, and would be lost by a crash");
            }
        }
    }
}

/// By whose rights a client's will is published: its user's, or nobody's where a token permitted it when
/// it was left, and is over when it is published.
pub(super) fn author(client: &Client) -> String {
    let principal = client.principal();
    if principal.warrant.is_some() { String::new() } else { principal.name.to_string() }
}

/// Publishes these, and tells when that is as durable as it gets whether one of them was refused.
async fn write(client: &Client, records: &[Record]) -> Result<Option<Refusal>, Refusal> {
    let offers = records.iter().cloned().map(Offer::new).collect();
    let outcomes = client.publish(offers).await?.await?;
    Ok(outcomes.into_iter().find_map(|outcome| match outcome {
        Published::Refused(refusal) => Some(refusal),
        Published::Taken { .. } | Published::Held(_) | Published::Again => None,
    }))
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
    if let Ok(Some(refusal)) | Err(refusal) = write(client, &[emptied]).await {
        tracing::warn!(%refusal, "a will is not forgotten");
    }
}

/// Publishes a will or not, and takes it out of where it was kept. Both are written together. While the
/// store takes nothing it is tried again, in the background.
pub(super) async fn carry_out(
    server: &Arc<Server>,
    client: &Client,
    testament: Testament,
    safe: Option<&Safe>,
    fate: Fate,
) {
    if fate == Fate::Left && safe.is_some() {
        return;
    }
    let Testament { version, client_id, user, will, .. } = testament;
    let namespace = &*client.principal().namespace;
    let mut records = Vec::new();
    // One that was not kept is better late than never.
    if fate != Fate::Forgotten {
        let sender = sender(server, version, namespace, &client_id);
        match Message::from(will).record(&sender, client.stamp()) {
            // By the rights that whoever left it has now.
            Ok(record) if user.is_empty() => records.push(record.confined()),
            Ok(record) => match server.broker.permit(&user, namespace, &client_id, record) {
                Ok(record) => records.push(record),
                Err(refusal) => tracing::warn!(client_id, %refusal, "a will was not published"),
            },
            Err(refused) => tracing::warn!(client_id, refused.text, "a will was not published"),
        }
    }
    records.extend(safe.and_then(|safe| safe.record(namespace, client.stamp(), &[]).ok()));
    if records.is_empty() {
        return;
    }
    if let Ok(Some(refusal)) | Err(refusal) = write(client, &records).await {
        tracing::warn!(client_id, %refusal, "a will was not published");
        if is_for_now(&refusal) {
            let (server, namespace) = (server.clone(), namespace.to_owned());
            tokio::spawn(async move { try_again(&server, &namespace, client_id, records).await });
        }
    }
}

/// Whether the store may take tomorrow what it does not take today.
fn is_for_now(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::DiskFull | Refusal::Limit { .. })
}

/// Writes what was refused as soon as there is room, unless too many wait for that. What was kept and is
/// not written when the server ends, the next one sees to.
async fn try_again(server: &Server, namespace: &str, client_id: String, records: Vec<Record>) {
    let Ok(_place) = server.wills.try_acquire() else { return };
    let trying = async {
        let (client, _inbox) = server.broker.own_client(namespace).await?;
        loop {
            tokio::time::sleep(PATIENCE).await;
            let refusal = write(&client, &records).await?;
            if !refusal.as_ref().is_some_and(is_for_now) {
                client.close().await;
                return refusal.map_or(Ok(()), Err);
            }
        }
    };
    match server.shutdown.run_until_cancelled(trying).await {
        Some(Ok(())) => tracing::info!(client_id, "a will was published late"),
        Some(Err(refusal)) => tracing::warn!(client_id, %refusal, "a will was not published"),
        None => {}
    }
}

pub(super) fn sender<'a>(
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
    let (wills, older) = find_all(&client).await?;
    for safe in older {
        forget(&client, &safe).await;
    }
    for (safe, testament) in wills {
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
    Ok(())
}

/// The newest will of each client, and where older ones are that could not be forgotten. All are in memory
/// together, as they were in the last process.
async fn find_all(client: &Client) -> Result<(Vec<(Safe, Testament)>, Vec<Safe>), Refusal> {
    let mut newest: HashMap<String, (RecordId, Safe, Testament)> = HashMap::new();
    let (mut seen, mut older, mut lost) = (HashSet::new(), Vec::new(), HashSet::new());
    loop {
        let places = client.retained(Safe::all()).await?;
        let mut unread = HashSet::new();
        for some in places.chunks(READ_AT_ONCE) {
            for (place, found) in some.iter().zip(client.read(some.to_vec()).await?) {
                let Ok(record) = found else {
                    unread.insert(*place);
                    continue;
                };
                let Some((safe, testament)) = Testament::read(&record) else { continue };
                if !seen.insert(safe.clone()) {
                    continue;
                }
                let this = (record.id(), safe, testament);
                match newest.entry(this.2.client_id.clone()) {
                    Entry::Vacant(entry) => {
                        entry.insert(this);
                    }
                    Entry::Occupied(mut entry) => {
                        let is_newer = this.0.0 > entry.get().0.0;
                        let other = if is_newer { entry.insert(this) } else { this };
                        older.push(other.1);
                    }
                }
            }
        }
        // What was moved meanwhile is elsewhere the next time. What the disk does not give back is where
        // it was, and is named by the store.
        if unread.is_subset(&lost) {
            break;
        }
        lost = unread;
    }
    Ok((newest.into_values().map(|(_, safe, testament)| (safe, testament)).collect(), older))
}
