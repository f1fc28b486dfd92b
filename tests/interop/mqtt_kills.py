"""MQTT through kills: what was acknowledged is there, and QoS 2 is never there twice.

Run as `mqtt_kills.py SERVER DATA_DIR [KILLS]`: starts the server itself (5 kills unless said
otherwise), a mainstem, or for comparison a mosquitto that keeps its data. Three publishers, each a
client of paho with a session of its own, go on over the kills: QoS 1, QoS 2, and retained messages
of QoS 1. A session that was away all the time then reads what was owed to it.
"""

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MessageState

SERVER, DATA = sys.argv[1], Path(sys.argv[2])
KILLS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
IS_MOSQUITTO = Path(SERVER).name == "mosquitto"
HOST = "127.0.0.1"
START_S = 30
# In flight of each publisher.
WINDOW = 40
RETAINED_TOPICS = 50
LIFE_S = (0.3, 1.2)
QUIET_S = 3


def free_port():
    with socket.socket() as any_socket:
        any_socket.bind((HOST, 0))
        return any_socket.getsockname()[1]


PORT = free_port()


def command():
    if IS_MOSQUITTO:
        settings = DATA / "mosquitto.conf"
        settings.write_text(f"listener {PORT} {HOST}\nallow_anonymous true\npersistence true\n"
                            f"persistence_location {DATA}/\nmax_queued_messages 0\nuser root\n")
        return [SERVER, "-c", settings]
    sets = {"data_dir": DATA / "data", "listeners.mqtt.bind": f"{HOST}:{PORT}",
            **{f"listeners.{name}.bind": f"{HOST}:0" for name in ("amqp", "rocketmq", "http")}}
    return [SERVER, "serve", *(part for name, value in sets.items()
                               for part in ("--set", f"{name}={value}"))]


def start():
    process = subprocess.Popen(command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((HOST, PORT), 1).close()
            return process
        except OSError:
            time.sleep(0.02)
    process.kill()
    sys.exit("the server did not start")


class Client(mqtt.Client):
    """One that remembers what was received: with the second try to connect paho forgets it, and
    publishes the message anew instead of releasing it."""

    def _messages_reconnect_reset_out(self):
        received = [message for message in self._out_messages.values()
                    if message.state == MessageState.MQTT_MS_RESEND_PUBREL]
        super()._messages_reconnect_reset_out()
        for message in received:
            message.state = MessageState.MQTT_MS_RESEND_PUBREL


def client(name):
    made = Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
    made.reconnect_delay_set(0.05, 0.2)
    made.max_inflight_messages_set(WINDOW)
    return made


class Publisher:
    """Numbers its messages, and knows which were acknowledged."""

    def __init__(self, name, qos, topics, retain):
        self.name, self.qos, self.topics, self.retain = name, qos, topics, retain
        self.sent, self.acknowledged, self.numbers = 0, set(), {}
        # Told by the client's own thread, which holds a lock that publishing needs.
        self.told, self.stop = deque(), False
        self.client = client(name)
        self.client.on_publish = lambda _client, _data, mid, *_rest: self.told.append(mid)
        self.client.connect(HOST, PORT)
        self.client.loop_start()
        # Of no importance where something else failed.
        self.thread = threading.Thread(target=self.go_on, daemon=True)
        self.thread.start()

    def look(self):
        while self.told:
            self.acknowledged.add(self.numbers.pop(self.told.popleft()))

    def go_on(self):
        while not self.stop:
            time.sleep(0.0005)
            if len(self.numbers) < WINDOW:
                topic = f"{self.name}/{self.sent % self.topics}"
                mid = self.client.publish(topic, str(self.sent), self.qos, self.retain).mid
                self.numbers[mid] = self.sent
                self.sent += 1
            self.look()

    def end(self):
        """Whether all that it sent was acknowledged in the end."""
        self.stop = True
        self.thread.join()
        deadline = time.monotonic() + START_S
        while self.numbers and time.monotonic() < deadline:
            time.sleep(0.01)
            self.look()
        self.client.disconnect()
        self.client.loop_stop()
        return not self.numbers


def read(name, filters, is_persistent, is_all):
    """What comes until it is all, and nothing more has come for a while, as pairs of topic and
    number."""
    came, last = [], [time.monotonic()]
    deadline = last[0] + START_S
    reader = client(name) if is_persistent else mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id=name)

    def on_message(_client, _data, message):
        came.append((message.topic, int(message.payload)))
        last[0] = time.monotonic()

    reader.on_message = on_message
    if not is_persistent:
        reader.on_connect = lambda *_: reader.subscribe([(one, 1) for one in filters])
    reader.connect(HOST, PORT)
    reader.loop_start()
    while (now := time.monotonic()) < deadline and not (
            now - last[0] > QUIET_S and is_all(came)):
        time.sleep(0.1)
    reader.disconnect()
    reader.loop_stop()
    return came


