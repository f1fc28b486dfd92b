//! The session against the clauses that say what each packet means.

use bytes::Bytes;
use mainstem_schemas::{
    Address, CursorId, DeliveryId, Offset, QueueId, Record, RecordDraft, RecordId,
    queue::TRANSIENT_BIT,
};
use smallvec::smallvec;

use super::*;
use crate::codec::{MessageProperties, Text};

mod runs;

fn terms() -> Terms {
    Terms {
        version: Version::V5,
        keep_alive_s: 10,
        session_expiry_s: 60,
        client_receive_max: 2,
        receive_max: 2,
        topic_alias_max: 4,
    }
}

fn session() -> Session {
    Session::new(terms(), Duration::ZERO)
}

fn record(data: &[u8]) -> Record {
    RecordDraft::new(&Address::mqtt("t".into()), "/", b"", data).encode().unwrap()
}

fn delivery(offset: u64) -> DeliveryId {
    DeliveryId { queue: QueueId(1), cursor: CursorId(1), offset: Offset(offset), epoch: 1 }
}

fn copy(qos: Qos, offset: u64) -> Copy {
    Copy {
        again: None,
        record: record(b"x"),
        qos,
        retain: false,
        subscription_ids: smallvec![],
        deliveries: smallvec![delivery(offset)],
        competing: false,
    }
}

fn publish(qos: Qos, packet_id: u16, dup: bool) -> Packet {
    Packet::Publish(message("t", qos, packet_id, dup, None))
}

fn message(
    topic: &'static str,
    qos: Qos,
    packet_id: u16,
    dup: bool,
    alias: Option<u16>,
) -> Publish {
    Publish {
        dup,
        qos,
        retain: false,
        topic: Text::from(topic),
        packet_id,
        properties: MessageProperties { topic_alias: alias, ..MessageProperties::default() },
        payload: Bytes::new(),
    }
}

/// What a packet leads to, in short.
fn tell(session: &mut Session, packet: Packet) -> String {
    let mut effects = Vec::new();
    match session.receive(packet, &mut effects) {
        Ok(()) => format!("{:?}", effects.iter().map(brief).collect::<Vec<_>>()).replace('"', ""),
        Err(fault) => format!("{:?}", fault.reason),
    }
}

fn brief(effect: &Effect) -> String {
    match effect {
        Effect::Store(publish) => format!("store {} {}", publish.topic.as_str(), publish.packet_id),
        Effect::Send(Reply::PubRec { packet_id, .. }) => format!("pubrec {packet_id}"),
        Effect::Send(Reply::PubRel { packet_id, reason }) => {
            format!("pubrel {packet_id} {:02x}", reason.0)
        }
        Effect::Received { packet_id } => format!("pubrel {packet_id}"),
        Effect::Release { packet_id, is_known } => format!("release {packet_id} {is_known}"),
        Effect::Send(reply) => format!("{reply:?}"),
        Effect::Settle(ids) => {
            format!("settle {:?}", ids.iter().map(|id| id.offset.0).collect::<Vec<_>>())
        }
        Effect::Leave { publishes_will, session_expiry_s } => {
            format!("leave {publishes_will} {session_expiry_s:?}")
        }
        Effect::Prove(_) => "proof".to_owned(),
        Effect::Subscribe(_) | Effect::Unsubscribe(_) => "subscriptions".to_owned(),
    }
}

fn ack(packet_id: u16) -> Ack {
    Ack { packet_id, reason: Reason::SUCCESS }
}

/// Sends what may be sent: identifier, DUP, stage.
fn sent(session: &mut Session) -> Vec<(u16, bool, Stage)> {
    let mut out = Vec::new();
    while let Some((flight, dup)) = session.outbound.next_to_send() {
        out.push((flight.packet_id, dup, flight.stage));
    }
    out
}

