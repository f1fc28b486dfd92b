"""paho with a session that is away while more comes than may wait, from a publisher that is faster
than it may be. Argument: the port, of a server with 10 messages in a queue and 50 a second.
"""

import queue
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PORT = int(sys.argv[1])
WAIT_S = 20


def device(name, expiry_s=0):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
    client.connected, client.subscribed, client.heard = queue.Queue(), queue.Queue(), queue.Queue()
    client.on_connect = lambda c, u, flags, reason, p: client.connected.put(flags.session_present)
    client.on_subscribe = lambda c, u, mid, reasons, p: client.subscribed.put(reasons)
    client.on_message = lambda c, u, message: client.heard.put(int(message.payload))
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = expiry_s
    client.connect("localhost", PORT, clean_start=False, properties=properties)
    client.loop_start()
    client.present = client.connected.get(timeout=WAIT_S)
    return client


def leave(client):
    client.disconnect()
    client.loop_stop()


sleeper = device("sleeper", 3600)
sleeper.subscribe("t/#", qos=2)
sleeper.subscribed.get(timeout=WAIT_S)
leave(sleeper)

time.sleep(0.5)
fast = device("fast")
began = time.monotonic()
sent = [fast.publish("t/x", str(number), qos=1 + number % 2) for number in range(150)]
for one in sent:
    one.wait_for_publish(WAIT_S)
took = time.monotonic() - began
assert 1.8 < took < 10, f"100 more than a second's worth, at 50 a second, in {took:.1f} s"

sleeper = device("sleeper", 3600)
assert sleeper.present
# Each QoS has an order of its own.
heard = sorted(sleeper.heard.get(timeout=WAIT_S) for _ in range(10))
assert heard == list(range(140, 150)), heard
# Nothing is cut while it is there.
sent = [fast.publish("t/x", str(number), qos=1) for number in range(60)]
heard = [sleeper.heard.get(timeout=WAIT_S) for _ in range(60)]
assert heard == list(range(60)), heard
leave(sleeper)
leave(fast)
