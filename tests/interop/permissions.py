"""What users may do, set over HTTP as RabbitMQ's tools set it, and asked of pika, paho and RocketMQ's client.

Run as `permissions.py AMQP MQTT ROCKETMQ HTTP`, at a server whose configuration has the users `guest` and
`job` (with the access key `job-key`, secret `job-secret`). Ends with 0 when every rule held, and says each.
"""

import base64
import json
import queue
import sys
import urllib.error
import urllib.request

import paho.mqtt.client as mqtt
import pika
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from rocketmq import (ClientConfiguration, Credentials, FilterExpression, Message, Producer,
                      SimpleConsumer)

AMQP, MQTT, ROCKETMQ, HTTP = map(int, sys.argv[1:])
WAIT_S = 20


def said(text):
    print(text, flush=True)


def api(method, path, body=None, who="guest:guest", headers=()):
    request = urllib.request.Request(f"http://127.0.0.1:{HTTP}/api/{path}", method=method)
    if who:
        request.add_header("Authorization", "Basic " + base64.b64encode(who.encode()).decode())
    for name, value in headers:
        request.add_header(name, value)
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, data, WAIT_S) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text else None


def amqp(user, password, vhost="/"):
    credentials = pika.PlainCredentials(user, password)
    return pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", AMQP, vhost, credentials))


def refused(call, code, text):
    """The call ends its channel with this code and text."""
    try:
        call()
    except pika.exceptions.ChannelClosedByBroker as closed:
        assert closed.reply_code == code and text in closed.reply_text, closed
    else:
        raise AssertionError(f"not refused: {text}")


def users_are_made_over_http():
    assert api("GET", "whoami", who=None)[0] == 401
    assert api("GET", "whoami", who="guest:wrong")[0] == 401
    status, me = api("GET", "whoami")
    assert (status, me["name"], me["tags"]) == (200, "guest", ["administrator"]), me
    assert api("PUT", "users/ann", {"password": "pw", "tags": ""})[0] == 201
    assert api("PUT", "users/ann", {"password": "secret", "tags": "management"})[0] == 204
    status, ann = api("GET", "users/ann")
    assert ann["name"] == "ann" and ann["tags"] == ["management"] and "secret" not in str(ann), ann
    assert api("GET", "users/nobody") == (
        404, {"error": "Object Not Found", "reason": "Not Found"})
    # RabbitMQ's guide to passwords has this hash, of "test12".
    hashed = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
    assert api("PUT", "users/bob", {"password_hash": hashed, "tags": []})[0] == 201
    assert api("PUT", "users/odd", {"password_hash": "AAAA", "tags": []})[0] == 400
    assert api("PUT", "users/odd", "no object")[0] == 400
    # Nobody but administrators reads who there is.
    assert api("GET", "users", who="ann:secret")[0] == 401
    assert api("GET", "whoami", who="ann:secret")[0] == 200
    assert api("GET", "whoami", who="bob:test12")[0] == 401, "without a tag"
    assert api("PUT", "users/ann", {"tags": "administrator"}, who="ann:secret")[0] == 401
    foreign = (("Origin", "https://evil.example"),)
    assert api("PUT", "users/eve", {"password": "x", "tags": ""}, headers=foreign)[0] == 403
    said("users are made over HTTP, by administrators only")


def namespaces_are_entered_by_right():
    for user, password in (("ann", "secret"), ("bob", "test12")):
        try:
            amqp(user, password)
            raise AssertionError("let in without a permission")
        except pika.exceptions.ProbableAccessDeniedError as denied:
            assert f"access to vhost '/' refused for user '{user}'" in str(denied), denied
    try:
        amqp("ann", "pw")
        raise AssertionError("let in with the password before")
    except pika.exceptions.ProbableAuthenticationError:
        pass
    assert api("PUT", "vhosts/plant%2Fnorth", {"description": "the north"})[0] == 201
    assert api("PUT", "vhosts/plant%2Fnorth")[0] == 204
    status, vhost = api("GET", "vhosts/plant%2Fnorth")
    assert vhost["name"] == "plant/north" and vhost["description"] == "the north", vhost
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    assert api("PUT", "permissions/plant%2Fnorth/ann", everything)[0] == 201
    assert api("PUT", "permissions/plant%2Fnorth/ann", everything)[0] == 204
    assert api("PUT", "permissions/plant%2Fnorth/nobody", everything)[0] == 400
    assert api("PUT", "permissions/nowhere/ann", everything)[0] == 400
    assert api("PUT", "permissions/%2F/ann", {**everything, "read": "("})[0] == 400
    there = amqp("ann", "secret", "plant/north")
    there.channel().queue_declare("q", durable=True)
    there.close()
    seen = [vhost["name"] for vhost in api("GET", "vhosts", who="ann:secret")[1]]
    assert seen == ["plant/north"], seen
    said("a virtual host is entered by those who may do something in it")


