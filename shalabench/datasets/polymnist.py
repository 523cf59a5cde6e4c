"""PolyMNIST (Sutter et al. 2021): the same digit, in five hands, on five photographs.

The published tensors and the published PNG folders are read where they lie; else the set is made
by the published recipe from MNIST and the background pictures, with a fixed seed.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from shalabench.api import (
    DataError,
    DataPaths,
    Dataset,
    DataSpec,
    Split,
    register_dataset,
    setting,
)
from shalabench.datasets.sources import mnist
from shalabench.datasets.sources.classes import (
    DigitSettings,
    describe_digits,
    fingerprint_digits,
    keep_digits,
)
from shalabench.datasets.sources.composing import compose, cut_validation, describe_modalities, pair
from shalabench.datasets.sources.download import Remote, download
from shalabench.datasets.sources.files import digest_of, git_digest, write_whole
from shalabench.datasets.sources.pictures import read_picture

SIDE = 28
_PUBLISHED = 5  # modalities of the published set; pictures for five more exist
_PARTS = ("train", "test")
_FOLDERS = ("PolyMNIST", "MMNIST", "PolyMNIST/MMNIST", "PolyMNIST/PolyMNIST")

# The record states no checksum that is known here; the zip's own are checked on unpacking.
_ARCHIVE = Remote(("https://zenodo.org/record/4899160/files/PolyMNIST.zip",), "PolyMNIST.zip")
# The published pictures and those of the ten-modality extension, with their ids in a public git
# repository that holds all ten.
_GALLERY = (
    "https://raw.githubusercontent.com/rooshenasgroup/sbmae/"
    "480655f72c8abc6af4a3abb3f37a86c6cf3efdb0/poly_background/"
)
_PICTURES = {
    "00flowers-19830_1280.jpg": "b8850cf3ab7645d526ce6d507defa1a141a8ec1d",
    "01The_Scream.jpg": "79cf07b993c1f50a5a8e9e8675137266337fa330",
    "02lena3.jpg": "7e83c443702a1525adc1ac0597ed9c95f4f8b862",
    "03milky-way-2695569_1280.jpg": "052a1700a2cf9d87cf9dd4de6eacacde75c30d28",
    "04poppies-174276_1280.jpg": "b0da0bf7378531168f3eb575d98d0cbd76654975",
    "05tree-736885_1280.jpg": "3514f0683711909a2aa2da346b044fbb239b14ad",
    "06woman-570883_1280.jpg": "c53678ee7087b811bc8aab99095cdf7a2c2e20ac",
    "07star_field.jpg": "7d3676903f14ba898f9eff8f5ea9dded8d9b0628",
    "08pink-324175_1280.jpg": "9504f615ceb8de6f01e6a53825c2601cb7b1e679",
    "09road-3186188_1280.jpg": "5014b8c7bd9ea768061b3dbc9a2f827cb0670e70",
}

Arrays = dict[str, np.ndarray]
"""`m0`, `m1`, ... uint8 `[N, 3, 28, 28]` and `labels` int64 `[N]` of one part."""


@dataclass(frozen=True)
class _Source:
    """One way to come by the tuples.

    Attributes:
        words: Which it is, for the record.
        key: Digest of all that decides the arrays.
        make: The arrays of "train" or "test".
        deviation: In what it differs from the published data, if it does.
    """

    words: str
    key: str
    make: Callable[[str], Arrays]
    deviation: str = ""


@register_dataset("polymnist", version=1, paper="Sutter, Daunhawer, Vogt: MoPoE-VAE (ICLR 2021)")
class PolyMNIST(Dataset):
    """60,000 training and 10,000 test tuples of MNIST digits on crops of photographs."""

    class Config(DigitSettings):
        """Which modalities, from where."""

        modalities: int = setting(5, "Number of modalities.", "published: 5; 10 exist", ge=1, le=10)
        validation: int = setting(
            5_000, "Tuples held out of the training data.", "our choice: none is published", ge=100
        )
        source: Literal["auto", "tensors", "folders", "generated"] = setting(
            "auto", "Where to take it from; auto takes the first of these that is found.", "ours"
        )
        seed: int = setting(0, "Seed of generation and of the validation cut.", "our choice", ge=0)

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        source = self._find(paths.data)
        if source is None and download:
            _download(paths.data, self.config)
            source = self._find(paths.data)
        if source is None:
            raise DataError(_missing(paths.data, self.config))
        self._source = describe_digits(source.words, self.config.digits)
        self._deviation = describe_digits(source.deviation, self.config.digits)
        folder = paths.cache / f"polymnist-{source.key[:16]}"
        parts, content = _cached(folder, source, _names(self.config.modalities))
        held = self._cut(parts)
        whole = hashlib.sha256(f"{content} {digest_of([held])}".encode()).hexdigest()
        self._fingerprint = fingerprint_digits(whole, self.config.digits)

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            name=self.name,
            version=self.version,
            modalities=describe_modalities(self.config.modalities, SIDE),
            classes=10,
            sizes={name: len(split) for name, split in self._splits.items()},
            fingerprint=self._fingerprint,
            source=self._source,
            deviation=self._deviation,
        )

    def split(self, name: str) -> Split:
        return self._splits[name]

    def _find(self, root: Path) -> _Source | None:
        wanted, last = self.config.source, self.config.modalities - 1
        for folder in (root / name for name in _FOLDERS):
            if wanted in ("auto", "tensors") and (folder / "train" / f"m{last}.pt").is_file():
                return _tensors(folder, self.config.modalities)
            if wanted in ("auto", "folders") and (folder / "train" / f"m{last}").is_dir():
                return _folders(folder, self.config.modalities)
        if wanted in ("auto", "generated") and not _lacking(root, self.config.modalities):
            return _generation(root, self.config.modalities, self.config.seed)
        return None

    def _cut(self, parts: dict[str, Arrays]) -> np.ndarray:
        """Make the splits; the numbers of the training tuples held out are returned."""
        total = len(parts["train"]["labels"])
        if self.config.validation >= total:
            raise DataError(
                f"data.validation is {self.config.validation:,} and there are {total:,} training "
                "tuples. Hold out fewer."
            )
        kept, held = cut_validation(total, self.config.validation, self.config.seed)
        whole = {
            "train": _split(parts["train"], kept),
            "validation": _split(parts["train"], held),
            "test": _split(parts["test"], np.arange(len(parts["test"]["labels"]))),
        }
        self._splits = {n: keep_digits(split, self.config.digits) for n, split in whole.items()}
        return held


def _split(arrays: Arrays, index: np.ndarray) -> Split:
    images = {n: torch.from_numpy(a[index]) for n, a in arrays.items() if n != "labels"}
    return Split(images, torch.from_numpy(arrays["labels"][index]))


# The cache: a source's arrays are made once and read from then on.


def _cached(folder: Path, source: _Source, names: list[str]) -> tuple[dict[str, Arrays], str]:
    """The arrays of both parts, mapped from files, and the digest of their content."""
    index = folder / "done.json"
    if not index.exists():
        for part in _PARTS:
            arrays = source.make(part)
            for name in names:
                array = np.ascontiguousarray(arrays[name])  # else it is written byte by byte
                write_whole(folder / f"{part}-{name}.npy", partial(np.save, arr=array))
        made = _load(folder, names)
        content = digest_of(made[part][name] for part in sorted(made) for name in sorted(names))
        write_whole(index, lambda file: file.write_text(json.dumps({"content": content})))
    try:
        return _load(folder, names), json.loads(index.read_text())["content"]
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"The prepared data in {folder} are damaged ({error}). Delete that folder and run "
            "again."
        ) from error


def _load(folder: Path, names: list[str]) -> dict[str, Arrays]:
    return {
        part: {n: np.load(folder / f"{part}-{n}.npy", mmap_mode="r") for n in names}
        for part in _PARTS
    }


def _names(modalities: int) -> list[str]:
    return [*(f"m{m}" for m in range(modalities)), "labels"]


def _state(files: Iterable[Path]) -> str:
    """Digest of the names, sizes and times of files too large or too many to be read for it."""
    facts = []
    for file in files:
        status = file.stat()
        facts.append((*file.parts[-3:], status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(sorted(facts)).encode()).hexdigest()


# The published tensors (the Zenodo archive as MVTCAE and MultiVae read it).


def _tensors(folder: Path, modalities: int) -> _Source:
    names = _names(modalities)
    files = [folder / part / f"{name}.pt" for part in _PARTS for name in names]
    if absent := [file for file in files if not file.is_file()]:
        raise DataError(
            f"{absent[0]} is missing beside the other tensors. Unpack the archive again."
        )
    words = f"the published tensors in {folder.name}/"
    return _Source(words, _state(files), lambda part: _read_tensors(folder / part, names))


def _read_tensors(folder: Path, names: list[str]) -> Arrays:
    arrays = {name: _read_tensor(folder / f"{name}.pt", name == "labels") for name in names}
    if len({len(a) for a in arrays.values()}) != 1:
        raise DataError(f"The tensors in {folder} differ in length. Fetch the archive again.")
    return arrays


def _read_tensor(file: Path, is_label: bool) -> np.ndarray:
    try:
        tensor = torch.load(file, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{file} does not load ({reason}). Fetch the archive again.") from error
    if not isinstance(tensor, torch.Tensor):
        raise DataError(f"{file} holds no tensor. Fetch the archive again.")
    if is_label:
        labels = tensor.flatten().long().numpy()
        return _checked(file, labels, np.isin(labels, range(10)), "labels outside 0 to 9")
    if tensor.shape[1:] != (3, SIDE, SIDE):
        raise DataError(f"{file} has the shape {tuple(tensor.shape)}; [N, 3, 28, 28] was expected.")
    if tensor.dtype == torch.uint8:
        return tensor.numpy()
    pixels = tensor.numpy()
    _checked(file, pixels, (pixels >= 0) & (pixels <= 1), "values outside [0, 1]")
    return (pixels * 255).round().astype(np.uint8)


def _checked(file: Path, array: np.ndarray, fine: np.ndarray, otherwise: str) -> np.ndarray:
    if not fine.all():
        raise DataError(f"{file} has {otherwise}. Fetch the archive again.")
    return array


# The published PNG folders: train/m0/<number>.<class>.png, ...


def _folders(folder: Path, modalities: int) -> _Source:
    files = [
        file
        for part in _PARTS
        for m in range(modalities)
        for file in (folder / part / f"m{m}").glob("*.png")
    ]
    words = f"the published folders in {folder.name}/"
    return _Source(words, _state(files), lambda part: _read_folders(folder / part, modalities))


def _read_folders(folder: Path, modalities: int) -> Arrays:
    """Read in sorted order: a directory's own differs between the modalities."""
    names = sorted((p.name for p in (folder / "m0").glob("*.png")), key=_class_and_number)
    if not names:
        raise DataError(f"{folder / 'm0'} holds no PNG files. Unpack the archive again.")
    arrays = {"labels": np.array([_class_and_number(n)[0] for n in names], dtype=np.int64)}
    for m in range(modalities):
        own = {p.name for p in (folder / f"m{m}").glob("*.png")}
        if odd := sorted(own.symmetric_difference(names)):
            raise DataError(
                f"{folder} pairs modalities by file name, and {odd[0]} is in only one of m0/ and "
                f"m{m}/ ({len(odd):,} such files). Unpack the archive again."
            )
        arrays[f"m{m}"] = np.empty((len(names), 3, SIDE, SIDE), np.uint8)
        for i, name in enumerate(names):
            arrays[f"m{m}"][i] = _read_tile(folder / f"m{m}" / name).transpose(2, 0, 1)
    return arrays


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


