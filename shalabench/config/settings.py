"""Settings of a run, resolved through layers, each value with its origin."""

from __future__ import annotations

import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from shalabench.api import BenchError, ConfigErrors, Settings, unknown
from shalabench.api.registry import Kind, broken, entries, find
from shalabench.config import tuned
from shalabench.config.files import SECTIONS, DatasetFile, PresetFile, Table, read_files
from shalabench.config.nested import leaves, merge, put
from shalabench.config.scope import out_of_scope
from shalabench.config.search import Space, dials_of, free_tables
from shalabench.config.training import (
    EvaluateSettings,
    PriorSettings,
    SamplingSettings,
    TrainSettings,
)

DEFAULT = "class default"  # the layer below all others
CONFIGS = Path(__file__).parent
_DECIDES = ("model.", "data.", "prior.")  # train.precision and the like depend on the machine
_SHORT = ("model.networks.", "model.network.custom.")  # how users write it, and where it is kept
Entry = tuple[str, Any, "Origin"]  # dotted key, value, where it comes from


@dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    Attributes:
        layer: The layer that set it: "class default", "preset quick", "--set", ...
        source: Why it is so: a page of docs/reproduction, a paper, or "our choice" with a reason.
        file: The settings file that holds it; empty where there is none.
    """

    layer: str
    source: str
    file: str = ""

    @property
    def place(self) -> str:
        """What a user edits to change the value."""
        return self.file or self.layer


@dataclass(frozen=True)
class Resolved:
    """The settings of one run.

    Attributes:
        model: Of the method.
        data: Of the dataset.
        train: Of the training loop.
        prior: Of what joint samples are drawn from.
        sampling: Of every sampler.
        evaluate: Of every evaluation.
        evaluators: Of each evaluator, by name.
        origins: Of every value, by dotted key such as "model.prior.width".
    """

    model: Settings
    data: Settings
    train: TrainSettings
    prior: PriorSettings
    sampling: SamplingSettings
    evaluate: EvaluateSettings
    evaluators: dict[str, Settings]
    origins: dict[str, Origin]

    def values(self) -> dict[str, Any]:
        """Every value that a run's record holds, by dotted key."""
        parts = {
            name: getattr(self, name) for name in ("model", "data", "train", "prior", "sampling")
        }
        parts |= {f"evaluators.{name}": part for name, part in self.evaluators.items()}
        nested = {name: part.model_dump(mode="json") for name, part in parts.items()}
        nested["prior"] = self.prior.model_dump(mode="json", include=set(self.prior.reads))
        return dict(leaves(nested))

    def deciding(self) -> dict[str, Any]:
        """The values that decide what is trained, on every machine, by dotted key."""
        return {k: v for k, v in self.values().items() if k.startswith(_DECIDES)}

    def dials(self) -> Space:
        """What the samplers' dials are, by dotted key (docs/tuning.md)."""
        return dials_of("sampling", self.sampling) | dials_of("model", self.model)

    def choices(self) -> dict[str, Any]:
        """Settings of evaluations that no run's record holds, such as a path, by dotted key."""
        return {"evaluate.precision": self.evaluate.precision} | {
            f"evaluators.{name}.{key}": getattr(part, key)
            for name, part in self.evaluators.items()
            for key, field in type(part).model_fields.items()
            if field.exclude
        }


def presets() -> list[str]:
    """Names of the presets, tuned ones included."""
    files = _preset_files()
    names = [*files, *(tuned.name_of(n) for n in files if tuned.datasets(n))]
    dialled = map(tuned.with_dials, [*files, *map(tuned.name_of, files)])
    return sorted([*names, *(n for n in dialled if tuned.datasets(n))])


def _preset_files() -> list[str]:
    """Names of the files in presets/."""
    return [file.stem for file in (CONFIGS / "presets").glob("*.toml")]


def describe_preset(name: str) -> str:
    """The first comment line of a preset's file, or what a tuned preset is."""
    if (base := tuned.without_dials(name)) != name:
        return f"As {base}, with the dials that tune chose. For {', '.join(tuned.datasets(name))}."
    if (base := tuned.base_of(name)) != name:
        where = ", ".join(tuned.datasets(base))
        return f"As {base}, with the values that tune chose and neutral dials. For {where}."
    try:
        text = (CONFIGS / "presets" / f"{name}.toml").read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return f"The file cannot be read: {error}."
    first = text.partition("\n")[0].strip()
    return first.lstrip("# ") if first.startswith("#") else "Its file begins with no comment."


