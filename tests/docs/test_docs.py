"""README and docs: commands run, examples work, links resolve, tables show the records."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "results" / "README.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if "reproduction" not in p.parts),
]
NEEDS = ("network", "data", "minutes", "gpu", "cluster", "a trained run")
_BLOCK = re.compile(r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<kind>\w+)\n(?P<code>.*?)```", re.S)


class Block(NamedTuple):
    page: Path
    mark: str  # such as "needs: data"; empty for a block that runs here
    kind: str
    code: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(page, m["mark"] or "", m["kind"], m["code"]) for m in _BLOCK.finditer(text)]


def identify(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_every_block_runs_here_or_says_what_it_needs():
    for block in (b for page in PAGES for b in blocks(page) if b.kind in ("bash", "python")):
        kind, _, what = block.mark.partition(": ")
        assert kind in ("", "needs", "example"), block
        if kind == "needs":
            assert what.partition(";")[0] in NEEDS, block


def test_every_code_block_has_a_language():
    for page in PAGES:
        fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), flags=re.M)
        assert all(fences[::2]), identify(page)
        assert not any(fences[1::2]), identify(page)


def runnable(page: Path) -> list[Block]:
    return [b for b in blocks(page) if b.kind in ("bash", "python") and not b.mark]


@pytest.mark.slow
@pytest.mark.parametrize("page", list(filter(runnable, PAGES)), ids=identify)
def test_blocks_run(page, tmp_path):
    """One after another, in an empty folder, with the commands of this checkout."""
    scripts = tmp_path / "bin"
    scripts.mkdir()
    command = scripts / "shala-bench"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {ROOT / "bench.py"} "$@"\n')
    command.chmod(0o755)
    (scripts / "python").symlink_to(sys.executable)
    environment = os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    (tmp_path / "work").mkdir()
    for block in runnable(page):
        start = ["bash", "-euo", "pipefail"] if block.kind == "bash" else [sys.executable]
        done = subprocess.run(
            [*start, "-c", block.code],
            cwd=tmp_path / "work",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, block.code + done.stdout + done.stderr


def examples() -> dict[str, str]:
    """The documentation's complete files, by path."""
    found = (b for page in PAGES for b in blocks(page))
    return {b.mark.removeprefix("example: "): b.code for b in found if b.mark.startswith("example")}


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The project with the examples' files and no other change."""
    copy = tmp_path_factory.mktemp("copy") / "project"
    copy.mkdir()
    changed = {Path(path).parts[0] for path in examples()}
    for item in ROOT.iterdir():
        if item.name in changed:
            (copy / item.name).mkdir()
            for file in item.glob("*.py"):
                (copy / item.name / file.name).symlink_to(file)
        elif not item.name.startswith(".") and item.name != "results":
            (copy / item.name).symlink_to(item)
    for path, code in examples().items():
        (copy / path).write_text(code, encoding="utf-8")
    return copy


