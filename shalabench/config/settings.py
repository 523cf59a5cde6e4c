"""Settings of a run, resolved through layers, each value with its origin."""

from __future__ import annotations

import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from shalabench.api import BenchError, ConfigErrors, Settings, setting, unknown
from shalabench.api.registry import broken, entries, find

DEFAULT = "class default"  # the layer below all others
CONFIGS = Path(__file__).parent
_SECTIONS = ("model", "models", "data", "train", "prior", "evaluators")
_HIDDEN = ("model", "data")  # sections whose settings are unknown where the name is


class TrainSettings(Settings):
    """How every method is trained; part of a run's identity but for `compile` and `log_every`."""

    precision: Literal["auto", "bf16", "float32"] = setting(
        "auto",
        "Arithmetic of training: bf16 where the device computes in it, else float32; a record "
        "holds which. Evaluation is in float32.",
        "ours: 1.75 times faster on a CPU that has bf16 (reproduction/engine.md), 6 to 35 times "
        "slower on one that emulates it",
    )
    channels_last: bool = setting(True, "Memory order of images.", "ours: faster, same numbers")
    compile: bool = setting(False, "Compile the networks (--compile).", "ours")
    log_every: int = setting(50, "Updates between two readings of the losses.", "ours", ge=1)


class PriorSettings(Settings):
    """Whether a fitted Gaussian mixture stands in for a method's own prior in joint samples."""

    kind: Literal["own", "gmm"] = setting(
        "own", "The method's prior, or a mixture fitted to its encodings (a floor).", "ours"
    )
    components: int = setting(
        10, "Gaussians of the mixture.", "pythae's and MultiVae's sampler", ge=1
    )
    covariance: Literal["full", "diag"] = setting(
        "full", "Of each Gaussian.", "pythae's and MultiVae's sampler"
    )
    tuples: int = setting(20_000, "Training tuples that it is fitted to.", "ours", ge=100)


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
        prior: Of what joint samples are drawn from.
        evaluators: Of each evaluator, by name.
        origins: Of every value, by dotted key such as "model.prior.width".
    """

    model: Settings
    data: Settings
    train: TrainSettings
    prior: PriorSettings
    evaluators: dict[str, Settings]
    origins: dict[str, Origin]

    def values(self) -> dict[str, Any]:
        """Every value by dotted key."""
        parts = {"model": self.model, "data": self.data, "train": self.train, "prior": self.prior}
        parts |= {f"evaluators.{name}": own for name, own in self.evaluators.items()}
        nested = {name: part.model_dump(mode="json") for name, part in parts.items()}
        return dict(_leaves(nested))

    def choices(self) -> dict[str, Any]:
        """Settings of evaluators that no record holds, such as a file's path, by dotted key."""
        return {
            f"evaluators.{name}.{key}": getattr(own, key)
            for name, own in self.evaluators.items()
            for key, field in type(own).model_fields.items()
            if field.exclude
        }


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
        ConfigErrors: All mistakes together; what an unknown name hides is left unchecked.
    """
    mistakes: list[str] = []
    classes = _classes(model, dataset, preset, mistakes)
    known = {name: [f"{name}.{key}" for key, _ in _sources(cls)] for name, cls in classes.items()}
    values: dict[str, dict[str, Any]] = {name: {} for name in classes}
    origins = {
        f"{name}.{key}": Origin(DEFAULT, source)
        for name, cls in classes.items()
        for key, source in _sources(cls)
    }
    for key, value, origin in _entries(model, dataset, preset, overrides, origins, mistakes):
        part = next((name for name in classes if key.startswith(name + ".")), None)
        if key in origins:
            _put(values[part], key.removeprefix(f"{part}."), value)
            origins[key] = origin
        elif part or key.split(".")[0] not in _HIDDEN:
            allowed = known[part] if part else [k for keys in known.values() for k in keys]
            mistakes.append(f"{unknown('setting', key, allowed)} ({origin.layer}, for {model})")
    built = {
        name: _build(name, cls, values[name], origins, mistakes) for name, cls in classes.items()
    }
    if mistakes:
        raise ConfigErrors(mistakes)
    evaluators = {n.removeprefix("evaluators."): s for n, s in built.items() if "evaluators." in n}
    sections = (built[name] for name in ("model", "data", "train", "prior"))
    return Resolved(*sections, evaluators, origins)


def resolve_data(dataset: str, overrides: Sequence[str]) -> Settings:
    """The settings of a dataset alone, from its class, its file and the command line.

    Raises:
        ConfigErrors: All mistakes together.
    """
    mistakes: list[str] = []
    cls = find("dataset", dataset).cls.Config
    origins = {f"data.{key}": Origin(DEFAULT, source) for key, source in _sources(cls)}
    file = CONFIGS / "datasets" / f"{dataset}.toml"
    table = _read(file, mistakes).get("data", {}) if file.exists() else {}
    found = [(key, value) for key, value, _ in _walk("data", table, origins)]
    found += [(key, value) for key, value, _ in _overrides(overrides, mistakes)]
    values: dict[str, Any] = {}
    for key, value in found:
        if key in origins:
            _put(values, key.removeprefix("data."), value)
        else:
            mistakes.append(unknown("setting", key, origins))
    built = _build("data", cls, values, origins, mistakes)
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
    classes |= {"train": TrainSettings, "prior": PriorSettings}
    for name, entry in entries("evaluator").items():
        classes[f"evaluators.{name}"] = entry.cls.Config
    return classes


def _entries(
    model: str,
    dataset: str,
    preset: str,
    overrides: Sequence[str],
    known: Container[str],
    mistakes: list[str],
) -> Iterator[tuple[str, Any, Origin]]:
    """(dotted key, value, origin) of every layer for one model, the weakest first."""
    for table, file, shared, own in _layers(model, dataset, preset, mistakes):
        methods = table.get("models", {})
        _check_methods(methods, file, mistakes)
        general = {key: value for key, value in table.items() if key != "models"}
        for key, value, source in _walk("", general, known):
            if key in known or key not in _all_methods():  # what only others have is not for this
                yield key, value, Origin(shared, source or file)
        for key, value, source in _walk("model", methods.get(model, {}), known):
            yield key, value, Origin(own, source or file)
    yield from _overrides(overrides, mistakes)


def _all_methods() -> set[str]:
    """Dotted keys of the settings of every method."""
    classes = (entry.cls.Config for entry in entries("model").values())
    return {f"model.{key}" for cls in classes for key, _ in _sources(cls)}


def _layers(
    model: str, dataset: str, preset: str, mistakes: list[str]
) -> Iterator[tuple[dict[str, Any], str, str, str]]:
    """(table, file, name of the layer, name for what is the model's alone), the weakest first."""
    file, name = f"presets/{preset}.toml", f"preset {preset}"
    yield _read(CONFIGS / "presets" / f"{preset}.toml", mistakes), file, name, name
    file, name = f"datasets/{dataset}.toml", f"dataset {dataset}"
    table = _read(CONFIGS / "datasets" / f"{dataset}.toml", mistakes)
    special = table.pop("presets", {})
    strangers = [key for key in special if key not in presets()]
    mistakes += [f"{unknown('preset', key, presets())} ({file})" for key in strangers]
    yield table, file, name, f"{name} x {model}"
    within = f", preset {preset}"
    yield special.get(preset, {}), file, f"{name}{within}", f"{name} x {model}{within}"


def _overrides(texts: Sequence[str], mistakes: list[str]) -> Iterator[tuple[str, Any, Origin]]:
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            mistakes.append(
                f"'--set {text}' is no setting; write --set KEY=VALUE, such as model.latent_dim=32."
            )
            continue
        yield key.strip(), _parse(value), Origin("--set", "the command line")


def _check_methods(names: Iterable[str], file: str, mistakes: list[str]) -> None:
    """Complain of settings for a method that is neither registered nor perhaps in a broken file."""
    for name in names:
        if name not in entries("model") and not broken("model"):
            mistakes.append(f"{unknown('model', name, entries('model'))} ({file})")


def _read(file: Path, mistakes: list[str]) -> dict[str, Any]:
    """The sections of a settings file; none where there is no file."""
    if not file.exists():
        return {}
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


def _walk(
    prefix: str, table: Mapping[str, Any], known: Container[str], source: str = ""
) -> Iterator[tuple[str, Any, str]]:
    """(dotted key, value, source) of a nested table.

    A value is `{ value = ..., source = ... }`, or plain with the source of the nearest table that
    has one. Where "source" is itself a setting, as a dataset's may be, it is no table's source.
    """
    told = isinstance(table.get("source"), str) and f"{prefix}.source" not in known
    source = table["source"] if told else source
    for key, value in table.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and set(value) <= {"value", "source"} and "value" in value:
            yield name, value["value"], value.get("source", source)
        elif isinstance(value, Mapping):
            yield from _walk(name, value, known, source)
        elif not (told and key == "source"):
            yield name, value, source


def _sources(
    cls: type[BaseModel], prefix: str = "", default: BaseModel | None = None, outer: str = ""
) -> Iterator[tuple[str, str]]:
    """(dotted key, source of its default) of every setting.

    Args:
        cls: The settings.
        prefix: Before every key.
        default: How the settings around these set them by default.
        outer: Source of what `default` sets otherwise than `cls` does.
    """
    for name, field in cls.model_fields.items():
        extra = field.json_schema_extra
        source = extra.get("source", "") if isinstance(extra, dict) else ""
        given = field.get_default(call_default_factory=True)
        if _is_settings(field.annotation):
            inner = given if default is None else getattr(default, name)
            around = source or f"the default of {cls.__name__}"
            yield from _sources(field.annotation, f"{prefix}{name}.", inner, around)
        else:
            differs = default is not None and getattr(default, name) != given
            yield prefix + name, outer if differs else source


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for step in path:
        table = table.setdefault(step, {})
    table[last] = value


def nest(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The values of one section, of all of a record's by dotted key, as a nested table."""
    table: dict[str, Any] = {}
    for key, value in values.items():
        if key.startswith(f"{section}."):
            _put(table, key.removeprefix(f"{section}."), value)
    return table


def _build(
    name: str,
    cls: type[Settings],
    values: dict[str, Any],
    origins: Mapping[str, Origin],
    mistakes: list[str],
) -> Any:
    try:
        return cls.model_validate(_merge(cls().model_dump(), values))
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(map(str, (name, *item["loc"])))
            given = f" is {item['input']!r}" if item["loc"] else ""
            layer = f" ({origins[key].layer})" if key in origins else ""
            mistakes.append(f"{key}{given}: {item['msg'].lower()}{layer}.")
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