def namespaces_go_with_all_that_is_in_them():
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    assert api("PUT", "vhosts/short")[0] == 201
    assert api("GET", "permissions/short/guest")[1]["read"] == ".*", "who makes it may use it"
    channel = amqp("guest", "guest", "short").channel()
    channel.confirm_delivery()
    channel.exchange_declare("e", "topic", durable=True)
    for name in ("q", "other"):
        channel.queue_declare(name, durable=True)
        channel.queue_bind(name, "e", "#")
        channel.queue_bind(name, "amq.topic", "#")
    channel.basic_publish("e", "a", b"x", pika.BasicProperties(delivery_mode=2))
    device = Device("short:guest", "guest", name="sleeper", expiry_s=3600)
    assert device.subscribe("a/#") == 1
    device.client.publish("a/kept", "x", 1, retain=True)
    assert device.events.get(timeout=WAIT_S) == 0
    device.close()
    assert api("DELETE", "vhosts/short")[0] == 204
    assert api("DELETE", "vhosts/short")[0] == 404
    assert api("GET", "vhosts/short")[0] == 404
    try:
        channel.queue_declare("q", durable=True)
        raise AssertionError("it goes on")
    except pika.exceptions.AMQPError:
        pass
    try:
        amqp("guest", "guest", "short")
        raise AssertionError("let in")
    except pika.exceptions.ProbableAccessDeniedError as denied:
        assert "vhost short not found" in str(denied), denied
    assert api("PUT", "vhosts/short")[0] == 201
    connection = amqp("guest", "guest", "short")
    for ask in (lambda on: on.queue_declare("q", passive=True),
                lambda on: on.exchange_declare("e", passive=True)):
        try:
            ask(connection.channel())
            raise AssertionError("something is left")
        except pika.exceptions.ChannelClosedByBroker as closed:
            assert closed.reply_code == 404, closed
    connection.close()
    device = Device("short:guest", "guest", name="sleeper", expiry_s=3600)
    assert not device.present
    assert device.subscribe("#") == 1
    device.publish("last")
    assert device.heard.get(timeout=WAIT_S) == "last", "nothing is retained"
    device.close()
    assert api("DELETE", "vhosts/short")[0] == 204
    said("a virtual host that is deleted goes with all that is in it")


