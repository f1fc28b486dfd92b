//! What queues and consumers may ask for, and what is refused in which words.

use mainstem_broker::{Consume, ExchangeKind, Over, Policy, Scope, Start};
use mainstem_schemas::Value;

use super::*;

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn with(arguments: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn stream_def() -> QueueDef {
    let arguments = vec![("x-queue-type".to_owned(), Value::Text("stream".to_owned()))];
    QueueDef { retention: Retention::Time, arguments, ..queue_def("q") }
}

/// Consumes with a prefetch of 5 from a queue, up to what is asked of the store or refused.
fn consume_from(
    def: QueueDef,
    no_ack: bool,
    arguments: &[(&str, AMQPValue)],
) -> Result<Consume, (u16, String)> {
    let mut pair = Pair::with_channel();
    let (prefetch_count, global) = (5, false);
    pair.basic(basic::AMQPMethod::Qos(basic::Qos { prefetch_count, global }));
    pair.effects.clear();
    let basic::AMQPMethod::Consume(mut wish) = consume("t", no_ack) else { panic!() };
    wish.arguments = with(arguments);
    pair.basic(basic::AMQPMethod::Consume(wish));
    if matches!(pair.effects.front(), Some(Effect::Ask(_))) {
        let ask = pair.ask();
        pair.answer(ask, Ok(Answer::Queue(found(def))));
    }
    if matches!(pair.effects.front(), Some(Effect::Ask(_))) {
        let Request::Consume(wanted) = pair.ask().request else { panic!() };
        return Ok(wanted);
    }
    Err(pair.close())
}

#[test]
fn queue_arguments_out_of_range_are_told_in_rabbitmqs_words() {
    let check = |arguments: &[(&str, AMQPValue)], expected: &str| {
        let mut pair = Pair::with_channel();
        let mut wanted = declare("q");
        wanted.arguments = with(arguments);
        pair.send(1, AMQPClass::Queue(queue::AMQPMethod::Declare(wanted)));
        assert_eq!(pair.close(), (1, format!("406 PRECONDITION_FAILED - {expected}")));
    };
    let int = AMQPValue::LongInt;
    let named =
        |name: &str, why: &str| format!("invalid arg '{name}' for queue 'q' in vhost '/'{why}");
    for (name, value, why) in [
        ("x-expires", int(0), "{value_zero,0}"),
        ("x-message-ttl", int(-1), "{value_negative,-1}"),
        ("x-max-length", long("a"), "\"expected integer, got longstr\""),
        ("x-max-length-bytes", AMQPValue::Boolean(true), "\"expected integer, got bool\""),
        ("x-overflow", long("nope"), "invalid_overflow"),
        ("x-overflow", int(1), "{unacceptable_type,signedint}"),
        ("x-max-priority", int(256), "{max_value_exceeded,256}"),
        ("x-delivery-limit", int(-2), "{value_negative,-2}"),
        ("x-single-active-consumer", long("true"), "{unacceptable_type,longstr}"),
        ("x-dead-letter-strategy", long("nope"), "invalid_dlx_strategy"),
        ("x-dead-letter-routing-key", long("k"), "routing_key_but_no_dlx_defined"),
        ("x-queue-mode", long("nope"), "\"unsupported queue mode 'nope'\""),
        ("x-queue-version", int(3), "\"unsupported queue version '3'\""),
        ("x-queue-type", long("nope"), "\"unsupported queue type 'nope'\""),
        ("x-max-age", long("1x"), "invalid_max_age"),
    ] {
        check(&[(name, value)], &named(name, &format!(": {why}")));
    }
    let text =
        "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'";
    check(&[("x-dead-letter-exchange", int(1))], text);
    let stream = ("x-queue-type", long("stream"));
    for (name, value) in [("x-max-length", int(3)), ("x-message-ttl", int(3))] {
        let expected = named(name, " of queue type rabbit_stream_queue");
        check(&[stream.clone(), (name, value)], &expected);
    }
    let expected = named("x-max-age", " of queue type rabbit_classic_queue");
    check(&[("x-max-age", long("1h"))], &expected);
}

#[test]
fn arguments_that_mean_nothing_on_one_node_are_taken() {
    for (name, value) in [
        ("x-queue-mode", long("lazy")),
        ("x-queue-leader-locator", long("balanced")),
        ("x-queue-master-locator", long("min-masters")),
        ("x-delivery-limit", AMQPValue::LongInt(-1)),
        ("x-max-in-memory-length", AMQPValue::LongInt(3)),
    ] {
        let mut pair = Pair::with_channel();
        let mut wanted = declare("q");
        wanted.arguments = with(&[(name, value)]);
        assert!(matches!(pair.declare(wanted).request, Request::DeclareQueue(_)), "{name}");
    }
}

#[test]
fn a_stream_is_read_from_where_its_reader_says() {
    let now = 1_700_000_000_000;
    let start = |value: AMQPValue| {
        let wanted = consume_from(stream_def(), false, &[("x-stream-offset", value)]).unwrap();
        let mainstem_broker::Source::Stream(_, start) = wanted.source else { panic!() };
        start
    };
    assert_eq!(start(long("first")), Start::First);
    assert_eq!(start(long("last")), Start::Last);
    assert_eq!(start(long("next")), Start::Next);
    assert_eq!(start(AMQPValue::LongLongInt(7)), Start::Offset(Offset(7)));
    assert_eq!(start(AMQPValue::LongLongInt(-7)), Start::Offset(Offset(0)));
    assert_eq!(start(AMQPValue::Timestamp(9)), Start::Time(UnixMillis(9000)));
    assert_eq!(start(long("1h")), Start::Time(UnixMillis(now - 3_600_000)));
    let (_, text) =
        consume_from(stream_def(), false, &[("x-stream-offset", long("1x"))]).unwrap_err();
    assert!(text.ends_with("{invalid_stream_offset_arg,{longstr,<<\"1x\">>}}"), "{text}");
    let (_, text) =
        consume_from(queue_def("q"), false, &[("x-stream-offset", long("first"))]).unwrap_err();
    assert!(text.ends_with("of queue type rabbit_classic_queue"), "{text}");
}

#[test]
fn a_stream_wants_acknowledgements() {
    let (channel, text) = consume_from(stream_def(), true, &[]).unwrap_err();
    let expected = "540 NOT_IMPLEMENTED - automatic acknowledgement not supported by stream queues \
                    queue 'q' in vhost '/'";
    assert_eq!((channel, text.as_str()), (0, expected));
}

#[test]
fn an_exchange_that_delays_routes_by_its_other_type() {
    let declare = |kind: &str, arguments: &[(&str, AMQPValue)]| {
        let mut pair = Pair::with_channel();
        let declare = exchange::Declare {
            exchange: "later".into(),
            kind: kind.into(),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: with(arguments),
        };
        pair.send(1, AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)));
        pair
    };
    let def = |mut pair: Pair| match pair.ask().request {
        Request::DeclareExchange(def) => def,
        other => panic!("{other:?}"),
    };
    let kind = |kind: &str| [("x-delayed-type", long(kind))];
    let delaying = def(declare("x-delayed-message", &kind("topic")));
    assert_eq!(delaying.kind, ExchangeKind::Topic);
    assert!(equivalence::is_delayed(&delaying));
    let plain = def(declare("topic", &kind("topic")));
    assert!(!equivalence::is_delayed(&plain));
    let fault = equivalence::exchange(&plain, &delaying, "/").unwrap_err();
    assert!(fault.text.ends_with("received 'topic' but current is 'x-delayed-message'"), "{fault}");
    let fanout = def(declare("x-delayed-message", &kind("fanout")));
    assert!(equivalence::exchange(&fanout, &delaying, "/").is_err());
    for (arguments, expected) in [
        (vec![], "Invalid argument, 'x-delayed-type' must be an existing exchange type"),
        (
            kind("x-delayed-message").to_vec(),
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'",
        ),
    ] {
        let mut pair = declare("x-delayed-message", &arguments);
        assert_eq!(pair.close(), (1, format!("406 PRECONDITION_FAILED - {expected}")));
    }
}

