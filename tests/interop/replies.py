"""Requests of one protocol answered by a server of the other, each as it is written for its own.

Run as `replies.py AMQP_PORT MQTT_PORT`. Prints one line for each way; fails if one does not hold.
"""

import queue
import sys
import time

import paho.mqtt.client as mqtt
import pika
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

AMQP_PORT, MQTT_PORT = int(sys.argv[1]), int(sys.argv[2])
WAIT_S = 10


class Device:
    """An MQTT 5 client that hands on what it gets."""

    def __init__(self, name):
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name,
                                  protocol=mqtt.MQTTv5)
        self.messages, subscribed = queue.Queue(), queue.Queue()
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        self.client.on_subscribe = lambda *_: subscribed.put(True)
        self.client.connect("127.0.0.1", MQTT_PORT)
        self.client.loop_start()
        self.subscribed = subscribed

    def subscribe(self, topic):
        self.client.subscribe(topic, qos=1)
        self.subscribed.get(timeout=WAIT_S)

    def publish(self, topic, body, **properties):
        said = Properties(PacketTypes.PUBLISH)
        for name, value in properties.items():
            setattr(said, name, value)
        self.client.publish(topic, body, qos=1, properties=said).wait_for_publish(WAIT_S)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def service():
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", AMQP_PORT)).channel()


def until(channel, condition):
    deadline = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < deadline:
        channel.connection.process_data_events(0.02)
    assert condition()


def a_device_answers_a_direct_request():
    device = Device("answers")
    device.subscribe("svc/echo")
    channel, answers = service(), []
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *answer: answers.append(answer),
                          auto_ack=True)
    channel.basic_publish("amq.topic", "svc.echo", b"question", pika.BasicProperties(
        reply_to="amq.rabbitmq.reply-to", correlation_id="c-1"))
    request = device.messages.get(timeout=WAIT_S)
    assert request.payload == b"question"
    device.publish(request.properties.ResponseTopic, b"answer",
                   CorrelationData=request.properties.CorrelationData)
    until(channel, lambda: answers)
    _, _, properties, body = answers[0]
    assert (body, properties.correlation_id) == (b"answer", "c-1"), properties
    channel.connection.close()
    device.close()


def a_service_answers_a_device():
    channel = service()
    channel.queue_declare("rpc", exclusive=True)
    channel.queue_bind("rpc", "amq.topic", "rpc.add")

    def answer(channel, method, properties, body):
        channel.basic_publish("", properties.reply_to, body + b"!", pika.BasicProperties(
            correlation_id=properties.correlation_id))
        channel.basic_ack(method.delivery_tag)
        served.append(properties.reply_to)
    served = []
    channel.basic_consume("rpc", answer)
    device = Device("asks")
    device.subscribe("replies/me.1")
    device.publish("rpc/add", b"one", ResponseTopic="replies/me.1", CorrelationData=b"c-2")
    until(channel, lambda: served)
    assert served == ["$topic.replies.me%2E1"], served
    reply = device.messages.get(timeout=WAIT_S)
    assert (reply.topic, reply.payload) == ("replies/me.1", b"one!")
    assert reply.properties.CorrelationData == b"c-2"
    channel.connection.close()
    device.close()


def a_device_asks_a_service_by_a_queues_name():
    channel = service()
    channel.queue_declare("answers", exclusive=True)
    device = Device("asks-a-queue")
    device.publish("jobs/1", b"work", ResponseTopic="$queue/answers")
    device.publish("$queue/answers", b"direct")
    deadline = time.monotonic() + WAIT_S
    got = None
    while got is None and time.monotonic() < deadline:
        got = channel.basic_get("answers", auto_ack=True)[2]
    assert got == b"direct", got
    channel.connection.close()
    device.close()


def a_name_too_long_for_a_routing_key_is_cut_at_a_word():
    channel = service()
    channel.queue_declare("long", exclusive=True)
    channel.queue_bind("long", "amq.topic", "deep.#")
    device = Device("deep")
    topic = "/".join(["deep"] + ["w" * 60] * 6)
    device.publish(topic, b"x")
    deadline = time.monotonic() + WAIT_S
    method = None
    while method is None and time.monotonic() < deadline:
        method, properties, _ = channel.basic_get("long", auto_ack=True)
    assert method.routing_key == ".".join(["deep"] + ["w" * 60] * 4), method.routing_key
    assert properties.headers["x-address"] == topic.replace("/", "."), properties.headers
    channel.connection.close()
    device.close()


for check in (a_device_answers_a_direct_request, a_service_answers_a_device,
              a_device_asks_a_service_by_a_queues_name,
              a_name_too_long_for_a_routing_key_is_cut_at_a_word):
    check()
    print(f"ok      {check.__name__}", flush=True)
