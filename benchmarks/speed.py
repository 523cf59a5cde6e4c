"""Record everything that docs/speed.md shows, and write its tables.

    python benchmarks/speed.py measure REV [PART ...]
    python benchmarks/speed.py render

`measure` runs the other scripts one after another and writes what they print as JSON to
results/speed/PART.json: all parts, or those that are named. It takes hours on one core; a part that
fails leaves its old file. `render` writes the tables of docs/speed.md from these files.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate
from timing import ROOT

FOLDER, PAGE = ROOT / "results" / "speed", ROOT / "docs" / "speed.md"
_EXPERTS = ("--method", "mmvae,mmvae+,cmvae,mvebm", "--set", "model.experts=1", "--only", "update")
_NINE = "shala,mvae,mmvae,mopoe,mmjsd,mvtcae,mmvae+,mvebm,cmvae"  # of the paper
_ALL = (  # that learn a shared latent
    f"{_NINE},mld,sbm-ae,jmvae,mmvm,helvae,mohelvae,wbvae,mwbvae,codevae,crmvae,hoelder+,idmvae"
)
_SHARE = ("share.py", "--limit", "30", "--methods", _NINE, "--json")
PARTS: dict[str, tuple[str, ...]] = {
    "updates": ("step.py", "--json"),
    "updates-float32": ("step.py", "--precision", "float32", "--json"),
    "evaluation": (
        *("step.py", "--methods", "shala", "--stage", "none", "--evaluate", "coherence"),
        *("--tuples", "200", "--turns", "3", "--json"),
    ),
    "evaluation-views": (
        *("step.py", "--methods", "pixelnerf,eg3d", "--dataset", "cars", "--preset", "quick"),
        *("--stage", "none", "--evaluate", "views", "--tuples", "1", "--turns", "1", "--json"),
    ),
    "peer": ("peer.py", "--tuples", "64", "--json"),
    "share-quick": (*_SHARE, "--datasets", "mst-digits"),
    "share-cpu": (*_SHARE, "--preset", "cpu", "--datasets", "polymnist"),
    "modalities": ("views.py", *_EXPERTS, "--modalities", "2,4,6,8,10", "--json"),
    "views": ("views.py", *_EXPERTS, "--views", "4,8,16,32,64", "--json"),
    "all-modalities": (
        *("views.py", "--method", _ALL, "--only", "update", "--modalities", "2,5,10"),
        *("--set", "train.precision=float32", "--repeats", "5", "--json"),
    ),
    "pooling": ("pooling.py", "--json"),
}
_UNMEASURED = "Not measured yet."
Records = dict[str, dict[str, Any]]


def read_records() -> Records:
    """What is recorded, by part."""
    files = [FOLDER / f"{part}.json" for part in PARTS]
    return {file.stem: json.loads(file.read_text("utf-8")) for file in files if file.is_file()}


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    return tabulate(list(rows), list(head), tablefmt="github", disable_numparse=True)


def show_updates(made: dict[str, Any]) -> str:
    """A row for each method and stage, or evaluation; then the geometric means."""
    head = ("method", "work", "before, ms", "now, ms", "faster", "95 %", "memory, MiB")
    rows: list[tuple[str, ...]] = []
    for row in made["rows"]:
        ms = (f"{row[key]:.1f}" for key in ("old_ms", "new_ms"))
        one = row["low"] == row["high"]  # a single turn has no interval
        limits = "–" if one else f"{row['low']:.2f} to {row['high']:.2f}"
        memory = f"{row['old_mib']:.0f} → {row['new_mib']:.0f}"
        rows.append((row["method"], row["work"], *ms, f"{row['faster']:.2f}", limits, memory))
    for name, mean in made["means"].items():
        rows.append(("geometric mean", name, "", "", f"{mean:.2f}", "", ""))
    facts = f"{made['machine']}, torch {made['torch']}, one thread, against `{made['commit'][:10]}`"
    return f"{table(head, rows)}\n\n{facts}."


def show_peer(made: dict[str, Any]) -> str:
    """MultiVae's time over this project's: updates in both precisions, coherence evaluator."""
    head = ("method", "update, bf16", "update, float32", "coherence evaluator")
    rows = []
    for name, row in made["methods"].items():
        if "multivae_s" in row:
            evaluator = row["coherence"]["multivae_s"] / row["coherence"]["float32_s"]
            ratios = [row["multivae_s"] / row[f"{kind}_s"] for kind in ("bf16", "float32")]
            rows.append((name, *(f"{ratio:.2f}" for ratio in (*ratios, evaluator))))
    means = made["geometric_mean"]
    last = (means["bf16"], means["float32"], made["coherence_mean"]["float32"])
    rows.append(("geometric mean", *(f"{mean:.2f}" for mean in last)))
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return f"{table(head, rows)}\n\n{made['machine']}, {versions}, one thread."


def show_share(made: dict[str, Any]) -> str:
    """Evaluation beside training."""
    head = ("dataset", "method", "training, s", "evaluation, s", "share")
    rows = []
    for row in sorted(made["rows"], key=lambda row: -row["share"]):
        seconds = (row["training"], sum(row["evaluators"].values()))
        cells = (f"{x:.0f}" for x in seconds)
        rows.append((row["dataset"], row["method"], *cells, f"{row['share']:.0%}"))
    return f"{table(head, rows)}\n\n{made['machine']}, one thread."


def show_growth(made: dict[str, Any]) -> str:
    """The exponents with which updates grow, and the times at both ends."""
    head = ("method", "work", "fewest", "ms", "most", "ms", "exponent")
    rows = []
    for method, measured in made["methods"].items():
        for work, power in measured["powers"].items():
            own = [row for row in measured["rows"] if row[0] == work]
            ends = (str(x) for row in (own[0], own[-1]) for x in (row[1], f"{row[2]:.1f}"))
            rows.append((method, work, *ends, f"{power:.2f}"))
    return f"{table(head, rows)}\n\n{made['machine']}, torch {made['torch']}, one thread."


def show_all_modalities(made: dict[str, Any]) -> str:
    """Time of an update by number of modalities, each stage of each method."""
    numbers = sorted({row[1] for own in made["methods"].values() for row in own["rows"]})
    head = ("method", "work", *(f"{n}, ms" for n in numbers), "exponent")
    rows = []
    for method, measured in made["methods"].items():
        for work, power in measured["powers"].items():
            ms = {row[1]: f"{row[2]:.1f}" for row in measured["rows"] if row[0] == work}
            rows.append((method, work, *(ms.get(n, "–") for n in numbers), f"{power:.2f}"))
    return f"{table(head, rows)}\n\n{made['machine']}, torch {made['torch']}, one thread."


def show_pooling(made: dict[str, Any]) -> str:
    """Updates against mvtcae's; then milliseconds of a pooling by number of modalities."""
    updates = ((name, f"{1e3 * s:.1f}", f"{ratio:.2f}") for name, s, ratio in made["updates"])
    first = table(("pooling and training, or method", "update, ms", "times mvtcae"), updates)
    head = ("pooling, ms", *(f"M = {m}" for m in made["modalities"]), "exponent 8 to 16")
    rows = (
        (name, *(f"{x:.3f}" for x in ms), f"{power:.2f}") for name, *ms, power in made["poolings"]
    )
    facts = f"{made['machine']}, torch {made['torch']}, one thread"
    return f"{first}\n\n{table(head, rows)}\n\n{facts}."


