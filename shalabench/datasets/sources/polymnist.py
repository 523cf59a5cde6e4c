"""Readers of PolyMNIST as others publish it: tensors, or folders of PNG files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from shalabench.api import DataError
from shalabench.datasets.sources.files import Arrays, as_data_error, with_ending
from shalabench.datasets.sources.readers import as_bytes, read_picture

SIDE = 28
PARTS = ("train", "test")
# Tuples of each class: the published recipe uses every digit of MNIST once a modality.
PUBLISHED = {
    "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
}


def names_of(modalities: int) -> list[str]:
    """The arrays of a part: m0, m1, ..., labels."""
    return [*(f"m{m}" for m in range(modalities)), "labels"]


def read_tensors(folder: Path, modalities: int) -> Arrays:
    """Read a part of the Zenodo archive's tensors, as MVTCAE and MultiVae do.

    Args:
        folder: With m0.pt, m1.pt, ... and labels.pt.
        modalities: How many to read.

    Returns:
        "m0", "m1", ... uint8 `[N, 3, 28, 28]` and "labels" int64 `[N]`.

    Raises:
        DataError: A file is damaged or holds something else.
    """
    arrays = {n: _read_tensor(folder / f"{n}.pt", n == "labels") for n in names_of(modalities)}
    if len({len(a) for a in arrays.values()}) != 1:
        raise DataError(f"The tensors in {folder} differ in length. Fetch the archive again.")
    return arrays


def _read_tensor(file: Path, is_label: bool) -> np.ndarray:
    with as_data_error(f"{file} does not load", "Fetch the archive again."):
        tensor = torch.load(file, weights_only=True, map_location="cpu")
    if not isinstance(tensor, torch.Tensor):
        raise DataError(f"{file} holds no tensor. Fetch the archive again.")
    _check_kind(file, tensor)
    if is_label:
        labels = tensor.flatten().long().numpy()
        whole = (tensor.flatten() == torch.from_numpy(labels)).numpy()
        _checked(file, labels, whole, "labels that are no whole numbers")
        return _checked(file, labels, np.isin(labels, range(10)), "labels outside 0 to 9")
    if tensor.shape[1:] != (3, SIDE, SIDE):
        raise DataError(f"{file} has the shape {tuple(tensor.shape)}; [N, 3, 28, 28] was expected.")
    # numpy has no bfloat16, and half floats round 255 x.
    is_short = tensor.dtype in (torch.bfloat16, torch.float16)
    with as_data_error(f"{file} holds a tensor of the type {tensor.dtype}", "Save it as uint8."):
        pixels = (tensor.float() if is_short else tensor).numpy()
    return as_bytes(file, pixels)


def _check_kind(file: Path, tensor: torch.Tensor) -> None:
    """Raise a DataError on a tensor that is no plain array of numbers in memory."""
    kinds = {
        "sparse": tensor.layout is not torch.strided,
        "nested": tensor.is_nested,
        "quantised": tensor.is_quantized,
        "complex": tensor.is_complex(),
        "empty (meta)": tensor.is_meta,
    }
    if kind := next((name for name, is_kind in kinds.items() if is_kind), ""):
        raise DataError(
            f"{file} holds a {kind} tensor, and a dense one of plain numbers was expected. Save it "
            "with torch.save as one, or fetch the archive again."
        )
    stored = tensor.untyped_storage().nbytes()
    if stored < tensor.numel() * tensor.element_size():
        raise DataError(
            f"{file} states the shape {tuple(tensor.shape)} and holds {stored:,} bytes: its values "
            "repeat without being stored. Save it with tensor.contiguous()."
        )


def compare_published(parts: dict[str, Arrays]) -> str:
    """How tuples in a published layout differ from the published ones, as far as can be known.

    No digest of the published archives is known here. Their numbers of tuples of each class are.

    Args:
        parts: The arrays of "train" and "test".

    Returns:
        A description; empty where the numbers agree.
    """
    own = {part: np.bincount(parts[part]["labels"], minlength=10) for part in PARTS}
    sizes = {part: sum(counts) for part, counts in PUBLISHED.items()}
    if any(own[part].sum() != sizes[part] for part in PARTS):
        counts = " and ".join(f"{own[p].sum():,} of {sizes[p]:,} {p}" for p in PARTS)
        return f"not the published tuples, but {counts} tuples"
    odd = [(p, c) for p in PARTS for c in range(10) if own[p][c] != PUBLISHED[p][c]]
    if odd:
        part, c = odd[0]
        return (
            f"not the published tuples: {own[part][c]:,} {part} tuples show the digit {c}, and "
            f"{PUBLISHED[part][c]:,} were published"
        )
    return ""


def _checked(file: Path, array: np.ndarray, valid: np.ndarray, otherwise: str) -> np.ndarray:
    if not valid.all():
        raise DataError(f"{file} has {otherwise}. Fetch the archive again.")
    return array


def read_folders(folder: Path, modalities: int) -> Arrays:
    """Read a part of the published PNG folders, m0/<number>.<class>.png, in sorted order.

    Args:
        folder: With m0/, m1/, ...
        modalities: How many to read.

    Returns:
        As `read_tensors`.

    Raises:
        DataError: A file is damaged, or only some modalities have it.
    """
    files = [_named(folder / f"m{m}") for m in range(modalities)]
    names = sorted(files[0], key=_class_and_number)
    if not names:
        raise DataError(f"{folder / 'm0'} holds no PNG files. Unpack the archive again.")
    arrays = {"labels": np.array([_class_and_number(n)[0] for n in names], dtype=np.int64)}
    for m in range(modalities):
        if odd := sorted(files[m].keys() ^ files[0].keys()):
            raise DataError(
                f"{folder} pairs modalities by file name, and {odd[0]} is in only one of m0/ and "
                f"m{m}/ ({len(odd):,} such files). Unpack the archive again."
            )
        tiles = [_read_tile(files[m][name]) for name in names]
        arrays[f"m{m}"] = np.stack(tiles).transpose(0, 3, 1, 2)
    return arrays


def _named(folder: Path) -> dict[str, Path]:
    """The PNG files of a folder by their names in small letters."""
    files: dict[str, Path] = {}
    for file in with_ending(folder, ".png"):
        if other := files.get(file.name.lower()):
            raise DataError(f"{file} and {other.name} are one picture. Delete one of them.")
        files[file.name.lower()] = file
    return files


def _read_tile(file: Path) -> np.ndarray:
    pixels = read_picture(file)
    if pixels.shape[:2] != (SIDE, SIDE):
        raise DataError(f"{file} is {pixels.shape[1]}x{pixels.shape[0]}; 28x28 was expected.")
    return pixels


def _class_and_number(name: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\.(\d)\.png", name)
    if not match:
        raise DataError(f"'{name}' is no PolyMNIST file name; '<number>.<class>.png' was expected.")
    return int(match[2]), int(match[1])
