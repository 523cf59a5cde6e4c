"""What a preset is for: the datasets and methods that its file states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shalabench.api.registry import entries
from shalabench.config import tuned
from shalabench.config.files import PresetFile, read_toml


def out_of_scope(models: Sequence[str], dataset: str, preset: str, folder: Path) -> list[str]:
    """A sentence on the dataset, and one on all methods, that a preset is not for.

    Args:
        models: Names of methods; an unknown one is left to others to report.
        dataset: A name, likewise.
        preset: Also a tuned one, which is for what its base is for.
        folder: Of the presets' files.
    """
    file = read_toml(folder / f"{tuned.base_of(preset)}.toml", PresetFile, []) or PresetFile()
    instead = f"use --preset {file.base}" if file.base else "choose another preset"
    texts = []
    for kind, allowed, names, known in (
        ("dataset", file.datasets, [dataset], entries("dataset")),
        ("method", file.methods, models, entries("model")),
    ):
        others = [f"'{name}'" for name in names if name in known and name not in allowed]
        if allowed and others:
            texts.append(
                f"The preset '{preset}' is not for the {kind}{'s' * (len(others) > 1)} "
                f"{', '.join(others)}, only for {', '.join(allowed)}. Name only these, or "
                f"{instead}."
            )
    return texts
