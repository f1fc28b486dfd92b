//! The rules of publishing, delivering and settling.

use super::*;

#[test]
fn a_closing_channel_gives_back_what_it_had_trap_16() {
    let mut pair = Pair::with_channel();
    let consumer = pair.consume("c", false);
    pair.deliver(consumer, 10);
    pair.deliver(consumer, 11);
    pair.basic(basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: "c".into(), nowait: true }));
    let ask = pair.ask();
    pair.answer(ask, Ok(Answer::Done));
    assert!(pair.settlements().is_empty(), "cancel does not requeue");
    let close =
        channel::Close { reply_code: 200, reply_text: "bye".into(), class_id: 0, method_id: 0 };
    pair.send(1, AMQPClass::Channel(channel::AMQPMethod::Close(close)));
    assert_eq!(pair.settlements(), [(10, Verdict::Release), (11, Verdict::Release)]);
}

#[test]
fn acks_are_of_the_channel_and_once_trap_17() {
    let mut pair = Pair::with_channel();
    pair.basic(ack(0, true));
    assert!(pair.effects.is_empty(), "all of none is no error");
    let consumer = pair.consume("c", false);
    (10..14).for_each(|offset| assert_eq!(pair.deliver(consumer, offset), offset - 9));
    pair.basic(ack(2, false));
    assert_eq!(pair.settlements(), [(11, Verdict::Accept)]);
    pair.basic(basic::AMQPMethod::Nack(basic::Nack {
        delivery_tag: 3,
        multiple: true,
        requeue: true,
    }));
    assert_eq!(pair.settlements(), [(10, Verdict::Release), (12, Verdict::Release)]);
    pair.basic(basic::AMQPMethod::Reject(basic::Reject { delivery_tag: 4, requeue: false }));
    assert_eq!(pair.settlements(), [(13, Verdict::Reject)]);
    pair.basic(ack(4, false));
    let text = "406 PRECONDITION_FAILED - unknown delivery tag 4";
    assert_eq!(pair.close(), (1, text.to_owned()));
}

#[test]
fn confirms_of_a_batch_are_told_together_trap_18() {
    let mut pair = Pair::with_channel();
    pair.confirm_select();
    (0..3).for_each(|_| pair.publish(b"m", false));
    pair.publish(b"", true);
    let tickets = pair.tickets();
    assert_eq!(tickets.iter().map(|t| t.confirm).collect::<Vec<_>>(), [1, 2, 3, 4].map(Some));
    for ticket in &tickets[..3] {
        pair.outcome(ticket, &taken(0));
    }
    assert!(pair.session.is_returned(&tickets[3], &taken(0)));
    assert!(!pair.session.is_returned(&tickets[3], &taken(1)));
    assert!(!pair.session.is_returned(&tickets[2], &taken(0)), "not mandatory");
    pair.outcome(&tickets[3], &Published::Refused(Refusal::DiskFull));
    pair.session.flush_confirms(&mut pair.effects);
    let expected =
        [(1, Reply::Ack { delivery_tag: 3, multiple: true }), (1, Reply::Nack { delivery_tag: 4 })];
    assert_eq!(pair.replies(), expected);
}

#[test]
fn a_transaction_holds_publishes_and_acks_until_its_commit_trap_19() {
    let mut pair = Pair::with_channel();
    let consumer = pair.consume("c", false);
    let tag = pair.deliver(consumer, 10);
    pair.send(1, AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {})));
    pair.effects.clear();
    pair.publish(b"m", false);
    pair.basic(ack(tag, false));
    assert!(pair.effects.is_empty());
    pair.send(1, AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {})));
    assert_eq!(pair.replies(), [(1, Reply::TxRollbackOk)]);
    pair.publish(b"n", true);
    pair.basic(ack(tag, false));
    pair.send(1, AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {})));
    let effects: Vec<_> = pair.effects.drain(..).collect();
    let [Effect::Publish { content, .. }, Effect::Settle(settled), Effect::Ask(_)] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!((content.body.as_ref(), settled.id), (b"n".as_slice(), id(10)));
}

