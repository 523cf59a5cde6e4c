"""TOML files of settings: read, checked, and walked value by value, each with its source."""

from __future__ import annotations

import tomllib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from shalabench.api import unknown

SECTIONS = ("model", "data", "train", "prior", "sampling", "evaluate")
Value = tuple[str, Any, str]  # dotted key, value, source
T = TypeVar("T", bound=BaseModel)
F = TypeVar("F", bound="PresetFile")


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


class PresetFile(Table):
    """A preset's file: the preset below it, and settings for every dataset."""

    base: str = ""


class DatasetFile(PresetFile):
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
        content = schema.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        mistakes.append(f"{file} is no TOML: {error}.")
        return None
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(map(str, item["loc"]))
            mistakes.append(
                f"'{key}' of {file.name}: {item['msg'].removeprefix('Value error, ').lower()}."
            )
        return None
    mistakes += _strangers(content, file.name)
    return content


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


def _strangers(content: BaseModel, where: str) -> Iterator[str]:
    """One sentence for each key that no schema has."""
    for key in content.model_extra or ():
        yield unknown(f"section of {where}", key, type(content).model_fields)
    for name, value in content:
        tables = dict(enumerate(value)) if isinstance(value, tuple) else value
        for key, part in tables.items() if isinstance(tables, dict) else ():
            if isinstance(part, BaseModel):
                yield from _strangers(part, f"{where}, {name}.{key}")


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
        if isinstance(value, Mapping) and set(value) <= {"value", "source"} and "value" in value:
            yield name, value["value"], value.get("source", source)
        elif isinstance(value, Mapping):
            yield from _walk(name, value, known, source)
        elif not (cited and key == "source"):
            yield name, value, source
