"""Cars: drawn cars from sixteen sides, any style on any shape; no download."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import numpy as np
import torch

from shalabench.api import DataPaths, Dataset, DataSettings, Split, register_dataset, setting
from shalabench.datasets.sources.files import SPLITS, Arrays, cache_file, generate_once
from shalabench.datasets.sources.rig import describe_views, ring
from shalabench.datasets.synthetic.cars.drawing import stage
from shalabench.datasets.synthetic.cars.shapes import KINDS, Kind, Shape, draw_shape
from shalabench.datasets.synthetic.cars.styles import Style, draw_style

_FEW = 1 << 22  # pixels that one process draws faster than others start


@register_dataset("cars", version=1)
class Cars(Dataset):
    """Rendered cars of eight kinds on white, seen by SyncDreamer's sixteen cameras.

    352 cars by default, drawn in two minutes at 32 pixels; no download. Modalities: "v00" to
    "v15", images `[3, R, R]` in [0, 1], each with its camera. Classes: the eight kinds.

    Shape and style come from independent streams of random numbers, so any style can be drawn on
    any shape. Splits share neither. Facts of each tuple: "alpha" uint8 `[N, V, R, R]`, the covered
    part of a pixel (without the shadow); "parts" uint8 `[N, V, R, R]`, numbers in
    `synthetic.cars.materials.PARTS`; "depth" float16 `[N, V, R, R]` along the camera's axis, 0
    where `parts` is. On the test split also "style_reference" int64 `[N]`, another test tuple, and
    "restyled" uint8 `[N, V, 3, R, R]`, this shape in that tuple's style.
    """

    class Config(DataSettings):
        """Sizes, resolution and seed."""

        resolution: Literal[16, 32, 64, 128, 256] = setting(
            32,
            "Side of the pictures in pixels.",
            "our choice: for a CPU; the paper has 128 (reproduction/cars.md)",
        )
        train: int = setting(
            288,
            "Training cars.",
            "our choice: a first trial (reproduction/view-synthesis.md#first-trials)",
            ge=8,
            le=1_000_000,
        )
        validation: int = setting(
            32, "Validation cars.", "our choice: four a kind", ge=8, le=1_000_000
        )
        test: int = setting(
            32,
            "Test cars.",
            "our choice: a first trial (reproduction/view-synthesis.md#first-trials)",
            ge=8,
            le=1_000_000,
        )
        views: int = setting(16, "Cameras.", "ShaLa paper, section 4.3", ge=2, le=64)
        held_out: Literal["", Kind] = setting(
            "", "Body kind that is in the test split only, and alone there.", "our choice: none"
        )
        seed: int = setting(0, "Seed of shapes and styles.", "our choice", ge=0)

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        c = self.config
        file = cache_file(self, paths.cache, exclude={"missing"})
        arrays, fingerprint = generate_once(file, self._generate)
        modalities = describe_views(ring(c.views), c.resolution)
        splits = {}
        for name, facts in arrays.items():
            pictures = dict(zip((m.name for m in modalities), facts.pop("pictures"), strict=True))
            splits[name] = Split(pictures, facts.pop("labels"), facts=facts)
        held = f", {c.held_out} in the test split only" if c.held_out else ""
        self.set_splits(
            splits,
            modalities=modalities,
            classes=len(KINDS),
            fingerprint=fingerprint,
            source=f"cars drawn from a seed, {c.views} exact views{held}",
        )

    def _generate(self) -> dict[str, Arrays]:
        return {split: self._draw(design(self.config, split)) for split in SPLITS}

    def _draw(self, plan: Plan) -> Arrays:
        n, v, side = len(plan.shapes), self.config.views, self.config.resolution
        made = {
            "pictures": np.empty((v, n, 3, side, side), np.uint8),
            "alpha": np.empty((n, v, side, side), np.uint8),
            "parts": np.empty((n, v, side, side), np.uint8),
            "depth": np.empty((n, v, side, side), np.float16),
            "labels": np.array([KINDS.index(shape.kind) for shape in plan.shapes], np.int64),
        }
        if plan.reference is not None:
            made["style_reference"] = plan.reference
            made["restyled"] = np.empty((n, v, 3, side, side), np.uint8)
        for i, drawn in enumerate(_draw_all(plan, v, side)):
            made["pictures"][:, i] = drawn.pop("pictures")
            for name, array in drawn.items():
                made[name][i] = array
        return made


@dataclass(frozen=True)
class Plan:
    """The cars of a split.

    Attributes:
        shapes: One a tuple.
        styles: One a tuple.
        reference: `[N]` int64, whose style each shape is drawn in as well; None where that is not.
    """

    shapes: list[Shape]
    styles: list[Style]
    reference: np.ndarray | None = None

    def finishes(self, i: int) -> list[Style]:
        """The styles of tuple `i`: its own, then that of its reference."""
        other = [] if self.reference is None else [self.styles[self.reference[i]]]
        return [self.styles[i], *other]


def design(config: Cars.Config, split: str) -> Plan:
    """Draw a split's shapes and styles; item i does not depend on the split's size."""
    held, seed, stream = config.held_out, config.seed, SPLITS.index(split)
    kinds = [kind for kind in KINDS if kind != held]
    if held and split == "test":
        kinds = [held]
    n = getattr(config, split)
    shapes = [
        draw_shape(kinds[i % len(kinds)], np.random.default_rng([seed, stream, 0, i]))
        for i in range(n)
    ]
    styles = [draw_style(np.random.default_rng([seed, stream, 1, i])) for i in range(n)]
    if split != "test":
        return Plan(shapes, styles)
    # One round through all tuples in random order: no tuple is its own reference.
    order = np.random.default_rng([seed, stream, 2]).permutation(n)
    reference = np.empty(n, np.int64)
    reference[order] = np.roll(order, -1)
    return Plan(shapes, styles, reference)


def draw_car(shape: Shape, styles: list[Style], views: int, side: int) -> Arrays:
    """Pictures of a shape in one style or two, with the facts of `Cars`."""
    scene = stage(shape, ring(views), side)
    drawn = {
        "pictures": scene.draw(styles[0]).numpy(),
        "alpha": scene.alpha.numpy(),
        "parts": scene.parts.numpy(),
        "depth": scene.depth.half().numpy(),
    }
    if len(styles) > 1:
        drawn["restyled"] = scene.draw(styles[1]).numpy()
    return drawn


def _draw_all(plan: Plan, views: int, side: int) -> Iterator[Arrays]:
    """All cars of a plan in order, drawn by one process for each thread of torch."""
    n = len(plan.shapes)
    work = plan.shapes, map(plan.finishes, range(n)), repeat(views), repeat(side)
    workers = min(torch.get_num_threads(), n * views * side**2 // _FEW)
    if workers < 2:
        yield from map(draw_car, *work)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        yield from pool.map(draw_car, *work, chunksize=4)
