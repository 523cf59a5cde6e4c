"""Logs of experiment trackers, read back: they hold what the runs have recorded, once."""

from __future__ import annotations

import json
import sqlite3
import struct
import sys
import threading
import time
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from helpers.campaigns import Listener, options, run, smoke
from helpers.records import write_run

from shalabench.api import BenchError
from shalabench.execute import logs, trackers
from shalabench.execute.campaign import run_campaign
from shalabench.execute.logs import Logs, RunLog
from shalabench.execute.options import Outcome
from shalabench.execute.trackers import Subject
from shalabench.records.store import Store

RUNS = smoke("mopoe", overrides=("train.log_every=5",))


def chosen(tmp_path, *names, **changes):
    return options(tmp_path, None, evaluators=("samples",), trackers=names, **changes)


def only(store):
    (folder,) = Store(store).runs()
    return folder


def recorded(folder):
    """By name of a value, its steps and values as the run has recorded them."""
    found = {}
    for event in folder.events():
        if event["kind"] == "progress":
            for term in event.keys() - {"kind", "time", "stage", "step"}:
                name = f"{event['stage']}/{term}"
                found.setdefault(name, {})[event["step"]] = event[term]
    updates = sum(max(found[n]) for n in {n.split("/")[0]: n for n in found}.values())
    for result in folder.results():
        for score in result["scores"]:
            name = f"test/{score['metric']}" + (f"/{score['target']}" if score["target"] else "")
            assert not score["given"]
            found[name] = {updates: score["value"]}
    return found


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder.path / "logs"), {"scalars": 0, "tensors": 0}).Reload()
    texts = {name: log.Tensors(name) for name in log.Tags()["tensors"]}
    values = {
        name: [(e.step, e.value) for e in log.Scalars(name)] for name in log.Tags()["scalars"]
    }
    about = {n: e[0].tensor_proto.string_val[0].decode() for n, e in texts.items()}
    return values, about["run/text_summary"] + about["settings/text_summary"]


def read_wandb(folder):
    from wandb.proto import wandb_internal_pb2

    values, about = {}, []
    for file in sorted(folder.path.parent.glob("wandb/offline-run-*/*.wandb")):
        content, at, record = file.read_bytes(), 7, b""  # LevelDB's log format, after a header
        while at + 7 <= len(content):
            if (room := 32768 - at % 32768) < 7:
                at += room
                continue
            _, size, kind = struct.unpack_from("<IHB", content, at)
            record += content[at + 7 : at + 7 + size]
            at += 7 + size
            if kind not in (1, 4):  # a record goes on in the next block
                continue
            message, record = wandb_internal_pb2.Record.FromString(record), b""
            if message.WhichOneof("record_type") == "run":
                about += [message.run.display_name, *map(str, message.run.config.update)]
                about.append(message.run.run_id)
            items = {"/".join(i.nested_key) or i.key: i for i in message.history.item}
            row = {name: json.loads(item.value_json) for name, item in items.items()}
            for name in row:
                group = name.split("/")[0]
                if "/" in name and name != f"{group}/step":
                    values.setdefault(name, []).append((row[f"{group}/step"], row[name]))
    assert len({text for text in about if len(text) == 32 and text.isalnum()}) == 1  # one id
    return values, "\n".join(about).replace('\\"', "").replace('"', "")


def read_mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.path.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("shala-bench")
    (run_of,) = client.search_runs([experiment.experiment_id])
    assert (run_of.info.status, run_of.info.run_name) == ("FINISHED", folder.path.name)
    history = {n: client.get_metric_history(run_of.info.run_id, n) for n in run_of.data.metrics}
    values = {name: [(m.step, m.value) for m in metrics] for name, metrics in history.items()}
    return values, "\n".join(
        f"{k} = {v}" for k, v in (run_of.data.tags | run_of.data.params).items()
    )


def read_trackio(folder):
    database = sqlite3.connect(folder.path.parent / "trackio" / "shala-bench.db")
    rows = database.execute("select run_name, metrics from metrics order by id").fetchall()
    configs = database.execute("select config from configs").fetchall()
    database.close()
    values = {}
    for name, text in rows:
        assert name == folder.path.name
        row = json.loads(text)
        for key in row:
            group = key.split("/")[0]
            if key != f"{group}/step":
                values.setdefault(key, []).append((row[f"{group}/step"], row[key]))
    return values, bytes(configs[0][0]).decode().replace('"', "").replace(":", ": ")


READ = {
    "tensorboard": read_tensorboard,
    "wandb": read_wandb,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
}


def stop_at(step):
    """A listener, and the event that it sets at a step."""
    stop = threading.Event()

    class Stopper(Listener):
        def show(self, key, event):
            if event["kind"] == "progress" and event["step"] >= step:
                stop.set()

    return Stopper(), stop