def leave_a_session(name):
    granted = threading.Event()
    reader = client(name)
    reader.on_subscribe = lambda *_: granted.set()
    reader.connect(HOST, PORT)
    reader.loop_start()
    reader.subscribe([("one/#", 1), ("two/#", 2)])
    assert granted.wait(START_S), "not subscribed"
    reader.disconnect()
    reader.loop_stop()


def main():
    process = start()
    leave_a_session("away")
    one = Publisher("one", 1, 3, False)
    two = Publisher("two", 2, 3, False)
    kept = Publisher("kept", 1, RETAINED_TOPICS, True)
    everybody = (one, two, kept)
    for _ in range(KILLS):
        time.sleep(random.uniform(*LIFE_S))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start()
    # The last kill is followed by reading alone, with nothing in flight: what is looked for was
    # acknowledged before it.
    time.sleep(LIFE_S[1])
    ended = [publisher.end() for publisher in everybody]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process = start()
    owed = {(publisher.name, number) for publisher in (one, two)
            for number in publisher.acknowledged}
    came = read("away", [], True, lambda came: owed <= {
        (topic.partition("/")[0], number) for topic, number in came})
    topics = {f"kept/{number % RETAINED_TOPICS}" for number in kept.acknowledged}
    retained = dict(read("looker", ["kept/#"], False,
                         lambda came: topics <= {topic for topic, _ in came}))
    process.terminate()
    process.wait()
    judge(everybody, ended, came, retained)


def judge(everybody, ended, came, retained):
    one, two, kept = everybody
    findings = [f"{publisher.name} was not acknowledged at last"
                for publisher, done in zip(everybody, ended) if not done]
    numbers = {name: [number for topic, number in came if topic.startswith(name)]
               for name in ("one/", "two/")}
    lost = {publisher.name: publisher.acknowledged - set(numbers[f"{publisher.name}/"])
            for publisher in (one, two)}
    doubled = [number for number, count in Counter(numbers["two/"]).items() if count > 1]
    twice = len(doubled)
    newest = {}
    for number in kept.acknowledged:
        topic = f"kept/{number % RETAINED_TOPICS}"
        newest[topic] = max(newest.get(topic, 0), number)
    behind = [topic for topic, number in newest.items() if retained.get(topic, -1) < number]
    topics = {topic for topic, _ in came if topic.startswith("two/")}
    disorder = sum(later < earlier for topic in topics
                   for earlier, later in pairs(number for its, number in came if its == topic))
    print(f"{KILLS + 1} kills; QoS 1: {len(one.acknowledged)} acknowledged, {len(lost['one'])} lost; "
          f"QoS 2: {len(two.acknowledged)} acknowledged, {len(lost['two'])} lost, {twice} twice, "
          f"{disorder} out of order; retained: {len(kept.acknowledged)} acknowledged, "
          f"{len(behind)} of {len(newest)} topics behind")
    if findings or any(lost.values()) or twice or behind or disorder:
        sys.exit(f"failed {findings}: lost {lost}, twice {doubled}, behind {behind}")


def pairs(numbers):
    numbers = list(numbers)
    return zip(numbers, numbers[1:])


main()
