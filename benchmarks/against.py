"""Updates and evaluations of this tree against those of a commit, in one run.

The commit is unpacked into a temporary folder. For each method, each side has a process of its own
with one thread. Both start from the weights that the commit's side gives, and take turns of a few
updates, as training does them (`Stage.update`); the first turn warms up and is not counted.
`faster` is the ratio of the medians of the CPU times, with a 95 % interval by a bootstrap over
turns. `loss` is the relative difference of the losses of the first update in float32, with the same
seeds. `MiB` is the most memory that the process had while this row was measured: Python, torch, the
data and the work itself (where the system cannot say, the most so far).

"An update at a preset" is an update of a method's first stage. Later stages (the prior of ShaLa)
have rows of their own. "Whole trainings" weighs each stage's median by its number of updates.

The commit must have `find`, `resolve`, `Stage.update` and `evaluate` as f61a9d3 has them.
"""

from __future__ import annotations

import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import click
import torch
from side import Side
from tabulate import tabulate
from timing import ROOT, describe_processor, ratio_of_medians

METHODS = ("shala", "mvae", "mmvae", "mopoe", "mmjsd", "mvtcae", "mmvae+", "mvebm", "cmvae")


@dataclass(frozen=True)
class Comparison:
    """What is measured on both sides.

    Attributes:
        methods: Registered names.
        overrides: As of `bench.py --set`.
        stage: Name of the only stage that is measured; all if empty.
        turns: That are counted, of each side.
        updates: In a turn.
        evaluators: That are timed too, once a turn, in at most three turns.
        tuples: Of the test split, for the evaluators; all if 0.
        batch: Tuples an update; the preset's if 0.
        paths: `data_root` and `cache_dir`.
    """

    methods: tuple[str, ...]
    dataset: str
    preset: str
    overrides: tuple[str, ...]
    stage: str
    turns: int
    updates: int
    evaluators: tuple[str, ...]
    tuples: int
    batch: int
    paths: dict[str, str]


def _git(*arguments: str, **options: Any) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, check=False, **options
        )
    except FileNotFoundError:
        raise click.ClickException("--against needs the program git, which is missing.") from None


def find_commit(revision: str) -> str:
    """The full name of a commit.

    Raises:
        click.ClickException: This is no checkout, or it has no such commit.
    """
    top = _git("rev-parse", "--show-toplevel", text=True).stdout.strip()
    if not top or Path(top).resolve() != ROOT.resolve():
        raise click.ClickException(
            "--against needs a git checkout of the project, which this folder is not; clone it."
        )
    found = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", text=True)
    if found.returncode:
        raise click.ClickException(
            f"--against is '{revision}', which is no commit of this checkout; name one that "
            "`git log` shows, or fetch it."
        )
    return found.stdout.strip()


@contextmanager
def unpack(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit, while the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        file, tree = Path(folder) / "commit.zip", Path(folder) / "tree"
        _git("archive", "--output", str(file), commit)
        with zipfile.ZipFile(file) as archive:
            archive.extractall(tree)
        file.unlink()
        yield tree


def compare(revision: str, what: Comparison) -> dict[str, Any]:
    """Everything measured, ready for JSON.

    Raises:
        click.ClickException: The commit is unknown, or a side failed.
    """
    commit, rows, skipped = find_commit(revision), [], {}
    with unpack(commit) as tree:
        for method in what.methods:
            with Side(tree) as old, Side(ROOT) as new:
                for row in _compare_method(method, old, new, what, skipped):
                    rows.append(row)
                    click.echo(f"{method} {row['work']}: {row['faster']:.2f}", err=True)
    settings = {k: v for k, v in asdict(what).items() if k != "paths"}
    machine = {"machine": describe_processor(), "torch": torch.__version__, "threads": 1}
    made = {"commit": commit, **machine, **settings, "rows": rows, "skipped": skipped}
    return made | {"means": summarise(rows)}


def _compare_method(
    method: str, old: Side, new: Side, what: Comparison, skipped: dict[str, str]
) -> Iterator[dict[str, Any]]:
    place = {"method": method, "dataset": what.dataset, "preset": what.preset}
    place |= {"overrides": what.overrides, "batch": what.batch} | what.paths
    answers = [side.ask("open", **place) for side in (old, new)]
    reasons = [answer["skip"] for answer in answers if answer["skip"]]
    if reasons:
        skipped[method] = reasons[0]
        return
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "weights.pt")
        old.ask("keep_weights", file=file)
        for side in (old, new):
            side.ask("take_weights", file=file)
    rows = []
    precisions = {k: t["precision"] for k, t in zip(("old", "new"), answers, strict=True)}
    for number, (name, steps, size) in enumerate(answers[0]["stages"]):
        if what.stage not in ("", name):
            continue
        order = {"order": "update", "stage": number, "updates": what.updates}
        times = _take_turns(old, new, what.turns, order)
        row = {"method": method, "work": name, "stage": number, "steps": steps, "batch": size}
        row |= {"precision": precisions} | _summarise_times(times)
        rows.append(row | _peaks(old, new))
    # Last, for in float32 it takes memory, which a process keeps.
    losses = [side.ask("first_losses") for side in (old, new)] if rows else []
    for row in rows:
        before, after = (side[row["stage"]] for side in losses)
        yield row | {"loss": abs(after - before) / max(abs(before), 1e-12)}
    known = old.ask("evaluators") if what.evaluators else ()
    for name in what.evaluators:
        if name not in known:
            skipped[f"{method}, {name}"] = "This evaluator does not apply, or is unknown."
            continue
        order = {"order": "evaluate", "evaluator": name, "tuples": what.tuples}
        made = _take_turns(old, new, min(what.turns, 3), order)
        times = [[[turn["seconds"]] for turn in side] for side in made]
        a, b = (side[0]["scores"] for side in made)
        gap = max((abs(a[k] - b[k]) for k in a.keys() & b.keys()), default=0.0)
        row = {"method": method, "work": f"evaluate {name}", "score": gap}
        yield row | _summarise_times(times) | _peaks(old, new)


