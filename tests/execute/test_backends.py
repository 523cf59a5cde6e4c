"""Engines: submit, events, result; a process that dies is started again."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.tasks import (
    die_until,
    double,
    end_well,
    fail,
    fail_awkwardly,
    leave,
    lose_node_once,
    report_until_told,
)

from shalabench.api import BenchError
from shalabench.execute.backends import Cancelled, InProcess, Processes, Ray, _serve

PORT = 6399  # of the Ray cluster


def drain(engine):
    return list(engine.events())


@pytest.fixture
def stop():
    return threading.Event()


ENGINES = pytest.mark.parametrize("make", [InProcess, lambda stop: Processes(2, stop)])


@ENGINES
def test_every_task_s_events_and_result_arrive(make, stop):
    engine = make(stop)
    for x in range(4):
        engine.submit(f"task {x}", functools.partial(double, x))
    events = drain(engine)
    assert sorted((key, event["x"]) for key, event in events) == [
        (f"task {x}", x) for x in range(4)
    ]
    assert [engine.result(f"task {x}") for x in range(4)] == [0, 2, 4, 6]


@ENGINES
def test_a_task_s_exception_is_raised_where_its_result_is_asked_for(make, stop):
    engine = make(stop)
    engine.submit("bad", fail)
    engine.submit("good", functools.partial(double, 1))
    drain(engine)
    with pytest.raises(ValueError, match="as asked"):
        engine.result("bad")
    assert engine.result("good") == 2


@ENGINES
def test_a_task_that_asks_to_exit_has_failed_and_the_next_one_begins(make, stop):
    engine = make(stop)
    engine.submit("leaving", leave)
    engine.submit("good", functools.partial(double, 1))
    assert [event["kind"] for _, event in drain(engine)] == ["seen"]  # none is "retried"
    with pytest.raises(BenchError, match="as asked"):
        engine.result("leaving")
    assert engine.result("good") == 2


def test_a_killed_process_is_started_again_and_only_that_one(tmp_path, stop):
    engine = Processes(2, stop)
    engine.submit("struck", functools.partial(die_until, tmp_path, 2))
    engine.submit("other", functools.partial(double, 1))
    events = drain(engine)
    assert [e["kind"] for k, e in events if k == "struck"] == ["retried", "retried"]
    assert engine.result("struck") == "survived"
    assert engine.result("other") == 2


@ENGINES
def test_nothing_begins_once_all_is_to_stop(make, stop):
    engine = make(stop)
    engine.submit("one", functools.partial(double, 1))
    stop.set()
    assert drain(engine) == []
    with pytest.raises(Cancelled):
        engine.result("one")


def test_running_processes_are_asked_to_end_and_the_waiting_ones_never_begin(tmp_path, stop):
    engine = Processes(2, stop)
    for x in range(4):
        engine.submit(f"task {x}", functools.partial(end_well, tmp_path))
    ready = 0
    for _, event in engine.events():
        ready += event["kind"] == "ready"
        if ready == 2:
            stop.set()
    assert [engine.result(f"task {x}") for x in (0, 1)] == ["stopped", "stopped"]
    for x in (2, 3):
        with pytest.raises(Cancelled):
            engine.result(f"task {x}")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_process_that_keeps_dying_is_given_up(tmp_path, stop):
    engine = Processes(1, stop)
    engine.submit("doomed", functools.partial(die_until, tmp_path, 99))
    drain(engine)
    with pytest.raises(BenchError, match="died 3 times"):
        engine.result("doomed")


def test_a_task_whose_listener_is_lost_is_asked_to_end(tmp_path):
    ours, theirs = multiprocessing.Pipe(duplex=False)
    ours.close()
    _serve(functools.partial(report_until_told, tmp_path), theirs)
    assert (tmp_path / f"{os.getpid()}-ended").exists()


def test_an_exception_that_does_not_survive_pickling_is_told_in_words():
    ours, theirs = multiprocessing.Pipe(duplex=False)
    _serve(fail_awkwardly, theirs)
    kind, error = ours.recv()
    assert kind == "result"
    assert isinstance(error, BenchError)
    assert "Awkward: this and that" in str(error)


DRIVER = """
import functools, pathlib, sys, threading
from helpers.tasks import report_until_told, wait_until_told
from shalabench.execute.backends import Processes
engine = Processes(2, threading.Event())
for task in (report_until_told, wait_until_told):
    engine.submit(task.__name__, functools.partial(task, pathlib.Path(sys.argv[1])))
list(engine.events())
"""


def test_tasks_end_when_the_driver_alone_is_killed(tmp_path):
    root = Path(__file__).parent.parent
    paths = os.pathsep.join(map(str, (root.parent, root)))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, tmp_path], env=os.environ | {"PYTHONPATH": paths}
    )
    for ending in ("began", "ended"):
        last = time.monotonic() + 60
        while len(list(tmp_path.glob(f"*-{ending}"))) < 2:
            assert time.monotonic() < last, ending
            time.sleep(0.02)
        if ending == "began":
            os.kill(driver.pid, signal.SIGKILL)
            driver.wait()


INTERRUPTED = """
import functools, pathlib, sys, threading
from helpers.tasks import wait_until_told
from shalabench.execute.backends import Processes, setting_on_signals
stop = threading.Event()
engine = Processes(2, stop)
for number in range(3):
    engine.submit(str(number), functools.partial(wait_until_told, pathlib.Path(sys.argv[1])))
