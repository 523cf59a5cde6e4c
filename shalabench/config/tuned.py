"""Tuned presets: a preset's settings and, above its files, the values that tuning chose.

`quick-tuned` is the preset `quick` with the values of `DATASET-quick.toml` in the folder of
studies, and with neutral dials. `quick-tuned-dials` has the dials of
`DATASET-quick-tuned-dials.toml`, and `quick-dials` those of `DATASET-quick-dials.toml`.
`shala-bench tune` writes these files beside the studies.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from shalabench.api.files import clone, committed, expand_home
from shalabench.config.files import Table, Value, read_toml

_TUNED, _DIALS = "-tuned", "-dials"


class DialFile(BaseModel):
    """A file of chosen dials: the sections of each method."""

    model_config = ConfigDict(extra="allow")  # `read_toml` names what is unknown

    methods: dict[str, Table] = {}


def name_of(preset: str) -> str:
    """The tuned preset of a preset."""
    return preset + _TUNED


def with_dials(preset: str) -> str:
    """The preset that adds chosen dials to a preset."""
    return preset + _DIALS


def without_dials(preset: str) -> str:
    """The preset that chosen dials are added to; any other preset itself."""
    return preset.removesuffix(_DIALS)


def base_of(preset: str) -> str:
    """The preset that a tuned one is based on; any other preset itself."""
    return without_dials(preset).removesuffix(_TUNED)


def file_name(dataset: str, preset: str) -> str:
    """Of the values that tuning a preset chose, or of a preset's dials."""
    return f"{dataset}-{preset}.toml"


def study_folder() -> Path:
    """Where studies and the chosen values are written: SHALA_STUDIES, or results/studies."""
    named = os.environ.get("SHALA_STUDIES")
    return expand_home(named) if named else (clone() or Path()) / "results" / "studies"


def datasets(preset: str) -> list[str]:
    """The datasets that have a file of chosen values, as `file_name` takes the preset."""
    ending = f"-{preset}.toml"
    files = (file for folder in _folders() for file in folder.glob(f"*{ending}"))
    return sorted({file.name.removesuffix(ending) for file in files})


def read(
    model: str, dataset: str, preset: str, known: Container[str], mistakes: list[str]
) -> Iterator[Value]:
    """The chosen values of a method, each with its source.

    Args:
        model, dataset: Of the run.
        preset: The one that was tuned, or the one that adds chosen dials.
        known: Dotted keys of settings.
        mistakes: Receives one sentence where nothing was chosen.
    """
    files = (folder / file_name(dataset, preset) for folder in _folders())
    file = next((file for file in files if file.exists()), None)
    plain = without_dials(preset)
    found: Iterator[Value] | None = None
    if file and plain != preset:
        dials = read_toml(file, DialFile, mistakes)
        if dials is not None and model in dials.methods:
            found = dials.methods[model].shared(known)
    elif file:
        table = read_toml(file, Table, mistakes)
        if table is not None and model in table.models:
            found = table.special(model, known)
    if found is not None:
        yield from found
    elif not mistakes:  # an unknown name is the first thing to mend
        what, flag = ("values", "") if plain == preset else ("dials", " --dials")
        mistakes.append(
            f"No tuned {what} for {model} on {dataset} under preset {plain}; run "
            f"python bench.py tune{flag} --models {model} --dataset {dataset} --preset {plain}."
        )


def render(chosen: Mapping[str, tuple[Mapping[str, Any], str]], section: str = "models") -> str:
    """The content of a file of chosen values.

    Args:
        chosen: For each method, values by dotted key of its settings, and their source.
        section: "models", or "methods" for dials, whose keys begin with their section.
    """
    lines = ["# Written by shala-bench tune (docs/tuning.md); change nothing here."]
    for model, (values, source) in chosen.items():
        lines += ["", f"[{section}.{json.dumps(model)}]", f"source = {json.dumps(source)}"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _folders() -> list[Path]:
    """Where chosen values are looked for: those written here come before the packaged ones."""
    return list(dict.fromkeys([study_folder(), committed() / "studies"]))
