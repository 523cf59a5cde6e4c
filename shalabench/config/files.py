"""TOML files of settings: read, checked, and walked value by value, each with its source."""

from __future__ import annotations

import tomllib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from shalabench.api import unknown

SECTIONS = ("model", "data", "train", "prior", "sampling", "evaluate")
Value = tuple[str, Any, str]  # dotted key, value, source
_LONG = 60  # letters of a value that a message no longer shows
T = TypeVar("T", bound=BaseModel)
F = TypeVar("F", bound="BasedFile")


class Table(BaseModel):
    """The sections of a file; `source` is that of every value without one of its own."""

    model_config = ConfigDict(extra="allow")  # `read_toml` names what is unknown

    source: str = ""
    model: dict[str, Any] = {}
    models: dict[str, dict[str, Any]] = {}
    data: dict[str, Any] = {}
    train: dict[str, Any] = {}
    prior: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    evaluators: dict[str, Any] = {}

    def shared(self, known: Container[str]) -> Iterator[Value]:
        """What holds for every method that has it; `known` are the dotted keys of settings."""
        for section in (*SECTIONS, "evaluators"):
            yield from _walk(section, getattr(self, section), known, self.source)

    def special(self, model: str, known: Container[str]) -> Iterator[Value]:
        """What holds for one method only."""
        yield from _walk("model", self.models.get(model, {}), known, self.source)


class BasedFile(Table):
    """A file with another one of its folder, its base, below it."""

    base: str = ""


class PresetFile(BasedFile):
    """A preset's file: settings for every dataset, and what the preset is for.

    Attributes:
        datasets, methods: Names of all that it is for; any where empty.
    """

    datasets: list[str] = []
    methods: list[str] = []


class DatasetFile(BasedFile):
    """A dataset's file: a base below it, settings for every preset, and for single presets."""

    presets: dict[str, Table] = {}

    @model_validator(mode="after")
    def _hand_down(self) -> DatasetFile:
        for table in self.presets.values():
            table.source = table.source or self.source
        return self


def read_toml(file: Path, schema: type[T], mistakes: list[str]) -> T | None:
    """A TOML file as its schema; None where it is absent, or a mistake leaves nothing to read."""
    if not file.exists():
        return None
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no TOML
        mistakes.append(f"{file} is no TOML: {error}. Correct it, or restore it from the release.")
        return None
    mistakes += _strangers(schema, raw, file.name)
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        mistakes += [_sentence(item, file.name) for item in error.errors()]
        return None


def read_files(
    folder: Path, name: str, schema: type[F], mistakes: list[str], above: tuple[str, ...] = ()
) -> list[tuple[F, str]]:
    """A file of a folder and its path there, after those of its base; `above` are based on it."""
    file = f"{folder.name}/{name}.toml"
    table = read_toml(folder / f"{name}.toml", schema, mistakes)
    if table is None:
        return []
    if not table.base:
        return [(table, file)]
    names = {f.stem for f in folder.glob("*.toml")} - {name, *above}
    if table.base not in names:
        mistakes.append(f"{unknown('base', table.base, names)} ({file})")
        return [(table, file)]
    return [*read_files(folder, table.base, schema, mistakes, (*above, name)), (table, file)]


def _sentence(item: Mapping[str, Any], where: str) -> str:
    """What pydantic has found, with the key and its wrong value."""
    key = f"'{'.'.join(map(str, item['loc']))}' of {where}" if item["loc"] else where
    given = repr(item["input"])
    is_short = item["loc"] and item["type"] != "missing" and len(given) <= _LONG
    message = item["msg"].removeprefix("Value error, ")
    return f"{key}{f' is {given}' if is_short else ''}: {message[:1].lower()}{message[1:]}."


def _strangers(schema: type[BaseModel], raw: Mapping[str, Any], where: str) -> Iterator[str]:
    """One sentence for each key that a schema lacks."""
    fields = schema.model_fields
    for key in raw:
        if key not in fields:
            yield unknown(f"section of {where}", key, fields)
    for name, field in fields.items():
        value, schemas = raw.get(name), get_args(field.annotation)
        tables = dict(enumerate(value)) if isinstance(value, list) else value
        for part in (s for s in schemas if isinstance(s, type) and issubclass(s, BaseModel)):
            for at, inner in tables.items() if isinstance(tables, Mapping) else ():
                if isinstance(inner, Mapping):
                    yield from _strangers(part, inner, f"{where}, {name}.{at}")


def _walk(
    prefix: str, table: Mapping[str, Any], known: Container[str], source: str
) -> Iterator[Value]:
    """The values of a nested table.

    A value is `{ value = ..., source = ... }`, or plain with the source of the nearest table that
    has one. Where "source" is itself a setting, as a dataset's may be, it is no table's source.
    """
    cited = isinstance(table.get("source"), str) and f"{prefix}.source" not in known
    source = table["source"] if cited else source
    for key, value in table.items():
        name = f"{prefix}.{key}"
        if _is_cited(value):
            yield name, value["value"], value.get("source", source)
        elif isinstance(value, Mapping) and (value or name not in known):
            yield from _walk(name, value, known, source)
        elif not (cited and key == "source"):
            yield name, value, source


def _is_cited(value: Any) -> bool:
    """Whether it is `{ value = ..., source = "..." }`, with or without the source."""
    if not isinstance(value, Mapping) or not {"value"} <= value.keys() <= {"value", "source"}:
        return False
    return isinstance(value.get("source", ""), str)
