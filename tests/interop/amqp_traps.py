"""What careless servers get wrong, asked with raw frames: each rule is what RabbitMQ does.

Run as `amqp_traps.py PORT`: it holds for RabbitMQ as for Mainstem. `--without NAME` leaves out what
an older one does differently: `v4` (RabbitMQ before 4.1). Prints one line for each rule; fails if
one does not hold. The numbers are those of the list of traps in the design.
"""

import socket
import struct
import sys
import threading
import time
import traceback

PORT = int(sys.argv[1])
WITHOUT = sys.argv[3].split(",") if len(sys.argv) > 3 else []
RULES = []
HEADER = b"AMQP\x00\x00\x09\x01"
METHOD, CONTENT, BODY, HEARTBEAT = 1, 2, 3, 8


def rule(function):
    RULES.append(function)
    return function


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


EXCLUSIVE, DURABLE, PASSIVE = 4, 2, 1


@rule
def trap_1_a_wrong_header_is_answered_with_the_right_one():
    for wrong in (b"AMQP\x00\x00\x08\x00", b"GET / HT"):
        raw = Raw(wrong)
        assert raw.exactly(8) == HEADER and raw.ends()
    Raw(b"AMQP\x01\x01\x00\x09").expect(10, 10)


@rule
def trap_2_who_may_not_log_in_is_told_or_left_waiting():
    raw = Raw()
    raw.start_ok(response=b"\0guest\0wrong", authentication_failure_close=True)
    code, text = raw.closed()
    assert code == 403 and text.startswith(
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"), text
    for mechanism in ("PLAIN", "SCRAM-SHA-1"):
        raw, begun = Raw(), time.monotonic()
        raw.start_ok(mechanism, b"\0guest\0wrong")
        assert raw.ends() and time.monotonic() - begun > 0.9


@rule
def trap_4_channel_max_counts_open_channels():
    raw = Raw().opened(channels=(3, 900), channel_max=2)
    raw.method(7, 20, 10, b"\0")
    code, text = raw.closed()
    assert code == 530 and "(2) has reached the negotiated channel_max (2)" in text, text


@rule
def trap_4_a_tune_above_ours_is_refused():
    for wrong in ({"channel_max": 0}, {"frame_max": 0}, {"frame_max": 1 << 20}, {"channel_max": 65535}):
        raw = Raw().open(**wrong)
        if "v4" in WITHOUT:
            assert raw.ends()
        else:
            code, text = raw.closed()
            assert code == 530 and "is higher than the maximum allowed value" in text, text


@rule
def trap_5_no_such_vhost_and_no_such_method():
    code, text = Raw().open(vhost="nope").closed()
    assert (code, text) == (530, "NOT_ALLOWED - vhost nope not found"), text
    raw = Raw().opened()
    raw.method(1, 50, 99, bytes(9))
    assert raw.ends()


@rule
def trap_6_heartbeats_come_and_silence_ends_the_connection():
    raw, begun = Raw().opened(heartbeat=1), time.monotonic()
    kind, channel, payload = raw.frame()
    assert (kind, channel, payload) == (HEARTBEAT, 0, b"") and time.monotonic() - begun < 1.5
    assert raw.ends(6) and 1.5 < time.monotonic() - begun < 5, time.monotonic() - begun
    raw = Raw().opened()
    raw.send(HEARTBEAT, 1, b"")
    assert raw.closed()[0] in (501, 505)


@rule
def trap_7_frames_that_are_none_end_the_connection():
    def ending(data):
        raw = Raw().opened(frame_max=8192)
        raw.socket.sendall(data)
        return raw.closed()[0]
    assert ending(frame(BODY, 1, bytes(9000))) == 501
    assert ending(frame(METHOD, 1, struct.pack(">HH", 60, 10) + bytes(7))[:-1] + b"\0") == 501
    assert ending(frame(5, 1, b"")) == 501
    assert ending(frame(METHOD, 1, struct.pack(">HH", 50, 10))) in (501, 502)
    assert ending(frame(CONTENT, 1, struct.pack(">HHQ", 60, 0, 1) + b"\0\0")) == 505
    publish = frame(METHOD, 1, struct.pack(">HH", 60, 40) + b"\0\0\0\0\0")
    assert ending(publish + frame(METHOD, 1, struct.pack(">HH", 60, 10) + bytes(7))) == 505


@rule
def trap_7_bodies_are_split_at_the_agreed_frame_size():
    raw = Raw().opened(frame_max=8192)
    queue, *_ = raw.declared(flags=EXCLUSIVE)
    raw.method(1, 60, 40, b"\0\0\0" + short(queue) + b"\0")
    raw.send(CONTENT, 1, struct.pack(">HHQ", 60, 0, 20000) + b"\0\0")
    for size in (1, 8184, 8184, 3631):
        raw.send(BODY, 1, bytes(size))
    raw.publish(queue, b"")
    raw.consume(queue, "", flags=2)
    raw.expect(60, 21)
    assert raw.delivery()[2] == [8184, 8184, 3632]
    assert raw.delivery()[2] == []


@rule
def trap_8_hard_errors():
    def ending(class_id, method_id, arguments=b"", before=()):
        raw = Raw().opened()
        for channel, *method in before:
            raw.method(channel, *method)
        raw.method(1, class_id, method_id, arguments)
        return raw.closed()[0]
    assert ending(60, 10, struct.pack(">IHB", 1, 0, 0)) == 540
    assert ending(20, 20, b"\0") == 540
    assert ending(60, 110, b"\0") == 540
    assert ending(20, 10, b"\0") == 504
    raw = Raw().opened()
    raw.method(9, 60, 10, bytes(7))
    assert raw.closed()[0] == 504
    raw = Raw().opened()
    queue, *_ = raw.declared(flags=EXCLUSIVE)
    raw.consume(queue, "twice")
    raw.expect(60, 21)
    raw.consume(queue, "twice")
    assert raw.closed()[0] == 530
    raw = Raw().opened()
    raw.publish("x", flags=2)
    assert raw.closed()[0] == 540


@rule
def trap_10_a_closed_channel_is_silent_and_its_number_free():
    raw = Raw().opened()
    raw.declare("nope", PASSIVE)
    assert raw.closed(20, 40)[0] == 404
    raw.declare("ignored", EXCLUSIVE)
    raw.method(1, 20, 41)
    raw.method(1, 20, 10, b"\0")
    raw.expect(20, 11, 1)
    raw.method(1, 20, 40, struct.pack(">H", 200) + short("bye") + bytes(4))
    raw.method(1, 20, 10, b"\0")
    raw.expect(20, 41, 1)
    raw.expect(20, 11, 1)


@rule
def trap_11_passive_and_trap_13_names():
    raw = Raw().opened()
    name, *_ = raw.declared(flags=EXCLUSIVE)
    assert name.startswith("amq.gen-") and len(name) == 30, name
    assert raw.declared("", PASSIVE)[0] == name
    assert raw.declared(name, PASSIVE | DURABLE, table(x_max_length=1))[0] == name
    other = Raw().opened()
    other.declare(name, PASSIVE)
    assert other.closed(20, 40)[0] == 405
    raw.declare("amq.mine", EXCLUSIVE)
    assert raw.closed(20, 40)[0] == 403


@rule
def trap_12_what_is_compared_and_how_it_is_said():
    raw = Raw().opened()
    raw.declared("trap-12", EXCLUSIVE, table(x_max_length=3))
    raw.declared("trap-12", EXCLUSIVE, table(x_max_length=3, x_foo=1))
    raw.declare("trap-12", EXCLUSIVE, table(x_max_length=4))
    code, text = raw.closed(20, 40)
    assert code == 406 and text == (
        "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'trap-12' in vhost '/': "
        "received '4' but current is '3'"), text


@rule
def trap_14_deleting_what_is_not_there_is_fine():
    raw = Raw().opened()
    raw.method(1, 50, 40, b"\0\0" + short("nope") + b"\0")
    assert raw.expect(50, 41) == bytes(4)
    raw.method(1, 40, 20, b"\0\0" + short("nope") + b"\0")
    raw.expect(40, 21)
    raw.method(1, 50, 30, b"\0\0" + short("nope") + b"\0")
    assert raw.closed(20, 40)[0] == 404


@rule
def trap_16_cancelling_keeps_what_is_in_hand_and_recovering_gives_it_back():
    raw = Raw().opened()
    queue, *_ = raw.declared(flags=EXCLUSIVE)
    raw.publish(queue)
    raw.consume(queue, "c")
    raw.expect(60, 21)
    tag, again, _ = raw.delivery()
    assert not again
    raw.method(1, 60, 30, short("c") + b"\0")
    raw.expect(60, 31)
    assert raw.declared(queue, PASSIVE)[1:] == (0, 0)
    raw.method(1, 60, 110, b"\1")
    raw.expect(60, 111)
    assert raw.declared(queue, PASSIVE)[1:] == (1, 0)
    raw.consume(queue, "d")
    raw.expect(60, 21)
    assert raw.delivery()[1]


@rule
def trap_18_a_return_comes_before_its_confirm():
    raw = Raw().opened()
    raw.method(1, 85, 10, b"\0")
    raw.expect(85, 11)
    raw.publish("nowhere", flags=1)
    raw.expect(60, 50)
    assert raw.frame()[0] == CONTENT and raw.frame()[0] == BODY
    assert struct.unpack(">QB", raw.expect(60, 80))[0] == 1


@rule
def trap_20_who_loses_its_queue_is_told():
    raw = Raw().opened(channels=(1, 2), consumer_cancel_notify=True)
    queue, *_ = raw.declared(flags=EXCLUSIVE)
    raw.consume(queue, "told", channel=2)
    raw.expect(60, 21, 2)
    raw.method(1, 50, 40, b"\0\0" + short(queue) + b"\0")
    raw.expect(60, 30, 2)
    raw.expect(50, 41, 1)
    raw.method(1, 60, 30, short("unknown") + b"\0")
    raw.expect(60, 31)


@rule
def trap_22_auto_delete_waits_for_a_first_consumer():
    raw = Raw().opened()
    raw.declared("trap-22", 8)
    raw.declared("trap-22", PASSIVE)
    raw.consume("trap-22", "c")
    raw.expect(60, 21)
    raw.method(1, 60, 30, short("c") + b"\0")
    raw.expect(60, 31)
    raw.declare("trap-22", PASSIVE)
    assert raw.closed(20, 40)[0] == 404


@rule
def trap_27_exclusive_queues_end_with_the_connection():
    raw = Raw().opened()
    queue, *_ = raw.declared("trap-27", EXCLUSIVE)
    raw.method(1, 20, 40, struct.pack(">H", 200) + short("") + bytes(4))
    raw.expect(20, 41)
    raw.method(1, 20, 10, b"\0")
    raw.expect(20, 11)
    raw.declared(queue, PASSIVE)
    raw.method(0, 10, 50, struct.pack(">H", 200) + short("") + bytes(4))
    raw.expect(10, 51)
    other = Raw().opened()
    other.declare(queue, PASSIVE)
    assert other.closed(20, 40)[0] == 404


@rule
def trap_28_what_was_published_counts_before_the_close():
    raw = Raw().opened()
    raw.declared("trap-28", 8)
    raw.method(1, 85, 10, b"\0")
    raw.expect(85, 11)
    for _ in range(50):
        raw.publish("trap-28")
    raw.method(0, 10, 50, struct.pack(">H", 200) + short("") + bytes(4))
    raw.publish("trap-28")
    while struct.unpack(">HH", raw.frame()[2][:4]) != (10, 51):
        pass
    assert raw.ends()
    other = Raw().opened()
    assert other.declared("trap-28", PASSIVE)[1] == 50
    other.method(1, 50, 40, b"\0\0" + short("trap-28") + b"\0")
    other.expect(50, 41)


@rule
def trap_29_a_new_secret_is_taken():
    raw = Raw().opened()
    raw.method(0, 10, 70, long(b"new") + short("why"))
    raw.expect(10, 71, 0)


@rule
def trap_30_content_of_one_channel_stays_together():
    raw = Raw().opened(channels=(1, 2), frame_max=4096 if "v4" in WITHOUT else 8192)
    queues = [raw.declared(flags=EXCLUSIVE, channel=channel)[0] for channel in (1, 2)]
    for channel, queue in zip((1, 2), queues):
        raw.consume(queue, f"c{channel}", flags=2, channel=channel)
        raw.expect(60, 21)
    for _ in range(20):
        for channel, queue in zip((1, 2), queues):
            raw.method(channel, 60, 40, b"\0\0\0" + short(queue) + b"\0")
            raw.send(CONTENT, channel, struct.pack(">HHQ", 60, 0, 9000) + b"\0\0")
            for size in (4000, 4000, 1000):
                raw.send(BODY, channel, bytes(size))
        raw.method(1, 60, 10, bytes(7))
    missing, answers, whole = {1: 0, 2: 0}, 0, 0
    while whole < 40 or answers < 20:
        kind, channel, payload = raw.frame()
        if kind == METHOD:
            assert missing[channel] == 0, "a method inside a content"
            if payload[:4] == struct.pack(">HH", 60, 11):
                answers += 1
            else:
                missing[channel] = None
        elif kind == CONTENT:
            missing[channel] = struct.unpack(">Q", payload[4:12])[0]
        else:
            missing[channel] -= len(payload)
            whole += missing[channel] == 0


def main():
    failed = []
    outcomes = {}

    def try_one(function):
        try:
            function()
            outcomes[function] = None
        except Exception:
            outcomes[function] = traceback.format_exc()
    threads = [threading.Thread(target=try_one, args=(function,)) for function in RULES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for function in RULES:
        print("ok  " if outcomes[function] is None else "FAIL", function.__name__)
        if outcomes[function]:
            print(outcomes[function])
            failed.append(function.__name__)
    print(f"{len(RULES) - len(failed)} of {len(RULES)} hold")
    sys.exit(bool(failed))


main()