#[test]
fn transactions_and_confirms_exclude_each_other_trap_19() {
    let mut pair = Pair::with_channel();
    pair.confirm_select();
    pair.send(1, AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {})));
    let text = "406 PRECONDITION_FAILED - cannot switch from confirm to tx mode";
    assert_eq!(pair.close(), (1, text.to_owned()));
    let mut pair = Pair::with_channel();
    pair.send(1, AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {})));
    let text = "406 PRECONDITION_FAILED - channel is not transactional";
    assert_eq!(pair.close(), (1, text.to_owned()));
}

#[test]
fn a_consumer_whose_queue_goes_is_told_trap_20() {
    let mut pair = Pair::with_channel();
    let consumer = pair.consume("c", false);
    pair.session.consumer_gone(consumer, &mut pair.effects);
    assert_eq!(pair.replies(), [(1, Reply::Cancel { consumer_tag: "c".into() })]);
    assert_eq!(pair.session.deliver(consumer, id(1), true, UnixMillis(1)), Handing::Unread);
    let cancel = basic::Cancel { consumer_tag: "c".into(), nowait: false };
    pair.basic(basic::AMQPMethod::Cancel(cancel));
    assert_eq!(pair.replies(), [(1, Reply::CancelOk { consumer_tag: "c".into() })]);
}

#[test]
fn prefetch_is_of_new_consumers_or_of_the_channel_trap_21() {
    let mut pair = Pair::with_channel();
    pair.basic(basic::AMQPMethod::Qos(basic::Qos { prefetch_count: 5, global: false }));
    pair.basic(basic::AMQPMethod::Qos(basic::Qos { prefetch_count: 9, global: true }));
    let pooled = pair.effects.iter().any(|e| matches!(e, Effect::SetPool { pool: 1, limit: 9 }));
    assert!(pooled);
    pair.effects.clear();
    let limit = |pair: &mut Pair, tag, no_ack| {
        pair.basic(consume(tag, no_ack));
        let ask = pair.ask();
        pair.answer(ask, Ok(Answer::Queue(found(queue_def("q")))));
        let Request::Consume(wanted) = pair.ask().request else { panic!() };
        (wanted.limit, wanted.pool, wanted.settle_at_once)
    };
    assert_eq!(limit(&mut pair, "a", false), (5, 1, false));
    assert_eq!(limit(&mut pair, "b", true), (0, 1, true));
}

#[test]
fn a_stream_wants_prefetch_and_tells_offsets() {
    let stream = QueueDef { retention: Retention::Time, ..queue_def("q") };
    let mut pair = Pair::with_channel();
    pair.basic(consume("c", false));
    let ask = pair.ask();
    pair.answer(ask, Ok(Answer::Queue(found(stream.clone()))));
    assert!(pair.close().1.contains("consumer prefetch count is not set"));
    let mut pair = Pair::with_channel();
    pair.basic(basic::AMQPMethod::Qos(basic::Qos { prefetch_count: 5, global: false }));
    let ask = pair.ask();
    pair.answer(ask, Ok(Answer::Done));
    assert_eq!(pair.replies(), [(1, Reply::QosOk)]);
    pair.basic(consume("c", false));
    let ask = pair.ask();
    pair.answer(ask, Ok(Answer::Queue(found(stream.clone()))));
    let ask = pair.ask();
    let Request::Consume(wanted) = &ask.request else { panic!() };
    let consumer = wanted.consumer;
    pair.answer(ask, Ok(Answer::Done));
    let handing = pair.session.deliver(consumer, id(42), true, UnixMillis(1));
    assert!(matches!(handing, Handing::Write { stream_offset: Some(Offset(42)), .. }));
    pair.basic(basic::AMQPMethod::Get(basic::Get { queue: "q".into(), no_ack: false }));
    let ask = pair.ask();
    pair.answer(ask, Ok(Answer::Queue(found(stream))));
    assert_eq!(pair.close().0, 0, "a get from a stream ends the connection");
}

