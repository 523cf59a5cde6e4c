"""PolyMNIST's recipe (Sutter et al. 2021): digits as inverted colours on photographs."""

from __future__ import annotations

import numpy as np

from shalabench.api import Modality

_THRESHOLD = 128  # The published scripts binarise MNIST at > 128 (reproduction/polymnist.md).


def compose(digits: np.ndarray, background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put each digit on a random crop of a photograph, with the colours inverted where it has ink.

    Args:
        digits: uint8 `[N, S, S]`, ink bright.
        background: uint8 `[H, W, 3]`, both sides at least S.
        rng: Chooses the crops.

    Returns:
        uint8 `[N, 3, S, S]`.
    """
    n, side, _ = digits.shape
    windows = np.lib.stride_tricks.sliding_window_view(background, (side, side), axis=(0, 1))
    top = rng.integers(windows.shape[0], size=n)
    left = rng.integers(windows.shape[1], size=n)
    crops = windows[top, left]  # [N, 3, S, S]
    ink = (digits > _THRESHOLD)[:, None]  # [N, 1, S, S]
    return np.where(ink, 255 - crops, crops)


def pair(labels: list[np.ndarray], rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """Choose which images make up each tuple: only the class is shared between modalities.

    For every class and modality the images are permuted independently; tuple i of a class takes the
    i-th image of each permutation. The tuples are then shuffled, since they are made class by
    class.

    Args:
        labels: One int array `[N_m]` a modality.
        rng: Chooses the permutations.

    Returns:
        One index array `[N]` a modality, and the tuples' labels `[N]` (int64).
    """
    chosen: list[list[np.ndarray]] = [[] for _ in labels]
    classes = []
    for c in np.unique(labels[0]):
        members = [rng.permutation(np.flatnonzero(own == c)) for own in labels]
        count = min(map(len, members))
        for index, member in zip(chosen, members, strict=True):
            index.append(member[:count])
        classes.append(np.full(count, c, dtype=np.int64))
    order = rng.permutation(sum(map(len, classes)))
    return [np.concatenate(index)[order] for index in chosen], np.concatenate(classes)[order]


def describe_modalities(count: int, side: int) -> tuple[Modality, ...]:
    """m0, m1, ... as PolyMNIST's literature models them (reproduction/polymnist.md, trap 2)."""
    return tuple(
        Modality(f"m{m}", "image", (3, side, side), "laplace", scale=0.75) for m in range(count)
    )


def cut_validation(train: int, validation: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the numbers 0 .. train - 1 into those kept for training and those for validation.

    Args:
        train: Number of published training tuples.
        validation: How many to hold out.
        seed: Fixes the choice.

    Returns:
        Two sorted index arrays, `[train - validation]` and `[validation]`.
    """
    order = np.random.default_rng(seed).permutation(train)
    return np.sort(order[validation:]), np.sort(order[:validation])
