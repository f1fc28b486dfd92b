//! The settings of a client: what it sent, with the server's own fields written over it.

use prost_types::Duration;

use super::group::{Delays, GroupTerms, growing};
use crate::{
    codec::{
        names,
        proto::{
            ClientType, Code, CustomizedBackoff, ExponentialBackoff, Language, Metric, Publishing,
            Resource, RetryPolicy, Settings, Subscription, retry_policy::Strategy,
            settings::PubSub,
        },
        status::Fault,
    },
    limits::Limits,
};

/// The delays of a consumer group's retries, in seconds.
const RETRY_S: [u64; 18] =
    [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];
/// The same for clients that take no list.
const NODE_RETRY: Delays = Delays::Growing { first_ms: 1_000, max_ms: 7_200_000, factor: 2.0 };

/// Settings as the server keeps and answers them.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    pub settings: Settings,
}

impl Settled {
    /// The consumer group; `None` for a producer.
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        match &self.settings.pub_sub {
            Some(PubSub::Subscription(subscription)) => {
                subscription.group.as_ref().map(|group| group.name.as_str())
            }
            Some(PubSub::Publishing(_)) | None => None,
        }
    }

    /// Whether it reads lite topics.
    #[must_use]
    pub fn is_lite(&self) -> bool {
        is_lite(self.settings.client_type)
    }

    /// The topics a producer said it publishes to; none for a consumer.
    #[must_use]
    pub fn publishing(&self) -> &[Resource] {
        match &self.settings.pub_sub {
            Some(PubSub::Publishing(publishing)) => &publishing.topics,
            Some(PubSub::Subscription(_)) | None => &[],
        }
    }
}

fn is_lite(kind: Option<i32>) -> bool {
    let lite = [ClientType::LitePushConsumer as i32, ClientType::LiteSimpleConsumer as i32];
    kind.is_some_and(|kind| lite.contains(&kind))
}

/// Checks what a client sent and merges the server's own fields into it. How its group is served, and
/// whether it reads in order, is never the client's to say.
pub fn settle(sent: Settings, group: &GroupTerms, limits: &Limits) -> Result<Settled, Fault> {
    let mut settings = sent;
    let kind = settings.client_type;
    let node = settings.user_agent.as_ref().is_some_and(|ua| ua.language() == Language::NodeJs);
    let producer = ClientType::Producer as i32;
    match &mut settings.pub_sub {
        None => {
            let text = "there is no publishing or subscription data in settings";
            return Err(Fault::new(Code::BadRequest, text));
        }
        Some(PubSub::Publishing(publishing)) => {
            if kind.is_some_and(|kind| kind != producer && kind != 0) {
                let text = "publishing settings of a client that is no producer";
                return Err(Fault::new(Code::BadRequest, text));
            }
            publish(publishing, limits)?;
            settings.backoff_policy = Some(producer_backoff());
        }
        Some(PubSub::Subscription(subscription)) => {
            if kind == Some(producer) {
                let text = "subscription settings of a producer";
                return Err(Fault::new(Code::BadRequest, text));
            }
            // Each lite topic is read in order.
            let ordered = group.ordered == Some(true) || is_lite(kind);
            subscribe(subscription, ordered, limits)?;
            settings.backoff_policy = Some(consumer_backoff(node, group, limits));
        }
    }
    settings.metric = Some(Metric { on: false, endpoints: None });
    Ok(Settled { settings })
}

fn publish(publishing: &mut Publishing, limits: &Limits) -> Result<(), Fault> {
    for topic in &publishing.topics {
        names::check_topic(&topic.name, limits)?;
    }
    publishing.max_body_size = i32::try_from(limits.body_bytes_max).unwrap_or(i32::MAX);
    publishing.validate_message_type = true;
    Ok(())
}

fn subscribe(subscription: &mut Subscription, ordered: bool, limits: &Limits) -> Result<(), Fault> {
    if let Some(group) = &subscription.group {
        names::check_group(&group.name, limits)?;
    }
    for entry in &subscription.subscriptions {
        let topic = entry.topic.as_ref().map_or("", |topic| topic.name.as_str());
        names::check_topic(topic, limits)?;
    }
    subscription.fifo = Some(ordered);
    subscription.receive_batch_size = i32::try_from(limits.receive_batch_max).ok();
    subscription.long_polling_timeout = Some(duration(limits.poll_ms_max));
    subscription.lite_subscription_quota = i32::try_from(limits.lite_subscriptions_max).ok();
    subscription.max_lite_topic_size = i32::try_from(limits.lite_topic_chars_max).ok();
    Ok(())
}

/// Java's producers refuse any other strategy.
fn producer_backoff() -> RetryPolicy {
    let exponential = ExponentialBackoff {
        initial: Some(duration(10)),
        max: Some(duration(1_000)),
        multiplier: 2.0,
    };
    RetryPolicy { max_attempts: 3, strategy: Some(Strategy::ExponentialBackoff(exponential)) }
}

