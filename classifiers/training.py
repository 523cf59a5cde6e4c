"""Training of the modalities' classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from classifiers.accuracy import measure_accuracy
from classifiers.networks import build
from classifiers.weights import SHIPPED, save
from harness.api import Dataset, DataSpec, Modality, Rng, Split, derive_seed

_BATCH = 128
_UPDATES = 2_000  # 256,000 views: beyond this the validation accuracy on PolyMNIST stands still
_PEAK_RATE = 1e-2


def train_all(
    dataset: Dataset, device: torch.device, out: Path | None, command: str
) -> Iterator[dict[str, Any]]:
    """Train and store one classifier a modality; behind `bench.py classifiers train`.

    Nothing is chosen: the last weights are kept, and validation and test are read once each.

    Args:
        dataset: Prepared, with classes.
        device: Where to train.
        out: Folder for the weights; the shipped ones of this dataset where None.
        command: What the user typed, for the record.

    Yields:
        A modality's entry in weights.json as soon as it is written, with the name of the
        "modality".
    """
    spec, folder = dataset.spec, out or SHIPPED / dataset.spec.name
    splits = {name: dataset.split(name).to(device) for name in ("train", "validation", "test")}
    for modality in spec.modalities:
        network = train(spec, modality, splits["train"])
        facts = {
            "dataset": spec.name,
            "accuracy": round(measure_accuracy(network, modality, splits["test"]), 4),
            "n": len(splits["test"]),
            "validation": round(measure_accuracy(network, modality, splits["validation"]), 4),
            "data": spec.fingerprint,
            "command": command,
            "torch": torch.__version__.split("+")[0],
        }
        yield {"modality": modality.name, **save(network, modality, folder, facts)}


def train(
    spec: DataSpec, modality: Modality, data: Split, seed: int = 0, updates: int = _UPDATES
) -> nn.Module:
    """Train one modality's classifier on the labelled training split.

    A third of the image batches is blurred (3x3 mean) and all are shifted by up to a pixel in 28,
    since the judged images are decoder means, which are softer than photographs.

    Args:
        spec: What the data consist of; must have classes.
        modality: The one to classify.
        data: The training split, on the training device.
        seed: Of the weights, the order and the augmentation.
        updates: Number of updates of 128 views.

    Returns:
        The network in eval mode, its weights rounded to float16 as they are stored.
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
    return network.eval().half().float()


def _soften(x: Tensor, modality: Modality, step: int, rng: Rng) -> Tensor:
    if modality.kind != "image":
        return x
    if step % 3 == 0:
        x = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    reach = x.shape[-1] // 28
    shift = (rng.integers(2 * reach + 1, 2) - reach).tolist()
    return torch.roll(x, shift, dims=(2, 3))
