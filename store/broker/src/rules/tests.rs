//! Which rule holds, and what it makes of a declaration.

use mainstem_schemas::QueueId;

use super::*;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn rule(name: &str, pattern: &str, priority: i64, definition: &[(&str, Value)]) -> Rule {
    let definition = definition.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
    Rule {
        name: name.to_owned(),
        pattern: pattern.to_owned(),
        apply_to: ApplyTo::All,
        priority,
        definition: definition.collect(),
    }
}

fn queue(name: &str, arguments: &[(&str, Value)]) -> QueueDef {
    let arguments = arguments.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
    QueueDef {
        id: QueueId::default(),
        name: name.to_owned(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        retention: Retention::Unsettled,
        policy: Arc::default(),
        arguments: arguments.collect(),
    }
}

fn rules(users: &[Rule], operators: &[Rule]) -> Rules {
    let users = users.iter().map(|rule| (Authority::User, rule.clone()));
    Rules::new(users.chain(operators.iter().map(|rule| (Authority::Operator, rule.clone()))))
}

fn of(rules: &Rules, def: &QueueDef, declared: Policy) -> Policy {
    (*rules.of_queue(def, &Arc::new(declared))).clone()
}

#[test]
fn the_highest_priority_holds_and_only_one() {
    let low = rule("a", ".*", 1, &[("max-length", Value::Int(1)), ("expires", Value::Int(9))]);
    let high = rule("b", "^w", 2, &[("max-length", Value::Int(7))]);
    let rules = rules(&[low, high], &[]);
    let work = of(&rules, &queue("work", &[]), Policy::default());
    assert_eq!((work.len_max, work.expires_ms), (Some(7), None));
    let other = of(&rules, &queue("a w", &[]), Policy::default());
    assert_eq!((other.len_max, other.expires_ms), (Some(1), Some(9)));
}

#[test]
fn operators_bound_users_and_numbers_take_the_least() {
    let user = rule("u", "", 0, &[("max-length", Value::Int(9)), ("overflow", text("drop-head"))]);
    let operator = rule(
        "o",
        "",
        0,
        &[
            ("max-length", Value::Int(5)),
            ("message-ttl", Value::Int(3)),
            ("overflow", text("reject-publish")),
        ],
    );
    let rules = rules(&[user], &[operator]);
    let plain = of(&rules, &queue("q", &[]), Policy::default());
    assert_eq!((plain.len_max, plain.ttl_ms), (Some(5), Some(3)));
    assert_eq!(plain.overflow, Overflow::Refuse);
    let declared = Policy { len_max: Some(2), ttl_ms: Some(8), ..Policy::default() };
    let asked = of(&rules, &queue("q", &[("x-overflow", text("drop-head"))]), declared);
    assert_eq!((asked.len_max, asked.ttl_ms), (Some(2), Some(3)));
    assert_eq!(asked.overflow, Overflow::DropHead);
}

#[test]
fn any_time_to_settle_is_more_than_a_time() {
    let timeout = |ms| rule("r", "", 0, &[("consumer-timeout", Value::Int(ms))]);
    let check = |user, operator, declared, expected| {
        let operator: Vec<_> = Option::into_iter(operator).map(timeout).collect();
        let declared = Policy { settle_max_ms: declared, ..Policy::default() };
        let asked = of(&rules(&[timeout(user)], &operator), &queue("q", &[]), declared);
        assert_eq!(asked.settle_max_ms, expected, "{user} {operator:?}");
    };
    check(0, None, None, Some(0));
    check(0, None, Some(5), Some(5));
    check(7, None, Some(0), Some(7));
    check(7, None, Some(5), Some(5));
    check(0, Some(9), None, Some(9));
    check(9, Some(0), None, Some(9));
    check(0, Some(0), Some(5), Some(5));
}

#[test]
fn arguments_win_over_names_and_keys_of_dead_letters() {
    let dead = rule(
        "d",
        "",
        0,
        &[("dead-letter-exchange", text("dlx")), ("dead-letter-routing-key", text("k"))],
    );
    let rules = rules(&[dead], &[]);
    let letter = |name: &str, key: Option<&str>| {
        let key = key.map(|key| Bytes::copy_from_slice(key.as_bytes()));
        Some(DeadLetter::Exchange { name: name.to_owned(), key })
    };
    let check = |declared: Option<DeadLetter>, expected: Option<DeadLetter>| {
        let mut policy = Policy::default();
        policy.delivery.dead_letter = declared;
        assert_eq!(of(&rules, &queue("q", &[]), policy).delivery.dead_letter, expected);
    };
    check(None, letter("dlx", Some("k")));
    check(letter("mine", None), letter("mine", Some("k")));
    check(letter("mine", Some("own")), letter("mine", Some("own")));
}

#[test]
fn a_rule_with_a_key_that_the_type_does_not_know_is_not_for_it() {
    let limit = rule("l", "", 5, &[("delivery-limit", Value::Int(3)), ("expires", Value::Int(4))]);
    let rest = rule("r", "", 1, &[("expires", Value::Int(9))]);
    let age = rule("s", "", 9, &[("max-age", text("2m"))]);
    let rules = rules(&[limit, rest, age], &[]);
    assert_eq!(of(&rules, &queue("q", &[]), Policy::default()).expires_ms, Some(9));
    let quorum = ("x-queue-type", text("quorum"));
    let mut declared = Policy::default();
    declared.delivery.attempts_max = Some(21);
    let asked = of(&rules, &queue("q", std::slice::from_ref(&quorum)), declared.clone());
    assert_eq!((asked.expires_ms, asked.delivery.attempts_max), (Some(4), Some(4)));
    let own = queue("q", &[quorum, ("x-delivery-limit", Value::Int(-1))]);
    assert_eq!(of(&rules, &own, declared).delivery.attempts_max, Some(4));
    let stream = QueueDef { retention: Retention::Time, ..queue("q", &[]) };
    let asked = of(&rules, &stream, Policy::default());
    assert_eq!((asked.age_max_ms, asked.expires_ms), (Some(120_000), None));
}

#[test]
fn what_a_rule_is_for_and_patterns_that_look_ahead() {
    let mut classic = rule("c", "^(?!amq\\.).*", 0, &[("max-length", Value::Int(1))]);
    classic.apply_to = ApplyTo::ClassicQueues;
    let mut exchanges = rule("x", "", 5, &[("alternate-exchange", text("ae"))]);
    exchanges.apply_to = ApplyTo::Exchanges;
    let rules = rules(&[classic, exchanges], &[]);
    let len = |def: &QueueDef| of(&rules, def, Policy::default()).len_max;
    assert_eq!(len(&queue("q", &[])), Some(1));
    assert_eq!(len(&queue("amq.gen-1", &[])), None);
    assert_eq!(len(&queue("q", &[("x-queue-type", text("quorum"))])), None);
}

#[test]
fn rules_are_refused_in_rabbitmqs_words_and_read_back() {
    let why = |authority, pattern: &str, key: &str, value: Value| {
        let refusal = rule("r", pattern, 0, &[(key, value)]).check(authority).unwrap_err();
        match refusal {
            Refusal::BadArguments(why) => why,
            other => other.to_string(),
        }
    };
    let user = Authority::User;
    assert_eq!(
        why(user, "", "nope", Value::Int(1)),
        "[{<<\"nope\">>,1}] are not recognised policy settings"
    );
    assert_eq!(why(user, "", "max-length", Value::Int(-1)), "-1 is not a valid maximum length");
    assert_eq!(why(user, "", "expires", Value::Int(0)), "0 is not a valid queue expiry");
    assert_eq!(why(user, "", "overflow", text("x")), "<<\"x\">> is not a valid overflow value");
    assert!(why(Authority::Operator, "", "alternate-exchange", text("x")).contains("recognised"));
    assert!(why(user, "(", "expires", Value::Int(1)).contains("regular expression"));
    let good = rule("r", "^a", -3, &[("max-age", text("7D"))]);
    assert_eq!(good.check(user), Ok(()));
    assert_eq!(Rule::from_table("r", &good.to_table()), Some(good));
}
