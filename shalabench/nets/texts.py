"""Networks for texts in the families "conv" and "resnet"."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from shalabench.api import Modality
from shalabench.nets.mst import Encoder

_TEXT_WIDTH = 128  # MST's text network (mmJSD code, reproduction/mnist-svhn-text.md)


class TextEncoder(Encoder):
    """Token embedding and strided convolutions over positions, until two are left."""

    def __init__(self, modality: Modality):
        super().__init__()
        halvings = _text_halvings(modality)
        self.features = _TEXT_WIDTH * math.ceil(modality.shape[0] / 2**halvings)
        self.embedding = nn.Embedding(len(modality.vocabulary), _TEXT_WIDTH)
        self.layers = nn.Sequential(
            *(
                layer
                for _ in range(halvings)
                for layer in (nn.ReLU(), nn.Conv1d(_TEXT_WIDTH, _TEXT_WIDTH, 3, 2, 1))
            ),
            nn.ReLU(),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        soft = x.is_floating_point()  # probabilities of the tokens
        tokens = x @ self.embedding.weight if soft else self.embedding(x)  # [B, L, 128]
        return self.layers(tokens.transpose(1, 2))


class TextDecoder(nn.Module):
    """From latents to logits `[N, L, V]`: the mirrored encoder."""

    def __init__(self, modality: Modality, inputs: int):
        super().__init__()
        halvings = _text_halvings(modality)
        lengths = [math.ceil(modality.shape[0] / 2**k) for k in range(halvings, -1, -1)]
        self.layers = nn.Sequential(
            nn.Linear(inputs, _TEXT_WIDTH * lengths[0]),
            nn.Unflatten(1, (_TEXT_WIDTH, lengths[0])),
            *(
                layer
                for short, long in pairwise(lengths)
                for layer in (
                    nn.ReLU(),
                    nn.ConvTranspose1d(
                        _TEXT_WIDTH, _TEXT_WIDTH, 3, 2, 1, output_padding=long - (2 * short - 1)
                    ),
                )
            ),
            nn.ReLU(),
            nn.Conv1d(_TEXT_WIDTH, len(modality.vocabulary), 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).transpose(1, 2)


def _text_halvings(modality: Modality) -> int:
    return max(1, math.ceil(math.log2(modality.shape[0])) - 1)
