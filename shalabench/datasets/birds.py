"""Birds: drawn birds, and captions that name exactly what was drawn; no download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from torch import Tensor

from shalabench.api import (
    END,
    PAD,
    DataPaths,
    Dataset,
    DataSettings,
    Grammar,
    Modality,
    register_dataset,
    setting,
)
from shalabench.datasets.sources.captions import describe_pair, encode
from shalabench.datasets.sources.files import (
    SPLITS,
    Arrays,
    cache_file,
    digest_with,
    generate_once,
    make_splits,
)
from shalabench.datasets.synthetic.birds import ATTRIBUTES, SIDE, draw

LENGTH = 32  # tokens a caption, as CUB's
_SENTENCES = """
caption = a <bird> with <parts> . | a <bird> with <parts> , <place> .
    | a <bird> <place> , with <parts> . | this is a <bird> , <view> , with <parts> .
    | this <bird> has <parts> . | this <bird> has <parts> and is <place> .
    | this <coat> is <size> and <build> , with <parts> .
    | the <bird> <place> is <view> and has <parts> . | a <bird> <view> , <place> .
    | a <bird> <place> . <claims> . | <claims> . | <claims> , and the <bird> is <view> .
"""
_PHRASES = """bird = <size> <build> <coat> | <size> <coat> | <build> <coat> | <coat>
coat = [body] bird | bird
size = [size]
build = [shape]
parts = <part> | <part> and <part> | <part> , <part> and <part>
    | <part> , <part> , <part> and <part>
part = a <crown> | <wing> | a <breast> | a <bill>
crown = [crown] crown | [crown] cap
wing = [wing] wings
breast = [breast] breast | [breast] chest
bill = [bill] bill | [bill] beak
claims = <claim> and <claim> | <claim> , <claim> and <claim>
claim = its body is [body] | its crown is [crown] | its wings are [wing] | its breast is [breast]
    | its bill is [bill]
place = in the [background:sky] | flying in the [background:sky] | on a [background:branch]
    | perched on a [background:branch] | in the [background:grass]
    | standing in the [background:grass] | on the [background:water]
    | resting on the [background:water]
view = facing [facing] | looking to the [facing]
"""
# Two captions: each names all of its own attributes, and each word has its place in the sentence.
# Methods decode tokens independently: of sentences of several lengths they make a mixture.
_PARTS = {
    "colours": "a [body] bird with a <crown> , <wing> , a <breast> and a <bill> .",
    "scene": "a <size> <build> bird facing [facing] <ground> .",
}
_GROUND = """ground = in the [background:sky] | on a [background:branch]
    | in the [background:grass] | on the [background:water]
