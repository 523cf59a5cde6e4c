"""CUB's caption networks from MMVAE+'s and CMVAE's code (reproduction/mmvae-plus.md).

A caption is embedded as an image of one channel with a row for each token, and convolved with batch
normalisation. Two differences from the published code:

* Its encoders of z and w share one embedding; here each has an embedding.
* It decodes each pair of expert and modality separately. Here a batch norm gets the draws of all
  experts together, including placeholders for absent modalities.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shalabench.api import DataError, Modality
from shalabench.nets.mst import Encoder, embed

_EMBEDDING = 128  # columns of the image
_ENLARGED = 8  # factor by which the decoder's last three convolutions enlarge


class CaptionEncoder(Encoder):
    """Convolutions from `[1, 32, 128]` to `[512, 4, 4]`, or to `[128, 4, 16]` for a private latent.

    Args:
        modality: A text of 32 tokens, or any multiple of 8.
        width: Multiple of the published channel counts.
        private: Whether the latent is private; then the last two convolutions are left out.
    """

    def __init__(self, modality: Modality, width: float, private: bool):
        super().__init__()
        a, b, c, d, e = _channels(width)
        rows = _rows(modality)
        # A linear layer on one-hot tokens: a row of the weight for each token, and a bias.
        self.embedding = nn.Linear(len(modality.vocabulary), _EMBEDDING)
        layers = [
            *_normalised(nn.Conv2d(1, a, 4, 2, 1)),  # 16 x 64
            *_normalised(nn.Conv2d(a, b, 4, 2, 1)),  # 8 x 32
            *_normalised(nn.Conv2d(b, c, 4, 2, 1)),  # 4 x 16
        ]
        if not private:
            layers += [
                *_normalised(nn.Conv2d(c, d, (1, 4), (1, 2), (0, 1))),  # 4 x 8
                *_normalised(nn.Conv2d(d, e, (1, 4), (1, 2), (0, 1))),  # 4 x 4
            ]
        self.features = c * rows * 16 if private else e * rows * 4
        self.layers = nn.Sequential(*layers, nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        tokens = embed(x, self.embedding.weight.T) + self.embedding.bias  # [B, L, 128]
        return self.layers(tokens.unsqueeze(1))


class CaptionDecoder(nn.Module):
    """From latents to logits `[N, L, V]`: a stem for each latent, then shared convolutions.

    Args:
        modality: A text of 32 tokens, or any multiple of 8.
        inputs: Size of the private and the shared latent together.
        width: Multiple of the published channel counts.
        private: Size of the private latent, which comes first; 0 if there is none.
    """

    def __init__(self, modality: Modality, inputs: int, width: float, private: int):
        super().__init__()
        a, b, c, d, e = _channels(width)
        rows, shared = _rows(modality), inputs - private

        def stem(size: int, *between: nn.Module) -> nn.Module:
            return nn.Sequential(
                *_normalised(nn.ConvTranspose2d(size, e, (rows, 4))),  # 4 x 4
                *_normalised(nn.ConvTranspose2d(e, d, (1, 4), (1, 2), (0, 1))),  # 4 x 8
                *between,
                *_normalised(nn.ConvTranspose2d(d, c, (1, 4), (1, 2), (0, 1))),  # 4 x 16
            )

        self.sizes = [private, shared] if private else [shared]
        self.stems = nn.ModuleList([stem(private)] if private else [])
        self.stems.append(stem(shared, *_normalised(nn.ConvTranspose2d(d, d, 3, 1, 1))))
        self.layers = nn.Sequential(
            *_normalised(nn.ConvTranspose2d(len(self.sizes) * c, c, 3, 1, 1)),  # 4 x 16
            *_normalised(nn.ConvTranspose2d(c, b, 4, 2, 1)),  # 8 x 32
            *_normalised(nn.ConvTranspose2d(b, a, 4, 2, 1)),  # 16 x 64
            nn.ConvTranspose2d(a, 1, 4, 2, 1),  # 32 x 128
            nn.ReLU(),
            nn.Flatten(1, 2),
            nn.Linear(_EMBEDDING, len(modality.vocabulary)),
        )

    def forward(self, z: Tensor) -> Tensor:
        parts = zip(self.stems, z.split(self.sizes, -1), strict=True)
        return self.layers(torch.cat([stem(part[..., None, None]) for stem, part in parts], 1))


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


def _channels(width: float) -> list[int]:
    return [max(1, round(count * width)) for count in (32, 64, 128, 256, 512)]


def _rows(modality: Modality) -> int:
    """Rows of the image after the encoder's halvings: 4 of 32."""
    rows, rest = divmod(modality.shape[0], _ENLARGED)
    if rest or not rows:
        raise DataError(
            f"Modality '{modality.name}' has {modality.shape[0]} tokens; the cub networks take a "
            f"multiple of {_ENLARGED}. Pad the text in the dataset, or set model.network.family to "
            "resnet."
        )
    return rows
