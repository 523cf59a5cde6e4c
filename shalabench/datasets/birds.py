"""Birds: drawn birds, and captions that name exactly what was drawn; no download."""

from __future__ import annotations

import numpy as np

from shalabench.api import (
    END,
    PAD,
    DataPaths,
    Dataset,
    DataSettings,
    Grammar,
    Split,
    register_dataset,
    setting,
)
from shalabench.datasets.sources.captions import describe_pair, encode
from shalabench.datasets.sources.files import SPLITS, Arrays, cache_file, digest_with, generate_once
from shalabench.datasets.synthetic.birds import ATTRIBUTES, SIDE, draw

LENGTH = 32  # tokens a caption, as CUB's
_RULES = """
caption = a <bird> with <parts> . | a <bird> with <parts> , <place> .
    | a <bird> <place> , with <parts> . | this is a <bird> , <view> , with <parts> .
    | this <bird> has <parts> . | this <bird> has <parts> and is <place> .
    | this <coat> is <size> and <build> , with <parts> .
    | the <bird> <place> is <view> and has <parts> . | a <bird> <view> , <place> .
    | a <bird> <place> . <claims> . | <claims> . | <claims> , and the <bird> is <view> .
bird = <size> <build> <coat> | <size> <coat> | <build> <coat> | <coat>
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
GRAMMAR = Grammar.from_text(ATTRIBUTES, _RULES, longest=LENGTH - 1)  # <eos> follows
VOCABULARY = (PAD, END, *GRAMMAR.words)
MODALITIES, FACTS = ("image", "caption"), ("attributes", "named")


@register_dataset("birds", version=1)
class Birds(Dataset):
    """A drawing of a bird, and a caption that names some of its nine attributes.

    The proxy dataset for CUB: 23,000 tuples by default, drawn in two minutes; no download.
    Modalities: "image" `[3, 64, 64]` in [0, 1]; "caption", 32 tokens. No classes.

    The attributes are drawn evenly and independently: guessing one of k values is right once in k
    times, and one attribute says nothing about another. Facts record the value of every attribute
    and which of them the caption names; `GRAMMAR` reads the attributes out of any caption.
    """

    class Config(DataSettings):
        """Sizes, the balance of picture and caption, and seed."""

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
        weight = self.config.image_weight
        file = cache_file(self, paths.cache, exclude={"image_weight", "missing"})
        arrays, drawn = generate_once(file, self._generate)
        self.set_splits(
            {
                name: Split({m: own[m] for m in MODALITIES}, facts={f: own[f] for f in FACTS})
                for name, own in arrays.items()
            },
            modalities=describe_pair(SIDE, LENGTH, VOCABULARY, weight),
            classes=0,
            fingerprint=digest_with(drawn, image_weight=weight),
            source="birds drawn from a seed, captions by a grammar",
            proxy_for="cub",
            grammar=GRAMMAR,
        )

    def _generate(self) -> dict[str, Arrays]:
        return {
            split: generate(getattr(self.config, split), [self.config.seed, stream])
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
    captions, named = zip(*(_describe(row, rng) for row in values), strict=True)
    return {
        "image": draw(values, [*seed, 1]),
        "caption": encode([caption.split() for caption in captions], VOCABULARY, LENGTH),
        "attributes": values.astype(np.int64),
        "named": np.array([[a.name in own for a in ATTRIBUTES] for own in named]),
    }


def _describe(row: np.ndarray, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    truth = {a.name: a.values[value] for a, value in zip(ATTRIBUTES, row, strict=True)}
    return GRAMMAR.write(truth, rng)
