"""PolyMNIST (Sutter et al. 2021): the same digit, in five hands, on five photographs.

The published tensors and the published PNG folders are read where they lie; else the set is made
by the published recipe from MNIST and the background pictures, with a fixed seed.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from data.sources.composing import compose, cut_validation, pair
from data.sources.download import Remote, download
from data.sources.files import digest_of, write_whole
from data.sources.idx import find_idx, read_idx, unpack
from data.sources.pictures import read_picture
from harness.api import (
    DataError,
    Dataset,
    DataSpec,
    Modality,
    Places,
    Settings,
    Split,
    register_dataset,
    setting,
)

SIDE = 28
_PUBLISHED = 5  # modalities of the published set; pictures for five more exist
_PARTS = {"train": "train", "test": "t10k"}  # as MNIST's file names call them
_ARCHIVE = Remote("https://zenodo.org/record/4899160/files/PolyMNIST.zip", "PolyMNIST.zip")
_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
# MD5 of the unpacked files: the gzip wrappers of mirrors differ.
_MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

Arrays = dict[str, np.ndarray]
"""`m0`, `m1`, ... uint8 `[N, 3, 28, 28]` and `labels` int64 `[N]` of one part."""


@register_dataset("polymnist", version=1, paper="Sutter, Daunhawer, Vogt: MoPoE-VAE (ICLR 2021)")
class PolyMNIST(Dataset):
    """60,000 training and 10,000 test tuples of MNIST digits on crops of photographs."""

    class Config(Settings):
        """Which modalities, from where."""

        modalities: int = setting(5, "Number of modalities.", "published: 5; 10 exist", ge=1, le=10)
        validation: int = setting(
            5_000, "Tuples held out of the training data.", "our choice: none is published", ge=100
        )
        source: Literal["auto", "tensors", "folders", "generated"] = setting(
            "auto", "Where to take it from; auto takes the first of these that is found.", "ours"
        )
        seed: int = setting(0, "Seed of generation and of the validation cut.", "our choice")

    def prepare(self, places: Places, *, download: bool = False) -> None:
        found = self._find(places.data)
        if found is None and download:
            _download(places.data, self.config)
            found = self._find(places.data)
        if found is None:
            raise DataError(
                f"PolyMNIST needs, under the data root {places.data}, either its published folder "
                "PolyMNIST/ (m0.pt ... or m0/*.png, in train/ and test/), or mnist/ with the four "
                f"idx files and polymnist_backgrounds/ with {self.config.modalities} pictures. Set "
                "SHALA_DATA or --data-root to where they are, or run `python bench.py prepare "
                "polymnist` to download them."
            )
        kind, folder = found
        if kind == "generated":
            parts, self._source, self._fingerprint = self._generated(folder, places.cache)
        else:
            read = _read_tensors if kind == "tensors" else _read_folders
            parts = {part: read(folder / part, self.config.modalities) for part in _PARTS}
            self._source = f"the published {kind} in {folder.name}/"
            self._fingerprint = _fingerprint(parts)
        self._cut(parts)

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            name=self.name,
            version=self.version,
            modalities=tuple(
                Modality(f"m{m}", "image", (3, SIDE, SIDE), "laplace", 0.75)
                for m in range(self.config.modalities)
            ),
            classes=10,
            sizes={name: len(split) for name, split in self._splits.items()},
            fingerprint=self._fingerprint,
            source=self._source,
        )

    def split(self, name: str) -> Split:
        return self._splits[name]

    def _find(self, root: Path) -> tuple[str, Path] | None:
        wanted, last = self.config.source, self.config.modalities - 1
        for folder in (root / "PolyMNIST", root / "MMNIST", root / "PolyMNIST" / "MMNIST"):
            if wanted in ("auto", "tensors") and (folder / "train" / f"m{last}.pt").is_file():
                return "tensors", folder
            if wanted in ("auto", "folders") and (folder / "train" / f"m{last}").is_dir():
                return "folders", folder
        complete = all(find_idx(root / "mnist", stem) for stem in _MNIST)
        enough = len(_backgrounds(root)) > last
        if wanted in ("auto", "generated") and complete and enough:
            return "generated", root
        return None

    def _generated(self, root: Path, cache: Path) -> tuple[dict[str, Arrays], str, str]:
        pictures = _backgrounds(root)[: self.config.modalities]
        recipe = f"{self.version} {self.config.seed} {len(pictures)}".encode()
        content = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in pictures)
        key = hashlib.sha256(recipe + content).hexdigest()[:16]
        folder = cache / f"polymnist-{key}"
        names = [*(f"m{m}" for m in range(len(pictures))), "labels"]
        if not (folder / "done.json").exists():
            for number, (part, prefix) in enumerate(_PARTS.items()):
                rng = np.random.default_rng([self.config.seed, number])
                arrays = _generate(root / "mnist", prefix, pictures, rng)
                for name in names:
                    write_whole(folder / f"{part}-{name}.npy", _saver(arrays[name]))
            parts = _load(folder, names)
            done = json.dumps({"fingerprint": _fingerprint(parts)})
            write_whole(folder / "done.json", lambda file: _write_text(file, done))
        fingerprint = json.loads((folder / "done.json").read_text())["fingerprint"]
        source = f"generated from MNIST and {len(pictures)} pictures, seed {self.config.seed}"
        return _load(folder, names), source, fingerprint

    def _cut(self, parts: dict[str, Arrays]) -> None:
        total = len(parts["train"]["labels"])
        if self.config.validation >= total:
            raise DataError(
                f"data.validation is {self.config.validation:,} and there are {total:,} training "
                "tuples. Hold out fewer."
            )
        kept, held = cut_validation(total, self.config.validation, self.config.seed)
        self._splits = {
            "train": _split(parts["train"], kept),
            "validation": _split(parts["train"], held),
            "test": _split(parts["test"], slice(None)),
        }


def _backgrounds(root: Path) -> list[Path]:
    """The background pictures in the order of their leading numbers."""
    folder = root / "polymnist_backgrounds"
    return sorted(folder.glob("[0-9][0-9]*.jpg")) if folder.is_dir() else []


def _split(arrays: Arrays, index: np.ndarray | slice) -> Split:
    images = {n: torch.from_numpy(a[index]) for n, a in arrays.items() if n != "labels"}
    return Split(images, torch.from_numpy(arrays["labels"][index]))


def _fingerprint(parts: dict[str, Arrays]) -> str:
    return digest_of(parts[part][name] for part in sorted(parts) for name in sorted(parts[part]))


def _saver(array: np.ndarray):
    def save(file: Path) -> None:
        with file.open("wb") as out:
            np.save(out, array)

    return save


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _load(folder: Path, names: list[str]) -> dict[str, Arrays]:
    return {part: {n: np.load(folder / f"{part}-{n}.npy") for n in names} for part in _PARTS}


def _generate(mnist: Path, prefix: str, pictures: list[Path], rng: np.random.Generator) -> Arrays:
    images = _read_mnist(mnist, f"{prefix}-images-idx3-ubyte")
    labels = _read_mnist(mnist, f"{prefix}-labels-idx1-ubyte")
    if len(images) != len(labels):
        raise DataError(
            f"{mnist} has {len(images):,} {prefix} images and {len(labels):,} labels. Fetch both "
            "files again."
        )
    chosen, tuples = pair([labels] * len(pictures), rng)
    arrays = {
        f"m{m}": compose(images[chosen[m]], read_picture(picture), rng)
        for m, picture in enumerate(pictures)
    }
    return arrays | {"labels": tuples}


def _read_mnist(folder: Path, stem: str) -> np.ndarray:
    return read_idx(find_idx(folder, stem))


def _read_tensors(folder: Path, modalities: int) -> Arrays:
    arrays = {}
    for name in [*(f"m{m}" for m in range(modalities)), "labels"]:
        file = folder / f"{name}.pt"
        try:
            tensor = torch.load(file, weights_only=True)
        except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError) as error:
            raise DataError(f"{file} does not load ({error}). Fetch the archive again.") from error
        arrays[name] = _checked(file, tensor, name == "labels")
    if len({len(a) for a in arrays.values()}) != 1:
        raise DataError(f"The tensors in {folder} differ in length. Fetch the archive again.")
    return arrays


def _checked(file: Path, tensor: torch.Tensor, is_label: bool) -> np.ndarray:
    if is_label:
        return tensor.long().flatten().numpy()
    if tensor.shape[1:] != (3, SIDE, SIDE):
        raise DataError(f"{file} has the shape {tuple(tensor.shape)}; [N, 3, 28, 28] was expected.")
    if tensor.is_floating_point():
        if tensor.min() < 0 or tensor.max() > 1:
            raise DataError(f"{file} has values outside [0, 1]. Fetch the archive again.")
        tensor = (tensor * 255).round().to(torch.uint8)
    return tensor.numpy()


def _read_folders(folder: Path, modalities: int) -> Arrays:
    """Read `m0/<i>.<class>.png`, ... in sorted order: a directory's own differs between them."""
    names = sorted((p.name for p in (folder / "m0").glob("*.png")), key=_number)
    arrays = {}
    for m in range(modalities):
        own = {p.name for p in (folder / f"m{m}").glob("*.png")}
        if odd := sorted(own.symmetric_difference(names)):
            raise DataError(
                f"{folder} pairs modalities by file name, and {odd[0]} is in only one of m0/ and "
                f"m{m}/ ({len(odd):,} such files). Unpack the archive again."
            )
        arrays[f"m{m}"] = np.stack([read_picture(folder / f"m{m}" / n) for n in names]).transpose(
            0, 3, 1, 2
        )
    return arrays | {"labels": np.array([_number(n)[0] for n in names], dtype=np.int64)}


def _number(name: str) -> tuple[int, int]:
    """(class, number) of a file name "<number>.<class>.png"."""
    match = re.fullmatch(r"(\d+)\.(\d)\.png", name)
    if not match:
        raise DataError(f"'{name}' is no PolyMNIST file name; '<number>.<class>.png' was expected.")
    return int(match[2]), int(match[1])


def _download(root: Path, config: PolyMNIST.Config) -> None:
    if config.source == "generated":
        for stem, checksum in _MNIST.items():
            file = download(Remote(f"{_MIRROR}{stem}.gz", f"mnist/{stem}.gz"), root)
            _verify(file, checksum)
        return
    archive = download(_ARCHIVE, root)
    try:
        with zipfile.ZipFile(archive) as content:
            content.extractall(root / "PolyMNIST")
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive} does not unpack ({error}). Delete it and run again.") from error


def _verify(file: Path, checksum: str) -> None:
    found = hashlib.md5(unpack(file), usedforsecurity=False).hexdigest()
    if found != checksum:
        raise DataError(
            f"{file} unpacks to content with the md5 {found}; MNIST's is {checksum}. Delete it and "
            "fetch it again."
        )
