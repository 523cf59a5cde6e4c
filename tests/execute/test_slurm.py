"""Jobs of Slurm: submitit's local executor in place of the cluster, and the text for sbatch."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.campaigns import Listener, options, run, smoke
from helpers.tasks import die_until, double, end_at_the_second_limit, end_well, fail, see_gpus

from shalabench.api import BenchError
from shalabench.cli import main
from shalabench.cli.engines import read_engine
from shalabench.execute import slurm
from shalabench.execute.backends import Cancelled
from shalabench.execute.campaign import run_campaign
from shalabench.execute.options import SlurmOptions
from shalabench.execute.slurm import Slurm
from shalabench.records.store import Store

submitit = pytest.importorskip("submitit", reason="the extra slurm is not installed")


def make_local(folder, asked, gpus):
    executor = submitit.LocalExecutor(folder / "%j", max_num_timeout=9)
    executor.update_parameters(timeout_min=9, gpus_per_node=gpus)
    return executor


@pytest.fixture(autouse=True)
def paths(monkeypatch):
    """Jobs find the tasks."""
    root = Path(__file__).parent.parent
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(root), str(root.parent), before)))


@pytest.fixture(autouse=True)
def interrupts():
    """Jobs do not ignore SIGINT, by which submitit cancels local ones, where their parents do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(tmp_path, stop=None, gpus=0, **tasks):
    asked = SlurmOptions(array=True)
    engine = Slurm(tmp_path / ".slurm", asked, gpus, stop or threading.Event(), None, make_local)
    for key, task in tasks.items():
        engine.submit(key, task)
    return engine


