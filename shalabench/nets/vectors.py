"""Networks for vectors: rows of tables, features, signals. The same in every family."""

from __future__ import annotations

import math

from torch import Tensor, nn

from shalabench.api import Modality
from shalabench.nets.mst import Activation, Encoder

_WIDTH = 400  # our choice: that of mmJSD's linear network for MNIST (nets.mst)


class VectorEncoder(Encoder):
    """Two linear layers from all numbers.

    Args:
        modality: A vector of any shape.
        width: Multiple of the number of units.
        activation: After each layer.
    """

    def __init__(self, modality: Modality, width: float, activation: Activation):
        super().__init__()
        self.features = max(1, round(_WIDTH * width))
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(modality.shape), self.features),
            activation(),
            nn.Linear(self.features, self.features),
            activation(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class VectorDecoder(nn.Module):
    """From latents `[N, D]` to vectors `[N, *shape]`; the last layer has no activation."""

    def __init__(self, modality: Modality, inputs: int, width: float, activation: Activation):
        super().__init__()
        hidden = max(1, round(_WIDTH * width))
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden),
            activation(),
            nn.Linear(hidden, hidden),
            activation(),
            nn.Linear(hidden, math.prod(modality.shape)),
            nn.Unflatten(1, modality.shape),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)
