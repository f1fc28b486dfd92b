"""paho over TLS: messages larger than any buffer go there and back, with the certificate for a
user name, and with a password. Arguments: port, the server's certificate, the client's, its key.
"""

import queue
import sys

import paho.mqtt.client as mqtt

PORT, OWN, CERTIFICATE, KEY = int(sys.argv[1]), *sys.argv[2:5]
WAIT_S = 20
SIZES = [1, 16_000, 1_000_000, 3_000_000]


def device(name, protocol):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, name, protocol=protocol)
    client.connected, client.subscribed, client.heard = queue.Queue(), queue.Queue(), queue.Queue()
    client.on_connect = lambda c, u, flags, reason, p: client.connected.put(reason)
    client.on_subscribe = lambda c, u, mid, reasons, p: client.subscribed.put(reasons)
    client.on_message = lambda c, u, message: client.heard.put(message.payload)
    return client


def there_and_back(client):
    client.connect("localhost", PORT)
    client.loop_start()
    reason = client.connected.get(timeout=WAIT_S)
    assert not reason.is_failure, reason
    client.subscribe("tls/#", qos=1)
    client.subscribed.get(timeout=WAIT_S)
    for size in SIZES:
        body = bytes(size)
        client.publish("tls/x", body, qos=1).wait_for_publish(WAIT_S)
        assert client.heard.get(timeout=WAIT_S) == body, size
    client.disconnect()
    client.loop_stop()


certified = device("certified", mqtt.MQTTv5)
certified.tls_set(ca_certs=OWN, certfile=CERTIFICATE, keyfile=KEY)
there_and_back(certified)

named = device("named", mqtt.MQTTv311)
named.tls_set(ca_certs=OWN)
named.username_pw_set("guest", "guest")
there_and_back(named)