/// Node's push consumers take an exponential strategy only; Python's a customized one only.
fn consumer_backoff(node: bool, group: &GroupTerms, limits: &Limits) -> RetryPolicy {
    let attempts_max = group.attempts_max.unwrap_or(limits.attempts_max);
    let strategy = match &group.delays {
        Some(delays) if node => growing(delays),
        Some(delays) => customized(delays.listed(attempts_max)),
        None if node => growing(&NODE_RETRY),
        None => customized(RETRY_S.map(|seconds| seconds * 1000)),
    };
    let max_attempts = i32::try_from(attempts_max).unwrap_or(i32::MAX);
    RetryPolicy { max_attempts, strategy: Some(strategy) }
}

fn customized(delays_ms: impl IntoIterator<Item = u64>) -> Strategy {
    let next = delays_ms.into_iter().map(duration).collect();
    Strategy::CustomizedBackoff(CustomizedBackoff { next })
}

/// A duration of these milliseconds.
#[must_use]
pub fn duration(ms: u64) -> Duration {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(ms % 1000 * 1_000_000).unwrap_or_default();
    Duration { seconds, nanos }
}

/// Milliseconds of a duration; `None` for a negative one.
#[must_use]
pub fn duration_ms(duration: &Duration) -> Option<u64> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u64::try_from(duration.nanos).ok()?;
    seconds.checked_mul(1000)?.checked_add(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::proto::{SubscriptionEntry, Ua};

    fn resource(name: &str) -> Resource {
        Resource { name: name.to_owned(), ..Default::default() }
    }

    fn sent(language: Language, kind: ClientType, pub_sub: Option<PubSub>) -> Settings {
        Settings {
            client_type: Some(kind as i32),
            user_agent: Some(Ua { language: language as i32, ..Default::default() }),
            pub_sub,
            ..Default::default()
        }
    }

    fn publishing(topics: &[&str]) -> Option<PubSub> {
        let topics = topics.iter().map(|topic| resource(topic)).collect();
        let max_body_size = 128 << 20;
        Some(PubSub::Publishing(Publishing { topics, max_body_size, ..Default::default() }))
    }

    fn subscription(group: &str, topic: &str) -> Option<PubSub> {
        let entry = SubscriptionEntry { topic: Some(resource(topic)), expression: None };
        Some(PubSub::Subscription(Subscription {
            group: Some(resource(group)),
            subscriptions: vec![entry],
            fifo: Some(true),
            ..Default::default()
        }))
    }

    fn merge(settings: Settings) -> Result<Settings, Code> {
        let settled = settle(settings, &GroupTerms::default(), &Limits::default());
        settled.map(|settled| settled.settings).map_err(|fault| fault.code)
    }

    #[test]
    fn producers_of_all_languages_back_off_exponentially() {
        for language in [Language::Java, Language::Python, Language::NodeJs, Language::Rust] {
            let settings = merge(sent(language, ClientType::Producer, publishing(&["T"]))).unwrap();
            let backoff = settings.backoff_policy.unwrap();
            assert_eq!(backoff.max_attempts, 3);
            assert!(matches!(backoff.strategy, Some(Strategy::ExponentialBackoff(_))));
            let Some(PubSub::Publishing(publishing)) = settings.pub_sub else { panic!() };
            assert_eq!(publishing.max_body_size, 4 << 20);
            assert!(publishing.validate_message_type);
            assert_eq!(settings.metric, Some(Metric { on: false, endpoints: None }));
        }
    }

    #[test]
    fn only_node_consumers_get_an_exponential_backoff() {
        for (language, exponential) in [
            (Language::Java, false),
            (Language::Python, false),
            (Language::Golang, false),
            (Language::NodeJs, true),
        ] {
            let sent = sent(language, ClientType::PushConsumer, subscription("g", "T"));
            let settings = merge(sent).unwrap();
            let backoff = settings.backoff_policy.unwrap();
            assert_eq!(backoff.max_attempts, 17);
            match backoff.strategy {
                Some(Strategy::ExponentialBackoff(_)) => assert!(exponential, "{language:?}"),
                Some(Strategy::CustomizedBackoff(customized)) => {
                    assert!(!exponential, "{language:?}");
                    assert_eq!(customized.next.len(), 18);
                }
                None => panic!("no strategy for {language:?}"),
            }
            let Some(PubSub::Subscription(subscription)) = settings.pub_sub else { panic!() };
            assert_eq!(subscription.fifo, Some(false), "order is the group's, not the client's");
            assert_eq!(subscription.receive_batch_size, Some(32));
            assert_eq!(subscription.long_polling_timeout.unwrap().seconds, 20);
        }
    }

    #[test]
    fn bad_settings_are_refused() {
        let java = Language::Java;
        let cases = [
            (sent(java, ClientType::Producer, None), Code::BadRequest),
            (sent(java, ClientType::Producer, publishing(&[" "])), Code::IllegalTopic),
            (sent(java, ClientType::Producer, subscription("g", "T")), Code::BadRequest),
            (sent(java, ClientType::PushConsumer, publishing(&["T"])), Code::BadRequest),
            (
                sent(java, ClientType::SimpleConsumer, subscription("", "T")),
                Code::IllegalConsumerGroup,
            ),
            (sent(java, ClientType::SimpleConsumer, subscription("g", "")), Code::IllegalTopic),
        ];
        for (settings, code) in cases {
            assert_eq!(merge(settings.clone()), Err(code), "{settings:?}");
        }
    }
}
