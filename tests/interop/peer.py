"""A client of every protocol, on the official Python libraries.

It reads commands as JSON lines on stdin and answers with events as JSON lines on stdout; the Rust
tests say what to do and judge what came. `peer.js` is its twin on Node.
"""

import base64
import hashlib
import json
import os
import queue
import sys
import threading
import urllib.request

import paho.mqtt.client as mqtt
import pika
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from rocketmq import (ClientConfiguration, Credentials, FilterExpression, Message, Producer,
                      SimpleConsumer)
from rocketmq.grpc_protocol import FilterType

HOST = "127.0.0.1"
PORTS = json.loads(os.environ["MAINSTEM_PORTS"])
WAIT_S = 20

out_lock = threading.Lock()


def emit(event, **fields):
    line = json.dumps({"event": event, **fields})
    with out_lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def token_of(body, headers, address):
    """Which message this is: by its body, else its header, else the last part of its address."""
    if body.startswith(b"token:"):
        return body[6:].split(b"\n", 1)[0].decode()
    return headers.get("token") or address


def received(reader, body, headers, address, said):
    emit("received", reader=reader, token=token_of(body, headers, address), size=len(body),
         md5=hashlib.md5(body).hexdigest(), said={k: v for k, v in said.items() if v is not None})


# --- AMQP -------------------------------------------------------------------------------------

def amqp_connection():
    credentials = pika.PlainCredentials("guest", "guest")
    return pika.BlockingConnection(pika.ConnectionParameters(
        HOST, PORTS["amqp"], "/", credentials, heartbeat=0, blocked_connection_timeout=WAIT_S))


def amqp_declare(command):
    connection = amqp_connection()
    channel = connection.channel()
    for name, exchange in command["exchanges"].items():
        arguments = {"x-address": "none"} if exchange["hidden"] else {}
        channel.exchange_declare(name, exchange["kind"], durable=True, arguments=arguments)
    for name in command["queues"]:
        channel.queue_declare(name, durable=True)
    connection.close()
    emit("declared")


class AmqpPublisher:
    def __init__(self):
        self.channel = amqp_connection().channel()
        self.channel.confirm_delivery()

    def publish(self, command, body):
        say = command.get("say")
        properties = pika.BasicProperties(delivery_mode=2, headers={"token": command["token"]})
        if say:
            properties.content_type = say["content_type"]
            properties.correlation_id = say["correlation"]
            properties.reply_to = say["reply_queue"]
            properties.message_id = say["message_id"]
            properties.priority = say["priority"]
            properties.expiration = str(say["expiry_ms"])
            properties.headers.update(say["headers"])
            properties.headers.update(count=7, ready=True, tag=say["tag"], keys=say["key"])
        self.channel.basic_publish(command["exchange"], command["key"], body, properties)
        return {}


def amqp_read(command):
    reader = command["reader"]
    channel = amqp_connection().channel()
    stream = command.get("stream")
    arguments = {"x-queue-type": "stream"} if stream else {}
    channel.queue_declare(command["queue"], durable=True, arguments=arguments)
    for exchange, key in command["binds"]:
        channel.queue_bind(command["queue"], exchange, key)
    channel.basic_qos(prefetch_count=50)

    def on_message(channel, method, properties, body):
        headers = properties.headers or {}
        said = {
            "exchange": method.exchange, "routing_key": method.routing_key,
            "content_type": properties.content_type, "priority": properties.priority,
            "correlation": properties.correlation_id, "reply_to": properties.reply_to,
            "message_id": properties.message_id, "expiration": properties.expiration,
            "delivery_mode": properties.delivery_mode, "timestamp": properties.timestamp,
            "headers": {k: v if isinstance(v, (str, int, bool, list)) else str(v)
                        for k, v in headers.items()},
        }
        received(reader, body, headers, method.routing_key.split(".")[-1], said)
        channel.basic_ack(method.delivery_tag)

    consume = {"x-stream-offset": "first"} if stream else {}
    channel.basic_consume(command["queue"], on_message, arguments=consume)
    emit("ready", reader=reader)
    channel.start_consuming()


# --- MQTT -------------------------------------------------------------------------------------

def mqtt_client(version, client_id, kept):
    v5 = version == "mqtt5"
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id,
                         protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311,
                         **({} if v5 else {"clean_session": not kept}))
    connected = queue.Queue()
    client.on_connect = lambda _c, _u, _f, reason, _p: connected.put(reason)
    if v5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600 if kept else 0
        client.connect(HOST, PORTS["mqtt"], 60, clean_start=False, properties=properties)
    else:
        client.connect(HOST, PORTS["mqtt"], 60)
    client.loop_start()
    reason = connected.get(timeout=WAIT_S)
    if reason.is_failure:
        raise RuntimeError(f"CONNACK {reason}")
    return client


class MqttPublisher:
    def __init__(self, version):
        self.version = version
        self.client = mqtt_client(version, f"publisher-{version}-py", False)

    def publish(self, command, body):
        properties = None
        if self.version == "mqtt5":
            properties = Properties(PacketTypes.PUBLISH)
            user = [("token", command["token"])]
            say = command.get("say")
            if say:
                properties.ContentType = say["content_type"]
                properties.CorrelationData = say["correlation"].encode()
                properties.ResponseTopic = say["reply_topic"]
                properties.MessageExpiryInterval = say["expiry_ms"] // 1000
                user += [(k, v) for k, v in say["headers"].items()]
                user += [("color", "green"), ("priority", str(say["priority"])),
                         ("tag", say["tag"]), ("keys", say["key"])]
            properties.UserProperty = user
        info = self.client.publish(command["topic"], body, qos=1, properties=properties)
        info.wait_for_publish(WAIT_S)
        if not info.is_published():
            raise RuntimeError("no PUBACK")
        return {}


