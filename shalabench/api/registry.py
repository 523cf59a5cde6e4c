"""One registry for models, datasets and evaluators, filled by importing their files.

Other packages add theirs by entry points of the groups `shalabench.models`, `shalabench.datasets`
and `shalabench.evaluators`: each names a module whose import registers the component.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import pkgutil
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

from shalabench.api.errors import BenchError, unknown

Kind = Literal["model", "dataset", "evaluator"]
T = TypeVar("T", bound=type[Any])

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
        name: Name of the component.
        cls: Its class.
        paper: Authors, year and venue of its source; empty for datasets and evaluators.
        version: Raised whenever its results may change.
    """

    kind: Kind
    name: str
    cls: type[Any]
    paper: str
    version: int

    @property
    def files(self) -> list[Path]:
        """Files with the component's code: its file, or for ShaLa all files of its folder."""
        file = Path(inspect.getfile(self.cls))
        whole = self.cls.__module__.startswith("shala.")
        return sorted(file.parent.glob("*.py")) if whole else [file]

    @property
    def digest(self) -> str:
        """Digest of the component's code; see `source_digest`."""
        return source_digest(self.files)


@dataclass(frozen=True)
class Broken:
    """A file or an entry point that cannot be imported.

    Attributes:
        module: Its dotted name.
        reason: Last line of the traceback, with the line number.
    """

    module: str
    reason: str


# Fields of syntax trees that depend on the version of Python, or are types.
_UNSTABLE = ("ctx", "kind", "type_comment", "type_params", "annotation", "returns", "simple")
# Of calls that describe something: how many positional arguments count, and the names of texts.
_TEXTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "setting": (1, ("meaning", "source", "search", "counts_updates", "stretches")),
    "Metric": (3, ("meaning",)),
    "share": (1, ("meaning",)),  # Metric.share
    "register_model": (1, ("paper",)),
    "register_dataset": (1, ("paper",)),
}
_entries: dict[tuple[Kind, str], Entry] = {}
_broken: dict[Kind, dict[str, Broken]] = {"model": {}, "dataset": {}, "evaluator": {}}
_clashes: dict[tuple[Kind, str], str] = {}
_discovered: set[Kind] = set()


class _NameClash(BenchError):
    """Two components of a kind have the same name."""

    def __init__(self, kind: Kind, name: str, first: type, second: type):
        super().__init__(
            f"Two {kind}s are called '{name}': {_dotted(first)} and {_dotted(second)}. "
            "Rename one of them."
        )
        self.key = kind, name


def register_model(name: str, *, paper: str, version: int) -> Callable[[T], T]:
    """Class decorator: register a `Model` as `name` (the paper's name, in lower case)."""
    return _register("model", name, paper, version)


def register_dataset(name: str, *, version: int, paper: str = "") -> Callable[[T], T]:
    """Class decorator: register a `Dataset` as `name`."""
    return _register("dataset", name, paper, version)


def register_evaluator(name: str, *, version: int) -> Callable[[T], T]:
    """Class decorator: register an `Evaluator` as `name`."""
    return _register("evaluator", name, "", version)


def _register(kind: Kind, name: str, paper: str, version: int) -> Callable[[T], T]:
    def decorate(cls: T) -> T:
        held = _entries.get((kind, name))
        if held is not None and _dotted(held.cls) != _dotted(cls):
            raise _NameClash(kind, name, held.cls, cls)
        cls.name, cls.version = name, version
        _entries[kind, name] = Entry(kind, name, cls, paper, version)
        return cls

    return decorate


def _dotted(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def entries(kind: Kind) -> dict[str, Entry]:
    """All components of a kind by name; the first call imports their files and entry points."""
    if kind not in _discovered:
        _discovered.add(kind)
        for package in PACKAGES[kind]:
            folder = importlib.import_module(package).__path__
            for name in [info.name for info in pkgutil.iter_modules(folder) if not info.ispkg]:
                _import(kind, f"{package}.{name}")
        for point in metadata.entry_points(group=f"shalabench.{kind}s"):
            _import(kind, point.module)
    return {name: entry for (k, name), entry in sorted(_entries.items()) if k == kind}


def broken(kind: Kind) -> list[Broken]:
    """Files and entry points of a kind that cannot be imported, with the reasons."""
    entries(kind)
    return list(_broken[kind].values())


def find(kind: Kind, name: str) -> Entry:
    """The component of that name.

    Raises:
        BenchError: There is none; the message has the nearest name, the list, and any broken file.
            Or there are two; the message names both.
    """
    known = entries(kind)
    if (kind, name) in _clashes:
        raise BenchError(_clashes[kind, name])
    if name in known:
        return known[name]
    message = unknown(kind, name, known)
    for item in broken(kind):
        message += f" {item.module} does not import: {item.reason}"
    raise BenchError(message)


def find_factory(reference: str) -> Callable[..., Any]:
    """The function or class that "package.module:factory" names, in another package or file.

    Raises:
        BenchError: The text has another form, the module cannot be imported, or it has no such
            function or class.
    """
    module, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise BenchError(f"'{reference}' names no factory; write package.module:factory.")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever a user's file raises
        raise BenchError(
            f"'{reference}' does not import ({type(error).__name__}: {error}). Its folder must be "
            "on PYTHONPATH, or its package installed."
        ) from error
    if not callable(found):
        raise BenchError(f"{module} has no function or class '{name}' ({reference}).")
    return found


def _import(kind: Kind, module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a user's file raises, the others must go on
        if isinstance(error, _NameClash):
            _clashes[error.key] = str(error)
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        _broken[kind][module] = Broken(module, f"{type(error).__name__}: {error} (line {line})")


def source_digest(files: Iterable[Path]) -> str:
    """SHA-256 over the code in Python files that can change results.

    These do not count: imports, docstrings, comments, layout, annotations, names and order of
    files, messages of errors, the texts and search spaces of settings, and the papers of
    components. Top-level statements are sorted, so that a file may also be split.

    Returns:
        "v2:" and the digest. Digests without "v2:" were made in another way and never equal it.
    """
    statements = set()
    for file in files:
        tree = _Computed().visit(ast.parse(file.read_text(encoding="utf-8")))
        statements |= {repr(_fields(statement)) for statement in tree.body}
    return f"v2:{hashlib.sha256(chr(0).join(sorted(statements)).encode()).hexdigest()}"


def _fields(node: Any) -> Any:
    """A syntax tree as nested tuples, the same in every version of Python.

    `ast.dump` and `ast.unparse` are not: Python 3.12 adds fields and writes f-strings otherwise.
    """
    if isinstance(node, ast.AST):
        fields = [(k, v) for k, v in ast.iter_fields(node) if k not in _UNSTABLE and v != []]
        return type(node).__name__, *((name, _fields(value)) for name, value in fields)
    return tuple(map(_fields, node)) if isinstance(node, list) else node


class _Computed(ast.NodeTransformer):
    """Removes from a syntax tree what changes no number."""

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        return None

    visit_ImportFrom = visit_Import

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return self.generic_visit(node) if node.value else None

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        node.exc = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = ast.unparse(node.func).rpartition(".")[2]
        kept, texts = _TEXTS.get(name, (len(node.args), ()))
        node.args = node.args[:kept]
        node.keywords = [word for word in node.keywords if word.arg not in texts]
        return self.generic_visit(node)
