//! Tests of the roll.

use mainstem_schemas::Value;

use super::*;

fn line(port: u16) -> Arc<Line> {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Line::new(at(port), at(5), false)
}

fn introduction(port: u16) -> Introduction {
    Introduction {
        line: line(port),
        protocol: "spoken 1",
        mechanism: "PLAIN",
        client_id: String::new(),
        properties: vec![("product".to_owned(), Value::Text("p".to_owned()))],
        frame_bytes_max: 0,
        heartbeat_s: 0,
        channels_max: 0,
    }
}

fn enter(roll: &Roll, number: u64, namespace: &str) -> Arc<Standing> {
    let principal = Principal::named("ann", namespace);
    let introduction = introduction(u16::try_from(number).unwrap());
    roll.enter(number, &principal, introduction, UnixMillis(7))
}

/// What a connection is called for, if it is.
async fn call(standing: &Standing) -> Option<Call> {
    tokio::select! {
        biased;
        call = standing.called() => Some(call),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn a_connection_stands_on_the_roll_until_it_leaves() {
    let roll = Roll::default();
    let one = enter(&roll, 1, "/");
    let two = enter(&roll, 2, "other");
    let numbers = |roll: &Roll| roll.all().iter().map(|it| it.number()).collect::<Vec<_>>();
    assert_eq!(numbers(&roll), [1, 2]);
    assert_eq!(one.line().to_string(), "127.0.0.1:1 -> 127.0.0.1:5");
    assert_eq!(one.properties(), [("product".to_owned(), Value::Text("p".to_owned()))]);
    assert_eq!((one.since(), one.channels()), (UnixMillis(7), 0));
    roll.leave(&one);
    assert_eq!(numbers(&roll), [2]);
    assert!(one.look().await.is_err(), "who is gone answers nothing");
    roll.leave(&two);
    assert!(roll.all().is_empty());
}

#[tokio::test]
async fn the_first_reason_to_end_counts_and_goes_before_looks() {
    let roll = Roll::default();
    let one = enter(&roll, 1, "/");
    assert!(call(&one).await.is_none());
    let (first, second) = (one.look(), one.look());
    one.end("enough");
    one.end("more than enough");
    assert!(one.is_ending());
    let Some(Call::End(reason)) = call(&one).await else { panic!("it is called to end") };
    assert_eq!(reason, "enough");
    for _ in 0..2 {
        let Some(Call::Look(look)) = call(&one).await else { panic!("it is looked at") };
        look.send(vec![Channel { number: 3, ..Channel::default() }]).unwrap();
    }
    assert_eq!((first.await.unwrap().len(), second.await.unwrap().len()), (1, 1));
    assert!(call(&one).await.is_none());
}

#[tokio::test]
async fn a_call_is_not_lost_by_who_stops_waiting() {
    let roll = Roll::default();
    let one = enter(&roll, 1, "/");
    assert!(call(&one).await.is_none(), "it waited, and stopped");
    one.end("enough");
    assert!(matches!(call(&one).await, Some(Call::End(_))));
}

#[tokio::test]
async fn looks_at_one_connection_are_bounded() {
    let roll = Roll::default();
    let one = enter(&roll, 1, "/");
    let looks: Vec<_> = (0..LOOKS_MAX).map(|_| one.look()).collect();
    assert!(one.look().await.is_err());
    drop(looks);
}

#[test]
fn a_page_is_of_one_namespace_and_says_where_the_next_begins() {
    let roll = Roll::default();
    for number in 1..=6 {
        enter(&roll, number, if number % 2 == 0 { "/" } else { "other" });
    }
    assert_eq!(roll.some("/", 0, 2), (vec![2, 4], Some(6)));
    assert_eq!(roll.some("/", 6, 2), (vec![6], None));
    assert_eq!(roll.some("nowhere", 0, 2), (vec![], None));
}

#[test]
fn what_goes_through_a_line_is_counted() {
    let line = line(1);
    line.received.add(3);
    line.received.add(4);
    line.sent.add(5);
    line.waits(9);
    assert_eq!((line.received.pieces(), line.received.bytes()), (2, 7));
    assert_eq!((line.sent.pieces(), line.sent.bytes(), line.waiting()), (1, 5, 9));
}

/// Twenty thousand may be idle: what each costs is a promise.
#[test]
fn a_connection_costs_little() {
    assert!(size_of::<Standing>() <= 288, "{}", size_of::<Standing>());
    assert!(size_of::<Line>() <= 112, "{}", size_of::<Line>());
}