"""


def _grammar(sentences: str, phrases: str) -> Grammar:
    rules = sentences.strip() + "\n" + phrases
    return Grammar.from_text(ATTRIBUTES, rules, longest=LENGTH - 1)  # <eos> follows


GRAMMAR = _grammar(_SENTENCES, _PHRASES)
PARTS = {name: _grammar(f"caption = {text}", _GROUND + _PHRASES) for name, text in _PARTS.items()}
EITHER = _grammar(f"caption = {' | '.join(_PARTS.values())}", _GROUND + _PHRASES)  # reads both
VOCABULARY = (PAD, END, *GRAMMAR.words)
FACTS = ("attributes", "named")


@register_dataset("birds", version=1)
class Birds(Dataset):
    """A drawing of a bird, and a caption that names some of its nine attributes.

    The proxy dataset for CUB: 23,000 tuples by default, drawn in two minutes; no download.
    Modalities: "image" `[3, 64, 64]` in [0, 1]; "caption", 32 tokens. No classes.

    The attributes are drawn evenly and independently: guessing one of k values is right once in k
    times, and one attribute says nothing about another. Facts record the value of every attribute
    and which of them the caption names; `GRAMMAR` reads the attributes out of any caption.

    With `data.captions=parts`, two captions replace the one: "colours" names the five colours,
    "scene" the other four attributes. Each leaves open what the other names.
    """

    class Config(DataSettings):
        """Captions, sizes, the balance of picture and caption, and seed."""

        captions: Literal["whole", "parts"] = setting(
            "whole",
            "whole: a caption that names some attributes; parts: a caption of the five colours and "
            "one of size, shape, direction and background.",
            "our choice: one, as CUB",
        )

        train: int = setting(
            20_000, "Training tuples.", "our choice: two minutes to draw", ge=100, le=1_000_000
        )
        validation: int = setting(1_000, "Validation tuples.", "our choice", ge=10, le=1_000_000)
        test: int = setting(
            2_000, "Test tuples.", "our choice: a standard error of .011", ge=10, le=1_000_000
        )
        seed: int = setting(0, "Seed of attributes, drawings and captions.", "our choice", ge=0)
        image_weight: float = setting(
            0.02,
            "Factor of the picture's log-likelihood, a Laplace's of scale .01.",
            "our choice: at CUB's 0.0026 no method draws more of a bird than a shadow",
            gt=0,
        )

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        weight, undrawn = self.config.image_weight, {"image_weight", "missing"}
        file = cache_file(self, paths.cache, exclude={"captions", *undrawn})
        arrays, content = generate_once(file, self._generate)
        image, caption = describe_pair(SIDE, LENGTH, VOCABULARY, weight)
        captions: tuple[Modality, ...] = (caption,)
        grammar, words = GRAMMAR, "captions"
        if self.config.captions == "parts":
            file = cache_file(self, paths.cache, exclude=undrawn)
            texts, more = generate_once(file, lambda: self._describe_parts(arrays))
            arrays = {split: own | texts[split] for split, own in arrays.items()}
            content = f"{content} {more}"
            captions = tuple(replace(caption, name=name) for name in PARTS)
            grammar, words = EITHER, "captions of colours and of scenes"
        modalities = (image, *captions)
        self.set_splits(
            make_splits(arrays, modalities, FACTS),
            modalities=modalities,
            classes=0,
            fingerprint=digest_with(content, image_weight=weight),
            source=f"birds drawn from a seed, {words} by a grammar",
            proxy_for="cub",
            grammar=grammar,
        )

    def _generate(self) -> dict[str, Arrays]:
        return {
            split: generate(getattr(self.config, split), [self.config.seed, stream])
            for stream, split in enumerate(SPLITS)
        }

    def _describe_parts(self, arrays: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Arrays]:
        return {
            split: describe_parts(arrays[split]["attributes"].numpy(), [self.config.seed, stream])
            for stream, split in enumerate(SPLITS)
        }


def generate(n: int, seed: list[int]) -> Arrays:
    """Draw and describe `n` birds.

    Args:
        n: How many.
        seed: Of all of it.

    Returns:
        "image" uint8 `[n, 3, 64, 64]`, "caption" uint8 `[n, 32]`, "attributes" int64 `[n, 9]`,
        "named" bool `[n, 9]`.
    """
    rng = np.random.default_rng([*seed, 0])
    values = np.stack([rng.integers(len(a.values), size=n) for a in ATTRIBUTES], axis=1)
    caption, named = _describe(values, GRAMMAR, rng)
    return {
        "image": draw(values, [*seed, 1]),
        "caption": caption,
        "attributes": values.astype(np.int64),
        "named": named,
    }


def describe_parts(values: np.ndarray, seed: list[int]) -> Arrays:
    """Describe birds by a caption of their colours and one of all else.

    Args:
        values: int `[n, 9]`, numbers of the values of `ATTRIBUTES`.
        seed: As `generate` takes it.

    Returns:
        "colours" and "scene" uint8 `[n, 32]`; "named" bool `[n, 9]`, what "colours" names.
    """
    rng = np.random.default_rng([*seed, 2])
    described = {name: _describe(values, grammar, rng) for name, grammar in PARTS.items()}
    captions = {name: tokens for name, (tokens, _) in described.items()}
    return captions | {"named": described["colours"][1]}


def _describe(
    values: np.ndarray, grammar: Grammar, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Captions uint8 `[n, 32]`, and which attributes they name, bool `[n, 9]`."""
    truths = (
        {a.name: a.values[value] for a, value in zip(ATTRIBUTES, row, strict=True)}
        for row in values
    )
    captions, named = zip(*(grammar.write(truth, rng) for truth in truths), strict=True)
    tokens = encode([caption.split() for caption in captions], VOCABULARY, LENGTH)
    return tokens, np.array([[a.name in own for a in ATTRIBUTES] for own in named])
