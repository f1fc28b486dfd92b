//! The rules of a conversation, by the trap or clause each keeps.

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame},
    protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue, tx},
    types::{AMQPValue, FieldTable},
};
use bytes::BytesMut;
use mainstem_broker::{
    Declared, Delivery, LoginError, Published, QueueDef, QueueStats, Refusal, Retention,
};
use mainstem_schemas::{CursorId, DeliveryId, Offset, Position, QueueId, Record, Secret};

use super::*;

mod hostile;
mod limits;
mod messages;

/// A client and the session that serves it.
struct Pair {
    session: Session,
    effects: Effects,
}

impl Pair {
    /// After connection.start.
    fn started() -> Self {
        let mut effects = Effects::new();
        let session = Session::start(Arc::new(Limits::default()), 1 << 20, 7, None, &mut effects);
        effects.clear();
        Self { session, effects }
    }

    fn opened() -> Self {
        let mut pair = Self::started();
        pair.send(0, start_ok("PLAIN", &["consumer_cancel_notify", "connection.blocked"]));
        pair.session.logged_in(Ok(()), &mut pair.effects);
        pair.send(0, tune_ok(10, 8192));
        pair.send(0, open("/"));
        pair.session.entered("/".to_owned(), Ok(()), &mut pair.effects);
        assert!(pair.session.is_running());
        pair.effects.clear();
        pair
    }

    /// With channel 1.
    fn with_channel() -> Self {
        let mut pair = Self::opened();
        pair.open_channel(1);
        pair.effects.clear();
        pair
    }

    fn open_channel(&mut self, number: u16) {
        self.send(number, channel_open());
        if let Some(Effect::CountChannel { channel, .. }) = self.effects.back() {
            let channel = *channel;
            self.effects.pop_back();
            self.session.channel_counted(channel, Ok(()), &mut self.effects);
        }
    }

    fn frame(&mut self, frame: &AMQPFrame) {
        let bytes = gen_frame(frame)(WriteContext::from(Vec::new())).unwrap().into_inner().0;
        let mut bytes = BytesMut::from(&bytes[..]);
        let frame = Frame::split(&mut bytes, 131_072).unwrap().unwrap();
        self.session.handle(frame, UnixMillis(1_700_000_000_000), &mut self.effects);
    }

    fn send(&mut self, channel: u16, class: AMQPClass) {
        self.frame(&AMQPFrame::Method(channel, class));
    }

    fn basic(&mut self, method: basic::AMQPMethod) {
        self.send(1, AMQPClass::Basic(method));
    }

    fn publish(&mut self, body: &[u8], mandatory: bool) {
        self.basic(basic::AMQPMethod::Publish(basic::Publish {
            exchange: "x".into(),
            routing_key: "k".into(),
            mandatory,
            immediate: false,
        }));
        self.header(body.len());
        if !body.is_empty() {
            self.frame(&AMQPFrame::Body(1, body.to_vec()));
        }
    }

    fn header(&mut self, size: usize) {
        let properties = basic::AMQPProperties::default();
        let header = AMQPContentHeader { class_id: 60, body_size: size as u64, properties };
        self.frame(&AMQPFrame::Header(1, header));
    }

    fn confirm_select(&mut self) {
        let select = confirm::Select { nowait: true };
        self.send(1, AMQPClass::Confirm(confirm::AMQPMethod::Select(select)));
    }

    /// The publishes let out so far.
    fn tickets(&mut self) -> Vec<Ticket> {
        let of =
            |effect| if let Effect::Publish { ticket, .. } = effect { Some(ticket) } else { None };
        self.effects.drain(..).filter_map(of).collect()
    }

    fn outcome(&mut self, ticket: &Ticket, outcome: &Published) {
        self.session.published(ticket, outcome, &mut self.effects);
    }

