"""Imports run one way (design.md, section 1), and reading commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("bench", "harness", "shala", "baselines", "evaluators", "data", "classifiers", "nets")
# What each room may import besides itself; "harness.api" is a room of its own.
ALLOWED = {
    "bench": {"harness", "harness.api", "classifiers"},
    "harness": {"harness.api", "classifiers"},
    "harness.api": set(),
    "shala": {"harness.api", "nets"},
    "baselines": {"harness.api", "nets"},
    "evaluators": {"harness.api", "nets"},
    "classifiers": {"harness.api", "nets"},
    "data": {"harness.api"},
    "nets": {"harness.api"},
}
# A file of these rooms is a component, and components do not know each other.
COMPONENTS = ("baselines", "evaluators", "data")


def room_of(module: str) -> str | None:
    if module == "harness.api" or module.startswith("harness.api."):
        return "harness.api"
    top = module.split(".")[0]
    return top if top in ROOMS else None


def modules():
    files = [ROOT / "bench.py"]
    for room in ROOMS[1:]:
        files += sorted((ROOT / room).rglob("*.py"))
    for file in files:
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, file


def imports(file: Path):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield node.module


def test_imports_run_one_way():
    wrong = []
    for name, file in modules():
        room = room_of(name)
        for target in imports(file):
            other = room_of(target)
            if other is None or other == room:
                continue
            if other not in ALLOWED[room]:
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_components_do_not_import_each_other():
    wrong = []
    for name, file in modules():
        room = room_of(name)
        for target in imports(file):
            shared = target.startswith(f"{room}.sources")
            if room in COMPONENTS and target.startswith(f"{room}.") and not shared:
                wrong.append(f"{name} imports {target}")
    assert wrong == []


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
    [["--help"], ["run", "--help"], ["table", "--metric", "coherence"], ["status"]],
)
def test_reading_commands_import_neither_torch_nor_pandas(arguments, tmp_path):
    store = [] if "--help" in arguments else ["--store", str(tmp_path)]
    code = (
        "import sys; sys.argv = ['bench.py', *sys.argv[1:]]\n"
        "import bench\n"
        "try:\n    bench.main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, *store],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