@pytest.mark.parametrize("name", READ)
def test_a_log_holds_each_recorded_value_once_although_the_run_was_interrupted(
    name, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store" / "trackio"))
    if name == "trackio" and sys.modules.get("trackio"):
        pytest.skip("trackio reads its folder when it is imported")
    pytest.importorskip(name, reason=f"the extra {name} is not installed")
    wanted = chosen(tmp_path, name)
    listener, stop = stop_at(5)
    with listener:
        run_campaign(RUNS, wanted, listener, stop)
    folder = only(wanted.store)
    assert folder.state() == "stopped"
    last = [e for e in folder.events() if e["kind"] == "progress"][-1]
    terms = {k: x for k, x in last.items() if k not in ("kind", "time")}
    again = terms | {"step": last["step"] + 5}
    folder.log("progress", **again)  # as one that was killed before the next checkpoint
    open_log = trackers.TRACKERS[name][0]
    log = RunLog(name, open_log, Subject(folder, wanted.store))
    log.catch_up()
    log.close("stopped")
    summary, said = run(RUNS, wanted)
    assert summary.exit_code == 0
    assert len(said) == 1, said  # that it is done
    values, about = READ[name](folder)
    expected = recorded(folder)
    if again["step"] in expected["vae/loss"]:
        for term in terms.keys() - {"stage", "step"}:  # what was written first stays
            expected[f"vae/{term}"][again["step"]] = again[term]
    assert values.keys() == expected.keys()
    for key, pairs in expected.items():
        assert [step for step, _ in values[key]] == sorted(pairs), key
        got, want = np.array([v for _, v in values[key]]), [pairs[s] for s in sorted(pairs)]
        np.testing.assert_array_equal(got.astype(np.float32), np.float32(want), key)
    assert folder.path.name in about
    assert folder.run["train_id"] in about
    assert f"model.latent_dim{' = ' if ' = ' in about else ''}" in about


def test_a_log_changes_neither_the_run_s_name_nor_its_weights_and_may_come_later(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    plain, logged = chosen(tmp_path), chosen(tmp_path, "tensorboard", jobs=2)
    logged = replace(logged, store=tmp_path / "logged")
    run(RUNS, plain)
    runs = smoke("mopoe", seeds=(0, 1), overrides=("train.log_every=5",))
    summary, _ = run(runs, logged)
    assert [o.status for o in summary.outcomes.values()] == ["done", "done"]
    one, (other, second) = only(plain.store), Store(logged.store).runs()
    assert one.path.name == other.path.name
    assert one.trained["digest"] == other.trained["digest"]
    assert not (one.path / "logs").exists()
    run(RUNS, replace(plain, trackers=("tensorboard",)))  # already done
    values = [read_tensorboard(folder)[0] for folder in (one, other, second)]
    assert values[0] == values[1] != values[2]
    assert len(values[0]["vae/loss"]) == 4
    files = sorted((one.path / "logs").iterdir())
    run(RUNS, replace(plain, trackers=("tensorboard",)))  # nothing is new
    assert sorted((one.path / "logs").iterdir()) == files


class Kept:
    """A tracker that remembers what it is given."""

    groups: ClassVar[dict[str, list[str]]] = {}

    def __init__(self, subject, identity):
        self.identity, self.run = "kept", subject.folder.path.name

    def write(self, group, *_):
        self.groups.setdefault(self.run, []).append(group)

    def flush(self):
        pass

    def close(self, status):
        pass


def test_a_damaged_result_of_one_run_ends_no_log(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "odd", (Kept, "json"))
    monkeypatch.setattr(Kept, "groups", {})
    for seed in range(2):
        write_run(tmp_path, "mopoe", seed, 0.5)
    damaged, whole = sorted(tmp_path.iterdir())
    (damaged / "results" / "coherence-0.json").write_text('{"split"')
    said = []
    with Logs(("odd",), tmp_path, said.append) as kept:
        for folder in (damaged, whole):
            kept.end(Outcome("done", "", folder))
    assert said == []
    assert Kept.groups == {whole.name: ["test"]}


class Broken:
    """A tracker that fails when a value is written."""

    def __init__(self, subject, identity):
        self.identity = "broken"

    def write(self, *_):
        raise RuntimeError("the server is gone.\nMore")


class Slow(Broken):
    """A tracker that takes longer than a command waits."""

    def write(self, *_):
        time.sleep(60)


@pytest.mark.parametrize(
    ("tracker", "told"),
    [(Broken, "The log in odd ends here (RuntimeError: the server is gone)"), (Slow, "odd did")],
)
def test_a_tracker_that_fails_or_hangs_is_told_once_and_ends_no_run(
    tmp_path, monkeypatch, tracker, told
):
    monkeypatch.setitem(trackers.TRACKERS, "odd", (tracker, "json"))
    monkeypatch.setattr(logs, "_EVERY", 0.0)
    monkeypatch.setattr(logs, "_PATIENCE", 0.5)
    runs = smoke("mopoe", seeds=(0, 1), overrides=("train.log_every=1",))
    summary, said = run(runs, chosen(tmp_path, "odd"))
    assert [o.status for o in summary.outcomes.values()] == ["done", "done"]
    assert len([text for text in said if text.startswith(told)]) == 1
    assert len(said) == 3


def test_a_missing_package_is_named_with_its_extra_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    wanted = chosen(tmp_path, "wandb")
    with pytest.raises(BenchError, match=r"pip install 'shala-bench\[wandb\]'"):
        run(RUNS, wanted)
    with pytest.raises(BenchError, match="tensorboard"):
        run(RUNS, replace(wanted, trackers=("tensorbord",)))
    assert not wanted.store.exists()
