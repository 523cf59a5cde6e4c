"""Samples of Python objects that have `sample(n)`, `translate(given, targets)`, or both."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shalabench.api import BenchError, DataSpec, Split
from shalabench.exchange.layout import JOINT, Found, key_of, split_key

_BATCH = 500  # samples or tuples asked for at once


def load_object(text: str) -> object:
    """What `package.module:function` returns.

    Args:
        text: A module, found from the current folder too, and a function in it without arguments.

    Raises:
        BenchError: The text names no function. Errors of the user's code pass through.
    """
    module, _, name = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise BenchError(
                f"There is no module '{module}'. Write package.module:function, from the folder "
                "that has the package."
            ) from error
        raise
    finally:
        sys.path.pop(0)
    if not callable(function := getattr(found, name, None)):
        raise BenchError(f"The module '{module}' has no function '{name}'.")
    return function()


def generate(source: object, spec: DataSpec, split: Split, number: int) -> Found:
    """The samples of an object, or arrays by key, as a reader finds them.

    Args:
        source: An object whose `sample(n)` returns views `[n, ...]` by modality, whose
            `translate(given, targets)` returns the targets for given views; or arrays by key.
        spec: Of the dataset.
        split: Whose tuples are given.
        number: Joint samples, and tuples given, the first ones; 0: as many as there are.

    Raises:
        BenchError: It has neither method. Errors of the user's code pass through.
    """
    if isinstance(source, Mapping):
        arrays = {"/".join(split_key(key)): _array(x) for key, x in source.items()}
        index = arrays.pop(f"{JOINT}/index", None)
        return Found(arrays, index, source="the arrays given")
    words = f"{type(source).__module__}.{type(source).__qualname__}"
    sample: Any = getattr(source, "sample", None)
    translate: Any = getattr(source, "translate", None)
    if not callable(sample) and not callable(translate):
        raise BenchError(f"{words} has neither sample(n) nor translate(given, targets).")
    n = min(number or len(split), len(split))
    arrays = {}
    if callable(sample):
        made = _each(number or n, lambda rows: sample(len(rows)), "sample", spec.names)
        arrays |= {f"{JOINT}/{name}": x for name, x in made.items()}
    for given in spec.names if callable(translate) else ():
        targets = [name for name in spec.names if name != given]

        def ask(rows: range, given: str = given, targets: list[str] = targets) -> Any:
            views = split.batch(torch.tensor(rows)).views
            return translate({given: views[given]}, targets)

        made = _each(n, ask, f"translate from {given}", targets)
        arrays |= {key_of((given,), name): x for name, x in made.items()}
    return Found(arrays, np.arange(n), source=words)


def _each(rows: int, ask: Callable[[range], Any], what: str, names: Any) -> dict[str, np.ndarray]:
    """The answers to all rows, some at a time, joined by modality."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for first in range(0, rows, _BATCH):
        batch = range(first, min(first + _BATCH, rows))
        made = ask(batch)
        if not isinstance(made, Mapping) or set(made) != set(names):
            got = (
                f"views of {', '.join(map(str, made))}" if isinstance(made, Mapping) else repr(made)
            )
            raise BenchError(
                f"{what} returned {got[:200]}; a dictionary of {', '.join(names)} was expected."
            )
        for name in names:
            array = _array(made[name])
            if array.shape[:1] != (len(batch),):
                raise BenchError(
                    f"{what} returned {name} of shape {array.shape} for {len(batch)} tuples; a row "
                    "for each was expected."
                )
            parts[name].append(array)
    return {name: np.concatenate(own) for name, own in parts.items()}


def _array(x: Any) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    return np.asarray(x)