#[test]
fn a_repeated_qos_2_publish_is_not_stored_again_mqtt_4_3_3_10() {
    let mut session = session();
    assert_eq!(tell(&mut session, publish(Qos::ExactlyOnce, 7, false)), "[store t 7]");
    assert_eq!(tell(&mut session, publish(Qos::ExactlyOnce, 7, true)), "[]");
    assert!(session.stored(Qos::ExactlyOnce, 7, Reason::SUCCESS, None).is_some());
    assert_eq!(tell(&mut session, publish(Qos::ExactlyOnce, 7, true)), "[pubrec 7]");
    assert_eq!(tell(&mut session, Packet::PubRel(ack(7))), "[release 7 true]");
    // The identifier is free again: the same number is a new message.
    assert_eq!(tell(&mut session, publish(Qos::ExactlyOnce, 7, false)), "[store t 7]");
}

#[test]
fn an_unseen_qos_2_publish_with_dup_is_stored() {
    assert_eq!(tell(&mut session(), publish(Qos::ExactlyOnce, 7, true)), "[store t 7]");
}

#[test]
fn qos_2_dedupe_survives_the_connection() {
    let mut first = session();
    tell(&mut first, publish(Qos::ExactlyOnce, 7, false));
    first.stored(Qos::ExactlyOnce, 7, Reason::SUCCESS, None);
    let mut second = session();
    second.resume(first.park().0);
    assert_eq!(tell(&mut second, publish(Qos::ExactlyOnce, 7, true)), "[pubrec 7]");
    assert_eq!(tell(&mut second, Packet::PubRel(ack(7))), "[release 7 true]");
}

#[test]
fn a_refused_qos_2_publish_frees_its_identifier() {
    let mut session = session();
    tell(&mut session, publish(Qos::ExactlyOnce, 7, false));
    session.stored(Qos::ExactlyOnce, 7, Reason::QUOTA_EXCEEDED, None);
    assert_eq!(tell(&mut session, publish(Qos::ExactlyOnce, 7, false)), "[store t 7]");
}

#[test]
fn an_unknown_pubrel_is_told_so() {
    assert_eq!(tell(&mut session(), Packet::PubRel(ack(3))), "[release 3 false]");
}

#[test]
fn the_receive_maximum_is_enforced_mqtt_3_3_4_7() {
    let mut session = session();
    tell(&mut session, publish(Qos::AtLeastOnce, 1, false));
    tell(&mut session, publish(Qos::ExactlyOnce, 2, false));
    assert_eq!(tell(&mut session, publish(Qos::AtLeastOnce, 3, false)), "Reason(0x93)");
    // QoS 0 does not count, and PUBACK makes room.
    assert_eq!(tell(&mut session, publish(Qos::AtMostOnce, 0, false)), "[store t 0]");
    session.stored(Qos::AtLeastOnce, 1, Reason::SUCCESS, None);
    assert_eq!(tell(&mut session, publish(Qos::AtLeastOnce, 3, false)), "[store t 3]");
}

#[test]
fn clients_before_mqtt_5_are_slowed_not_refused() {
    let mut session = Session::new(Terms { version: Version::V311, ..terms() }, Duration::ZERO);
    tell(&mut session, publish(Qos::AtLeastOnce, 1, false));
    assert!(!session.is_full());
    tell(&mut session, publish(Qos::AtLeastOnce, 2, false));
    assert!(session.is_full());
    assert_eq!(tell(&mut session, publish(Qos::AtLeastOnce, 3, false)), "[store t 3]");
}

#[test]
fn clients_before_mqtt_5_may_leave_as_much_unreleased_as_they_have_identifiers_for() {
    let mut session = Session::new(Terms { version: Version::V311, ..terms() }, Duration::ZERO);
    for id in 1..=9 {
        let stored = format!("[store t {id}]");
        assert_eq!(tell(&mut session, publish(Qos::ExactlyOnce, id, false)), stored);
    }
    assert!(session.is_full(), "none is stored");
    for id in 1..=9 {
        session.stored(Qos::ExactlyOnce, id, Reason::SUCCESS, None);
    }
    assert!(!session.is_full(), "else nothing would read their PUBRELs");
    tell(&mut session, Packet::PubRel(ack(1)));
    tell(&mut session, publish(Qos::AtLeastOnce, 1, false));
    tell(&mut session, publish(Qos::AtLeastOnce, 2, false));
    assert!(session.is_full(), "what was stored is not counted off twice");
}

