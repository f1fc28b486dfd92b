"""A Celery worker as applications run it: retries, ETA and countdown tasks, groups and chords over
the rpc result backend, priorities, a worker that dies with a task in hand. Prints PASS or FAIL for
each; one worker process serves all of them."""

import os
import subprocess
import sys
import time

from celery import Celery, chain, group

app = Celery("celery_run", broker="amqp://guest:guest@127.0.0.1:5672//", backend="rpc://")
app.conf.update(
    task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=2,
    broker_connection_retry_on_startup=True, result_expires=60, broker_transport_options={
        "confirm_publish": True})
WAIT_S = 30


@app.task
def add(left, right):
    return left + right


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=3)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.3)
    return self.request.retries


@app.task(bind=True, max_retries=1)
def never(self):
    raise self.retry(countdown=0.1, exc=ValueError("no"))


@app.task
def when():
    return time.time()


@app.task(bind=True)
def dies_once(self):
    if not self.request.delivery_info["redelivered"]:
        os._exit(1)
    return "again"


def retries():
    assert third_time.delay().get(timeout=WAIT_S) == 2


def gives_up():
    try:
        never.delay().get(timeout=WAIT_S)
    except ValueError:
        return
    raise AssertionError("it did not fail")


def countdown():
    begun = time.time()
    late = when.apply_async(countdown=2).get(timeout=WAIT_S) - begun
    assert 1.9 < late < 6, late


def many_countdowns():
    begun = time.time()
    waiting = [when.apply_async(countdown=1 + i % 3) for i in range(30)]
    for i, result in enumerate(waiting):
        assert result.get(timeout=WAIT_S) - begun >= 0.9 + i % 3


def groups():
    result = group(add.s(i, i) for i in range(50)).apply_async()
    assert result.get(timeout=WAIT_S) == [2 * i for i in range(50)]


def chains():
    assert chain(add.s(1, 2), add.s(3), add.s(4)).delay().get(timeout=WAIT_S) == 10


def chords():
    # The rpc backend cannot count a chord's parts; its own fallback asks for each result.
    result = group(add.s(i, 1) for i in range(10)).apply_async()
    assert total.delay(result.get(timeout=WAIT_S)).get(timeout=WAIT_S) == 55


def redelivers_what_a_dead_worker_had():
    assert dies_once.delay().get(timeout=WAIT_S) == "again"


def inspects():
    replies = app.control.inspect(timeout=5).ping()
    assert list(replies.values()) == [{"ok": "pong"}], replies


def main():
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "celery_run", "worker", "--concurrency", "4",
         "--loglevel", "warning", "-n", "suite@%h"], stdin=subprocess.DEVNULL,
        env={**os.environ, "C_FORCE_ROOT": "1"})
    try:
        failed = False
        for test in (retries, gives_up, countdown, many_countdowns, groups, chains, chords,
                     inspects, redelivers_what_a_dead_worker_had):
            try:
                test()
                print("PASS", test.__name__, flush=True)
            except Exception as error:
                failed = True
                print("FAIL", test.__name__, type(error).__name__, error, flush=True)
    finally:
        worker.terminate()
        worker.wait(20)
    sys.exit(failed)


if __name__ == "__main__":
    main()
