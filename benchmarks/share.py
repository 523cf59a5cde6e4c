"""How long evaluation takes beside training, by an estimate.

    python benchmarks/share.py --preset quick --datasets mst-digits --methods shala,mopoe

It measures CPU seconds on one thread. Training is the median of some updates times their number,
all stages together. Evaluators run with untrained weights; they make some batches of each piece of
work, the others are taken to cost the same, and what takes longer than `--limit` is cut off and
estimated by the items done. Features of real images count in full; runs keep them. It shows the
longest evaluator with its part of the evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click
from side import Side
from tabulate import tabulate
from timing import ROOT, describe_processor

from shalabench.api.registry import entries

Row = dict[str, Any]


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


@click.command(help=__doc__)
@click.option("--preset", default="quick", show_default=True)
@click.option("--datasets", default="mst-digits", show_default=True)
@click.option("--methods", default="", help="Comma between them; all that are registered if empty.")
@click.option("--updates", default=5, show_default=True, help="Of each stage that are timed.")
@click.option("--batches", default=1, show_default=True, help="Of each piece of work; 0: all.")
@click.option("--limit", default=60.0, show_default=True, help="CPU seconds an evaluator; 0: none.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--data-root", envvar="SHALA_DATA", default="data")
@click.option("--cache-dir", envvar="SHALA_CACHE", default=Path.home() / ".cache" / "shala-bench")
def main(
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
    """Print the table."""
    paths = {"data_root": str(data_root), "cache_dir": str(cache_dir)}
    effort, rows = {"batches": batches, "limit": limit}, []
    for dataset in datasets.split(","):
        for method in methods.split(",") if methods else entries("model"):
            for row in estimate(method, dataset, preset, paths, updates, **effort):
                rows.append(row)
                click.echo(f"{dataset} {method}: {share(row):.0%}", err=True)
    if not as_json:
        click.echo(render(rows))
        return
    facts = {"machine": describe_processor(), "updates": updates} | effort
    rows = [row | {"share": share(row)} for row in rows]
    click.echo(json.dumps(facts | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