def mqtt_read(command):
    reader = command["reader"]
    client = mqtt_client(command["by"], command["client_id"], command["qos"] > 0)
    subscribed = queue.Queue()

    def on_message(_client, _user, message):
        said = {"topic": message.topic, "qos": message.qos, "retain": message.retain}
        user = []
        if command["by"] == "mqtt5":
            properties = message.properties
            user = getattr(properties, "UserProperty", [])
            correlation = getattr(properties, "CorrelationData", None)
            said.update(
                content_type=getattr(properties, "ContentType", None),
                correlation=correlation.decode() if correlation is not None else None,
                reply_to=getattr(properties, "ResponseTopic", None),
                expiry=getattr(properties, "MessageExpiryInterval", None),
                user=[list(pair) for pair in user])
        received(reader, message.payload, dict(user), message.topic.split("/")[-1], said)

    client.on_message = on_message
    client.on_subscribe = lambda _c, _u, _m, reasons, _p: subscribed.put(reasons)
    client.subscribe(command["filter"], command["qos"])
    reasons = subscribed.get(timeout=WAIT_S)
    if reasons[0].is_failure:
        raise RuntimeError(f"SUBACK {reasons[0]}")
    emit("ready", reader=reader)


# --- RocketMQ ---------------------------------------------------------------------------------

def rocketmq_configuration():
    return ClientConfiguration(f"{HOST}:{PORTS['rocketmq']}", Credentials())


class RocketmqPublisher:
    def __init__(self, topic):
        self.producer = Producer(rocketmq_configuration(), (topic,))
        self.producer.startup()

    def publish(self, command, body):
        message = Message()
        message.topic = command["topic"]
        message.body = body
        if command["tag"]:
            message.tag = command["tag"]
        message.add_property("token", command["token"])
        say = command.get("say")
        if say:
            message.keys = say["key"]
            message.add_property("content-type", say["content_type"])
            message.add_property("correlationid", say["correlation"])
            message.add_property("replyto", "q:" + say["reply_queue"])
            for name, value in say["headers"].items():
                message.add_property(name, value)
        return {"message_id": self.producer.send(message).message_id}


def rocketmq_read(command):
    reader = command["reader"]
    kind = FilterType.SQL if command.get("sql") else FilterType.TAG
    consumer = SimpleConsumer(
        rocketmq_configuration(), command["group"],
        {command["topic"]: FilterExpression(command["expression"], kind)}, await_duration=5)
    consumer.startup()
    emit("ready", reader=reader)
    while True:
        for message in consumer.receive(16, 30) or []:
            headers = dict(message.properties)
            said = {"topic": message.topic, "tag": message.tag, "keys": sorted(message.keys),
                    "priority": message.priority, "message_id": message.message_id,
                    "corrupted": message.corrupted, "properties": headers}
            address = (message.tag or "").split("/")[-1]
            received(reader, message.body, headers, address, said)
            consumer.ack(message)


# --- HTTP -------------------------------------------------------------------------------------

class HttpPublisher:
    def publish(self, command, body):
        headers = {"X-Meta-token": command["token"], "Content-Type": "application/octet-stream"}
        say = command.get("say")
        if say:
            headers.update({
                "Content-Type": say["content_type"], "X-Correlation-Id": say["correlation"],
                "X-Reply-To": "t:" + say["reply_topic"], "X-Message-Id": say["message_id"],
                "X-Priority": str(say["priority"]), "X-Tag": say["tag"], "X-Keys": say["key"],
                "X-Expires-In": str(say["expiry_ms"] // 1000)})
            headers.update({"X-Meta-" + k: v for k, v in say["headers"].items()})
        login = base64.b64encode(b"guest:guest").decode()
        headers["Authorization"] = "Basic " + login
        request = urllib.request.Request(f"http://{HOST}:{PORTS['http']}/topics/{command['topic']}",
                                         data=body, headers=headers, method="POST")
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            answer.read()
        return {}


# --- the command loop -------------------------------------------------------------------------

publishers = {}


def publisher(command):
    by = command["by"]
    if by not in publishers:
        publishers[by] = {
            "amqp": AmqpPublisher,
            "mqtt311": lambda: MqttPublisher("mqtt311"),
            "mqtt5": lambda: MqttPublisher("mqtt5"),
            "rocketmq": lambda: RocketmqPublisher(command["topic"]),
            "http": HttpPublisher,
        }[by]()
    return publishers[by]


def publish(command):
    body = base64.b64decode(command["body"])
    emit("published", token=command["token"], **publisher(command).publish(command, body))


READS = {"amqp": amqp_read, "mqtt311": mqtt_read, "mqtt5": mqtt_read, "rocketmq": rocketmq_read}


def guarded(action, command):
    try:
        action(command)
    except Exception as error:  # the test reports it with the command that failed
        what = command.get("reader") or command.get("token") or command["op"]
        emit("failed", what=what, error=f"{type(error).__name__}: {error}")


for line in sys.stdin:
    command = json.loads(line)
    if command["op"] == "read":
        threading.Thread(target=guarded, args=(READS[command["by"]], command), daemon=True).start()
    elif command["op"] == "publish":
        guarded(publish, command)
    elif command["op"] == "declare":
        guarded(amqp_declare, command)
    else:
        break
# Libraries with threads of their own may refuse to end; the test is over.
os._exit(0)
