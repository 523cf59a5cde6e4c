"""What a dataset consists of: its modalities, sizes and identity. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from shalabench.api.cameras import Camera
from shalabench.api.grammar import Grammar

END, PAD = "<eos>", "<pad>"
"""Tokens after the last word of a text: its end, and padding."""

_NUMBERS = ("bernoulli", "laplace", "normal")
# Axes of a shape, least and most, and likelihoods by kind.
_KINDS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "image": (3, 3, _NUMBERS),
    "text": (1, 1, ("categorical", "categorical-published")),
    "vector": (1, 8, _NUMBERS),
}


@dataclass(frozen=True)
class Modality:
    """One view of the data: an image, a text or a vector.

    Attributes:
        name: Unique within its dataset.
        kind: "image" (float `[B, C, H, W]` in [0, 1]), "text" (int64 `[B, L]` token ids) or
            "vector" (float `[B, *shape]`, any numbers: a row of a table, features, a signal).
        shape: `(C, H, W)` of an image, `(L,)` of a text, one axis or more of a vector.
        likelihood: Observation model, a name in `shalabench.nets.likelihoods`: "laplace", "normal",
            "categorical", ...
        scale: Scale of a location-scale likelihood, in units of the data range.
        weight: Factor of this modality's log-likelihood in every objective (lambda_m).
        vocabulary: The tokens of a text in the order of their ids; empty for other kinds.
        camera: Camera of this view, for multi-view data; else None.
    """

    name: str
    kind: Literal["image", "text", "vector"]
    shape: tuple[int, ...]
    likelihood: str = "laplace"
    scale: float = 0.75
    weight: float = 1.0
    vocabulary: tuple[str, ...] = ()
    camera: Camera | None = None

    def problem(self) -> str:
        """A contradiction in this description, as a sentence; empty if there is none."""
        who = f"Modality '{self.name}'"
        if self.kind not in _KINDS:
            return f"{who} is of the kind '{self.kind}'; {', '.join(_KINDS)} were expected."
        least, most, likelihoods = _KINDS[self.kind]
        sizes = all(isinstance(n, int) and n > 0 for n in self.shape)
        if not sizes or not least <= len(self.shape) <= most:
            axes = f"{least}" if least == most else f"{least} to {most}"
            return (
                f"{who} has the shape {self.shape}; {axes} positive whole numbers were expected of "
                f"the kind '{self.kind}'."
            )
        if self.likelihood not in likelihoods:
            return (
                f"{who} asks for the likelihood '{self.likelihood}'; {', '.join(likelihoods)} were "
                f"expected of the kind '{self.kind}'."
            )
        if (self.kind == "text") != bool(self.vocabulary):
            return f"{who} is of the kind '{self.kind}'; a text has a vocabulary, others have none."
        for what, value in (("scale", self.scale), ("weight", self.weight)):
            if not (math.isfinite(value) and value > 0):
                return f"{who} has the {what} {value}; a positive number was expected."
        return ""

    def text(self, tokens: Iterable[int]) -> str:
        """The words of a text, up to its end.

        Words are separated by spaces, unless each token is a single character.
        """
        words = [self.vocabulary[token] for token in tokens]
        words = words[: words.index(END)] if END in words else words
        letters = all(len(token) == 1 for token in self.vocabulary)
        return ("" if letters else " ").join(word for word in words if word != PAD)


@dataclass(frozen=True)
class DataSpec:
    """Everything that a model or an evaluator knows about a dataset before it sees a tuple.

    Attributes:
        name: Registered name of the dataset.
        version: Raised when the same settings give other tensors.
        modalities: In the order of tables and pictures.
        classes: Number of label classes, or 0 if the data have no labels.
        sizes: Number of tuples of "train", "validation" and "test".
        fingerprint: SHA-256 over the content of all splits.
        source: Source of the data, in words ("generated from MNIST ...").
        proxy_for: The published dataset for which this one is a proxy; empty if there is none.
            Tables show its published values, under its name.
        deviation: How the data differ from the published ones of that name, in words; empty if they
            do not. Tables then show no published values.
        missing: Probability that a view of a training tuple is absent.
        distinct: Effective sample size of each split, if several tuples share something (a photo);
            empty if all tuples are independent.
        grammar: Grammar of the captions, if they name attributes that `Split.facts` has. Every text
            modality is then a caption, and every image shows all attributes.
    """

    name: str
    version: int
    modalities: tuple[Modality, ...]
    classes: int
    sizes: dict[str, int]
    fingerprint: str
    source: str
    proxy_for: str = ""
    deviation: str = ""
    missing: float = 0.0
    distinct: dict[str, int] = field(default_factory=dict)
    grammar: Grammar | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities, in order."""
        return tuple(m.name for m in self.modalities)

    def __getitem__(self, name: str) -> Modality:
        """The modality of that name; if there is none, a KeyError with the known names."""
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise KeyError(
            f"Dataset '{self.name}' has no modality '{name}'. "
            f"Its modalities: {', '.join(self.names)}."
        )
