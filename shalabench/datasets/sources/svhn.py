"""SVHN's cropped digits (Netzer et al. 2011): `.mat` files of MATLAB's version 5."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from shalabench.api import DataError
from shalabench.datasets.sources.download import Remote, download
from shalabench.datasets.sources.files import as_data_error
from shalabench.datasets.sources.readers import as_bytes

SIDE = 32
SIZES = {"train": 73_257, "test": 26_032}  # of the published files
_FOLDER = "svhn"
_FOLDERS = (_FOLDER, "", "SVHN")  # torchvision puts the files into the root
_HOME = "http://ufldl.stanford.edu/housenumbers/"
# torchvision's datasets/svhn.py states these of the published files.
_CHECKSUMS = {
    "train": "md5:e26dedcc434d2e4c54c9b2d4a06d8373",
    "test": "md5:eb5a983be6a315427106f1b164d9cef3",
}
_AGAIN = "Delete it and fetch it again."
_EXPECTED = "X [32, 32, 3, N] and y [N, 1]"


def read_part(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[N, 3, 32, 32]` and labels int64 `[N]` in 0..9 of "train" or "test".

    Args:
        root: The data root; none of the files is lacking there.
        part: Which.

    Raises:
        DataError: A file is cut short, damaged or of another kind.
    """
    return read_mat(_find(root, part) or root / _name(part))


def compare_published(root: Path, train: int, test: int) -> str:
    """How the files differ from the published ones: in numbers of images, or else in their digest.

    Args:
        root: The data root.
        train, test: Images that the files hold.

    Returns:
        A description; empty where they are the published files.
    """
    sizes = {"train": train, "test": test}
    if sizes != SIZES:
        counts = ", ".join(f"{n:,} of {SIZES[p]:,} {p} images" for p, n in sizes.items())
        return f"not the published SVHN files, but {counts}: no figure is an MST result"
    for part, checksum in _CHECKSUMS.items():
        file = _find(root, part) or root / _name(part)
        with file.open("rb") as content:
            own = hashlib.file_digest(content, "md5").hexdigest()
        if f"md5:{own}" != checksum:
            return (
                f"{file.name} has as many images as the published file, but not its "
                f"{checksum}: no figure is an MST result"
            )
    return ""


def lacking(root: Path) -> list[str]:
    """The files that are not under the data root, as paths below it."""
    return [_name(part) for part in SIZES if not _find(root, part)]


def fetch(root: Path) -> None:
    """Download the files that are missing.

    Raises:
        DataError: The server cannot be reached, or sends something else.
    """
    for part, checksum in _CHECKSUMS.items():
        name = _name(part)
        if not _find(root, part):
            download(Remote((_HOME + Path(name).name,), name, checksum), root)


def read_mat(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one file of cropped digits: X uint8 `[32, 32, 3, N]` and y in 1..10, where 10 is 0.

    Args:
        file: As published.

    Returns:
        Images uint8 `[N, 3, 32, 32]` and labels int64 `[N]` in 0..9.

    Raises:
        DataError: The file is cut short, damaged or of another kind.
    """
    from scipy.io import loadmat  # half a second that only these data need

    problem = f"{file} does not read as a MATLAB file with {_EXPECTED}: it is cut short or damaged"
    with as_data_error(problem, _AGAIN):
        try:
            content = loadmat(file, variable_names=("X", "y"))
        except NotImplementedError as error:  # version 7.3, which is HDF5
            raise DataError(
                f"{file} is of MATLAB's version 7.3, and version 5 was expected. Save it with "
                "scipy.io.savemat, or fetch the published file."
            ) from error
        pixels, labels = content["X"], content["y"].ravel()
    if pixels.shape != (SIDE, SIDE, 3, len(labels)):
        raise DataError(
            f"{file} has X of the shape {pixels.shape} ({pixels.dtype}) and {len(labels):,} labels;"
            f" (32, 32, 3, {len(labels)}) was expected. {_AGAIN}"
        )
    pixels = as_bytes(file, pixels)
    if unknown := sorted(set(labels.tolist()) - set(range(1, 11))):
        raise DataError(
            f"{file} has labels {', '.join(map(str, unknown))}; 1 to 10 were expected, where 10 is "
            f"the digit 0. {_AGAIN}"
        )
    return np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), labels.astype(np.int64) % 10


def _name(part: str, folder: str = _FOLDER) -> str:
    return f"{folder}/{part}_32x32.mat".removeprefix("/")


def _find(root: Path, part: str) -> Path | None:
    found = (root / _name(part, folder) for folder in _FOLDERS)
    return next((file for file in found if file.is_file()), None)
