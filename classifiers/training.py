"""Training of one modality's classifier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from classifiers.networks import build
from classifiers.weights import SHIPPED, save
from harness.api import Dataset, DataSpec, Modality, Rng, Split, derive_seed

_BATCH = 128
_UPDATES = 2_000  # 256,000 views: beyond this the validation accuracy on PolyMNIST stands still
_PEAK_RATE = 1e-2


def train(
    spec: DataSpec, modality: Modality, data: Split, seed: int = 0, updates: int = _UPDATES
) -> nn.Module:
    """Train a classifier on the labelled training split.

    A third of the image batches is blurred and all are shifted by up to a pixel, since the judged
    images are decoder means, which are softer than photographs.

    Args:
        spec: What the data consist of; must have classes.
        modality: The one to classify.
        data: The training split, on the training device.
        seed: Of the weights, the order and the augmentation.
        updates: Number of updates of 128 views.

    Returns:
        The network in eval mode.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "classifier", modality.name))
        network = build(modality, spec.classes).to(data.device, memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(network.parameters(), lr=_PEAK_RATE, weight_decay=0.02)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, _PEAK_RATE, updates)
        for step in range(updates):
            rng = Rng(derive_seed(seed, modality.name, step), device=data.device)
            index = rng.integers(len(data), _BATCH)
            x = data.batch(index).views[modality.name]
            with torch.autocast(data.device.type, dtype=torch.bfloat16):
                logits = network(_soften(x, modality, step, rng))
            loss = functional.cross_entropy(
                logits.float(), data.labels[index], label_smoothing=0.05
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
    return network.eval()


def _soften(x: Tensor, modality: Modality, step: int, rng: Rng) -> Tensor:
    if modality.kind != "image":
        return x
    if step % 3 == 0:
        x = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    shift = (rng.integers(3, 2) - 1).tolist()
    return torch.roll(x, shift, dims=(2, 3))


def train_all(
    dataset: Dataset, device: torch.device, out: Path | None, command: str
) -> Iterator[dict[str, Any]]:
    """Train and save a classifier for every modality of a dataset.

    Args:
        dataset: Prepared, with classes.
        device: Where to train.
        out: Folder of the weights; the shipped one of the dataset where None.
        command: What made them, for the record.

    Yields:
        Modality, accuracy on test and validation, and digest, as each is finished.
    """
    spec, data = dataset.spec, dataset.split("train").to(device)
    for modality in spec.modalities:
        network = train(spec, modality, data)
        found = {
            name: round(measure_accuracy(network, modality, dataset.split(name).to(device)), 4)
            for name in ("validation", "test")
        }
        facts = {
            "accuracy": found["test"],
            "n": spec.sizes["test"],
            "validation": found["validation"],
            "data": spec.fingerprint,
            "command": command,
            "torch": torch.__version__.split("+")[0],
        }
        digest = save(network, modality, out or SHIPPED / spec.name, facts)
        yield {"modality": modality.name, "digest": digest, **facts}


@torch.inference_mode()
def measure_accuracy(network: nn.Module, modality: Modality, data: Split) -> float:
    """Part of a split's views that are classified as labelled, in [0, 1]."""
    right = 0
    for batch in data.batches(1000):
        guess = network(batch.views[modality.name]).argmax(-1)
        right += int((guess == data.labels[batch.index]).sum())
    return right / len(data)
