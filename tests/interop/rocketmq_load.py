"""RocketMQ's part of the crash test: publishers that never give up, and a reader of everything.

`publish TOPIC COUNT` sends numbered messages from COUNT threads, each waiting for its receipt and
sending the same message again until it has one; a line on stdin starts them, another stops them.
`read TOPIC GROUP` prints what a group gets.
"""

import json
import os
import sys
import threading
import time

from rocketmq import (ClientConfiguration, Credentials, FilterExpression, Message, Producer,
                      SimpleConsumer)

PORTS = json.loads(os.environ["MAINSTEM_PORTS"])
RETRY_S = 0.05
PACE_S = 0.005

out_lock = threading.Lock()


def emit(event, **fields):
    line = json.dumps({"event": event, **fields})
    with out_lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def configuration():
    return ClientConfiguration(f"127.0.0.1:{PORTS['rocketmq']}", Credentials())


def publish(topic, count):
    producer = Producer(configuration(), (topic,))
    producer.startup()
    stop = threading.Event()

    def run(name):
        number = 0
        while not stop.is_set():
            message = Message()
            message.topic = topic
            message.tag = name
            message.body = f"{name}:{number}".encode()
            try:
                producer.send(message)
            except Exception:  # the server is down: that is what the test is about
                time.sleep(RETRY_S)
                continue
            emit("confirmed", publisher=name, number=number)
            number += 1
            time.sleep(PACE_S)

    emit("ready")
    sys.stdin.readline()
    threads = [threading.Thread(target=run, args=(f"rocketmq-{i}",)) for i in range(count)]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    emit("stopped")
    sys.stdin.readline()


def read(topic, group):
    consumer = SimpleConsumer(configuration(), group, {topic: FilterExpression()}, await_duration=2)
    consumer.startup()
    emit("ready")
    while True:
        messages = consumer.receive(32, 60) or []
        for message in messages:
            consumer.ack(message)
        emit("got", bodies=[message.body.decode() for message in messages])


arguments = json.loads(sys.stdin.readline())
if arguments[0] == "publish":
    publish(arguments[1], int(arguments[2]))
else:
    read(arguments[1], arguments[2])
# Libraries with threads of their own may refuse to end; the test is over.
os._exit(0)
