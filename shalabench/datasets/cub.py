"""CUB (Wah et al. 2011; captions by Reed et al. 2016): photos of birds, ten captions each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from shalabench.api import (
    DataError,
    DataPaths,
    Dataset,
    DataSettings,
    DataSpec,
    Split,
    register_dataset,
    setting,
)
from shalabench.datasets.sources.archives import unpack_tar
from shalabench.datasets.sources.captions import (
    describe_pair,
    encode,
    learn_vocabulary,
    read_captions,
)
from shalabench.datasets.sources.composing import cut_validation
from shalabench.datasets.sources.download import Remote, download
from shalabench.datasets.sources.files import digest_of, write_whole
from shalabench.datasets.sources.pictures import read_picture

SIDE = 64
LENGTH = 32  # tokens a caption, with its end
_CAPTIONS = 10  # of every photo
_ALL = 11_788  # photos
_MMVAE = "MMVAE code (reproduction/mmvae.md)"
_FOLDERS = ("", "cub", "cub_mini", "CUB")  # below the data root
_PHOTOS = "CUB_200_2011"
_TEXTS = ("text_c10", "cvpr2016_cub/text_c10")
_ARCHIVE = Remote(
    ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
    "cub/CUB_200_2011.tgz",
    "md5:97eceeb196236b17998738112f37df78",
)


@dataclass(frozen=True)
class _Photo:
    """One photo of the published lists.

    Attributes:
        number: Its id.
        name: Its path below images/.
        species: Name of its folder.
        official: "train" or "test", as CUB's own split has it.
        box: Left, top, width and height of the bird, in pixels.
    """

    number: int
    name: str
    species: str
    official: str
    box: tuple[float, float, float, float]


@register_dataset("cub", version=1, paper="Wah et al. 2011; Reed, Akata, Lee, Schiele (CVPR 2016)")
class CUB(Dataset):
    """A photo of 64 x 64 pixels and one of its captions, of 32 tokens.

    A tuple is a photo and one of its captions, so that a photo is in as many tuples as it has
    captions in use; the photos behind a split's tuples are its effective sample size
    (`DataSpec.distinct`), and all captions of a photo are in one split.
    """

    class Config(DataSettings):
        """What is read, and how it is split and cropped."""

        captions: int = setting(
            _CAPTIONS, "Captions of each photo that make tuples.", f"{_MMVAE}: all", ge=1, le=10
        )
        split: Literal["auto", "species", "photos"] = setting(
            "auto",
            "What test photos differ in: species (Reed's lists), photos alone (CUB's own list); "
            "auto takes the species where Reed's lists are there.",
            "MMVAE and MMVAE+ code: species",
        )
        crop: Literal["none", "box"] = setting(
            "none",
            "What is stretched to 64 x 64: the whole photo, or the box around the bird.",
            "MMVAE code: the whole photo",
        )
        validation: float = setting(
            0.05,
            "Part of the training photos held out.",
            "our choice: none is published",
            gt=0,
            lt=0.5,
        )
        occurrences: int = setting(
            4,
            "Times that a word must occur in training captions to be in the vocabulary.",
            "MMVAE code: more than 3",
            ge=1,
        )
        seed: int = setting(0, "Seed of the validation cut.", "our choice", ge=0)

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        found = _find(paths.data)
        if found is None and download:
            _fetch(paths.data)
            found = _find(paths.data)
        if found is None:
            raise DataError(_missing(paths.data))
        photos, texts = found
        listed = _read_lists(photos)
        parts = self._part(listed, texts.parent)
        words = {p.number: read_captions(_caption_file(texts, p), _CAPTIONS) for p in listed}
        used = self.config.captions
        self._vocabulary = learn_vocabulary(
            (caption for p in parts["train"] for caption in words[p.number][:used]),
            self.config.occurrences,
        )
        pixels = _cached(paths.cache, photos, listed, self.config.crop)
        place = {p.number: i for i, p in enumerate(listed)}
        self._splits = {}
        for name, own in parts.items():
            captions = [caption for p in own for caption in words[p.number][:used]]
            self._splits[name] = Split(
                {
                    "image": torch.from_numpy(pixels[[place[p.number] for p in own]]),
                    "caption": torch.from_numpy(encode(captions, self._vocabulary, LENGTH)),
                },
                rows={"image": torch.arange(len(own)).repeat_interleave(used)},
            )
        self._distinct = {name: len(own) for name, own in parts.items()}
        self._departs = f"{len(listed):,} of the {_ALL:,} photos" if len(listed) < _ALL else ""
        species = len({p.species for p in listed})
        self._source = (
            f"{len(listed):,} photos of {species} species, {self._rule}; {used} captions a photo, "
            f"each a tuple, so the effective sample is {self._distinct['test']:,} test photos; "
            f"{len(self._vocabulary):,} tokens"
        )
        self._fingerprint = _digest(self._splits, self._vocabulary)

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            name=self.name,
            version=self.version,
            modalities=describe_pair(SIDE, LENGTH, self._vocabulary),
            classes=0,
            sizes={name: len(split) for name, split in self._splits.items()},
            fingerprint=self._fingerprint,
            source=self._source,
            deviation=self._departs,
            distinct=self._distinct,
        )

    def split(self, name: str) -> Split:
        return self._splits[name]

    def _part(self, photos: list[_Photo], texts: Path) -> dict[str, list[_Photo]]:
        """The photos of each split; validation is cut from training, photo by photo."""
        unseen, lists = self._unseen(photos, texts)
        self._rule = "test photos of other species" if lists else "CUB's own split by photo"
        test = [p for p in photos if (p.species in unseen if lists else p.official == "test")]
        training = [p for p in photos if p not in set(test)]
        if len(training) < 2 or not test:
            raise DataError(
                f"The split leaves {len(training):,} photos for training and {len(test):,} for the "
                "test, and both are needed. Use --set data.split=photos, or fetch all photos."
            )
        held = max(1, round(self.config.validation * len(training)))
        kept, cut = cut_validation(len(training), held, self.config.seed)
        return {
            "train": [training[i] for i in kept],
            "validation": [training[i] for i in cut],
            "test": test,
        }

    def _unseen(self, photos: list[_Photo], texts: Path) -> tuple[set[str], bool]:
        """Reed's test species, and whether the split goes by them."""
        file = texts / "testclasses.txt"
        if self.config.split == "photos" or (self.config.split == "auto" and not file.is_file()):
            return set(), False
        unseen = set(_lines(file))
        if self.config.split == "auto" and all(p.species in unseen for p in photos):
            return set(), False  # a part of CUB that has no training species
        return unseen, True


