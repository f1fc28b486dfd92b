"""What RocketMQ's own client may expect of lite topics and of topics of one type.

Run as `rocketmq_lite.py PORT HTTP_PORT`, at a server where the topic `sessions` is of type LITE and `ordered` of
type FIFO. Ends with 0 when every rule held, and says each.
"""

import json
import sys
import threading
import time
import urllib.request

from rocketmq import (ClientConfiguration, ConsumeResult, Credentials, LitePushConsumer,
                      LiteSimpleConsumer, Message, MessageListener, Producer)

ADDRESS = f"127.0.0.1:{sys.argv[1]}"
WITHIN_S = 20
INVISIBLE_S = 30
EACH = 20


def configuration():
    return ClientConfiguration(ADDRESS, Credentials())


def message(topic, body, lite_topic=None, group=None):
    made = Message()
    made.topic = topic
    made.body = body.encode()
    if lite_topic is not None:
        made.lite_topic = lite_topic
    if group is not None:
        made.message_group = group
    return made


def subscribe(reader, lite_topic):
    """The client sends a new name letter by letter (5.1.2); the complete set, as it should."""
    reader.subscribe_lite(lite_topic)
    reader.subscribe_lite_all()


def producer(topic):
    made = Producer(configuration(), (topic,))
    made.startup()
    return made


def refused(send):
    try:
        send()
    except Exception as error:
        return str(error)
    raise AssertionError("a message of another type was taken")


def types():
    lite, ordered = producer("sessions"), producer("ordered")
    refused(lambda: lite.send(message("sessions", "plain")))
    refused(lambda: ordered.send(message("ordered", "lite", lite_topic="x")))
    ordered.send(message("ordered", "in order", group="g"))
    lite.send(message("sessions", "lite", lite_topic="typed"))


class Listener(MessageListener):
    """Keeps what came; fails the first time for bodies that say so."""

    def __init__(self):
        self.came = []
        self.failed = set()
        self.bell = threading.Condition()

    def consume(self, found):
        body = found.body.decode()
        with self.bell:
            if "stumble" in body and body not in self.failed:
                self.failed.add(body)
                return ConsumeResult.FAILURE
            self.came.append((found.lite_topic, body))
            self.bell.notify_all()
        return ConsumeResult.SUCCESS

    def wait_for(self, count):
        with self.bell:
            self.bell.wait_for(lambda: len(self.came) >= count, WITHIN_S)
            return list(self.came)


def pushed():
    writer = producer("sessions")
    readers = []
    for name in ("left", "right"):
        listener = Listener()
        reader = LitePushConsumer(configuration(), "agents", "sessions", listener)
        reader.startup()
        subscribe(reader, name)
        subscribe(reader, f"{name}-too")
        readers.append((name, reader, listener))
    expected = {}
    for number in range(EACH):
        for name in ("left", "left-too", "right", "right-too", "nobody"):
            body = f"{name} {number}" + (" stumble" if number == EACH // 2 else "")
            writer.send(message("sessions", body, lite_topic=name))
            expected.setdefault(name, []).append(body)
    for name, reader, listener in readers:
        came = listener.wait_for(2 * EACH)
        for lite_topic in (name, f"{name}-too"):
            its = [body for at, body in came if at == lite_topic]
            assert its == expected[lite_topic], (lite_topic, its)
        assert len(came) == 2 * EACH, came
        assert len(listener.failed) == 2, listener.failed
    # One that is given up gets nothing, what it had before is read by who takes it.
    name, reader, listener = readers[0]
    reader.unsubscribe_lite("left")
    writer.send(message("sessions", "for another", lite_topic="left"))
    _, other, heard = readers[1]
    subscribe(other, "left")
    came = heard.wait_for(2 * EACH + 1)
    assert came[-1] == ("left", "for another"), came[-1]
    assert len(listener.came) == 2 * EACH, listener.came
    for _, reader, _ in readers:
        reader.shutdown()


def simple():
    writer = producer("sessions")
    reader = LiteSimpleConsumer("sessions", configuration(), "pollers", await_duration=2)
    reader.startup()
    for number in range(EACH):
        subscribe(reader, f"poll-{number}")
        writer.send(message("sessions", f"{number}", lite_topic=f"poll-{number}"))
    came, until = set(), time.monotonic() + WITHIN_S
    while len(came) < EACH and time.monotonic() < until:
        for found in reader.receive(16, INVISIBLE_S) or []:
            came.add((found.lite_topic, found.body.decode()))
            reader.ack(found)
    assert came == {(f"poll-{number}", f"{number}") for number in range(EACH)}, came
    assert not reader.receive(16, INVISIBLE_S)
    reader.shutdown()


def listed():
    at = f"http://127.0.0.1:{sys.argv[2]}/topics/sessions"
    names, after = [], ""
    while True:
        with urllib.request.urlopen(f"{at}?max=7{after}") as answer:
            page = json.load(answer)["names"]
        if not page:
            break
        names += page
        after = f"&after={page[-1]}"
    expected = {"typed", "left", "left-too", "right", "right-too", "nobody"}
    expected |= {f"poll-{number}" for number in range(EACH)}
    assert names == sorted(names, key=lambda name: (len(name), name)), names
    # Letters are the client's.
    assert {name for name in names if len(name) > 1} == expected, names


for rule in (types, pushed, simple, listed):
    rule()
    print(f"{rule.__name__}: held", flush=True)
