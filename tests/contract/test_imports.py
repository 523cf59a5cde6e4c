"""Imports run one way (design.md, section 1), and reading commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from records import write_run

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("bench", "harness", "shala", "baselines", "evaluators", "data", "classifiers", "nets")
# What each room may import besides itself; "harness.api" is a room of its own.
ALLOWED = {
    "bench": {"harness", "harness.api"},
    "harness": {"harness.api", "classifiers"},
    "harness.api": set(),
    "shala": {"harness.api", "nets"},
    "baselines": {"harness.api", "nets"},
    "evaluators": {"harness.api", "nets"},
    "classifiers": {"harness.api", "nets"},
    "data": {"harness.api", "nets"},
    "nets": {"harness.api"},
}
# A file of these rooms is a component, and components do not know each other.
COMPONENTS = ("baselines", "evaluators", "data")


def room_of(module: str) -> str | None:
    if module == "harness.api" or module.startswith("harness.api."):
        return "harness.api"
    top = module.split(".")[0]
    return top if top in ROOMS else None


def modules(root: Path):
    files = [root / "bench.py"]
    for room in ROOMS[1:]:
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
            own = room in COMPONENTS and not target.startswith(f"{room}.sources")
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
        ("baselines/new.py", "from harness import store"),
        ("evaluators/new.py", "from classifiers import load"),
        ("data/new.py", "from data.toy import Toy"),
        ("data/new.py", "import evaluators.quality"),
        ("data/sources/new.py", "from data import toy"),
        ("nets/new.py", "from shala import prior"),
        ("harness/new.py", "import nets"),
        ("harness/api/new.py", "from harness.store import Store"),
        ("bench.py", "import classifiers"),
        ("classifiers/new.py", "from evaluators.coherence import Coherence"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, line):
    (tmp_path / "bench.py").write_text("from harness.api import BenchError\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(f"import torch\nfrom harness.api import Metric\n{line}\n")
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
        ["status", "--store"],
        ["export", "OUT", "--store"],
        ["compare", "shala", "mmvae+", "--store"],
        ["report", "OUT", "--store"],
        ["figure", "dots", "--out", "OUT", "--store"],
    ],
)
def test_reading_commands_import_neither_torch_nor_pandas(arguments, tmp_path):
    for seed, (a, b) in enumerate(((0.8, 0.3), (0.9, 0.4))):
        write_run(tmp_path / "store", "shala", seed, a)
        write_run(tmp_path / "store", "mmvae+", seed, b)
    store = [str(tmp_path / "store")] if arguments[-1] == "--store" else []
    code = (
        "import sys; sys.argv = ['bench.py', *sys.argv[1:]]\n"
        "import bench\n"
        "try:\n    bench.main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'pandas'} & set(sys.modules)\n"
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
