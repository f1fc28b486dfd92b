"""Runs test suites that others wrote, unmodified, against a server, and counts.

    run.py SERVER [NAME ...]            against the mainstem at the path SERVER
    run.py --rabbitmq [NAME ...]        against Debian's RabbitMQ, for the count beside it
    run.py --fetch [NAME ...]           only fetches and compiles

The sources come from where their projects publish them, at the versions in `sources.json`, and are
kept in the tools' cache. Most suites have their broker's address written in them, so everything
runs in a network namespace of its own, where localhost:5672 and :5671 are free. Fails if a case
fails that `expected.json` does not name with a reason.
"""

import ctypes
import fcntl
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as xml
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = Path(os.environ.get("MAINSTEM_TOOLS", Path.home() / ".cache/mainstem/tools"))
CACHE = TOOLS / "suites"
SOURCES = json.loads((HERE / "sources.json").read_text())
EXPECTED = json.loads((HERE / "expected.json").read_text())
PYTHON = CACHE / "python/bin/python"
APT = "/usr/lib/apt/apt-helper"
SUITE_S = 600
START_S = 60


def sh(*command, cwd=None, env=None, **options):
    """Runs what must succeed, quietly."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, stdin=subprocess.DEVNULL,
                          env={**os.environ, **(env or {})}, capture_output=True, text=True,
                          **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def run(*command, cwd, env=None):
    """Runs a suite, and answers what it said."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([str(part) for part in command], cwd=cwd, stdout=out,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   env={**os.environ, **(env or {})})
        try:
            process.wait(SUITE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print(f"  stopped after {SUITE_S} s")
        out.seek(0)
        said = out.read()
    (CACHE / f"{Path(cwd).name}.log").write_text(said)
    return said


# Fetching. Each answers the folder of a suite's source, fetched and compiled once.

def once(name):
    """Makes the decorated fetcher run once for each version, into an empty folder."""
    def decorate(fetch):
        def folder():
            version = SOURCES[name]["version"]
            place = CACHE / f"{name}-{version}"
            if not (place / ".done").exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                print(f"suites: fetching {name} {version}", flush=True)
                fetch(place, version)
                (place / ".done").touch()
            return place
        return folder
    return decorate


def unpack(archive, place):
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            # Without the archive's own top folder.
            member.name = member.name.partition("/")[2]
            if member.name and ".." not in member.name.split("/"):
                tar.extract(member, place)
    Path(archive).unlink()


def download(name, place):
    """A Debian source archive, checked: it has the tests that the packages leave out."""
    source = SOURCES[name]
    archive = place / "archive.tar"
    sh(APT, "download-file", source["url"], archive, f"SHA256:{source['sha256']}")
    unpack(archive, place)


def python():
    """The interpreter of the suites, with what they import."""
    wanted = SOURCES["python"]["packages"]
    mark = CACHE / "python.done"
    if not mark.exists() or json.loads(mark.read_text()) != wanted:
        print("suites: fetching Python packages", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(CACHE / "python", ignore_errors=True)
        sh(sys.executable, "-m", "venv", CACHE / "python")
        sh(PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted)
        mark.write_text(json.dumps(wanted))


def sdist(name, place, version):
    python()
    sh(PYTHON, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", place,
       f"{name}=={version}")
    unpack(next(place.glob("*.tar.gz")), place)


@once("pika")
def fetch_pika(place, _version):
    python()
    download("pika", place)


@once("amqp")
def fetch_amqp(place, version):
    sdist("amqp", place, version)


@once("kombu")
def fetch_kombu(place, version):
    sdist("kombu", place, version)


@once("amqplib")
def fetch_amqplib(place, version):
    sh("npm", "pack", f"amqplib@{version}", cwd=place)
    unpack(next(place.glob("*.tgz")), place)
    sh("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev", cwd=place)
    sh("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save",
       f"claire@{SOURCES['amqplib']['claire']}", cwd=place)


@once("amqp091-go")
def fetch_go(place, version):
    module = f"github.com/rabbitmq/amqp091-go@{version}"
    found = json.loads(sh("go", "mod", "download", "-json", module, cwd=place))
    shutil.copytree(found["Dir"], place / "source")
    sh("chmod", "-R", "u+w", place / "source")
    sh("go", "test", "-c", "-o", place / "suite", ".", cwd=place / "source")


@once("lapin")
def fetch_lapin(place, version):
    # Fetched with the workspace's own dependencies.
    found = sorted(Path.home().glob(f".cargo/registry/src/*/lapin-{version}"))
    if not found:
        sys.exit(f"lapin {version} is not in cargo's registry: `cargo fetch` brings it")
    shutil.copytree(found[0], place / "source")
    sh("cargo", "test", "--locked", "--no-run", "--tests", cwd=place / "source",
       env={"CARGO_TARGET_DIR": str(place / "target"), "CARGO_PROFILE_DEV_DEBUG": "0"})


@once("java")
def fetch_java(place, _version):
    download("java", place)
    shutil.copy(HERE / "pom.xml", place / "suite-pom.xml")
    sh("mvn", "-q", "-B", "-f", "suite-pom.xml", "dependency:copy-dependencies",
       "-DoutputDirectory=lib", cwd=place)
    sources = [*(place / "src/test/java").rglob("*.java"), HERE / "JavaSuite.java"]
    sh("javac", "-nowarn", "-proc:none", "-d", "classes", "-cp", "lib/*", *sources, cwd=place)


# Running. Each answers {case: None if it passed, else "failed" or "skipped"}.

def pytest(folder, *arguments, env=None):
    report = Path(tempfile.mkdtemp()) / "report.xml"
    said = run(PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "60",
               f"--junitxml={report}", *arguments, cwd=folder, env=env)
    return junit(report, said)


def junit(report, said):
    if not report.exists():
        print(said[-3000:])
        return {}
    cases = {}
    for case in xml.parse(report).iter("testcase"):
        module = case.get("classname", "").split(".")[-1]
        outcome = None
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        elif case.find("skipped") is not None:
            outcome = "skipped"
        cases[f"{module}.{case.get('name')}"] = outcome
    return cases


def lines(said, pattern, words):
    return {found[2]: words[found[1]] for found in re.finditer(pattern, said, re.M)}


def run_pika(folder):
    return pytest(folder, "-o", "python_files=*test*.py", "-o", "python_classes=",
                  "tests/acceptance")


def run_amqp(folder):
    certificates(folder / "t/certs")
    return pytest(folder, "t/integration")


def run_kombu(folder):
    return pytest(folder, "t/integration/test_py_amqp.py")


def run_amqplib(folder):
    report = Path(tempfile.mkdtemp()) / "report.xml"
    said = run("node", "--test", "--test-reporter=junit", f"--test-reporter-destination={report}",
               cwd=folder)
    return junit(report, said)


def run_go(folder):
    said = run(folder / "suite", "-test.v", "-test.timeout", "300s", cwd=folder / "source",
               env={"AMQP_URL": "amqp://guest:guest@127.0.0.1:5672/"})
    return lines(said, r"^--- (PASS|FAIL|SKIP): (\S+)",
                 {"PASS": None, "FAIL": "failed", "SKIP": "skipped"})


def run_lapin(folder):
    cases = {}
    for program in sorted((folder / "target/debug/deps").iterdir()):
        test = program.name.rpartition("-")[0]
        if program.suffix or not (folder / f"source/tests/{test}.rs").exists():
            continue
        said = run(program, cwd=folder / "source")
        found = re.finditer(r"^test (\S+) \.\.\. (ok|FAILED)", said, re.M)
        cases.update({f"{test}.{case[1]}": {"ok": None}.get(case[2], "failed") for case in found})
    return cases


def run_java(folder):
    said = run("java", "-Dbroker.hostname=localhost", "-Dbroker.port=5672",
               "-cp", "classes:lib/*:src/test/resources", "JavaSuite", cwd=folder)
    return lines(said, r"^(PASS|FAIL|SKIP) (\S+)",
                 {"PASS": None, "FAIL": "failed", "SKIP": "skipped"})


def run_celery(_folder):
    said = run(PYTHON, HERE / "celery_run.py", cwd=HERE)
    return lines(said, r"^(PASS|FAIL) (\S+)", {"PASS": None, "FAIL": "failed"})


SUITES = {
    "pika": (fetch_pika, run_pika),
    "amqp": (fetch_amqp, run_amqp),
    "kombu": (fetch_kombu, run_kombu),
    "amqplib": (fetch_amqplib, run_amqplib),
    "amqp091-go": (fetch_go, run_go),
    "java": (fetch_java, run_java),
    "celery": (python, run_celery),
    "lapin": (fetch_lapin, run_lapin),
}
NEEDS = {"pika": [APT], "amqplib": ["node", "npm"], "amqp091-go": ["go"],
         "java": ["javac", "mvn", APT], "lapin": ["cargo"]}


# The server, in a network of its own.

def own_network():
    """Moves this process into a network namespace that has a loopback alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_user, new_net = 0x10000000, 0x40000000
    if libc.unshare(new_net) and libc.unshare(new_user | new_net):
        return False
    with socket.socket() as any_socket:
        get_flags, set_flags, up = 0x8913, 0x8914, 1
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, get_flags, request))[1]
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sH14x", b"lo", flags | up))
    return True


def certificates(folder):
    """An authority, a server, a client that is the user guest, and a client of nobody's."""
    made = CACHE / "certificates"
    if not made.exists() or time.time() - made.stat().st_mtime > 7 * 86400:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        sh("bash", HERE / "certificates.sh", cwd=made)
    if folder != made and not folder.exists():
        shutil.copytree(made, folder)
    return made


def mainstem(binary, data):
    made = certificates(CACHE / "certificates")
    settings = {
        "data_dir": data, "tls.certificate": made / "server_certificate.pem",
        "tls.key": made / "server_key.pem", "listeners.amqp.bind": "[::]:5672",
        "listeners.amqps.bind": "[::]:5671", "listeners.amqps.client_ca": made / "ca_certificate.pem",
        "listeners.mqtt.bind": "127.0.0.1:0", "listeners.rocketmq.bind": "127.0.0.1:0",
        "listeners.http.bind": "127.0.0.1:15672"}
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return [str(Path(binary).resolve()), "serve", *sets], {}


def rabbitmq(data):
    made = certificates(CACHE / "certificates")
    (data / "rabbitmq.conf").write_text(
        "listeners.tcp.1 = :::5672\nlisteners.ssl.1 = :::5671\n"
        f"ssl_options.cacertfile = {data}/ca_certificate.pem\n"
        f"ssl_options.certfile = {data}/server_certificate.pem\n"
        f"ssl_options.keyfile = {data}/server_key.pem\n"
        "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false\n")
    (data / "plugins").write_text("[].\n")
    for name in ("ca_certificate.pem", "server_certificate.pem", "server_key.pem"):
        shutil.copy(made / name, data)
    sh("chmod", "-R", "a+rwX", data)
    return ["/usr/lib/rabbitmq/bin/rabbitmq-server"], {
        "RABBITMQ_NODENAME": "suites@localhost", "RABBITMQ_MNESIA_BASE": f"{data}/mnesia",
        "RABBITMQ_LOG_BASE": f"{data}/log", "RABBITMQ_CONFIG_FILE": f"{data}/rabbitmq.conf",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{data}/plugins", "HOME": str(data),
        "ERL_EPMD_ADDRESS": "127.0.0.1"}


def until_it_listens(process):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", 5672), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("the server did not start")


def judge(name, cases):
    """Prints a suite's counts; the cases that fail and should not."""
    reasons = EXPECTED.get(name, {})
    failed = [case for case, outcome in cases.items() if outcome == "failed"]
    skipped = sum(outcome == "skipped" for outcome in cases.values())
    passed = len(cases) - len(failed) - skipped
    print(f"{name}: {passed} passed, {len(failed)} failed, {skipped} skipped", flush=True)
    unexpected = []
    for case in failed:
        reason = next((why for pattern, why in reasons.items() if re.fullmatch(pattern, case)), None)
        print(f"  {case}: {reason or 'UNEXPECTED'}", flush=True)
        if reason is None:
            unexpected.append(f"{name} {case}")
    return unexpected if passed else [f"{name} ran nothing"]


def main():
    first, *names = sys.argv[1:]
    # Nothing is left in the clone.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    names = names or list(SUITES)
    unknown = set(names) - set(SUITES)
    if unknown:
        sys.exit(f"no such suite: {', '.join(sorted(unknown))}")
    missing = {name: [tool for tool in NEEDS.get(name, []) if not shutil.which(tool)]
               for name in names}
    for name, tools in missing.items():
        if tools:
            print(f"{name}: not tried, there is no {' or '.join(tools)} here")
    names = [name for name in names if not missing[name]]
    folders = {name: SUITES[name][0]() for name in names}
    if first == "--fetch":
        return
    if not own_network():
        print("not tried: a network namespace cannot be made here, and the suites want port 5672")
        return
    with tempfile.TemporaryDirectory() as data:
        data = Path(data)
        command, env = rabbitmq(data) if first == "--rabbitmq" else mainstem(first, data)
        with open(data / "output", "w") as output:
            process = subprocess.Popen(command, env={**os.environ, **env}, stdout=output,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            until_it_listens(process)
            unexpected = []
            for name in names:
                begun = time.monotonic()
                unexpected += judge(name, SUITES[name][1](folders[name]))
                print(f"  {time.monotonic() - begun:.0f} s", flush=True)
            if process.poll() is not None:
                unexpected.append("the server ended")
        finally:
            process.terminate()
            process.wait(START_S)
    if unexpected:
        sys.exit(f"failed, and should not (see {CACHE}/*.log): " + ", ".join(unexpected))


main()