def amqp_asks():
    mine = {"configure": "^ann\\.", "write": "^(ann\\..*|amq\\.topic)$", "read": "^(ann\\.|amq\\.topic)"}
    assert api("PUT", "permissions/%2F/ann", mine)[0] == 201
    boss = amqp("guest", "guest").channel()
    boss.exchange_declare("orders", "topic", durable=True)
    boss.queue_declare("orders.all", durable=True)
    boss.queue_bind("orders.all", "orders", "#")
    connection = amqp("ann", "secret")
    channel = connection.channel
    where = "in vhost '/' refused for user 'ann'"
    refused(lambda: channel().queue_declare("other"), 403, f"access to queue 'other' {where}")
    refused(lambda: channel().exchange_declare("other"), 403, f"access to exchange 'other' {where}")
    refused(lambda: channel().basic_get("orders.all"), 403, f"access to queue 'orders.all' {where}")
    refused(lambda: channel().queue_purge("orders.all"), 403, "access to queue 'orders.all'")
    refused(lambda: channel().queue_delete("orders.all"), 403, "access to queue 'orders.all'")
    own = channel()
    own.queue_declare("ann.q", durable=True)
    own.queue_bind("ann.q", "amq.topic", "x.#")
    refused(lambda: channel().queue_bind("ann.q", "orders", "#"), 403, "access to exchange 'orders'")
    dead = {"x-dead-letter-exchange": "orders"}
    refused(lambda: channel().queue_declare("ann.dead", arguments=dead), 403,
            f"access to exchange 'orders' {where}")

    def publish(exchange, key):
        on = channel()
        on.confirm_delivery()
        on.basic_publish(exchange, key, b"x")

    publish("amq.topic", "x.y")
    refused(lambda: publish("orders", "a"), 403, f"access to exchange 'orders' {where}")
    refused(lambda: publish("", "orders.all"), 403, f"access to exchange 'amq.default' {where}")
    refused(lambda: publish("", "$topic.orders.a"), 403, "access to exchange 'amq.default'")
    topic = {"exchange": "amq.topic", "write": "^x\\.", "read": "^x\\."}
    assert api("PUT", "topic-permissions/%2F/ann", topic)[0] == 201
    publish("amq.topic", "x.y")
    refused(lambda: publish("amq.topic", "y.x"), 403,
            f"access to topic 'y.x' in exchange 'amq.topic' {where}")
    refused(lambda: channel().queue_bind("ann.q", "amq.topic", "#"), 403, "access to topic '#'")
    assert api("DELETE", "topic-permissions/%2F/ann")[0] == 204
    publish("amq.topic", "y.x")
    count = channel().queue_declare("ann.q", passive=True).method.message_count
    assert count == 2, count
    # Replies come to whoever asks for them.
    asks = channel()
    asks.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
    asks.basic_publish("amq.topic", "x.ask", b"?", pika.BasicProperties(
        reply_to="amq.rabbitmq.reply-to"))
    asks.close()
    assert boss.queue_declare("orders.all", passive=True).method.message_count == 0
    connection.close()
    boss.connection.close()
    said("AMQP: names and keys are asked about, and refused in RabbitMQ's words")


class Device:
    def __init__(self, user, password, will=None, name="device", expiry_s=0):
        self.events = queue.Queue()
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
        client.username_pw_set(user, password)
        client.on_connect = lambda c, u, flags, reason, p: self.events.put(
            (reason.value, flags.session_present))
        client.on_subscribe = lambda c, u, mid, reasons, p: self.events.put(reasons[0].value)
        client.on_publish = lambda c, u, mid, reason, p: self.events.put(reason.value)
        self.heard = queue.Queue()
        client.on_message = lambda c, u, message: self.heard.put(message.topic)
        if will:
            client.will_set(will, "gone", 1)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = expiry_s
        client.connect("127.0.0.1", MQTT, clean_start=False, properties=properties)
        client.loop_start()
        self.client = client
        self.greeting, self.present = self.events.get(timeout=WAIT_S)

    def publish(self, topic):
        self.client.publish(topic, topic, 1)
        return self.events.get(timeout=WAIT_S)

    def subscribe(self, topic):
        self.client.subscribe(topic, 1)
        return self.events.get(timeout=WAIT_S)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def mqtt_asks():
    boss = amqp("guest", "guest").channel()
    boss.confirm_delivery()
    boss.queue_declare("orders.all", durable=True)
    for will in ("$queue/orders.all", "$delayed/1/$queue/orders.all"):
        device = Device("ann", "secret", will)
        assert device.greeting == 0x87, hex(device.greeting)
        device.close()
    device = Device("ann", "secret", "x/gone")
    assert device.greeting == 0, hex(device.greeting)
    assert device.subscribe("#") == 1
    assert device.subscribe("$share/g/orders/#") == 0x87
    assert device.subscribe("$queue/orders.all") == 0x87
    assert device.publish("$queue/orders.all") == 0x87
    assert device.publish("orders/a") in (0, 0x10), "it is the topic's, not the exchange's"
    assert device.heard.get(timeout=WAIT_S) == "orders/a"
    boss.basic_publish("orders", "secret", b"x")
    boss.basic_publish("amq.topic", "open", b"x")
    assert device.heard.get(timeout=WAIT_S) == "open", "what is published to an exchange is its readers'"
    count = boss.queue_declare("orders.all", passive=True).method.message_count
    assert count == 1, f"{count}: only what was published to the exchange is behind it"
    topic = {"exchange": "amq.topic", "write": "^{client_id}\\.", "read": "^{client_id}\\."}
    assert api("PUT", "topic-permissions/%2F/ann", topic)[0] == 201
    assert device.publish("device/a") in (0, 0x10)
    assert device.heard.get(timeout=WAIT_S) == "device/a"
    assert device.publish("other/a") == 0x87
    assert device.subscribe("other/#") == 0x87
    assert device.subscribe("device/#") == 1
    boss.basic_publish("amq.topic", "open", b"x")
    boss.basic_publish("amq.topic", "device.b", b"x")
    assert device.heard.get(timeout=WAIT_S) == "device/b", "from now on"
    device.close()
    # What a kept session of such a user needs to keep its promises is not asked about.
    device = Device("ann", "secret", name="device", expiry_s=3600)
    assert device.subscribe("device/#") == 1
    device.client.publish("device/once", "x", 2)
    assert device.events.get(timeout=WAIT_S) in (0, 0x10)
    assert device.heard.get(timeout=WAIT_S) == "device/once"
    device.close()
    # Neither does a session keep what its user may not have any more.
    assert api("PUT", "topic-permissions/%2F/ann", {**topic, "read": "^other\\."})[0] == 204
    device = Device("ann", "secret", name="device", expiry_s=3600)
    assert device.present
    boss.basic_publish("amq.topic", "device.c", b"x")
    assert api("DELETE", "topic-permissions/%2F/ann/amq.topic")[0] == 204
    assert device.subscribe("last") == 1
    boss.basic_publish("amq.topic", "device.d", b"x")
    boss.basic_publish("amq.topic", "last", b"x")
    assert device.heard.get(timeout=WAIT_S) == "last"
    device.close()
    boss.connection.close()
    said("MQTT: topics, shared and queues' names are asked about, also for what goes on already")


