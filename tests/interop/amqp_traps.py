"""What careless servers get wrong, asked with raw frames: each rule is what RabbitMQ does.

Run as `amqp_traps.py PORT`: it holds for RabbitMQ as for Mainstem. `--without NAME,NAME` leaves out
what RabbitMQ does otherwise: `v4` (before 4.1, what is negotiated), `end` (after close-ok it leaves
the ending of the socket to a client that goes on sending), `order` (a consumer of another channel may hear of
its queue's end after who deleted it). Prints one line for each rule; fails if one does not hold. The rules are tried all at once, since many of them wait.
"""

import struct
import sys
import threading
import time
import traceback

from raw import (BODY, CONTENT, DURABLE, EXCLUSIVE, HEADER, HEARTBEAT, METHOD, PASSIVE, Raw, frame,
                 long, short, table)
from rules import RULES, WITHOUT, rule


@rule
def a_wrong_header_is_answered_with_the_right_one():
    for wrong in (b"AMQP\x00\x00\x08\x00", b"GET / HT"):
        raw = Raw(wrong)
        assert raw.exactly(8) == HEADER and raw.ends()
    Raw(b"AMQP\x01\x01\x00\x09").expect(10, 10)


@rule
def who_may_not_log_in_is_told_or_left_waiting():
    raw = Raw()
    raw.start_ok(response=b"\0guest\0wrong", authentication_failure_close=True)
    code, text = raw.closed()
    assert code == 403 and text.startswith(
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"), text
    for mechanism in ("PLAIN", "SCRAM-SHA-1"):
        raw, begun = Raw(), time.monotonic()
        raw.start_ok(mechanism, b"\0guest\0wrong")
        assert raw.ends() and time.monotonic() - begun > 0.9


@rule
def channel_max_counts_open_channels():
    raw = Raw().opened(channels=(3, 900), channel_max=2)
    raw.method(7, 20, 10, b"\0")
    code, text = raw.closed()
    assert code == 530 and "(2) has reached the negotiated channel_max (2)" in text, text


@rule
def a_tune_above_ours_is_refused():
    for wrong in ({"channel_max": 0}, {"frame_max": 0}, {"frame_max": 1 << 20}, {"channel_max": 65535}):
        raw = Raw().open(**wrong)
        if "v4" in WITHOUT:
            assert raw.ends()
        else:
            code, text = raw.closed()
            assert code == 530 and "is higher than the maximum allowed value" in text, text


@rule
def no_such_vhost_and_no_such_method():
    code, text = Raw().open(vhost="nope").closed()
    assert (code, text) == (530, "NOT_ALLOWED - vhost nope not found"), text
    raw = Raw().opened()
    raw.method(1, 50, 99, bytes(9))
    assert raw.ends()


@rule
def heartbeats_come_and_silence_ends_the_connection():
    raw, begun = Raw().opened(heartbeat=1), time.monotonic()
    kind, channel, payload = raw.frame()
    assert (kind, channel, payload) == (HEARTBEAT, 0, b"") and time.monotonic() - begun < 1.5
    assert raw.ends(6) and 1.5 < time.monotonic() - begun < 5, time.monotonic() - begun
    raw = Raw().opened()
    raw.send(HEARTBEAT, 1, b"")
    assert raw.closed()[0] in (501, 505)


@rule
def frames_that_are_none_end_the_connection():
    def ending(data):
        raw = Raw().opened(frame_max=8192)
        raw.socket.sendall(data)
        return raw.closed()[0]
    assert ending(frame(BODY, 1, bytes(9000))) == 501
    assert ending(frame(METHOD, 1, struct.pack(">HH", 60, 10) + bytes(7))[:-1] + b"\0") == 501
    assert ending(frame(5, 1, b"")) == 501
    assert ending(frame(METHOD, 1, struct.pack(">HH", 50, 10))) in (501, 502)
    assert ending(frame(CONTENT, 1, struct.pack(">HHQ", 60, 0, 1) + b"\0\0")) == 505
    publish = frame(METHOD, 1, struct.pack(">HH", 60, 40) + b"\0\0\0\0\0")
    assert ending(publish + frame(METHOD, 1, struct.pack(">HH", 60, 10) + bytes(7))) == 505


@rule
def bodies_are_split_at_the_agreed_frame_size():
    raw = Raw().opened(frame_max=8192)
    queue, *_ = raw.declared(flags=EXCLUSIVE)
    raw.method(1, 60, 40, b"\0\0\0" + short(queue) + b"\0")
    raw.send(CONTENT, 1, struct.pack(">HHQ", 60, 0, 20000) + b"\0\0")
    for size in (1, 8184, 8184, 3631):
        raw.send(BODY, 1, bytes(size))
    raw.publish(queue, b"")
    raw.consume(queue, "", flags=2)
    raw.expect(60, 21)
    assert raw.delivery()[2] == [8184, 8184, 3632]
    assert raw.delivery()[2] == []


@rule
def hard_errors():
    def ending(class_id, method_id, arguments=b"", before=()):
        raw = Raw().opened()
        for channel, *method in before:
            raw.method(channel, *method)
        raw.method(1, class_id, method_id, arguments)
        return raw.closed()[0]
    assert ending(60, 10, struct.pack(">IHB", 1, 0, 0)) == 540
    assert ending(20, 20, b"\0") == 540
    assert ending(60, 110, b"\0") == 540
    assert ending(20, 10, b"\0") == 504
    raw = Raw().opened()
    raw.method(9, 60, 10, bytes(7))
    assert raw.closed()[0] == 504
    raw = Raw().opened()
    queue, *_ = raw.declared(flags=EXCLUSIVE)
    raw.consume(queue, "twice")
    raw.expect(60, 21)
    raw.consume(queue, "twice")
    assert raw.closed()[0] == 530
    raw = Raw().opened()
    raw.publish("x", flags=2)
    assert raw.closed()[0] == 540


@rule
def a_closed_channel_is_silent_and_its_number_free():
    raw = Raw().opened()
    raw.declare("nope", PASSIVE)
    assert raw.closed(20, 40)[0] == 404
    raw.declare("ignored", EXCLUSIVE)
    raw.method(1, 20, 41)
    raw.method(1, 20, 10, b"\0")
    raw.expect(20, 11, 1)
    raw.method(1, 20, 40, struct.pack(">H", 200) + short("bye") + bytes(4))
    raw.method(1, 20, 10, b"\0")
    raw.expect(20, 41, 1)
    raw.expect(20, 11, 1)


@rule
def passive_declares_and_names():
    raw = Raw().opened()
    name, *_ = raw.declared(flags=EXCLUSIVE)
    assert name.startswith("amq.gen-") and len(name) == 30, name
    assert raw.declared(name, PASSIVE | DURABLE, table(x_max_length=1))[0] == name
    other = Raw().opened()
    other.declare(name, PASSIVE)
    assert other.closed(20, 40)[0] == 405
    raw.declare("amq.mine", EXCLUSIVE)
    assert raw.closed(20, 40)[0] == 403


@rule
def what_is_compared_and_how_it_is_said():
    raw = Raw().opened()
    raw.declared("compared", EXCLUSIVE, table(x_max_length=3))
    raw.declared("compared", EXCLUSIVE, table(x_max_length=3, x_foo=1))
    raw.declare("compared", EXCLUSIVE, table(x_max_length=4))
    code, text = raw.closed(20, 40)
    assert code == 406 and text == (
        "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'compared' in vhost '/': "
        "received '4' but current is '3'"), text


@rule
def deleting_what_is_not_there_is_fine():
    raw = Raw().opened()
    raw.method(1, 50, 40, b"\0\0" + short("nope") + b"\0")
    assert raw.expect(50, 41) == bytes(4)
    raw.method(1, 40, 20, b"\0\0" + short("nope") + b"\0")
    raw.expect(40, 21)
    raw.method(1, 50, 30, b"\0\0" + short("nope") + b"\0")
    assert raw.closed(20, 40)[0] == 404


@rule
def cancelling_keeps_what_is_in_hand_and_recovering_gives_it_back():
    raw = Raw().opened()
    queue, *_ = raw.declared(flags=EXCLUSIVE)
    raw.publish(queue)
    raw.consume(queue, "c")
    raw.expect(60, 21)
    tag, again, _ = raw.delivery()
    assert not again
    raw.method(1, 60, 30, short("c") + b"\0")
    raw.expect(60, 31)
    assert raw.declared(queue, PASSIVE)[1:] == (0, 0)
    raw.method(1, 60, 110, b"\1")
    raw.expect(60, 111)
    assert raw.declared(queue, PASSIVE)[1:] == (1, 0)
    raw.consume(queue, "d")
    raw.expect(60, 21)
    assert raw.delivery()[1]


@rule
def a_return_comes_before_its_confirm():
    raw = Raw().opened()
    raw.method(1, 85, 10, b"\0")
    raw.expect(85, 11)
    raw.publish("nowhere", flags=1)
    raw.expect(60, 50)
    assert raw.frame()[0] == CONTENT and raw.frame()[0] == BODY
    assert struct.unpack(">QB", raw.expect(60, 80))[0] == 1


@rule
def who_loses_its_queue_is_told():
    raw = Raw().opened(channels=(1, 2), consumer_cancel_notify=True)
    queue, *_ = raw.declared(flags=EXCLUSIVE)
    raw.consume(queue, "told", channel=2)
    raw.expect(60, 21, 2)
    raw.method(1, 50, 40, b"\0\0" + short(queue) + b"\0")
    told = [(channel, *struct.unpack(">HH", payload[:4]))
            for _, channel, payload in (raw.frame(), raw.frame())]
    if "order" in WITHOUT:
        told.sort(reverse=True)
    assert told == [(2, 60, 30), (1, 50, 41)], told
    raw.method(1, 60, 30, short("unknown") + b"\0")
    raw.expect(60, 31)


@rule
def auto_delete_waits_for_a_first_consumer():
    raw = Raw().opened()
    raw.declared("brief", 8)
    raw.declared("brief", PASSIVE)
    raw.consume("brief", "c")
    raw.expect(60, 21)
    raw.method(1, 60, 30, short("c") + b"\0")
    raw.expect(60, 31)
    raw.declare("brief", PASSIVE)
    assert raw.closed(20, 40)[0] == 404


@rule
def exclusive_queues_end_with_the_connection():
    raw = Raw().opened()
    queue, *_ = raw.declared("mine", EXCLUSIVE)
    raw.method(1, 20, 40, struct.pack(">H", 200) + short("") + bytes(4))
    raw.expect(20, 41)
    raw.method(1, 20, 10, b"\0")
    raw.expect(20, 11)
    raw.declared(queue, PASSIVE)
    raw.method(0, 10, 50, struct.pack(">H", 200) + short("") + bytes(4))
    raw.expect(10, 51)
    other = Raw().opened()
    other.declare(queue, PASSIVE)
    assert other.closed(20, 40)[0] == 404


@rule
def what_was_published_counts_before_the_close():
    raw = Raw().opened()
    raw.declared("counted", 8)
    raw.method(1, 85, 10, b"\0")
    raw.expect(85, 11)
    for _ in range(50):
        raw.publish("counted")
    raw.method(0, 10, 50, struct.pack(">H", 200) + short("") + bytes(4))
    raw.publish("counted")
    while struct.unpack(">HH", raw.frame()[2][:4]) != (10, 51):
        pass
    assert "end" in WITHOUT or raw.ends()
    other = Raw().opened()
    assert other.declared("counted", PASSIVE)[1] == 50
    other.method(1, 50, 40, b"\0\0" + short("counted") + b"\0")
    other.expect(50, 41)


@rule
def a_new_secret_is_taken():
    raw = Raw().opened()
    raw.method(0, 10, 70, long(b"new") + short("why"))
    raw.expect(10, 71, 0)


@rule
def content_of_one_channel_stays_together():
    raw = Raw().opened(channels=(1, 2), frame_max=4096 if "v4" in WITHOUT else 8192)
    queues = [raw.declared(flags=EXCLUSIVE, channel=channel)[0] for channel in (1, 2)]
    for channel, queue in zip((1, 2), queues):
        raw.consume(queue, f"c{channel}", flags=2, channel=channel)
        raw.expect(60, 21)
    for _ in range(20):
        for channel, queue in zip((1, 2), queues):
            raw.method(channel, 60, 40, b"\0\0\0" + short(queue) + b"\0")
            raw.send(CONTENT, channel, struct.pack(">HHQ", 60, 0, 9000) + b"\0\0")
            for size in (4000, 4000, 1000):
                raw.send(BODY, channel, bytes(size))
        raw.method(1, 60, 10, bytes(7))
    missing, answers, whole = {1: 0, 2: 0}, 0, 0
    while whole < 40 or answers < 20:
        kind, channel, payload = raw.frame()
        if kind == METHOD:
            assert missing[channel] == 0, "a method inside a content"
            if payload[:4] == struct.pack(">HH", 60, 11):
                answers += 1
            else:
                missing[channel] = None
        elif kind == CONTENT:
            missing[channel] = struct.unpack(">Q", payload[4:12])[0]
        else:
            missing[channel] -= len(payload)
            whole += missing[channel] == 0


def main():
    failed = []
    outcomes = {}

    def try_one(function):
        try:
            function()
            outcomes[function] = None
        except Exception:
            outcomes[function] = traceback.format_exc()
    threads = [threading.Thread(target=try_one, args=(function,)) for function in RULES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for function in RULES:
        print("ok  " if outcomes[function] is None else "FAIL", function.__name__)
        if outcomes[function]:
            print(outcomes[function])
            failed.append(function.__name__)
    print(f"{len(RULES) - len(failed)} of {len(RULES)} hold")
    sys.exit(bool(failed))


main()