with setting_on_signals(stop):
    print("ready", flush=True)
    list(engine.events())
print("stopped", flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's list of children")
@pytest.mark.parametrize("delay", [0, 0.2, 0.6])
def test_an_interrupt_while_processes_start_ends_in_no_traceback(tmp_path, delay):
    """Ctrl-C goes to all processes of a terminal, also to those that still import."""
    root = Path(__file__).parent.parent
    paths = os.pathsep.join(map(str, (root.parent, root)))
    driver = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, tmp_path],
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout.readline() == "ready\n"
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    while len(children.read_text().split()) < 2:
        time.sleep(0.001)
    time.sleep(delay)
    os.killpg(driver.pid, signal.SIGINT)
    out, errors = driver.communicate(timeout=120)
    assert (out, driver.returncode) == ("stopped\n", 0)
    assert "Traceback" not in errors


@pytest.fixture
def start_node(tmp_path):
    """Starts nodes of a Ray cluster on this machine, whose workers can import the tasks."""
    pytest.importorskip("ray")
    started = []
    environment = {"RAY_worker_niceness": "0", "PYTHONPATH": str(Path(__file__).parent.parent)}
    environment["RAY_raylet_start_wait_time_s"] = "240"
    environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")

    def start(*options):
        command = [Path(sys.executable).with_name("ray"), "start", "--block", "--num-gpus=0"]
        command += ["--disable-usage-stats", f"--object-store-memory={80 * 2**20}", *options]
        with (tmp_path / f"log-{len(started)}").open("w") as log:
            started.append(
                subprocess.Popen(
                    command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT
                )
            )

    yield start
    for process in reversed(started):
        process.terminate()
        process.wait(60)


def connect(gpus, stop):
    """An engine on the cluster, which takes seconds to start, or minutes on a busy machine."""
    last = time.monotonic() + 240
    while True:
        try:
            socket.create_connection(("127.0.0.1", PORT)).close()
            return Ray(f"127.0.0.1:{PORT}", gpus, stop)
        except (BenchError, OSError):
            if time.monotonic() > last:
                raise
            time.sleep(1)


@pytest.mark.cluster
def test_ray_carries_out_tasks_retries_a_killed_one_and_gives_up_what_is_to_stop(
    start_node, tmp_path, stop
):
    import ray

    start_node("--head", "--num-cpus=2", "--include-dashboard=false", f"--port={PORT}")

    before = signal.getsignal(signal.SIGTERM)
    engine = connect(0, stop)
    try:
        assert signal.getsignal(signal.SIGTERM) is before
        (tmp_path / "lives").mkdir()
        engine.submit("task", functools.partial(double, 3))
        engine.submit("struck", functools.partial(die_until, tmp_path / "lives", 1))
        assert ("task", {"kind": "seen", "x": 3}) in drain(engine)
        assert engine.result("task") == 6
        assert engine.result("struck") == "survived"

        engine = connect(1, stop)
        engine.submit("long", functools.partial(end_well, tmp_path))
        stop.set()
        ((key, event),) = drain(engine)
        assert (key, event["kind"]) == ("ray", "waiting")
        assert "takes 1 GPUs and no node has more than 0" in event["text"]
        with pytest.raises(Cancelled):
            engine.result("long")

        engine = Ray(f"127.0.0.1:{PORT}", 1, threading.Event(), time.time() + 1)
        engine.submit("late", functools.partial(double, 1))
        assert [event["kind"] for _, event in engine.events()] == ["waiting"]
        with pytest.raises(Cancelled):
            engine.result("late")
    finally:
        ray.shutdown()


@pytest.mark.cluster
def test_a_task_and_its_events_survive_the_loss_of_its_node(start_node, tmp_path, stop):
    import ray

    start_node("--head", "--num-cpus=0", "--include-dashboard=false", f"--port={PORT}")
    (tmp_path / "lives").mkdir()
    engine = connect(0, stop)
    try:
        for known in (1, 2):  # one after another: they would choose the same sockets
            start_node(f"--address=127.0.0.1:{PORT}", "--num-cpus=1")
            last = time.monotonic() + 240
            while len(ray.nodes()) == known:
                assert time.monotonic() < last
                time.sleep(0.2)
        engine.submit("task", functools.partial(lose_node_once, tmp_path / "lives"))
        assert [event["life"] for _, event in engine.events()] == [0, 1]
        assert engine.result("task") == ""  # the GPUs that it sees
    finally:
        ray.shutdown()


def test_ray_where_it_is_absent_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BenchError, match=r"shala-bench\[ray\]"):
        Ray("auto", 1, threading.Event())
