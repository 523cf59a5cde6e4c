"""The contracts: what a method, a dataset, a stage and an evaluator are. Names are imported lazily.

``from harness.api import Metric`` does not import torch; ``from harness.api import Model`` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "errors": ("BenchError", "ConfigErrors", "DataError", "Diverged", "unknown"),
    "settings": ("Settings", "setting"),
    "modalities": ("DataSpec", "Modality"),
    "records": ("Metric", "Score"),
    "registry": ("register_dataset", "register_evaluator", "register_model"),
    "random": ("Rng", "derive_seed"),
    "dataset": ("Batch", "Dataset", "Places", "Split", "Views"),
    "stage": ("GradientStage", "Optimiser", "Stage"),
    "model": ("ABILITIES", "Joint", "Latent", "Model", "Reconstruct", "Transfer", "Translate"),
    "evaluator": ("Classifier", "Evaluator", "Outcome", "Tools", "has_ability"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'harness.api' has no attribute '{name}'")
    return getattr(importlib.import_module(f"harness.api.{_HOME[name]}"), name)


if TYPE_CHECKING:
    from harness.api.dataset import Batch, Dataset, Places, Split, Views
    from harness.api.errors import BenchError, ConfigErrors, DataError, Diverged, unknown
    from harness.api.evaluator import Classifier, Evaluator, Outcome, Tools, has_ability
    from harness.api.modalities import DataSpec, Modality
    from harness.api.model import ABILITIES, Joint, Latent, Model, Reconstruct, Transfer, Translate
    from harness.api.random import Rng, derive_seed
    from harness.api.records import Metric, Score
    from harness.api.registry import register_dataset, register_evaluator, register_model
    from harness.api.settings import Settings, setting
    from harness.api.stage import GradientStage, Optimiser, Stage