    /// The replies so far.
    fn replies(&mut self) -> Vec<(u16, Reply)> {
        let of = |effect| match effect {
            Effect::Write { channel, reply } => Some((channel, reply)),
            _ => None,
        };
        self.effects.drain(..).filter_map(of).collect()
    }

    /// The text of the one close that was sent, with its channel.
    fn close(&mut self) -> (u16, String) {
        let replies = self.replies();
        let mut closes = replies.into_iter().filter_map(|(channel, reply)| match reply {
            Reply::Close(close) | Reply::ChannelClose(close) => Some((channel, close)),
            _ => None,
        });
        let (channel, close) = closes.next().expect("a close was sent");
        assert!(closes.next().is_none());
        (channel, format!("{} {}", close.code, close.text))
    }

    fn declare(&mut self, declare: queue::Declare) -> Ask {
        self.send(1, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)));
        self.ask()
    }

    fn ask(&mut self) -> Ask {
        let of = |effect| if let Effect::Ask(ask) = effect { Some(ask) } else { None };
        self.effects.drain(..).find_map(of).expect("a question was asked")
    }

    fn answer(&mut self, ask: Ask, answer: Answered) {
        self.session.answered(ask.channel, ask.then, answer, &mut self.effects);
    }

    /// Consumes from `q` until consume-ok.
    fn consume(&mut self, tag: &str, no_ack: bool) -> ConsumerId {
        self.basic(consume(tag, no_ack));
        let ask = self.ask();
        self.answer(ask, Ok(Answer::Queue(found(queue_def("q")))));
        let ask = self.ask();
        let Request::Consume(wanted) = &ask.request else { panic!("{ask:?}") };
        let consumer = wanted.consumer;
        self.answer(ask, Ok(Answer::Done));
        self.effects.clear();
        consumer
    }

    fn deliver(&mut self, consumer: ConsumerId, offset: u64) -> u64 {
        match self.session.deliver(consumer, id(offset), true, UnixMillis(1)) {
            Handing::Write { delivery_tag, .. } => delivery_tag,
            Handing::Unread => panic!("nobody took it"),
        }
    }

    fn settlements(&mut self) -> Vec<(u64, Verdict)> {
        let of = |effect| match effect {
            Effect::Settle(Settlement { id, verdict }) => Some((id.offset.0, verdict)),
            _ => None,
        };
        self.effects.drain(..).filter_map(of).collect()
    }
}

fn start_ok(mechanism: &str, capabilities: &[&str]) -> AMQPClass {
    let mut table = FieldTable::default();
    for name in capabilities {
        table.insert((*name).into(), AMQPValue::Boolean(true));
    }
    let mut client_properties = FieldTable::default();
    client_properties.insert("capabilities".into(), AMQPValue::FieldTable(table));
    AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties,
        mechanism: mechanism.into(),
        response: "\0guest\0secret".into(),
        locale: "en_US".into(),
    }))
}

fn tune_ok(channel_max: u16, frame_max: u32) -> AMQPClass {
    let tune_ok = connection::TuneOk { channel_max, frame_max, heartbeat: 30 };
    AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune_ok))
}

fn open(vhost: &str) -> AMQPClass {
    let open = connection::Open { virtual_host: vhost.into() };
    AMQPClass::Connection(connection::AMQPMethod::Open(open))
}

fn channel_open() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))
}

fn channel_close_ok() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
}

fn consume(tag: &str, no_ack: bool) -> basic::AMQPMethod {
    basic::AMQPMethod::Consume(basic::Consume {
        queue: "q".into(),
        consumer_tag: tag.into(),
        no_local: false,
        no_ack,
        exclusive: false,
        nowait: false,
        arguments: FieldTable::default(),
    })
}

fn ack(delivery_tag: u64, multiple: bool) -> basic::AMQPMethod {
    basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple })
}

fn declare(name: &str) -> queue::Declare {
    queue::Declare {
        queue: name.into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    }
}

