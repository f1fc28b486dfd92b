"""Fetches the suites: each source comes from where its project publishes it, at the version in
`sources.json`, and is compiled and kept in the tools' cache."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = Path(os.environ.get("MAINSTEM_TOOLS", Path.home() / ".cache/mainstem/tools"))
CACHE = TOOLS / "suites"
SOURCES = json.loads((HERE / "sources.json").read_text())
PYTHON = CACHE / "python/bin/python"
APT = "/usr/lib/apt/apt-helper"
# What each needs here; the certificates of the server, and so every suite, need openssl.
NEEDS = {"pika": [APT], "amqplib": ["node", "npm"], "amqp091-go": ["go"],
         "paho-go": ["go"], "paho-c": ["cargo", "cmake", "ctest", "cc", "make"],
         "java": ["javac", "mvn", APT], "spring": ["javac", "mvn"], "hivemq": ["javac", "mvn"],
         "lapin": ["cargo"], "rabbitmqadmin": ["apt-get", "dpkg-deb"],
         "rabbitmqadmin-ng": ["cargo"], "rabbit-hole": ["go"], "exporter": ["go"]}
SH_S = 600
COMPILE_S = 1800


class Failed(Exception):
    """What a program said that should have succeeded."""


class NotCompiled(Exception):
    """What was fetched does not compile: no fault of this machine."""


def run(command, limit_s, cwd=None, env=None):
    """Its exit code (negative: a signal; None: it was stopped at the limit), and what it said."""
    with tempfile.TemporaryFile("w+", errors="replace") as out:
        process = subprocess.Popen([str(part) for part in command], cwd=cwd, stdout=out,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   start_new_session=True, env={**os.environ, **(env or {})})
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.returncode is None:
                # With what it started.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        return code, out.read()


def sh(*command, cwd=None, env=None, limit_s=SH_S):
    """Runs what must succeed, quietly."""
    code, said = run(command, limit_s, cwd, env)
    if code != 0:
        ending = f"exit code {code}" if code is not None else f"stopped after {limit_s} s"
        raise Failed(f"{' '.join(map(str, command))}: {ending}\n{said[-3000:]}")
    return said


def compile(*command, **options):
    """Runs a compiler over what is there already."""
    try:
        sh(*command, **options)
    except Failed as failed:
        raise NotCompiled(str(failed)) from None


@contextmanager
def alone():
    """Two runs at a time fetch once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def once(name, *files):
    """Makes the decorated fetcher run once for each version (and content of files of ours), into
    an empty folder."""
    def decorate(fetch):
        def folder():
            version = SOURCES[name]["version"]
            place = CACHE / f"{name}-{version}"
            ours = b"".join((HERE / file).read_bytes() for file in files)
            wanted, mark = hashlib.sha256(ours).hexdigest(), place / ".done"
            if not mark.exists() or mark.read_text() != wanted:
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                print(f"suites: fetching {name} {version}", flush=True)
                fetch(place, version)
                mark.write_text(wanted)
            return place
        return folder
    return decorate


def unpack(archive, place):
    try:
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                # Without the archive's own top folder.
                member.name = member.name.partition("/")[2]
                if member.name and ".." not in member.name.split("/"):
                    tar.extract(member, place)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise Failed(f"{archive}: {error}") from None
    Path(archive).unlink()


def only(place, pattern):
    """The one file that a program left there."""
    found = list(place.glob(pattern))
    if len(found) != 1:
        raise Failed(f"there are {len(found)} {pattern} in {place}")
    return found[0]


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
    if not PYTHON.exists() or not mark.exists() or json.loads(mark.read_text()) != wanted:
        print("suites: fetching Python packages", flush=True)
        mark.unlink(missing_ok=True)
        shutil.rmtree(CACHE / "python", ignore_errors=True)
        tools = Path(os.environ.get("MAINSTEM_PYTHON") or TOOLS / "python/bin/python")
        sh(tools if tools.exists() else sys.executable, "-m", "venv", CACHE / "python")
        sh(PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted)
        mark.write_text(json.dumps(wanted))


def sdist(name, place, version):
    python()
    sh(PYTHON, "-m", "pip", "download", "-q", "--no-deps", "--no-binary",
       ":all:", "-d", place, f"{name}=={version}")
    unpack(only(place, "*.tar.gz"), place)


@once("pika")
def pika(place, _version):
    python()
    download("pika", place)


@once("amqp")
def amqp(place, version):
    sdist("amqp", place, version)


@once("kombu")
def kombu(place, version):
    sdist("kombu", place, version)


@once("amqplib")
def amqplib(place, version):
    sh("npm", "pack", f"amqplib@{version}", cwd=place)
    unpack(only(place, "*.tgz"), place)
    sh("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev", cwd=place)
    sh("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save",
       f"claire@{SOURCES['amqplib']['claire']}", cwd=place)


def go_source(module, place):
    sh("go", "mod", "download", module, cwd=place)
    shutil.copytree(Path(sh("go", "env", "GOMODCACHE").strip()) / module, place / "source")
    sh("chmod", "-R", "u+w", place / "source")
    sh("go", "mod", "download", cwd=place / "source")


def go_module(module, place):
    go_source(module, place)
    compile("go", "test", "-c", "-o", place / "suite", ".", cwd=place / "source")


@once("amqp091-go")
def amqp091_go(place, version):
    go_module(f"github.com/rabbitmq/amqp091-go@{version}", place)


@once("rabbit-hole")
def rabbit_hole(place, version):
    go_module(f"github.com/michaelklishin/rabbit-hole/v3@{version}", place)