def _find(root: Path) -> tuple[Path, Path] | None:
    """Folder of the photos and folder of the captions, or None where either is missing."""
    for base in (root / name for name in _FOLDERS):
        photos = base / _PHOTOS
        photos = photos / _PHOTOS if (photos / _PHOTOS).is_dir() else photos
        texts = next((base / name for name in _TEXTS if (base / name).is_dir()), None)
        if (photos / "images.txt").is_file() and texts is not None:
            return photos, texts
    return None


def _missing(root: Path) -> str:
    return (
        f"CUB is not in {root}: {_PHOTOS}/ with images.txt and images/, and {_TEXTS[0]}/ with ten "
        f"captions a photo were expected there or in {root / 'cub'}. `python bench.py prepare cub` "
        "fetches the photos; the captions (Reed et al. 2016, cvpr2016_cub.tar.gz, linked from "
        "github.com/reedscot/cvpr2016) must be saved there by hand."
    )


def _fetch(root: Path) -> None:
    """Fetch the photos, and unpack what archives lie there; the captions have no plain address."""
    folder = root / "cub"
    if not (folder / _PHOTOS).exists():
        unpack_tar(download(_ARCHIVE, root), folder / _PHOTOS)
    captions = folder / "cvpr2016_cub.tar.gz"
    if captions.is_file():
        unpack_tar(captions, folder / "cvpr2016_cub")


