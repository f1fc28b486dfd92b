//! What a message must say when it arrives: the columns of MAPPING.md §4 for the messages the
//! matrix sends, and the same protocol's properties verbatim.

use mainstem_tests::matrix::{By, Publisher};
use serde_json::{Value, json};

pub(crate) const CONTENT_TYPE: &str = "text/plain; charset=utf-8";
pub(crate) const REPLY_QUEUE: &str = "answers";
pub(crate) const REPLY_TOPIC: &str = "answers/plant";
const TAG: &str = "hot";
const KEY: &str = "k1";
const PRIORITY: u64 = 5;
const EXPIRY_MS: u64 = 600_000;

/// What the senders say with a message, in words each client program puts into its protocol's.
pub(crate) fn say(token: &str) -> Value {
    json!({
        "content_type": CONTENT_TYPE,
        "correlation": format!("corr-{token}"),
        "reply_queue": REPLY_QUEUE,
        "reply_topic": REPLY_TOPIC,
        "message_id": format!("id-{token}"),
        "priority": PRIORITY,
        "expiry_ms": EXPIRY_MS,
        "tag": TAG,
        "key": KEY,
        "headers": {"color": "blue"},
    })
}

/// The path a message is published at, in the words of ADDRESSING.md's table.
pub(crate) fn path_of(publisher: &Publisher) -> Vec<String> {
    let words = |text: &str, separator| text.split(separator).map(str::to_owned).collect();
    let Publisher { exchange, key, topic, tag, .. } = publisher;
    match publisher.by {
        By::Amqp if exchange.is_empty() => match key.strip_prefix("$topic.") {
            Some(key) => words(key, '.'),
            None => vec!["$queue".to_owned(), key.clone()],
        },
        By::Amqp if exchange == "amq.topic" => words(key, '.'),
        By::Amqp if key.is_empty() => vec![exchange.clone()],
        By::Amqp => [vec![exchange.clone()], words(key, '.')].concat(),
        By::Mqtt311 | By::Mqtt5 | By::Http => words(topic, '/'),
        By::Rocketmq if tag.is_empty() => vec![topic.clone()],
        By::Rocketmq => vec![topic.clone(), tag.clone()],
    }
}

/// One arrival to judge.
pub(crate) struct Arrival<'a> {
    /// How it was published, its token filled in.
    pub(crate) publisher: &'a Publisher,
    pub(crate) token: &'a str,
    /// Whether the sender said what [`say`] lists.
    pub(crate) says: bool,
    /// The id that the sender's library gave it, where it did.
    pub(crate) sent_id: Option<&'a str>,
    /// The protocol it was read by, and the quality of service granted.
    pub(crate) reader: By,
    pub(crate) qos: u8,
    /// What the reader saw.
    pub(crate) said: &'a Value,
}

/// What is wrong with an arrival, one line for each finding.
pub(crate) fn findings(arrival: &Arrival<'_>) -> Vec<String> {
    let mut found = Findings { said: arrival.said, list: Vec::new() };
    address(arrival, &mut found);
    match arrival.reader {
        By::Amqp => amqp(arrival, &mut found),
        By::Mqtt5 => mqtt5(arrival, &mut found),
        By::Mqtt311 | By::Http => {}
        By::Rocketmq => rocketmq(arrival, &mut found),
    }
    if arrival.reader.is_mqtt() {
        found.want("/qos", json!(arrival.qos));
        found.want("/retain", json!(false));
    }
    found.list
}

struct Findings<'a> {
    said: &'a Value,
    list: Vec<String>,
}

impl Findings<'_> {
    fn at(&self, pointer: &str) -> &Value {
        self.said.pointer(pointer).unwrap_or(&Value::Null)
    }

    fn want(&mut self, pointer: &str, expected: Value) {
        let got = self.at(pointer);
        if *got != expected {
            self.list.push(format!("{pointer} is {got}, should be {expected}"));
        }
    }

    fn want_that(&mut self, pointer: &str, rule: &str, holds: impl Fn(&Value) -> bool) {
        let got = self.at(pointer);
        if !holds(got) {
            self.list.push(format!("{pointer} is {got}, should be {rule}"));
        }
    }
}

fn address(arrival: &Arrival<'_>, found: &mut Findings<'_>) {
    let path = path_of(arrival.publisher);
    match arrival.reader {
        By::Amqp if arrival.publisher.by == By::Amqp => {
            found.want("/exchange", json!(arrival.publisher.exchange));
            found.want("/routing_key", json!(arrival.publisher.key));
        }
        By::Amqp => {
            let word = |pointer| found.at(pointer).as_str().unwrap_or("?").to_owned();
            let (exchange, key) = (word("/exchange"), word("/routing_key"));
            let tag = String::new();
            let read = Publisher { by: By::Amqp, exchange, key, topic: tag.clone(), tag };
            if path_of(&read) != path {
                found.list.push(format!("{}|{} does not name {path:?}", read.exchange, read.key));
            }
        }
        By::Mqtt311 | By::Mqtt5 | By::Http => found.want("/topic", json!(path.join("/"))),
        By::Rocketmq => found.want("/topic", json!(path.first())),
    }
}

