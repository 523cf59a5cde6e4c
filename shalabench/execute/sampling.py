"""Sampling temperatures: the dials that every method's samplers have."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from shalabench.api import Model
from shalabench.config.training import SamplingSettings

_JOINT = ("sample", "prior", "trace")
_GIVEN = ("translate",)
_NEUTRAL = ("reconstruct",)  # it measures the posterior


def set_temperatures(model: Model, settings: SamplingSettings) -> None:
    """Multiply the noise of a trained model's samplers by the temperatures of the settings.

    Reconstructions keep theirs, since they measure the posterior, and so do encodings.

    Args:
        model: Trained; it is changed.
        settings: Section "sampling" of a run's settings.
    """
    if settings == SamplingSettings():
        return
    for names, temperature in (
        (_JOINT, settings.joint_temperature),
        (_GIVEN, settings.given_temperature),
        (_NEUTRAL, 1.0),
    ):
        for name in names:
            if hasattr(model, name):
                setattr(model, name, _tempered(getattr(model, name), temperature))


def _tempered(sample: Callable[..., Any], temperature: float) -> Callable[..., Any]:
    """A sampler, whose last argument is its randomness, at a temperature."""

    @functools.wraps(sample)
    def at(*args: Any, **kwargs: Any) -> Any:
        if "rng" in kwargs:
            kwargs["rng"] = kwargs["rng"].tempered(temperature)
            return sample(*args, **kwargs)
        *others, rng = args
        return sample(*others, rng.tempered(temperature), **kwargs)

    return at
