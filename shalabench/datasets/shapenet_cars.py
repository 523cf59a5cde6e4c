"""ShapeNet cars: sixteen views of each from renderings that the user has."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from shalabench.api import (
    Camera,
    DataError,
    DataPaths,
    Dataset,
    DataSettings,
    Split,
    register_dataset,
    setting,
)
from shalabench.datasets.sources import flaws
from shalabench.datasets.sources.files import NOTE, Arrays, generate_once, stamp
from shalabench.datasets.sources.flaws import Flaws
from shalabench.datasets.sources.readers import read_picture
from shalabench.datasets.sources.rig import describe_views, ring
from shalabench.datasets.sources.shapenet import Source, View, find, read_car

_EXACT = 0.1  # degrees
_FLAWS = f"{NOTE}flaws"  # an array of the cache: what is wrong with pictures


Chosen = Sequence[Sequence[tuple[View, float]]]
"""The views of each car, and how many degrees each is off."""


@dataclass(frozen=True)
class Shown:
    """How far the pictures of a view are from its camera.

    Attributes:
        view: Name of the modality.
        worst: Largest angle between the camera's direction and a picture's, in degrees.
    """

    view: str
    worst: float

    @property
    def exact(self) -> bool:
        """Whether all pictures were taken from the camera's direction."""
        return self.worst < _EXACT


@register_dataset("shapenet-cars", version=1)
class ShapeNetCars(Dataset):
    """Sixteen views of each of ShapeNet's cars, from renderings that the user has.

    The data root must hold the renderings of SRN, of NMR (DVR) or of SyncDreamer; there is no
    download. Sizes are those of the layout. Modalities: "v00" to "v15", images `[3, R, R]` in
    [0, 1] on white, each with its camera. No classes. Reading takes minutes, once.

    The views of a car are the pictures nearest to SyncDreamer's sixteen cameras. Layouts without
    such pictures give approximate views, which `shown` and `spec.source` list. v00 looks along the
    x axis of the data's world (z up). Fact of each tuple: "alpha" uint8 `[N, 16, R, R]`, the part
    of a pixel that is car.
    """

    class Config(DataSettings):
        """Size of the pictures."""

        resolution: Literal[16, 32, 64, 128, 256] = setting(
            128, "Side of the pictures in pixels.", "ShaLa paper, section 4.3"
        )

    shown: tuple[Shown, ...] = ()

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        source = find(paths.data)
        chosen: dict[str, Chosen] = {
            s: [read_car(source, car) for car in cars] for s, cars in source.cars.items()
        }
        worst = np.array([[off for _, off in car] for own in chosen.values() for car in own]).max(0)
        modalities = describe_views(_as_taken(chosen["train"]), self.config.resolution)
        names = [modality.name for modality in modalities]
        self.shown = tuple(Shown(*pair) for pair in zip(names, worst.tolist(), strict=True))
        file = paths.cache / f"shapenet-cars-{_key(self, source, chosen)}.npz"
        arrays, fingerprint = generate_once(file, lambda: self._read(chosen), (_FLAWS,))
        found = Flaws()
        for own in arrays.values():
            found.merge_array(own[_FLAWS].numpy())
        deviation = found.describe()
        source_of = (f"ShapeNet cars, {source.layout} renderings", _describe(self.shown), deviation)
        self.set_splits(
            {
                split: Split(
                    dict(zip(names, own["pictures"], strict=True)), facts={"alpha": own["alpha"]}
                )
                for split, own in arrays.items()
            },
            modalities=modalities,
            classes=0,
            fingerprint=fingerprint,
            source="; ".join(filter(None, source_of)),
            deviation=deviation,
        )

    def _read(self, chosen: dict[str, Chosen]) -> dict[str, Arrays]:
        made, side = {}, self.config.resolution
        for split, cars in chosen.items():
            pictures = np.empty((len(cars[0]), len(cars), 3, side, side), np.uint8)
            alpha = np.empty((len(cars), len(cars[0]), side, side), np.uint8)
            found = Flaws()
            for n, car in enumerate(cars):
                for v, (view, _) in enumerate(car):
                    pictures[v, n], alpha[n, v], wrong = _read_view(view, side)
                    found.add("/".join(view.picture.parts[-3:]), wrong)
            made[split] = {"pictures": pictures, "alpha": alpha, _FLAWS: found.to_array()}
        return made


def _as_taken(cars: Chosen) -> tuple[Camera, ...]:
    """The rig's cameras at the distance and with the focal length of the renderings."""
    taken = [view.camera for car in cars for view, _ in car]
    distance = float(np.median([math.dist(camera.position, (0, 0, 0)) for camera in taken]))
    focal = float(np.median([camera.focal[0] for camera in taken]))
    return tuple(Camera(camera.rotation, (0.0, 0.0, distance), (focal, focal)) for camera in ring())


def _describe(shown: Sequence[Shown]) -> str:
    """Which views are exact, in words."""
    approximate = [own for own in shown if not own.exact]
    if not approximate:
        return f"all {len(shown)} views exact"
    exact = " ".join(own.view for own in shown if own.exact) or "none"
    worst = max(own.worst for own in approximate)
    names = " ".join(own.view for own in approximate)
    return f"exact views: {exact}; approximate: {names} (up to {worst:.1f} degrees off)"


def _key(dataset: ShapeNetCars, source: Source, chosen: dict[str, Chosen]) -> str:
    facts = []
    for split, cars in chosen.items():
        for view in (view for car in cars for view, _ in car):
            for file in filter(None, (view.picture, view.mask)):
                facts.append((split, str(file.relative_to(source.folder)), *stamp(file)))
    identity = [dataset.version, dataset.config.resolution, source.layout, facts]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def _read_view(view: View, side: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A picture on white, uint8 `[3, R, R]`, the part that is car, `[R, R]`, and its flaws."""
    pixels = read_picture(view.picture, "RGBA")
    if pixels.shape[0] != pixels.shape[1]:
        raise DataError(
            f"{view.picture} is {pixels.shape[1]} x {pixels.shape[0]} pixels, and its camera is "
            "one of square pictures."
        )
    colour: np.ndarray = pixels[..., :3].astype(np.float32)
    alpha = pixels[..., 3]
    if view.mask is not None:
        alpha = read_picture(view.mask, "L")
        if alpha.shape != pixels.shape[:2]:
            raise DataError(f"{view.mask} and {view.picture} differ in size.")
    wrong = [flaws.ENLARGED] if len(pixels) < side else []
    if 0 < alpha.max() < 255:
        wrong.append(flaws.SCALED if alpha.max() == 1 else flaws.MASK)
        alpha = alpha * 255 if alpha.max() == 1 else alpha
    if (alpha == 255).all():  # composed already
        white = (pixels[..., :3] == 255).all(-1)
        rim = np.concatenate([white[0], white[-1], white[:, 0], white[:, -1]])
        wrong += [] if rim.mean() > 0.5 else [flaws.NOT_WHITE]
        alpha = np.where(white, 0, 255).astype(np.uint8)
    else:
        share = alpha[..., None] / np.float32(255)
        colour = colour * share + 255 * (1 - share)
    whole = np.concatenate([colour, alpha[..., None].astype(np.float32)], -1)
    small = [
        Image.fromarray(layer, "F").resize((side, side), Image.Resampling.BOX)
        for layer in np.moveaxis(whole, -1, 0)
    ]
    done = (np.stack([np.asarray(layer) for layer in small]) + 0.5).clip(0, 255).astype(np.uint8)
    return done[:3], done[3], wrong + ([] if done[3].any() else [flaws.EMPTY])
