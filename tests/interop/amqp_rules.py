"""What queues do to messages besides keeping them in order, as an AMQP client sees it.

Run as `amqp_rules.py PORT`: it holds for RabbitMQ as for Mainstem. `--without NAME,NAME` leaves out
what a server does not have: `delays` (RabbitMQ has them by a plugin), `last-death` (RabbitMQ before
3.13), `negative-limit` (RabbitMQ before 4), `prompt-dead-letters`, `stream-filters`, `retries`,
`name-prefixes`. Prints one line for each rule; fails if one does not hold.
"""

import time

from pika import BasicProperties
from pika.exceptions import NackError

from rules import Peer, WITHOUT, death, main, refused, refused_apart, rule


@rule
def a_rejected_message_goes_to_the_dead_letter_exchange(peer):
    peer.exchange("dlx", "fanout")
    peer.queue("dead")
    peer.channel.queue_bind("dead", "dlx")
    peer.queue("work", dead_letter_exchange="dlx")
    peer.send("work", "gone", headers={"mine": 1})
    method, _, _ = peer.get("work", auto_ack=False)
    peer.channel.basic_reject(method.delivery_tag, requeue=False)
    method, properties, body = peer.get("dead")
    assert (body, method.exchange, method.routing_key) == ("gone", "dlx", "work")
    assert not method.redelivered and properties.headers["mine"] == 1
    assert death(properties) == {
        "count": 1, "reason": "rejected", "queue": "work", "exchange": "", "routing-keys": ["work"]}
    first = {name: properties.headers["x-first-death-" + name] for name in
             ("queue", "reason", "exchange")}
    assert first == {"queue": "work", "reason": "rejected", "exchange": ""}
    if "last-death" not in WITHOUT:
        last = {name: properties.headers["x-last-death-" + name] for name in
                ("queue", "reason", "exchange")}
        assert last == first, last


@rule
def nack_of_many_dead_letters_all_of_them_in_order(peer):
    peer.queue("dead")
    peer.queue("work", dead_letter_exchange="", dead_letter_routing_key="dead")
    for body in "abc":
        peer.send("work", body)
    got = [peer.get("work", auto_ack=False)[0] for _ in range(3)]
    peer.channel.basic_nack(got[-1].delivery_tag, multiple=True, requeue=False)
    assert peer.bodies("dead", 3) == ["a", "b", "c"]


@rule
def requeued_messages_keep_their_place(peer):
    peer.queue("work")
    for body in "abcd":
        peer.send("work", body)
    got = [peer.get("work", auto_ack=False)[0] for _ in range(3)]
    for method in (got[1], got[0], got[2]):
        peer.channel.basic_nack(method.delivery_tag, requeue=True)
    peer.until_ready("work", 4)
    seen = [peer.get("work") for _ in range(4)]
    assert [body for _, _, body in seen] == ["a", "b", "c", "d"]
    assert [method.redelivered for method, _, _ in seen] == [True, True, True, False]


@rule
def an_expired_message_loses_its_expiration_and_says_what_it_was(peer):
    peer.queue("dead")
    peer.queue("wait", dead_letter_exchange="", dead_letter_routing_key="dead")
    # No consumer is there: it expires by itself, at the head.
    peer.send("wait", "late", expiration="100", headers={"CC": ["nobody"]})
    method, properties, body = peer.get("dead")
    assert (body, method.exchange, method.routing_key) == ("late", "", "dead")
    assert properties.expiration is None
    # A dead-letter routing key takes the place of all keys.
    assert "CC" not in properties.headers
    assert death(properties) == {
        "count": 1, "reason": "expired", "queue": "wait", "exchange": "",
        "routing-keys": ["wait", "nobody"], "original-expiration": "100"}


@rule
def a_queues_time_to_live_dead_letters_in_order(peer):
    peer.queue("dead")
    peer.queue("wait", message_ttl=150, dead_letter_exchange="", dead_letter_routing_key="dead")
    begun = time.monotonic()
    for body in "abc":
        peer.send("wait", body)
    assert peer.bodies("dead", 3) == ["a", "b", "c"]
    assert 0.1 < time.monotonic() - begun < 5
    assert peer.ready("wait") == 0


