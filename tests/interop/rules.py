"""How rules are told and tried: each is a function of a connection, and fails by raising."""

import sys
import time
import traceback

import pika
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

PORT = int(sys.argv[1])
WITHOUT = sys.argv[3].split(",") if len(sys.argv) > 3 else []
WAIT_S = 10
RULES = []


def rule(function):
    RULES.append(function)
    return function


class Peer:
    """A connection with one channel, and the queues to be deleted after the rule."""

    def __init__(self):
        self.connection = pika.BlockingConnection(pika.ConnectionParameters(
            "127.0.0.1", PORT, heartbeat=0, blocked_connection_timeout=WAIT_S))
        self.channel = self.connection.channel()
        self.queues = []
        self.exchanges = []

    def queue(self, name, **arguments):
        self.channel.queue_delete(name)
        arguments = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
        self.channel.queue_declare(name, durable=True, arguments=arguments)
        self.queues.append(name)
        return name

    def exchange(self, name, kind="direct", **options):
        self.channel.exchange_delete(name)
        self.channel.exchange_declare(name, kind, durable=True, **options)
        self.exchanges.append(name)
        return name

    def send(self, key, body="x", exchange="", **properties):
        properties.setdefault("delivery_mode", 2)
        self.channel.basic_publish(exchange, key, body.encode(), pika.BasicProperties(**properties))

    def get(self, queue, wait_s=WAIT_S, auto_ack=True):
        """The next message, waiting for it."""
        deadline = time.monotonic() + wait_s
        while True:
            method, properties, body = self.channel.basic_get(queue, auto_ack=auto_ack)
            if method:
                return method, properties, body.decode()
            if time.monotonic() > deadline:
                return None, None, None
            time.sleep(0.02)

    def bodies(self, queue, count):
        return [self.get(queue)[2] for _ in range(count)]

    def ready(self, queue):
        return self.channel.queue_declare(queue, passive=True).method.message_count

    def until_ready(self, queue, count):
        deadline = time.monotonic() + WAIT_S
        while self.ready(queue) != count:
            assert time.monotonic() < deadline, (queue, self.ready(queue), count)
            time.sleep(0.02)

    def consume(self, queue, into, auto_ack=False, **options):
        def take(channel, method, properties, body):
            into.append((method, properties, body.decode()))
        return self.channel.basic_consume(queue, take, auto_ack=auto_ack, **options)

    def until(self, condition, wait_s=WAIT_S):
        deadline = time.monotonic() + wait_s
        while not condition() and time.monotonic() < deadline:
            self.connection.process_data_events(0.02)
        return condition()

    def close(self):
        if self.connection.is_open:
            if self.channel.is_closed:
                self.channel = self.connection.channel()
            for name in self.queues:
                self.channel.queue_delete(name)
            for name in self.exchanges:
                self.channel.exchange_delete(name)
            self.connection.close()


def refused(call):
    """The code with which the server closed the channel or the connection."""
    try:
        call()
    except (ChannelClosedByBroker, ConnectionClosedByBroker) as closed:
        return closed.reply_code, closed.reply_text
    return None, None


def refused_apart(call):
    """The same, on a connection of its own, whose channel `call` gets."""
    peer = Peer()
    try:
        return refused(lambda: call(peer.channel))
    finally:
        if peer.connection.is_open:
            peer.connection.close()


def death(properties, at=0):
    entry = dict(properties.headers["x-death"][at])
    moment = entry.pop("time")
    assert abs(moment.timestamp() - time.time()) < 60, moment
    return entry


def main():
    failed = 0
    for check in RULES:
        peer = Peer()
        try:
            check(peer)
            print(f"ok      {check.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {check.__name__}\n{traceback.format_exc()}", flush=True)
        finally:
            try:
                peer.close()
            except Exception as error:
                print(f"        and its clean-up: {error!r}", flush=True)
    print(f"{len(RULES) - failed} of {len(RULES)} rules hold", flush=True)
    sys.exit(1 if failed else 0)

