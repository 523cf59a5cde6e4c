"""CUB (Wah et al. 2011; captions by Reed et al. 2016): photos of birds, ten captions each."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
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
    Split,
    register_dataset,
    setting,
)
from shalabench.datasets.sources.captions import (
    describe_pair,
    encode,
    learn_vocabulary,
    read_captions,
)
from shalabench.datasets.sources.composing import cut_validation
from shalabench.datasets.sources.download import Remote, download
from shalabench.datasets.sources.files import (
    as_data_error,
    digest_of,
    read_cached,
    read_lines,
    same_content,
    stamp,
    write_cached,
)
from shalabench.datasets.sources.readers import read_picture, unpack

SIDE = 64
LENGTH = 32  # tokens a caption, with its end
_CAPTIONS = 10  # of every photo
_SPECIES = "testclasses.txt"  # Reed's list
_ALL = 11_788  # photos
_BY_SPECIES, _BY_PHOTO = "test photos of other species", "CUB's own split by photo"
_TESTS = {_BY_SPECIES: 2_933, _BY_PHOTO: 5_794}  # photos, of Reed's 50 species and of CUB's list
_MMVAE = "MMVAE code (reproduction/mmvae.md)"
_FOLDERS = ("", "cub", "cub_mini", "CUB", "birds", "bird")  # below the data root
_PHOTOS = "CUB_200_2011"
_TEXTS = ("text_c10", "cvpr2016_cub/text_c10", "text")  # Reed's archive; AttnGAN's
_ARCHIVE = Remote(
    ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
    "cub/CUB_200_2011.tgz",
    "md5:97eceeb196236b17998738112f37df78",
)


_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Photo:
    """One photo of the published lists.

    Attributes:
        number: Its id.
        name: Its path below images/.
        species: Name of its folder.
        official: "train" or "test", as CUB's own split has it.
        box: Left, top, width and height of the bird, in pixels; None where the crop needs none.
    """

    number: int
    name: str
    species: str
    official: str
    box: _Box | None


@register_dataset("cub", version=1, paper="Wah et al. 2011; Reed, Akata, Lee, Schiele (CVPR 2016)")
class CUB(Dataset):
    """A photo of a bird and one of its ten captions.

    11,788 photos of 200 species; with all captions 117,880 tuples. Modalities: "image"
    `[3, 64, 64]` in [0, 1]; "caption", 32 tokens. No classes. `prepare` downloads the photos
    (1.1 GB); the captions must be saved by hand. Resizing the photos takes minutes, once.

    A tuple is a photo and one of its captions, so a photo is in as many tuples as it has captions
    in use. The number of photos is the effective sample size (`DataSpec.distinct`), and all
    captions of a photo are in one split.
    """

    class Config(DataSettings):
        """Captions used, split, crop and vocabulary."""

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
        folders = _find(paths.data)
        if folders is None and download:
            _fetch(paths.data)
            folders = _find(paths.data)
        if folders is None:
            raise DataError(_missing(paths.data))
        photos, texts = folders
        listed = _read_lists(photos, boxes=self.config.crop == "box")
        parts, rule, unmatched = self._part(listed, texts.parent)
        words = {
            p.number: read_captions((texts / p.name).with_suffix(".txt"), _CAPTIONS) for p in listed
        }
        used = self.config.captions
        vocabulary = learn_vocabulary(
            (caption for p in parts["train"] for caption in words[p.number][:used]),
            self.config.occurrences,
        )
        pixels = _cached(paths.cache, photos, listed, self.config.crop)
        row = {p.number: i for i, p in enumerate(listed)}
        splits = {}
        for name, own in parts.items():
            captions = [caption for p in own for caption in words[p.number][:used]]
            splits[name] = Split(
                {
                    "image": torch.from_numpy(pixels[[row[p.number] for p in own]]),
                    "caption": torch.from_numpy(encode(captions, vocabulary, LENGTH)),
                },
                rows={"image": torch.arange(len(own)).repeat_interleave(used)},
            )
        species = len({p.species for p in listed})
        numbers = _compare_published(len(listed), len(parts["test"]), rule)
        self.set_splits(
            splits,
            modalities=describe_pair(SIDE, LENGTH, vocabulary),
            classes=0,
            fingerprint=_digest(splits, vocabulary),
            source=f"{len(listed):,} photos of {species} species, {rule}; {used} captions a "
            f"photo, each a tuple, so the effective sample is {len(parts['test']):,} test photos; "
            f"{len(vocabulary):,} tokens",
            deviation="; ".join(filter(None, (numbers, unmatched))),
            distinct={name: len(own) for name, own in parts.items()},
        )

    def _part(self, photos: list[_Photo], texts: Path) -> tuple[dict[str, list[_Photo]], str, str]:
        """The photos of each split, the rule, and which names of it match no species.

        Validation is cut from the training photos.
        """
        unseen, lists = self._unseen(photos, texts)
        unmatched = _unmatched(unseen, {p.species for p in photos}) if lists else ""
        test = [p for p in photos if (p.species in unseen if lists else p.official == "test")]
        training = [p for p in photos if p not in set(test)]
        if len(training) < 2 or not test:
            raise DataError(
                f"The split leaves {len(training):,} photos for training and {len(test):,} for the "
                f"test, and both are needed{f' ({unmatched})' if unmatched else ''}. Use --set "
                "data.split=photos, or fetch all photos."
            )
        held = max(1, round(self.config.validation * len(training)))
        kept, cut = cut_validation(len(training), held, self.config.seed)
        parts = {
            "train": [training[i] for i in kept],
            "validation": [training[i] for i in cut],
            "test": test,
        }
        return parts, _BY_SPECIES if lists else _BY_PHOTO, unmatched

    def _unseen(self, photos: list[_Photo], texts: Path) -> tuple[set[str], bool]:
        """Reed's test species, and whether they decide the split."""
        file = texts / _SPECIES
        if self.config.split == "photos" or (self.config.split == "auto" and not file.is_file()):
            return set(), False
        unseen = set(read_lines(file))
        if self.config.split == "auto" and all(p.species in unseen for p in photos):
            return set(), False  # a part of CUB that has no training species
        return unseen, True


