"""What a job may expect that reads by offset, with the calls of the protocol itself: no SDK has them.

Run as `rocketmq_offsets.py PORT`. Ends with 0 when every rule held, and says each.
"""

import sys
import time

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rocketmq import (ClientConfiguration, Credentials, FilterExpression, Message, Producer,
                      SimpleConsumer)
from rocketmq.grpc_protocol import definition_pb2 as definition
from rocketmq.grpc_protocol import service_pb2 as service
from rocketmq.grpc_protocol.service_pb2_grpc import MessagingServiceStub

ADDRESS = f"127.0.0.1:{sys.argv[1]}"
STUB = MessagingServiceStub(grpc.insecure_channel(ADDRESS))
JOB = (("x-mq-client-id", "a-job"), ("x-mq-language", "PYTHON"))
COUNT = 100
OK, NOT_FOUND = 20000, 40401
ILLEGAL_OFFSET, OFFSET_NOT_FOUND = 40019, 40404


def resource(name):
    return definition.Resource(name=name)


def queue(topic):
    return definition.MessageQueue(topic=resource(topic), id=0)


def pull(topic, offset, wait_s=1, tags="*"):
    """The code, the bodies, and where to go on."""
    request = service.PullMessageRequest(
        group=resource("job"), message_queue=queue(topic), offset=offset, batch_size=32,
        filter_expression=definition.FilterExpression(type=1, expression=tags),
        long_polling_timeout=Duration(seconds=wait_s))
    code, bodies, following = None, [], None
    for part in STUB.PullMessage(request, metadata=JOB):
        kind = part.WhichOneof("content")
        if kind == "status":
            code = part.status.code
        elif kind == "message":
            bodies.append(part.message.body.decode())
        else:
            following = part.next_offset
    return code, bodies, following


def read_all(topic, offset, tags="*"):
    bodies = []
    while True:
        code, some, following = pull(topic, offset, wait_s=0, tags=tags)
        if code == NOT_FOUND and following == offset:
            return bodies
        bodies += some
        offset = following


def query(topic, policy, time_s=None):
    request = service.QueryOffsetRequest(message_queue=queue(topic), query_offset_policy=policy)
    if time_s is not None:
        request.timestamp.CopyFrom(Timestamp(seconds=int(time_s), nanos=int(time_s % 1 * 1e9)))
    answer = STUB.QueryOffset(request, metadata=JOB)
    assert answer.status.code == OK, answer
    return answer.offset


def commit(topic, offset):
    request = service.UpdateOffsetRequest(
        group=resource("job"), message_queue=queue(topic), offset=offset)
    return STUB.UpdateOffset(request, metadata=JOB).status.code


def committed(topic):
    request = service.GetOffsetRequest(group=resource("job"), message_queue=queue(topic))
    answer = STUB.GetOffset(request, metadata=JOB)
    return answer.offset if answer.status.code == OK else answer.status.code


def fill(topic):
    producer = Producer(ClientConfiguration(ADDRESS, Credentials()), (topic,))
    producer.startup()
    for number in range(COUNT):
        message = Message()
        message.topic = topic
        message.tag = "even" if number % 2 == 0 else "odd"
        message.body = str(number).encode()
        producer.send(message)
        if number == COUNT // 2 - 1:
            time.sleep(0.1)
            middle = time.time()
            time.sleep(0.1)
    producer.shutdown()
    return middle


def offsets():
    middle = fill("history")
    everything = [str(number) for number in range(COUNT)]
    # Everybody reads all of it, and nothing is taken.
    assert read_all("history", 0) == read_all("history", 0) == everything
    assert read_all("history", 0, "odd") == everything[1::2]
    assert query("history", definition.BEGINNING) == 0
    assert query("history", definition.END) == COUNT
    at = query("history", definition.TIMESTAMP, middle)
    assert read_all("history", at) == everything[COUNT // 2:], at
    assert pull("history", COUNT + 1) == (ILLEGAL_OFFSET, [], COUNT)


def commits():
    assert committed("history") == OFFSET_NOT_FOUND
    assert commit("history", COUNT + 1) == ILLEGAL_OFFSET
    assert commit("history", COUNT - 3) == OK
    assert committed("history") == COUNT - 3
    # The group is one, by whichever call it reads.
    reader = SimpleConsumer(ClientConfiguration(ADDRESS, Credentials()), "job",
                            {"history": FilterExpression()}, await_duration=2)
    reader.startup()
    found = reader.receive(32, 30)
    assert [each.body.decode() for each in found] == ["97", "98", "99"], found
    for each in found:
        reader.ack(each)
    assert committed("history") == COUNT
    assert commit("history", 0) == OK
    assert len(reader.receive(32, 30)) == 32
    reader.shutdown()


for rule in (offsets, commits):
    rule()
    print(f"{rule.__name__}: held", flush=True)