#[test]
fn an_alias_stands_for_its_topic_mqtt_3_3_2_9() {
    let mut session = session();
    let send = |topic, alias| Packet::Publish(message(topic, Qos::AtMostOnce, 0, false, alias));
    assert_eq!(tell(&mut session, send("a", Some(4))), "[store a 0]");
    assert_eq!(tell(&mut session, send("", Some(4))), "[store a 0]");
    assert_eq!(tell(&mut session, send("b", Some(4))), "[store b 0]");
    assert_eq!(tell(&mut session, send("", Some(4))), "[store b 0]");
    assert_eq!(tell(&mut session, send("", Some(3))), "Reason(0x82)");
    assert_eq!(tell(&mut session, send("a", Some(5))), "Reason(0x94)");
}

#[test]
fn qos_1_goes_to_puback() {
    let mut session = session();
    session.outbound.push(copy(Qos::AtLeastOnce, 10));
    assert_eq!(sent(&mut session), [(1, false, Stage::Published)]);
    assert_eq!(tell(&mut session, Packet::PubAck(ack(1))), "[settle [10]]");
    assert_eq!(tell(&mut session, Packet::PubAck(ack(1))), "[]");
}

#[test]
fn qos_2_goes_to_pubcomp_mqtt_4_3_3_1() {
    let mut session = session();
    session.outbound.push(copy(Qos::ExactlyOnce, 10));
    sent(&mut session);
    assert_eq!(tell(&mut session, Packet::PubRec(ack(1))), "[settle [10], pubrel 1]");
    assert_eq!(tell(&mut session, Packet::PubRec(ack(1))), "[pubrel 1]");
    assert_eq!(tell(&mut session, Packet::PubComp(ack(1))), "[]");
}

#[test]
fn an_acknowledgement_of_another_kind_is_a_protocol_error_mqtt_4_3_3_3() {
    let wrong = [
        (Qos::AtLeastOnce, Packet::PubRec(ack(1))),
        (Qos::AtLeastOnce, Packet::PubComp(ack(1))),
        (Qos::ExactlyOnce, Packet::PubAck(ack(1))),
        (Qos::ExactlyOnce, Packet::PubComp(ack(1))),
    ];
    for (qos, packet) in wrong {
        let mut session = session();
        session.outbound.push(copy(qos, 10));
        sent(&mut session);
        assert_eq!(tell(&mut session, packet.clone()), "Reason(0x82)", "{qos:?} {packet:?}");
    }
}

#[test]
fn topics_get_as_many_aliases_as_the_client_takes_mqtt_3_1_2_26() {
    use aliases::Naming;
    let mut aliases = Aliases::new(1);
    assert_eq!(aliases.name(b"a"), Naming::First(1));
    // A packet that was never sent sets nothing.
    assert_eq!(aliases.name(b"b"), Naming::First(1));
    aliases.sent(b"a", Naming::First(1));
    assert_eq!(aliases.name(b"a"), Naming::Alias(1));
    assert_eq!(aliases.name(b"b"), Naming::Full);
    assert_eq!(Aliases::new(0).name(b"a"), Naming::Full);
}

#[test]
fn a_failed_pubrec_ends_the_message_mqtt_4_3_3_4() {
    let mut session = session();
    session.outbound.push(copy(Qos::ExactlyOnce, 10));
    sent(&mut session);
    let failed = Ack { packet_id: 1, reason: Reason::UNSPECIFIED };
    assert_eq!(tell(&mut session, Packet::PubRec(failed)), "[settle [10]]");
}

#[test]
fn an_unknown_pubrec_is_told_so() {
    assert_eq!(tell(&mut session(), Packet::PubRec(ack(3))), "[pubrel 3 92]");
}

