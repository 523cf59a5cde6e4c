"""Methods, datasets and evaluators of another package are found by their entry points."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
OUTSIDE = Path(__file__).parent / "outside"


def install(folder):
    """Put the package's metadata into a folder, as pip would."""
    project = tomllib.loads((OUTSIDE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / "shala_bench_outside-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def listed(*folders):
    """Versions by name of all components, in a process that sees these folders."""
    done = subprocess.run(
        [sys.executable, "bench.py", "list", "--json"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kinds = json.loads(done.stdout)
    return {item["name"]: item.get("version") for items in kinds.values() for item in items}


def test_components_of_another_package_are_listed(tmp_path):
    install(tmp_path)
    names = listed(OUTSIDE, tmp_path)
    for name in ("outside-floor", "outside-dots", "outside-brightness"):
        assert names[name] == "1"
    assert "broken" not in names.values()


def test_an_entry_point_that_does_not_import_is_listed_as_broken(tmp_path):
    install(tmp_path)
    names = listed(tmp_path)  # the metadata alone
    assert list(names.values()).count("broken") == 3
    assert names["shala"] == "1"
