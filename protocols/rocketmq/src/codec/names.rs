//! Which names, properties and durations a request may carry, and the code that refuses each.

use crate::{
    codec::{
        proto::{Code, Message, MessageType, SystemProperties},
        status::Fault,
    },
    limits::Limits,
};

/// Property names of the server's own. Refused when sent, hidden when delivered.
const RESERVED: [&str; 52] = [
    "TRACE_ON",
    "MSG_REGION",
    "KEYS",
    "TAGS",
    "WAIT",
    "DELAY",
    "RETRY_TOPIC",
    "REAL_TOPIC",
    "REAL_QID",
    "TRAN_MSG",
    "PGROUP",
    "MIN_OFFSET",
    "MAX_OFFSET",
    "BUYER_ID",
    "ORIGIN_MESSAGE_ID",
    "TRANSFER_FLAG",
    "CORRECTION_FLAG",
    "MQ2_FLAG",
    "RECONSUME_TIME",
    "UNIQ_KEY",
    "MAX_RECONSUME_TIMES",
    "CONSUME_START_TIME",
    "POP_CK",
    "POP_CK_OFFSET",
    "1ST_POP_TIME",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "DUP_INFO",
    "EXTEND_UNIQ_INFO",
    "INSTANCE_ID",
    "CORRELATION_ID",
    "REPLY_TO_CLIENT",
    "TTL",
    "ARRIVE_TIME",
    "PUSH_REPLY_TIME",
    "CLUSTER",
    "MSG_TYPE",
    "INNER_MULTI_QUEUE_OFFSET",
    "TIMER_DELAY_MS",
    "TIMER_DELAY_SEC",
    "TIMER_DELIVER_MS",
    "TIMER_ENQUEUE_MS",
    "TIMER_DEQUEUE_MS",
    "TIMER_ROLL_TIMES",
    "TIMER_OUT_MS",
    "TIMER_DEL_UNIQKEY",
    "TIMER_DELAY_LEVEL",
    "__BORNHOST",
    "BORN_TIMESTAMP",
    "DLQ_ORIGIN_TOPIC",
    "DLQ_ORIGIN_MESSAGE_ID",
    "__CRC32#",
    // Not reserved upstream, where it lets any producer write into any other queue.
    "INNER_MULTI_DISPATCH",
];

const SYSTEM_TOPICS: [&str; 9] = [
    "SCHEDULE_TOPIC_XXXX",
    "TBW102",
    "BenchmarkTest",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "DefaultCluster_REPLY_TOPIC",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
];

/// Whether a property name belongs to the server.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// Whether `text` is a legal tag.
#[must_use]
pub fn is_tag(text: &str) -> bool {
    !text.trim().is_empty() && !text.contains('|') && !has_control(text)
}

/// Whether `text` holds a control character, which no name or value may.
#[must_use]
pub fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

fn is_name(name: &str, chars_max: usize) -> bool {
    let legal =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'|' | b'_' | b'-');
    !name.is_empty() && name.len() <= chars_max && name.bytes().all(legal)
}

/// A topic's name may be sent to and consumed from.
pub fn check_topic(name: &str, limits: &Limits) -> Result<(), Fault> {
    let refuse = |why: &str| Err(Fault::new(Code::IllegalTopic, format!("topic '{name}' {why}")));
    if !is_name(name, limits.topic_chars_max) {
        return refuse("is blank, too long or has an illegal character");
    }
    let system = SYSTEM_TOPICS.contains(&name)
        || name.starts_with("rmq_sys_")
        || name.starts_with("RMQ_SYS_");
    if system { refuse("is the system's") } else { Ok(()) }
}

/// A lite topic's name.
pub fn check_lite(name: &str, limits: &Limits) -> Result<(), Fault> {
    if is_name(name, limits.lite_topic_chars_max) {
        return Ok(());
    }
    let text = format!("lite topic '{name}' is blank, too long or has an illegal character");
    Err(Fault::new(Code::IllegalLiteTopic, text))
}

/// A consumer group's name.
pub fn check_group(name: &str, limits: &Limits) -> Result<(), Fault> {
    if !is_name(name, limits.group_chars_max) || name.starts_with("CID_RMQ_SYS_") {
        let text = format!("consumer group '{name}' is blank, too long or not legal");
        return Err(Fault::new(Code::IllegalConsumerGroup, text));
    }
    Ok(())
}

