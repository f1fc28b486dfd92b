//! SUBSCRIBE and UNSUBSCRIBE: what is asked of the broker, and the answers.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::Pin,
    task::Poll,
};

use bytes::BytesMut;
use mainstem_broker::{Client, Consume, Refusal, Source, Subscribe as Ask, Subscribed};
use mainstem_schemas::{ConsumerId, Dialect, Filter, filter::Step};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, End};
use crate::{
    codec::{
        Fault, Qos, Reason, Reply, RetainHandling, Subscribe, TopicFilter, Unsubscribe, Wish,
        reply::codes_packet_len,
        subscribe::{QUEUE_MARK, is_of_the_server},
    },
    session::Options,
};

/// Consumers of named queues are named by us, far from the names the broker gives.
const CONSUMER_BASE: u64 = 1 << 62;

/// The named queues this connection consumes.
#[derive(Debug, Default)]
pub(super) struct Queues {
    consumers: HashMap<String, ConsumerId>,
    /// Those the session consumed in its last connection, until they are consumed again.
    marked: Vec<(String, Options)>,
    made: u64,
}

impl Queues {
    pub(super) fn resume(marked: Vec<(String, Options)>) -> Self {
        Self { marked, ..Self::default() }
    }

    /// The broker ended a consumer, because its queue is gone.
    pub(super) fn forget(&mut self, consumer: ConsumerId) {
        self.consumers.retain(|_, known| *known != consumer);
    }
}

