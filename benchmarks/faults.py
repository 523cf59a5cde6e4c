"""Damage what machines and users damage, at random, and count what goes unnoticed.

    python benchmarks/faults.py --attempts 50 --seed 0

Each attempt makes one fault: a kill, a kill at a chosen write, a flipped bit or a cut in a file of
a run, a changed TOML or CSV file, a command line. An attempt fails if it ends in a traceback, if a
run that goes on ends otherwise than without the fault, or if a damaged file that decides a value is
not noticed. The same seed makes the same faults, but for the moments of kills. With --node, a Ray
cluster loses a node.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import torch
from children import carry_out, counting, dying_at, end, start
from click.testing import CliRunner
from tabulate import tabulate
from timing import ROOT

from shalabench.api import BenchError
from shalabench.config import ablations, settings
from shalabench.records import budgets, published
from shalabench.records.store import RunFolder, Store

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
APART = ("jobs", "run_first", "store", "stores", "out", "studies", "time_limit")  # given below
UNSEALED = ("events.jsonl", "lock")  # decide no value
WORDS = (
    *(
        "",
        "-1",
        "0",
        "1e9999",
        "nan",
        "~",
        "~nobody/x",
        "a/../b",
        "x" * 300,
        "\0",
        "\udcff",
        "=1+1",
    ),
    *("shala", "mvae", "toy", "smoke", "gate", "latents", "all", "0,1", "1000000000"),
    *("data.train=1000000000", "model.latent_dim=nan", "model.x=1", "=", "a=b=c", "[", "1.5h"),
)


class Missed(Exception):
    """A fault went unnoticed, or was answered wrongly."""


@dataclass
class Bench:
    """What the attempts share.

    Attributes:
        chance: Decides what is damaged.
        folder: Of this attempt.
        healthy: The store of a run that nothing disturbed, and the one of the same run cut off.
        begun: The store of the same run, killed between two checkpoints.
        writes: Files that the undisturbed run has put in place.
        seconds: That it took.
    """

    chance: random.Random
    folder: Path
    healthy: Path
    begun: Path
    writes: int = 0
    seconds: float = 0.0

    @property
    def store(self) -> Path:
        return self.folder / "store"


def values(folder: RunFolder) -> dict[str, Any]:
    """All that a run has to say, but for times."""
    trained = folder.trained or {}
    scores = {result["evaluator"]: result["scores"] for result in folder.results()}
    return {"digest": trained.get("digest"), "last": trained.get("last"), "scores": scores}


def expect_same(bench: Bench, jobs: int = 1) -> None:
    """Raise `Missed` unless the run, taken up again, ends as the undisturbed one has ended."""
    code = end(carry_out, bench.store, bench.healthy.parent / "cache", jobs=jobs)
    if code:
        raise Missed(f"the same command exits with {code} afterwards")
    healthy = {folder.name: values(folder) for folder in Store(bench.healthy).runs()}
    runs = Store(bench.store).runs()
    if len(runs) != jobs:
        raise Missed(f"{len(runs)} runs are there afterwards")
    for folder in runs:
        if folder.name in healthy and values(folder) != healthy[folder.name]:
            raise Missed(f"{folder.name} has other values afterwards")
        if folder.failed or folder.failures():
            raise Missed(f"{folder.name} has a failure recorded")
    if left := list(bench.store.rglob(".*")):
        raise Missed(f"{left[0]} is left behind")


def kill(bench: Bench) -> str:
    """A signal at a random moment, to the driver, to its workers or to all of them."""
    number, whom = bench.chance.choice(SIGNALS), bench.chance.choice(("driver", "worker", "group"))
    jobs = 1 if whom == "driver" and bench.chance.random() < 0.8 else 2
    child = start(carry_out, bench.store, bench.healthy.parent / "cache", jobs=jobs)
    time.sleep(bench.chance.random() * (bench.seconds if jobs == 1 else bench.seconds + 15))
    with contextlib.suppress(OSError):
        if whom == "worker":
            listed = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
            for pid in listed[:1]:
                os.kill(int(pid), number)
        else:
            (os.killpg if whom == "group" else os.kill)(child.pid, number)
    child.join()
    if child.exitcode not in (0, 3, -number):
        raise Missed(f"{number.name} to the {whom} with {jobs} jobs: exit code {child.exitcode}")
    expect_same(bench, jobs)
    return f"{number.name} to the {whom}"


def kill_at_a_write(bench: Bench) -> str:
    """SIGKILL just before or just after a file is put in place."""
    number, after = bench.chance.randint(1, bench.writes), bench.chance.random() < 0.5
    cache = bench.healthy.parent / "cache"
    end(carry_out, bench.store, cache, hook=dying_at(number, after=after))
    expect_same(bench)
    return f"write {number}"


def damage(bench: Bench) -> str:
    """A flipped bit or a cut in any file of a run that is finished, or of one that is not."""
    is_begun = bench.chance.random() < 0.5
    shutil.copytree(bench.begun if is_begun else bench.healthy, bench.store)
    found = sorted(f for f in bench.store.rglob("*") if f.is_file() and f.stat().st_size)
    file = bench.chance.choice([f for f in found if f.name != "lock"])
    content = bytearray(file.read_bytes())
    at = bench.chance.randrange(len(content))
    if bench.chance.random() < 0.7:
        content[at] ^= 1 << bench.chance.randrange(8)
    else:
        del content[at:]
    file.write_bytes(content)
    what = f"{file.relative_to(bench.store)} at {at} of {len(content)}"
    decides = file.name not in UNSEALED and file.suffix in (".json", ".pt")
    if file.name == "weights.pt" and not (file.parent / "trained.json").exists():
        decides = False  # killed between the two: they are trained again
    if call("status", "--verify", "--store", bench.store) != decides:
        raise Missed(f"status --verify {'misses' if decides else 'complains of'} {what}")
    for command in (("status",), ("table", "--metric", "latents"), ("export", bench.folder / "x")):
        call(*command, "--store", bench.store)
    code = end(carry_out, bench.store, bench.healthy.parent / "cache")
    if code not in (0, 1, 2):
        raise Missed(f"run exits with {code} after {what}")
    (healthy,), runs = Store(bench.healthy).runs(), Store(bench.store).runs()
    if code == 0 and [values(run) for run in runs] != [values(healthy)]:
        raise Missed(f"run goes on to other values after {what}")
    return what


def call(*arguments: Any) -> int:
    """The exit code of a command line.

    Raises:
        Missed: It ended in a traceback.
    """
    from shalabench.cli import main

    shown = CliRunner().invoke(main, [str(x) for x in arguments])
    if shown.exception and not isinstance(shown.exception, SystemExit):
        raise Missed(f"{' '.join(map(str, arguments))[:200]!r}: {shown.exception!r}")
    return shown.exit_code


def change_file(bench: Bench) -> str:
    """A line of a TOML or CSV file that is changed, doubled or lost."""
    configs = bench.folder / "configs"
    shutil.copytree(settings.CONFIGS, configs, ignore=shutil.ignore_patterns("*.py*", "__*"))
    for file in (published.FILE, published.SOURCES, budgets.FILE):
        shutil.copy(file, configs)
    file = bench.chance.choice(sorted([*configs.rglob("*.toml"), *configs.glob("*.csv")]))
    lines = file.read_text(encoding="utf-8").split("\n")
    at = bench.chance.randrange(len(lines))
    position = bench.chance.randint(0, len(lines[at]))
    match bench.chance.randrange(4):
        case 0:
            lines[at] = (
                lines[at][:position] + bench.chance.choice('x,"=[]{}\t\0é') + lines[at][position:]
            )
        case 1:
            lines[at] = lines[at][:position] + lines[at][position + 1 :]
        case 2:
            lines.insert(at, lines[at])
        case 3:
            del lines[at]
    file.write_text("\n".join(lines), encoding="utf-8")
    readers: list[Callable[[], object]] = [
        lambda: [ablations.read_ablation(name) for name in ablations.ablations()],
        lambda: _fresh(published.read_published)(configs / published.FILE.name),
        lambda: _fresh(published.read_sources)(configs / published.SOURCES.name),
        lambda: _fresh(budgets.read_budgets)(configs / budgets.FILE.name),
        *(
            lambda dataset=dataset: settings.resolve("shala", dataset.stem, "quick", ())
            for dataset in (settings.CONFIGS / "datasets").glob("*.toml")
        ),
    ]
    with (
        patch.object(settings, "CONFIGS", configs),
        patch.object(ablations, "FOLDER", configs / "ablations"),
    ):
        for read in readers:
            with contextlib.suppress(BenchError):
                read()
    return f"{file.name}, line {at + 1}"


def _fresh(read: Any) -> Any:
    """A reader without what it has read before."""
    return getattr(read, "__wrapped__", read)


def command(bench: Bench) -> str:
    """A command line of known and hostile words; what would train is stopped before it begins."""
    from shalabench.cli import main

    name = bench.chance.choice(sorted(main.commands.keys() - {"prepare", "classifiers"}))
    known = main.commands[name]
    line: list[str] = []
    for parameter in bench.chance.sample(known.params, min(3, len(known.params))):
        if isinstance(parameter, click.Option):
            if parameter.name in APART:
                continue
            line += [parameter.opts[0]]
            line += [] if parameter.is_flag else [bench.chance.choice(WORDS)]
        else:
            line.append(bench.chance.choice(WORDS))
    own = {"store": bench.folder / "s", "stores": bench.healthy, "studies": bench.folder / "t"}
    own |= {"time_limit": "0s", "out": bench.folder / "o"}
    for parameter in known.params:
        if parameter.name in own and isinstance(parameter, click.Option):
            line += [parameter.opts[0], str(own[parameter.name])]
    os.environ["HOME"] = str(bench.folder)
    os.chdir(bench.folder)
    call(name, *line)
    return f"{name} {' '.join(line)}"


def lose_node(bench: Bench) -> str:
    """A Ray cluster of two nodes on this machine loses the one that works."""
    test = "test_a_task_and_its_events_survive_the_loss_of_its_node"
    where = ROOT / "tests" / "execute" / "test_backends.py"
    run = [sys.executable, "-m", "pytest", "-q", f"{where}::{test}"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missed(done.stdout[-300:])
    return "a node"


KINDS: dict[str, tuple[Callable[[Bench], str], float]] = {  # with its share of the attempts
    "kill": (kill, 0.12),
    "kill at a write": (kill_at_a_write, 0.14),
    "damaged file": (damage, 0.24),
    "changed TOML or CSV": (change_file, 0.20),
    "command line": (command, 0.30),
}


def attempt(kind: str, bench: Bench) -> None:
    """In a child: make one fault; its text goes into a file if it was missed."""
    try:
        KINDS[kind][0](bench) if kind in KINDS else lose_node(bench)
    except Missed as error:
        (bench.folder / "missed").write_text(str(error), "utf-8", "backslashreplace")
    except Exception:
        (bench.folder / "missed").write_text(traceback.format_exc(), "utf-8", "backslashreplace")


def prepare(root: Path) -> Bench:
    """Make the undisturbed run, and the same run cut off at half of its writes."""
    bench = Bench(random.Random(), root, root / "healthy", root / "begun")
    cache, count = root / "cache", root / "count"
    if code := end(carry_out, root / "first", cache, jobs=1):  # fills the cache
        raise SystemExit(f"The undisturbed run exits with {code}.")
    begin = time.monotonic()
    end(carry_out, bench.healthy, cache, hook=counting(count))
    bench.seconds, bench.writes = time.monotonic() - begin, len(count.read_text())
    for number in range(bench.writes // 2, bench.writes):
        shutil.rmtree(bench.begun, ignore_errors=True)
        end(carry_out, bench.begun, cache, hook=dying_at(number, after=True))
        if any(len(run.checkpoints()) == 2 for run in Store(bench.begun).runs()):
            break
    return bench


@click.command(help=__doc__)
@click.option("--attempts", type=click.IntRange(1), default=50, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--only", default="", help="Kinds whose name contains this.")
@click.option("--node", is_flag=True, help="Also lose a node of a Ray cluster, once.")
def main(attempts: int, seed: int, only: str, node: bool) -> None:
    """Print attempts and failures by kind; exit 1 if a fault was missed."""
    torch.set_num_threads(1)
    kinds = [kind for kind in KINDS if only in kind]
    plans = random.Random(seed).choices(kinds, [KINDS[kind][1] for kind in kinds], k=attempts)
    made, missed = Counter(plans), Counter()
    with tempfile.TemporaryDirectory() as folder:
        shared = prepare(Path(folder))
        for number, kind in enumerate([*plans, *(["node"] if node else [])]):
            own = shared.folder / f"attempt-{number}"
            own.mkdir()
            chance = random.Random(f"{seed} {number}")
            bench = Bench(chance, own, shared.healthy, shared.begun, shared.writes, shared.seconds)
            code, file = end(attempt, kind, bench), own / "missed"
            if code or file.exists():
                missed[kind] += 1
                text = file.read_text("utf-8") if file.exists() else f"exit code {code}"
                click.echo(f"{kind}, attempt {number}: {text}", err=True)
            shutil.rmtree(own, ignore_errors=True)
    made |= {"node": 1} if node else {}
    click.echo(tabulate([(k, n, missed[k]) for k, n in made.items()], ("kind", "made", "missed")))
    sys.exit(int(bool(missed)))


if __name__ == "__main__":
    main()