def resolve(model: str, dataset: str, preset: str, overrides: Sequence[str]) -> Resolved:
    """Lay the layers over each other.

    Args:
        model: Registered name.
        dataset: Registered name.
        preset: Name of a file in presets/, or that name and "-tuned", "-dials" or "-tuned-dials".
        overrides: "key=value" each, with the value in TOML, or a bare word.

    Raises:
        ConfigErrors: All mistakes together; what an unknown name hides is left unchecked.
    """
    mistakes = out_of_scope([model], dataset, preset, CONFIGS / "presets")
    classes = _classes(model, dataset, preset, mistakes)
    known = _defaults(classes)
    layers = [
        *_as_shala(dataset, preset, known),
        *_file_entries(model, dataset, preset, known, mistakes),
        *_overrides(overrides, mistakes),
    ]
    hidden = {"model", "data"} - classes.keys()
    built, origins = _lay(classes, layers, mistakes, whom=f", for {model}", hidden=hidden)
    if mistakes:
        raise ConfigErrors(mistakes)
    sections = {name: built.pop(name) for name in SECTIONS}
    evaluators = {name.removeprefix("evaluators."): part for name, part in built.items()}
    return Resolved(**sections, evaluators=evaluators, origins=origins)


def resolve_data(dataset: str, overrides: Sequence[str]) -> Settings:
    """The settings of a dataset alone, from its class, its file and the command line.

    Raises:
        ConfigErrors: All mistakes together.
    """
    mistakes: list[str] = []
    classes = {"data": find("dataset", dataset).cls.Config}
    known = _defaults(classes)
    layers = [
        (key, value, Origin(f"dataset {dataset}", source or file, file))
        for table, file in _dataset_files(dataset, mistakes)
        for key, value, source in table.shared(known)
        if key.startswith("data.")
    ]
    built, _ = _lay(classes, [*layers, *_overrides(overrides, mistakes)], mistakes)
    if mistakes:
        raise ConfigErrors(mistakes)
    return built["data"]


def _classes(
    model: str, dataset: str, preset: str, mistakes: list[str]
) -> dict[str, type[Settings]]:
    """The settings class of each section; a section whose name is unknown has none."""
    classes: dict[str, type[Settings]] = {}
    named: dict[str, tuple[Kind, str]] = {"model": ("model", model), "data": ("dataset", dataset)}
    for section, (kind, name) in named.items():
        try:
            classes[section] = find(kind, name).cls.Config
        except BenchError as error:
            mistakes.append(str(error))
    if tuned.base_of(preset) not in _preset_files():
        mistakes.append(unknown("preset", preset, presets()))
    classes |= {"train": TrainSettings, "prior": PriorSettings}
    classes |= {"sampling": SamplingSettings, "evaluate": EvaluateSettings}
    for name, entry in entries("evaluator").items():
        classes[f"evaluators.{name}"] = entry.cls.Config
    return classes


def _defaults(classes: Mapping[str, type[Settings]]) -> dict[str, Origin]:
    """The origin of every default, by dotted key."""
    return {
        f"{name}.{key}": Origin(DEFAULT, source)
        for name, cls in classes.items()
        for key, source in _sources(cls)
    }


def _lay(
    classes: Mapping[str, type[Settings]],
    layers: Iterable[Entry],
    mistakes: list[str],
    *,
    whom: str = "",
    hidden: Container[str] = (),
) -> tuple[dict[str, Any], dict[str, Origin]]:
    """Settings of each section, and the origin of every value.

    Args:
        classes: Of each section.
        layers: Values, the weakest first.
        mistakes: Receives one sentence for each mistake.
        whom: End of a message on an unknown setting.
        hidden: Sections whose settings cannot be checked.
    """
    origins = _defaults(classes)
    values: dict[str, dict[str, Any]] = {name: {} for name in classes}
    tables = tuple(f"{key}." for key in free_tables(classes))
    for written, value, origin in layers:
        key = written.replace(*_SHORT, 1) if written.startswith(_SHORT[0]) else written
        part = next((name for name in classes if key.startswith(name + ".")), None)
        if part and (key in origins or key.startswith(tables)):
            put(values[part], key.removeprefix(f"{part}."), value)
            origins[key] = origin
        elif part or key.split(".")[0] not in hidden:
            allowed = [k for k in origins if not part or k.startswith(f"{part}.")]
            mistakes.append(f"{unknown('setting', key, allowed)} ({origin.place}{whom})")
    built = {
        name: _build(name, cls, values[name], origins, mistakes) for name, cls in classes.items()
    }
    return built, origins


