"""Runs test suites that others wrote, unmodified, against a server, and counts.

    run.py [--strict] SERVER [NAME ...]     against the mainstem at the path SERVER
    run.py --rabbitmq [NAME ...]            against Debian's RabbitMQ, for the count beside it
    run.py --fetch [NAME ...]               only fetches and compiles

Most suites have their broker's address written in them, so everything runs in a network namespace
of its own, where localhost:5672, :5671 and :1883 are free. Fails if a case fails that `expected.json`
does not name with a reason, if one that is said to lose a race loses it three times, if fewer cases
run than `sources.json` says, or if a suite does not compile, or it or the server ends badly. What
cannot be tried here (a tool is missing, a source cannot be fetched) is said on lines that begin with
"not tried"; with --strict that fails too, and so does a reason in `expected.json` for what no longer
fails.
"""

import argparse
import ctypes
import fcntl
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request
import xml.etree.ElementTree as xml
from dataclasses import dataclass
from pathlib import Path

import fetch
from fetch import CACHE, FETCH, HERE, NEEDS, PYTHON, SOURCES

EXPECTED = json.loads((HERE / "expected.json").read_text())
SUITE_S = 240
# Of each program of a suite that waits much.
LONG_S = 900
START_S = 60
END_S = 30
# How often a suite runs of which a case loses a race.
RUNS_MAX = 3
CERTIFICATE_DAYS = 7


# Whom the suites log in as.
USERS = ("[{ name = 'guest', password = 'guest', tags = ['administrator'], loopback_only = true },"
         " { name = 'testuser', password = 'testpassword' }]")


@dataclass
class Program:
    """How a program of a suite ended, and what it said."""

    name: str
    code: int | None
    said: str

    def ended_badly(self, failed, failing=1):
        """Why its counts cannot be believed; `failing` is its exit code when cases failed."""
        if self.code is None:
            return f"{self.name} was stopped after its time"
        if self.code < 0:
            return f"{self.name} ended by signal {-self.code}"
        if self.code != (failing if failed else 0):
            return f"{self.name} ended with exit code {self.code} and {failed} failed cases"
        return None


# Running. Each answers its cases, as pairs of a name and an outcome (None if it passed, else
# "failed" or "skipped"; a name may come more than once), and what went wrong with the run itself.

def run(name, *command, cwd, env=None, limit_s=SUITE_S):
    code, said = fetch.run(command, limit_s, cwd, env)
    (CACHE / f"{name}.log").write_text(said)
    return Program(name, code, said)


def counted(program, cases, failing=1):
    failed = sum(outcome == "failed" for _, outcome in cases)
    bad = program.ended_badly(failed, failing)
    return cases, [bad] if bad else []


def by_junit(name, *command, reported, cwd, env=None):
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        program = run(name, *command, f"{reported}={report}", cwd=cwd, env=env)
        return counted(program, junit(report))


def junit(report):
    cases = []
    if report.exists() and report.stat().st_size:
        for case in xml.parse(report).iter("testcase"):
            outcome = None
            if case.find("failure") is not None or case.find("error") is not None:
                outcome = "failed"
            elif case.find("skipped") is not None:
                outcome = "skipped"
            module = case.get("classname", "").split(".")[-1]
            cases.append((f"{module}.{case.get('name')}", outcome))
    return cases


def by_lines(program, pattern, words, failing=1):
    found = re.finditer(pattern, program.said, re.M)
    return counted(program, [(case[2], words[case[1]]) for case in found], failing)


def pytest(name, folder, *arguments, **env):
    return by_junit(name, PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout",
                    "60", *arguments, reported="--junitxml", cwd=folder, env=env)


def pika(folder):
    return pytest("pika", folder, "-o", "python_files=*test*.py", "-o", "python_classes=",
                  "tests/acceptance")


def amqp(folder):
    # Every time: those of the last time may have run out.
    shutil.copytree(certificates(), folder / "t/certs", dirs_exist_ok=True)
    return pytest("amqp", folder, "t/integration")


def kombu(folder):
    return pytest("kombu", folder, "t/integration/test_py_amqp.py")


def amqplib(folder):
    return by_junit("amqplib", "node", "--test", "--test-reporter=junit",
                    reported="--test-reporter-destination", cwd=folder)


WORDS = {"PASS": None, "FAIL": "failed", "SKIP": "skipped"}


def amqp091_go(folder):
    program = run("amqp091-go", folder / "suite", "-test.v", "-test.timeout", f"{SUITE_S}s",
                  cwd=folder / "source", env={"AMQP_URL": "amqp://guest:guest@127.0.0.1:5672/"})
    return by_lines(program, r"^--- (PASS|FAIL|SKIP): (\S+)", WORDS)