/// A request on its way to the broker.
pub(super) type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Consumes again what the session consumed in its last connection.
    pub(super) async fn resume_queues(&mut self) {
        for (name, options) in std::mem::take(&mut self.queues.marked) {
            // The queue may be gone since; then there is nothing to consume.
            let _reason = self.consume_queue(name, options, false).await;
        }
    }

    /// Subscribes, answers, and looks for retained messages. [MQTT-3.8.4-6]: one answer for all
    /// filters; it is written when every one of them is live.
    pub(super) async fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), End> {
        self.check_answer(subscribe.wishes.len())?;
        let held = self.subscriptions + self.queues.consumers.len();
        let mut left = self.server.limits.subscriptions_max.saturating_sub(held);
        let mut plans = Vec::with_capacity(subscribe.wishes.len().min(left));
        for wish in &subscribe.wishes {
            let refused = self.check(wish, left);
            left -= usize::from(refused.is_none());
            plans.push((wish, refused, options(wish, subscribe.subscription_id)));
        }
        let client = &self.client;
        let asking = plans.iter().map(|(wish, refused, options)| {
            let ask = if refused.is_some() { None } else { ask(&wish.filter, *options) };
            send_ask(client, ask)
        });
        let answers = in_order(asking.collect()).await;
        let mut codes = Vec::with_capacity(plans.len());
        let mut released = HashSet::new();
        for ((wish, refused, options), answer) in plans.into_iter().zip(answers) {
            let code = match (refused, answer, &wish.filter) {
                (_, Err(Refusal::Closed), _) => return Err(End::Closing),
                (Some(refused), ..) => refused,
                (None, Err(refusal), filter) => {
                    // A claim without a subscription would be nobody's use.
                    released.extend(filter.exclusive().cloned());
                    match refusal {
                        Refusal::Denied { .. } => Reason::NOT_AUTHORIZED,
                        _ => Reason::IMPLEMENTATION_SPECIFIC,
                    }
                }
                (None, Ok(_), TopicFilter::Queue(name)) => {
                    self.consume_queue(name.clone(), options, true).await
                }
                (None, Ok(answer), filter) => {
                    let existed = answer.is_some_and(|subscribed| subscribed.existed);
                    self.subscriptions += usize::from(!existed);
                    match filter {
                        TopicFilter::Plain(filter) => released.insert(filter.clone()),
                        TopicFilter::Exclusive(filter) => released.remove(filter),
                        _ => false,
                    };
                    self.look_for_retained(wish, options, existed);
                    Reason(options.granted as u8)
                }
            };
            codes.push(code);
        }
        self.send(&Reply::SubAck { packet_id: subscribe.packet_id, codes });
        // What was asked for last counts: not to be alone any more.
        self.claims.retain(|filter, _| !released.contains(filter));
        Ok(())
    }

    /// [MQTT-3.1.2-24]: what the client does not take an answer to, so many codes long, is not done.
    fn check_answer(&self, codes: usize) -> Result<(), End> {
        if codes_packet_len(codes) <= self.ears.packet_bytes_max {
            return Ok(());
        }
        let text = "[MQTT-3.1.2-24] the answer is over the client's maximum packet size";
        Err(End::Fault(Fault::new(Reason::PACKET_TOO_LARGE, text)))
    }

    /// Puts on their way what is there for a new subscription: statistics, retained messages.
    fn look_for_retained(&mut self, wish: &Wish, options: Options, existed: bool) {
        let interval_s = self.server.limits.sys_interval_s;
        let (TopicFilter::Plain(filter) | TopicFilter::Exclusive(filter)) = &wish.filter else {
            return;
        };
        let is_watched = self.watching.add(filter, options, interval_s);
        match wants_retained(wish, existed) {
            true if is_watched => self.watching.greet(filter),
            true if !options.mark => self.retained.get_or_insert_default().add(filter, options),
            _ => {}
        }
    }

    /// Why a wish is refused, if it is, when `left` more may be granted.
    fn check(&mut self, wish: &Wish, left: usize) -> Option<Reason> {
        let limits = &self.server.limits;
        if wish.filter == TopicFilter::Unserved || wish.filter.levels() > limits.topic_levels_max {
            return Some(Reason::FILTER_INVALID);
        }
        if left == 0 {
            return Some(Reason::QUOTA_EXCEEDED);
        }
        match &wish.filter {
            TopicFilter::Exclusive(filter) if !self.claim(filter) => Some(Reason::QUOTA_EXCEEDED),
            _ => None,
        }
    }

    async fn consume_queue(&mut self, name: String, options: Options, marks: bool) -> Reason {
        if let Some(last) = self.queues.consumers.remove(&name) {
            // What it had in hand stays with this client, and is settled as before.
            let _existed = self.client.cancel(last).await;
        }
        self.queues.made += 1;
        let consumer = ConsumerId(CONSUMER_BASE + self.queues.made);
        let consume = Consume {
            source: Source::Queue(name.clone()),
            consumer,
            options: options.pack(),
            pool: 0,
            limit: 0,
            settle_at_once: options.granted == Qos::AtMostOnce,
            exclusive: false,
            priority: 0,
        };
        if let Err(refusal) = self.client.consume(consume).await {
            return match refusal {
                Refusal::NoQueue(_) => Reason::FILTER_INVALID,
                Refusal::Locked(_) | Refusal::ExclusiveConsumer(_) | Refusal::Denied { .. } => {
                    Reason::NOT_AUTHORIZED
                }
                _ => Reason::IMPLEMENTATION_SPECIFIC,
            };
        }
        if marks && self.session_expiry_s > 0 {
            let filter = queue_mark(&name);
            let options = Options { mark: true, ..options }.pack();
            let mark = Ask { filter, share: None, options, live: true };
            // Without the mark the consumer ends with this connection, no more.
            let _marked = self.client.subscribe(mark).await;
        }
        self.queues.consumers.insert(name, consumer);
        Reason(options.granted as u8)
    }

    /// Ends subscriptions. What of them is under way stays so ([MQTT-3.10.4-3]).
    pub(super) async fn unsubscribe(&mut self, unsubscribe: Unsubscribe) -> Result<(), End> {
        self.check_answer(unsubscribe.filters.len())?;
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in unsubscribe.filters {
            let existed = match filter {
                TopicFilter::Plain(filter) | TopicFilter::Exclusive(filter) => {
                    self.claims.remove(&filter);
                    self.watching.remove(&filter);
                    if let Some(retained) = &mut self.retained {
                        retained.remove(&filter);
                    }
                    self.client.unsubscribe(filter, None).await
                }
                TopicFilter::Shared { group, filter } => {
                    self.client.unsubscribe(filter, Some(group)).await
                }
                TopicFilter::Queue(name) => {
                    self.leave_queue(&name).await;
                    codes.push(Reason::SUCCESS);
                    continue;
                }
                TopicFilter::Unserved => Ok(false),
            };
            let existed = existed.map_err(|_| End::Closing)?;
            self.subscriptions = self.subscriptions.saturating_sub(usize::from(existed));
            codes.push(if existed { Reason::SUCCESS } else { Reason::NO_SUBSCRIPTION_EXISTED });
        }
        self.send(&Reply::UnsubAck { packet_id: unsubscribe.packet_id, codes });
        Ok(())
    }

    async fn leave_queue(&mut self, name: &str) {
        if let Some(consumer) = self.queues.consumers.remove(name) {
            // A store that closed ends the consumer as well.
            let _existed = self.client.cancel(consumer).await;
            let _marked = self.client.unsubscribe(queue_mark(name), None).await;
        }
    }
}