def call(copy: Path, module: str, *arguments: str) -> str:
    """Run a module of the copy; neither this folder nor an installed project may answer."""
    lines = (
        f"import runpy, sys; sys.path.insert(0, {str(copy)!r}); sys.argv = {list(arguments)!r}; "
        f"runpy.run_module({module!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", lines], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_example_methods_pass_the_contract_suite(copy):
    listed = call(copy, "bench", "bench.py", "list", "models")
    assert {"floor", "mean-poe"} <= {line.split()[0] for line in listed.splitlines() if line}
    suite = call(
        *(copy, "pytest", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"),
        *("tests/contract/test_models.py", "-k", "floor or mean-poe"),
    )
    assert "passed" in suite


def test_example_methods_are_trained_scored_and_tabulated(copy, tmp_path):
    table = call(
        *(
            copy,
            "bench",
            "bench.py",
            "run",
            "--models",
            "floor,mean-poe",
            "--dataset",
            "polydigits",
        ),
        *("--preset", "smoke", "--store", str(tmp_path / "store"), "--threads", "1"),
        *("--evaluators", "coherence"),
    )
    assert {"floor", "mean-poe"} <= {line.split()[0] for line in table.splitlines() if line}


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    yield from (m for m in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in m)


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_links_between_pages_resolve(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{identify(page)}: {link}"
        if anchor:
            text = target.read_text(encoding="utf-8")
            titles = re.findall(r"^#+ (.*)$", text, flags=re.M)
            slugs = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            assert anchor in slugs | set(re.findall(r"^\((.*)\)=$", text, flags=re.M)), link


def commands() -> dict:
    from shalabench.cli import main

    return main.commands


def test_every_command_of_the_pages_exists():
    for page in PAGES:
        shell = [block.code for block in blocks(page) if block.kind == "bash"]
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        code = "\n".join(shell + re.findall(r"`([^`]+)`", prose))
        for name in re.findall(r"(?:bench\.py|shala-bench) ([a-z]+)", code):
            assert name in commands(), f"{identify(page)}: {name}"


def test_every_option_of_the_pages_exists():
    known = {o for command in commands().values() for p in command.params for o in p.opts}
    for command in commands().values():
        for inner in getattr(command, "commands", {}).values():
            known |= {o for p in inner.params for o in p.opts}
    others = {"--quiet", "--editable", "--dist", "--index-url", "--help"}  # of pip, pytest, click
    others |= {"--logdir", "--backend-store-uri"}  # of tensorboard and mlflow
    for page in PAGES:
        shown = set(re.findall(r"(?<=[ `(])--[a-z][a-z-]+", page.read_text(encoding="utf-8")))
        assert shown <= known | others, f"{identify(page)}: {shown - known - others}"


class Checked(NamedTuple):
    page: Path
    commands: list[list[str]]
    metrics: dict[str, str]  # by column; "rows: tuples": a row for each number of tuples
    header: list[str]
    rows: list[list[str]]


def checked_tables() -> list[Checked]:
    """The tables below a comment that begins with "values"."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for comment, table in re.findall(r"<!-- values\n(.*?)\n-->\n((?:\|[^\n]*\n)+)", text, re.S):
            lines = comment.splitlines()
            header, _, *rows = (
                [cell.strip() for cell in line.strip().strip("|").split("|")]
                for line in table.splitlines()
            )
            metrics = dict(line.split(": ") for line in lines if not line.startswith("--"))
            arguments = [shlex.split(line) for line in lines if line.startswith("--")]
            found.append(Checked(page, arguments, metrics, header, rows))
    return found


def read_csv(arguments: list[str]) -> pd.DataFrame:
    """What the command `table` prints of the committed records."""
    from io import StringIO

    from shalabench.cli import main

    stores = ["reference", *(["ablations"] if "--ablation" in arguments else [])]
    options = [part for s in stores for part in ("--store", str(ROOT / "results" / s))]
    done = CliRunner().invoke(main, ["table", *arguments, *options, "--format", "csv"])
    assert done.exit_code == 0, done.output
    return pd.read_csv(StringIO(done.stdout), keep_default_na=False, na_values=[""])


def shown(text: str) -> list[tuple[float, int]]:
    """The numbers of a cell with their decimals: ".461 ± .005 †"."""
    parts = re.sub(r"[*†‡ ]", "", text.replace("−", "-")).split("±")
    return [(float(part), len(part.partition(".")[2])) for part in parts]


UNMEASURED = ("floor:", "real ", "views of ")  # rows that are no methods


@pytest.mark.parametrize(
    "table", checked_tables(), ids=lambda t: f"{t.page.name} {' '.join(t.commands[0])}"
)
def test_tables_show_the_records(table):
    data = pd.concat([read_csv(arguments) for arguments in table.commands])
    by_tuples, compared = table.metrics.get("rows") == "tuples", 0
    for label, *cells in table.rows:
        if label.startswith(UNMEASURED):
            continue
        name = re.sub(r" \([^)]*\)$", "", label.replace("*", "").replace(", one seed", ""))
        rows = data[data.method.isin([name, f"shala ({name})"]) | by_tuples]
        assert len(rows), f"{label} is no row of the command's output"
        metric = ""
        for column, cell in zip(table.header[1:], cells, strict=True):
            metric = table.metrics.get(column, metric)
            if cell in ("", "–"):
                continue
            shown_metric = f"{metric} {label}" if by_tuples else metric
            (row,) = rows[rows.metric == shown_metric].to_dict("records")
            values = [row["published"]] if column == "published" else [row["mean"], row["stderr"]]
            for (value, digits), recorded in zip(shown(cell), values, strict=False):
                assert abs(value - recorded) <= 0.5001 * 10**-digits, (label, column, cell, row)
                compared += 1
    assert compared >= 2 * len(table.metrics)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
