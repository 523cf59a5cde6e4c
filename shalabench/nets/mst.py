"""Networks of MNIST-SVHN-Text from mmJSD's code (reproduction/mnist-svhn-text.md), at any size."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from shalabench.api import DataError, Modality

_TEXT_WIDTH = 128
_GREY_WIDTH = 400

Activation = Callable[[], nn.Module]


class Encoder(nn.Module):
    """A network from views `[B, ...]` to features `[B, F]`; its attribute `features` is F."""

    features: int
    encodes_views = True  # evaluators may use an output again (`encoded_once`)


def mst_encoder(modality: Modality, width: float, activation: Activation) -> Encoder:
    """A network from views `[B, ...]` to features `[B, F]`; its attribute `features` is F.

    Args:
        modality: Grey images get MNIST's linear network, coloured images SVHN's convolutions.
        width: Multiple of the published numbers of units and channels of images.
        activation: Activation between the layers.
    """
    if modality.kind == "text":
        return LetterEncoder(modality, activation)
    kind = LinearEncoder if modality.shape[0] == 1 else ColourEncoder
    return kind(modality, width, activation)


def mst_decoder(modality: Modality, inputs: int, width: float, activation: Activation) -> nn.Module:
    """A network from latents `[N, D]` to images `[N, C, H, W]` or logits `[N, L, V]`."""
    if modality.kind == "text":
        return LetterDecoder(modality, inputs, activation)
    kind = LinearDecoder if modality.shape[0] == 1 else ColourDecoder
    return kind(modality, inputs, width, activation)


class LinearEncoder(Encoder):
    """One linear layer from all pixels (MNIST)."""

    def __init__(self, modality: Modality, width: float, activation: Activation):
        super().__init__()
        channels, height, side = modality.shape
        self.features = max(1, round(_GREY_WIDTH * width))
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * height * side, self.features), activation()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class LinearDecoder(nn.Module):
    """Two linear layers and a sigmoid (MNIST)."""

    def __init__(self, modality: Modality, inputs: int, width: float, activation: Activation):
        super().__init__()
        channels, height, side = modality.shape
        hidden = max(1, round(_GREY_WIDTH * width))
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden),
            activation(),
            nn.Linear(hidden, channels * height * side),
            nn.Sigmoid(),
            nn.Unflatten(1, modality.shape),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class ColourEncoder(Encoder):
    """Three convolutions that halve the side, and one over the rest (SVHN: 32, 16, 8, 4, 1)."""

    def __init__(self, modality: Modality, width: float, activation: Activation):
        super().__init__()
        a, b, c, d = (max(1, round(n * width)) for n in (32, 64, 64, 128))
        self.features = d
        self.layers = nn.Sequential(
            nn.Conv2d(modality.shape[0], a, 4, 2, 1),
            activation(),
            nn.Conv2d(a, b, 4, 2, 1),
            activation(),
            nn.Conv2d(b, c, 4, 2, 1),
            activation(),
            nn.Conv2d(c, d, _sides(modality)[-1]),
            activation(),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ColourDecoder(nn.Module):
    """The mirrored encoder, without output activation (SVHN)."""

    def __init__(self, modality: Modality, inputs: int, width: float, activation: Activation):
        super().__init__()
        d, c, b, a = (max(1, round(n * width)) for n in (128, 64, 64, 32))
        s0, s1, s2, s3 = _sides(modality)
        self.layers = nn.Sequential(
            nn.Linear(inputs, d),
            activation(),
            nn.Unflatten(1, (d, 1, 1)),
            nn.ConvTranspose2d(d, c, s3),
            activation(),
            nn.ConvTranspose2d(c, b, 4, 2, 1, output_padding=_rest(s2, s3)),
            activation(),
            nn.ConvTranspose2d(b, a, 4, 2, 1, output_padding=_rest(s1, s2)),
            activation(),
            nn.ConvTranspose2d(a, modality.shape[0], 4, 2, 1, output_padding=_rest(s0, s1)),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


def _sides(modality: Modality) -> list[tuple[int, int]]:
    """Height and width after 0, 1, 2, 3 halvings, rounded down: 32, 16, 8, 4."""
    _, height, width = modality.shape
    if min(height, width) < 8:
        raise DataError(
            f"Modality '{modality.name}' is {height} x {width}; the mst networks take images of at "
            "least 8 x 8. Set model.network.family to conv."
        )
    return [(height // 2**k, width // 2**k) for k in range(4)]


def _rest(fine: tuple[int, int], coarse: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that twice the coarse sides lack."""
    return fine[0] - 2 * coarse[0], fine[1] - 2 * coarse[1]


def _half(modality: Modality) -> int:
    """Positions after a halving of a text."""
    if modality.shape[0] < 2:
        raise DataError(
            f"Modality '{modality.name}' has one token; the mst networks take two or more. Set "
            "model.network.family to conv."
        )
    return modality.shape[0] // 2


def embed(x: Tensor, rows: Tensor) -> Tensor:
    """The row of each token id `[B, L]`, or the mean row under probabilities `[B, L, V]`.

    Args:
        x: Tokens.
        rows: `[V, D]`.
    """
    return x @ rows if x.is_floating_point() else rows[x]


class LetterEncoder(Encoder):
    """One-hot letters through three convolutions over positions (text: 8, 8, 4, 1)."""

    def __init__(self, modality: Modality, activation: Activation):
        super().__init__()
        self.features = _TEXT_WIDTH
        # A linear layer on one-hot letters: a row of the weight for each letter, and a bias.
        self.letters = nn.Linear(len(modality.vocabulary), _TEXT_WIDTH)
        self.layers = nn.Sequential(
            activation(),
            nn.Conv1d(_TEXT_WIDTH, _TEXT_WIDTH, 4, 2, 1),
            activation(),
            nn.Conv1d(_TEXT_WIDTH, _TEXT_WIDTH, _half(modality)),
            activation(),
            nn.Flatten(),
        )

    def forward(self, x: Tensor) -> Tensor:
        letters = embed(x, self.letters.weight.T) + self.letters.bias  # [B, L, 128]
        return self.layers(letters.transpose(1, 2))


class LetterDecoder(nn.Module):
    """From latents to logits `[N, L, V]`: the mirrored encoder."""

    def __init__(self, modality: Modality, inputs: int, activation: Activation):
        super().__init__()
        half = _half(modality)
        self.layers = nn.Sequential(
            nn.Linear(inputs, _TEXT_WIDTH),
            activation(),
            nn.Unflatten(1, (_TEXT_WIDTH, 1)),
            nn.ConvTranspose1d(_TEXT_WIDTH, _TEXT_WIDTH, half),
            activation(),
            nn.ConvTranspose1d(
                _TEXT_WIDTH, _TEXT_WIDTH, 4, 2, 1, output_padding=modality.shape[0] - 2 * half
            ),
            activation(),
            nn.Conv1d(_TEXT_WIDTH, len(modality.vocabulary), 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).transpose(1, 2)
