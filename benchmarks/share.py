"""How long evaluation takes beside training, of recorded runs or by an estimate.

    python benchmarks/share.py read STORE ...
    python benchmarks/share.py estimate --preset quick --datasets mst-digits --methods shala,mopoe

`read` sums the seconds that records state: of trainings, and of the newest test evaluation of each
evaluator. It shows the median over seeds. Both are seconds of the wall, so a run that shared its
machine counts them too.

`estimate` measures CPU seconds on one thread. Training is the median of some updates times their
number, all stages together. Evaluators run with untrained weights; they make some batches of each
piece of work, the others are taken to cost the same, and what takes longer than `--limit` is cut
off and estimated by the items done. Features of real images count in full; runs keep them. It shows
the longest evaluator with its part of the evaluation.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click
from side import Side
from tabulate import tabulate
from timing import ROOT, describe_processor

from shalabench.api.registry import entries
from shalabench.records.store import RunFolder, Store

Row = dict[str, Any]


def read_run(folder: RunFolder) -> Row | None:
    """Seconds of a run's training and of its evaluators; None where a run has not both."""
    trained = folder.trained
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for result in folder.results():
        key = result["evaluator"], result["details"].get("extractor", "")
        same = newest.get(key)
        later = not same or same["provenance"]["finished"] < result["provenance"]["finished"]
        if result["split"] == "test" and later:
            newest[key] = result
    if not trained or not newest or not trained["provenance"].get("seconds"):
        return None
    evaluators: dict[str, float] = defaultdict(float)
    for (name, _), result in newest.items():
        evaluators[name] += result["provenance"]["seconds"]
    labels = {"dataset": folder.run["dataset"], "preset": folder.run["preset"]}
    labels["method"] = folder.run["model"]
    return labels | {"training": trained["provenance"]["seconds"], "evaluators": evaluators}


def median_run(rows: list[Row]) -> Row:
    """Runs that differ in their seed, as one."""
    names = dict.fromkeys(name for row in rows for name in row["evaluators"])
    evaluators = {
        name: median([r["evaluators"][name] for r in rows if name in r["evaluators"]])
        for name in names
    }
    return rows[0] | {"training": median([r["training"] for r in rows]), "evaluators": evaluators}


def read_stores(stores: tuple[Path, ...]) -> list[Row]:
    """A row for each method, dataset and preset."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for folder in (folder for store in stores for folder in Store(store).runs()):
        row = read_run(folder) if not folder.run.get("overrides") else None
        if row:
            groups[row["dataset"], row["preset"], row["method"]].append(row)
    return [median_run(rows) for rows in groups.values()]


def estimate(
    method: str, dataset: str, preset: str, paths: dict[str, str], updates: int, **effort: float
) -> Iterator[Row]:
    """The row of a method; none where it cannot run."""
    with Side(ROOT) as side:
        place = {"method": method, "dataset": dataset, "preset": preset, "overrides": ()}
        answer = side.ask("open", **place, **paths)
        if answer["skip"]:
            click.echo(f"{method}: {answer['skip']}", err=True)
            return
        training = 0.0
        for number, (_, steps, _) in enumerate(answer["stages"]):
            side.ask("update", stage=number, updates=2)
            training += steps * median(side.ask("update", stage=number, updates=updates))
        names = side.ask("evaluators")
        evaluators = {n: side.ask("evaluate", evaluator=n, **effort)["seconds"] for n in names}
    labels = {"dataset": dataset, "preset": preset, "method": method}
    yield labels | {"training": training, "evaluators": evaluators}


def share(row: Row) -> float:
    """Seconds of evaluation a second of training."""
    return sum(row["evaluators"].values()) / row["training"]


def render(rows: list[Row]) -> str:
    """The rows as a table, largest shares first."""
    lines = []
    for row in sorted(rows, key=share, reverse=True):
        whole = sum(row["evaluators"].values())
        longest = max(row["evaluators"], key=row["evaluators"].get)
        part = f"{longest} {row['evaluators'][longest] / whole:.0%}" if whole else ""
        labels = (row["dataset"], row["preset"], row["method"])
        lines.append((*labels, f"{row['training']:.0f}", f"{whole:.0f}", f"{share(row):.0%}", part))
    head = ("dataset", "preset", "method", "training s", "evaluation s", "share", "longest")
    return tabulate(lines, head, disable_numparse=True)


def show(rows: list[Row], as_json: bool, **facts: Any) -> None:
    """Print rows as a table, or with facts as JSON."""
    rows = [row | {"share": share(row)} for row in rows]
    click.echo(json.dumps(facts | {"rows": rows}, indent=1) if as_json else render(rows))


@click.group(help=__doc__)
def main() -> None:
    """Two commands."""


@main.command("read")
@click.argument("stores", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def read_command(stores: tuple[Path, ...], as_json: bool) -> None:
    """Of recorded runs, without those with --set."""
    show(read_stores(stores), as_json)


@main.command("estimate")
@click.option("--preset", default="quick", show_default=True)
@click.option("--datasets", default="mst-digits", show_default=True)
@click.option("--methods", default="", help="Comma between them; all that are registered if empty.")
@click.option("--updates", default=5, show_default=True, help="Of each stage that are timed.")
@click.option("--batches", default=1, show_default=True, help="Of each piece of work; 0: all.")
@click.option("--limit", default=60.0, show_default=True, help="CPU seconds an evaluator; 0: none.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--data-root", envvar="SHALA_DATA", default="data")
@click.option("--cache-dir", envvar="SHALA_CACHE", default=Path.home() / ".cache" / "shala-bench")
def estimate_command(
    preset: str,
    datasets: str,
    methods: str,
    updates: int,
    batches: int,
    limit: float,
    as_json: bool,
    data_root: Path,
    cache_dir: Path,
) -> None:
    """Of runs that are not made."""
    paths = {"data_root": str(data_root), "cache_dir": str(cache_dir)}
    rows = []
    for dataset in datasets.split(","):
        for method in methods.split(",") if methods else entries("model"):
            effort = {"batches": batches, "limit": limit}
            for row in estimate(method, dataset, preset, paths, updates, **effort):
                rows.append(row)
                click.echo(f"{dataset} {method}: {share(row):.0%}", err=True)
    effort = {"updates": updates, "batches": batches, "limit": limit}
    show(rows, as_json, machine=describe_processor(), **effort)


if __name__ == "__main__":
    main()