@rule
def further_keys_hold_for_dead_letters_without_a_key_of_their_own(peer):
    peer.exchange("dlx")
    for name in ("dead-1", "dead-2"):
        peer.queue(name)
        peer.channel.queue_bind(name, "dlx", name)
    peer.exchange("in")
    peer.queue("work", message_ttl=50, dead_letter_exchange="dlx")
    peer.channel.queue_bind("work", "in", "dead-1")
    peer.send("dead-1", "both", exchange="in", headers={"CC": ["dead-2"]})
    for name in ("dead-1", "dead-2"):
        method, properties, body = peer.get(name)
        assert (body, method.exchange, method.routing_key) == ("both", "dlx", "dead-1"), name
        assert properties.headers["CC"] == ["dead-2"]
        assert death(properties)["routing-keys"] == ["dead-1", "dead-2"]


@rule
def a_retry_goes_round_by_a_wait_queue_and_counts(peer):
    """The pattern of retries: reject to a wait queue, whose time to live brings it back."""
    peer.queue("work", dead_letter_exchange="", dead_letter_routing_key="wait")
    peer.queue("wait", message_ttl=50, dead_letter_exchange="", dead_letter_routing_key="work")
    peer.send("work", "again", expiration="60000")
    for attempt in range(4):
        method, properties, body = peer.get("work", auto_ack=False)
        assert body == "again" and method.routing_key == "work"
        if attempt:
            counts = [(entry["queue"], entry["reason"], entry["count"])
                      for entry in properties.headers["x-death"]]
            assert counts == [("wait", "expired", attempt), ("work", "rejected", attempt)], counts
            assert properties.headers["x-first-death-queue"] == "work"
            assert properties.headers["x-first-death-reason"] == "rejected"
            assert death(properties, 1)["original-expiration"] == "60000"
            assert "original-expiration" not in death(properties, 0)
            if "last-death" not in WITHOUT:
                assert properties.headers["x-last-death-queue"] == "wait"
        peer.channel.basic_reject(method.delivery_tag, requeue=False)


@rule
def a_circle_without_a_rejection_ends(peer):
    peer.queue("round", message_ttl=50, dead_letter_exchange="", dead_letter_routing_key="round")
    peer.channel.confirm_delivery()
    peer.send("round", "once")
    peer.until_ready("round", 0)
    assert peer.get("round", wait_s=0.4)[0] is None


@rule
def a_full_queue_drops_the_oldest_to_the_dead_letters(peer):
    peer.queue("dead")
    peer.queue("short", max_length=2, dead_letter_exchange="", dead_letter_routing_key="dead")
    for body in "abcd":
        peer.send("short", body)
    peer.until_ready("short", 2)
    assert peer.bodies("short", 2) == ["c", "d"]
    seen = [peer.get("dead") for _ in range(2)]
    assert [body for _, _, body in seen] == ["a", "b"]
    assert death(seen[0][1])["reason"] == "maxlen"


@rule
def a_bound_of_bytes_counts_the_bodies_of_what_is_ready(peer):
    peer.queue("small", max_length_bytes=1000)
    peer.channel.confirm_delivery()
    for number in range(10):
        peer.send("small", str(number) * 100, headers={"not": "counted" * 100})
    assert peer.ready("small") == 10, peer.ready("small")
    peer.send("small", "x" * 100)
    assert peer.ready("small") == 10, peer.ready("small")
    held, _, body = peer.get("small", auto_ack=False)
    assert body[0] == "1", body
    peer.send("small", "y" * 100)
    assert peer.ready("small") == 10, "what is in hand is not counted"
    peer.channel.basic_ack(held.delivery_tag)
    assert [body[0] for body in peer.bodies("small", 10)] == list("23456789xy")


@rule
def a_refusing_queue_nacks_the_confirm(peer):
    peer.queue("full", max_length=1, overflow="reject-publish")
    peer.channel.confirm_delivery()
    outcomes = []
    for body in "abc":
        try:
            peer.send("full", body)
            outcomes.append("ack")
        except NackError:
            outcomes.append("nack")
    # RabbitMQ finds out one message late.
    assert outcomes[0] == "ack" and outcomes[2] == "nack", outcomes
    left = peer.ready("full")
    assert peer.bodies("full", left) == ["a", "b"][:left]


@rule
def a_refusing_queue_drops_silently_without_confirms(peer):
    peer.queue("full", max_length=1, overflow="reject-publish")
    for body in "abcd":
        peer.send("full", body)
    time.sleep(0.2)
    assert peer.channel.is_open and peer.ready("full") <= 2
    assert peer.get("full")[2] == "a"