#[test]
fn the_clients_receive_maximum_is_kept_mqtt_3_3_4_9() {
    let mut session = session();
    for offset in 1..=4 {
        session.outbound.push(copy(Qos::AtLeastOnce, offset));
    }
    assert_eq!(sent(&mut session).len(), 2);
    assert_eq!(session.outbound.room(), 0);
    tell(&mut session, Packet::PubAck(ack(2)));
    assert_eq!(sent(&mut session), [(3, false, Stage::Published)]);
}

#[test]
fn nothing_is_sent_twice_on_a_live_connection_mqtt_4_4_0_1() {
    let mut session = session();
    session.outbound.push(copy(Qos::AtLeastOnce, 1));
    assert_eq!(sent(&mut session).len(), 1);
    assert_eq!(sent(&mut session).len(), 0);
}

#[test]
fn a_resumed_session_sends_again_in_order_before_anything_new_mqtt_4_4_0_1() {
    let mut first = Session::new(Terms { client_receive_max: 9, ..terms() }, Duration::ZERO);
    for offset in 1..=3 {
        first.outbound.push(copy(Qos::ExactlyOnce, offset));
    }
    sent(&mut first);
    tell(&mut first, Packet::PubRec(ack(2)));
    let mut second = Session::new(Terms { client_receive_max: 9, ..terms() }, Duration::ZERO);
    second.resume(first.park().0);
    second.outbound.push(copy(Qos::AtLeastOnce, 4));
    assert_eq!(
        sent(&mut second),
        [
            (1, true, Stage::Published),
            (2, true, Stage::Released),
            (3, true, Stage::Published),
            (513, false, Stage::Published),
        ]
    );
    assert_eq!(tell(&mut second, Packet::PubComp(ack(2))), "[]");
}

/// A delivery whose place does not outlive the server, so that it is in no run.
fn fleeting(offset: u64) -> DeliveryId {
    DeliveryId { queue: QueueId(TRANSIENT_BIT | 1), ..delivery(offset) }
}

/// A copy of a record of its own.
fn copy_of(id: u8, offset: u64) -> Copy {
    let address = Address::mqtt("t".into());
    let mut draft = RecordDraft::new(&address, "/", b"", b"x");
    draft.id = RecordId([id; 16]);
    let deliveries = smallvec![fleeting(offset)];
    Copy { record: draft.encode().unwrap(), deliveries, ..copy(Qos::ExactlyOnce, offset) }
}

/// The note of [`copy_of`] its packet identifier.
fn note(packet_id: u8, stage: Stage) -> Note {
    let record = RecordId([packet_id; 16]);
    Note { packet_id: packet_id.into(), record, stage, is_loose: false }
}

#[test]
fn what_was_noted_goes_on_after_the_server_was_started_mqtt_4_4_0_1() {
    let mut first = Session::new(Terms { client_receive_max: 9, ..terms() }, Duration::ZERO);
    for id in 1..=3 {
        first.outbound.push(copy_of(id, id.into()));
    }
    sent(&mut first);
    let noted = (1..=4).filter_map(|id| first.outbound.take_note(id)).collect::<Vec<_>>();
    assert_eq!(noted, [1, 2, 3].map(|id| note(id, Stage::Published)));
    assert_eq!(first.outbound.take_note(1), None, "it is noted");
    tell(&mut first, Packet::PubRec(ack(1)));
    assert_eq!(first.outbound.note_released(1), Some(note(1, Stage::Released)));
    tell(&mut first, Packet::PubRec(ack(1)));
    assert_eq!(first.outbound.note_released(1), None, "it is noted, however often it is received");
    tell(&mut first, Packet::PubRec(ack(2)));
    tell(&mut first, Packet::PubComp(ack(2)));
    assert_eq!(first.outbound.take_over(), [note(2, Stage::Released)]);

    let mut second = Session::new(Terms { client_receive_max: 9, ..terms() }, Duration::ZERO);
    second.outbound.remember([note(3, Stage::Published), note(1, Stage::Released)], 9);
    assert_eq!(sent(&mut second), [(1, true, Stage::Released)]);
    // The store may not have learned that the client has it.
    assert_eq!(second.outbound.push(copy_of(1, 1)).as_slice(), [fleeting(1)]);
    // What is new waits neither for its identifier nor takes it.
    for id in [9, 3, 8, 7] {
        assert!(second.outbound.push(copy_of(id, id.into())).is_empty());
    }
    let stage = Stage::Published;
    assert_eq!(
        sent(&mut second),
        [(2, false, stage), (3, true, stage), (4, false, stage), (5, false, stage)]
    );
    assert_eq!(tell(&mut second, Packet::PubComp(ack(1))), "[]");
    assert_eq!(tell(&mut second, Packet::PubRec(ack(3))), "[settle [3], pubrel 3]");
    assert_eq!(tell(&mut second, Packet::PubComp(ack(3))), "[]");
    assert_eq!(second.outbound.take_over(), [note(1, Stage::Released), note(3, Stage::Released)]);
}

