"""A made-up store whose values are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shalabench.analysis.tables import Table, make_tables
from shalabench.api import Score
from shalabench.records.store import Store


def write_run(root: Path, model: str, seed: int, joint: float, **changes: Any) -> Path:
    """Write a run's records with one joint coherence, or with changes["failed"] in its place."""
    folder = root / f"{model}-{seed}-{changes.get('name', '')}"
    (folder / "results").mkdir(parents=True)
    run = {
        "train_id": f"{folder}",
        "model": model,
        "model_version": 1,
        "paper": changes.get("paper", "Doe: A Method (2020)"),
        "dataset": changes.get("dataset", "polymnist"),
        "preset": "quick",
        "seed": seed,
        "overrides": changes.get("overrides", []),
        "data": {
            "fingerprint": changes.get("data", "f"),
            "source": "made up",
            "version": changes.get("data_version", 1),
            "deviation": changes.get("deviation", ""),
        },
        "settings": {
            "model.x": changes.get("x", 1),
            "train.precision": changes.get("precision", "bf16"),
            "train.compile": changes.get("compile", False),
            "evaluators.coherence.samples": 0,
            **changes.get("settings", {}),
        },
        "origins": changes.get("origins", {}),
    }
    (folder / "run.json").write_text(json.dumps(run))
    if "failed" in changes:
        (folder / "failed.json").write_text(json.dumps(changes["failed"]))
        return folder
    provenance = {"source": changes.get("source", "s"), "nets": "n"}
    (folder / "trained.json").write_text(json.dumps({"provenance": provenance}))
    write_result(folder, joint, **changes)
    return folder


def write_two_methods(root: Path) -> Store:
    """Three seeds of two methods."""
    for model, values in (("shala", (0.80, 0.82, 0.84)), ("mmvae+", (0.30, 0.34, 0.38))):
        for seed, value in enumerate(values):
            write_run(root, model, seed, value)
    return Store(root)


def table_of(store: Store, metric: str = "coherence/joint", **filters: Any) -> Table:
    """The store's table on PolyMNIST."""
    return next(t for t in make_tables([store], metric, **filters) if t.dataset == "polymnist")


def write_result(folder: Path, joint: float, **changes: Any) -> None:
    """Write one more evaluation of a run; changes["classes"] is the variety of its samples."""
    facts = {"direction": "higher", "digits": 3}
    metrics = [
        {"name": "coherence/joint", "meaning": "agree", **facts},
        {"name": "classifier/accuracy", "meaning": "the ceiling", **facts},
    ]
    scores = [
        Score("coherence/joint", joint, 1000, 0.01).to_json(),
        Score("classifier/accuracy", 0.99, 1000, 0.001, target="m0").to_json(),
    ]
    details = {}
    if "classes" in changes:
        name, agreeing = "coherence/joint-classes", round(1000 * joint)
        metrics.append({"name": name, "meaning": "variety", **facts})
        scores.append(Score(name, changes["classes"], agreeing).to_json())
        details["joint_histogram"] = {"agreeing": [agreeing, *[0] * 9]}
    result = {
        "eval_id": f"{folder.name}-coherence",
        "evaluator": "coherence",
        "version": changes.get("version", 1),
        "settings": {"samples": changes.get("samples", 0)},
        "split": "test",
        "classifiers": {"m0": {"digest": changes.get("judge", "d")}},
        "metrics": metrics,
        "scores": scores,
        "details": details,
        "provenance": {
            "source": changes.get("evaluator", "e"),
            "finished": changes.get("finished", 0),
        },
    }
    name = f"coherence-{len(list((folder / 'results').iterdir()))}.json"
    (folder / "results" / name).write_text(json.dumps(result))


def write_views(
    root: Path, model: str, value: float, resolution: str = "32 px", seed: int = 0, **changes: Any
) -> None:
    """A run of cars with its P1, bounds and facts."""
    data = changes.pop("data", resolution)
    folder = write_run(root, model, seed, 0, dataset="cars", name=resolution, data=data)
    (folder / "results" / "coherence-0.json").unlink()
    names = {"psnr/p1": value, "psnr/p1-rotated": value - 1, "floor-white/psnr": 10.5}
    result = {
        "eval_id": "views",
        "evaluator": "views",
        "version": 1,
        "settings": {},
        "split": "test",
        "classifiers": {},
        "metrics": [
            {"name": name, "direction": "higher", "digits": 2, "meaning": f"of {name}"}
            for name in names
        ],
        "scores": [Score(name, x, 32, 0.1).to_json() for name, x in names.items()],
        "details": {
            "row": {"resolution": resolution, "protocol": "P1", **changes},
            "intervals": {"psnr/p1": [value - 0.2, value + 0.3]},
        },
        "provenance": {"source": "v"},
    }
    (folder / "results" / "views-0.json").write_text(json.dumps(result))
    run = json.loads((folder / "run.json").read_text())
    run["settings"]["data.resolution"] = int(resolution.split()[0])
    (folder / "run.json").write_text(json.dumps(run))
