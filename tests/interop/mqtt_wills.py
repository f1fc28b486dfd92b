"""paho's wills over a kill of the server. Arguments: the port and what to do: `leave` a session that waits
for wills; `hold` two connections while the process of the third argument is killed, of which one said
goodbye before; `read` what came.
"""

import os
import queue
import signal
import sys
import time

import paho.mqtt.client as mqtt

PORT, WHAT = int(sys.argv[1]), sys.argv[2]
WAIT_S = 20


def device(name, clean=True, will=None):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, name, clean_session=clean)
    client.connected, client.subscribed, client.heard = queue.Queue(), queue.Queue(), queue.Queue()
    client.on_connect = lambda c, u, flags, reason, p: client.connected.put(reason)
    client.on_subscribe = lambda c, u, mid, reasons, p: client.subscribed.put(reasons)
    client.on_message = lambda c, u, message: client.heard.put((message.topic, message.payload))
    if will:
        client.will_set(will, b"gone", qos=2)
    client.connect("localhost", PORT)
    client.loop_start()
    assert not client.connected.get(timeout=WAIT_S).is_failure
    return client


def leave(client):
    client.disconnect()
    client.loop_stop()


if WHAT == "leave":
    watcher = device("watcher", clean=False)
    watcher.subscribe("wills/#", qos=2)
    watcher.subscribed.get(timeout=WAIT_S)
    leave(watcher)
elif WHAT == "hold":
    killed = device("killed", will="wills/killed")
    leave(device("polite", will="wills/polite"))
    # Nothing tells it that its goodbye was heard.
    time.sleep(0.5)
    os.kill(int(sys.argv[3]), signal.SIGKILL)
    killed.loop_stop()
else:
    watcher = device("watcher", clean=False)
    assert watcher.heard.get(timeout=WAIT_S) == ("wills/killed", b"gone")
    try:
        raise AssertionError(watcher.heard.get(timeout=1))
    except queue.Empty:
        leave(watcher)