/// A message as a producer sends it; its topic has been checked.
pub fn check_message(message: &Message, limits: &Limits) -> Result<(), Fault> {
    let system = message.system_properties.as_ref();
    let system = system.ok_or_else(|| {
        Fault::new(Code::IllegalMessageId, "message id cannot be empty: no system properties")
    })?;
    if message.body.is_empty() {
        return Err(Fault::new(Code::MessageBodyEmpty, "message body cannot be empty"));
    }
    if message.body.len() > limits.body_bytes_max {
        let text = format!(
            "message body has {} bytes, over the limit of {}",
            message.body.len(),
            limits.body_bytes_max
        );
        return Err(Fault::new(Code::MessageBodyTooLarge, text));
    }
    check_properties(message, system, limits)?;
    check_system(system, limits)
}

fn check_properties(
    message: &Message,
    system: &SystemProperties,
    limits: &Limits,
) -> Result<(), Fault> {
    let properties = &message.user_properties;
    if properties.len() > limits.properties_max {
        let text = format!("{} user properties are too many", properties.len());
        return Err(Fault::new(Code::MessagePropertiesTooLarge, text));
    }
    let mut bytes = system.tag().len() + system.keys.iter().map(String::len).sum::<usize>();
    for (key, value) in properties {
        if is_reserved(key) {
            let text = format!("property '{key}' is the system's");
            return Err(Fault::new(Code::IllegalMessagePropertyKey, text));
        }
        if has_control(key) || has_control(value) {
            let text = format!("property '{}' has a control character", key.escape_debug());
            return Err(Fault::new(Code::IllegalMessagePropertyKey, text));
        }
        bytes += key.len() + value.len();
    }
    if bytes > limits.properties_bytes_max {
        let text = format!("properties have {bytes} bytes, over {}", limits.properties_bytes_max);
        return Err(Fault::new(Code::MessagePropertiesTooLarge, text));
    }
    Ok(())
}

fn check_system(system: &SystemProperties, limits: &Limits) -> Result<(), Fault> {
    if !system.tag().is_empty() && !is_tag(system.tag()) {
        let text = "tag is blank, has a '|' or a control character";
        return Err(Fault::new(Code::IllegalMessageTag, text));
    }
    if system.keys.iter().any(|key| key.trim().is_empty() || has_control(key)) {
        let text = "a key is blank or has a control character";
        return Err(Fault::new(Code::IllegalMessageKey, text));
    }
    if system.message_id.trim().is_empty() {
        return Err(Fault::new(Code::IllegalMessageId, "message id cannot be empty"));
    }
    if let Some(group) = &system.message_group {
        let legal = !group.trim().is_empty()
            && group.len() <= limits.message_group_bytes_max
            && !has_control(group);
        if !legal {
            let text = "message group is blank, too long or has a control character";
            return Err(Fault::new(Code::IllegalMessageGroup, text));
        }
    }
    Ok(())
}

/// The type that a message's properties make it, whatever it says itself.
#[must_use]
pub fn message_type(system: &SystemProperties) -> MessageType {
    if system.message_type() == MessageType::Transaction {
        MessageType::Transaction
    } else if system.delivery_timestamp.is_some() {
        MessageType::Delay
    } else if system.message_group.is_some() {
        MessageType::Fifo
    } else if system.priority.is_some() {
        MessageType::Priority
    } else if system.lite_topic.is_some() {
        MessageType::Lite
    } else {
        MessageType::Normal
    }
}

