"""How MNIST-SVHN-Text's literature models its modalities (reproduction/mnist-svhn-text.md)."""

from __future__ import annotations

from shalabench.api import Modality
from shalabench.datasets.sources.words import LENGTH, describe_words

_GREY, _COLOUR = (1, 28, 28), (3, 32, 32)
_VALUES = 3 * 32 * 32  # the weights make up for modalities with fewer values than SVHN has


def describe_modalities(text_likelihood: str) -> tuple[Modality, ...]:
    """MNIST's, SVHN's and the text's modality.

    Args:
        text_likelihood: A name in `shalabench.nets.likelihoods` for texts.
    """
    return (
        Modality("mnist", "image", _GREY, "laplace", scale=0.75, weight=_VALUES / (28 * 28)),
        Modality("svhn", "image", _COLOUR, "laplace", scale=0.75),
        describe_words(_VALUES / LENGTH, text_likelihood),
    )
