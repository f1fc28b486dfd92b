//! Writers whose numbers are remembered, and forgotten.

use super::desk::Desk;
use crate::{
    command::{Command, OpenSession, Published, Terms, session_writer},
    policy::Policy,
};

/// Publishes as a writer to the queue `q`.
fn write(desk: &mut Desk, writers: &[String], number: u64) -> Vec<Published> {
    let one = |desk: &Desk, writer: &String| {
        let once = Some((writer.clone(), number));
        desk.direct("q", b"x").on(Terms { once, ..Terms::default() })
    };
    let batch = writers.iter().map(|writer| one(desk, writer)).collect();
    desk.publish(batch)
}

fn is_taken(published: &[Published]) -> bool {
    published.iter().all(|one| matches!(one, Published::Taken { .. }))
}

fn forget(desk: &mut Desk, writers: &[String]) -> Vec<bool> {
    let (writers, permit) = (writers.to_vec(), desk.permit());
    desk.ask(|client, reply| Command::Forget { client, writers, permit, reply })
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("writer {number}")).collect()
}

#[test]
fn a_writer_that_is_forgotten_begins_anew() {
    let both = names(2);
    for loses_index in [false, true] {
        let mut desk = Desk::new(|_| {});
        desk.declare("q", Policy::default());
        assert!(is_taken(&write(&mut desk, &both, 5)));
        assert_eq!(write(&mut desk, &both, 5), [Published::Again, Published::Again]);
        desk.checkpoint();
        let nobody = "nobody".to_owned();
        assert_eq!(forget(&mut desk, &[nobody, both[0].clone()]), [false, true]);
        let mut desk = desk.crash(loses_index);
        assert_eq!(forget(&mut desk, &both[..1]), [false], "it is forgotten already");
        assert!(is_taken(&write(&mut desk, &both[..1], 1)));
        assert_eq!(write(&mut desk, &both[1..], 1), [Published::Again], "the other is not");
        desk.rebuilt();
    }
}

#[test]
fn silent_writers_are_forgotten_some_in_a_turn() {
    const COUNT: usize = 5000;
    let mut desk = Desk::new(|config| config.writer_idle_ms = 60_000);
    desk.declare("q", Policy::default());
    assert!(is_taken(&write(&mut desk, &names(COUNT), 1)));
    desk.pass(70_000);
    desk.turn();
    let left = |desk: &Desk| desk.world.commit.state.writers.len();
    assert!((COUNT / 2..COUNT).contains(&left(&desk)), "{} are left after a turn", left(&desk));
    for _ in 0..10 {
        desk.pass(1000);
        desk.turn();
    }
    assert_eq!(left(&desk), 0);
    desk.rebuilt();
}

#[test]
fn forgetting_leaves_a_full_disk_its_room_for_settlements() {
    let mut desk = Desk::new(|_| {});
    desk.declare("q", Policy::default());
    let all = names(500);
    assert!(is_taken(&write(&mut desk, &all, 1)));
    desk.turns(5);
    desk.fill_disk();
    for _ in 0..20 {
        if desk.refuses("q") {
            break;
        }
        desk.fill("q", 1, 3000);
        desk.pass(1000);
        desk.turns(2);
    }
    assert!(desk.refuses("q"), "the disk is full");
    let before = desk.world.reader.end().0;
    let mut answers = Vec::new();
    for some in all.chunks(5) {
        let (writers, permit) = (some.to_vec(), desk.permit());
        answers.push(desk.begin(|client, reply| Command::Forget {
            client,
            writers,
            permit,
            reply,
        }));
        desk.turns(2);
    }
    let grown = desk.world.reader.end().0 - before;
    assert!(grown < 4000, "{grown} bytes of the last room");
    let answered = answers.iter_mut().filter_map(|answer| answer.try_recv().ok()).count();
    assert!((1..all.len() / 10).contains(&answered), "{answered} were answered");
    assert_eq!(forget(&mut desk, &["nobody".to_owned()]), [false], "that takes no room");
    // Who is not answered asks again, and when there is room, is told.
    desk.free_disk();
    for _ in 0..5 {
        desk.pass(1000);
        desk.turns(2);
    }
    let known = forget(&mut desk, &all);
    assert_eq!(known.iter().filter(|known| !**known).count(), answered * 5);
    desk.rebuilt();
}

#[test]
fn what_ended_sessions_leave_is_forgotten_some_in_a_turn() {
    const COUNT: usize = 5000;
    let mut desk = Desk::new(|_| {});
    desk.declare("q", Policy::default());
    let open = OpenSession { id: "s".to_owned(), clean: true, expiry_s: 60, limit: 9 };
    desk.ask(|client, reply| Command::OpenSession { client, open, reply }).unwrap();
    let its: Vec<_> = names(COUNT).iter().map(|name| session_writer("s", name)).collect();
    let others = names(1);
    assert!(is_taken(&write(&mut desk, &its, 1)) && is_taken(&write(&mut desk, &others, 1)));
    let end =
        |client, reply| Command::CloseSession { client, expiry_s: Some(0), parcel: None, reply };
    let _ended = desk.begin(end);
    desk.turn();
    let left = |desk: &Desk| desk.world.commit.state.writers.len();
    assert!((COUNT / 2..COUNT).contains(&left(&desk)), "{} are left after a turn", left(&desk));
    desk.turns(10);
    assert_eq!(left(&desk), 1);
    assert_eq!(write(&mut desk, &others, 1), [Published::Again], "it is nobody's");
}
