"""Operators' tools that others wrote, each as it is, against the management API on port 15672: what they
are told to do is there afterwards, and what they say is so. Prints PASS or FAIL for each case.

    tools_run.py rabbitmqadmin|rabbitmqadmin-ng|exporter|flower PROGRAM
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pika

WAIT_S = 30
API = "http://127.0.0.1:15672/api/"
PROGRAM = sys.argv[2] if len(sys.argv) > 2 else ""


def api(path, method="GET", body=None):
    """What the server says itself."""
    request = urllib.request.Request(API + path, method=method,
                                     data=None if body is None else json.dumps(body).encode())
    request.add_header("Authorization", "Basic Z3Vlc3Q6Z3Vlc3Q=")
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def is_there(path):
    try:
        api(path)
        return True
    except urllib.error.HTTPError as error:
        assert error.code == 404, error
        return False


def run(*arguments, code=0, given=None):
    done = subprocess.run([*PROGRAM.split("|"), *arguments], capture_output=True, text=True,
                          timeout=WAIT_S, input=given)
    said = done.stdout + done.stderr
    assert done.returncode == code, f"{arguments}: exit code {done.returncode}: {said[-600:]}"
    return done.stdout


def connection():
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1"))


def until(look, what):
    deadline = time.monotonic() + WAIT_S
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return found


# rabbitmqadmin, which RabbitMQ ships.

def listed(*arguments):
    return json.loads(run("-f", "raw_json", "list", *arguments))


def declares_and_deletes():
    run("declare", "vhost", "name=tool")
    run("declare", "user", "name=ann", "password=secret", "tags=monitoring")
    run("declare", "permission", "vhost=tool", "user=ann", "configure=^a", "write=.*", "read=.*")
    run("declare", "exchange", "name=t.x", "type=topic", "durable=true")
    run("declare", "queue", "name=t.q", "durable=true", 'arguments={"x-max-length": 10}')
    run("declare", "binding", "source=t.x", "destination=t.q", "routing_key=a.#")
    run("declare", "policy", "name=t.p", "pattern=^t", 'definition={"message-ttl": 60000}',
        "apply-to=queues")
    assert api("queues/%2F/t.q")["arguments"] == {"x-max-length": 10}
    assert api("queues/%2F/t.q")["policy"] == "t.p"
    assert api("permissions/tool/ann")["configure"] == "^a"
    assert [bound["routing_key"] for bound in api("bindings/%2F/e/t.x/q/t.q")] == ["a.#"]
    for what in ("binding source=t.x destination_type=queue destination=t.q properties_key=a.%23",
                 "policy name=t.p", "queue name=t.q", "exchange name=t.x", "vhost name=tool",
                 "user name=ann"):
        run("delete", *what.split())
    assert not any(map(is_there, ["queues/%2F/t.q", "exchanges/%2F/t.x", "vhosts/tool", "users/ann",
                                  "policies/%2F/t.p"]))


def publishes_and_gets():
    run("declare", "queue", "name=t.g", "durable=true")
    assert "NOT" not in run("publish", "routing_key=t.g", "payload=hello")
    assert "NOT routed" in run("publish", "routing_key=t.nowhere", "payload=x")
    got = json.loads(run("-f", "raw_json", "get", "queue=t.g", "ackmode=ack_requeue_false"))
    assert [message["payload"] for message in got] == ["hello"]
    run("publish", "routing_key=t.g", "payload=gone")
    run("purge", "queue", "name=t.g")
    assert json.loads(run("-f", "raw_json", "get", "queue=t.g")) == []


def lists_everything():
    with connection() as client:
        channel = client.channel()
        channel.queue_declare("t.l")
        channel.basic_consume("t.l", lambda *_: None, consumer_tag="mine")
        assert [one["user"] for one in listed("connections")] == ["guest"]
        assert [one["consumer_count"] for one in listed("channels")] == [1]
        assert [one["consumer_tag"] for one in listed("consumers")] == ["mine"]
        assert "t.l" in [one["name"] for one in listed("queues", "name", "messages")]
        assert listed("nodes")[0]["running"] is True
        for what in ("exchanges", "bindings", "users", "vhosts", "permissions"):
            assert listed(what), what
        for what in ("parameters", "policies", "operator_policies", "vhost_limits"):
            assert listed(what) == [], what
        for form in ("tsv", "long", "table", "kvp", "pretty_json", "bash"):
            assert "t.l" in run("-f", form, "list", "queues"), form
        run("close", "connection", f"name={listed('connections')[0]['name']}")
        try:
            client.process_data_events(5)
            raise AssertionError("the connection is still there")
        except pika.exceptions.ConnectionClosed:
            pass


def shows_rates():
    with connection() as client:
        channel = client.channel()
        channel.confirm_delivery()
        channel.queue_declare("t.r")
        for _ in range(20):
            channel.basic_publish("", "t.r", b"x")

        def told():
            queues = listed("queues", "name", "messages", "message_stats.publish",
                            "message_stats.publish_details.rate")
            found = [one for one in queues if one["name"] == "t.r"][0]
            stats = found.get("message_stats", {})
            return stats.get("publish") == 20 and stats["publish_details"]["rate"] > 0

        until(told, "no rate")
        overview = json.loads(run("-f", "raw_json", "show", "overview"))[0]
        assert overview["message_stats"]["publish"] >= 20, overview


def exports_and_imports():
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/definitions.json"
        run("declare", "queue", "name=t.e", "durable=true")
        run("export", file)
        assert "t.e" in [queue["name"] for queue in json.loads(Path(file).read_text())["queues"]]
        run("delete", "queue", "name=t.e")
        run("import", file)
        assert is_there("queues/%2F/t.e")


def says_what_is_wrong():
    said = failing("delete", "queue", "name=none")
    assert "Not found" in said, said
    run("declare", "queue", "name=t.w", "durable=true")
    said = failing("declare", "queue", "name=t.w", "durable=false")
    assert "inequivalent arg" in said, said
    said = failing("-p", "wrong", "list", "queues")
    assert "Access refused" in said, said


def failing(*arguments):
    done = subprocess.run([*PROGRAM.split("|"), *arguments], capture_output=True, text=True,
                          timeout=WAIT_S)
    assert done.returncode != 0, f"{arguments}: {done.stdout}"
    return done.stdout + done.stderr


# The newer rabbitmqadmin, a crate.

def rows(*arguments):
    """What a list says; the first row names the columns."""
    said = run("--non-interactive", *arguments)
    return [line for line in said.splitlines() if line.strip()]


def ng_declares_and_deletes():
    run("vhosts", "declare", "--name", "ng")
    run("users", "declare", "--name", "bob", "--password", "secret", "--tags", "monitoring")
    run("--vhost", "ng", "permissions", "declare", "--user", "bob", "--configure", "^a",
        "--write", ".*", "--read", ".*")
    run("exchanges", "declare", "--name", "n.x", "--type", "topic", "--durable", "true")
    run("queues", "declare", "--name", "n.q", "--type", "quorum", "--durable", "true")
    run("bindings", "declare", "--source", "n.x", "--destination-type", "queue",
        "--destination", "n.q", "--routing-key", "a.#")
    run("policies", "declare", "--name", "n.p", "--pattern", "^n", "--apply-to", "queues",
        "--priority", "1", "--definition", '{"max-length": 100}')
    assert api("queues/%2F/n.q")["type"] == "quorum"
    assert api("queues/%2F/n.q")["policy"] == "n.p"
    assert api("permissions/ng/bob")["configure"] == "^a"
    run("bindings", "delete", "--source", "n.x", "--destination-type", "queue",
        "--destination", "n.q", "--routing-key", "a.#")
    run("policies", "delete", "--name", "n.p")
    run("queues", "delete", "--name", "n.q")
    run("exchanges", "delete", "--name", "n.x")
    run("users", "delete", "--name", "bob")
    run("vhosts", "delete", "--name", "ng")
    assert not any(map(is_there, ["queues/%2F/n.q", "exchanges/%2F/n.x", "vhosts/ng", "users/bob",
                                  "policies/%2F/n.p"]))


def ng_publishes_and_gets():
    run("queues", "declare", "--name", "n.g", "--type", "classic", "--durable", "true")
    run("publish", "message", "--routing-key", "n.g", "--payload", "hello")
    assert any("hello" in row for row in rows("get", "messages", "--queue", "n.g", "--count", "1",
                                              "--ack-mode", "ack_requeue_false"))
    run("publish", "message", "--routing-key", "n.g", "--payload", "gone")
    run("queues", "purge", "--name", "n.g")
    assert api("queues/%2F/n.g")["messages"] == 0


def ng_lists_everything():
    with connection() as client:
        channel = client.channel()
        channel.queue_declare("n.l")
        channel.basic_consume("n.l", lambda *_: None, consumer_tag="mine")
        for what, name in (("queues", "n.l"), ("connections", "127.0.0.1"), ("channels", "127"),
                           ("exchanges", "amq.topic"), ("vhosts", "/"),
                           ("users", "guest"), ("permissions", "guest"), ("nodes", "rabbit@")):
            assert any(name in row for row in rows(what, "list")), (what, rows(what, "list"))
        assert any("n.l" in row for row in rows("bindings", "list"))
        assert any("mine" in row for row in rows("list", "consumers"))
        for what in ("policies", "parameters"):
            run(what, "list_all" if what == "parameters" else "list")


def ng_shows_the_server():
    assert any("Mainstem" in row for row in rows("show", "overview"))
    rows("show", "churn")
    rows("feature_flags", "list")
    rows("deprecated_features", "list")
    run("health_check", "local_alarms")
    run("health_check", "cluster_wide_alarms")
    run("health_check", "node_is_quorum_critical")
    run("health_check", "port_listener", "--port", "5672")
    failing("health_check", "port_listener", "--port", "5999")


def ng_exports_and_imports():
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/definitions.json"
        run("queues", "declare", "--name", "n.e", "--type", "classic", "--durable", "true")
        run("definitions", "export", "--file", file)
        assert "n.e" in [queue["name"] for queue in json.loads(Path(file).read_text())["queues"]]
        run("queues", "delete", "--name", "n.e")
        run("definitions", "import", "--file", file)
        assert is_there("queues/%2F/n.e")


def ng_says_what_is_wrong():
    failing("queues", "delete", "--name", "none")
    failing("--password", "wrong", "queues", "list")


# An exporter for Prometheus.

EXPORTED = [
    *(f'rabbitmq_module_up\\{{.*module="{module}".*\\}} 1' for module in (
        "aliveness", "connections", "exchange", "federation", "node", "overview", "queue", "shovel")),
    r"rabbitmq_up\{.*\} 1",
    r'rabbitmq_queue_messages_ready\{.*queue="x.q".*\} 6',
    r'rabbitmq_queue_messages_published_total\{.*queue="x.q".*\} 7',
    r"rabbitmq_node_disk_free\{.*\} [1-9].*",
    r"rabbitmq_fd_available\{.*\} [1-9].*",
    r"rabbitmq_queues\{.*\} [1-9].*",
    r'rabbitmq_exchange_messages_published_in_total\{.*exchange="x.x".*\} 7',
]

def exporter_tells_what_is_there():
    port = 19419
    with connection() as client:
        channel = client.channel()
        channel.confirm_delivery()
        channel.exchange_declare("x.x", "fanout")
        channel.queue_declare("x.q", durable=True)
        channel.queue_bind("x.q", "x.x")
        for _ in range(7):
            channel.basic_publish("x.x", "", b"x")
        channel.basic_get("x.q", auto_ack=True)
        environment = {
            **os.environ, "RABBIT_URL": "http://127.0.0.1:15672", "PUBLISH_PORT": str(port),
            "PUBLISH_ADDR": "127.0.0.1", "RABBIT_CAPABILITIES": "no_sort",
            "RABBIT_EXPORTERS": "connections,exchange,node,overview,queue,aliveness,shovel,federation",
            "LOG_LEVEL": "warning", "RABBIT_CONNECTION": "direct"}
        process = subprocess.Popen([PROGRAM], env=environment, stdin=subprocess.DEVNULL)

        def missing():
            """What it should say and does not."""
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as read:
                    page = read.read().decode()
            except OSError:
                return ["a page"]
            return [line for line in EXPORTED if not re.search(f"^{line}$", page, re.M)]

        try:
            until(lambda: not missing(), "it does not say what is there")
        finally:
            print("missing:", missing())
            process.terminate()
            process.wait(WAIT_S)


# Flower, which shows Celery's workers and their queues.

def flower_shows_workers_and_queues():
    port = 19555
    environment = {**os.environ, "C_FORCE_ROOT": "1", "FLOWER_UNAUTHENTICATED_API": "true",
                   "FLOWER_BROKER_API": "http://guest:guest@127.0.0.1:15672/api/"}
    broker = "amqp://guest:guest@127.0.0.1:5672//"
    celery = [sys.executable, "-m", "celery", "-b", broker]
    quiet = {"stdin": subprocess.DEVNULL, "env": environment}
    worker = subprocess.Popen([*celery, "worker", "-c", "1", "-l", "warning", "-n", "seen@here",
                               "-Q", "seen"], **quiet)
    flower = subprocess.Popen([*celery, "flower", "--address=127.0.0.1", f"--port={port}"], **quiet)

    def asked(path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as read:
                return read.read().decode()
        except OSError:
            return ""

    try:
        until(lambda: "seen@here" in asked("api/workers?refresh=1"), "no worker")
        # It is known which queues there are when a worker has told.
        def told():
            asked("api/workers?refresh=1")
            queues = json.loads(asked("api/queues/length") or "{}").get("active_queues", [])
            return [(queue["name"], queue["messages"]) for queue in queues] == [("seen", 0)]

        until(told, "no queues")
        page = until(lambda: asked("broker"), "no page")
        assert re.search(r"<td[^>]*>\s*seen\s*</td>", page), page[-3000:]
    finally:
        for process in (flower, worker):
            process.terminate()
            process.wait(WAIT_S)


CASES = {
    "rabbitmqadmin": [declares_and_deletes, publishes_and_gets, lists_everything, shows_rates,
                      exports_and_imports, says_what_is_wrong],
    "rabbitmqadmin-ng": [ng_declares_and_deletes, ng_publishes_and_gets, ng_lists_everything,
                         ng_shows_the_server, ng_exports_and_imports, ng_says_what_is_wrong],
    "exporter": [exporter_tells_what_is_there],
    "flower": [flower_shows_workers_and_queues],
}


def main():
    failed = False
    for case in CASES[sys.argv[1]]:
        try:
            case()
            print("PASS", case.__name__, flush=True)
        except Exception as error:
            failed = True
            print("FAIL", case.__name__, type(error).__name__, error, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
