"""What the README shows works as it is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_method_is_found_tested_trained_scored_and_tabulated(tmp_path):
    """In a copy of the project, with the example's file and no other change."""
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    copy = tmp_path / "project"
    copy.mkdir()
    for item in ROOT.iterdir():
        if item.name == "baselines":
            (copy / "baselines").mkdir()
            for file in item.glob("*.py"):
                (copy / "baselines" / file.name).symlink_to(file)
        elif item.name not in (".git", ".venv", "results"):
            (copy / item.name).symlink_to(item)
    (copy / "results").mkdir()
    (copy / "results" / "published.csv").symlink_to(ROOT / "results" / "published.csv")
    (copy / "baselines" / "floor.py").write_text(code)

    def call(*arguments):
        # -P and an own path: neither this folder nor the installed project may answer.
        command = f"import sys; sys.path.insert(0, {str(copy)!r}); import runpy; "
        run = "runpy.run_module({!r}, run_name='__main__')".format
        module, *rest = arguments
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"{command} sys.argv = {rest!r}; {run(module)}"],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "floor" in call("bench", "bench.py", "list", "models")
    suite = call(
        *("pytest", "pytest", "-q", "-p", "no:cacheprovider"),
        *("tests/contract/test_models.py", "-k", "floor"),
    )
    assert "passed" in suite
    table = call(
        *("bench", "bench.py", "run", "--models", "floor", "--dataset", "polydigits"),
        *("--preset", "smoke", "--store", str(tmp_path / "store"), "--threads", "1"),
    )
    assert re.search(r"^floor .*\(1\)", table, flags=re.M)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`bench\.py (\w+)", README))))
def test_every_command_of_the_readme_exists(command):
    import bench

    assert command in bench.main.commands


def test_every_option_of_the_readme_exists():
    import bench

    known = {
        option
        for command in bench.main.commands.values()
        for parameter in command.params
        for option in parameter.opts
    }
    others = {"--quiet", "--editable", "--dist", "--families", "--batch"}  # of pip, pytest, step.py
    shown = set(re.findall(r"(?<=[ `(])--[a-z][a-z-]+", README)) - others
    assert shown <= known, shown - known
