"""TOML files of settings: read, checked, and walked value by value, each with its source."""

from __future__ import annotations

import tomllib
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from shalabench.api import unknown

M = TypeVar("M", bound=BaseModel)


class Table(BaseModel):
    """The sections of a settings file, or of one preset in a dataset's file.

    Attributes:
        source: Source of every value without one of its own.
        model: Settings of every method that has them.
        models: Settings of one method, by its name.
        data: Settings of the dataset.
        train: Settings of the training loop.
        prior: Settings of the fitted mixture.
        evaluators: Settings of each evaluator, by its name.
    """

    model_config = ConfigDict(extra="forbid")

    source: str = ""
    model: dict[str, Any] = {}
    models: dict[str, dict[str, Any]] = {}
    data: dict[str, Any] = {}
    train: dict[str, Any] = {}
    prior: dict[str, Any] = {}
    evaluators: dict[str, Any] = {}

    def shared(self, known: Container[str]) -> Iterator[tuple[str, Any, str]]:
        """(dotted key, value, source) of what holds for every method; `known` as for `walk`."""
        for section in ("model", "data", "train", "prior", "evaluators"):
            yield from walk(section, getattr(self, section), known, self.source)

    def special(self, model: str, known: Container[str]) -> Iterator[tuple[str, Any, str]]:
        """(dotted key, value, source) of what holds for one method only."""
        yield from walk("model", self.models.get(model, {}), known, self.source)


class DatasetFile(Table):
    """A dataset's file: settings for every preset, and settings for single presets.

    Attributes:
        base: Name of the dataset whose file lies below this one; empty for none.
        presets: Settings under one preset, by its name.
    """

    base: str = ""
    presets: dict[str, Table] = {}

    @model_validator(mode="after")
    def _hand_down(self) -> DatasetFile:
        for table in self.presets.values():
            table.source = table.source or self.source
        return self


def read_toml(file: Path, schema: type[M], mistakes: list[str]) -> M | None:
    """A TOML file, checked.

    Args:
        file: Path of the file.
        schema: What the file may hold.
        mistakes: Receives one sentence for each mistake.

    Returns:
        The content without the keys that are wrong at the top level; None where nothing can be
        read, also where there is no file.
    """
    if not file.exists():
        return None
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        mistakes.append(f"{file} is no TOML: {error}.")
        return None
    try:
        return schema.model_validate(table)
    except ValidationError as error:
        for item in error.errors():
            *outer, key = item["loc"]
            where = ".".join(map(str, [file.name, *outer]))
            if item["type"] == "extra_forbidden":
                allowed = _inner(schema, outer).model_fields
                mistakes.append(unknown(f"section of {where}", key, allowed))
            else:
                mistakes.append(f"'{key}' of {where}: {item['msg'].lower()}.")
        wrong = {item["loc"][0] for item in error.errors()}
    try:
        return schema.model_validate({k: v for k, v in table.items() if k not in wrong})
    except ValidationError:  # a key is missing; that was reported above
        return None


def _inner(schema: type[BaseModel], path: Sequence[Any]) -> type[BaseModel]:
    """The schema of the table at a path, such as ("presets", "quick")."""
    for name in path:
        field = schema.model_fields.get(name)
        parts = get_args(field.annotation) if field else ()
        schema = next(
            (p for p in parts if isinstance(p, type) and issubclass(p, BaseModel)), schema
        )
    return schema


def walk(
    prefix: str, table: Mapping[str, Any], known: Container[str], source: str = ""
) -> Iterator[tuple[str, Any, str]]:
    """(dotted key, value, source) of a nested table.

    A value is `{ value = ..., source = ... }`, or plain with the source of the nearest table that
    has one. Where "source" is itself a setting, as a dataset's may be, it is no table's source.

    Args:
        prefix: Dotted key of the table.
        table: As read from TOML.
        known: Dotted keys of the settings.
        source: That of the tables around this one.
    """
    cited = isinstance(table.get("source"), str) and f"{prefix}.source" not in known
    source = table["source"] if cited else source
    for key, value in table.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping) and set(value) <= {"value", "source"} and "value" in value:
            yield name, value["value"], value.get("source", source)
        elif isinstance(value, Mapping):
            yield from walk(name, value, known, source)
        elif not (cited and key == "source"):
            yield name, value, source
