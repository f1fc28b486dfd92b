//! The clients that are known: one session of the store for each client id, for as long as the
//! client sends something.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use mainstem_broker::{Call, Client, Entered, Inbox, Introduction, Line, roll::Standing};
use mainstem_schemas::{Credentials, DeliveryId, Secret, UnixMillis, Value, Verdict};
use tokio::sync::mpsc::WeakSender;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    Front,
    incoming::Peer,
    lite::Lites,
    telemetry::{Command, Commands},
};
use crate::{
    codec::{
        header::Caller,
        proto::{Code, Resource, TelemetryCommand},
        status::Fault,
    },
    session::settings::Settled,
};

const SWEEP: Duration = Duration::from_secs(1);
/// How long a client may take to take its last word.
const GOODBYE: Duration = Duration::from_secs(1);

/// Who a member is: the same client id with another key or in another namespace is another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct MemberKey {
    client_id: String,
    namespace: String,
    access_key: String,
}

/// All members.
#[derive(Default)]
pub(super) struct Members {
    known: Mutex<HashMap<MemberKey, Arc<Member>>>,
}

/// One known client.
pub(super) struct Member {
    pub(super) client: Arc<Client>,
    /// The lite topics that it reads.
    pub(super) lites: Arc<Lites>,
    pub(super) namespace: String,
    /// Counted in its namespace and with its user, and on the roll.
    entered: Entered,
    inbox: Mutex<Inbox>,
    settings: Mutex<Option<Settled>>,
    /// Where commands for the client go: its newest telemetry stream, which ends without asking
    /// here.
    stream: Mutex<Option<WeakSender<Command>>>,
    /// What was signed last, and its signature, so that only a new one is verified again.
    proof: Mutex<Option<(Vec<u8>, Vec<u8>)>>,
    seen: AtomicU64,
    /// Deliveries that are kept for as long as the member, until when, and how they end then.
    kept: Mutex<HashMap<DeliveryId, (UnixMillis, Verdict)>>,
    /// Fires when the member said goodbye or was forgotten: its parked polls end.
    pub(super) gone: CancellationToken,
    pub(super) life: Arc<()>,
}

impl Member {
    pub(super) fn settings(&self) -> MutexGuard<'_, Option<Settled>> {
        self.settings.lock().expect("no holder of this lock panics")
    }

    /// Deliveries claimed for as long as the member lives, and when that ends nevertheless.
    pub(super) fn kept(&self) -> MutexGuard<'_, HashMap<DeliveryId, (UnixMillis, Verdict)>> {
        self.kept.lock().expect("no holder of this lock panics")
    }

    /// Whether it reads lite topics, and nothing else.
    pub(super) fn is_lite(&self) -> bool {
        self.settings().as_ref().is_some_and(Settled::is_lite) || self.lites.is_bound()
    }

    /// From now on, commands for the client go here.
    pub(super) fn listens(&self, stream: &Commands, line: &Arc<Line>) {
        self.entered.standing().moves(line);
        *self.stream.lock().expect("no holder of this lock panics") = Some(stream.downgrade());
    }

    /// Whether it is a producer that can be told something.
    pub(super) fn is_publishing(&self) -> bool {
        self.stream().is_some()
            && self.settings().as_ref().is_some_and(|known| !known.publishing().is_empty())
    }

    /// The topic of this name, as the client named it among those it publishes to, if it may.
    pub(super) fn publishes(&self, topic: &str) -> Option<Resource> {
        let settings = self.settings();
        let mut topics = settings.as_ref()?.publishing().iter();
        let found = topics.find(|resource| resource.name == topic).cloned();
        found.filter(|_| self.client.check_writing(topic).is_ok())
    }

    /// The names of the topics that it said it publishes to, of those that it may.
    pub(super) fn publishing(&self) -> Vec<String> {
        let settings = self.settings();
        let topics = settings.as_ref().map_or(&[][..], |known| known.publishing());
        let may = |name: &String| self.client.check_writing(name).is_ok();
        topics.iter().map(|resource| resource.name.clone()).filter(may).collect()
    }

    /// Sends a command. False when the client's stream is gone, or stays full for as long as may be
    /// waited.
    pub(super) async fn tell(&self, command: TelemetryCommand, wait: Duration) -> bool {
        let Some(stream) = self.stream() else { return false };
        matches!(tokio::time::timeout(wait, stream.send(Ok(command))).await, Ok(Ok(())))
    }

    fn stream(&self) -> Option<Commands> {
        let stream = self.stream.lock().expect("no holder of this lock panics");
        stream.as_ref()?.upgrade().filter(|stream| !stream.is_closed())
    }

    /// As the roll has it.
    pub(super) fn standing(&self) -> &Arc<Standing> {
        self.entered.standing()
    }

    fn touch(&self, now: UnixMillis) {
        self.seen.store(now.0, Ordering::Relaxed);
    }

    /// Takes what the store told: nothing of it is this protocol's to pass on.
    fn drain(&self) {
        let mut notices = Vec::new();
        let mut inbox = self.inbox.lock().expect("no holder of this lock panics");
        let mut context = Context::from_waker(Waker::noop());
        // Ready or not, what was there is in `notices` now.
        let _polled = pin!(self.client.recv(&mut inbox, &mut notices)).poll(&mut context);
    }

    /// Those that end in this way, and were kept too long.
    fn overdue(&self, now: UnixMillis, verdict: Verdict) -> Vec<DeliveryId> {
        let overdue = |_: &DeliveryId, kept: &mut (UnixMillis, Verdict)| {
            kept.0.reached(now) && kept.1 == verdict
        };
        self.kept().extract_if(overdue).map(|(id, _)| id).collect()
    }
}

