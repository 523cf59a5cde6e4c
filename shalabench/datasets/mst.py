"""MNIST-SVHN-Text (Sutter et al. 2020): a handwritten digit, a house number's, and its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch

from shalabench.api import (
    DataError,
    DataPaths,
    Dataset,
    DataSettings,
    Split,
    register_dataset,
    setting,
)
from shalabench.datasets.sources import mnist, svhn
from shalabench.datasets.sources.composing import pair
from shalabench.datasets.sources.files import digest_of, digest_with
from shalabench.datasets.sources.mst import DIGITS, describe_modalities, write_words

_CODE = "mmJSD and MoPoE code (reproduction/mnist-svhn-text.md)"
_MOST = 10_000  # images of a class and kind that are paired (reproduction/mnist-svhn-text.md)
_SOURCE = "MNIST and SVHN paired by label, texts drawn"
_FIXED = 2020  # seed of what no setting changes: the images held out, and the test pairs

Images = dict[str, tuple[np.ndarray, np.ndarray]]
"""Images uint8 `[R, ...]` and labels `[R]` of "mnist" and "svhn"."""


@register_dataset("mst", version=1, paper="Sutter, Daunhawer, Vogt: mmJSD (NeurIPS 2020)")
class Mst(Dataset):
    """MNIST and SVHN digits paired by their label, with the digit's English name.

    About 1,009,000 training, 5,600 validation and 10,000 test tuples of the published files.
    Modalities: "mnist" `[1, 28, 28]` and "svhn" `[3, 32, 32]`, images in [0, 1]; "text", eight
    letters. Classes: the ten digits. `prepare` downloads 260 MB; pairing takes seconds.

    As published, the first images of each class are paired, as many as the smaller set has.
    Unlike the published data, the validation and test pairs are the same in every run, and no
    validation image is in the training data.
    """

    class Config(DataSettings):
        """How the images are paired."""

        repeats: int = setting(20, "Times each training image is paired anew.", _CODE, ge=1, le=100)
        test_repeats: int = setting(
            1,
            "Times each validation and test image is paired anew.",
            "our choice: 20 are published, which cost 20 times as much and add no test image",
            ge=1,
            le=100,
        )
        held_out: float = setting(
            0.1,
            "Part of the training images for validation.",
            "our choice: none is published",
            gt=0,
            lt=1,
        )
        words: tuple[str, ...] = setting(
            DIGITS, "Names of the digits 0 to 9.", _CODE, min_length=10, max_length=10
        )
        text_likelihood: Literal["categorical", "categorical-published"] = setting(
            "categorical",
            "Of the letters: softmax, or what the published code computes in its place.",
            "the papers; 'categorical-published' is the code's (reproduction/pitfalls.md#trap-23)",
        )
        seed: int = setting(0, "Seed of the training pairs and their texts.", "our choice", ge=0)

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        root = paths.data
        if download:
            mnist.fetch(root)
            svhn.fetch(root)
        if absent := mnist.lacking(root) + svhn.lacking(root):
            raise DataError(
                f"MST is missing: the data root {root} lacks {', '.join(absent)}. Run `python "
                "bench.py prepare mst` to download it, or set SHALA_DATA or --data-root to its "
                "folder."
            )
        train, test = (
            {"mnist": mnist.read_part(root, part), "svhn": svhn.read_part(root, part)}
            for part in ("train", "test")
        )
        sizes = (len(own["svhn"][1]) for own in (train, test))
        deviation = svhn.compare_published(root, *sizes)
        train, held = _hold_out(train, self.config.held_out)
        c = self.config
        splits = {
            "train": _tuples(train, c.repeats, c.words, [c.seed, 0]),
            "validation": _tuples(held, c.test_repeats, c.words, [_FIXED, 1]),
            "test": _tuples(test, c.test_repeats, c.words, [_FIXED, 2]),
        }
        content = _fingerprint(splits.values())
        self.set_splits(
            splits,
            modalities=describe_modalities(c.text_likelihood),
            classes=10,
            fingerprint=digest_with(content, text_likelihood=c.text_likelihood),
            source="; ".join(filter(None, (_SOURCE, deviation))),
            deviation=deviation,
        )


def _hold_out(train: Images, part: float) -> tuple[Images, Images]:
    """Split the images of each class into those kept and those held out."""
    kept, held = {}, {}
    for number, (name, (images, labels)) in enumerate(train.items()):
        rng = np.random.default_rng([_FIXED, 0, number])
        chosen = np.zeros(len(labels), bool)
        for c in range(10):
            members = rng.permutation(np.flatnonzero(labels == c))
            chosen[members[: max(1, round(part * len(members)))]] = True
        kept[name] = images[~chosen], labels[~chosen]
        held[name] = images[chosen], labels[chosen]
    return kept, held


def _tuples(images: Images, repeats: int, words: tuple[str, ...], seed: list[int]) -> Split:
    """Pair images of a class at random, each `repeats` times, and write each pair's text."""
    rng = np.random.default_rng(seed)
    labels = {name: own for name, (_, own) in images.items()}
    first = _first_of_each(labels)
    rounds = [pair([labels[n][rows] for n, rows in first.items()], rng) for _ in range(repeats)]
    tuples = np.concatenate([own for _, own in rounds])
    rows = {
        name: torch.from_numpy(np.concatenate([chosen[m] for chosen, _ in rounds]))
        for m, name in enumerate(images)
    }
    tensors = {
        "mnist": torch.from_numpy(images["mnist"][0][first["mnist"]])[:, None],
        "svhn": torch.from_numpy(images["svhn"][0][first["svhn"]]),
        "text": torch.from_numpy(write_words(tuples, words, rng)),
    }
    return Split(tensors, torch.from_numpy(tuples), rows=rows)


def _first_of_each(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers of the first images of each class, equally many of MNIST and SVHN."""
    first: dict[str, list[np.ndarray]] = {name: [] for name in labels}
    for c in range(10):
        members = {name: np.flatnonzero(own == c) for name, own in labels.items()}
        count = min(_MOST, *map(len, members.values()))
        if not count:
            raise DataError(
                f"There is no image of the digit {c} in "
                f"{' and '.join(n for n, own in members.items() if not len(own))} to pair. Take "
                "the published files, or hold out fewer (data.held_out)."
            )
        for name, own in members.items():
            first[name].append(own[:count])
    return {name: np.sort(np.concatenate(own)) for name, own in first.items()}


def _fingerprint(splits: Iterable[Split]) -> str:
    digest = hashlib.sha256()
    for split in splits:
        parts = [*split.tensors.values(), *split.rows.values(), split.labels]
        digest.update(digest_of(x.numpy() for x in parts).encode())
    return digest.hexdigest()
