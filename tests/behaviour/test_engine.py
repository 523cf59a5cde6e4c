"""Engines: submit, events, result; a process that dies is started again."""

from __future__ import annotations

import functools
import os
import signal

import pytest

from harness.api import BenchError
from harness.engine import InProcess, Processes, Ray


def double(x, emit):
    emit({"kind": "seen", "x": x})
    return 2 * x


def fail(emit):
    raise ValueError("as asked")


def die_until(folder, times, emit):
    """Kill the own process the first `times` times."""
    (folder / str(os.getpid())).touch()
    if len(list(folder.iterdir())) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def drain(engine):
    return list(engine.events())


@pytest.mark.parametrize("make", [InProcess, lambda: Processes(2)])
def test_every_task_s_events_and_result_arrive(make):
    engine = make()
    for x in range(4):
        engine.submit(f"task {x}", functools.partial(double, x))
    events = drain(engine)
    assert sorted((key, event["x"]) for key, event in events) == [
        (f"task {x}", x) for x in range(4)
    ]
    assert [engine.result(f"task {x}") for x in range(4)] == [0, 2, 4, 6]


@pytest.mark.parametrize("make", [InProcess, lambda: Processes(2)])
def test_a_task_s_exception_is_raised_where_its_result_is_asked_for(make):
    engine = make()
    engine.submit("bad", fail)
    engine.submit("good", functools.partial(double, 1))
    drain(engine)
    with pytest.raises(ValueError, match="as asked"):
        engine.result("bad")
    assert engine.result("good") == 2


def test_a_killed_process_is_started_again_and_only_that_one(tmp_path):
    engine = Processes(2)
    engine.submit("struck", functools.partial(die_until, tmp_path, 2))
    engine.submit("other", functools.partial(double, 1))
    events = drain(engine)
    assert [e["kind"] for k, e in events if k == "struck"] == ["retried", "retried"]
    assert engine.result("struck") == "survived"
    assert engine.result("other") == 2


def test_a_process_that_keeps_dying_is_given_up(tmp_path):
    engine = Processes(1)
    engine.submit("doomed", functools.partial(die_until, tmp_path, 99))
    drain(engine)
    with pytest.raises(BenchError, match="died 3 times"):
        engine.result("doomed")


@pytest.mark.cluster
def test_ray_carries_out_tasks_and_retries_a_killed_one(tmp_path):
    ray = pytest.importorskip("ray")
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so; else its workers starve beside other work
    ray.init(num_cpus=2, num_gpus=0, object_store_memory=80 * 2**20, include_dashboard=False)
    try:
        engine = Ray("auto", 0)
        engine.submit("task", functools.partial(double, 3))
        engine.submit("struck", functools.partial(die_until, tmp_path, 1))
        assert ("task", {"kind": "seen", "x": 3}) in drain(engine)
        assert engine.result("task") == 6
        assert engine.result("struck") == "survived"
    finally:
        ray.shutdown()


def test_ray_where_it_is_absent_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BenchError, match=r"shala-bench\[ray\]"):
        Ray("auto", 1)