impl Members {
    /// Forgets everybody; what they had in hand is released.
    pub(super) fn clear(&self) {
        let members = std::mem::take(&mut *self.lock());
        for member in members.into_values() {
            member.gone.cancel();
        }
    }

    /// The namespaces that somebody is in.
    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        self.lock().keys().map(|key| key.namespace.clone()).collect()
    }

    /// Everybody in a namespace.
    pub(super) fn of(&self, namespace: &str) -> Vec<Arc<Member>> {
        let known = self.lock();
        let members = known.values().filter(|member| member.namespace == namespace);
        members.cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MemberKey, Arc<Member>>> {
        self.known.lock().expect("no holder of this lock panics")
    }
}

impl Front {
    /// The member that a request comes from, let in if it is new.
    pub(super) async fn member(
        &self,
        caller: &Caller,
        namespace: &str,
        peer: &Peer,
    ) -> Result<Arc<Member>, Fault> {
        let now = self.broker.now();
        let key = key(caller, namespace);
        let proof = match &caller.secret {
            Secret::Signature { signed, mac, .. } => Some((signed.clone(), mac.clone())),
            Secret::Anonymous
            | Secret::Password { .. }
            | Secret::Certificate { .. }
            | Secret::Scram { .. }
            | Secret::Token(_) => None,
        };
        let known = self.members.lock().get(&key).cloned();
        if let Some(member) = known.filter(|member| !member.gone.is_cancelled()) {
            let same = *member.proof.lock().expect("no holder of this lock panics") == proof;
            if !same {
                // The store verifies who logs in; the session that comes with it is not needed.
                self.broker.login(&self.credentials(caller, namespace, peer)).await?;
                *member.proof.lock().expect("no holder of this lock panics") = proof;
            }
            member.touch(now);
            return Ok(member);
        }
        self.check_room(&self.members.lock())?;
        let (client, inbox) = self.broker.login(&self.credentials(caller, namespace, peer)).await?;
        let mut members = self.members.lock();
        // Another request of the same client may have been quicker.
        if let Some(member) = members.get(&key).filter(|member| !member.gone.is_cancelled()) {
            return Ok(member.clone());
        }
        members.remove(&key);
        // Others may have come meanwhile.
        self.check_room(&members)?;
        let entered = self
            .broker
            .enter(&client, introduction(caller, peer))
            .map_err(|over| Fault::new(Code::TooManyRequests, over.to_string()))?;
        let gone = self.shutdown.child_token();
        let member = Arc::new(Member {
            client: Arc::new(client),
            lites: Arc::new(Lites::new(gone.clone())),
            namespace: namespace.to_owned(),
            entered,
            inbox: Mutex::new(inbox),
            settings: Mutex::new(None),
            stream: Mutex::new(None),
            proof: Mutex::new(proof),
            seen: AtomicU64::new(now.0),
            kept: Mutex::default(),
            gone,
            life: Arc::new(()),
        });
        members.insert(key, member.clone());
        tokio::spawn(attend(self.clone(), Arc::downgrade(&member), member.gone.clone()));
        Ok(member)
    }

