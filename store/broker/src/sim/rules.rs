//! Rules for many queues, and queues that a rule puts far over their bounds.

use mainstem_index::ParameterKey;
use mainstem_schemas::Value;

use super::{
    desk::Desk,
    turns::{MANY, live, turns_of_another},
};
use crate::{
    command::{ClientId, Command, Reply},
    policy::Policy,
    rules::{ApplyTo, Authority, Rule},
};

/// A rule that bounds what is named so.
fn set_bound(
    pattern: &str,
    apply_to: ApplyTo,
    len_max: i64,
) -> impl FnOnce(ClientId, Reply<()>) -> Command {
    let rule = Rule {
        name: "short".to_owned(),
        pattern: pattern.to_owned(),
        apply_to,
        priority: 0,
        definition: vec![("max-length".to_owned(), Value::Int(len_max))],
    };
    let key = ParameterKey {
        namespace: "/".to_owned(),
        component: Authority::User.component().to_owned(),
        name: rule.name.clone(),
    };
    move |_, reply| Command::SetParameter { key, value: rule.to_table(), reply }
}

#[test]
fn a_rule_for_many_queues_that_nobody_uses_takes_turns() {
    rule_for_many(None);
}

#[test]
fn a_rule_comes_to_all_its_queues_though_the_power_goes_meanwhile() {
    rule_for_many(Some(false));
    rule_for_many(Some(true));
}

fn rule_for_many(crashes: Option<bool>) {
    const QUEUES: usize = 1000;
    let mut desk = Desk::new(|config| config.queues_resident_max = 10);
    desk.declare("other", Policy::default());
    let name = |number: usize| format!("q{number}");
    let mut ids = Vec::new();
    for number in 0..QUEUES {
        ids.push(desk.declare(&name(number), Policy::default()));
        desk.fill(&name(number), 3, 10);
    }
    desk.checkpoint();
    desk.settle_down();
    let resident = |desk: &Desk| desk.world.commit.state.queues.len();
    assert!(resident(&desk) <= 10);
    let ((), turns) = desk.count_turns(set_bound("^q", ApplyTo::Exchanges, 1));
    assert!(turns <= 2 && resident(&desk) <= 10, "no queue is looked at");
    let answer = desk.begin(set_bound("^q", ApplyTo::Queues, 1));
    assert_eq!(turns_of_another(&mut desk), 1);
    assert!(resident(&desk) < QUEUES / 4, "one turn read {} queues", resident(&desk));
    if let Some(loses_index) = crashes {
        desk.checkpoint();
        let resident = resident(&desk);
        assert!(resident < QUEUES / 2, "{resident} queues were looked at");
        desk = desk.crash(loses_index);
        desk.turns(60);
    } else {
        let ((), turns) = desk.wait_for(answer);
        assert!((8..60).contains(&turns), "{turns} turns");
        desk.turns(20);
    }
    // Without anybody's using them.
    assert!(ids.into_iter().all(|id| live(&mut desk, id) == 1));
    desk.rebuilt();
}

#[test]
fn queues_are_not_searched_for_a_rule_that_is_gone() {
    const QUEUES: usize = 1000;
    for deletes in [true, false] {
        let mut desk = Desk::new(|config| config.queues_resident_max = 10);
        for number in 0..QUEUES {
            desk.declare(&format!("q{number}"), Policy::default());
        }
        desk.checkpoint();
        desk.settle_down();
        let first = desk.begin(set_bound("^q", ApplyTo::Queues, 1));
        desk.turn();
        if deletes {
            let key = ParameterKey {
                namespace: "/".to_owned(),
                component: Authority::User.component().to_owned(),
                name: "short".to_owned(),
            };
            assert!(desk.ask(|_, reply| Command::DeleteParameter { key, reply }));
        } else {
            desk.ask(set_bound("^nothing$", ApplyTo::Queues, 1));
        }
        let ((), turns) = desk.wait_for(first);
        assert!(turns <= 2, "it goes on for {turns} turns");
        desk.turns(60);
        let resident = desk.world.commit.state.queues.len();
        assert!(resident < QUEUES / 3, "{resident} queues were looked at");
    }
}

#[test]
fn many_publishes_drop_little_more_each_than_they_bring() {
    const BATCH: usize = 1000;
    let mut desk = Desk::new(|_| {});
    let queue = desk.declare("q", Policy::default());
    desk.fill("q", MANY, 10);
    let _set = desk.begin(set_bound("^q$", ApplyTo::Queues, 10));
    let batch = (0..BATCH).map(|_| desk.direct("q", b"new")).collect();
    let permit = desk.permit();
    let _answer = desk.begin(|client, reply| Command::Publish { client, batch, permit, reply });
    desk.turn();
    let left = live(&mut desk, queue);
    assert!(left < MANY as u64, "it grows");
    assert!(left > (MANY - 5 * BATCH) as u64, "one turn dropped all but {left}");
    desk.turns(40);
    assert_eq!(live(&mut desk, queue), 10);
}

#[test]
fn queues_over_their_bounds_take_turns() {
    let mut desk = Desk::new(|_| {});
    let queues = ["qa", "qb", "qc"].map(|name| {
        let queue = desk.declare(name, Policy::default());
        desk.fill(name, 10_000, 10);
        queue
    });
    let _set = desk.begin(set_bound("^q", ApplyTo::Queues, 10));
    desk.turns(4);
    for queue in queues {
        let left = live(&mut desk, queue);
        assert!((5000..10_000).contains(&left), "of {queue:?}, {left} are left");
    }
    desk.turns(40);
    assert!(queues.into_iter().all(|queue| live(&mut desk, queue) == 10));
}
