"""Whether a method can run on some data, checked before its first update."""

from __future__ import annotations

from typing import Any

import torch

from shalabench.api import BenchError, DataSpec, Model, Settings, unknown
from shalabench.execute.incomplete import needs_complete_tuples


def why_not(cls: type[Model] | Any, spec: DataSpec, config: Settings) -> str | None:
    """Why a method cannot run on such data, as a sentence; None where it can.

    Args:
        cls: The method, or the method with a fitted prior.
        spec: What the data consist of.
        config: Settings of the method.
    """
    reason = needs_complete_tuples(cls, spec) or cls.skip(spec, config)
    return reason or _unknown_networks(spec, config) or _misfit(cls, spec, config)


def _unknown_networks(spec: DataSpec, config: Settings) -> str | None:
    network = getattr(config, "network", None)
    wrong = [name for name in getattr(network, "custom", ()) if name not in spec.names]
    if not wrong:
        return None
    return f"{unknown('modality', wrong[0], spec.names)} (model.networks.{wrong[0]})"


def _misfit(cls: Any, spec: DataSpec, config: Settings) -> str | None:
    """Why its networks cannot take the shapes of the data.

    The method is built on torch's "meta" device, where tensors have shapes and no values. What a
    constructor does that needs values is no misfit.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            cls(spec, config)
    except BenchError as error:
        return str(error)
    except (RuntimeError, NotImplementedError, ValueError):
        return None
    return None
