"""Which queues a message comes to by the types of exchange that RabbitMQ has by plugins.

Run as `amqp_exchange_rules.py PORT`: it holds for RabbitMQ (with the consistent-hash, random,
recent-history and sharding plugins) as for Mainstem. `--without NAME,NAME` leaves out what a server
does not have: `delays` and `local-random` (RabbitMQ before 4), `big-weights` (RabbitMQ makes as many
buckets, and dies).
"""

import time

from rules import Peer, WITHOUT, death, main, refused, refused_apart, rule


def bound(peer, exchange, keys):
    """A queue for each of the binding keys."""
    names = [f"{exchange}-{number}" for number in range(len(keys))]
    for name, key in zip(names, keys):
        peer.queue(name)
        peer.channel.queue_bind(name, exchange, key)
    return names


def spread(peer, names, total):
    """How many messages each queue has, once all are there."""
    deadline = time.monotonic() + 10
    while sum(counts := [peer.ready(name) for name in names]) < total:
        assert time.monotonic() < deadline, (counts, total)
        time.sleep(0.02)
    return counts


@rule
def a_hash_spreads_by_weight_and_keeps_a_key_together(peer):
    peer.exchange("hash", "x-consistent-hash")
    names = bound(peer, "hash", ["1", "3"])
    for number in range(800):
        peer.send(f"key-{number % 400}", str(number % 400), exchange="hash")
    counts = spread(peer, names, 800)
    assert sum(counts) == 800 and 120 < counts[0] < 280, counts
    light = {peer.get("hash-0")[2] for _ in range(counts[0])}
    heavy = {peer.get("hash-1")[2] for _ in range(counts[1])}
    assert not light & heavy and len(light | heavy) == 400


@rule
def a_hash_can_be_of_a_header_or_a_property(peer):
    for name, arguments, properties in (
            ("by-header", {"hash-header": "who"}, lambda who: {"headers": {"who": who}}),
            ("by-id", {"hash-property": "message_id"}, lambda who: {"message_id": who}),
            ("by-correlation", {"hash-property": "correlation_id"},
             lambda who: {"correlation_id": who}),
            ("by-time", {"hash-property": "timestamp"}, lambda who: {"timestamp": int(who)})):
        peer.exchange(name, "x-consistent-hash", arguments=arguments)
        names = bound(peer, name, ["1", "1"])
        for number in range(200):
            # The routing key is not looked at.
            who = str(number % 50)
            peer.send(f"key-{number}", who, exchange=name, **properties(who))
        counts = spread(peer, names, 200)
        assert all(40 <= count <= 160 for count in counts), (name, counts)
        first, second = ({peer.get(queue)[2] for _ in range(count)}
                         for queue, count in zip(names, counts))
        assert not first & second, name


@rule
def a_hash_of_what_is_not_there_is_always_the_same(peer):
    peer.exchange("by-header", "x-consistent-hash", arguments={"hash-header": "who"})
    names = bound(peer, "by-header", ["1", "1", "1"])
    for number in range(30):
        peer.send(f"key-{number}", exchange="by-header")
    assert sorted(spread(peer, names, 30)) == [0, 0, 30]


@rule
def a_hash_gives_a_message_with_further_keys_to_one_queue(peer):
    peer.exchange("hash", "x-consistent-hash")
    names = bound(peer, "hash", ["1", "1", "1"])
    for number in range(20):
        peer.send(f"a{number}", exchange="hash", headers={"CC": ["b", "c", "d", "e"]})
    assert sum(spread(peer, names, 20)) == 20


@rule
def a_hash_says_what_it_cannot_hash(peer):
    for arguments, words in (
            ({"hash-header": "a", "hash-property": "message_id"},
             "hash-header and hash-property are mutually exclusive"),
            ({"hash-property": "priority"}, "Unsupported property: priority")):
        outcome = refused_apart(lambda channel: channel.exchange_declare(
            "odd", "x-consistent-hash", arguments=arguments))
        assert outcome == (406, f"PRECONDITION_FAILED - {words}"), outcome
    peer.exchange("hash", "x-consistent-hash", arguments={"hash-header": "a"})
    # Only the alternate exchange of an exchange is compared.
    peer.channel.exchange_declare("hash", "x-consistent-hash", durable=True)
    peer.queue("q")
    for key, words in (("a", 'be an integer: <<"a">>'), ("", "be an integer: <<>>"),
                       ("1.5", 'be an integer: <<"1.5">>'), ("0", "be greater than 0"),
                       ("-1", "be greater than 0")):
        outcome = refused_apart(lambda channel: channel.queue_bind("q", "hash", key))
        assert outcome == (406, f"PRECONDITION_FAILED - The binding key must {words}"), outcome


