"""Imports run one way (docs/architecture.md), and reading commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.records import write_run

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("shala", "baselines", "evaluators", "classifiers")  # besides those of shalabench
# What each room may import besides itself.
COMPONENT = {"shalabench.api", "shalabench.nets", "shalabench.metrics"}
ALLOWED = {
    "bench": {"shalabench.cli", "shalabench.api"},
    "shalabench": {
        "shalabench.api",
        "shalabench.config",
        "shalabench.exchange",
        "shalabench.execute",
        "shalabench.records",
    },
    "shalabench.api": set(),
    "shalabench.config": {"shalabench.api"},
    "shalabench.records": {"shalabench.api", "shalabench.config"},
    "shalabench.analysis": {"shalabench.api", "shalabench.config", "shalabench.records"},
    "shalabench.report": {
        "shalabench.api",
        "shalabench.config",
        "shalabench.records",
        "shalabench.analysis",
    },
    "shalabench.execute": {
        "shalabench.api",
        "shalabench.config",
        "shalabench.records",
        "shalabench.priors",
        "classifiers",
    },
    "shalabench.exchange": {
        "shalabench.api",
        "shalabench.config",
        "shalabench.records",
        "shalabench.execute",
        "shalabench.metrics",
    },
    "shalabench.priors": {"shalabench.api", "shalabench.config", "shalabench.nets"},
    "shalabench.cli": {
        "shalabench.api",
        "shalabench.config",
        "shalabench.records",
        "shalabench.analysis",
        "shalabench.report",
        "shalabench.exchange",
        "shalabench.execute",
    },
    "shalabench.nets": {"shalabench.api"},
    "shalabench.metrics": {"shalabench.api"},
    "shalabench.datasets": COMPONENT,
    "shala": COMPONENT,
    "baselines": COMPONENT,
    "evaluators": COMPONENT,
    "classifiers": COMPONENT,
}
# A file of these rooms is a component, and components do not know each other.
COMPONENTS = ("baselines", "evaluators", "shalabench.datasets")


def room_of(module: str) -> str | None:
    parts = module.split(".")
    room = ".".join(parts[:2]) if parts[0] == "shalabench" else parts[0]
    return room if room in ALLOWED else None


def modules(root: Path):
    files = [root / "bench.py"]
    for room in ("shalabench", *ROOMS):
        files += sorted((root / room).rglob("*.py"))
    for file in files:
        name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        yield name, file


def imports(file: Path):
    """Dotted names of what a file imports, at its head or within a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_edges(root: Path):
    """Imports against the one way, and imports of one component by another."""
    for name, file in modules(root):
        room = room_of(name)
        for target in imports(file):
            other = room_of(target)
            shared = (f"{room}.sources", f"{room}.synthetic")
            own = room in COMPONENTS and not target.startswith(shared)
            if own if other == room else other not in (None, *ALLOWED[room]):
                yield f"{name} imports {target}"


def test_imports_run_one_way_and_components_do_not_know_each_other():
    assert list(wrong_edges(ROOT)) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("baselines/new.py", "from baselines import mmvae_plus"),
        ("baselines/new.py", "import baselines.mmvae_plus"),
        ("baselines/new.py", "def f():\n    from shala.model import ShaLa"),
        ("baselines/new.py", "from shalabench.records import store"),
        ("evaluators/new.py", "from classifiers import load"),
        ("shalabench/datasets/new.py", "from shalabench.datasets.toy import Toy"),
        ("shalabench/datasets/new.py", "import evaluators.quality"),
        ("shalabench/datasets/sources/new.py", "from shalabench.datasets import toy"),
        ("shalabench/nets/new.py", "from shala import prior"),
        ("shalabench/nets/new.py", "from shalabench.metrics import fid"),
        ("shalabench/execute/new.py", "import shalabench.nets.diffusion"),
        ("shalabench/priors/new.py", "import shalabench.execute.runner"),
        ("shalabench/execute/new.py", "from shalabench.analysis import tables"),
        ("shalabench/execute/new.py", "from shalabench.exchange import read"),
        ("shalabench/analysis/new.py", "from shalabench.execute import runner"),
        ("shalabench/config/new.py", "from shalabench.records import store"),
        ("shalabench/api/new.py", "from shalabench.records.store import Store"),
        ("bench.py", "import classifiers"),
        ("classifiers/new.py", "from evaluators.coherence import Coherence"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, line):
    (tmp_path / "bench.py").write_text("from shalabench.cli import main\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(f"import torch\nfrom shalabench.api import Metric\n{line}\n")
    assert len(list(wrong_edges(tmp_path))) == 1


def test_no_machine_path_and_no_registry_is_named():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    suffixes = (".py", ".toml", ".md", ".sh", ".json", ".jsonl")
    bad = ("/" + "work/", "/" + "root/", "pypi" + ".org", "/" + "home/")
    for name in listed:
        if name.endswith(suffixes) and (ROOT / name).exists():
            text = (ROOT / name).read_text(encoding="utf-8")
            assert not any(word in text for word in bad), name


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["table", "--metric", "coherence", "--store"],
        ["table", "--metric", "coherence", "--format", "csv", "--store"],
        ["table", "--metric", "coherence", "--wide", "--published", "all", "--store"],
        ["status", "--store"],
        ["export", "OUT", "--store"],
        ["report", "OUT", "--store"],
        ["figure", "dots", "--out", "OUT", "--store"],
    ],
)
def test_reading_commands_import_neither_torch_nor_what_tests_need(arguments, tmp_path):
    for seed, (a, b) in enumerate(((0.8, 0.3), (0.9, 0.4))):
        write_run(tmp_path / "store", "shala", seed, a)
        write_run(tmp_path / "store", "mmvae+", seed, b)
    store = [str(tmp_path / "store")] if arguments[-1] == "--store" else []
    heavy = {"torch", "sklearn"}
    if arguments[0] not in ("report", "figure"):  # these draw, and test differences
        heavy |= {"scipy.stats", "matplotlib"}
    code = (
        "import sys; sys.argv = ['bench.py', *sys.argv[1:]]\n"
        "import bench\n"
        "try:\n    bench.main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"heavy = {heavy} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    arguments = [str(tmp_path / "out") if word == "OUT" else word for word in arguments]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, *store],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_no_file_is_longer_than_a_reader_wants():
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    code = [name for name in listed if not name.startswith("tests/") and (ROOT / name).exists()]
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in code}
    assert {name: n for name, n in lengths.items() if n > 400} == {}