@rule
def a_refusing_queue_can_dead_letter_what_it_refused(peer):
    peer.queue("dead")
    peer.queue("full", max_length=1, overflow="reject-publish-dlx", dead_letter_exchange="",
               dead_letter_routing_key="dead")
    peer.send("full", "a")
    peer.until_ready("full", 1)
    for body in "bcd":
        peer.send("full", body)
        time.sleep(0.05)
    seen = []
    while (got := peer.get("dead", wait_s=0.5))[0]:
        seen.append(got[2])
        assert death(got[1])["reason"] == "maxlen"
    assert seen[-2:] == ["c", "d"], seen


@rule
def higher_priorities_come_first(peer):
    peer.queue("ranked", max_priority=10)
    for body, priority in (("a", 1), ("b", 5), ("c", None), ("d", 5), ("e", 200), ("f", 10)):
        peer.send("ranked", body, priority=priority)
    peer.until_ready("ranked", 6)
    seen = [peer.get("ranked", auto_ack=False) for _ in range(6)]
    assert [body for _, _, body in seen] == ["e", "f", "b", "d", "a", "c"]
    assert seen[0][1].priority == 200, "the property is the sender's"
    for method, _, _ in seen:
        peer.channel.basic_nack(method.delivery_tag, requeue=True)
    peer.until_ready("ranked", 6)
    assert peer.bodies("ranked", 6) == ["e", "f", "b", "d", "a", "c"]


@rule
def a_message_that_comes_back_too_often_is_dead_lettered(peer):
    peer.queue("dead")
    peer.queue("poison", queue_type="quorum", delivery_limit=2, dead_letter_exchange="",
               dead_letter_routing_key="dead")
    peer.send("poison", "bad")
    counts = []
    for _ in range(3):
        method, properties, _ = peer.get("poison", auto_ack=False)
        counts.append((properties.headers or {}).get("x-delivery-count", 0))
        peer.channel.basic_nack(method.delivery_tag, requeue=True)
    assert counts == [0, 1, 2], counts
    method, properties, body = peer.get("dead")
    assert body == "bad" and death(properties)["reason"] == "delivery_limit"


@rule
def at_least_once_keeps_a_dead_letter_until_a_queue_takes_it(peer):
    peer.exchange("dlx", "fanout")
    peer.queue("work", queue_type="quorum", overflow="reject-publish", dead_letter_exchange="dlx",
               dead_letter_strategy="at-least-once")
    peer.send("work", "kept")
    method, _, _ = peer.get("work", auto_ack=False)
    peer.channel.basic_reject(method.delivery_tag, requeue=False)
    rejected = time.time()
    time.sleep(3)
    peer.queue("dead")
    peer.channel.queue_bind("dead", "dlx")
    # RabbitMQ tries again after three minutes.
    wait_s = 200 if "prompt-dead-letters" in WITHOUT else 10
    method, properties, body = peer.get("dead", wait_s=wait_s)
    assert body == "kept", body
    died, = properties.headers["x-death"]
    assert (died["reason"], died["count"], died["queue"]) == ("rejected", 1, "work")
    assert abs(died["time"].timestamp() - rejected) < 2, "it died when it was rejected"
    assert peer.get("work", wait_s=0.1)[0] is None


@rule
def minus_one_is_no_limit_of_deliveries(peer):
    if "negative-limit" in WITHOUT:
        return
    peer.queue("patient", queue_type="quorum", delivery_limit=-1)
    peer.send("patient", "x")
    for _ in range(25):
        method, _, _ = peer.get("patient", auto_ack=False)
        peer.channel.basic_nack(method.delivery_tag, requeue=True)
    assert peer.get("patient")[2] == "x"


@rule
def a_passive_declaration_without_a_name_finds_nothing(peer):
    peer.queue("named")
    code, text = refused(lambda: peer.channel.queue_declare("", passive=True))
    assert (code, text) == (404, "NOT_FOUND - no queue '' in vhost '/'"), (code, text)


@rule
def a_queue_goes_when_unused(peer):
    peer.channel.queue_declare("brief", durable=True, arguments={"x-expires": 400})
    for _ in range(4):
        time.sleep(0.2)
        peer.channel.basic_get("brief", auto_ack=True)
    time.sleep(1.2)
    code, _ = refused(lambda: peer.channel.queue_declare("brief", passive=True))
    assert code == 404, code