#[test]
fn what_was_noted_as_received_is_settled_when_it_comes_again_to_a_resumed_session() {
    let mut first = session();
    first.outbound.push(copy_of(1, 1));
    sent(&mut first);
    let noted = first.outbound.take_note(1);
    tell(&mut first, Packet::PubRec(ack(1)));
    let noted = noted.and_then(|_| first.outbound.note_released(1));
    let mut second = session();
    second.resume(first.park().0);
    second.outbound.remember(noted, 9);
    assert_eq!(second.outbound.push(copy_of(1, 7)).as_slice(), [fleeting(7)]);
    assert_eq!(sent(&mut second), [(1, true, Stage::Released)]);
}

#[test]
fn what_was_noted_of_a_record_is_not_its_dead_letters() {
    let mut session = Session::new(Terms { client_receive_max: 9, ..terms() }, Duration::ZERO);
    session.outbound.remember([note(1, Stage::Published), note(2, Stage::Released)], 9);
    let again = Some(Address::mqtt("dead".into()));
    for id in [1, 2] {
        let dead = Copy { again: again.clone(), ..copy_of(id, id.into()) };
        assert!(session.outbound.push(dead).is_empty());
    }
    session.outbound.push(Copy { deliveries: smallvec![], ..copy_of(1, 3) });
    session.outbound.push(Copy { competing: true, ..copy_of(1, 4) });
    session.outbound.push(copy_of(1, 5));
    let stage = Stage::Published;
    assert_eq!(
        sent(&mut session),
        [
            (2, true, Stage::Released),
            (3, false, stage),
            (4, false, stage),
            (5, false, stage),
            (6, false, stage),
            (1, true, stage),
        ]
    );
}

#[test]
fn identifiers_of_what_comes_no_more_are_released() {
    let mut first = Session::new(Terms { client_receive_max: 9, ..terms() }, Duration::ZERO);
    first.outbound.push(Copy { deliveries: smallvec![], ..copy_of(1, 1) });
    first.outbound.push(Copy { again: Some(Address::mqtt("dead".into())), ..copy_of(2, 2) });
    sent(&mut first);
    let loose = [1, 2].map(|id| first.outbound.take_note(id).unwrap());
    assert_eq!(loose, [1, 2].map(|id| Note { is_loose: true, ..note(id, Stage::Published) }));
    // Three more may come again, and two may be waited for: the oldest is given up.
    let owed = [5, 3, 4].map(|id| note(id, Stage::Published));
    let mut second = Session::new(Terms { client_receive_max: 9, ..terms() }, Duration::ZERO);
    second.outbound.remember(loose.into_iter().chain(owed), 2);
    assert_eq!(sent(&mut second), [1, 2, 3].map(|id| (id, true, Stage::Released)));
    for id in 1..=3 {
        assert_eq!(tell(&mut second, Packet::PubComp(ack(id))), "[]");
    }
    assert_eq!(second.outbound.take_over().len(), 3, "their notes are taken back");
    // What comes all the same is not taken for what the client has.
    for id in [1, 2, 3, 4] {
        assert!(second.outbound.push(copy_of(id, id.into())).is_empty());
    }
    let ids: Vec<u16> = sent(&mut second).into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
}