def _file_entries(
    model: str, dataset: str, preset: str, known: Container[str], mistakes: list[str]
) -> Iterator[Entry]:
    """The values that files give one model, the weakest first."""
    asked, plain, preset = preset, tuned.without_dials(preset), tuned.base_of(preset)
    layer, files = f"dataset {dataset}", _dataset_files(dataset, mistakes)
    own = read_files(CONFIGS / "presets", preset, PresetFile, mistakes)
    tables: list[tuple[Table, str, str, str]] = [
        (table, file, *(f"preset {Path(file).stem}",) * 2) for table, file in own
    ]
    tables += [(table, file, layer, f"{layer} x {model}") for table, file in files]
    for name in (Path(file).stem for _, file in own):
        within = f", preset {name}"
        tables += [
            (table.presets[name], file, f"{layer}{within}", f"{layer} x {model}{within}")
            for table, file in files
            if name in table.presets
        ]
    known_presets = set(_preset_files())
    strangers = [
        (key, file) for table, file in files for key in table.presets.keys() - known_presets
    ]
    mistakes += [f"{unknown('preset', key, known_presets)} ({file})" for key, file in strangers]
    of_any = _all_methods()
    for table, file, layer, special in tables:
        for name in table.models:  # a method may be in a file that does not import
            if name not in entries("model") and not broken("model"):
                mistakes.append(f"{unknown('model', name, entries('model'))} ({file})")
        for key, value, source in table.shared(known):
            if key in known or key not in of_any:  # other methods may have it
                yield key, value, Origin(layer, source or file, file)
        for key, value, source in table.special(model, known):
            yield key, value, Origin(special, source or file, file)
    if plain != preset:
        file = f"studies/{tuned.file_name(dataset, preset)}"
        for key, value, source in tuned.read(model, dataset, preset, known, mistakes):
            yield key, value, Origin(f"{layer} x {model}, preset {plain}", source, file)
        for key, dial in _dials(model).items():
            yield key, dial["neutral"], Origin(f"preset {plain}", "neutral (docs/tuning.md)")
    if asked != plain:
        file = f"studies/{tuned.file_name(dataset, asked)}"
        for key, value, source in tuned.read(model, dataset, asked, known, mistakes):
            yield key, value, Origin(f"{layer} x {model}, preset {asked}", source, file)


def _dials(model: str) -> dict[str, dict[str, Any]]:
    """The dials of a method, by dotted key; none where its name is unknown."""
    known = model in entries("model")
    own = dials_of("model", find("model", model).cls.Config()) if known else {}
    return own | dials_of("sampling", SamplingSettings())


def _as_shala(dataset: str, preset: str, known: Container[str]) -> Iterator[Entry]:
    """The files' values for ShaLa's prior as those of a fitted diffusion prior.

    So every method's has the size, the training and the sampler of ShaLa's own.
    """
    own = _defaults(_classes("shala", dataset, preset, []))
    for key, value, origin in _file_entries("shala", dataset, preset, own, []):
        fitted = key.replace("model.prior.", "prior.diffusion.", 1)
        if fitted != key and fitted in known:
            yield (
                fitted,
                value,
                Origin(f"shala's prior, {origin.layer}", origin.source, origin.file),
            )


def _all_methods() -> set[str]:
    """Dotted keys of the settings of every method."""
    classes = (entry.cls.Config for entry in entries("model").values())
    return {f"model.{key}" for cls in classes for key, _ in _sources(cls)}


def _dataset_files(dataset: str, mistakes: list[str]) -> list[tuple[DatasetFile, str]]:
    return read_files(CONFIGS / "datasets", dataset, DatasetFile, mistakes)


def _overrides(texts: Sequence[str], mistakes: list[str]) -> Iterator[Entry]:
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            mistakes.append(
                f"'--set {text}' is no setting; write --set KEY=VALUE, such as model.latent_dim=32."
            )
            continue
        yield key.strip(), _parse(value), Origin("--set", "the command line")


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


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
        source = str(extra.get("source", "")) if isinstance(extra, dict) else ""
        given = field.get_default(call_default_factory=True)
        if isinstance(given, BaseModel):
            inner = given if default is None else getattr(default, name)
            around = source or f"the default of {cls.__name__}"
            part = cast("type[BaseModel]", field.annotation)
            yield from _sources(part, f"{prefix}{name}.", inner, around)
        else:
            differs = default is not None and getattr(default, name) != given
            yield prefix + name, outer if differs else source


def _build(
    name: str,
    cls: type[Settings],
    values: dict[str, Any],
    origins: Mapping[str, Origin],
    mistakes: list[str],
) -> Any:
    try:
        return cls.model_validate(merge(cls().model_dump(), values))
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(map(str, (name, *item["loc"])))
            given = f" is {item['input']!r}" if item["loc"] else ""
            place = f" ({origins[key].place})" if key in origins else ""
            mistakes.append(
                f"{key}{given}: {item['msg'].removeprefix('Value error, ').lower()}{place}."
            )
        return None
