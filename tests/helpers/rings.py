"""Sixteen 16-pixel views of a coloured ball, with facts, and methods whose figures are known."""

from __future__ import annotations

import torch

from shalabench.api import Camera, DataSpec, EvalContext, Modality, Rng, Split

VIEWS, SIDE = 16, 16
RING = [Camera.orbit(i * 22.5, 30, 1.5, 280 / 256) for i in range(VIEWS)]
NAMES = tuple(f"v{i:02}" for i in range(VIEWS))
SPEC = DataSpec(
    "ring",
    1,
    tuple(
        Modality(n, "image", (3, SIDE, SIDE), camera=c) for n, c in zip(NAMES, RING, strict=True)
    ),
    0,
    {},
    "",
    "",
)


def ring_of(n, seed=0, *, restyled=False):
    """A disc of its own size and colour a tuple, another shade a view, on white."""
    rng = Rng(seed)
    line = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
    radius = 0.2 + 0.2 * rng.uniform(n)
    inside = (line[:, None] ** 2 + line**2)[None] < radius[:, None, None] ** 2  # [n, R, R]
    colour = 0.8 * rng.uniform(n, 3)
    shade = 0.5 + 0.5 * rng.uniform(n, VIEWS)

    def paint(own):
        lit = own[:, None, :, None, None] * shade[:, :, None, None, None]
        x = torch.where(inside[:, None, None], lit, torch.ones(()))
        return (x * 255).round().to(torch.uint8)  # [n, V, 3, R, R]

    x = paint(colour)
    masks = inside[:, None].expand(n, VIEWS, SIDE, SIDE)
    facts = {"parts": masks.to(torch.uint8), "depth": (1.5 * masks).half()}
    if restyled:
        reference = torch.arange(n).roll(1)
        facts |= {"style_reference": reference, "restyled": paint(colour[reference])}
    return Split({name: x[:, i] for i, name in enumerate(NAMES)}, facts=facts)


class Known:
    """What a model tells of itself."""

    name, reduced, supervision, max_given = "known", "", "", None


class Noisy(Known):
    """The truth with noise of its own strength a view: a test's stand-in that knows all."""

    def __init__(self, split, strength=0.1):
        self.split, self.strength = split, strength

    def translate(self, given, targets, rng):
        first = next(iter(given.values()))
        index = torch.arange(rng.first, rng.first + len(first))
        truth = self.split.batch(index).views
        return {
            name: truth[name]
            + self.strength * (1 + int(name[1:])) * rng.fork(name).normal(*first.shape)
            for name in targets
        }


def tools_of(train=None):
    splits = None if train is None else lambda name: {"train": train}[name]
    return EvalContext(torch.device("cpu"), 0, splits=splits)
