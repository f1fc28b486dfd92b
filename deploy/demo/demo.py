"""A device publishes temperatures over MQTT; an AMQP service and a RocketMQ job read the same ones.

usage: demo.py SERVER_BINARY        starts that server on free ports, with its data in a temporary folder
       demo.py --running            uses a server on the default ports of this machine

Ends with status 0 only when both readers saw every reading.
"""

import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import paho.mqtt.client as mqtt
import pika
import rocketmq

READINGS = 10
PATIENCE_S = 60
PROTOCOLS = {"AMQP 0-9-1": "amqp", "MQTT 3.1.1 and 5": "mqtt", "RocketMQ gRPC": "rocketmq", "HTTP": "http"}
DEFAULT_PORTS = {"amqp": 5672, "mqtt": 1883, "rocketmq": 8081, "http": 15672}
# One run's readings never meet those of the run before.
PLANT = f"plant{int(time.time())}"


def say(who, text):
    print(f"{who:<28} {text}", flush=True)


@contextlib.contextmanager
def server(binary):
    """A server on free ports; yields them by protocol."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mainstem-demo-"))
    binds = [f"--set=listeners.{name}.bind=127.0.0.1:0" for name in PROTOCOLS.values()]
    command = [binary, "serve", f"--set=data_dir={folder}", "--set=log.level=warn", *binds]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        ports = {}
        for line in process.stdout:
            say("server", line.rstrip())
            found = re.match(r"(.*?) +listening on .*:(\d+)$", line)
            if found:
                ports[PROTOCOLS[found[1]]] = int(found[2])
            if line.startswith("ready"):
                break
        else:
            raise SystemExit("the server did not start")
        yield ports
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def temperature(number):
    return round(20 + 0.5 * number, 1)


def publish(port):
    """The device: paho-mqtt, MQTT 5, QoS 1."""
    device = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"device-{PLANT}", protocol=mqtt.MQTTv5)
    device.connect("127.0.0.1", port)
    device.loop_start()
    for number in range(READINGS):
        reading = json.dumps({"n": number, "celsius": temperature(number)})
        device.publish(f"{PLANT}/oven/temperature", reading, qos=1).wait_for_publish(PATIENCE_S)
        say("device   (MQTT, paho)", f"published {PLANT}/oven/temperature {reading}")
    device.disconnect()
    device.loop_stop()


class Service(threading.Thread):
    """The service: pika, a queue bound to amq.topic."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.seen = []
        self.connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port))
        self.channel = self.connection.channel()
        self.queue = f"{PLANT}-service"
        self.channel.queue_declare(self.queue, durable=True)
        self.channel.queue_bind(self.queue, "amq.topic", f"{PLANT}.#")

    def run(self):
        for method, _, body in self.channel.consume(self.queue, inactivity_timeout=PATIENCE_S):
            if method is None:
                break
            say("service  (AMQP, pika)", f"consumed  {method.routing_key} {body.decode()}")
            self.channel.basic_ack(method.delivery_tag)
            self.seen.append(json.loads(body)["n"])
            if len(set(self.seen)) == READINGS:
                break
        self.channel.queue_delete(self.queue)
        self.connection.close()


class Job(threading.Thread):
    """The job: the RocketMQ SDK's simple consumer of the topic that is the path's first segment."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.seen = []
        settings = rocketmq.ClientConfiguration(f"127.0.0.1:{port}", rocketmq.Credentials())
        self.consumer = rocketmq.SimpleConsumer(
            settings, f"{PLANT}-job", {PLANT: rocketmq.FilterExpression()}, 1
        )
        self.consumer.startup()
        # A group reads from the moment it first asks.
        self.take()

    def take(self):
        for message in self.consumer.receive(16, 15):
            say("job      (RocketMQ, python)", f"received  {message.topic} tag={message.tag} {message.body.decode()}")
            self.consumer.ack(message)
            self.seen.append(json.loads(message.body)["n"])

    def run(self):
        end = time.monotonic() + PATIENCE_S
        while len(set(self.seen)) < READINGS and time.monotonic() < end:
            self.take()
        self.consumer.shutdown()


def demo(ports):
    service, job = Service(ports["amqp"]), Job(ports["rocketmq"])
    readers = [service, job]
    for reader in readers:
        reader.start()
    publish(ports["mqtt"])
    for reader in readers:
        reader.join(PATIENCE_S + 10)
    wanted = list(range(READINGS))
    whole = all(sorted(set(reader.seen)) == wanted for reader in readers)
    say("result", f"{READINGS} readings published; the service saw {len(set(service.seen))}, the job {len(set(job.seen))}")
    return whole


def main():
    if sys.argv[1:] == ["--running"]:
        whole = demo(DEFAULT_PORTS)
    elif len(sys.argv) == 2:
        with server(sys.argv[1]) as ports:
            whole = demo(ports)
    else:
        raise SystemExit(__doc__)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