#[test]
fn a_delivery_left_unsettled_for_long_ends_its_channel() {
    let mut pair = Pair::with_channel();
    let consumer = pair.consume("t", false);
    pair.deliver(consumer, 7);
    let limit = 30 * 60 * 1000;
    pair.session.look_at_unsettled(UnixMillis(limit), &mut pair.effects);
    assert!(pair.effects.is_empty());
    pair.session.look_at_unsettled(UnixMillis(limit + 1), &mut pair.effects);
    let released = pair.effects.iter().any(|effect| {
        matches!(effect, Effect::Settle(Settlement { id, verdict: Verdict::Release }) if id.offset.0 == 7)
    });
    assert!(released);
    let text = "406 PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout \
                value used: 1800000 ms. This timeout value can be configured, see consumers doc \
                guide to learn more";
    assert_eq!(pair.close(), (1, text.to_owned()));
    assert!(pair.session.is_running());
}

#[test]
fn a_refused_publish_is_nacked_on_a_channel_that_asks_and_nowhere_else() {
    let mut pair = Pair::with_channel();
    let full = Published::Refused(Refusal::QueueFull("q".to_owned()));
    pair.publish(b"m", false);
    let tickets = pair.tickets();
    pair.outcome(&tickets[0], &full);
    assert!(pair.effects.is_empty());
    pair.confirm_select();
    pair.publish(b"m", false);
    pair.publish(b"m", false);
    let tickets = pair.tickets();
    pair.outcome(&tickets[0], &taken(1));
    pair.outcome(&tickets[1], &full);
    let replies = [
        (1, Reply::Ack { delivery_tag: 1, multiple: false }),
        (1, Reply::Nack { delivery_tag: 2 }),
    ];
    assert_eq!(pair.replies(), replies);
}