def _compare_published(photos: int, tests: int, rule: str) -> str:
    """How numbers of photos differ from the published ones; empty where they do not."""
    if photos != _ALL:
        return f"{photos:,} of the {_ALL:,} photos"
    return "" if tests == _TESTS[rule] else f"{tests:,} test photos, and {_TESTS[rule]:,} published"


def _unmatched(names: set[str], species: set[str]) -> str:
    """Names of a list that are of no species that is there, since the list decides the split."""
    lone = sorted(names - species)
    if not lone:
        return ""
    near = difflib.get_close_matches(lone[0], species, n=1)
    nearest = f" (nearest: '{near[0]}')" if near else ""
    return (
        f"{len(lone)} of {len(names)} names of {_SPECIES} match no species here, such as "
        f"'{lone[0]}'{nearest}"
    )


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
    """Fetch the photos; unpack the archive of captions where the user has saved it."""
    folder = root / "cub"
    if not (folder / _PHOTOS).exists():
        unpack(download(_ARCHIVE, root), folder / _PHOTOS)
    captions = folder / "cvpr2016_cub.tar.gz"
    if captions.is_file():
        unpack(captions, folder / "cvpr2016_cub")


# The published lists: one photo a line, its id first.


def _read_lists(folder: Path, boxes: bool) -> list[_Photo]:
    names = _table(folder / "images.txt", 1)
    flags = _table(folder / "train_test_split.txt", 1)
    sides = _table(folder / "bounding_boxes.txt", 4) if boxes else {}
    photos = []
    for number, (name,) in names.items():
        if number not in flags or (boxes and number not in sides):
            both = " and bounding_boxes.txt" if boxes else ""
            raise DataError(
                f"Photo {number} ({name}) is in images.txt and not in train_test_split.txt{both} "
                f"of {folder}. Restore the lists from the archive."
            )
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{folder / 'images.txt'}: '{name}' leads out of the folder.")
        if flags[number][0] not in ("0", "1"):
            raise DataError(
                f"{folder / 'train_test_split.txt'}: photo {number} has '{flags[number][0]}'; 1 "
                "(training) or 0 (test) was expected. Restore the file from the archive."
            )
        official = "train" if flags[number] == ["1"] else "test"
        box = _box(folder / "bounding_boxes.txt", number, sides[number]) if boxes else None
        photos.append(_Photo(number, name, Path(name).parts[0], official, box))
    if not photos:
        raise DataError(f"{folder / 'images.txt'} lists no photo. Restore it from the archive.")
    return photos


def _box(file: Path, number: int, values: list[str]) -> _Box:
    problem = f"{file}: the box of photo {number} is not four numbers"
    with as_data_error(problem, "Restore the file from the archive."):
        left, top, width, height = map(float, values)
        if not all(map(math.isfinite, (left, top, width, height))):
            raise ValueError("they are not finite")
    return left, top, width, height


def _table(file: Path, columns: int) -> dict[int, list[str]]:
    """Ids and the columns after them."""
    rows = {}
    for number, line in enumerate(read_lines(file), start=1):
        first, *rest = line.split()
        if not first.isdecimal() or len(rest) != columns:
            raise DataError(
                f"{file}, line {number}: '{line}' is not a photo's id and {columns} more columns. "
                "Restore the file from the archive."
            )
        if int(first) in rows:
            raise DataError(
                f"{file}, line {number}: the photo {first} is listed twice. Restore the file from "
                "the archive."
            )
        rows[int(first)] = rest
    return rows


# The photos: resized once, then read from the cache.


def _cached(cache: Path, folder: Path, photos: list[_Photo], crop: str) -> np.ndarray:
    """uint8 `[N, 3, 64, 64]`, mapped from a file."""
    facts = []
    for photo in photos:
        file = folder / "images" / photo.name
        if not file.is_file():
            raise DataError(
                f"The photo {file} is missing, and images.txt names it. Unpack the archive again."
            )
        facts.append((photo.name, photo.box, *stamp(file)))
    key = hashlib.sha256(json.dumps([CUB.version, crop, facts]).encode()).hexdigest()
    file = cache / f"cub-{key[:16]}.npy"
    if not file.exists():
        pixels = np.stack([_read(folder / "images" / p.name, p.box) for p in photos])
        write_cached(file, partial(np.save, arr=pixels))
        file.with_suffix(".sha256").unlink(missing_ok=True)
    return read_cached(file, _open)


def _open(file: Path) -> np.ndarray:
    """Pixels of the cache; their digest lies beside them from the first use on."""
    pixels: np.ndarray = np.load(file, mmap_mode="r")
    beside = file.with_suffix(".sha256")
    if beside.exists():
        same_content([pixels], beside.read_text().strip())
    else:
        text = digest_of([pixels]).encode()
        with contextlib.suppress(DataError):  # the cache may be another's
            write_cached(beside, lambda out: out.write(text))
    return pixels


def _read(file: Path, box: _Box | None) -> np.ndarray:
    """A photo resized to uint8 `[3, 64, 64]` by antialiased bilinear interpolation."""
    picture = Image.fromarray(read_picture(file))
    if box is not None:
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
