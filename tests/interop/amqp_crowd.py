"""Many and bad AMQP peers at once: each may hurt its own connection only.

Run as `amqp_crowd.py PORT PID [SIZE]`, where PID is the server's. SIZE 1 is a tenth of the full crowd
(SIZE 10: 2,000 connections that come, do one RPC over an auto-delete reply queue and go; 10,000
channels over 10 connections; 100 peers that do not read; 100 that open and fall silent). Prints times
and the server's memory; fails if a bystander's messages come late or not at all.
"""

import socket
import struct
import sys
import threading
import time

import pika

from raw import METHOD, PORT, Raw, frame

PID = int(sys.argv[2])
SIZE = int(sys.argv[3]) if len(sys.argv) > 3 else 1
LATE_S = 5
BODY_BYTES = 100_000


def resident_mib():
    for line in open(f"/proc/{PID}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024


def connect():
    return pika.BlockingConnection(pika.ConnectionParameters(
        "127.0.0.1", PORT, heartbeat=0, blocked_connection_timeout=30))


class Bystander(threading.Thread):
    """Publishes with confirms and reads back, all the time."""

    def __init__(self):
        super().__init__(daemon=True)
        self.worst, self.rounds, self.failed, self.ends = 0, 0, None, False

    def run(self):
        try:
            connection = connect()
            channel = connection.channel()
            channel.confirm_delivery()
            queue = channel.queue_declare("", exclusive=True).method.queue
            while not self.ends:
                begun = time.monotonic()
                channel.basic_publish("", queue, b"here", pika.BasicProperties(delivery_mode=2))
                assert channel.basic_get(queue, auto_ack=True)[2] == b"here"
                self.worst = max(self.worst, time.monotonic() - begun)
                self.rounds += 1
                time.sleep(0.02)
            connection.close()
        except Exception as error:
            self.failed = error


def rpc_server(ready, ends):
    connection = connect()
    channel = connection.channel()
    channel.queue_declare("crowd-rpc", exclusive=True)
    channel.basic_qos(prefetch_count=100)

    def answer(channel, method, properties, body):
        channel.basic_publish("", properties.reply_to, body)
        channel.basic_ack(method.delivery_tag)
    channel.basic_consume("crowd-rpc", answer)
    ready.set()
    while not ends.is_set():
        connection.process_data_events(0.1)
    connection.close()


def churn(count):
    """Connections that each open a channel, declare a reply queue, do one RPC and leave."""
    ready, ends, done, failed = threading.Event(), threading.Event(), [], []
    server = threading.Thread(target=rpc_server, args=(ready, ends))
    server.start()
    assert ready.wait(30)

    def some(share):
        for number in range(share):
            try:
                connection = connect()
                channel = connection.channel()
                queue = channel.queue_declare("", exclusive=True, auto_delete=True).method.queue
                channel.basic_publish("", "crowd-rpc", str(number).encode(),
                                      pika.BasicProperties(reply_to=queue))
                for _, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=30):
                    assert body == str(number).encode(), body
                    break
                connection.close()
                done.append(1)
            except Exception as error:
                failed.append(repr(error))
    threads = [threading.Thread(target=some, args=(count // 8,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends.set()
    server.join()
    assert not failed, failed[:3]
    return len(done)


def channels(count):
    """Thousands of open channels over a few connections."""
    open_raws = []
    for _ in range(10):
        raw = Raw().opened(channels=())
        numbers = range(1, count // 10 + 1)
        raw.socket.sendall(b"".join(frame(METHOD, number, struct.pack(">HH", 20, 10) + b"\0")
                                    for number in numbers))
        for number in numbers:
            raw.expect(20, 11, number)
        open_raws.append(raw)
    return open_raws


def slow_readers(count):
    """Consumers that never read what they asked for: 20 MB waits for each."""
    filler = connect()
    channel = filler.channel()
    raws = []
    for number in range(count):
        queue = f"crowd-slow-{number}"
        channel.queue_declare(queue, auto_delete=True)
        raw = Raw().opened()
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.consume(queue, "", flags=2)
        raws.append(raw)
        for _ in range(200 // SIZE):
            channel.basic_publish("", queue, bytes(BODY_BYTES))
    filler.close()
    return raws


def main():
    watcher = Bystander()
    watcher.start()
    begun_mib = resident_mib()

    def step(name, work):
        begun = time.monotonic()
        kept = work()
        print(f"{name}: {time.monotonic() - begun:.1f} s, {resident_mib()} MiB resident", flush=True)
        return kept
    print(f"at the start: {begun_mib} MiB resident")
    step(f"churn of {200 * SIZE} connections", lambda: churn(200 * SIZE))
    step(f"{1000 * SIZE} channels", lambda: channels(1000 * SIZE))
    step(f"{10 * SIZE} silent peers", lambda: [socket.create_connection(("127.0.0.1", PORT))
                                               for _ in range(10 * SIZE)])
    raws = step(f"{10 * SIZE} peers that do not read", lambda: slow_readers(10 * SIZE))
    peak = resident_mib()
    for raw in raws:
        raw.socket.close()
    time.sleep(2)
    watcher.ends = True
    watcher.join(30)
    print(f"bystander: {watcher.rounds} rounds, the slowest {watcher.worst * 1000:.0f} ms; "
          f"{resident_mib()} MiB resident at the end")
    assert watcher.failed is None, watcher.failed
    assert watcher.rounds > 10 and watcher.worst < LATE_S, watcher.worst
    assert peak < begun_mib + 400, peak


main()
