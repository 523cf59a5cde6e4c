"""What `new` writes works as it is, inside and outside a clone, and it overwrites nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from shalabench.cli import main
from shalabench.cli import new as module

ROOT = Path(__file__).parent.parent.parent
NAMES = {"method": "my-vae", "dataset": "my-digits", "evaluator": "my-error"}
LONGEST = {kind: "l" * 28 + f"-{kind[0]}" for kind in NAMES}  # 30 letters


def call(*arguments):
    return CliRunner().invoke(main, ["new", *map(str, arguments)])


def write_all(folder: Path, names=NAMES) -> Path:
    """A package with a component of each kind, and its entry points as the command asks."""
    for kind, name in names.items():
        done = call(kind, name, "--package", folder)
        assert done.exit_code == 0, done.output
        if added := re.search(r"^Add to .*:\n((?:  .*\n)+)", done.output, flags=re.M):
            with (folder / "pyproject.toml").open("a") as project:
                project.write("\n" + re.sub("^  ", "", added[1], flags=re.M))
    return folder


def run(*words, cwd=ROOT, paths=()):
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT]))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("made") / "my-lab")


@pytest.fixture(scope="module")
def installed(package, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--target", target)
    run("-m", "pip", "install", *options, package)
    return target


def test_a_package_has_a_file_a_test_and_an_entry_point_for_each(package):
    files = {str(f.relative_to(package)) for f in package.rglob("*.*") if "build" not in f.parts}
    made = {f"my_lab/{name.replace('-', '_')}.py" for name in NAMES.values()}
    tests = {f"tests/test_{name.replace('-', '_')}.py" for name in NAMES.values()}
    assert {f for f in files if ".egg" not in f} == {
        *("pyproject.toml", "my_lab/__init__.py"),
        *made,
        *tests,
    }


def test_what_is_installed_is_listed_trained_and_measured(installed, tmp_path):
    kinds = json.loads(run("bench.py", "list", "--json", paths=[installed]))
    versions = {x["name"]: x.get("version") for found in kinds.values() for x in found}
    assert [versions[name] for name in NAMES.values()] == ["1", "1", "1"]
    assert "broken" not in versions.values()
    run(
        *("bench.py", "run", "--models", "my-vae", "--dataset", "toy", "--preset", "smoke"),
        *("--evaluators", "my-error", "--store", tmp_path, "--threads", "1"),
        paths=[installed],
    )
    (result,) = tmp_path.glob("*/results/my-error*.json")
    scores = json.loads(result.read_text())["scores"]
    (summary,) = (s for s in scores if not s["given"] and s["target"] is None)
    assert (summary["metric"], summary["n"]) == ("my-error/mae", 64)
    assert 0 < summary["stderr"] < summary["value"] < 1
    assert len(scores) == 5


def test_its_own_tests_pass(package, installed):
    passed = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=package, paths=[installed]
    )
    assert "9 passed" in passed


@pytest.mark.slow
def test_it_passes_the_contract_suite(installed):
    suite = ("tests/contract", "tests/datasets/test_datasets.py")
    suite += ("tests/evaluators/test_declarations.py",)
    chosen = ("-k", " or ".join(NAMES.values()), "-n", "0", "-p", "no:cacheprovider")
    told = run("-m", "pytest", "-v", *suite, *chosen, paths=[installed])
    passed = re.findall(r"::test_\w+\[([\w-]+).*PASSED", told)
    least = {"method": 15, "dataset": 4, "evaluator": 1}
    assert all(passed.count(name) >= least[kind] for kind, name in NAMES.items()), told


@pytest.mark.slow
def test_types_are_right(package):
    cache = f"--cache-dir={ROOT / '.mypy_cache'}"
    run("-m", "mypy", "--config-file", "pyproject.toml", cache, cwd=package)


@pytest.mark.parametrize("names", [NAMES, LONGEST], ids=["short", "long"])
def test_style_is_right_by_its_settings_and_by_those_of_the_project(names, tmp_path):
    folder = write_all(tmp_path / "lab", names)
    ours = ("--config", ROOT / "pyproject.toml", "--config", 'src=["."]')
    own = ("--config", 'lint.isort.known-first-party=["shalabench"]')
    for options in ((), (*ours, *own)):
        run("-m", "ruff", "check", "--no-cache", *options, ".", cwd=folder)
    run("-m", "ruff", "format", "--no-cache", "--check", ".", cwd=folder)


@pytest.fixture
def cloned(tmp_path, monkeypatch):
    """A folder in place of the clone."""
    root = tmp_path / "clone"
    root.mkdir()
    monkeypatch.setattr(module, "clone", lambda: root)
    return root


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("method", {"baselines/my_vae.py", "tests/baselines/test_my_vae.py"}),
        ("dataset", {"shalabench/datasets/my_digits.py", "tests/datasets/test_my_digits.py"}),
        ("evaluator", {"evaluators/my_error.py", "tests/evaluators/test_my_error.py"}),
    ],
)
def test_in_a_clone_files_are_beside_the_others_of_their_kind(kind, files, cloned):
    done = call(kind, NAMES[kind])
    assert done.exit_code == 0, done.output
    assert {str(f.relative_to(cloned)) for f in cloned.rglob("*.py")} == files
    for folder in {str(Path(file).parent) for file in files}:
        assert (ROOT / folder).is_dir()


def test_without_a_clone_a_folder_of_that_name_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "clone", lambda: None)
    done = call("method", "my-vae")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "my-vae" / "my_vae" / "my_vae.py").is_file()
    assert "shala-bench list models" in done.output


def test_the_method_has_under_forty_lines_and_is_the_one_of_the_docs(cloned):
    call("method", "mean-poe")
    text = (cloned / "baselines" / "mean_poe.py").read_text()
    assert len(text.splitlines()) < 40
    assert text in (ROOT / "docs" / "extend" / "method.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("methud", "my-vae"), "'method'"),
        (("method", "mvae"), "already, in .*mvae.py"),
        (("dataset", "toy"), "already, in .*toy.py"),
        (("evaluator", "coherence"), "already, in .*coherence.py"),
        (("method", "My-VAE"), "'My-VAE' is no name"),
        (("method", "2vae"), "'2vae' is no name"),
        (("method", "a-"), "'a-' is no name"),
        (("method", "../vae"), "'../vae' is no name"),
        (("method", "m" * 31), "at most 30"),
        (("method", "lambda"), "word of Python"),
        (("method", "all"), "meaning of its own"),
        (("evaluator", "floor-error"), "meaning of its own"),
        (("method", "batch"), "called Batch"),
        (("dataset", "split"), "called Split"),
        (("evaluator", "clusters"), "called Clusters"),
    ],
)
def test_wrong_names_are_refused_and_nothing_is_written(arguments, message, cloned):
    done = call(*arguments)
    assert done.exit_code == 2, done.output
    assert re.search(message, done.output), done.output
    assert done.output.strip().endswith(".")
    assert list(cloned.iterdir()) == []


@pytest.mark.parametrize("file", ["baselines/my_vae.py", "tests/baselines/test_my_vae.py"])
def test_a_file_that_exists_is_kept_and_the_other_is_not_written(file, cloned):
    (cloned / file).parent.mkdir(parents=True)
    (cloned / file).write_text("mine")
    done = call("method", "my-vae")
    assert done.exit_code == 2
    assert file in done.output
    assert [(f, f.read_text()) for f in cloned.rglob("*.py")] == [(cloned / file, "mine")]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("torch", "one that is installed"),
        ("1st", "can be called '1st'"),
        ("class", "can be called 'class'"),
        ("other", "no package other/"),
        ("file", "cannot be written"),
    ],
)
def test_folders_that_hold_no_package_are_refused(folder, message, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "file").write_text("mine")
    done = call("method", "my-vae", "--package", tmp_path / folder)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*")} == {
        *("other", "other/pyproject.toml", "file")
    }