#[test]
fn only_publishers_are_told_that_the_disk_is_low_trap_26() {
    let mut pair = Pair::with_channel();
    pair.session.disk_low(true, &mut pair.effects);
    assert!(pair.effects.is_empty() && !pair.session.is_blocked());
    pair.publish(b"m", false);
    pair.publish(b"m", false);
    assert!(pair.session.is_blocked());
    assert_eq!(pair.replies(), [(0, Reply::Blocked { reason: "low on disk" })]);
    pair.session.disk_low(false, &mut pair.effects);
    assert_eq!(pair.replies(), [(0, Reply::Unblocked)]);
}

#[test]
fn close_ok_comes_after_everything_is_given_back_trap_28() {
    let mut pair = Pair::with_channel();
    let close =
        connection::Close { reply_code: 200, reply_text: "bye".into(), class_id: 0, method_id: 0 };
    pair.send(0, AMQPClass::Connection(connection::AMQPMethod::Close(close)));
    let effects: Vec<_> = pair.effects.drain(..).collect();
    assert!(matches!(
        &effects[..],
        [
            Effect::Leave,
            Effect::Write { channel: 0, reply: Reply::CloseOk },
            Effect::Hangup { after_ms: 0 }
        ]
    ));
}

#[test]
fn a_get_counts_what_remains_trap_15() {
    let mut pair = Pair::with_channel();
    pair.basic(basic::AMQPMethod::Get(basic::Get { queue: "q".into(), no_ack: false }));
    let ask = pair.ask();
    pair.answer(ask, Ok(Answer::Queue(found(queue_def("q")))));
    let ask = pair.ask();
    let delivery = Delivery {
        id: id(4),
        consumer: ConsumerId::default(),
        options: 0,
        position: Position(1),
        attempt: 1,
        redelivered: false,
        needs_settle: true,
        record: None::<Record>,
        passage: None,
        size: 0,
        settles_when_read: false,
    };
    let stats = QueueStats { ready: 8, unsettled: 1, consumers: 0 };
    pair.answer(ask, Ok(Answer::Got(Some((delivery, stats)))));
    let got = pair.effects.pop_front();
    assert!(matches!(got, Some(Effect::WriteGot { delivery_tag: 1, message_count: 8, .. })));
    pair.basic(ack(1, false));
    assert_eq!(pair.settlements(), [(4, Verdict::Accept)]);
}

#[test]
fn direct_replies_have_one_consumer_without_acks() {
    let reply_consume = |no_ack| {
        let basic::AMQPMethod::Consume(consume) = consume("r", no_ack) else { panic!() };
        basic::AMQPMethod::Consume(basic::Consume {
            queue: "amq.rabbitmq.reply-to".into(),
            ..consume
        })
    };
    let mut pair = Pair::with_channel();
    pair.basic(reply_consume(false));
    let text = "406 PRECONDITION_FAILED - reply consumer cannot acknowledge";
    assert_eq!(pair.close(), (1, text.to_owned()));
    let mut pair = Pair::with_channel();
    pair.basic(reply_consume(true));
    let ask = pair.ask();
    let Request::DeclareQueue(def) = &ask.request else { panic!("{ask:?}") };
    assert!(def.exclusive && def.auto_delete);
    let def = def.clone();
    pair.answer(ask, Ok(Answer::Queue(found(def.clone()))));
    assert!(matches!(pair.ask().request, Request::Consume(_)));
    pair.publish(b"m", false);
    let Some(Effect::Publish { content, .. }) = pair.effects.pop_front() else { panic!() };
    assert_eq!(content.reply_queue.as_deref(), Some(def.name.as_bytes()));
}