@rule
def a_queue_with_a_consumer_does_not_expire(peer):
    peer.channel.queue_declare("brief", durable=True, arguments={"x-expires": 300})
    tag = peer.consume("brief", [])
    peer.until(lambda: False, 1)
    peer.channel.queue_declare("brief", passive=True)
    peer.channel.basic_cancel(tag)
    time.sleep(1.2)
    code, _ = refused(lambda: peer.channel.queue_declare("brief", passive=True))
    assert code == 404, code


@rule
def one_consumer_is_active_and_the_next_takes_over(peer):
    peer.queue("single", single_active_consumer=True)
    first, second = [], []
    tag = peer.consume("single", first)
    peer.consume("single", second)
    for body in "abc":
        peer.send("single", body)
    assert peer.until(lambda: len(first) == 3), first
    assert not second
    for method, _, _ in first:
        peer.channel.basic_ack(method.delivery_tag)
    peer.channel.basic_cancel(tag)
    peer.send("single", "d")
    assert peer.until(lambda: len(second) == 1)
    code, _ = refused_apart(
        lambda channel: channel.basic_consume("single", print, exclusive=True))
    assert code == 403, code


@rule
def consumers_of_higher_priority_come_first(peer):
    peer.queue("served")
    low, high = [], []
    peer.channel.basic_qos(prefetch_count=2)
    peer.consume("served", low, arguments={"x-priority": -1})
    peer.consume("served", high, arguments={"x-priority": 10})
    for body in "abc":
        peer.send("served", body)
    assert peer.until(lambda: len(high) + len(low) == 3)
    assert [body for _, _, body in high] == ["a", "b"] and low[0][2] == "c"


def stream(peer, count=10, **arguments):
    peer.queue("log", queue_type="stream", **arguments)
    peer.channel.confirm_delivery()
    for number in range(count):
        peer.send("log", str(number))
    return "log"


def read_stream(offset, count, filled=None):
    """What a reader that begins there gets first."""
    peer = Peer()
    peer.channel.basic_qos(prefetch_count=100)
    seen = []
    arguments = {} if offset is None else {"x-stream-offset": offset}
    peer.consume("log", seen, arguments=arguments)
    peer.connection.process_data_events(0.1)
    if filled:
        filled()
    peer.until(lambda: len(seen) >= count)
    peer.connection.close()
    return [(body, properties.headers["x-stream-offset"]) for _, properties, body in seen[:count]]


@rule
def a_stream_is_read_from_where_its_reader_says(peer):
    stream(peer)
    assert read_stream("first", 3) == [("0", 0), ("1", 1), ("2", 2)]
    assert read_stream(7, 3) == [("7", 7), ("8", 8), ("9", 9)]
    assert read_stream("1h", 2) == [("0", 0), ("1", 1)]
    more = lambda: peer.send("log", "new")
    assert read_stream("next", 1, more) == [("new", 10)]
    assert read_stream(None, 1, more) == [("new", 11)]
    # The last chunk of a stream, which may hold more than one message.
    assert read_stream("last", 1)[0][1] >= 10


@rule
def a_stream_keeps_what_was_read_and_acknowledged(peer):
    stream(peer, 5)
    for _ in range(2):
        reader = Peer()
        reader.channel.basic_qos(prefetch_count=2)
        seen = []
        reader.consume("log", seen, arguments={"x-stream-offset": "first"})
        for count in range(1, 6):
            assert reader.until(lambda: len(seen) >= count), (count, len(seen))
            reader.channel.basic_ack(seen[count - 1][0].delivery_tag)
        assert [body for _, _, body in seen] == list("01234")
        reader.connection.close()


@rule
def a_stream_refuses_what_it_cannot_do(peer):
    stream(peer, 1)

    def code(call, prefetch=5):
        def asked(channel):
            if prefetch:
                channel.basic_qos(prefetch_count=prefetch)
            call(channel)
            channel.connection.process_data_events(0.3)
        return refused_apart(asked)[0]
    assert code(lambda channel: channel.basic_get("log")) == 540
    assert code(lambda channel: channel.queue_purge("log")) == 540
    assert code(lambda channel: channel.basic_consume("log", print, auto_ack=True)) == 540
    assert code(lambda channel: channel.basic_consume("log", print), prefetch=0) == 406
    bad = {"x-stream-offset": "1x"}
    assert code(lambda channel: channel.basic_consume("log", print, arguments=bad)) == 406


