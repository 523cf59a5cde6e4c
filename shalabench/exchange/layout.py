"""How samples are named, in folders and archives, and what a reader finds.

joint/NAME               a modality of joint samples; NAME alone means the same
translate/GIVEN/TARGET   TARGET generated from GIVEN; several given views are joined by "+"
reconstruct/NAME         a modality of reconstructions, all views given
index                    numbers of the test tuples that were given, one a row
range                    two numbers: the values of black and white in floating-point images
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import Tensor

JOINT, TRANSLATE, RECONSTRUCT = "joint", "translate", "reconstruct"
INDEX, RANGE = "index", "range"
Given = tuple[str, ...]


@dataclass
class Found:
    """What a reader found, unchecked.

    Attributes:
        arrays: By key: images, token ids, or strings, a row a sample.
        index: `[n]`, test tuples that were given; None where nothing says it.
        range: Black and white of floating-point images, where it is stated.
        source: Where it was found, in words.
    """

    arrays: dict[str, np.ndarray]
    index: np.ndarray | None = None
    range: tuple[float, float] | None = None
    source: str = ""


@dataclass(frozen=True)
class Samples:
    """Checked samples.

    Attributes:
        joint: `[n, ...]` by modality: images uint8, or float32 from 0 to 1, unclamped;
            texts int64.
        translations: `[t, ...]` by given modalities, then target.
        reconstructions: `[t, ...]` by modality.
        index: `[t]` int64, ascending: the test tuples that were given.
        source: Where they were found, in words.
        gaps: Why something of them cannot be used, in sentences.
    """

    joint: dict[str, Tensor]
    translations: dict[Given, dict[str, Tensor]]
    reconstructions: dict[str, Tensor]
    index: Tensor
    source: str
    gaps: list[str] = field(default_factory=list)

    @property
    def number(self) -> int:
        """Of joint samples."""
        return min((len(x) for x in self.joint.values()), default=0)

    @property
    def words(self) -> str:
        """Their kinds and numbers."""
        given = len(self.index)
        parts = [f"{self.number:,} joint samples"] if self.joint else []
        parts += [f"translations of {given:,} test tuples"] if self.translations else []
        parts += [f"reconstructions of {given:,} test tuples"] if self.reconstructions else []
        return ", ".join(parts)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes, types and values."""
        named = {f"{JOINT}/{name}": x for name, x in self.joint.items()}
        named |= {f"{RECONSTRUCT}/{name}": x for name, x in self.reconstructions.items()}
        for given, targets in self.translations.items():
            named |= {key_of(given, target): x for target, x in targets.items()}
        if self.translations or self.reconstructions:
            named[INDEX] = self.index
        whole = hashlib.sha256()
        for key, x in sorted(named.items()):
            array = np.ascontiguousarray(x.numpy())
            whole.update(f"{key} {array.dtype} {array.shape}\0".encode())
            whole.update(array.tobytes())
        return whole.hexdigest()


def key_of(given: Given, target: str) -> str:
    """The key of a translation."""
    return f"{TRANSLATE}/{'+'.join(given)}/{target}"


def split_key(key: str) -> tuple[str, ...]:
    """The parts of a key, with "joint" before a name alone."""
    parts = tuple(key.strip("/").split("/"))
    return (JOINT, *parts) if len(parts) == 1 else parts