fn options(wish: &Wish, subscription_id: Option<u32>) -> Options {
    Options {
        granted: wish.qos,
        no_local: wish.no_local,
        retain_as_published: wish.retain_as_published,
        shared: matches!(wish.filter, TopicFilter::Shared { .. }),
        queue: matches!(wish.filter, TopicFilter::Queue(_)),
        exclusive: matches!(wish.filter, TopicFilter::Exclusive(_)),
        // Nobody but the server tells of it, whatever others publish there by other names.
        mark: match &wish.filter {
            TopicFilter::Plain(filter) | TopicFilter::Shared { filter, .. } => {
                is_of_the_server(filter)
            }
            TopicFilter::Exclusive(_) | TopicFilter::Queue(_) | TopicFilter::Unserved => false,
        },
        subscription_id,
    }
}

/// What is asked of the broker for a filter, if it is one that it serves by subscription.
fn ask(filter: &TopicFilter, options: Options) -> Option<Ask> {
    let (filter, share) = match filter {
        TopicFilter::Plain(filter) | TopicFilter::Exclusive(filter) => (filter.clone(), None),
        TopicFilter::Shared { group, filter } => (filter.clone(), Some(group.clone())),
        TopicFilter::Queue(_) | TopicFilter::Unserved => return None,
    };
    let live = options.granted == Qos::AtMostOnce || options.mark;
    Some(Ask { filter, share, options: options.pack(), live })
}

fn send_ask(client: &Client, ask: Option<Ask>) -> Asking<'_, Option<Subscribed>> {
    Box::pin(async move {
        match ask {
            Some(ask) => client.subscribe(ask).await.map(Some),
            None => Ok(None),
        }
    })
}

/// [MQTT-3.3.1-9] to [MQTT-3.3.1-11].
fn wants_retained(wish: &Wish, existed: bool) -> bool {
    match wish.retain_handling {
        RetainHandling::AtSubscribe => true,
        RetainHandling::AtNewSubscribe => !existed,
        RetainHandling::Never => false,
    }
}

/// Polls all of them, always first to last, so that their requests leave in order and their
/// answers share the store's next sync.
pub(super) async fn in_order<T>(mut asking: Vec<Asking<'_, T>>) -> Vec<Result<T, Refusal>> {
    let mut answers: Vec<Option<Result<T, Refusal>>> = asking.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut poll = Poll::Ready(());
        for (ask, answer) in asking.iter_mut().zip(&mut answers) {
            if answer.is_some() {
                continue;
            }
            match ask.as_mut().poll(cx) {
                Poll::Ready(ready) => *answer = Some(ready),
                Poll::Pending => poll = Poll::Pending,
            }
        }
        poll
    })
    .await;
    answers.into_iter().flatten().collect()
}

/// The subscription that keeps with a session that it consumes a queue.
fn queue_mark(name: &str) -> Filter {
    let mut text = BytesMut::from(QUEUE_MARK);
    Dialect::Mqtt.escape(name.as_bytes(), false, &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    Filter::parse(&text).expect("the mark has no wildcard and the name's are escaped")
}

/// The queue a mark stands for.
pub(super) fn marked_queue(filter: &Filter) -> Option<String> {
    let [Step::Exact(mark), Step::Exact(name)] = filter.steps() else { return None };
    let is_mark = QUEUE_MARK.strip_suffix('/').is_some_and(|text| mark == text.as_bytes());
    if is_mark { String::from_utf8(name.to_vec()).ok() } else { None }
}