# The published lists: one photo a line, its id first.


def _read_lists(folder: Path) -> list[_Photo]:
    names = _table(folder / "images.txt", 1)
    flags = _table(folder / "train_test_split.txt", 1)
    boxes = _table(folder / "bounding_boxes.txt", 4)
    photos = []
    for number, (name,) in names.items():
        if number not in flags or number not in boxes:
            raise DataError(
                f"Photo {number} ({name}) is in images.txt and not in train_test_split.txt and "
                f"bounding_boxes.txt of {folder}. Restore the lists from the archive."
            )
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{folder / 'images.txt'}: '{name}' leads out of the folder.")
        official = "train" if flags[number] == ["1"] else "test"
        try:
            box = tuple(float(value) for value in boxes[number])
        except ValueError as error:
            raise DataError(
                f"{folder / 'bounding_boxes.txt'}: {error} (photo {number})."
            ) from error
        photos.append(_Photo(number, name, Path(name).parts[0], official, box))
    if not photos:
        raise DataError(f"{folder / 'images.txt'} lists no photo. Restore it from the archive.")
    return photos


def _table(file: Path, columns: int) -> dict[int, list[str]]:
    """Ids and the columns after them."""
    rows = {}
    for number, line in enumerate(_lines(file), start=1):
        first, *rest = line.split()
        if not first.isdigit() or len(rest) != columns:
            raise DataError(
                f"{file}, line {number}: '{line}' was found; a photo's id and {columns} more "
                "columns were expected. Restore the file from the archive."
            )
        rows[int(first)] = rest
    return rows


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}). Restore it from the archive.") from error
    return [line for line in text.splitlines() if line.strip()]


def _caption_file(texts: Path, photo: _Photo) -> Path:
    return (texts / photo.name).with_suffix(".txt")


# The photos: read once, and from then on from the cache.


def _cached(cache: Path, folder: Path, photos: Iterable[_Photo], crop: str) -> np.ndarray:
    """uint8 `[N, 3, 64, 64]`, mapped from a file."""
    photos = list(photos)
    facts = []
    for photo in photos:
        file = folder / "images" / photo.name
        if not file.is_file():
            raise DataError(
                f"The photo {file} is missing, and images.txt names it. Unpack the archive again."
            )
        status = file.stat()
        facts.append((photo.name, photo.box, status.st_size, status.st_mtime_ns))
    key = hashlib.sha256(json.dumps([CUB.version, crop, facts]).encode()).hexdigest()
    file = cache / f"cub-{key[:16]}.npy"
    if not file.exists():
        pixels = np.stack([_read(folder / "images" / p.name, p.box, crop) for p in photos])
        write_whole(file, partial(_save, pixels))
    try:
        return np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged ({error}). Delete it and run again.") from error


def _save(pixels: np.ndarray, file: Path) -> None:
    with file.open("wb") as out:
        np.save(out, pixels)


def _read(file: Path, box: tuple[float, float, float, float], crop: str) -> np.ndarray:
    """A photo resized to uint8 `[3, 64, 64]` by antialiased bilinear interpolation."""
    picture = Image.fromarray(read_picture(file))
    if crop == "box":
        left, top, width, height = (round(side) for side in box)
        right, bottom = min(left + width, picture.width), min(top + height, picture.height)
        area = max(left, 0), max(top, 0), right, bottom
        if area[0] >= right or area[1] >= bottom:
            raise DataError(
                f"The box {box} of bounding_boxes.txt does not lie in {file}. Restore both from "
                "the archive, or use --set data.crop=none."
            )
        picture = picture.crop(area)
    small = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1)


def _digest(splits: dict[str, Split], vocabulary: tuple[str, ...]) -> str:
    arrays = [
        own[key].numpy()
        for split in splits.values()
        for own in (split.tensors, split.rows)
        for key in sorted(own)
    ]
    return hashlib.sha256(f"{digest_of(arrays)} {' '.join(vocabulary)}".encode()).hexdigest()