@rule
def a_weight_may_be_as_large_as_it_likes(peer):
    if "big-weights" in WITHOUT:
        return
    peer.exchange("hash", "x-consistent-hash")
    names = bound(peer, "hash", ["1", "999999999"])
    for number in range(100):
        peer.send(f"key-{number}", exchange="hash")
    assert spread(peer, names, 100) == [0, 100]


@rule
def chance_gives_each_message_to_one_queue(peer):
    for kind in ("x-random", "x-local-random"):
        if kind == "x-local-random" and "local-random" in WITHOUT:
            continue
        peer.exchange("dice", kind)
        names = bound(peer, "dice", ["", "ignored"])
        for _ in range(200):
            peer.send("any", exchange="dice", headers={"CC": ["ignored"]})
        counts = spread(peer, names, 200)
        assert sum(counts) == 200 and all(count > 40 for count in counts), counts


@rule
def a_modulus_keeps_a_key_together(peer):
    peer.exchange("shards", "x-modulus-hash")
    names = bound(peer, "shards", ["", "", ""])
    for number in range(300):
        peer.send(f"key-{number % 60}", str(number % 60), exchange="shards")
    counts = spread(peer, names, 300)
    assert sum(counts) == 300 and all(count >= 40 for count in counts), counts
    seen = [{peer.get(name)[2] for _ in range(count)} for name, count in zip(names, counts)]
    assert sum(len(bodies) for bodies in seen) == 60, seen


@rule
def an_exchange_remembers_its_last_messages(peer):
    peer.exchange("past", "x-recent-history", arguments={"x-recent-history-length": 2})
    peer.queue("present")
    peer.channel.queue_bind("present", "past")
    for body in "abc":
        peer.send("k" + body, body, exchange="past", headers={"BCC": ["nobody"], "mine": body})
    peer.send("kd", "d", exchange="past", headers={"x-recent-history-no-store": True})
    assert peer.bodies("present", 4) == ["a", "b", "c", "d"]
    peer.queue("late")
    peer.channel.queue_bind("late", "past", "any")
    for body in "bc":
        method, properties, got = peer.get("late")
        assert (got, method.exchange, method.routing_key) == (body, "past", "k" + body)
        assert not method.redelivered and properties.headers == {"mine": body}
    # The same binding again is no new one; another one is.
    peer.channel.queue_bind("late", "past", "any")
    peer.send("ke", "e", exchange="past")
    assert peer.get("late")[2] == "e"
    peer.channel.queue_bind("late", "past", "other")
    assert peer.bodies("late", 2) == ["c", "e"]
    assert peer.ready("late") == 0


@rule
def an_exchange_bound_to_one_that_remembers_gets_the_past(peer):
    peer.exchange("past", "x-recent-history")
    peer.send("a", "1", exchange="past")
    peer.send("b", "2", exchange="past")
    peer.exchange("next", "direct")
    peer.queue("late")
    peer.channel.queue_bind("late", "next", "b")
    peer.channel.queue_bind("late", "next", "a")
    peer.channel.exchange_bind("next", "past")
    # In which order, RabbitMQ does not say.
    assert sorted(peer.bodies("late", 2)) == ["1", "2"]


@rule
def twenty_messages_are_remembered_if_nobody_says_how_many(peer):
    peer.exchange("past", "x-recent-history")
    for number in range(25):
        peer.send("k", str(number), exchange="past")
    peer.queue("late")
    peer.channel.queue_bind("late", "past")
    peer.until_ready("late", 20)
    assert peer.get("late")[2] == "5"


