"""Completion of names in a shell, without importing what they name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from shalabench.api.registry import Kind

_Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def completer(names: Callable[[], Iterable[str]], *, several: bool = False) -> _Completer:
    """What click calls for the values of an option.

    Args:
        names: Gives all values.
        several: Whether the option takes names separated by commas.
    """

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        chosen = before.split(",")
        fitting = [name for name in names() if name.startswith(last) and name not in chosen]
        return [f"{before}{comma}{name}" for name in fitting]

    return complete


def registered(kind: Kind) -> list[str]:
    """Names of the components of a kind, read from their files; those of packages: entry points."""
    from shalabench.api.registry import PACKAGES

    pattern = re.compile(rf'^@register_{kind}\(\s*"([^"]+)"', re.MULTILINE)
    names = {point.name for point in metadata.entry_points(group=f"shalabench.{kind}s")}
    for package in PACKAGES[kind]:
        spec = util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            for file in Path(folder).glob("*.py"):
                names |= set(pattern.findall(file.read_text(encoding="utf-8")))
    return sorted(names)


def _presets() -> list[str]:
    from shalabench.config.settings import presets

    return presets()


def _metrics() -> list[str]:
    """Metrics of the records that are read by default and of published values, families first."""
    from shalabench.records.frame import load
    from shalabench.records.locations import default_stores
    from shalabench.records.published import read_published
    from shalabench.records.store import Store

    records = load([Store(path) for path in default_stores()], may_be_empty=True)
    names = {p.metric for p in read_published()}.union(*(r.scored for r in records.all_results()))
    families = {name.split("/")[0] for name in names}
    return sorted(families | names, key=lambda name: (name.count("/"), name))


models = completer(lambda: ["all", *registered("model")], several=True)
datasets = completer(lambda: registered("dataset"))
evaluators = completer(lambda: registered("evaluator"), several=True)
presets = completer(_presets)
metrics = completer(_metrics)