#[test]
fn sessions_that_are_not_kept_note_nothing() {
    let mut session = Session::new(Terms { session_expiry_s: 0, ..terms() }, Duration::ZERO);
    session.outbound.push(copy(Qos::ExactlyOnce, 1));
    sent(&mut session);
    assert_eq!(session.outbound.take_note(1), None);
}

#[test]
fn resending_keeps_the_new_receive_maximum() {
    let mut first = session();
    first.outbound.push(copy(Qos::AtLeastOnce, 1));
    first.outbound.push(copy(Qos::AtLeastOnce, 2));
    sent(&mut first);
    let mut second = Session::new(Terms { client_receive_max: 1, ..terms() }, Duration::ZERO);
    second.resume(first.park().0);
    assert_eq!(sent(&mut second), [(1, true, Stage::Published)]);
    // Not sent on this connection yet, so not acknowledged either.
    assert_eq!(tell(&mut second, Packet::PubAck(ack(2))), "[]");
    assert_eq!(tell(&mut second, Packet::PubAck(ack(1))), "[settle [1]]");
    assert_eq!(sent(&mut second), [(2, true, Stage::Published)]);
}

#[test]
fn what_others_may_have_is_not_parked() {
    let mut session = session();
    session.outbound.push(Copy { competing: true, ..copy(Qos::AtLeastOnce, 1) });
    session.outbound.push(copy(Qos::AtLeastOnce, 2));
    session.outbound.push(copy(Qos::AtLeastOnce, 3));
    sent(&mut session);
    let (parked, unsent) = session.park();
    assert_eq!(parked.flights.iter().map(|f| f.packet_id).collect::<Vec<_>>(), [2]);
    assert_eq!(unsent.len(), 1);
}

#[test]
fn an_identifier_that_went_with_another_readers_message_is_not_given_next_mqtt_2_2_1_4() {
    let mut first = session();
    first.outbound.push(Copy { competing: true, ..copy(Qos::ExactlyOnce, 1) });
    assert_eq!(sent(&mut first), [(1, false, Stage::Published)]);
    let mut second = session();
    second.resume(first.park().0);
    second.outbound.push(copy_of(2, 2));
    second.outbound.push(copy(Qos::ExactlyOnce, 3));
    let stage = Stage::Published;
    assert_eq!(sent(&mut second), [(2, false, stage), (513, false, stage)]);
}

#[test]
fn identifiers_in_flight_are_skipped_when_they_wrap_mqtt_2_2_1_4() {
    let mut session = Session::new(terms(), Duration::ZERO);
    session.outbound.push(copy(Qos::AtLeastOnce, 0));
    sent(&mut session);
    for _ in 0..70_000 {
        session.outbound.push(copy(Qos::AtLeastOnce, 1));
        let [(id, ..)] = sent(&mut session)[..] else { panic!("one message is sent") };
        assert_ne!(id, 1);
        assert_ne!(id, 0);
        tell(&mut session, Packet::PubAck(ack(id)));
    }
}

#[test]
fn silence_for_one_and_a_half_keep_alives_is_the_end_mqtt_3_1_2_22() {
    let mut session = session();
    assert_eq!(session.deadline(), Some(Duration::from_secs(15)));
    session.heard(Duration::from_secs(4));
    assert_eq!(session.deadline(), Some(Duration::from_secs(19)));
    let silent = Session::new(Terms { keep_alive_s: 0, ..terms() }, Duration::ZERO);
    assert_eq!(silent.deadline(), None);
}

#[test]
fn disconnect_decides_about_will_and_expiry_mqtt_3_14_4_3() {
    let leave =
        |reason, session_expiry_s| Packet::Disconnect(Disconnect { reason, session_expiry_s });
    assert_eq!(tell(&mut session(), leave(Reason::SUCCESS, None)), "[leave false None]");
    assert_eq!(
        tell(&mut session(), leave(Reason::DISCONNECT_WITH_WILL, Some(5))),
        "[leave true Some(5)]"
    );
    let mut unkept = Session::new(Terms { session_expiry_s: 0, ..terms() }, Duration::ZERO);
    assert_eq!(tell(&mut unkept, leave(Reason::SUCCESS, Some(5))), "Reason(0x82)");
}