@rule
def a_length_of_history_is_a_positive_number(peer):
    for length in (0, -1):
        outcome = refused_apart(lambda channel: channel.exchange_declare(
            "odd", "x-recent-history", arguments={"x-recent-history-length": length}))
        words = (f"PRECONDITION_FAILED - Invalid argument {length}, "
                 "'x-recent-history-length' must be a positive integer")
        assert outcome == (406, words), outcome


@rule
def any_of_these_may_be_delayed(peer):
    if "delays" in WITHOUT:
        return
    for kind in ("x-consistent-hash", "x-random", "x-modulus-hash", "x-recent-history"):
        peer.exchange("later", "x-delayed-message", arguments={"x-delayed-type": kind})
        names = bound(peer, "later", ["1", "1"])
        for number in range(20):
            peer.send(f"k{number}", exchange="later", headers={"x-delay": 200})
        assert sum(peer.ready(name) for name in names) == 0
        copies = 2 if kind == "x-recent-history" else 1
        assert sum(spread(peer, names, 20 * copies)) == 20 * copies, kind
        peer.queue("late")
        peer.channel.queue_bind("late", "later", "1")
        time.sleep(0.1)
        assert peer.ready("late") == (20 if copies == 2 else 0)


@rule
def an_exchange_of_another_type_is_another_exchange(peer):
    peer.exchange("hash", "x-consistent-hash")
    code, text = refused(lambda: peer.channel.exchange_declare("hash", "x-random", durable=True))
    assert code == 406 and "inequivalent arg 'type' for exchange 'hash'" in text, text
    assert "'x-random'" in text and "'x-consistent-hash'" in text, text


@rule
def headers_route_by_what_they_are_called_whatever_they_mean(peer):
    peer.exchange("heads", "headers")
    peer.queue("q")
    wanted = {"tag": "a", "traceparent": "00-1-2-01", "cloudEvents:type": "t"}
    peer.channel.queue_bind("q", "heads", arguments={"x-match": "all", **wanted})
    event = {"cloudEvents:id": "1", "cloudEvents:source": "s", "cloudEvents:specversion": "1.0"}
    peer.send("", "yes", exchange="heads", headers={**wanted, **event})
    peer.send("", "no", exchange="heads", headers={**wanted, **event, "tag": "b"})
    assert peer.get("q")[2] == "yes" and peer.ready("q") == 0


@rule
def an_alternate_takes_only_what_no_key_led_anywhere(peer):
    peer.exchange("rest", "fanout")
    peer.queue("spare")
    peer.channel.queue_bind("spare", "rest")
    peer.exchange("first", "direct", arguments={"alternate-exchange": "rest"})
    peer.queue("q")
    peer.channel.queue_bind("q", "first", "k")
    peer.send("k", "led", exchange="first", headers={"CC": ["nowhere"]})
    peer.send("nowhere", "lost", exchange="first", headers={"CC": ["neither"]})
    assert peer.get("spare")[2] == "lost" and peer.get("q")[2] == "led"
    assert peer.ready("spare") == 0 and peer.ready("q") == 0


@rule
def dead_letters_go_by_the_hidden_keys_too(peer):
    peer.exchange("dlx")
    for name in ("open", "hidden"):
        peer.queue(name)
        peer.channel.queue_bind(name, "dlx", name)
    peer.exchange("in")
    peer.queue("work", message_ttl=50, dead_letter_exchange="dlx")
    peer.channel.queue_bind("work", "in", "open")
    peer.send("open", "both", exchange="in", headers={"BCC": ["hidden"]})
    for name in ("open", "hidden"):
        _, properties, body = peer.get(name)
        assert body == "both" and "BCC" not in properties.headers, name
        assert death(properties)["routing-keys"] == ["open"]


@rule
def a_delay_keeps_the_hidden_keys(peer):
    if "delays" in WITHOUT:
        return
    peer.exchange("later", "x-delayed-message", arguments={"x-delayed-type": "direct"})
    names = bound(peer, "later", ["k", "hidden"])
    peer.send("k", "both", exchange="later", headers={"x-delay": 100, "BCC": ["hidden"]})
    for name in names:
        _, properties, body = peer.get(name)
        assert body == "both" and "BCC" not in properties.headers, name


main()