fn close_channel(pair: &mut Pair, number: u16) {
    let close =
        channel::Close { reply_code: 200, reply_text: "bye".into(), class_id: 0, method_id: 0 };
    pair.send(number, AMQPClass::Channel(channel::AMQPMethod::Close(close)));
}

#[test]
fn a_channel_is_counted_besides_those_that_are_open_then() {
    let mut pair = Pair::opened();
    pair.send(1, channel_open());
    close_channel(&mut pair, 1);
    pair.send(2, channel_open());
    pair.send(3, channel_open());
    let counts = pair.effects.iter().filter_map(|effect| match effect {
        Effect::CountChannel { channel, others } => Some((*channel, *others)),
        _ => None,
    });
    assert_eq!(counts.collect::<Vec<_>>(), [(1, 0), (2, 0), (3, 1)]);
    let replies = pair.replies();
    assert!(!replies.contains(&(2, Reply::ChannelOpenOk)), "before it is counted: {replies:?}");
}

#[test]
fn who_has_as_much_as_it_may_is_told_in_rabbitmqs_words() {
    let mut pair = Pair::with_channel();
    pair.send(2, channel_open());
    let over = |scope| Over { scope, max: 7 };
    let user = over(Scope::User("guest".to_owned()));
    pair.effects.clear();
    pair.session.channel_counted(2, Err(user.clone()), &mut pair.effects);
    let text = "530 NOT_ALLOWED - number of channels opened for user 'guest' has reached the \
                maximum allowed user limit of (7)";
    assert!(
        !pair
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Write { reply: Reply::ChannelOpenOk, .. }))
    );
    assert_eq!(pair.close(), (0, text.to_owned()));
    assert!(pair.session.is_closing());

    let turned_away = |over: &Over| {
        let mut pair = Pair::started();
        pair.send(0, start_ok("PLAIN", &[]));
        pair.session.logged_in(Ok(()), &mut pair.effects);
        pair.send(0, tune_ok(10, 8192));
        pair.send(0, open("/"));
        pair.effects.clear();
        pair.session.turned_away("/", over, &mut pair.effects);
        assert!(!pair.session.is_running());
        pair.close()
    };
    let text = "530 NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit \
                (7) is reached";
    let space = over(Scope::Namespace("/".to_owned()));
    assert_eq!(turned_away(&space), (0, text.to_owned()));
    let text = "530 NOT_ALLOWED - connection refused for user 'guest': user connection limit (7) \
                is reached";
    assert_eq!(turned_away(&user), (0, text.to_owned()));
}