def rocketmq_asks():
    boss = amqp("guest", "guest").channel()
    boss.confirm_delivery()
    boss.exchange_declare("jobs", "topic", durable=True)
    boss.queue_declare("jobs.all", durable=True)
    boss.queue_bind("jobs.all", "jobs", "#")
    configuration = ClientConfiguration(
        f"127.0.0.1:{ROCKETMQ}", Credentials("job-key", "job-secret"))

    def send(topic):
        producer = Producer(configuration, ())
        producer.startup()
        message = Message()
        message.topic, message.body = topic, b"x"
        try:
            producer.send(message)
            return None
        except Exception as error:
            return str(error)
        finally:
            producer.shutdown()

    assert send("jobs") is None and send("held") is None
    only = {"configure": "", "write": "^jobs$", "read": "^(jobs|readers)$"}
    assert api("PUT", "permissions/%2F/job", only)[0] == 204
    assert send("jobs") is None
    assert boss.queue_declare("jobs.all", passive=True).method.message_count == 2
    error = send("held")
    assert error and "'held' refused for user 'job'" in error, error
    # Their routes are not told, so that they are not made either.
    assert send("orders") is not None and send("new") is not None
    reader = SimpleConsumer(configuration, "readers", {"jobs": FilterExpression()}, 5)
    reader.startup()
    assert reader.receive(1, 30) is not None
    reader.shutdown()
    stranger = SimpleConsumer(configuration, "strangers", {"jobs": FilterExpression()}, 5)
    stranger.startup()
    try:
        got = stranger.receive(1, 30)
        raise AssertionError(f"a group that it may not read for got {got}")
    except AssertionError:
        raise
    except Exception as error:
        assert "access to group 'strangers' refused" in str(error), error
    stranger.shutdown()
    boss.connection.close()
    said("RocketMQ: topics and groups are asked about")


def what_is_taken_back_is_gone():
    assert api("DELETE", "users/ann")[0] == 204
    assert api("DELETE", "users/ann")[0] == 404
    try:
        amqp("ann", "secret", "plant/north")
        raise AssertionError("let in")
    except pika.exceptions.ProbableAuthenticationError:
        pass
    left = [one for one in api("GET", "permissions")[1] if one["user"] == "ann"]
    assert left == [], left
    assert api("PUT", "users/guest", {"password": "new", "tags": "administrator"})[0] == 204
    assert api("GET", "whoami")[0] == 401
    assert api("GET", "whoami", who="guest:new")[0] == 200
    amqp("guest", "new").close()
    said("a user that is deleted, or gets another password, is that at once")


users_are_made_over_http()
namespaces_are_entered_by_right()
namespaces_go_with_all_that_is_in_them()
amqp_asks()
mqtt_asks()
rocketmq_asks()
what_is_taken_back_is_gone()
