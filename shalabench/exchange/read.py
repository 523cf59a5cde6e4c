"""Read samples from folders and archives. Nothing is unpickled."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from shalabench.api import DataError
from shalabench.exchange.layout import INDEX, JOINT, RANGE, RECONSTRUCT, TRANSLATE, Found, split_key

_ENDINGS = (".npz", ".pt", ".safetensors")
_MODES = {"L": 1, "RGB": 3, "1": 1}
_KINDS = (JOINT, TRANSLATE, RECONSTRUCT)
LAYOUT = (
    "Expected were a folder with joint/NAME/*.png, joint/NAME.npy or joint/NAME.txt a modality, "
    f"or an archive ({', '.join(_ENDINGS)}) with an array joint/NAME a modality. docs/external.md "
    "shows the layout."
)


def read(path: Path) -> Found:
    """The samples in a folder or an archive.

    Raises:
        DataError: It is neither, or it does not read.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix in _ENDINGS and path.is_file():
        return _sort_out(_read_archive(path), str(path))
    what = "is no such archive" if path.exists() else "does not exist"
    raise DataError(f"{path} {what}. {LAYOUT}")


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    """Arrays by key."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="np") as tensors:
                return {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
        import torch

        content = torch.load(path, map_location="cpu", weights_only=True)
        return dict(_flat(content, path))
    except DataError:
        raise
    except Exception as error:  # three libraries, each with errors of its own
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path} does not open as {path.suffix} ({type(error).__name__}: {reason}). Archives "
            "are opened without unpickling, so they must hold arrays or tensors alone."
        ) from error


def _flat(content: Any, path: Path, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Tensors of nested dictionaries by their keys joined by "/"."""
    import torch

    if not isinstance(content, Mapping):
        raise DataError(
            f"{path} holds a {type(content).__name__}{f' as {prefix}' if prefix else ''}; a "
            "dictionary of tensors was expected."
        )
    for key, value in content.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, torch.Tensor):
            dense = value.float() if value.dtype == torch.bfloat16 else value
            yield name, dense.detach().numpy()
        else:
            yield from _flat(value, path, name)


def _sort_out(arrays: Mapping[str, np.ndarray], source: str) -> Found:
    found = Found({}, source=source)
    for key, array in arrays.items():
        if key == INDEX:
            found.index = array
        elif key == RANGE:
            found.range = _range(array, source)
        else:
            found.arrays["/".join(split_key(key))] = array
    return found


def _range(values: np.ndarray, source: str) -> tuple[float, float]:
    numbers = np.asarray(values).ravel()
    if numbers.dtype.kind not in "iuf" or len(numbers) != 2:
        raise DataError(
            f"'{RANGE}' in {source} is {values!r}; two numbers such as 0, 1 are needed."
        )
    return float(numbers[0]), float(numbers[1])


def _read_folder(root: Path) -> Found:
    """One sub-folder or file a modality."""
    arrays: dict[str, np.ndarray] = {}
    numbers: dict[str, list[int]] = {}
    index = None
    kinds = [kind for kind in _KINDS if (root / kind).is_dir()]
    for place, prefix in [(root / kind, kind) for kind in kinds] or [(root, JOINT)]:
        depth = 1 if prefix == TRANSLATE else 0
        for item in _items(place, depth):
            if item.parent == root and item.stem in (INDEX, RANGE):
                continue
            key = "/".join([prefix, *item.relative_to(place).with_suffix("").parts])
            if item.is_dir():
                key = "/".join([prefix, *item.relative_to(place).parts])
                files = _pictures(item)
                numbers[key] = [number for number, _ in files]
                arrays[key] = _read_pictures([file for _, file in files])
            else:
                arrays[key] = _read_file(item)
    for file in (root / f"{INDEX}.npy", root / TRANSLATE / f"{INDEX}.npy"):
        if file.is_file():
            index = _read_file(file)
    _refuse_other_names(numbers, root)
    named = [own for key, own in numbers.items() if not key.startswith(f"{JOINT}/")]
    if named and index is None:
        index = np.array(named[0])
    file = root / f"{RANGE}.npy"
    low_high = _range(_read_file(file), str(file)) if file.is_file() else None
    return Found(arrays, index, low_high, str(root))


def _items(place: Path, depth: int) -> list[Path]:
    """What holds one array each: folders of pictures, and files."""
    found: list[Path] = []
    for item in sorted(place.iterdir()):
        if item.name.startswith("."):
            continue
        if depth and item.is_dir():
            found += _items(item, depth - 1)
        elif item.is_dir() or item.suffix in (".npy", ".txt"):
            if not (depth and item.stem == INDEX):
                found.append(item)
        else:
            raise DataError(f"{item} is no folder of PNG, .npy or .txt. {LAYOUT}")
    return found


def _pictures(folder: Path) -> list[tuple[int, Path]]:
    """Pictures with the numbers that they are named by, in order."""
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    wrong = sorted(f.name for f in files if f.suffix.lower() != ".png" or not f.stem.isdecimal())
    if wrong or not files:
        what = f"{wrong[0]} in {folder}" if wrong else f"{folder} is empty; it"
        raise DataError(f"{what} should be a PNG named by a number, such as 0.png or 00017.png.")
    return sorted((int(file.stem), file) for file in files)


def _refuse_other_names(numbers: Mapping[str, list[int]], root: Path) -> None:
    """Refuse folders of a kind whose pictures are not named alike: they would not be tuples."""
    for is_joint in (True, False):
        own = {k: v for k, v in numbers.items() if k.startswith(f"{JOINT}/") == is_joint}
        first = next(iter(own), "")
        for key, names in own.items():
            if other := sorted(set(names) ^ set(own[first])):
                lacking, having = (key, first) if other[0] in own[first] else (first, key)
                raise DataError(
                    f"{root / lacking} has {len(own[lacking]):,} pictures and lacks number "
                    f"{other[0]}, which is in {root / having}. The views of a tuple must have the "
                    "same number."
                )


def _read_pictures(files: Iterable[Path]) -> np.ndarray:
    """`[n, C, H, W]` uint8."""
    rows: list[np.ndarray] = []
    for file in files:
        try:
            with Image.open(file) as image:
                mode = image.mode
                row = np.asarray(image.convert("RGB") if mode == "P" else image)
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise DataError(f"{file} does not open as a picture ({error}).") from error
        if mode not in (*_MODES, "P"):
            raise DataError(
                f"{file} has the mode {mode}; 8-bit RGB or grey without transparency was expected."
            )
        row = row.astype(np.uint8) * 255 if mode == "1" else row
        row = row[None] if row.ndim == 2 else row.transpose(2, 0, 1)
        if rows and row.shape != rows[0].shape:
            raise DataError(f"{file} is {_size(row)}, and the pictures before it {_size(rows[0])}.")
        rows.append(row)
    return np.stack(rows)


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[2]} x {picture.shape[1]} with {picture.shape[0]} channels"


def _read_file(file: Path) -> np.ndarray:
    try:
        if file.suffix == ".txt":
            text = file.read_text(encoding="utf-8")
            return np.array(text.removesuffix("\n").split("\n"), str)  # the last line need not end
        return np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{file} does not read ({error}).") from error