@once("exporter")
def exporter(place, version):
    go_source(f"github.com/kbudde/rabbitmq_exporter@{version}", place)
    compile("go", "build", "-o", place / "exporter", ".", cwd=place / "source")


@once("rabbitmqadmin")
def rabbitmqadmin(place, _version):
    """The one that is in RabbitMQ's package, whichever that is here."""
    python()
    sh("apt-get", "download", "rabbitmq-server", cwd=place)
    sh("dpkg-deb", "-x", only(place, "*.deb"), place / "package")
    found = only(place, "package/usr/lib/rabbitmq/lib/*/plugins/*/priv/www/cli/rabbitmqadmin")
    shutil.copy(found, place / "rabbitmqadmin")
    shutil.rmtree(place / "package")


@once("rabbitmqadmin-ng")
def rabbitmqadmin_ng(place, version):
    python()
    made = place / "target"
    sh("cargo", "install", "rabbitmqadmin", "--version", version, "--locked", "--debug", "--root",
       place, env={"CARGO_TARGET_DIR": str(made), "CARGO_PROFILE_DEV_DEBUG": "0"},
       limit_s=COMPILE_S)
    shutil.rmtree(made)


@once("paho-go")
def paho_go(place, version):
    go_module(f"github.com/eclipse/paho.mqtt.golang@{version}", place)


@once("paho-python")
def paho_python(place, version):
    sdist("paho-mqtt", place, version)


@once("gmqtt")
def gmqtt(place, version):
    sdist("gmqtt", place, version)


@once("paho-c", "sources.json")
def paho_c(place, version):
    """Of the crate that carries the C library with its tests."""
    (place / "src").mkdir()
    (place / "src/lib.rs").touch()
    (place / "Cargo.toml").write_text(
        '[package]\nname = "carrier"\nversion = "1.0.0"\nedition = "2021"\n'
        f'[dependencies]\npaho-mqtt-sys = "={version}"\n[workspace]\n')
    sh("cargo", "fetch", cwd=place)
    source = registry(f"paho-mqtt-sys-{version}") / "paho.mqtt.c"
    shutil.copytree(source, place / "source")
    port = SOURCES["paho-c"]["websocket"]
    sh("cmake", "-S", "source", "-B", "build", "-DPAHO_ENABLE_TESTING=TRUE", "-DPAHO_BUILD_SAMPLES=FALSE",
       "-DPAHO_WITH_SSL=FALSE", "-DPAHO_BUILD_SHARED=TRUE", f"-DMQTT_WS_TEST_BROKER={port}", cwd=place)
    compile("cmake", "--build", "build", "-j", "2", cwd=place)


def registry(crate):
    """A crate's sources, which cargo has fetched."""
    cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    found = sorted(cargo.glob(f"registry/src/*/{crate}"))
    if not found:
        raise Failed(f"{crate} is not in {cargo}/registry: `cargo fetch` brings it")
    return found[0]


@once("lapin")
def lapin(place, version):
    # Fetched with the workspace's own dependencies.
    shutil.copytree(registry(f"lapin-{version}"), place / "source")
    sh("cargo", "fetch", "--locked", cwd=place / "source")
    compile("cargo", "test", "--locked", "--offline", "--no-run", "--tests", cwd=place / "source",
            env={"CARGO_TARGET_DIR": str(place / "target"), "CARGO_PROFILE_DEV_DEBUG": "0"},
            limit_s=COMPILE_S)


@once("java", "JavaSuite.java", "pom.xml")
def java(place, _version):
    download("java", place)
    shutil.copy(HERE / "pom.xml", place / "suite-pom.xml")
    sh("mvn", "-q", "-B", "-f", "suite-pom.xml", "dependency:copy-dependencies",
       "-DoutputDirectory=lib", cwd=place)
    sources = [*(place / "src/test/java").rglob("*.java"), HERE / "JavaSuite.java"]
    compile("javac", "-nowarn", "-proc:none", "-d", "classes", "-cp", "lib/*", *sources, cwd=place)


@once("spring", "SpringSuite.java", "spring-pom.xml")
def spring(place, _version):
    sh("mvn", "-q", "-B", "-f", HERE / "spring-pom.xml", "dependency:copy-dependencies",
       f"-DoutputDirectory={place / 'lib'}", cwd=place)
    compile("javac", "-nowarn", "-parameters", "-d", "classes", "-cp", "lib/*",
            HERE / "SpringSuite.java", cwd=place)


@once("hivemq", "HiveMqSuite.java", "hivemq-pom.xml")
def hivemq(place, _version):
    sh("mvn", "-q", "-B", "-f", HERE / "hivemq-pom.xml", "dependency:copy-dependencies",
       f"-DoutputDirectory={place / 'lib'}", cwd=place)
    compile("javac", "-nowarn", "-d", "classes", "-cp", "lib/*", HERE / "HiveMqSuite.java", cwd=place)


FETCH = {"pika": pika, "amqp": amqp, "kombu": kombu, "amqplib": amqplib, "amqp091-go": amqp091_go,
         "java": java, "spring": spring, "celery": python, "paho-go": paho_go, "paho-c": paho_c,
         "paho-python": paho_python, "gmqtt": gmqtt, "hivemq": hivemq, "lapin": lapin,
         "rabbitmqadmin": rabbitmqadmin, "rabbitmqadmin-ng": rabbitmqadmin_ng, "exporter": exporter,
         "flower": python, "rabbit-hole": rabbit_hole}
