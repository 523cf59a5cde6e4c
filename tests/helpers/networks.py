"""Networks of one's own, as a user would write them."""

from __future__ import annotations

import math

from torch import nn


class Flat:
    """One linear layer each way."""

    def __init__(self, modality):
        self.shape = modality.shape

    def encoder(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(self.shape), 6), nn.Tanh())

    def decoder(self, inputs):
        return nn.Sequential(nn.Linear(inputs, math.prod(self.shape)), nn.Unflatten(1, self.shape))


class Wrong(Flat):
    """A decoder of another shape."""

    def decoder(self, inputs):
        return nn.Linear(inputs, 1)


def nothing(modality):
    """No networks."""