@rule
def arguments_out_of_range_are_refused_in_these_words(peer):
    for name, value, why in (
            ("x-expires", 0, "{value_zero,0}"),
            ("x-message-ttl", -1, "{value_negative,-1}"),
            ("x-message-ttl", "10000foobar", '"expected integer, got longstr"'),
            ("x-max-length", "a", '"expected integer, got longstr"'),
            ("x-overflow", "nope", "invalid_overflow"),
            ("x-max-priority", 256, "{max_value_exceeded,256}"),
            ("x-single-active-consumer", 1, "{unacceptable_type,signedint}"),
            ("x-queue-mode", "nope", "\"unsupported queue mode 'nope'\""),
            ("x-dead-letter-routing-key", "k", "routing_key_but_no_dlx_defined")):
        expected = f"PRECONDITION_FAILED - invalid arg '{name}' for queue 'odd' in vhost '/': {why}"
        call = lambda channel: channel.queue_declare("odd", arguments={name: value})
        assert refused_apart(call) == (406, expected)


def refused_publish(**properties):
    """How a message with these is refused."""
    def publish(channel):
        channel.basic_publish("", "nowhere", b"x", BasicProperties(**properties))
        channel.basic_qos()
    return refused_apart(publish)


@rule
def a_messages_time_to_live_is_a_number_of_milliseconds(_peer):
    for expiration, why in (("foobar", "no_integer"), ("", "no_integer"),
                            ("10000foobar", '{leftover_string,"foobar"}'),
                            ("-10", "{value_negative,-10}")):
        expected = f"PRECONDITION_FAILED - invalid expiration '{expiration}': {why}"
        assert refused_publish(expiration=expiration) == (406, expected)
    assert refused_publish(expiration="0") == (None, None)


@rule
def further_keys_come_in_a_list(_peer):
    for name in ("CC", "BCC"):
        for wrong in (0, "key", {"key": 1}):
            code, text = refused_publish(headers={name: wrong})
            assert code == 406 and text.startswith("PRECONDITION_FAILED"), (name, wrong, text)
        assert refused_publish(headers={name: ["key", 1]}) == (None, None)


@rule
def other_arguments_than_before_are_refused_in_these_words(peer):
    peer.queue("fixed", max_length=5, dead_letter_exchange="a")
    for arguments, name, words in (
            ({"x-max-length": 6, "x-dead-letter-exchange": "a"}, "x-max-length",
             "received '6' but current is '5'"),
            ({"x-max-length": 5}, "x-dead-letter-exchange",
             "received none but current is the value 'a' of type 'longstr'"),
            ({"x-max-length": 5, "x-dead-letter-exchange": "a", "x-max-priority": 3},
             "x-max-priority",
             "received the value '3' of type 'signedint' but current is none")):
        code, text = refused_apart(lambda channel: channel.queue_declare(
            "fixed", durable=True, arguments=arguments))
        assert (code, text) == (406, f"PRECONDITION_FAILED - inequivalent arg '{name}' for queue "
                                     f"'fixed' in vhost '/': {words}"), text


def delayed(peer):
    peer.exchange("later", "x-delayed-message", arguments={"x-delayed-type": "direct"})
    peer.queue("due")
    peer.channel.queue_bind("due", "later", "k")


@rule
def an_exchange_that_delays_holds_messages_back(peer):
    if "delays" in WITHOUT:
        return
    delayed(peer)
    begun = time.monotonic()
    peer.send("k", "third", exchange="later", headers={"x-delay": 700}, expiration="60000")
    peer.send("k", "second", exchange="later", headers={"x-delay": 300})
    peer.send("k", "first", exchange="later", headers={"x-delay": -5})
    peer.send("k", "first too", exchange="later")
    peer.send("k", "years", exchange="later", headers={"x-delay": 3 * 366 * 86_400_000})
    assert peer.bodies("due", 2) == ["first", "first too"]
    assert time.monotonic() - begun < 0.3
    method, properties, body = peer.get("due")
    assert (body, method.exchange, method.routing_key) == ("second", "later", "k")
    assert properties.headers["x-delay"] == -300
    assert time.monotonic() - begun >= 0.3
    assert peer.get("due")[2] == "third"
    assert 0.7 <= time.monotonic() - begun < 3
    assert peer.get("due", wait_s=0.3)[0] is None


@rule
def a_delay_keeps_further_keys(peer):
    if "delays" in WITHOUT:
        return
    delayed(peer)
    peer.queue("due-too")
    peer.channel.queue_bind("due-too", "later", "k2")
    peer.send("k", "both", exchange="later", headers={"x-delay": 100, "CC": ["k2"]})
    assert peer.get("due")[2] == "both" and peer.get("due-too")[2] == "both"


