"""The contracts: what a method, a dataset, a stage and an evaluator are.

Names are imported lazily: ``from shalabench.api import Metric`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "errors": ("BenchError", "ConfigErrors", "DataError", "Diverged", "unknown"),
    "settings": ("Dial", "Search", "Settings", "setting"),
    "cameras": ("Camera",),
    "conventions": ("from_eg3d", "from_nmr", "from_opengl", "from_pose", "from_srn"),
    "grammar": ("Attribute", "Grammar"),
    "modalities": ("END", "PAD", "DataSpec", "Modality"),
    "precision": (
        "arithmetic",
        "choose_precision",
        "sampling",
        "sampling_precision",
        "tensor_cores",
    ),
    "records": ("Metric", "Score"),
    "registry": ("register_dataset", "register_evaluator", "register_model"),
    "random": ("Rng", "choose_subsets", "derive_seed", "fixed_choice"),
    "dataset": ("Batch", "Dataset", "DataSettings", "DataPaths", "Split", "SplitName", "Views"),
    "descent": ("MovingAverage",),
    "optimiser": ("Optimiser",),
    "diffusing": ("DiffusionSettings", "Sampler", "Spacing"),
    "stage": ("GradientStage", "Now", "PartedStage", "Stage", "rise"),
    "model": (
        "ABILITIES",
        "Joint",
        "Latent",
        "Model",
        "Private",
        "Reconstruct",
        "Trace",
        "Transfer",
        "Translate",
    ),
    "encodings": ("encoded_once",),
    "evaluator": ("Classifier", "Evaluator", "Outcome", "EvalContext", "has_ability"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'shalabench.api' has no attribute '{name}'")
    return getattr(importlib.import_module(f"shalabench.api.{_HOME[name]}"), name)
