"""Settings of a run, resolved through layers, each value with its origin."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from harness.api import BenchError, ConfigErrors, Settings, setting, unknown
from harness.api.registry import entries, find

CONFIGS = Path(__file__).parent.parent / "configs"
_SECTIONS = ("model", "models", "data", "train", "evaluators")


class TrainSettings(Settings):
    """How every method is trained; part of a run's identity but for `compile` and `log_every`."""

    precision: Literal["bf16", "float32"] = setting(
        "bf16", "Arithmetic of training; evaluation is in float32.", "ours: 1.75 times faster"
    )
    channels_last: bool = setting(True, "Memory order of images.", "ours: faster, same numbers")
    compile: bool = setting(False, "Compile the networks (--compile).", "ours")
    log_every: int = setting(50, "Updates between two readings of the losses.", "ours", ge=1)


@dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    Attributes:
        layer: The layer that set it: "class default", "preset quick", "--set", ...
        source: Why it is so: a section of a paper or of the recipes, or a stated choice.
    """

    layer: str
    source: str


@dataclass(frozen=True)
class Resolved:
    """The settings of one run.

    Attributes:
        model: Of the method.
        data: Of the dataset.
        train: Of the training loop.
        evaluators: Of each evaluator, by name.
        origins: Of every value, by dotted key such as "model.prior.width".
    """

    model: Settings
    data: Settings
    train: TrainSettings
    evaluators: dict[str, Settings]
    origins: dict[str, Origin]

    def values(self) -> dict[str, Any]:
        """Every value by dotted key."""
        parts = {"model": self.model, "data": self.data, "train": self.train}
        parts |= {f"evaluators.{name}": own for name, own in self.evaluators.items()}
        nested = {name: part.model_dump(mode="json") for name, part in parts.items()}
        return dict(_leaves(nested))


def presets() -> list[str]:
    """Names of the presets."""
    return sorted(file.stem for file in (CONFIGS / "presets").glob("*.toml"))


def describe_preset(name: str) -> str:
    """The first comment line of a preset's file."""
    first = (CONFIGS / "presets" / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    return first.lstrip("# ")


def resolve(model: str, dataset: str, preset: str, overrides: Sequence[str]) -> Resolved:
    """Lay the layers over each other.

    Args:
        model: Registered name.
        dataset: Registered name.
        preset: Name of a file in configs/presets.
        overrides: "key=value" each, with the value in TOML, or a bare word.

    Raises:
        ConfigErrors: All mistakes together.
    """
    mistakes: list[str] = []
    classes = _classes(model, dataset, preset, mistakes)
    if mistakes:
        raise ConfigErrors(mistakes)
    values: dict[str, dict[str, Any]] = {name: {} for name in classes}
    origins = {
        f"{name}.{key}": Origin("class default", source)
        for name, cls in classes.items()
        for key, source in _sources(cls)
    }
    for layer, table, default in _layers(model, dataset, preset, overrides, mistakes):
        for key, value, source in _entries(table, model):
            part = next((p for p in classes if key.startswith(p + ".")), None)
            below = key.removeprefix(f"{part}.") if part else ""
            known = _known(classes)
            if part is None or not _has(classes[part], below):
                mistakes.append(f"{unknown('setting', key, known)} ({layer})")
                continue
            _put(values[part], below, value)
            origins[key] = Origin(layer, source or default)
    built = {name: _build(name, cls, values[name], mistakes) for name, cls in classes.items()}
    if mistakes:
        raise ConfigErrors(mistakes)
    evaluators = {n.removeprefix("evaluators."): s for n, s in built.items() if "evaluators." in n}
    return Resolved(built["model"], built["data"], built["train"], evaluators, origins)


def resolve_data(dataset: str, overrides: Sequence[str]) -> Settings:
    """The settings of a dataset alone, from its class, its file and the command line.

    Raises:
        ConfigErrors: All mistakes together.
    """
    mistakes: list[str] = []
    file = CONFIGS / "datasets" / f"{dataset}.toml"
    table = _read(file, mistakes) if file.exists() else {}
    values = {key.removeprefix("data."): v for key, v, _ in _walk("data", table.get("data", {}))}
    cls = find("dataset", dataset).cls.Config
    for text in overrides:
        key, _, value = text.partition("=")
        if not key.startswith("data.") or not _has(cls, key.removeprefix("data.")):
            known = [f"data.{name}" for name, _ in _sources(cls)]
            mistakes.append(unknown("setting", key, known))
            continue
        values[key.removeprefix("data.")] = _parse(value)
    built = _build("data", cls, values, mistakes)
    if mistakes:
        raise ConfigErrors(mistakes)
    return built


def _classes(
    model: str, dataset: str, preset: str, mistakes: list[str]
) -> dict[str, type[Settings]]:
    classes: dict[str, type[Settings]] = {}
    for kind, section, name in (("model", "model", model), ("dataset", "data", dataset)):
        try:
            classes[section] = find(kind, name).cls.Config
        except BenchError as error:
            mistakes.append(str(error))
    if preset not in presets():
        mistakes.append(unknown("preset", preset, presets()))
    classes["train"] = TrainSettings
    for name, entry in entries("evaluator").items():
        classes[f"evaluators.{name}"] = entry.cls.Config
    return classes


def _layers(
    model: str, dataset: str, preset: str, overrides: Sequence[str], mistakes: list[str]
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """(name, nested table, source of its plain values) of each layer, the weakest first."""
    own = _read(CONFIGS / "presets" / f"{preset}.toml", mistakes)
    yield f"preset {preset}", own, f"configs/presets/{preset}.toml"
    file = CONFIGS / "datasets" / f"{dataset}.toml"
    table = _read(file, mistakes) if file.exists() else {}
    special = table.pop("presets", {}).get(preset, {})
    yield f"dataset {dataset}", table, f"configs/datasets/{dataset}.toml"
    yield f"dataset {dataset}, preset {preset}", special, f"configs/datasets/{dataset}.toml"
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            mistakes.append(
                f"'--set {text}' is no setting; write --set KEY=VALUE, such as model.latent_dim=32."
            )
            continue
        nested: dict[str, Any] = {}
        _put(nested, key.strip(), _parse(value))
        yield "--set", nested, "the command line"


def _read(file: Path, mistakes: list[str]) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        mistakes.append(f"{file} is no TOML: {error}.")
        return {}
    for section in set(table) - {*_SECTIONS, "presets"}:
        mistakes.append(unknown(f"section of {file.name}", section, (*_SECTIONS, "presets")))
    return {k: v for k, v in table.items() if k in (*_SECTIONS, "presets")}


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _entries(table: Mapping[str, Any], model: str) -> Iterator[tuple[str, Any, str]]:
    """(dotted key, value, source) of a layer for one model, its own table last."""
    shared = {k: v for k, v in table.items() if k != "models"}
    own = {"model": table.get("models", {}).get(model, {})}
    for part in (shared, own):
        yield from _walk("", part)


def _walk(prefix: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    for key, value in table.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and set(value) <= {"value", "source"} and "value" in value:
            yield name, value["value"], value.get("source", "")
        elif isinstance(value, Mapping):
            yield from _walk(name, value)
        else:
            yield name, value, ""


def _sources(cls: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in cls.model_fields.items():
        if _is_settings(field.annotation):
            yield from _sources(field.annotation, f"{prefix}{name}.")
        else:
            extra = field.json_schema_extra
            yield prefix + name, extra.get("source", "") if isinstance(extra, dict) else ""


def _has(cls: type[BaseModel], key: str) -> bool:
    return key in dict(_sources(cls))


def _known(classes: Mapping[str, type[Settings]]) -> list[str]:
    return [f"{name}.{key}" for name, cls in classes.items() for key, _ in _sources(cls)]


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for step in path:
        table = table.setdefault(step, {})
    table[last] = value


def _build(name: str, cls: type[Settings], values: dict[str, Any], mistakes: list[str]) -> Any:
    try:
        return cls.model_validate(_merge(cls().model_dump(), values))
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(map(str, (name, *item["loc"])))
            mistakes.append(f"{key} is {item['input']!r}: {item['msg'].lower()}.")
        return None


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merge(below[key], value) if nested else value
    return merged


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
