"""Cars: drawn cars from sixteen sides, any style on any shape; no download."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import numpy as np
import torch

from shalabench.api import (
    DataPaths,
    Dataset,
    DataSettings,
    DataSpec,
    Split,
    register_dataset,
    setting,
)
from shalabench.datasets.sources.files import digest_of, write_whole
from shalabench.datasets.sources.rig import describe_views, ring
from shalabench.datasets.synthetic.cars.drawing import stage
from shalabench.datasets.synthetic.cars.shapes import KINDS, Shape, draw_shape
from shalabench.datasets.synthetic.cars.styles import Style, draw_style

SPLITS = ("train", "validation", "test")
_FEW = 1 << 22  # pixels that one process draws faster than others start


@register_dataset("cars", version=1)
class Cars(Dataset):
    """One of eight kinds of cars before SyncDreamer's sixteen cameras, on white ground.

    Shape and style come from independent streams of random numbers, so any style can be drawn on
    any shape. Splits share neither. Facts of each tuple: "alpha" uint8 `[N, V, R, R]`, how much of
    a pixel is car (a shadow is none); "parts" uint8 `[N, V, R, R]`, numbers in
    `synthetic.cars.materials.PARTS`; "depth" float16 `[N, V, R, R]` along the camera's axis, 0
    where `parts` is. On the test split also "style_reference" int64 `[N]`, another test tuple, and
    "restyled" uint8 `[N, V, 3, R, R]`, this shape in that tuple's style.
    """

    class Config(DataSettings):
        """Sizes, resolution and seed."""

        resolution: Literal[16, 32, 64, 128, 256] = setting(
            32, "Side of the pictures in pixels.", "a CPU; the paper has 128"
        )
        train: int = setting(
            288, "Training cars.", "a first trial (reproduction/view-synthesis.md)", ge=8
        )
        validation: int = setting(32, "Validation cars.", "four a kind", ge=8)
        test: int = setting(
            32, "Test cars.", "a first trial (reproduction/view-synthesis.md)", ge=8
        )
        views: int = setting(16, "Cameras.", "ShaLa paper, section 4.3", ge=2, le=64)
        held_out: Literal["", *KINDS] = setting(
            "", "Body kind that is in the test split only, and alone there.", "ours: none"
        )
        seed: int = setting(0, "Seed of shapes and styles.", "our choice", ge=0)

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        settings = self.config.model_dump_json(exclude={"missing"})
        key = hashlib.sha256(f"{self.version}{settings}".encode()).hexdigest()
        file = paths.cache / f"cars-{key[:16]}.npz"
        if not file.exists():
            arrays = self._generate()
            write_whole(file, lambda partial: np.savez(partial, **arrays))
        with np.load(file, allow_pickle=False) as arrays:
            self._splits = {name: self._read(name, arrays) for name in SPLITS}
            self._fingerprint = str(arrays["fingerprint"])

    @property
    def spec(self) -> DataSpec:
        held = f", {self.config.held_out} in the test split only" if self.config.held_out else ""
        return DataSpec(
            name=self.name,
            version=self.version,
            modalities=describe_views(ring(self.config.views), self.config.resolution),
            classes=len(KINDS),
            sizes={name: len(split) for name, split in self._splits.items()},
            fingerprint=self._fingerprint,
            source=f"cars drawn from a seed, {self.config.views} exact views{held}",
        )

    def split(self, name: str) -> Split:
        return self._splits[name]

    def _read(self, split: str, arrays: np.lib.npyio.NpzFile) -> Split:
        own = {
            key.removeprefix(f"{split}_"): torch.from_numpy(arrays[key])
            for key in arrays
            if key.startswith(f"{split}_")
        }
        pictures, labels = own.pop("pictures"), own.pop("labels")  # [V, N, 3, R, R]
        return Split({f"v{i:02}": x for i, x in enumerate(pictures)}, labels, facts=own)

    def _generate(self) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        for split in SPLITS:
            made = self._draw(design(self.config, split))
            arrays |= {f"{split}_{name}": array for name, array in made.items()}
        fingerprint = digest_of(arrays[name] for name in sorted(arrays))
        return arrays | {"fingerprint": np.array(fingerprint)}

    def _draw(self, plan: Plan) -> dict[str, np.ndarray]:
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
    """What is drawn in a split.

    Attributes:
        shapes: One a tuple.
        styles: One a tuple.
        reference: `[N]` int64, whose style each shape is drawn in as well; None where that is not.
    """

    shapes: list[Shape]
    styles: list[Style]
    reference: np.ndarray | None = None

    def finishes(self, i: int) -> list[Style]:
        """The styles in which tuple `i` is drawn, its own first."""
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
    # One round through all tuples in random order: nobody is their own reference.
    order = np.random.default_rng([seed, stream, 2]).permutation(n)
    reference = np.empty(n, np.int64)
    reference[order] = np.roll(order, -1)
    return Plan(shapes, styles, reference)


def draw_car(shape: Shape, styles: list[Style], views: int, side: int) -> dict[str, np.ndarray]:
    """A shape in one style or two, and what is known of its pictures, as the facts of `Cars`."""
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


def _draw_all(plan: Plan, views: int, side: int) -> Iterator[dict[str, np.ndarray]]:
    """All cars of a plan in order, by as many processes as torch may use threads."""
    n = len(plan.shapes)
    work = plan.shapes, map(plan.finishes, range(n)), repeat(views), repeat(side)
    workers = min(torch.get_num_threads(), n * views * side**2 // _FEW)
    if workers < 2:
        yield from map(draw_car, *work)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        yield from pool.map(draw_car, *work, chunksize=4)
