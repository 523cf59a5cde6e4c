"""The coherence evaluators here and in MultiVae, on the same models, data and classifiers.

Both get PolyMNIST's shipped classifiers and random pixels, and go through all subsets of given
modalities and as many joint samples as tuples. This project's evaluator also classifies the real
views and decodes posterior samples. It runs as `evaluate` runs it, and once within bf16
arithmetic. MultiVae's runs as its documentation shows, in float32, without gradients.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import Any

import torch
from timing import Work
from torch import nn

import classifiers
from shalabench.api import DataSpec, EvalContext, Model, Split, arithmetic
from shalabench.api.registry import find

_CLASSES = 10


def make_evaluations(
    model: Model, peer: nn.Module, spec: DataSpec, split: Split, tuples: int
) -> dict[str, Work]:
    """An evaluation of some tuples on each side, by kind."""
    spec = replace(spec, name="polymnist", classes=_CLASSES)
    split, cpu = split.head(tuples), torch.device("cpu")
    split = replace(split, labels=torch.arange(len(split)) % _CLASSES)
    known = classifiers.load(spec, cpu, None)
    evaluator = find("evaluator", "coherence").cls
    context = EvalContext(cpu, 0, known)

    def evaluate(precision: str) -> object:
        with torch.inference_mode(), arithmetic(precision, cpu):
            made = evaluator(evaluator.Config())
            return made.run(model.eval(), spec, split, context)

    networks = {name: copy.deepcopy(known[name].network) for name in spec.names}
    return {
        "multivae_s": lambda: evaluate_peer(peer, networks, split),
        "float32_s": lambda: evaluate("float32"),
        "bf16_s": lambda: evaluate("bf16"),
    }


def evaluate_peer(peer: nn.Module, networks: dict[str, nn.Module], split: Split) -> Any:
    """MultiVae's metrics; as many joint samples as tuples."""
    from multivae.data import MultimodalBaseDataset
    from multivae.metrics import CoherenceEvaluator, CoherenceEvaluatorConfig

    views = {name: x.float() / 255 for name, x in split.tensors.items()}
    config = CoherenceEvaluatorConfig(num_classes=_CLASSES, nb_samples_for_joint=len(split))
    logging.disable(logging.INFO)  # a line for each subset
    with torch.no_grad():
        data = MultimodalBaseDataset(views, split.labels)
        return CoherenceEvaluator(peer, networks, data, eval_config=config).eval()