def test_events_results_and_failures_arrive_and_a_dead_job_is_submitted_again(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(slurm, "RETRIES", 1)
    (tmp_path / "lives").mkdir()
    (tmp_path / "none").mkdir()
    engine = start(
        tmp_path,
        seen=functools.partial(double, 3),
        bad=fail,
        hidden=see_gpus,
        struck=functools.partial(die_until, tmp_path / "lives", 1),
        doomed=functools.partial(die_until, tmp_path / "none", 99),
    )
    happened = list(engine.events())
    assert ("seen", {"kind": "seen", "x": 3}) in happened
    retried = [key for key, event in happened if event["kind"] == "retried"]
    assert sorted(retried) == ["doomed", "struck"]
    assert [engine.result(key) for key in ("seen", "hidden", "struck")] == [6, "", "survived"]
    with pytest.raises(ValueError, match="as asked"):
        engine.result("bad")
    with pytest.raises(BenchError, match="died 2 times"):
        engine.result("doomed")
    assert not list((tmp_path / ".slurm").glob("*.events"))


def test_a_job_goes_on_after_its_time_limit_and_a_cancelled_one_has_no_result(tmp_path):
    (tmp_path / "late").mkdir()
    (tmp_path / "long").mkdir()
    stop = threading.Event()
    engine = start(
        tmp_path, stop, late=functools.partial(end_at_the_second_limit, tmp_path / "late")
    )
    for _, event in engine.events():
        os.kill(event["pid"], signal.SIGUSR2)  # as Slurm does before the limit
    assert engine.result("late") == ["checkpoint"]

    engine = start(tmp_path, stop, long=functools.partial(end_well, tmp_path / "long"))
    for _, event in engine.events():
        assert event["kind"] == "ready"
        stop.set()
    with pytest.raises(Cancelled):
        engine.result("long")


def test_a_run_resumes_in_the_next_job_bit_for_bit_and_status_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "_make_executor", make_local)
    runs = smoke("mopoe", overrides=("train.log_every=1", "model.steps=150"))
    chosen = options(tmp_path, None, evaluators=("samples",), engine="slurm", gpus=0.0)

    class Striker(Listener):
        def show(self, key, event):
            if event["kind"] == "progress" and event["step"] < 75 and not self.said:
                self.say("struck")
                for file in (chosen.store / ".slurm").glob("*/*_log.err"):
                    controller = int(file.name.split("_")[0])
                    children = Path(f"/proc/{controller}/task/{controller}/children")
                    os.kill(int(children.read_text()), signal.SIGUSR2)

    listener = Striker()
    with listener:
        summary = run_campaign(runs, chosen, listener)
    assert listener.said[0] == "struck"
    assert [outcome.status for outcome in summary.outcomes.values()] == ["done"]
    (folder,) = Store(chosen.store).runs()
    assert folder.trained["provenance"]["resumptions"] == 1
    whole = replace(chosen, store=tmp_path / "whole", engine="local")
    run(runs, whole)
    (other,) = Store(whole.store).runs()
    assert folder.trained["digest"] == other.trained["digest"]
    assert folder.path.name == other.path.name
    status = CliRunner().invoke(main, ["status", "--store", str(chosen.store)])
    assert re.search(r"mopoe.*done", status.output), status.output


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A cluster that takes every job, or none of the partition "wrong"."""
    folder = tmp_path / "bin"
    folder.mkdir()
    texts = {
        "srun": "",
        "sbatch": f"cat $1 >> {tmp_path}/sent\n"
        "grep -q wrong $1 && echo 'sbatch: error: invalid partition' >&2 && exit 1\n"
        "echo Submitted batch job 7\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "sent"


def sent(tmp_path, commands, asked, gpus=2.0):
    engine = Slurm(tmp_path / ".slurm", asked, gpus, threading.Event())
    for x in range(2):
        engine.submit(str(x), functools.partial(double, x))
    engine._hand_in(["0", "1"])
    lines = re.findall(r"^#SBATCH --([\w-]+)=(.*)$", commands.read_text(), flags=re.M)
    return [(key, value.strip("'")) for key, value in lines]


def test_sbatch_is_told_what_was_asked_for(tmp_path, commands):
    more = (("account", "vision"), ("cpus-per-task", "8"))
    asked = SlurmOptions("gpu", 240, more=more)
    lines = sent(tmp_path, commands, asked)
    expected = [("partition", "gpu"), ("time", "240"), ("gpus-per-node", "2"), *more]
    assert all(lines.count(pair) == 2 for pair in [*expected, ("signal", "USR2@120")])  # two jobs
    assert "array" not in dict(lines)
    assert "--cpus-per-task=8" in commands.read_text().partition("srun")[2]


def test_an_array_is_one_job(tmp_path, commands):
    lines = sent(tmp_path, commands, SlurmOptions(minutes=1, array=True), 0.0)
    assert lines.count(("array", "0-1%2")) == lines.count(("time", "1")) == 1
    assert dict(lines)["signal"] == "USR2@20"
    assert not {"gpus-per-node", "partition"} & dict(lines).keys()


def test_a_job_that_slurm_refuses_is_wrong_input(tmp_path, commands):
    engine = Slurm(tmp_path / ".slurm", SlurmOptions("wrong"), 1, threading.Event())
    engine.submit("one", functools.partial(double, 1))
    with pytest.raises(BenchError, match="invalid partition"):
        list(engine.events())


def test_what_is_missing_is_named_before_any_job(tmp_path, monkeypatch):
    asked = tmp_path, SlurmOptions()
    with pytest.raises(BenchError, match="whole"):
        Slurm(*asked, 0.5, threading.Event())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="srun"):
        Slurm(*asked, 1, threading.Event())
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(BenchError, match=r"shala-bench\[slurm\]"):
        Slurm(*asked, 1, threading.Event())


BASE = {"partition": None, "job_time": 3600.0, "job_array": False, "sbatch": ()}


def test_options_of_slurm_are_refused_for_other_engines():
    given = {**BASE, "engine": "local", "address": "auto", "gpus_per_run": 1.0}
    assert read_engine(given)["slurm"] == SlurmOptions()
    with pytest.raises(BenchError, match="--engine slurm"):
        read_engine(given | {"partition": "gpu"})
    with pytest.raises(BenchError, match="minute"):
        read_engine(given | {"engine": "slurm", "job_time": 30.0})
