"""The command that writes a new component: a working file and its test, for a user to change."""

from __future__ import annotations

import importlib.util
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from string import Template
from typing import TYPE_CHECKING

import click

from shalabench.api.errors import BenchError, unknown
from shalabench.api.files import clone
from shalabench.cli.options import Command, UserPath

if TYPE_CHECKING:
    from shalabench.api.registry import Kind

_TEMPLATES = Path(__file__).parent / "templates"
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 30  # letters of a name: no line of a template then has more than 100
_PROJECT = "pyproject.toml"


@dataclass(frozen=True)
class _Place:
    """Where components of a kind are, and how one is tried.

    Attributes:
        kind: As the registry calls it.
        folders: Of a clone, for the file and for its test.
        contract: Tests of a clone that every component of the kind must pass.
        trial: Arguments of a run with it.
        reserved: First parts of names that have a meaning of their own.
    """

    kind: Kind
    folders: tuple[str, str]
    contract: str
    trial: str
    reserved: tuple[str, ...] = ()


_PLACES = {
    "method": _Place(
        "model",
        ("baselines", "tests/baselines"),
        "tests/contract",
        "--models {},mvae --dataset toy --preset smoke --evaluators samples",
        ("all",),
    ),
    "dataset": _Place(
        "dataset",
        ("shalabench/datasets", "tests/datasets"),
        "tests/datasets/test_datasets.py",
        "--models mvae --dataset {} --preset smoke --evaluators samples",
    ),
    "evaluator": _Place(
        "evaluator",
        ("evaluators", "tests/evaluators"),
        "tests/evaluators/test_declarations.py",
        "--models mvae --dataset toy --preset smoke --evaluators {}",
        ("ceiling", "chance", "classifier", "floor"),  # roles of metrics that describe the data
    ),
}


@click.command(cls=Command)
@click.argument("kind", metavar="method|dataset|evaluator")
@click.argument("name")
@click.option(
    "--package",
    type=UserPath(),
    metavar="DIR",
    help="Folder of a package: a new one, or one that this command has made. Default: this clone "
    "or, without a clone, a new folder NAME.",
)
def new(kind: str, name: str, package: Path | None) -> None:
    """Write a working method, dataset or evaluator NAME and its test.

    In a clone, the files are written beside the others of their kind. In a package, an entry point
    registers the component. No file is overwritten.
    """
    if kind not in _PLACES:
        raise BenchError(unknown("kind", kind, _PLACES))
    place, words = _PLACES[kind], _check_name(kind, name)
    root = None if package else clone()
    folder = root or (package or Path(name)).absolute()
    templates, entry = _of_clone(kind, words), ""
    if not root:
        templates, entry = _of_package(kind, words, folder)
    _check_free(place.kind, name)
    _write(folder, {path: _fill(template, words) for path, template in templates.items()})
    program = "python bench.py" if clone() else "shala-bench"
    test = folder / list(templates)[-1]
    steps = [
        f"{program} list {place.kind}s",
        f"{program} run {place.trial.format(name)}",
        f"python -m pytest {quote(str(test))}",
    ]
    if root:
        steps.append(f"python -m pytest {place.contract} -k {name}")
    else:
        steps.insert(0, f"python -m pip install --editable {quote(str(folder))}")
    parts = {f"Written to {folder}:": list(templates)}
    if entry:
        parts[f"Add to {folder / _PROJECT}:"] = entry.splitlines()
    for title, lines in (parts | {"Next:": steps}).items():
        click.echo("\n  ".join([title, *lines]))


def _of_clone(kind: str, words: dict[str, str]) -> dict[str, str]:
    """Templates by the files that they make in a clone, the test last."""
    (folder, tests), module = _PLACES[kind].folders, words["module"]
    return {f"{folder}/{module}.py": f"{kind}.py", f"{tests}/test_{module}.py": f"test_{kind}.py"}


def _of_package(kind: str, words: dict[str, str], folder: Path) -> tuple[dict[str, str], str]:
    """Templates by the files that they make in a package, the test last; `words` get its name.

    A package that has other components keeps its project file. The entry point to add there is
    returned too; it is empty for a new package.
    """
    package, module = _check_package(folder), words["module"]
    words |= {"package": package, "kind": _PLACES[kind].kind}
    words["entry"] = _fill("entry.toml", words).strip()
    is_new = not (folder / _PROJECT).exists()
    first = {_PROJECT: _PROJECT, f"{package}/__init__.py": "init.py"} if is_new else {}
    component = {
        f"{package}/{module}.py": f"{kind}.py",
        f"tests/test_{module}.py": f"test_{kind}.py",
    }
    return first | component, "" if is_new else words["entry"]


def _check_name(kind: str, name: str) -> dict[str, str]:
    """What a name is called in the files: itself, its module and its class.

    Raises:
        BenchError: It is no name for a component.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise BenchError(
            f"'{name[:60]}' is no name for a {kind}. Write at most {_LONGEST} lower-case letters "
            "and digits, parted by hyphens or underscores, with a letter first, such as my-try."
        )
    parts = re.split("[-_]", name)
    module, title = "_".join(parts), "".join(part.capitalize() for part in parts)
    advice = f"Choose another name, such as my-{name}."
    if keyword.iskeyword(module):
        raise BenchError(f"'{name}' is a word of Python, so no file can have that name. {advice}")
    if parts[0] in _PLACES[kind].reserved:
        raise BenchError(f"'{parts[0]}' has a meaning of its own in names like '{name}'. {advice}")
    text = (_TEMPLATES / f"{kind}.py.txt").read_text(encoding="utf-8")
    if re.search(rf"\b{title}\b", text):
        raise BenchError(
            f"The class of '{name}' would be called {title}, as one that it uses. {advice}"
        )
    return {"name": name, "module": module, "Name": title}


def _check_package(folder: Path) -> str:
    """The name of the Python package that a folder holds or is to hold.

    Raises:
        BenchError: None can be made there.
    """
    package = re.sub("[-_. ]+", "_", folder.name.lower())
    if not package.isidentifier() or keyword.iskeyword(package):
        raise BenchError(
            f"No package can be called '{folder.name}'. Choose a folder with --package whose name "
            "has letters, digits and hyphens, with a letter first, such as my-methods."
        )
    found = importlib.util.find_spec(package)
    inside = folder / package / "__init__.py"
    if found and found.origin and Path(found.origin).resolve() != inside.resolve():
        raise BenchError(
            f"A package in {folder} would be called '{package}', as one that is installed "
            f"({found.origin}). Choose another folder with --package."
        )
    if (folder / _PROJECT).exists() and not inside.is_file():
        raise BenchError(
            f"{folder} has a {_PROJECT} and no package {package}/. Choose another folder with "
            "--package: a new one, or one that this command has made."
        )
    return package


def _check_free(kind: Kind, name: str) -> None:
    """Refuse the name of a registered component."""
    from shalabench.api.registry import entries

    known = entries(kind)
    if name in known:
        raise BenchError(
            f"There is a {kind} '{name}' already, in {known[name].files[0]}. Choose another name."
        )


def _fill(template: str, words: dict[str, str]) -> str:
    text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(words)


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write files of which none exists, below a folder."""
    for path in files:
        if (folder / path).exists():
            raise BenchError(
                f"{folder / path} exists, so nothing was written. Choose another name or folder, "
                "or move the file away."
            )
    try:
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with (folder / path).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise BenchError(
            f"{folder} cannot be written ({error}). Choose another folder with --package."
        ) from error