# Generation by the published recipe.


def _generation(root: Path, modalities: int, seed: int) -> _Source:
    pictures = [_find_picture(root, m) for m in range(modalities)]
    digests = [git_digest(picture) for picture in pictures]
    known = [digest == own for digest, own in zip(digests, _PICTURES.values(), strict=False)]
    other = [p.name for p, same in zip(pictures, known, strict=True) if not same]
    words = f"generated from MNIST and {modalities} pictures, seed {seed}"
    deviation = f"not the published file: {', '.join(other)}" if other else ""
    words += f" ({deviation})" if other else ""
    recipe = json.dumps([PolyMNIST.version, seed, digests, mnist.CHECKSUMS])
    key = hashlib.sha256(recipe.encode()).hexdigest()
    return _Source(words, key, lambda part: _generate(root, part, pictures, seed), deviation)


def _generate(root: Path, part: str, pictures: list[Path], seed: int) -> Arrays:
    rng = np.random.default_rng([seed, _PARTS.index(part)])
    images, labels = mnist.read_part(root, part)
    chosen, tuples = pair([labels] * len(pictures), rng)
    arrays = {
        f"m{m}": compose(images[chosen[m]], _read_background(picture), rng)
        for m, picture in enumerate(pictures)
    }
    return arrays | {"labels": tuples}