/// How long a received message stays hidden, in milliseconds.
pub fn check_invisible(ms: u64, least: u64, limits: &Limits) -> Result<(), Fault> {
    if (least..=limits.invisible_ms_max).contains(&ms) {
        return Ok(());
    }
    let text =
        format!("the invisible time of {ms} ms is outside {least}..{} ms", limits.invisible_ms_max);
    Err(Fault::new(Code::IllegalInvisibleTime, text))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn message(change: impl FnOnce(&mut Message, &mut SystemProperties)) -> Result<(), Code> {
        let mut system = SystemProperties { message_id: "m".to_owned(), ..Default::default() };
        let mut message = Message { body: "x".into(), ..Default::default() };
        change(&mut message, &mut system);
        message.system_properties = Some(system);
        check_message(&message, &Limits::default()).map_err(|fault| fault.code)
    }

    #[test]
    fn names_keep_to_their_alphabet_and_length() {
        let limits = Limits::default();
        let topic = |name: &str| check_topic(name, &limits).map_err(|fault| fault.code);
        for good in ["T", "a-b_C9", "%DLQ%g", "%RETRY%g", &"t".repeat(127)] {
            assert_eq!(topic(good), Ok(()), "{good}");
        }
        for bad in ["", " ", "a b", "a.b", "ü", &"t".repeat(128), "rmq_sys_x", "TBW102"] {
            assert_eq!(topic(bad), Err(Code::IllegalTopic), "{bad}");
        }
        let group = |name: &str| check_group(name, &limits).map_err(|fault| fault.code);
        assert_eq!(group(&"g".repeat(120)), Ok(()));
        for bad in ["", "g g", &"g".repeat(121), "CID_RMQ_SYS_x"] {
            assert_eq!(group(bad), Err(Code::IllegalConsumerGroup), "{bad}");
        }
    }

    #[test]
    fn a_body_has_one_byte_to_four_mebibytes() {
        assert_eq!(message(|m, _| m.body = "".into()), Err(Code::MessageBodyEmpty));
        assert_eq!(message(|m, _| m.body = vec![0; 4 << 20].into()), Ok(()));
        let big = message(|m, _| m.body = vec![0; (4 << 20) + 1].into());
        assert_eq!(big, Err(Code::MessageBodyTooLarge));
    }

    #[test]
    fn properties_are_counted_with_tag_and_keys() {
        let many = |count: usize| {
            message(|m, _| {
                m.user_properties = (0..count).map(|n| (n.to_string(), String::new())).collect();
            })
        };
        assert_eq!(many(128), Ok(()));
        assert_eq!(many(129), Err(Code::MessagePropertiesTooLarge));
        let sized = |value: usize| {
            message(|m, s| {
                s.tag = Some("t".repeat(24));
                s.keys = vec!["k".repeat(40), "k".repeat(60)];
                m.user_properties = HashMap::from([("abcd".to_owned(), "v".repeat(value))]);
            })
        };
        assert_eq!(sized((16 << 10) - 128), Ok(()));
        assert_eq!(sized((16 << 10) - 127), Err(Code::MessagePropertiesTooLarge));
    }

    #[test]
    fn each_property_has_its_code() {
        let property = |key: &str, value: &str| {
            message(|m, _| {
                m.user_properties.insert(key.to_owned(), value.to_owned());
            })
        };
        assert_eq!(property("k", "ü"), Ok(()));
        for (key, value) in
            [("UNIQ_KEY", "v"), ("INNER_MULTI_DISPATCH", "v"), ("k\0", "v"), ("k", "\u{1}")]
        {
            assert_eq!(property(key, value), Err(Code::IllegalMessagePropertyKey), "{key:?}");
        }
        let tag = |tag: &str| message(|_, s| s.tag = Some(tag.to_owned()));
        for good in ["", "中文", "*", "a b"] {
            assert_eq!(tag(good), Ok(()), "{good}");
        }
        for bad in [" ", "a|b", "a\0"] {
            assert_eq!(tag(bad), Err(Code::IllegalMessageTag), "{bad}");
        }
        let key = |key: &str| message(|_, s| s.keys = vec![key.to_owned()]);
        assert_eq!(key("k k"), Ok(()));
        assert_eq!(key(""), Err(Code::IllegalMessageKey));
        let group = |group: &str| message(|_, s| s.message_group = Some(group.to_owned()));
        assert_eq!(group(&"g".repeat(63)), Ok(()));
        assert_eq!(group(&"g".repeat(64)), Err(Code::IllegalMessageGroup));
        assert_eq!(group(""), Err(Code::IllegalMessageGroup));
        assert_eq!(message(|_, s| s.message_id = " ".to_owned()), Err(Code::IllegalMessageId));
    }

    #[test]
    fn the_properties_decide_the_type() {
        let mut system = SystemProperties { message_type: 1, ..Default::default() };
        assert_eq!(message_type(&system), MessageType::Normal);
        system.priority = Some(1);
        assert_eq!(message_type(&system), MessageType::Priority);
        system.message_group = Some("g".to_owned());
        assert_eq!(message_type(&system), MessageType::Fifo);
        system.delivery_timestamp = Some(Default::default());
        assert_eq!(message_type(&system), MessageType::Delay);
        system.message_type = MessageType::Transaction as i32;
        assert_eq!(message_type(&system), MessageType::Transaction);
    }

    #[test]
    fn an_invisible_time_has_both_bounds() {
        let limits = Limits::default();
        let check = |ms| check_invisible(ms, limits.invisible_ms_min, &limits).is_ok();
        assert!(!check(9_999) && check(10_000) && check(43_200_000) && !check(43_200_001));
        assert!(check_invisible(0, 0, &limits).is_ok());
    }
}
