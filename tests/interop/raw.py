"""An AMQP connection told frame by frame, for what client libraries never send."""

import socket
import struct
import sys

PORT = int(sys.argv[1])
HEADER = b"AMQP\x00\x00\x09\x01"
METHOD, CONTENT, BODY, HEARTBEAT = 1, 2, 3, 8
# Flags of a queue's declaration.
EXCLUSIVE, DURABLE, PASSIVE = 4, 2, 1


def short(text):
    return bytes([len(text)]) + text.encode()


def long(data):
    return struct.pack(">I", len(data)) + data


def table(**entries):
    """Booleans, integers, texts and tables."""
    out = b""
    for name, value in entries.items():
        out += short(name.replace("__", ".").replace("_", "-") if name[0] == "x" else
                     name.replace("__", "."))
        if isinstance(value, bool):
            out += b"t" + bytes([value])
        elif isinstance(value, int):
            out += b"I" + struct.pack(">i", value)
        elif isinstance(value, bytes):
            out += b"F" + value
        else:
            out += b"S" + long(value.encode())
    return long(out)


def frame(kind, channel, payload):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


class Raw:
    """A connection, frame by frame."""

    def __init__(self, header=HEADER):
        self.socket = socket.create_connection(("127.0.0.1", PORT), 10)
        self.socket.settimeout(10)
        self.unread = b""
        self.socket.sendall(header)

    def send(self, kind, channel, payload):
        self.socket.sendall(frame(kind, channel, payload))

    def method(self, channel, class_id, method_id, arguments=b""):
        self.send(METHOD, channel, struct.pack(">HH", class_id, method_id) + arguments)

    def exactly(self, count):
        while len(self.unread) < count:
            read = self.socket.recv(65536)
            if not read:
                raise EOFError
            self.unread += read
        taken, self.unread = self.unread[:count], self.unread[count:]
        return taken

    def frame(self):
        kind, channel, size = struct.unpack(">BHI", self.exactly(7))
        payload = self.exactly(size)
        assert self.exactly(1) == b"\xce"
        return kind, channel, payload

    def expect(self, class_id, method_id, channel=None):
        """The arguments of the next method, which must be this one."""
        kind, at, payload = self.frame()
        while kind == HEARTBEAT:
            kind, at, payload = self.frame()
        found = struct.unpack(">HH", payload[:4])
        assert kind == METHOD and found == (class_id, method_id), (kind, found, payload[:200])
        assert channel is None or at == channel, at
        return payload[4:]

    def ends(self, within=10):
        """Whether the server closes the socket without another method."""
        self.socket.settimeout(within)
        try:
            while True:
                kind, _, payload = self.frame()
                assert kind == HEARTBEAT, payload
        except (EOFError, ConnectionResetError):
            return True
        except TimeoutError:
            return False

    def closed(self, class_id=10, method_id=50):
        """The code and text of the close that comes next."""
        arguments = self.expect(class_id, method_id)
        code, size = struct.unpack(">HB", arguments[:3])
        return code, arguments[3:3 + size].decode()

    def start_ok(self, mechanism="PLAIN", response=b"\0guest\0guest", **capabilities):
        self.expect(10, 10)
        properties = table(capabilities=table(**capabilities))
        self.method(0, 10, 11, properties + short(mechanism) + long(response) + short("en_US"))

    def open(self, channel_max=2047, frame_max=131072, heartbeat=0, vhost="/", **capabilities):
        self.start_ok(**capabilities)
        self.expect(10, 30)
        self.method(0, 10, 31, struct.pack(">HIH", channel_max, frame_max, heartbeat))
        self.method(0, 10, 40, short(vhost) + b"\0\0")
        return self

    def opened(self, channels=(1,), **options):
        self.open(**options)
        self.expect(10, 41)
        for channel in channels:
            self.method(channel, 20, 10, b"\0")
            self.expect(20, 11, channel)
        return self

    def declare(self, queue="", flags=0, arguments=None, channel=1):
        self.method(channel, 50, 10, b"\0\0" + short(queue) + bytes([flags])
                    + (arguments or table()))

    def declared(self, *arguments, **options):
        self.declare(*arguments, **options)
        found = self.expect(50, 11)
        name, counts = found[1:1 + found[0]].decode(), found[1 + found[0]:]
        return name, *struct.unpack(">II", counts)

    def publish(self, key, body=b"x", exchange="", flags=0, channel=1, properties=b"\0\0"):
        self.method(channel, 60, 40, b"\0\0" + short(exchange) + short(key) + bytes([flags]))
        self.send(CONTENT, channel, struct.pack(">HHQ", 60, 0, len(body)) + properties)
        if body:
            self.send(BODY, channel, body)

    def consume(self, queue, tag, flags=0, channel=1, arguments=None):
        self.method(channel, 60, 20, b"\0\0" + short(queue) + short(tag) + bytes([flags])
                    + (arguments or table()))

    def delivery(self):
        """The body sizes of the frames of the next delivery, and whether it came again."""
        arguments = self.expect(60, 60)
        skip = 1 + arguments[0]
        tag, again = struct.unpack(">Q?", arguments[skip:skip + 9])
        _, _, header = self.frame()
        size, sizes = struct.unpack(">Q", header[4:12])[0], []
        while sum(sizes) < size:
            kind, _, payload = self.frame()
            assert kind == BODY
            sizes.append(len(payload))
        return tag, again, sizes
