"""How often a classifier is right on real views."""

from __future__ import annotations

import torch
from torch import nn

from shalabench.api import Modality, Split

_BATCH = 1000


@torch.inference_mode()
def measure_accuracy(network: nn.Module, modality: Modality, data: Split) -> float:
    """Part of a split's views that are classified as labelled, in [0, 1].

    Args:
        network: In eval mode, on the split's device.
        modality: The one it classifies.
        data: A labelled split.
    """
    right = torch.zeros((), dtype=torch.int64, device=data.device)
    for batch in data.batches(_BATCH):
        guess = network(batch.views[modality.name]).argmax(-1)
        right += (guess == data.labels[batch.index]).sum()
    return right.item() / len(data)