def paho_go(folder):
    program = run("paho-go", folder / "suite", "-test.v", "-test.timeout", f"{SUITE_S}s",
                  cwd=folder / "source")
    return by_lines(program, r"^--- (PASS|FAIL|SKIP): (\S+)", WORDS)


def paho_python(folder):
    # Its broker is not published: what stands for it leads to the server.
    return pytest("paho-python", folder, "tests/test_mqttv5.py", PYTHONPATH=HERE / "paho_shim")


def gmqtt(folder):
    # Of its own folder: what it installs has a package `tests`, which would stand before others'.
    return pytest("gmqtt", folder, "tests", HOST="127.0.0.1", USERNAME="")


def paho_c(folder):
    """Connections that the tests want cut go by way of a program of theirs."""
    with tempfile.TemporaryDirectory() as place, subprocess.Popen(
            [PYTHON, "mqttsas.py"], cwd=folder / "source/test", stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as cutter:
        report = Path(place) / "report.xml"
        # The same tests are there twice, linked both ways.
        try:
            program = run("paho-c", "ctest", "--exclude-regex", "static$", "--timeout", "100",
                          "--output-junit", report, cwd=folder / "build", limit_s=LONG_S)
        finally:
            cutter.kill()
        return counted(program, junit(report), failing=8)


def hivemq(folder):
    program = run("hivemq", "java", "-cp", "classes:lib/*", "HiveMqSuite", cwd=folder)
    return by_lines(program, r"^(PASS|FAIL) (\S+)", WORDS)


def lapin(folder):
    cases, bad = [], []
    for path in sorted((folder / "target/debug/deps").iterdir()):
        test = path.name.rpartition("-")[0]
        if path.suffix or not (folder / f"source/tests/{test}.rs").exists():
            continue
        program = run(f"lapin-{test}", path, "--format=pretty", cwd=folder / "source")
        # Pretty says the case first: turned about for the pattern's sake.
        said = re.sub(r"^test (\S+) \.\.\. (ok|FAILED|ignored)", r"\2 \1", program.said,
                      flags=re.M)
        program = Program(program.name, program.code, said)
        words = {"ok": None, "FAILED": "failed", "ignored": "skipped"}
        found, ending = by_lines(program, r"^(ok|FAILED|ignored) (\S+)", words, failing=101)
        cases += [(f"{test}.{case}", outcome) for case, outcome in found]
        bad += ending
    return cases, bad


def java(folder):
    program = run("java", "java", "-Dbroker.hostname=localhost", "-Dbroker.port=5672",
                  "-cp", "classes:lib/*:src/test/resources", "JavaSuite", cwd=folder)
    return by_lines(program, r"^(PASS|FAIL|SKIP) (\S+)", WORDS)


def spring(folder):
    program = run("spring", "java", "-cp", "classes:lib/*", "SpringSuite", cwd=folder)
    return by_lines(program, r"^(PASS|FAIL) (\S+)", WORDS)


def celery(_folder):
    program = run("celery", PYTHON, HERE / "celery_run.py", cwd=HERE)
    return by_lines(program, r"^(PASS|FAIL) (\S+)", WORDS)


def tools(name, *program):
    program = run(name, PYTHON, HERE / "tools_run.py", name, *program, cwd=HERE)
    return by_lines(program, r"^(PASS|FAIL) (\S+)", WORDS)


def rabbitmqadmin(folder):
    return tools("rabbitmqadmin", f"{PYTHON}|{folder / 'rabbitmqadmin'}")


def rabbitmqadmin_ng(folder):
    return tools("rabbitmqadmin-ng", folder / "bin/rabbitmqadmin")


def exporter(folder):
    return tools("exporter", folder / "exporter")


def flower(_folder):
    return tools("flower")


def rabbit_hole(folder):
    """It wants what its `bin/ci/before_build.sh` makes with RabbitMQ's own tools."""
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    for path, body in (("vhosts/rabbit%2Fhole", {}),
                       ("permissions/rabbit%2Fhole/guest", everything),
                       ("users/policymaker", {"password": "policymaker", "tags": "policymaker"}),
                       ("permissions/%2F/policymaker", everything)):
        request = urllib.request.Request(f"http://127.0.0.1:15672/api/{path}", method="PUT",
                                         data=json.dumps(body).encode())
        request.add_header("Authorization", "Basic Z3Vlc3Q6Z3Vlc3Q=")
        urllib.request.urlopen(request, timeout=END_S).close()
    return by_junit("rabbit-hole", folder / "suite", reported="-ginkgo.junit-report",
                    cwd=folder / "source")


RUN = {"pika": pika, "amqp": amqp, "kombu": kombu, "amqplib": amqplib, "amqp091-go": amqp091_go,
       "java": java, "spring": spring, "celery": celery, "hivemq": hivemq, "paho-go": paho_go,
       "gmqtt": gmqtt, "paho-python": paho_python, "paho-c": paho_c, "lapin": lapin,
       "rabbitmqadmin": rabbitmqadmin, "rabbitmqadmin-ng": rabbitmqadmin_ng, "exporter": exporter,
       "flower": flower, "rabbit-hole": rabbit_hole}


# The server, in a network of its own.

def own_network():
    """Moves this process into a network namespace that has a loopback alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_user, new_net = 0x10000000, 0x40000000
    if libc.unshare(new_net) and libc.unshare(new_user | new_net):
        return False
    try:
        with socket.socket() as any_socket:
            get_flags, set_flags, up = 0x8913, 0x8914, 1
            request = struct.pack("16sH14x", b"lo", 0)
            flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, get_flags, request))[1]
            fcntl.ioctl(any_socket, set_flags, struct.pack("16sH14x", b"lo", flags | up))
    except PermissionError:
        # Some systems give a namespace without the right to do anything in it.
        return False
    return True


def everywhere():
    """The address that means all of this machine's."""
    try:
        with socket.socket(socket.AF_INET6) as any_socket:
            any_socket.bind(("::", 0))
    except OSError:
        return "0.0.0.0"
    return "[::]"


def certificates():
    """The folder with an authority, a server, a client that is the user guest, and a client of
    nobody's."""
    made = CACHE / "certificates"
    with fetch.alone():
        if not made.exists() or time.time() - made.stat().st_mtime > CERTIFICATE_DAYS * 86400:
            making = CACHE / "certificates.new"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            fetch.sh("bash", HERE / "certificates.sh", cwd=making)
            shutil.rmtree(made, ignore_errors=True)
            making.rename(made)
    return made


def mainstem(binary, data):
    made, everything = certificates(), everywhere()
    settings = {
        "data_dir": data, "tls.certificate": made / "server_certificate.pem",
        "tls.key": made / "server_key.pem", "listeners.amqp.bind": f"{everything}:5672",
        "listeners.amqps.bind": f"{everything}:5671",
        "listeners.amqps.client_ca": made / "ca_certificate.pem",
        "listeners.mqtt.bind": f"{everything}:1883", "listeners.mqtts.bind": f"{everything}:8883",
        "listeners.rocketmq.bind": "127.0.0.1:0",
        "listeners.http.bind": "127.0.0.1:15672", "users": USERS}
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return [str(Path(binary).resolve()), "serve", *sets], {}


def rabbitmq(data):
    made, everything = certificates(), everywhere().strip("[]")
    (data / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = {everything}:5672\nlisteners.ssl.1 = {everything}:5671\n"
        f"ssl_options.cacertfile = {data}/ca_certificate.pem\n"
        f"ssl_options.certfile = {data}/server_certificate.pem\n"
        f"ssl_options.keyfile = {data}/server_key.pem\n"
        "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false\n")
    (data / "plugins").write_text("[rabbitmq_management].\n")
    for name in ("ca_certificate.pem", "server_certificate.pem", "server_key.pem"):
        shutil.copy(made / name, data)
    fetch.sh("chmod", "-R", "a+rwX", data)
    return ["/usr/lib/rabbitmq/bin/rabbitmq-server"], {
        "RABBITMQ_NODENAME": "suites@localhost", "RABBITMQ_MNESIA_BASE": f"{data}/mnesia",
        "RABBITMQ_LOG_BASE": f"{data}/log", "RABBITMQ_CONFIG_FILE": f"{data}/rabbitmq.conf",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{data}/plugins", "HOME": str(data),
        "ERL_EPMD_ADDRESS": "127.0.0.1"}


def listens(process):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", 5672), 1).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


def ended(process):
    """Asks the server to end; its exit code."""
    process.terminate()
    try:
        return process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


# Judging.

def excuses(name, cases):
    """The reason of each failed case that has one, and the reasons that nothing needs any more."""
    reasons, stale = {}, []
    for pattern, why in EXPECTED.get(name, {}).items():
        outcomes = {case: outcome for case, outcome in cases if re.fullmatch(pattern, case)}
        failed = [case for case, outcome in outcomes.items() if outcome == "failed"]
        reasons.update((case, why.get("race") or why["differs"]) for case in failed)
        # One that loses its race only sometimes has to be there.
        if len(failed) < len(outcomes) and "race" not in why or not outcomes:
            stale.append(f"{name} {pattern}: excused, and does not fail")
    return reasons, stale


def races_lost(name, cases):
    """The failed cases that are excused because they lose a race, and not always."""
    patterns = [pattern for pattern, why in EXPECTED.get(name, {}).items() if "race" in why]
    return {case for case, outcome in cases if outcome == "failed"
            and any(re.fullmatch(pattern, case) for pattern in patterns)}


def run_again(name, folder, cases):
    """Runs a suite whose cases lost races again; those that always lose, and what went wrong."""
    lost, bad = races_lost(name, cases), []
    for _ in range(RUNS_MAX - 1):
        if not lost:
            break
        print(f"  again, since a race was lost: {', '.join(sorted(lost))}", flush=True)
        again, ending = RUN[name](folder)
        failed = {case for case, outcome in again if outcome == "failed"}
        lost -= {case for case, outcome in again if outcome is None} - failed
        bad += ending
    return [f"{name} {case} failed {RUNS_MAX} times" for case in sorted(lost)] + bad


def judge(name, cases, strict):
    """Prints a suite's counts; what should not be so."""
    reasons, stale = excuses(name, cases)
    failed = [case for case, outcome in cases if outcome == "failed"]
    skipped = sum(outcome == "skipped" for _, outcome in cases)
    print(f"{name}: {len(cases) - len(failed) - skipped} passed, {len(failed)} failed, "
          f"{skipped} skipped", flush=True)
    for case in failed:
        print(f"  {case}: {reasons.get(case, 'UNEXPECTED')}", flush=True)
    wrong = [f"{name} {case}" for case in failed if case not in reasons]
    ran, least = len(cases) - skipped, SOURCES[name]["least"]
    if ran < least:
        wrong.append(f"{name} ran {ran} cases, and has {least}")
    return wrong + (stale if strict else [])


class Tally:
    """What could not be tried, and what went wrong."""

    def __init__(self, strict):
        self.strict, self.wrong, self.untried = strict, [], []

    def not_tried(self, name, why):
        self.untried.append(name)
        print(f"not tried: {name}: {why}", flush=True)

    def exit(self):
        wrong = self.wrong + ([f"not tried: {name}" for name in self.untried] if self.strict else [])
        if wrong:
            print(f"failed, and should not (see {CACHE}/*.log): " + ", ".join(wrong), flush=True)
        raise SystemExit(bool(wrong))


def fetched(names, tally):
    """The folders of the suites that can be tried here."""
    folders = {}
    for name in names:
        missing = [tool for tool in ["openssl", *NEEDS.get(name, [])] if not shutil.which(tool)]
        if missing:
            tally.not_tried(name, f"there is no {' or '.join(missing)} here")
            continue
        try:
            with fetch.alone():
                folders[name] = FETCH[name]()
        except (fetch.Failed, OSError) as error:
            tally.not_tried(name, f"it could not be fetched: {error}")
        except fetch.NotCompiled as error:
            print(f"{name} does not compile: {error}", flush=True)
            tally.wrong.append(f"{name} does not compile")
    return folders


def run_all(command, env, folders, tally, judged):
    """Starts the server and runs the suites against it."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=output,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        before = len(tally.wrong)
        try:
            if not listens(process):
                tally.wrong.append("the server did not start")
                return
            for name, folder in folders.items():
                begun = time.monotonic()
                cases, bad = RUN[name](folder)
                wrong = judge(name, cases, tally.strict) + bad
                if judged:
                    wrong += run_again(name, folder, cases)
                tally.wrong += wrong if judged else bad
                print(f"  {time.monotonic() - begun:.0f} s", flush=True)
            if process.poll() is not None:
                tally.wrong.append("the server ended")
        finally:
            code = ended(process)
            if code != 0 and judged:
                tally.wrong.append(f"the server ended with exit code {code}" if code is not None
                                   else f"the server did not end within {END_S} s")
            if len(tally.wrong) > before:
                output.seek(0)
                print("the server said at last:\n" + output.read()[-3000:], flush=True)


def main():
    asked = argparse.ArgumentParser(usage=__doc__)
    asked.add_argument("--strict", action="store_true")
    asked.add_argument("--rabbitmq", action="store_true")
    asked.add_argument("--fetch", action="store_true")
    asked.add_argument("words", nargs="*")
    asked = asked.parse_args()
    server = None if asked.rabbitmq or asked.fetch else asked.words.pop(0) if asked.words else ""
    names = asked.words or list(RUN)
    if server == "" or (unknown := set(names) - set(RUN)):
        raise SystemExit(__doc__ if server == "" else f"no such suite: {', '.join(unknown)}")
    # Nothing is left in the clone.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    tally = Tally(asked.strict or asked.fetch)
    folders = fetched(names, tally)
    if folders and not asked.fetch:
        if own_network():
            with tempfile.TemporaryDirectory() as data:
                data = Path(data)
                command, env = rabbitmq(data) if asked.rabbitmq else mainstem(server, data)
                run_all(command, env, folders, tally, judged=not asked.rabbitmq)
                if asked.rabbitmq:
                    # Its port mapper outlives it, and keeps the namespace.
                    fetch.run(["epmd", "-kill"], END_S)
        else:
            tally.not_tried(" ".join(folders), "a network namespace cannot be made here, and the "
                            "suites want port 5672")
    tally.exit()


main()