def show_targets(records: Records) -> str:
    """What was measured, beside the goals of this work."""
    rows = [
        (work, goal, say(records[part])) for part, work, goal, say in _TARGETS if part in records
    ]
    return table(("work", "goal", "measured"), rows)


def _updates(made: dict[str, Any]) -> str:
    least = min(row["faster"] for row in made["rows"] if row["stage"] == 0)
    return f"{made['means']['first stages']:.2f}; least {least:.2f}"


def _memory(made: dict[str, Any]) -> str:
    return f"at most {max(row['new_mib'] / row['old_mib'] for row in made['rows']):.2f} times"


def _loss(made: dict[str, Any]) -> str:
    return f"at most {max(row['loss'] for row in made['rows']):.0e}"


def _evaluation(made: dict[str, Any]) -> str:
    return f"{made['means']['evaluations']:.2f}"


def _peer(mean: str, kind: str) -> Callable[[dict[str, Any]], str]:
    def say(made: dict[str, Any]) -> str:
        rows = [row for row in made["methods"].values() if "multivae_s" in row]
        rows = [row["coherence"] for row in rows] if mean == "coherence_mean" else rows
        least = min(row["multivae_s"] / row[f"{kind}_s"] for row in rows)
        return f"{made[mean][kind]:.2f}; least {least:.2f}"

    return say


def _share(made: dict[str, Any]) -> str:
    most = max(made["rows"], key=lambda row: row["share"])
    good = sum(row["share"] <= 0.2 for row in made["rows"])
    largest = f"at most {most['share']:.0%} ({most['method']})"
    return f"{largest}; {good} of {len(made['rows'])} hold it"


