"""MST's networks have the published layers, counted by hand, and take other sizes too."""

from __future__ import annotations

import pytest
import torch

from shalabench.api import Modality
from shalabench.nets.backbones import Network, decoder, encoder

pytestmark = pytest.mark.float64

NETWORK = Network(family="mst")
LETTERS = tuple(map(str, range(71)))
MNIST = Modality("m", "image", (1, 28, 28))
SVHN = Modality("s", "image", (3, 32, 32))
TEXT = Modality("t", "text", (8,), "categorical", vocabulary=LETTERS)
TOY = (
    Modality("a", "image", (3, 11, 11)),
    Modality("b", "image", (1, 8, 8)),
    Modality("c", "text", (5,), "categorical", vocabulary=tuple("xyz")),
)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("modality", "features", "encoding", "decoding"),
    [
        (MNIST, 400, 784 * 400 + 400, 20 * 400 + 400 + 400 * 784 + 784),
        (
            SVHN,
            128,
            16 * (3 * 32 + 32 * 64 + 64 * 64 + 64 * 128) + 32 + 64 + 64 + 128,
            20 * 128 + 128 + 16 * (128 * 64 + 64 * 64 + 64 * 32 + 32 * 3) + 64 + 64 + 32 + 3,
        ),
        (
            TEXT,
            128,
            71 * 128 + 128 + 2 * (4 * 128 * 128 + 128),
            20 * 128 + 128 + 2 * (4 * 128 * 128 + 128) + 128 * 71 + 71,
        ),
    ],
)
def test_parameters_are_those_of_the_published_layers(modality, features, encoding, decoding):
    trunk = encoder(modality, NETWORK)
    assert trunk.features == features
    assert count(trunk) == encoding
    assert count(decoder(modality, 20, NETWORK)) == decoding


@pytest.mark.parametrize("modality", [MNIST, SVHN, TEXT, *TOY])
def test_any_size_is_encoded_and_decoded(modality):
    text = modality.kind == "text"
    x = torch.randint(3, (2, *modality.shape)) if text else torch.rand(2, *modality.shape)
    event = (*modality.shape, len(modality.vocabulary)) if text else modality.shape
    trunk = encoder(modality, NETWORK)
    assert trunk(x).shape == (2, trunk.features)
    assert decoder(modality, 20, NETWORK)(torch.randn(2, 20)).shape == (2, *event)


def test_a_letter_s_feature_is_its_row_of_the_first_layer():
    """One-hot letters through a kernel of one position, as the published network has it."""
    trunk = encoder(TEXT, NETWORK)
    x = torch.randint(71, (2, 8))
    one_hot = torch.nn.functional.one_hot(x, 71).to(trunk.letters.weight.dtype)
    expected = trunk.layers(trunk.letters(one_hot).transpose(1, 2))
    torch.testing.assert_close(trunk(x), expected)
