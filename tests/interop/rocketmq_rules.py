"""What RocketMQ's own client may expect: delays, recall, transactions, dead letters.

Run as `rocketmq_rules.py PORT`. Ends with 0 when every rule held, and says each.
"""

import sys
import threading
import time

from rocketmq import (ClientConfiguration, Credentials, FilterExpression, Message, Producer,
                      SimpleConsumer, TransactionChecker, TransactionResolution)

ADDRESS = f"127.0.0.1:{sys.argv[1]}"
DELAY_S = 2
# The server asks after 6 s, and looks every second.
ASKED_WITHIN_S = 20
ATTEMPTS = 17
INVISIBLE_S = 30


def configuration():
    return ClientConfiguration(ADDRESS, Credentials())


def message(topic, body, delivery_timestamp=None):
    made = Message()
    made.topic = topic
    made.body = body.encode()
    if delivery_timestamp is not None:
        made.delivery_timestamp = delivery_timestamp
    return made


def producer(topic, checker=None):
    made = Producer(configuration(), (topic,), checker)
    made.startup()
    return made


class Reader:
    def __init__(self, topic, group):
        self.consumer = SimpleConsumer(
            configuration(), group, {topic: FilterExpression()}, await_duration=1)
        self.consumer.startup()

    def receive(self, within_s):
        """The first message within some time, unacknowledged."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            for found in self.consumer.receive(1, INVISIBLE_S) or []:
                return found
        return None

    def body(self, within_s):
        found = self.receive(within_s)
        if found is not None:
            self.consumer.ack(found)
        return found and found.body.decode()


def delays():
    writer, reader = producer("timed"), Reader("timed", "timed-group")
    due = int(time.time()) + DELAY_S
    kept = writer.send(message("timed", "kept", due))
    gone = writer.send(message("timed", "gone", due))
    assert kept.recall_handle and gone.recall_handle, "a delayed message has a recall handle"
    assert writer.recall_message("timed", gone.recall_handle), "recalling answers the message's id"
    assert writer.send(message("timed", "now")).recall_handle is None
    assert reader.body(5) == "now"
    assert reader.body(10) == "kept"
    assert time.time() >= due, "it came before its time"
    assert reader.body(2) is None, "a recalled message came"
    try:
        writer.recall_message("timed", kept.recall_handle)
    except Exception:
        return
    raise AssertionError("a message was recalled that had been delivered")


class Checker(TransactionChecker):
    def __init__(self):
        self.asked = []
        self.was_asked = threading.Event()

    def check(self, about):
        self.asked.append(about.body.decode())
        self.was_asked.set()
        return TransactionResolution.COMMIT


def transactions():
    checker = Checker()
    writer, reader = producer("paid", checker), Reader("paid", "paid-group")
    ends = {"committed": lambda each: each.commit(), "rolled-back": lambda each: each.rollback(),
            "forgotten": lambda each: None}
    for body, end in ends.items():
        transaction = writer.begin_transaction()
        receipt = writer.send(message("paid", body), transaction)
        assert receipt.transaction_id == receipt.message_id
        end(transaction)
    assert reader.body(5) == "committed"
    assert reader.body(2) is None, "what is not committed came"
    assert checker.was_asked.wait(ASKED_WITHIN_S), "nobody asked about the forgotten one"
    assert checker.asked == ["forgotten"], checker.asked
    assert reader.body(5) == "forgotten"


def dead_letters():
    writer, reader = producer("poison"), Reader("poison", "poisoned")
    sent = writer.send(message("poison", "deadly"))
    for attempt in range(1, ATTEMPTS + 1):
        found = reader.receive(5)
        assert found is not None, f"attempt {attempt} did not come"
        assert found.delivery_attempt == attempt, (found.delivery_attempt, attempt)
        reader.consumer.change_invisible_duration(found, 0)
    assert reader.body(2) is None, "it came once too often"
    dead = Reader("%DLQ%poisoned", "undertaker").receive(5)
    assert dead is not None, "it is not among the dead letters"
    assert (dead.body, dead.message_id) == (b"deadly", sent.message_id)


for rule in (delays, transactions, dead_letters):
    rule()
    print(f"{rule.__name__}: held", flush=True)
