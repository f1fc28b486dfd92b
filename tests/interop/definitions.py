"""The definitions of a real RabbitMQ (3.10.8, recorded by its own management plugin) are taken in, its users
log in with the passwords they had, its policies and limits act, and they come out again as they went in.

Run as `definitions.py AMQP HTTP DEFINITIONS`. Ends with 0 when every rule held, and says each.
"""

import base64
import json
import sys
import urllib.error
import urllib.request

import pika

AMQP, HTTP = int(sys.argv[1]), int(sys.argv[2])
with open(sys.argv[3], encoding="utf-8") as file:
    RECORDED = json.load(file)
WAIT_S = 60


def said(text):
    print(text, flush=True)


def api(method, path, body=None, who="guest:guest"):
    request = urllib.request.Request(f"http://127.0.0.1:{HTTP}/api/{path}", method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(who.encode()).decode())
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, data, WAIT_S) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def amqp(user, vhost="plant"):
    credentials = pika.PlainCredentials(user, f"{user}'s secret")
    return pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", AMQP, vhost, credentials))


def refused(call, code):
    try:
        call()
    except pika.exceptions.ChannelClosedByBroker as closed:
        assert closed.reply_code == code, closed
    else:
        raise AssertionError("not refused")


def key(item):
    return json.dumps(item, sort_keys=True)


def comes_out_as_it_went_in():
    status, told = api("GET", "definitions")
    assert status == 200
    # RabbitMQ says no more of these.
    fields = {
        "users": ("name", "password_hash", "hashing_algorithm", "tags", "limits"),
        "vhosts": ("name",),
        "queues": ("name", "vhost", "durable", "auto_delete", "arguments"),
    }
    for name, recorded in RECORDED.items():
        if not isinstance(recorded, list):
            continue
        some = fields.get(name)
        cut = (lambda item: {field: item[field] for field in some}) if some else dict
        ours = sorted(map(key, map(cut, told[name])))
        lacking = [item for item in map(cut, recorded)
                   if key(item) not in ours and item.get("name") not in ("cluster_name", "guest",
                       "internal_cluster_id")]
        assert not lacking, (name, lacking)
    return told


assert api("POST", "definitions", {"queues": [{"name": "q", "vhost": "nowhere"}]})[0] == 400
assert api("POST", "definitions", {"users": "none"})[0] == 400
assert api("POST", "definitions", RECORDED)[0] == 204
told = comes_out_as_it_went_in()
said(f"{len(told['queues'])} queues, {len(told['bindings'])} bindings and the rest came in and go out")

# Once more changes nothing.
assert api("POST", "definitions", RECORDED)[0] == 204
assert api("GET", "definitions")[1] == told
assert api("POST", "definitions", RECORDED, who="bob:bob's secret")[0] == 401
said("what is there stays as it is, and only administrators may do it")

assert api("GET", "whoami", who="bob:bob's secret")[1]["tags"] == ["monitoring", "management"]
assert api("GET", "whoami", who="bob:other")[0] == 401
ann, bob = amqp("ann"), amqp("bob")
refused(lambda: bob.channel().queue_declare("q.01", durable=True,
                                            arguments={"x-queue-type": "quorum"}), 403)
confirmed = bob.channel()
confirmed.confirm_delivery()
refused(lambda: confirmed.basic_publish("orders", "1.x", b"x"), 403)
bob.channel().queue_declare("bob.q/10", durable=True)
said("users log in with the passwords they had, and may do what they might")

channel = ann.channel()
for number in range(5):
    channel.basic_publish("orders", "5.x", str(number).encode())
    channel.basic_publish("orders", "25.x", str(number).encode())
    channel.basic_publish("orders", "job.x", str(number).encode())
assert channel.queue_declare("q.05", passive=True).method.message_count == 3, "its policy bounds it"
assert channel.queue_declare("q.25", passive=True).method.message_count == 5
header = pika.BasicProperties(headers={"n": 11, "s": "x"})
channel.basic_publish("by.header", "", b"x", header)
assert channel.queue_declare(
    "q.11", passive=True, durable=True).method.message_count == 1
status, queue = api("GET", "queues/plant/q.05")
assert queue["policy"] == "short" and queue["operator_policy"] == "bound", queue
assert queue["effective_policy_definition"] == {"max-length": 3, "message-ttl": 600000}, queue
said("bindings lead where they led, and policies act")

for number in range(10):
    ann.channel().queue_declare(f"more.{number}")
refused(lambda: ann.channel().queue_declare("more"), 406)
said("limits act")

status, one = api("GET", "definitions/plant")
assert api("PUT", "vhosts/copy")[0] == 201
assert api("POST", "definitions/copy", one)[0] == 204
counts = [len(api("GET", f"{kind}/{vhost}")[1]) for kind in ("queues", "bindings", "policies")
          for vhost in ("plant", "copy")]
assert counts[0] == counts[1] and counts[2] == counts[3] and counts[4] == counts[5] == 2, counts
said("one virtual host's definitions go into another")
