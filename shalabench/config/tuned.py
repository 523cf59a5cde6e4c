"""Tuned presets: a preset's settings and, above its files, the values that tuning chose.

`quick-tuned` is the preset `quick` with the values of `DATASET-quick.toml` in the folder of
studies. `shala-bench tune` writes that file beside the study.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from shalabench.api.files import clone, committed
from shalabench.config.files import Table, Value, read_toml

_ENDING = "-tuned"


def name_of(preset: str) -> str:
    """The tuned preset of a preset."""
    return preset + _ENDING


def base_of(preset: str) -> str:
    """The preset that a tuned one is based on; any other preset itself."""
    return preset.removesuffix(_ENDING)


def file_name(dataset: str, preset: str) -> str:
    """Of the chosen values."""
    return f"{dataset}-{preset}.toml"


def study_folder() -> Path:
    """Where studies and the chosen values are written: SHALA_STUDIES, or results/studies."""
    named = os.environ.get("SHALA_STUDIES")
    return Path(named) if named else (clone() or Path()) / "results" / "studies"


def datasets(preset: str) -> list[str]:
    """The datasets that have chosen values under a preset."""
    ending = f"-{preset}.toml"
    files = (file for folder in _folders() for file in folder.glob(f"*{ending}"))
    return sorted({file.name.removesuffix(ending) for file in files})


def read(
    model: str, dataset: str, preset: str, known: Container[str], mistakes: list[str]
) -> Iterator[Value]:
    """The chosen values of a method, each with its source.

    Args:
        model, dataset, preset: Of the run; the preset is the one that was tuned.
        known: Dotted keys of settings.
        mistakes: Receives one sentence where nothing was chosen.
    """
    files = (folder / file_name(dataset, preset) for folder in _folders())
    file = next((file for file in files if file.exists()), None)
    table = read_toml(file, Table, mistakes) if file else None
    if table is not None and model in table.models:
        yield from table.special(model, known)
    elif not mistakes:  # an unknown name is the first thing to mend
        mistakes.append(
            f"No tuned values for {model} on {dataset} under preset {preset}; run "
            f"python bench.py tune --models {model} --dataset {dataset} --preset {preset}."
        )


def render(chosen: Mapping[str, tuple[Mapping[str, Any], str]]) -> str:
    """The content of a file of chosen values.

    Args:
        chosen: For each method, values by dotted key of its settings, and their source.
    """
    lines = ["# Written by shala-bench tune (docs/tuning.md); change nothing here."]
    for model, (values, source) in chosen.items():
        lines += ["", f"[models.{json.dumps(model)}]", f"source = {json.dumps(source)}"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _folders() -> list[Path]:
    """Where chosen values are looked for: those written here come before the packaged ones."""
    return list(dict.fromkeys([study_folder(), committed() / "studies"]))