def _read_background(file: Path) -> np.ndarray:
    pixels = read_picture(file)
    if min(pixels.shape[:2]) < SIDE:
        raise DataError(f"The picture {file} is smaller than 28x28. Fetch it again.")
    return pixels


def _find_picture(root: Path, number: int) -> Path | None:
    """The background picture of a modality: its name starts with the number."""
    return next(iter(sorted((root / "polymnist_backgrounds").glob(f"{number:02d}*.jpg"))), None)


def _lacking(root: Path, modalities: int) -> list[str]:
    """What generation needs and does not find under the data root."""
    idx = mnist.lacking(root)
    absent = [f"{m:02d}" for m in range(modalities) if not _find_picture(root, m)]
    pictures = [f"polymnist_backgrounds/{{{','.join(absent)}}}*.jpg"] if absent else []
    return idx + pictures


def _missing(root: Path, config: PolyMNIST.Config) -> str:
    last = config.modalities - 1
    looked = {
        "tensors": f"no PolyMNIST/train/m{last}.pt (the published tensors)",
        "folders": f"no PolyMNIST/train/m{last}/ (the published PNG files)",
        "generated": "not all that generation needs (missing: "
        f"{', '.join(_lacking(root, config.modalities))})",
    }
    wanted = looked.values() if config.source == "auto" else [looked[config.source]]
    return (
        f"PolyMNIST was not found: the data root {root} has {', '.join(wanted)}. Run `python "
        "bench.py prepare polymnist` to download it, or set SHALA_DATA or --data-root to where it "
        "is; MNIST's four idx files in mnist/ and the pictures in polymnist_backgrounds/ suffice."
    )


# Downloads.


def _download(root: Path, config: PolyMNIST.Config) -> None:
    """Fetch what is missing: the archive where it has what is asked for, else what makes it."""
    pictures = all(_find_picture(root, m) for m in range(config.modalities))
    archived = config.modalities <= _PUBLISHED and not (config.source == "auto" and pictures)
    if config.source in ("tensors", "folders") or (config.source == "auto" and archived):
        _unpack(download(_ARCHIVE, root), root / "PolyMNIST")
        return
    mnist.fetch(root)
    for m, (name, digest) in enumerate(list(_PICTURES.items())[: config.modalities]):
        if not _find_picture(root, m):
            remote = Remote(
                (f"{_GALLERY}{name}",), f"polymnist_backgrounds/{name}", f"git:{digest}"
            )
            download(remote, root)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the archive into a folder that appears only once it is whole."""
    if folder.exists():
        raise DataError(
            f"{folder} is there and holds not all that is needed. Move it away and run again to "
            f"unpack {archive} in its place."
        )
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as content:
            content.extractall(unfinished)
        unfinished.rename(folder)
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{archive} does not unpack ({error}). Free some room if the disk is full; else delete "
            "the file and run again."
        ) from error
