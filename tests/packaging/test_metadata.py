"""The wheel declares what its code imports, and holds every package and data file."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from setuptools import find_packages

import shalabench

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = ("shalabench", "shala", "baselines", "evaluators", "classifiers")
OPTIONAL = {
    "ray",
    "umap",
    "submitit",
    "optuna",
    "huggingface_hub",
    "wandb",
    "mlflow",
    "trackio",
}  # imported only where an option asks for them


def imported():
    """Top-level names that the wheel's code imports, besides its own and the standard library."""
    names = set()
    for file in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    return names - {*ROOMS, *sys.stdlib_module_names} - OPTIONAL


def normalise(name):
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def test_every_import_is_a_declared_dependency():
    declared = {normalise(text) for text in PROJECT["project"]["dependencies"]}
    providers = metadata.packages_distributions()
    for name in imported():
        distributions = {normalise(d) for d in providers.get(name, [name])}
        assert distributions & declared, f"{name} is imported and not declared"


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_every_folder_of_code_is_a_package(name):
    """setup.py finds packages by their __init__.py; a folder without one would be left out."""
    packages = set(find_packages(str(ROOT), include=[name, f"{name}.*"]))
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / name).rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} == packages


def test_every_data_file_is_package_data():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    listed = set()
    for package, globs in patterns.items():
        if package != "shalabench.records.committed":
            folder = ROOT / package.replace(".", "/")
            listed |= {file for glob in globs for file in folder.glob(glob)}
    code = {".py", ".pyc"}
    for file in (file for room in ROOMS for file in (ROOT / room).rglob("*")):
        if file.is_file() and file.suffix not in code:
            assert file in listed, file


def test_the_version_is_written_once():
    assert "version" in PROJECT["project"]["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", shalabench.__version__)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{shalabench.__version__}]" in changes
    assert f"\nversion: {shalabench.__version__}\n" in citation
