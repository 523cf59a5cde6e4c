"""Renderings of ShapeNet's cars in the layouts that others publish, and the views they hold."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shalabench.api import Camera, DataError, from_nmr, from_pose, from_srn
from shalabench.datasets.sources.files import as_data_error, either_case, read_lines, with_ending
from shalabench.datasets.sources.readers import read_arrays
from shalabench.datasets.sources.rig import ring

LAYOUTS = {
    "srn": "cars_train/<id>/{rgb/000000.png, pose/000000.txt, intrinsics.txt}, cars_val, cars_test",
    "nmr": "NMR_Dataset/02958343/<id>/{image/0000.png, cameras.npz}, softras_train.lst, ...",
    "syncdreamer": "target/<uid>/{000.png, ..., 015.png}",
}
"""Name of each layout, and an example of its paths."""

_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_BASES = ("", "shapenet-cars", "shapenet_cars", "srn_cars", "srn_cars/srn_cars", "NMR_Dataset")
_CARS = "02958343"  # ShapeNet's synset
_NMR_VIEWS = 24
_AGAIN = "Fetch it again."
_PARTS = 0.8, 0.1  # of the cars for training and validation, where the layout has no lists


@dataclass(frozen=True)
class View:
    """A picture and its camera.

    Attributes:
        picture: Its file.
        camera: The camera that took it.
        mask: File of the car's silhouette, or None.
    """

    picture: Path
    camera: Camera
    mask: Path | None = None


@dataclass(frozen=True)
class Source:
    """Renderings in one of the layouts.

    Attributes:
        layout: Its name in `LAYOUTS`.
        folder: The folder of the renderings.
        cars: Folder of each car, by split.
    """

    layout: str
    folder: Path
    cars: dict[str, list[Path]]

    def views(self, car: Path) -> list[View]:
        """All views of a car, in the order of their numbers.

        Raises:
            DataError: A file is missing or wrong.
        """
        return {"srn": _srn_views, "nmr": _nmr_views, "syncdreamer": _sync_views}[self.layout](
            self.folder, car
        )


def find(root: Path) -> Source:
    """The first known layout in a data root.

    Raises:
        DataError: There is none, and the message lists the layouts; or its splits are not three
            sets of cars.
    """
    for base in (root / name for name in _BASES):
        for look in (_find_srn, _find_nmr, _find_sync):
            source = look(base)
            if source is not None:
                _check_splits(source)
                return source
    listing = "".join(f"\n  {name}: {example}" for name, example in LAYOUTS.items())
    raise DataError(
        f"No renderings of ShapeNet cars are in {root}. Put one of these layouts there or in "
        f"{root / 'shapenet-cars'}:{listing}"
    )


def _check_splits(source: Source) -> None:
    """Raise a DataError on a split without cars, and on a car that is listed twice."""
    for split, cars in source.cars.items():
        if not cars:
            raise DataError(f"{source.folder} lists no car for {split}. Unpack the archive again.")
    listed = Counter(car.name for cars in source.cars.values() for car in cars)
    name, times = listed.most_common(1)[0]
    if times > 1:
        raise DataError(
            f"{source.folder} lists the car {name} {times} times; give it to one split, once."
        )


def _direction(camera: Camera) -> np.ndarray:
    position = np.array(camera.position)
    return position / np.linalg.norm(position)


# SRN: views from random positions (training) or along a spiral (the others).


def _find_srn(base: Path) -> Source | None:
    folders = {}
    for split, word in _SPLITS.items():
        folder = base / f"cars_{word}"
        folders[split] = folder / folder.name if (folder / folder.name).is_dir() else folder
    if not any(folder.is_dir() for folder in folders.values()):
        return None
    cars = {split: _folders(folder, "rgb") for split, folder in folders.items()}
    for split, own in cars.items():
        if not own:
            raise DataError(
                f"{folders[split]} holds no car, a folder with rgb/, pose/ and intrinsics.txt. "
                "Unpack srn_cars.zip again."
            )
    return Source("srn", base, cars)


def _srn_views(folder: Path, car: Path) -> list[View]:
    focal, centre, width, inverted = _srn_intrinsics(car / "intrinsics.txt")
    pictures = with_ending(car / "rgb", ".png")
    poses = {file.stem: file for file in with_ending(car / "pose", ".txt")}
    _same({picture.stem for picture in pictures}, set(poses), car)
    views = []
    for picture in pictures:
        file = poses[picture.stem]
        with as_data_error(f"{file} is no pose of 4 x 4 numbers", _AGAIN):
            pose = np.loadtxt(file, encoding="utf-8-sig").reshape(4, 4)
            camera = from_srn(np.linalg.inv(pose) if inverted else pose, focal, centre, width)
        views.append(View(picture, camera))
    return views


def _same(pictures: set[str], poses: set[str], car: Path) -> None:
    lone = sorted(pictures ^ poses)
    if lone or not pictures:
        what = f"view {lone[0]} has only one of the two" if lone else "there is none"
        raise DataError(f"{car}: every view needs rgb/<n>.png and pose/<n>.txt, and {what}.")


def _srn_intrinsics(file: Path) -> tuple[float, tuple[float, float], float, bool]:
    """Focal length, centre, width, and whether poses take the world to the camera.

    As SRN's own reader (`parse_intrinsics`) has it: the first line holds focal length and centre,
    the fourth height and width, and the fifth, if there is one, 1 where poses take the world to
    the camera, and 0 where they take the camera to the world.
    """
    problem = f"{file} holds no focal length and centre in the first line, height and width in the "
    with as_data_error(f"{problem}fourth", _AGAIN):
        lines = [line.split() for line in read_lines(file, _AGAIN)]
        focal, cx, cy = (float(x) for x in lines[0][:3])
        height, width = (float(x) for x in lines[3])
    fifth = " ".join(lines[4]) if len(lines) > 4 else "0"
    if fifth not in ("0", "1"):
        raise DataError(
            f"{file}: the fifth line is '{fifth}'; 0 (poses take the camera to the world) or 1 "
            f"(poses take the world to the camera) was expected. {_AGAIN}"
        )
    if not height == width > 0:
        raise DataError(
            f"{file}: the intrinsics are for an image of {width:g} x {height:g} pixels, and the "
            "pictures are square."
        )
    _fit(file, focal / width, (cx / width, cy / height))
    return focal, (cx, cy), width, fifth == "1"


def _fit(file: Path, focal: float, centre: tuple[float, float]) -> None:
    """Raise a DataError on intrinsics, in widths of the image, that do not fit it."""
    if not 0.2 < focal < 20 or any(abs(c - 0.5) > 0.1 for c in centre):
        raise DataError(
            f"{file}: the intrinsics do not fit the image: a focal length of {focal:.3g} widths, "
            f"and a centre at ({centre[0]:.3g}, {centre[1]:.3g}) of it. They may be for another "
            "size of image."
        )


# NMR: 24 views a car, 15 degrees apart.


def _find_nmr(base: Path) -> Source | None:
    folder = next((f for f in (base / "NMR_Dataset" / _CARS, base / _CARS) if f.is_dir()), None)
    if folder is None:
        return None
    cars = {}
    for split, word in _SPLITS.items():
        lines = read_lines(folder / f"softras_{word}.lst", "Unpack NMR_Dataset again.")
        cars[split] = [folder / name for line in lines for name in line.split()]
    return Source("nmr", folder, cars)


def _nmr_views(folder: Path, car: Path) -> list[View]:
    file = car / "cameras.npz"
    views = []
    with (
        as_data_error(f"{file} cannot be read as arrays", _AGAIN),
        np.load(file, allow_pickle=False) as arrays,
    ):
        matrices = dict(arrays)
    for i in range(_NMR_VIEWS):
        picture, mask = (either_case(car / part / f"{i:04}.png") for part in ("image", "mask"))
        if not picture.is_file():
            raise DataError(f"The view {picture} is missing; a car has {_NMR_VIEWS}.")
        with as_data_error(f"{file} lacks matrices of a camera for {picture.name}", _AGAIN):
            world = matrices.get(f"world_mat_{i}")
            if world is None:
                world = np.linalg.inv(_whole(matrices[f"world_mat_inv_{i}"]))
            camera = from_nmr(world, matrices[f"camera_mat_{i}"])
        _fit(file, camera.focal[0], camera.centre)
        views.append(View(picture, camera, mask if mask.is_file() else None))
    return views


def _whole(matrix: np.ndarray) -> np.ndarray:
    return matrix if matrix.shape == (4, 4) else np.vstack([matrix, [[0, 0, 0, 1]]])


# SyncDreamer: the sixteen views themselves.


def _find_sync(base: Path) -> Source | None:
    folder = base / "target"
    if not folder.is_dir():
        return None
    cars = sorted(file for file in folder.iterdir() if file.is_dir())
    listed = base / "uid_set.pkl"
    if listed.is_file():
        known = read_arrays(listed)
        if not isinstance(known, list | tuple | set) or not all(isinstance(u, str) for u in known):
            raise DataError(f"{listed} is no list of names.")
        cars = [folder / uid for uid in sorted(known)]
    own = _read_split(base / "split.json", folder) or _cut(cars)
    if not all(own.values()):
        raise DataError(
            f"{folder} holds {len(cars)} cars, too few for three splits; ten are the least."
        )
    return Source("syncdreamer", base, own)


def _read_split(file: Path, folder: Path) -> dict[str, list[Path]] | None:
    if not file.is_file():
        return None
    with as_data_error(f"{file} does not list the cars of {', '.join(_SPLITS)}", "Correct it."):
        listed = json.loads(file.read_text(encoding="utf-8-sig"))
        if any(isinstance(listed[split], str) for split in _SPLITS):
            raise ValueError("each must be a list of names")
        return {split: [folder / uid.strip() for uid in listed[split]] for split in _SPLITS}


def _cut(cars: list[Path]) -> dict[str, list[Path]]:
    order = np.random.default_rng(0).permutation(len(cars))
    first, second = (round(sum(_PARTS[: i + 1]) * len(cars)) for i in range(2))
    parts = np.split(order, [first, second])
    return {s: [cars[i] for i in sorted(part)] for s, part in zip(_SPLITS, parts, strict=True)}


def _sync_views(folder: Path, car: Path) -> list[View]:
    views = [
        View(either_case(car / f"{i:03}.png"), camera)
        for i, camera in enumerate(_sync_cameras(folder))
    ]
    for view in views:
        if not view.picture.is_file():
            raise DataError(f"The view {view.picture} is missing; a car has {len(views)}.")
    return views


def _sync_cameras(folder: Path) -> tuple[Camera, ...]:
    """The cameras in the file beside the pictures, or the rig's where there is none."""
    file = next(
        (f for f in (folder / "camera-16.pkl", folder / "meta_info/camera-16.pkl") if f.is_file()),
        None,
    )
    if file is None:
        return ring()
    with as_data_error(f"{file} holds no K and poses of sixteen cameras", _AGAIN):
        k, _, _, _, poses = read_arrays(file)
        # K is for an image of 256 pixels; the pictures may have another size.
        cameras = tuple(from_pose(pose, k, 256.0) for pose in poses)
    if len(cameras) != len(ring()):
        raise DataError(f"{file} holds {len(cameras)} cameras, and 16 are needed.")
    _fit(file, cameras[0].focal[0], cameras[0].centre)
    return cameras


def read_car(source: Source, car: Path) -> list[tuple[View, float]]:
    """For each of the rig's sixteen cameras the nearest view, and how many degrees it is off."""
    if not car.is_dir():
        raise DataError(f"The car {car} is listed and is missing. Unpack the archive again.")
    views = source.views(car)
    directions = np.array([_direction(view.camera) for view in views])  # [K, 3]
    chosen = []
    for camera in ring():
        off = np.linalg.norm(directions - _direction(camera), axis=1)
        nearest = int(off.argmin())
        angle = 2 * math.degrees(math.asin(min(1.0, off[nearest] / 2)))
        chosen.append((views[nearest], angle))
    return chosen


def _folders(folder: Path, inner: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(car for car in folder.iterdir() if (car / inner).is_dir())