@rule
def a_delay_is_confirmed_when_it_is_kept(peer):
    if "delays" in WITHOUT:
        return
    delayed(peer)
    peer.channel.confirm_delivery()
    begun = time.monotonic()
    peer.send("k", "x", exchange="later", headers={"x-delay": 2000})
    assert time.monotonic() - begun < 1


@rule
def other_exchanges_do_not_delay(peer):
    peer.queue("now")
    peer.send("now", "x", headers={"x-delay": 60_000})
    _, properties, body = peer.get("now")
    assert body == "x" and properties.headers["x-delay"] == 60_000


@rule
def an_exchange_that_delays_needs_to_know_how_it_routes(peer):
    if "delays" in WITHOUT:
        return
    delayed(peer)
    for arguments, words in (({}, "must be an existing exchange type"),
                             ({"x-delayed-type": "x-delayed-message"}, "can't be used")):
        code, text = refused_apart(lambda channel: channel.exchange_declare(
            "odd", "x-delayed-message", arguments=arguments))
        assert code == 406 and words in text, text
    code, text = refused_apart(
        lambda channel: channel.exchange_declare("later", "direct", durable=True))
    assert code == 406 and "received 'direct' but current is 'x-delayed-message'" in text, text


@rule
def a_reader_of_a_stream_gets_what_its_filter_lets_through(peer):
    """RabbitMQ filters whole chunks and leaves the rest to the client."""
    if "stream-filters" in WITHOUT:
        return
    peer.queue("log", queue_type="stream")
    peer.channel.confirm_delivery()
    for number in range(30):
        region = ("eu", "us", None)[number % 3]
        headers = {"x-stream-filter-value": region} if region else {}
        peer.send("log", f"{region} {number}", headers=headers)
    for arguments, wanted in (
            ({"x-stream-filter": "eu"}, {"eu"}),
            ({"x-stream-filter": ["us", "eu"]}, {"eu", "us"}),
            ({"x-stream-filter": "us", "x-stream-match-unfiltered": True}, {"us", "None"}),
            ({"x-stream-filter": "nobody"}, set())):
        reader = Peer()
        # Fewer than are passed over between two that are wanted.
        reader.channel.basic_qos(prefetch_count=1)
        seen = []
        reader.consume("log", seen, arguments={"x-stream-offset": "first", **arguments})
        for count in range(1, 10 * len(wanted) + 1):
            assert reader.until(lambda: len(seen) >= count), (arguments, len(seen))
            reader.channel.basic_ack(seen[count - 1][0].delivery_tag)
        reader.until(lambda: False, 0.2)
        assert len(seen) == 10 * len(wanted), (arguments, len(seen))
        assert {body.split()[0] for _, _, body in seen} == wanted
        offsets = [properties.headers["x-stream-offset"] for _, properties, _ in seen]
        assert offsets == sorted(offsets) and len(set(offsets)) == len(offsets)
        reader.connection.close()
    peer.queue("plain")
    code, text = refused_apart(lambda channel: channel.basic_consume(
        "plain", print, arguments={"x-stream-filter": "eu"}))
    assert code == 406 and "x-stream-filter" in text, text


@rule
def a_returned_message_rests_longer_each_time(peer):
    if "retries" in WITHOUT:
        return
    peer.queue("work", queue_type="quorum", delayed_retry_type="all", delayed_retry_min=200,
               delayed_retry_max=400)
    peer.send("work", "again")
    for least, most in ((0, 5), (0.2, 5), (0.4, 5), (0.4, 5)):
        begun = time.monotonic()
        method, _, body = peer.get("work", auto_ack=False)
        took = time.monotonic() - begun
        assert body == "again" and least <= took + 0.03 and took < most, (least, took)
        peer.channel.basic_nack(method.delivery_tag, requeue=True)


@rule
def a_server_named_queue_may_ask_for_a_prefix(peer):
    if "name-prefixes" in WITHOUT:
        return
    declare = lambda prefix: peer.channel.queue_declare(
        "", exclusive=True, arguments={"x-name-prefix": prefix}).method.queue
    one, other = declare("reply."), declare("reply.")
    assert one != other and one.startswith("reply.") and len(one) > 20, one
    code, _ = refused(lambda: declare("p" * 65))
    assert code == 406, code


main()