fn amqp(arrival: &Arrival<'_>, found: &mut Findings<'_>) {
    let (by, token) = (arrival.publisher.by, arrival.token);
    found.want("/delivery_mode", json!(2));
    if !arrival.says {
        return;
    }
    match by {
        By::Amqp | By::Http => found.want("/message_id", json!(format!("id-{token}"))),
        By::Rocketmq => found.want("/message_id", json!(arrival.sent_id)),
        By::Mqtt311 | By::Mqtt5 => {
            found.want_that("/message_id", "a UUID", |id| {
                id.as_str().is_some_and(|id| id.len() == 36)
            });
        }
    }
    if by != By::Amqp {
        found.want_that("/timestamp", "a time", |at| at.as_u64().is_some_and(|at| at > 0));
    }
    if by == By::Mqtt311 {
        return;
    }
    found.want("/content_type", json!(CONTENT_TYPE));
    found.want("/correlation", json!(format!("corr-{token}")));
    found.want("/headers/color", json!("blue"));
    if says_reply_queue(by) {
        found.want("/reply_to", json!(REPLY_QUEUE));
    } else {
        found.want("/reply_to", json!("$topic.answers.plant"));
        found.want_that("/headers/x-reply-to-topic", "there", |at| !at.is_null());
    }
    if by != By::Rocketmq {
        found.want("/priority", json!(PRIORITY));
        found.want_that("/expiration", "the ms left", |at| {
            let ms = at.as_str().and_then(|ms| ms.parse().ok());
            ms.is_some_and(|ms: u64| ms > 0 && ms <= EXPIRY_MS)
        });
    }
    if by == By::Amqp {
        found.want("/headers/count", json!(7));
        found.want("/headers/ready", json!(true));
        found.want("/headers/keys", json!(KEY));
    } else {
        found.want("/headers/keys", json!([KEY]));
    }
    if let Some(tag) = tag_said(arrival) {
        found.want("/headers/tag", json!(tag));
    }
}

fn mqtt5(arrival: &Arrival<'_>, found: &mut Findings<'_>) {
    let by = arrival.publisher.by;
    if !arrival.says || by == By::Mqtt311 {
        return;
    }
    found.want("/content_type", json!(CONTENT_TYPE));
    found.want("/correlation", json!(format!("corr-{}", arrival.token)));
    let reply = if says_reply_queue(by) { "$queue/answers" } else { REPLY_TOPIC };
    found.want("/reply_to", json!(reply));
    if by != By::Rocketmq {
        found.want_that("/expiry", "the seconds left", |at| {
            at.as_u64().is_some_and(|s| s > 0 && s <= EXPIRY_MS / 1000)
        });
    }
    let mut pairs = vec![("color", "blue"), ("keys", KEY)];
    pairs.extend(tag_said(arrival).map(|tag| ("tag", tag)));
    if by == By::Amqp {
        pairs.extend([("count", "7"), ("ready", "true")]);
    }
    if by == By::Mqtt5 {
        pairs.push(("color", "green"));
        found.want_that("/user", "blue before green", |user| {
            let colors = user.as_array().into_iter().flatten();
            let colors = colors.filter(|pair| pair[0] == "color").map(|pair| &pair[1]);
            colors.eq([&json!("blue"), &json!("green")])
        });
    }
    for (name, value) in pairs {
        found.want_that("/user", &format!("with {name}={value}"), |user| {
            user.as_array().is_some_and(|user| user.contains(&json!([name, value])))
        });
    }
}

fn rocketmq(arrival: &Arrival<'_>, found: &mut Findings<'_>) {
    let by = arrival.publisher.by;
    found.want("/corrupted", json!(false));
    let path = path_of(arrival.publisher);
    let rest = path.get(1..).unwrap_or_default().join("/");
    let tag = if arrival.says { tag_said(arrival) } else { None };
    match tag {
        Some(tag) => found.want("/tag", json!(tag)),
        None if rest.is_empty() => found.want("/tag", Value::Null),
        None => found.want("/tag", json!(rest)),
    }
    if !arrival.says || by == By::Mqtt311 {
        return;
    }
    if let Some(id) = arrival.sent_id {
        found.want("/message_id", json!(id));
    }
    let reply = if says_reply_queue(by) { "q:answers" } else { "t:answers/plant" };
    found.want("/properties/replyto", json!(reply));
    found.want("/properties/content-type", json!(CONTENT_TYPE));
    found.want("/properties/correlationid", json!(format!("corr-{}", arrival.token)));
    found.want("/properties/color", json!("blue"));
    found.want("/keys", json!([KEY]));
    if by == By::Amqp {
        found.want("/properties/count", json!("7"));
        found.want("/properties/ready", json!("true"));
    }
    if by != By::Rocketmq {
        found.want("/priority", json!(PRIORITY));
        found.want_that("/properties/expirytime", "a time", Value::is_string);
    }
}

/// Senders of AMQP and RocketMQ name a queue for answers, the others a topic.
fn says_reply_queue(by: By) -> bool {
    matches!(by, By::Amqp | By::Rocketmq)
}

fn tag_said<'a>(arrival: &'a Arrival<'_>) -> Option<&'a str> {
    match arrival.publisher.by {
        By::Amqp | By::Mqtt5 | By::Http => Some(TAG),
        By::Mqtt311 => None,
        By::Rocketmq => Some(arrival.publisher.tag.as_str()).filter(|tag| !tag.is_empty()),
    }
}
