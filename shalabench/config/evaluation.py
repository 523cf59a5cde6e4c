"""Settings of a dataset and of evaluators, without those of a method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shalabench.api import ConfigErrors, Settings, unknown
from shalabench.api.registry import entries, find
from shalabench.config import settings as layers
from shalabench.config import tuned
from shalabench.config.files import PresetFile, Table, read_files
from shalabench.config.settings import Origin


def resolve_evaluation(
    dataset: str, preset: str, overrides: Sequence[str]
) -> tuple[Settings, dict[str, Settings], dict[str, Origin]]:
    """The settings of a dataset and of every evaluator.

    Args:
        dataset: Registered name.
        preset: Whose values count below those of the dataset; none if empty.
        overrides: "key=value" each.

    Returns:
        Those of the data, those of each evaluator by name, and the origin of every value.

    Raises:
        ConfigErrors: All mistakes together.
    """
    classes = {"data": find("dataset", dataset).cls.Config}
    classes |= {f"evaluators.{n}": entry.cls.Config for n, entry in entries("evaluator").items()}
    if preset and tuned.base_of(preset) not in layers._preset_files():
        raise ConfigErrors([unknown("preset", preset, layers.presets())])
    mistakes: list[str] = []
    known, base, layer = layers._defaults(classes), tuned.base_of(preset), f"dataset {dataset}"
    own = read_files(layers.CONFIGS / "presets", base, PresetFile, mistakes) if preset else []
    files = layers._dataset_files(dataset, mistakes)
    tables: list[tuple[Table, str, str]] = [(t, f, f"preset {Path(f).stem}") for t, f in own]
    tables += [(table, file, layer) for table, file in files]
    tables += [
        (t.presets[name], f, f"{layer}, preset {name}")
        for name in (Path(file).stem for _, file in own)
        for t, f in files
        if name in t.presets
    ]
    given = [
        (key, value, Origin(where, source or file, file))
        for table, file, where in tables
        for key, value, source in table.shared(known)
        if key in known
    ]
    given += layers._overrides(overrides, mistakes)
    built, origins = layers._lay(classes, given, mistakes)
    if mistakes:
        raise ConfigErrors(mistakes)
    data = built.pop("data")
    return data, {name.removeprefix("evaluators."): part for name, part in built.items()}, origins
