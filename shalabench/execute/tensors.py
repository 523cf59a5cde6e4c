"""Weights and checkpoints, read only if they are as they were written."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from shalabench.api import Model, Stage
from shalabench.api.errors import out_of_memory
from shalabench.records.digests import Damaged, parse_checkpoint, read_checked

_UNREADABLE = (  # what torch raises of bytes that are no file of its own
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, AssertionError, MemoryError, struct.error, pickle.UnpicklingError),
)
_KEYS = {"model", "stage", "step", "state", "sums", "updates", "reading", "last"}


def read_tensors(file: Path, digest: str | None, device: torch.device | str) -> dict[str, Any]:
    """What torch saved in a file, on a device.

    Args:
        file: Weights or a checkpoint.
        digest: SHA-256 of the file; None where none was recorded.
        device: Where the tensors go.

    Raises:
        Damaged: The file cannot be read, has another digest, or is no such file.
    """
    content = read_checked(file, digest)
    try:
        found = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except _UNREADABLE as error:
        if digest is not None and out_of_memory(error):  # the file is whole
            raise
        raise Damaged(str(error).partition("\n")[0] or type(error).__name__) from error
    if not isinstance(found, dict):
        raise Damaged(f"it holds a {type(found).__name__} where a table is expected")
    return found


def read_weights(file: Path, digest: str | None, device: torch.device | str) -> dict[str, Any]:
    """The weights of a trained model.

    Raises:
        Damaged: As `read_tensors`, in a sentence with the next step.
    """
    try:
        return read_tensors(file, digest, device)
    except Damaged as error:
        raise damaged_weights(file, str(error)) from error


def damaged_weights(file: Path, reason: str) -> Damaged:
    """The message on weights that cannot be used."""
    return Damaged(
        f"The weights {file} do not load ({reason}). The results that are recorded stay readable. "
        "Move the run's folder away and train it again."
    )


def read_checkpoint(
    file: Path, run: str, model: Model, stages: Sequence[Stage], device: torch.device | str
) -> dict[str, Any]:
    """A checkpoint of a run.

    Args:
        file: Of its `checkpoints`.
        run: Name of the run's folder.
        model: That the weights will be loaded into.
        stages: Of the model.
        device: Where the tensors go.

    Raises:
        Damaged: The file is damaged, or is no checkpoint of this run and these stages.
    """
    named = parse_checkpoint(file.name)
    saved = read_tensors(file, named[2] if named else None, device)
    if missing := _KEYS - saved.keys():
        raise Damaged(f"it has no {' and no '.join(sorted(missing))}")
    if saved.get("run", run) != run:  # older ones do not name it
        raise Damaged(f"it is of the run {saved['run']!r}")
    stage, step = saved["stage"], saved["step"]
    if type(stage) is not int or not 0 <= stage <= len(stages):
        raise Damaged(f"its stage is {stage!r}, of {len(stages)}")
    steps = stages[stage].steps if stage < len(stages) else 0
    if type(step) is not int or not 0 <= step < max(steps, 1):
        raise Damaged(f"its step is {step!r}, of {steps}")
    if named and named[:2] != (stage, step):
        raise Damaged(f"it is of stage {stage} and step {step}, and its name says otherwise")
    if text := misfit(saved["model"], model.state_dict()):
        raise Damaged(text)
    return saved


def misfit(found: Any, expected: Mapping[str, Any]) -> str | None:
    """Why weights are not those of a model, or None; asked before the first of them is copied."""
    if not isinstance(found, Mapping) or found.keys() != expected.keys():
        return "its weights are not those of this model"
    for name, tensor in expected.items():
        have, want = (
            (getattr(x, "shape", None), getattr(x, "dtype", None)) for x in (found[name], tensor)
        )
        if have != want:
            return f"'{name}' is {have[1]} {have[0]} and not {want[1]} {want[0]}"
    return None
