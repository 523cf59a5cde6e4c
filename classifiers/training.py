"""Training of the classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from classifiers.attributes import answers, classified, loss, measure_answers, questions
from classifiers.networks import build
from classifiers.weights import SHIPPED, save
from shalabench.api import (
    Dataset,
    DataSpec,
    Modality,
    Rng,
    Split,
    arithmetic,
    choose_precision,
    derive_seed,
)


@dataclass(frozen=True)
class _Plan:
    batch: int
    updates: int
    peak_rate: float


# 256,000 views; more do not raise the validation accuracy on PolyMNIST.
_CLASSES = _Plan(128, 2_000, 1e-2)
# Batches of 32 learn nine attributes from fewer views than batches of 128: on birds they reach
# .942 after 58,000 views, against .921 after 64,000.
_ATTRIBUTES = _Plan(32, 8_000, 5e-3)


def train_all(
    dataset: Dataset,
    device: torch.device,
    out: Path | None,
    command: str,
    updates: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Train and store one classifier for each modality, as `shala-bench classifiers train` does.

    The weights of the last update are kept. Validation and test split are read once, at the end.

    Args:
        dataset: A prepared dataset with classes or attributes.
        device: Where to train.
        out: Folder for the weights; None replaces the shipped weights of this dataset.
        command: The command line, to be recorded beside the weights.
        updates: As for `train`.

    Yields:
        The entry of each modality in weights.json once it is written, with the modality's name
        under "modality".
    """
    spec, folder = dataset.spec, out or SHIPPED / dataset.spec.name
    for modality in classified(spec):  # a shape that none takes is refused before the first update
        build(modality, sum(questions(spec).values()))
    splits = {name: dataset.split(name).to(device) for name in ("train", "validation", "test")}
    for modality in classified(spec):
        network = train(spec, modality, splits["train"], updates=updates)
        test, validation = (
            measure_answers(network, modality, spec, splits[name])
            for name in ("test", "validation")
        )
        facts = {
            "dataset": spec.name,
            "accuracy": round(fmean(test.values()), 4),
            **({} if spec.classes else {"by_attribute": test}),
            "n": len(splits["test"]),
            "validation": round(fmean(validation.values()), 4),
            "data": spec.fingerprint,
            "command": command,
            "torch": torch.__version__.split("+")[0],
        }
        yield {"modality": modality.name, **save(network, modality, folder, facts)}


def train(
    spec: DataSpec, modality: Modality, data: Split, seed: int = 0, updates: int | None = None
) -> nn.Module:
    """Train one modality's classifier on the training split.

    A third of the image batches is blurred by a 3x3 mean, and all are shifted by up to one pixel
    in 28. The images to classify later are decoder means, which are softer than the data. Two
    thirds of the vector batches are shrunk towards their mean, as decoder means are.

    Args:
        spec: What the data consist of: modalities, and classes or attributes.
        modality: The one to classify.
        data: The training split, on the training device.
        seed: Of the weights, the order and the augmentation.
        updates: Number of updates, each of 128 views for classes or 32 for attributes. None takes
            the default: 2,000 for classes, 8,000 for attributes.

    Returns:
        The network in eval mode, its weights rounded to float16, as `save` stores them.
    """
    plan = _CLASSES if spec.classes else _ATTRIBUTES
    updates = updates or plan.updates
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "classifier", modality.name))
        network = build(modality, sum(questions(spec).values()))
        network = network.to(data.device).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(network.parameters(), lr=plan.peak_rate, weight_decay=0.02)
        labels = answers(spec, data)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.peak_rate, updates)
        precision = choose_precision("auto", data.device)
        for step in range(updates):
            rng = Rng(derive_seed(seed, modality.name, step), device=data.device)
            index = rng.integers(len(data), plan.batch)
            x = data.batch(index).views[modality.name]
            with arithmetic(precision, data.device):
                logits = network(_soften(x, modality, step, rng))
            optimiser.zero_grad()
            loss(spec, logits, labels[index]).backward()
            optimiser.step()
            rate.step()
    return network.eval().half().float()


def _soften(x: Tensor, modality: Modality, step: int, rng: Rng) -> Tensor:
    if modality.kind == "vector":
        return _shrink(x, rng) if step % 3 else x
    if modality.kind != "image":
        return x
    if step % 3 == 0:
        x = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    reach = min(x.shape[2:]) // 28
    shift = (rng.integers(2 * reach + 1, 2) - reach).tolist()
    return torch.roll(x, shift, dims=(2, 3))


def _shrink(x: Tensor, rng: Rng) -> Tensor:
    """Each vector drawn to the batch's mean, by up to a half of the way."""
    part = rng.uniform(len(x), *(1,) * (x.dim() - 1)) / 2
    return x + part * (x.mean(0) - x)
