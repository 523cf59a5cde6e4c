"""What a classifier predicts from a view: its class, or the attributes that were drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from shalabench.api import DataSpec, Modality, Split

_BATCH = 1000
_SMOOTHING = 0.05


def classified(spec: DataSpec) -> tuple[Modality, ...]:
    """The modalities that have classifiers.

    All modalities of data with classes, the images of data with attributes, none of other data.
    """
    if spec.classes:
        return spec.modalities
    return tuple(m for m in spec.modalities if m.kind == "image") if spec.grammar else ()


def questions(spec: DataSpec) -> dict[str, int]:
    """Number of possible answers to each question, in the order of the classifier's logits."""
    if spec.classes:
        return {"class": spec.classes}
    return {a.name: len(a.values) for a in spec.grammar.attributes}


def answers(spec: DataSpec, data: Split) -> Tensor:
    """The labels of every question, int64 `[N, Q]`."""
    return data.labels[:, None] if spec.classes else data.facts["attributes"]


def loss(spec: DataSpec, logits: Tensor, right: Tensor) -> Tensor:
    """Mean cross-entropy over the questions.

    Args:
        spec: What the data consist of.
        logits: `[B, A]`, the logits of all questions side by side.
        right: `[B, Q]`, the labels.
    """
    parts = logits.float().split(list(questions(spec).values()), dim=1)
    terms = [
        functional.cross_entropy(part, label, label_smoothing=_SMOOTHING)
        for part, label in zip(parts, right.unbind(1), strict=True)
    ]
    return torch.as_tensor(sum(terms) / len(terms))


@torch.inference_mode()
def measure_answers(
    network: nn.Module, modality: Modality, spec: DataSpec, data: Split
) -> dict[str, float]:
    """Accuracy on a split for each question, in [0, 1].

    Args:
        network: In eval mode, on the split's device.
        modality: The one it classifies.
        spec: What the data consist of.
        data: A labelled split.
    """
    asked, right = questions(spec), answers(spec, data)
    hits = torch.zeros(len(asked), dtype=torch.int64, device=data.device)
    for batch in data.batches(_BATCH):
        parts = network(batch.views[modality.name]).split(list(asked.values()), dim=1)
        guesses = torch.stack([part.argmax(-1) for part in parts], dim=1)
        hits += (guesses == right[batch.index]).sum(0)
    return dict(zip(asked, (hits.double() / len(data)).tolist(), strict=True))