def _growth(made: dict[str, Any]) -> str:
    powers = [p for own in made["methods"].values() for p in own["powers"].values()]
    return f"at most {max(powers):.2f}" if powers else _UNMEASURED


def _least_evaluation(made: dict[str, Any]) -> str:
    return f"{_evaluation(made)}; least {min(row['faster'] for row in made['rows']):.2f}"


def _pooling_share(made: dict[str, Any]) -> str:
    full = [row for row in made["updates"] if row[0].endswith(", full")]
    name, _, most = max(full, key=lambda row: row[2])
    return f"at most {most:.2f} times ({name.partition(',')[0]})"


def _pooling_growth(made: dict[str, Any]) -> str:
    powers = {row[0]: row[-1] for row in made["poolings"]}
    hellinger = powers.pop("hellinger")
    return f"at most {max(powers.values()):.2f}, Hellinger {hellinger:.2f}"


_TARGETS: tuple[tuple[str, str, str, Callable[[dict[str, Any]], str]], ...] = (
    ("updates", "update, nine methods, `cpu` preset", "1.6 times, none slower", _updates),
    (
        *("peer", "update against MultiVae, bf16", "2.2 times, none slower"),
        _peer("geometric_mean", "bf16"),
    ),
    (
        *("peer", "update against MultiVae, float32", "1.35 times, none slower"),
        _peer("geometric_mean", "float32"),
    ),
    ("evaluation", "coherence evaluation of ShaLa", "4 times", _evaluation),
    ("evaluation-views", "view evaluation, pixelNeRF and EG3D", "5 times", _least_evaluation),
    (
        *("peer", "coherence evaluator against MultiVae's", "3 times"),
        _peer("coherence_mean", "float32"),
    ),
    ("share-quick", "evaluation beside training, `quick`, mst-digits", "at most 20 %", _share),
    ("share-cpu", "evaluation beside training, `cpu`, polymnist", "at most 20 %", _share),
    ("updates", "peak memory of updates, bf16", "not above before", _memory),
    ("updates-float32", "peak memory of updates, float32", "not above before", _memory),
    ("modalities", "exponent of an update in modalities, one expert", "at most 1", _growth),
    ("views", "exponent of an update in views, one expert", "at most 1", _growth),
    ("pooling", "update with each pooling, beside MVTCAE", "at most 1.15 times", _pooling_share),
    ("pooling", "exponent of a pooling in modalities", "1, Hellinger 2", _pooling_growth),
    ("updates", "loss of the first update in float32", "differs by at most 1e-4", _loss),
)
_SHOWN: dict[str, Callable[[dict[str, Any]], str]] = {
    "updates": show_updates,
    "updates-float32": show_updates,
    "evaluation": show_updates,
    "peer": show_peer,
    "share-quick": show_share,
    "share-cpu": show_share,
    "modalities": show_growth,
    "views": show_growth,
    "evaluation-views": show_updates,
    "all-modalities": show_all_modalities,
    "pooling": show_pooling,
}


def render_page(text: str, records: Records) -> str:
    """The page with its tables written anew, each between `<!-- speed: PART -->` and its end."""

    def shown(match: re.Match[str]) -> str:
        part = match[1]
        if part == "targets":
            inner = show_targets(records)
        else:
            inner = _SHOWN[part](records[part]) if part in records else _UNMEASURED
        return f"<!-- speed: {part} -->\n\n{inner}\n\n<!-- end -->"

    return re.sub(r"<!-- speed: (\S+) -->\n.*?<!-- end -->", shown, text, flags=re.S)


@click.group(help=__doc__)
def main() -> None:
    """Two commands."""


@main.command()
@click.argument("revision", metavar="REV")
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)), metavar="[PART ...]")
def measure(revision: str, parts: tuple[str, ...]) -> None:
    """Measure parts and record them; REV is the commit to compare with."""
    failed = []
    for part in parts or PARTS:
        script, *options = PARTS[part]
        options += ["--against", revision] if script == "step.py" else []
        command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False)
        if done.returncode:
            failed.append(part)
            continue
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / f"{part}.json").write_text(done.stdout, encoding="utf-8")
        click.echo(f"{part} is recorded.", err=True)
    if failed:
        raise click.ClickException(f"Not measured: {', '.join(failed)}; the reason is above.")


@main.command()
def render() -> None:
    """Write the tables of docs/speed.md."""
    page = Path(PAGE)
    page.write_text(render_page(page.read_text("utf-8"), read_records()), encoding="utf-8")


if __name__ == "__main__":
    main()