fn queue_def(name: &str) -> QueueDef {
    QueueDef {
        id: QueueId(1),
        name: name.to_owned(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        retention: Retention::Unsettled,
        policy: Arc::default(),
        arguments: Vec::new(),
    }
}

fn found(def: QueueDef) -> Declared<QueueDef> {
    let stats = QueueStats { ready: 3, unsettled: 5, consumers: 2 };
    Declared { created: false, def: Arc::new(def), stats }
}

fn id(offset: u64) -> DeliveryId {
    DeliveryId { queue: QueueId(1), cursor: CursorId::MAIN, offset: Offset(offset), epoch: 1 }
}

fn taken(readers: u32) -> Published {
    Published::Taken { readers, offset: None }
}

#[test]
fn a_refused_login_is_told_to_those_who_understand_trap_2() {
    let mut pair = Pair::started();
    pair.send(0, start_ok("AMQPLAIN", &["authentication_failure_close"]));
    let expected = "403 ACCESS_REFUSED - Login was refused using authentication mechanism AMQPLAIN. \
                    For details see the broker logfile.";
    assert_eq!(pair.close(), (0, expected.to_owned()));
    let mut pair = Pair::started();
    pair.send(0, start_ok("PLAIN", &["authentication_failure_close"]));
    let login = pair.effects.pop_front();
    assert!(matches!(login, Some(Effect::Login(Secret::Password { user, .. })) if user == "guest"));
    pair.session.logged_in(Err(LoginError::LoopbackOnly), &mut pair.effects);
    assert!(pair.close().1.starts_with("403 ACCESS_REFUSED - Login was refused using"));
}

#[test]
fn external_is_offered_to_those_with_a_certificate_and_anonymous_if_it_is_set() {
    let mechanisms = |certified: Option<&str>, limits: Limits| {
        let (mut effects, certified) = (Effects::new(), certified.map(str::to_owned));
        let mut session = Session::start(Arc::new(limits), 1, 7, certified, &mut effects);
        let Some(Effect::Write { reply: Reply::Start { mechanisms, .. }, .. }) =
            effects.pop_front()
        else {
            panic!("no connection.start");
        };
        let mut logins = Vec::new();
        for mechanism in ["EXTERNAL", "ANONYMOUS"] {
            session.phase = Phase::Starting;
            let mut pair = Pair { session, effects: Effects::new() };
            pair.send(0, start_ok(mechanism, &[]));
            logins.push(match pair.effects.pop_front() {
                Some(Effect::Login(secret)) => format!("{secret:?}"),
                _ => "refused".to_owned(),
            });
            session = pair.session;
        }
        format!("{mechanisms}: {}", logins.join(", "))
    };
    assert_eq!(mechanisms(None, Limits::default()), "PLAIN AMQPLAIN: refused, refused");
    let limits = Limits { anonymous_mechanism: true, ..Limits::default() };
    assert_eq!(
        mechanisms(Some("oven-7"), limits),
        "PLAIN AMQPLAIN EXTERNAL ANONYMOUS: Certificate(oven-7), Anonymous"
    );
}

#[test]
fn a_refused_login_ends_silently_for_others_trap_2() {
    for mechanism in ["PLAIN", "SCRAM-SHA-1"] {
        let mut pair = Pair::started();
        pair.send(0, start_ok(mechanism, &[]));
        if mechanism == "PLAIN" {
            pair.effects.clear();
            pair.session.logged_in(Err(LoginError::BadCredentials), &mut pair.effects);
        }
        assert!(matches!(pair.effects.pop_front(), Some(Effect::Hangup { after_ms: 3000 })));
        assert!(pair.effects.is_empty());
    }
}

#[test]
fn tune_ok_is_taken_low_and_refused_high_trap_4() {
    let check = |channel_max, frame_max, expected: &str| {
        let mut pair = Pair::started();
        pair.send(0, start_ok("PLAIN", &[]));
        pair.session.logged_in(Ok(()), &mut pair.effects);
        pair.effects.clear();
        pair.send(0, tune_ok(channel_max, frame_max));
        assert_eq!(pair.close(), (0, format!("530 NOT_ALLOWED - negotiated {expected}")));
    };
    check(0, 8192, "channel_max = 0 (no limit) is higher than the maximum allowed value (2047)");
    check(3000, 8192, "channel_max = 3000 is higher than the maximum allowed value (2047)");
    check(10, 0, "frame_max = 0 (no limit) is higher than the maximum allowed value (131072)");
    check(10, 4095, "frame_max = 4095 is lower than the minimum allowed value (4096)");
}

#[test]
fn channel_max_counts_channels_trap_4() {
    let mut pair = Pair::opened();
    (101..111).for_each(|number| pair.open_channel(number));
    assert_eq!(pair.replies().len(), 10);
    pair.open_channel(1);
    let text = "530 NOT_ALLOWED - number of channels opened (10) has reached the negotiated \
                channel_max (10)";
    assert_eq!(pair.close(), (0, text.to_owned()));
}

#[test]
fn a_missing_vhost_is_not_allowed_trap_5() {
    let mut pair = Pair::started();
    pair.send(0, start_ok("PLAIN", &[]));
    pair.session.logged_in(Ok(()), &mut pair.effects);
    pair.send(0, tune_ok(10, 8192));
    pair.send(0, open("nope"));
    pair.effects.clear();
    pair.session.entered("nope".to_owned(), Err(LoginError::NoNamespace), &mut pair.effects);
    assert_eq!(pair.close(), (0, "530 NOT_ALLOWED - vhost nope not found".to_owned()));
}

#[test]
fn an_unknown_method_ends_it_without_a_word_trap_5() {
    let mut pair = Pair::with_channel();
    let frame = Frame { kind: Kind::Method, channel: 1, payload: vec![0, 60, 0, 99].into() };
    pair.session.handle(frame, UnixMillis(1), &mut pair.effects);
    assert!(matches!(pair.effects.pop_front(), Some(Effect::Hangup { after_ms: 0 })));
    assert!(pair.effects.is_empty());
}

#[test]
fn frames_out_of_place_are_hard_errors_trap_7() {
    let mut pair = Pair::with_channel();
    pair.header(3);
    let text = "505 UNEXPECTED_FRAME - expected method frame, got non method frame instead";
    assert_eq!(pair.close(), (0, text.to_owned()));
    let mut pair = Pair::with_channel();
    pair.basic(basic::AMQPMethod::Publish(basic::Publish::default()));
    pair.basic(ack(1, false));
    let text = "505 UNEXPECTED_FRAME - expected content header for class 60, got non content \
                header frame instead";
    assert_eq!(pair.close(), (0, text.to_owned()));
    let mut pair = Pair::with_channel();
    pair.basic(basic::AMQPMethod::Publish(basic::Publish::default()));
    pair.header(3);
    pair.frame(&AMQPFrame::Body(1, vec![0; 4]));
    let text = "501 FRAME_ERROR - content body frame exceeds remaining content size";
    assert_eq!(pair.close(), (0, text.to_owned()));
    let mut pair = Pair::opened();
    pair.frame(&AMQPFrame::InvalidHeartbeat(3));
    assert!(pair.close().1.starts_with("505 "));
}

#[test]
fn a_body_comes_together_from_its_frames() {
    let mut pair = Pair::with_channel();
    pair.basic(basic::AMQPMethod::Publish(basic::Publish::default()));
    pair.header(5);
    pair.frame(&AMQPFrame::Body(1, b"ab".to_vec()));
    pair.frame(&AMQPFrame::Body(1, b"cd".to_vec()));
    assert!(pair.effects.is_empty());
    pair.frame(&AMQPFrame::Body(1, b"e".to_vec()));
    let Some(Effect::Publish { content, .. }) = pair.effects.pop_front() else { panic!() };
    assert_eq!(content.body, "abcde");
}

#[test]
fn what_rabbitmq_does_not_do_is_a_hard_540_trap_8() {
    let check = |method: basic::AMQPMethod, expected: &str| {
        let mut pair = Pair::with_channel();
        pair.basic(method);
        assert_eq!(pair.close(), (0, format!("540 NOT_IMPLEMENTED - {expected}")));
    };
    let immediate = basic::Publish { immediate: true, ..basic::Publish::default() };
    check(basic::AMQPMethod::Publish(immediate), "immediate=true");
    check(basic::AMQPMethod::Recover(basic::Recover { requeue: false }), "requeue=false");
    let mut pair = Pair::with_channel();
    let flow = channel::AMQPMethod::Flow(channel::Flow { active: false });
    pair.send(1, AMQPClass::Channel(flow));
    assert_eq!(pair.close(), (0, "540 NOT_IMPLEMENTED - active=false".to_owned()));
}

#[test]
fn channels_open_once_and_first_trap_8() {
    let mut pair = Pair::with_channel();
    pair.send(1, channel_open());
    assert_eq!(pair.close(), (0, "504 CHANNEL_ERROR - second 'channel.open' seen".to_owned()));
    let mut pair = Pair::opened();
    pair.basic(ack(1, false));
    assert_eq!(pair.close(), (0, "504 CHANNEL_ERROR - expected 'channel.open'".to_owned()));
}

#[test]
fn a_consumer_tag_used_twice_is_a_hard_530_trap_8() {
    let mut pair = Pair::with_channel();
    pair.consume("c", false);
    pair.basic(consume("c", false));
    let text = "530 NOT_ALLOWED - attempt to reuse consumer tag 'c'";
    assert_eq!(pair.close(), (0, text.to_owned()));
}

#[test]
fn a_publish_to_nowhere_is_a_soft_404_trap_9() {
    let mut pair = Pair::with_channel();
    pair.publish(b"m", false);
    let tickets = pair.tickets();
    pair.outcome(&tickets[0], &Published::Refused(Refusal::NoExchange("x".to_owned())));
    assert_eq!(pair.close(), (1, "404 NOT_FOUND - no exchange 'x' in vhost '/'".to_owned()));
    assert!(pair.session.is_running());
}

#[test]
fn a_closed_channel_discards_until_close_ok_and_is_reusable_trap_10() {
    let mut pair = Pair::with_channel();
    pair.basic(ack(9, false));
    assert_eq!(pair.close(), (1, "406 PRECONDITION_FAILED - unknown delivery tag 9".to_owned()));
    pair.publish(b"m", false);
    pair.basic(ack(9, false));
    pair.send(1, channel_open());
    assert!(pair.effects.is_empty());
    pair.send(1, channel_close_ok());
    pair.open_channel(1);
    assert_eq!(pair.replies(), [(1, Reply::ChannelOpenOk)]);
}

#[test]
fn an_outcome_of_an_earlier_life_of_the_channel_means_nothing_trap_10() {
    let mut pair = Pair::with_channel();
    pair.confirm_select();
    pair.publish(b"m", true);
    let tickets = pair.tickets();
    pair.basic(ack(9, false));
    pair.send(1, channel_close_ok());
    pair.send(1, channel_open());
    pair.effects.clear();
    assert!(!pair.session.is_returned(&tickets[0], &taken(0)));
    pair.outcome(&tickets[0], &taken(1));
    pair.session.flush_confirms(&mut pair.effects);
    assert!(pair.effects.is_empty());
}

#[test]
fn a_declaration_that_differs_is_told_in_rabbitmqs_words_trap_12() {
    let check = |change: fn(&mut queue::Declare), expected: &str| {
        let mut pair = Pair::with_channel();
        let mut wanted = declare("q");
        change(&mut wanted);
        let ask = pair.declare(wanted);
        pair.answer(ask, Ok(Answer::Queue(found(queue_def("q")))));
        assert_eq!(pair.close(), (1, expected.to_owned()));
    };
    check(
        |wanted| wanted.durable = false,
        "406 PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received \
         'false' but current is 'true'",
    );
    check(
        |wanted| {
            wanted.arguments.insert("x-max-length".into(), AMQPValue::LongInt(5));
        },
        "406 PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': \
         received the value '5' of type 'signedint' but current is none",
    );
    check(
        |wanted| wanted.exclusive = true,
        "405 RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It \
         could be originally declared on another connection or the exclusive property value does \
         not match that of the original declaration.",
    );
}

#[test]
fn arguments_nobody_knows_may_differ_trap_12() {
    let mut pair = Pair::with_channel();
    let mut wanted = declare("q");
    wanted.arguments.insert("x-foo".into(), AMQPValue::LongInt(5));
    wanted.arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let ask = pair.declare(wanted);
    pair.answer(ask, Ok(Answer::Queue(found(queue_def("q")))));
    let reply =
        Reply::QueueDeclareOk { queue: "q".to_owned(), message_count: 3, consumer_count: 2 };
    assert_eq!(pair.replies(), [(1, reply)]);
}

#[test]
fn reserved_names_are_for_what_exists_trap_13() {
    let mut pair = Pair::with_channel();
    let ask = pair.declare(declare("amq.mine"));
    assert!(matches!(&ask.request, Request::FindQueue(name) if name == "amq.mine"));
    pair.answer(ask, Err(Refusal::NoQueue("amq.mine".to_owned())));
    let text = "403 ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'";
    assert_eq!(pair.close(), (1, text.to_owned()));
}

#[test]
fn names_lose_line_breaks_and_the_server_names_what_has_none_trap_13() {
    let mut pair = Pair::with_channel();
    let ask = pair.declare(declare("a\r\nb"));
    assert!(matches!(&ask.request, Request::DeclareQueue(def) if def.name == "ab"));
    let ask = pair.declare(declare(""));
    let Request::DeclareQueue(def) = &ask.request else { panic!("{ask:?}") };
    assert!(def.name.starts_with("amq.gen-") && def.name.len() == 8 + 22, "{}", def.name);
}

#[test]
fn an_empty_queue_name_is_the_last_declared_trap_13() {
    let mut pair = Pair::with_channel();
    let bind = |queue: &str| {
        AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
            queue: queue.into(),
            exchange: "x".into(),
            routing_key: "".into(),
            nowait: false,
            arguments: FieldTable::default(),
        }))
    };
    pair.send(1, bind(""));
    assert_eq!(pair.close(), (1, "404 NOT_FOUND - no previously declared queue".to_owned()));
    let mut pair = Pair::with_channel();
    let ask = pair.declare(declare("q"));
    pair.answer(ask, Ok(Answer::Queue(found(queue_def("q")))));
    pair.effects.clear();
    pair.send(1, bind(""));
    let Request::Bind(bind) = pair.ask().request else { panic!() };
    assert_eq!((bind.destination.as_str(), bind.key.as_ref()), ("q", b"q".as_slice()));
}

#[test]
fn the_default_and_system_exchanges_are_not_to_be_touched_trap_14() {
    let delete = |name: &str| {
        AMQPClass::Exchange(exchange::AMQPMethod::Delete(exchange::Delete {
            exchange: name.into(),
            if_unused: false,
            nowait: false,
        }))
    };
    let mut pair = Pair::with_channel();
    pair.send(1, delete(""));
    let text = "403 ACCESS_REFUSED - operation not permitted on the default exchange";
    assert_eq!(pair.close(), (1, text.to_owned()));
    let mut pair = Pair::with_channel();
    pair.send(1, delete("amq.direct"));
    assert!(pair.close().1.starts_with("403 ACCESS_REFUSED - deletion of system exchange"));
}