#[test]
fn a_queue_more_than_its_virtual_host_may_have_is_refused_in_rabbitmqs_words() {
    let mut pair = Pair::with_channel();
    let ask = pair.declare(declare("two"));
    pair.answer(ask, Err(Refusal::Limit { name: "max-queues", max: 1 }));
    let text = "406 PRECONDITION_FAILED - cannot declare queue 'two': queue limit in vhost '/' (1) \
                is reached";
    assert_eq!(pair.close(), (1, text.to_owned()));
}

#[test]
fn consumers_of_a_queue_that_goes_are_told_before_the_one_who_deleted_it() {
    let mut pair = Pair::with_channel();
    let own = pair.consume("own", false);
    pair.open_channel(2);
    pair.effects.clear();
    let delete = |channel, pair: &mut Pair| {
        let delete =
            queue::Delete { queue: "q".into(), if_unused: false, if_empty: false, nowait: false };
        pair.send(channel, AMQPClass::Queue(queue::AMQPMethod::Delete(delete)));
        let ask = pair.ask();
        pair.answer(ask, Ok(Answer::Count(0)));
        pair.replies()
    };
    let deleted = Reply::QueueDeleteOk { message_count: 0 };
    let cancel = |tag: &'static str| Reply::Cancel { consumer_tag: tag.into() };
    // Its own consumers are told by the store's notice.
    assert_eq!(delete(1, &mut pair), [(1, deleted.clone())]);
    assert_eq!(delete(2, &mut pair), [(1, cancel("own")), (2, deleted)]);
    pair.session.consumer_gone(own, &mut pair.effects);
    assert!(pair.replies().is_empty(), "told once");
}

#[test]
fn the_shortest_timeout_says_how_often_to_look() {
    let mut pair = Pair::with_channel();
    assert_eq!(pair.session.shortest_timeout_ms(), 1_800_000);
    for (timeout_ms, expected) in [(900, 900), (0, 900), (5000, 900)] {
        let policy = Policy { settle_max_ms: Some(timeout_ms), ..Policy::default() };
        let def = QueueDef { policy: Arc::new(policy), ..queue_def("q") };
        pair.basic(consume(&format!("t{timeout_ms}"), false));
        let ask = pair.ask();
        pair.answer(ask, Ok(Answer::Queue(found(def))));
        let ask = pair.ask();
        pair.answer(ask, Ok(Answer::Done));
        assert_eq!(pair.session.shortest_timeout_ms(), expected, "{timeout_ms}");
    }
}

#[test]
fn a_prefix_of_a_name_loses_line_breaks_before_it_is_looked_at() {
    let declared = |prefix: &str| {
        let mut pair = Pair::with_channel();
        let mut wanted = declare("");
        wanted.arguments = with(&[("x-name-prefix", long(prefix))]);
        pair.send(1, AMQPClass::Queue(queue::AMQPMethod::Declare(wanted)));
        if !matches!(pair.effects.front(), Some(Effect::Ask(_))) {
            return Err(pair.close().1);
        }
        let Request::DeclareQueue(def) = pair.ask().request else { panic!() };
        Ok(def.name)
    };
    let name = declared("jobs\r\n-").unwrap();
    assert!(name.starts_with("jobs-") && name.len() == 5 + 22, "{name:?}");
    for reserved in ["amq.x", "\namq.x", "a\rmq.x"] {
        let why = declared(reserved).unwrap_err();
        assert!(why.ends_with(": invalid_name_prefix"), "{why}");
    }
}