def _take_turns(old: Side, new: Side, turns: int, order: dict[str, Any]) -> list[list[Any]]:
    """Answers of both sides by turn, the warming-up one left out; the first to work alternates."""
    answers: list[list[Any]] = [[], []]
    for side in (old, new):
        side.ask("forget_peak")
    for turn in range(turns + 1):
        sides = [(old, answers[0]), (new, answers[1])]
        for side, into in sides if turn % 2 else reversed(sides):
            into.append(side.ask(**order))
    return [side[1:] for side in answers]


def _summarise_times(times: list[list[list[float]]]) -> dict[str, Any]:
    ratio, low, high = ratio_of_medians(*times)
    ms = [1000 * median([x for turn in side for x in turn]) for side in times]
    return {"old_ms": ms[0], "new_ms": ms[1], "faster": ratio, "low": low, "high": high}


def _peaks(old: Side, new: Side) -> dict[str, float]:
    return {"old_mib": old.ask("peak"), "new_mib": new.ask("peak")}


def summarise(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric means over methods of how much faster the new side is, by what is meant."""
    first = [row["faster"] for row in rows if row.get("stage") == 0]
    later = [row["faster"] for row in rows if row.get("stage", 0) > 0]
    evaluations = [row["faster"] for row in rows if "stage" not in row]
    whole = []
    for method in dict.fromkeys(row["method"] for row in rows):
        stages = [row for row in rows if row["method"] == method and "stage" in row]
        seconds = [sum(row["steps"] * row[k] for row in stages) for k in ("old_ms", "new_ms")]
        whole += [seconds[0] / seconds[1]] if stages else []
    groups = {"first stages": first, "later stages": later, "whole trainings": whole}
    groups["evaluations"] = evaluations
    return {name: geometric_mean(ratios) for name, ratios in groups.items() if ratios}


def render(made: dict[str, Any]) -> str:
    """The rows and the geometric means, as a table."""
    head = ("method", "work", "batch", "precision", "old ms", "new ms", "faster", "95 %")
    head += ("loss", "old MiB", "new MiB")
    lines = []
    for row in made["rows"]:
        kinds = row.get("precision")
        kind = " ".join(dict.fromkeys(kinds.values())) if kinds else ""
        loss = f"{row['loss']:.1e}" if "loss" in row else f"score {row['score']:.1e}"
        cells = [row["method"], row["work"], row.get("batch", ""), kind]
        cells += [f"{row[k]:.1f}" for k in ("old_ms", "new_ms")]
        cells += [f"{row['faster']:.2f}", f"{row['low']:.2f}-{row['high']:.2f}", loss]
        lines.append([*cells, *(f"{row[k]:.0f}" for k in ("old_mib", "new_mib"))])
    text = [tabulate(lines, head, disable_numparse=True)]
    text += [f"{method}: {reason}" for method, reason in made["skipped"].items()]
    text += [f"geometric mean, {name}: {value:.2f}" for name, value in made["means"].items()]
    facts = f"{made['machine']}, torch {made['torch']}, {made['threads']} thread"
    return "\n".join([*text, f"{facts}; against {made['commit'][:10]}"])