    fn check_room(&self, members: &HashMap<MemberKey, Arc<Member>>) -> Result<(), Fault> {
        if members.len() >= self.limits.clients_max {
            return Err(Fault::new(Code::TooManyRequests, "too many clients are connected"));
        }
        Ok(())
    }

    /// Forgets a member that says goodbye: its parked polls end, and what it had in hand is
    /// released when the last of its requests has ended.
    pub(super) fn leave(&self, caller: &Caller, namespace: &str) {
        let member = self.members.lock().remove(&key(caller, namespace));
        if let Some(member) = member {
            member.gone.cancel();
        }
    }

    /// Ends a member at an operator's word: its polls end, what it had in hand comes back, and its
    /// stream ends with the reason. Clients open another one, as after any loss of it.
    async fn dismiss(&self, member: &Arc<Member>, reason: &str) {
        self.members.lock().retain(|_, other| !Arc::ptr_eq(other, member));
        member.gone.cancel();
        if let Some(stream) = member.stream() {
            let last = stream.send(Err(Status::unavailable(reason)));
            // A client that takes nothing is gone, which is what was wanted.
            let _taken = tokio::time::timeout(GOODBYE, last).await;
        }
    }

    fn credentials(&self, caller: &Caller, namespace: &str, peer: &Peer) -> Credentials {
        let (namespace, secret) = (namespace.to_owned(), caller.secret.clone());
        Credentials { namespace, secret, peer: peer.0.peer }
    }
}

fn introduction(caller: &Caller, peer: &Peer) -> Introduction {
    let said = [("language", &caller.language), ("version", &caller.version)];
    let said = said.into_iter().filter(|(_, text)| !text.is_empty());
    Introduction {
        line: peer.0.clone(),
        protocol: "RocketMQ gRPC",
        mechanism: match &caller.secret {
            Secret::Signature { .. } => "MQv2-HMAC-SHA1",
            Secret::Anonymous
            | Secret::Password { .. }
            | Secret::Certificate { .. }
            | Secret::Scram { .. }
            | Secret::Token(_) => "ANONYMOUS",
        },
        client_id: caller.client_id.clone(),
        properties: said.map(|(name, text)| (name.to_owned(), Value::Text(text.clone()))).collect(),
        frame_bytes_max: 0,
        heartbeat_s: 0,
        channels_max: 0,
    }
}

/// Does what an operator asks of a member, for as long as it is known. It does not keep the member.
async fn attend(front: Front, member: Weak<Member>, gone: CancellationToken) {
    let Some(standing) = member.upgrade().map(|member| member.entered.standing().clone()) else {
        return;
    };
    loop {
        // Cancel-safe: a call is taken by whoever returns with it.
        match gone.run_until_cancelled(standing.called()).await {
            // It has no channels to tell of.
            Some(Call::Look(_)) => {}
            Some(Call::End(reason)) => {
                if let Some(member) = member.upgrade() {
                    front.dismiss(&member, &reason).await;
                }
                return;
            }
            None => return,
        }
    }
}

fn key(caller: &Caller, namespace: &str) -> MemberKey {
    let access_key = match &caller.secret {
        Secret::Signature { key, .. } => key.clone(),
        Secret::Anonymous
        | Secret::Password { .. }
        | Secret::Certificate { .. }
        | Secret::Scram { .. }
        | Secret::Token(_) => String::new(),
    };
    MemberKey { client_id: caller.client_id.clone(), namespace: namespace.to_owned(), access_key }
}

/// Forgets clients that have been silent for too long, and takes back what was kept too long.
pub(super) async fn sweep(front: Front) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        let now = front.broker.now();
        let members: Vec<_> = {
            let mut known = front.members.lock();
            known.retain(|_, member| {
                let seen = UnixMillis(member.seen.load(Ordering::Relaxed));
                // A request in progress has the member too, and counts as a sign of life.
                let alive = now.since(seen) < front.limits.client_expiry_ms
                    || Arc::strong_count(member) > 1;
                if !alive {
                    member.gone.cancel();
                }
                alive
            });
            known.values().cloned().collect()
        };
        for member in members {
            member.drain();
            for verdict in [Verdict::Release, Verdict::Unread] {
                let released = front.settle(&member, member.overdue(now, verdict), verdict).await;
                if let Err(fault) = released {
                    tracing::warn!(error = fault.message, "cannot take back overdue deliveries");
                }
            }
        }
    }
}
