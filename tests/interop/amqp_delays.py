"""Delayed messages through a kill: none early, none lost, and how late.

Run as `amqp_delays.py SERVER DATA_DIR [COUNT [DELAY_MS [LATE_MS]]]`: starts the mainstem at SERVER
itself, and kills it when half the delay has passed. 10,000 messages with delays up to 10 s unless said
otherwise. Lateness counts for those due after the restart has ended, as on a quiet server: at least
99 of 100 come within LATE_MS (100).
"""

import random
import signal
import subprocess
import sys
import time

import pika

SERVER, DATA = sys.argv[1], sys.argv[2]
COUNT = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
DELAY_MS = int(sys.argv[4]) if len(sys.argv) > 4 else 10_000
LATE_MS = int(sys.argv[5]) if len(sys.argv) > 5 else 100


def start():
    sets = {"data_dir": DATA, **{f"listeners.{name}.bind": "127.0.0.1:0"
                                 for name in ("amqp", "mqtt", "rocketmq", "http")}}
    process = subprocess.Popen(
        [SERVER, "serve", *(part for pair in sets.items() for part in ("--set", "=".join(pair)))],
        stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("AMQP 0-9-1"):
            port = int(line.rsplit(":", 1)[1])
        if line.startswith("ready"):
            return process, port
    sys.exit("the server did not start")


def channel_to(port):
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port, heartbeat=0))
    return connection, connection.channel()


def main():
    process, port = start()
    connection, channel = channel_to(port)
    channel.exchange_declare("delays", "x-delayed-message", durable=True,
                             arguments={"x-delayed-type": "direct"})
    channel.queue_declare("delayed", durable=True)
    channel.queue_bind("delayed", "delays", "k")
    due = {}
    for number in range(COUNT):
        delay = random.randrange(DELAY_MS)
        properties = pika.BasicProperties(delivery_mode=2, headers={"x-delay": delay})
        # Counted from before the server has it: it can only come later.
        due[number] = time.time() + delay / 1000
        channel.basic_publish("delays", "k", str(number).encode(), properties)
        if number % 1000 == 999:
            # Answered when what was published before is kept.
            channel.queue_declare("delayed", passive=True)
    channel.queue_declare("delayed", passive=True)
    published = time.time()
    time.sleep(DELAY_MS / 2000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process, port = start()
    # What fell due meanwhile is read first.
    restarted = time.time() + 1 + COUNT / 10_000
    connection, channel = channel_to(port)
    came, early, late, copies = set(), 0, [], 0
    until = published + DELAY_MS / 1000 + 30
    for method, _, body in channel.consume("delayed", inactivity_timeout=1):
        now = time.time()
        if method:
            number = int(body)
            copies += 1
            came.add(number)
            early += now < due[number]
            if due[number] > restarted:
                late.append(now - due[number])
            channel.basic_ack(method.delivery_tag)
        if len(came) == COUNT or now > until:
            break
    process.terminate()
    process.wait(30)
    assert late, "nothing fell due after the restart: DELAY_MS is too short"
    late.sort()
    p50, p99 = (late[int(len(late) * part)] * 1000 for part in (0.5, 0.99))
    print(f"{COUNT} messages: {COUNT - len(came)} lost, {early} early, {copies - len(came)} twice; "
          f"of {len(late)} due after the restart p50 {p50:.0f} ms late, p99 {p99:.0f} ms")
    assert len(came) == COUNT and early == 0
    assert p99 <= LATE_MS, p99


main()
