//! Lite topics: topics below a topic, each with a queue of its own, which clients subscribe one by
//! one. For every subscription a task waits until there is something, so that one poll can wait on
//! thousands; what is given out is taken by the poll itself.

mod give;
mod subscriptions;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use mainstem_broker::{
    BranchTerms, Claim, Client, DeliveryPolicy, Fetch, GroupRef, Refusal, Start,
};
use mainstem_schemas::{Offset, UnixMillis, Verdict};
use tokio::{
    sync::OwnedSemaphorePermit,
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::Request;

use super::{Front, calls::name, members::Member};
use crate::{
    codec::{
        names,
        proto::{
            Code, LiteSubscriptionAction, Message, MessageType, OffsetOption,
            SyncLiteSubscriptionRequest, SyncLiteSubscriptionResponse, offset_option,
        },
        status::{self, Fault},
    },
    session,
};

pub(super) use subscriptions::{Bounds, Lites};
use subscriptions::{Reserved, Watched};

/// Stands for all lite topics of a topic, those to come too.
const EVERYTHING: &str = "*";
/// How long one look for something new lasts before it begins anew.
const WATCH_MS: u64 = 60_000;
/// Pause before a lite topic is watched again that was said to have something, and had nothing.
const WATCH_PAUSE: Duration = Duration::from_millis(50);
/// Lite topics of one request that are opened at a time.
const OPENED_TOGETHER: usize = 256;
/// How long a client's stream may keep the news that it lost a lite topic waiting.
const TELL: Duration = Duration::from_secs(1);

/// Whose a lite topic is: namespace, topic, group, lite topic.
type OwnerKey = (String, String, String, String);

/// Who has the lite topics of groups in which one consumer at a time has each.
#[derive(Default)]
pub(super) struct Owners {
    owners: Mutex<HashMap<OwnerKey, Weak<Member>>>,
}

impl Owners {
    /// The newest subscriber has it; answers who had it before.
    fn take(&self, key: OwnerKey, member: &Arc<Member>) -> Option<Arc<Member>> {
        let mut owners = self.owners.lock().expect("no holder of this lock panics");
        let before = owners.insert(key, Arc::downgrade(member))?.upgrade()?;
        (!Arc::ptr_eq(&before, member)).then_some(before)
    }

    /// A subscription ended.
    fn release(&self, key: &OwnerKey, member: &Weak<Member>) {
        let mut owners = self.owners.lock().expect("no holder of this lock panics");
        if owners.get(key).is_some_and(|owner| owner.ptr_eq(member)) {
            owners.remove(key);
        }
    }
}

/// A topic's lite topics, as one group reads them.
#[derive(Clone, Debug)]
struct Binding {
    topic: String,
    group: String,
}

/// The name of a lite topic in the store.
pub(super) fn branch(topic: &str, lite: &str) -> String {
    format!("{topic}/{lite}")
}

impl Front {
    /// Changes which lite topics a client reads. A complete set comes again and again, and says that
    /// the client is still there.
    pub(super) async fn on_sync_lite(
        &self,
        request: Request<SyncLiteSubscriptionRequest>,
    ) -> Result<SyncLiteSubscriptionResponse, Fault> {
        let call = self.call(&request, request.get_ref().group.as_ref()).await?;
        let request = request.into_inner();
        let (topic, group) = (name(request.topic.as_ref()), name(request.group.as_ref()));
        names::check_topic(topic, &self.limits)?;
        names::check_group(group, &self.limits)?;
        let kind = self.type_of(&call.member.namespace, topic);
        if kind.is_some_and(|kind| kind != MessageType::Lite) {
            let text = format!("topic '{topic}' has no lite topics: its type is another one");
            return Err(Fault::new(Code::IllegalTopic, text));
        }
        let wanted = &request.lite_topic_set;
        let lites = &call.member.lites;
        let action = LiteSubscriptionAction::try_from(request.action)
            .map_err(|_| Fault::new(Code::BadRequest, "there is no such action"))?;
        let is_everything = wanted.iter().any(|lite| lite == EVERYTHING);
        match action {
            LiteSubscriptionAction::PartialRemove if is_everything => lites.take_named(),
            LiteSubscriptionAction::PartialRemove => lites.remove(wanted),
            LiteSubscriptionAction::CompleteRemove => {
                lites.take_named();
                lites.clear();
            }
            LiteSubscriptionAction::PartialAdd | LiteSubscriptionAction::CompleteAdd
                if is_everything =>
            {
                self.ensure_topic(&call.member.client, topic).await?;
                let binding = Binding { topic: topic.to_owned(), group: group.to_owned() };
                self.open_all(&call.member, &binding, request.offset_option).await?;
                lites.take_all(&binding);
            }
            LiteSubscriptionAction::PartialAdd | LiteSubscriptionAction::CompleteAdd => {
                for lite in wanted {
                    names::check_lite(lite, &self.limits)?;
                }
                self.ensure_topic(&call.member.client, topic).await?;
                let binding = Binding { topic: topic.to_owned(), group: group.to_owned() };
                let is_all = action == LiteSubscriptionAction::CompleteAdd;
                let reserved = lites.reserve(&binding, wanted, is_all, &self.bounds)?;
                self.subscribe(&call.member, &binding, reserved, request.offset_option).await?;
            }
        }
        Ok(SyncLiteSubscriptionResponse { status: Some(status::ok()) })
    }

    /// A group's place in a topic with lite topics, each of which it reads in order.
    async fn open_all(
        &self,
        member: &Member,
        binding: &Binding,
        option: Option<OffsetOption>,
    ) -> Result<GroupRef, Fault> {
        let terms = self.group_terms(&member.namespace, &binding.group);
        if terms.exclusive_lite == Some(true) {
            let text = "a lite topic is one consumer's in this group, so that none can have all";
            return Err(Fault::new(Code::BadRequest, text));
        }
        let policy = self.group_policy(&member.namespace, &binding.group);
        let policy = DeliveryPolicy { ordered: true, ..policy };
        self.open_at(&member.client, binding.topic.clone(), &binding.group, policy, option).await
    }

    /// Opens lite topics, many at a time, and watches them.
    async fn subscribe(
        &self,
        member: &Arc<Member>,
        binding: &Binding,
        mut reserved: Reserved<'_>,
        option: Option<OffsetOption>,
    ) -> Result<(), Fault> {
        let names = reserved.names().to_vec();
        for part in names.chunks(OPENED_TOGETHER) {
            let mut opening = JoinSet::new();
            for lite in part {
                let (front, member, lite) = (self.clone(), member.clone(), lite.clone());
                let Some(place) = reserved.place() else { break };
                let binding = binding.clone();
                opening.spawn(async move {
                    let group = front.open_lite(&member, &binding, &lite, option).await?;
                    front.watch(&member, binding, lite, (group, place)).await;
                    Ok::<(), Fault>(())
                });
            }
            while let Some(opened) = opening.join_next().await {
                opened.unwrap_or_else(|_| Err(Refusal::Closed.into()))?;
            }
        }
        Ok(())
    }

    /// A group's place in a lite topic, which is made if there is none.
    async fn open_lite(
        &self,
        member: &Member,
        binding: &Binding,
        lite: &str,
        option: Option<OffsetOption>,
    ) -> Result<GroupRef, Fault> {
        let (client, topic) = (&member.client, branch(&binding.topic, lite));
        client.open_branch(topic.clone(), self.branch_terms()).await.map_err(quota)?;
        let policy = DeliveryPolicy {
            batched: true,
            ..self.group_policy(&member.namespace, &binding.group)
        };
        self.open_at(client, topic, &binding.group, policy, option).await
    }

    /// A group's place; if it has none yet, where its client asks for.
    async fn open_at(
        &self,
        client: &Client,
        topic: String,
        group: &str,
        policy: DeliveryPolicy,
        option: Option<OffsetOption>,
    ) -> Result<GroupRef, Fault> {
        let group = group.to_owned();
        if let Some(start) = option.and_then(start)
            && client.find_group(topic.clone(), group.clone()).await?.is_none()
        {
            let start = match start {
                Begin::Place(start) => start,
                Begin::Tail(count) => {
                    let next = client.seek(topic.clone(), Start::Next).await?.next;
                    Start::Offset(Offset(next.0.saturating_sub(count)))
                }
            };
            return Ok(client.move_group(topic, group, start, policy).await?.group);
        }
        Ok(client.open_group(topic, group, policy).await?)
    }

    fn branch_terms(&self) -> BranchTerms {
        let limits = &self.limits;
        BranchTerms { idle_ms: Some(limits.lite_topic_idle_ms), max: limits.lite_topics_max }
    }

    /// Begins to look for messages of a lite topic. In a group where one consumer has it, that is this
    /// one from now on.
    async fn watch(
        &self,
        member: &Arc<Member>,
        binding: Binding,
        lite: String,
        (group, place): (GroupRef, OwnedSemaphorePermit),
    ) {
        let terms = self.group_terms(&member.namespace, &binding.group);
        let key = (terms.exclusive_lite == Some(true)).then(|| {
            let namespace = member.namespace.clone();
            (namespace, binding.topic.clone(), binding.group.clone(), lite.clone())
        });
        let before = key.clone().and_then(|key| self.owners.take(key, member));
        if let Some(before) = before {
            before.lites.remove(std::slice::from_ref(&lite));
            let its: Vec<_> =
                before.kept().keys().filter(|id| id.queue == group.queue).copied().collect();
            if let Err(fault) = self.settle(&before, its, Verdict::Unread).await {
                tracing::debug!(error = fault.message, "cannot take a lite topic's messages back");
            }
            let lite = lite.clone();
            // Nobody waits for a client that does not read.
            tokio::spawn(async move { before.tell(session::unsubscribe_lite(&lite), TELL).await });
        }
        let Some(watched) = member.lites.add(&lite, group) else { return };
        let (front, client, lites) = (self.clone(), member.client.clone(), member.lites.clone());
        let member = Arc::downgrade(member);
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = watched.stop.cancelled() => {}
                () = look(&client, &lites, &lite, &watched) => {}
            }
            if let Some(key) = key {
                front.owners.release(&key, &member);
            }
        });
    }

    /// Opens a lite topic again that had nothing where something was told of: it may have gone, and
    /// come again.
    async fn watch_again(&self, member: &Arc<Member>, lite: &str, known: GroupRef) {
        let Some((topic, group)) = member.lites.binding() else { return };
        let binding = Binding { topic, group };
        match self.open_lite(member, &binding, lite, None).await {
            Ok(found) if found != known => member.lites.moved(lite, found),
            Ok(_) => {}
            Err(fault) => tracing::debug!(error = fault.message, "a lite topic does not open"),
        }
    }

    /// Makes sure that the lite topics of messages exist; answers which they are.
    pub(super) async fn ensure_lites(
        &self,
        client: &Client,
        topic: &str,
        messages: &[Message],
    ) -> Result<Vec<(String, String)>, Fault> {
        let now = self.broker.now();
        let mut keys = Vec::new();
        let lites = messages.iter().filter_map(|message| {
            let system = message.system_properties.as_ref()?;
            (names::message_type(system) == MessageType::Lite).then(|| system.lite_topic())
        });
        for lite in lites {
            let namespace = (*client.principal().namespace).to_owned();
            let key = (namespace, branch(topic, lite));
            if !self.topics.is_lite_known(&key, now, self.limits.lite_topic_idle_ms) {
                let opened = client.open_branch(key.1.clone(), self.branch_terms());
                opened.await.map_err(quota)?;
                self.topics.learn_lite(key.clone(), now, self.limits.names_max);
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// A client that polls a topic with lite topics must have said what it is, or it would be given
    /// what others subscribed: after a restart, clients poll before they send their settings again.
    pub(super) async fn check_known(&self, member: &Member, topic: &str) -> Result<(), Fault> {
        if member.settings().is_some() {
            return Ok(());
        }
        let is_lite = self.type_of(&member.namespace, topic) == Some(MessageType::Lite)
            || !member.client.list_branches(topic.to_owned(), None, 1).await?.is_empty();
        if is_lite {
            let text = "the settings of this client are not known, and the topic has lite topics";
            return Err(Fault::new(Code::UnrecognizedClientType, text));
        }
        Ok(())
    }
}

/// Tells again and again when a lite topic has something.
async fn look(client: &Client, lites: &Lites, lite: &str, watched: &Watched) {
    loop {
        let group = lites.group_of(lite).unwrap_or(watched.group);
        let fetch = Fetch { group, max: 0, claim: Claim::Client, wait_ms: WATCH_MS };
        let began = Instant::now();
        if client.fetch(fetch).await.is_err() {
            return;
        }
        if began.elapsed() >= Duration::from_millis(WATCH_MS) {
            continue;
        }
        lites.tell(lite, watched);
        watched.again.notified().await;
        if watched.was_empty() {
            sleep(WATCH_PAUSE).await;
        }
    }
}

/// Where a group begins in a lite topic that it has not read.
enum Begin {
    Place(Start),
    /// So many before the end.
    Tail(u64),
}

/// What a client asks for; `None` for where any new group begins.
fn start(option: OffsetOption) -> Option<Begin> {
    let number = |number: i64| u64::try_from(number).unwrap_or_default();
    match option.offset_type? {
        offset_option::OffsetType::Policy(policy) => match policy {
            policy if policy == offset_option::Policy::Min as i32 => {
                Some(Begin::Place(Start::First))
            }
            policy if policy == offset_option::Policy::Max as i32 => {
                Some(Begin::Place(Start::Next))
            }
            _ => None,
        },
        offset_option::OffsetType::Offset(offset) => {
            Some(Begin::Place(Start::Offset(Offset(number(offset)))))
        }
        offset_option::OffsetType::TailN(count) => Some(Begin::Tail(number(count))),
        offset_option::OffsetType::Timestamp(time) => {
            Some(Begin::Place(Start::Time(UnixMillis(number(time)))))
        }
    }
}

/// The protocol's word for there being as many lite topics as there may be.
fn quota(refusal: Refusal) -> Fault {
    match refusal {
        Refusal::Limit { max, .. } => {
            let text = format!("there are {max} lite topics already");
            Fault::new(Code::LiteTopicQuotaExceeded, text)
        }
        other => other.into(),
    }
}
