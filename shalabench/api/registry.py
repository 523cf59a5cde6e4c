"""One registry for models, datasets and evaluators, filled by importing their files."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import pkgutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from shalabench.api.errors import BenchError, unknown

Kind = Literal["model", "dataset", "evaluator"]
T = TypeVar("T", bound=type)

PACKAGES: dict[Kind, tuple[str, ...]] = {
    "model": ("shala", "baselines"),
    "dataset": ("shalabench.datasets",),
    "evaluator": ("evaluators",),
}


@dataclass(frozen=True)
class Entry:
    """A registered component.

    Attributes:
        kind: What it is.
        name: Under which it is asked for.
        cls: Its class.
        paper: Authors, year and venue of its source; empty for datasets and evaluators.
        version: Raised whenever its numbers may change.
    """

    kind: Kind
    name: str
    cls: type
    paper: str
    version: int

    @property
    def files(self) -> list[Path]:
        """Where the component's code is: its file, or all of ShaLa's."""
        file = Path(inspect.getfile(self.cls))
        whole = self.cls.__module__.startswith("shala.")
        return sorted(file.parent.glob("*.py")) if whole else [file]

    @property
    def digest(self) -> str:
        """SHA-256 over the component's code, without comments and docstrings."""
        return source_digest(self.files)


@dataclass(frozen=True)
class Broken:
    """A file that does not import.

    Attributes:
        module: Its dotted name.
        reason: Last line of the traceback, with the line number.
    """

    module: str
    reason: str


_entries: dict[tuple[Kind, str], Entry] = {}
_broken: dict[Kind, dict[str, Broken]] = {"model": {}, "dataset": {}, "evaluator": {}}
_discovered: set[Kind] = set()


def register_model(name: str, *, paper: str, version: int) -> Callable[[T], T]:
    """Class decorator: make a `Model` known under `name` (lower case, as the paper writes it)."""
    return _register("model", name, paper, version)


def register_dataset(name: str, *, version: int, paper: str = "") -> Callable[[T], T]:
    """Class decorator: make a `Dataset` known under `name`."""
    return _register("dataset", name, paper, version)


def register_evaluator(name: str, *, version: int, paper: str = "") -> Callable[[T], T]:
    """Class decorator: make an `Evaluator` known under `name`."""
    return _register("evaluator", name, paper, version)


def _register(kind: Kind, name: str, paper: str, version: int) -> Callable[[T], T]:
    def decorate(cls: T) -> T:
        held = _entries.get((kind, name))
        if held is not None and held.cls.__qualname__ != cls.__qualname__:
            raise BenchError(
                f"Two {kind}s are called '{name}': {held.cls.__module__}.{held.cls.__qualname__} "
                f"and {cls.__module__}.{cls.__qualname__}. Rename one of them."
            )
        cls.name, cls.version = name, version
        _entries[kind, name] = Entry(kind, name, cls, paper, version)
        return cls

    return decorate


def entries(kind: Kind) -> dict[str, Entry]:
    """All components of a kind by name, importing their files on the first call."""
    if kind not in _discovered:
        _discovered.add(kind)
        for package in PACKAGES[kind]:
            _import_files(kind, package)
    return {name: entry for (k, name), entry in sorted(_entries.items()) if k == kind}


def broken(kind: Kind) -> list[Broken]:
    """Files of a kind that do not import, with their reasons."""
    entries(kind)
    return list(_broken[kind].values())


def find(kind: Kind, name: str) -> Entry:
    """The component of that name.

    Raises:
        BenchError: There is none; the message has the nearest name, the list, and any broken file.
    """
    known = entries(kind)
    if name in known:
        return known[name]
    message = unknown(kind, name, known)
    for item in broken(kind):
        message += f" {item.module} does not import: {item.reason}"
    raise BenchError(message)


def _import_files(kind: Kind, package: str) -> None:
    parent = importlib.import_module(package)
    for info in pkgutil.iter_modules(parent.__path__):
        module = f"{package}.{info.name}"
        if info.ispkg:
            continue
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a user's file raises, the others must go on
            line = traceback.extract_tb(error.__traceback__)[-1].lineno
            _broken[kind][module] = Broken(module, f"{type(error).__name__}: {error} (line {line})")


def source_digest(files: list[Path]) -> str:
    """SHA-256 over the syntax of Python files: comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            documented = isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
            if documented and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
        digest.update(file.name.encode() + b"\0" + ast.dump(tree).encode() + b"\0")
    return digest.hexdigest()
