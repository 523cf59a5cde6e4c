"""Damaged archives, caches and pictures: a sentence with the file, whatever a library raises."""

from __future__ import annotations

import lzma
import re
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from shalabench.api import DataError
from shalabench.datasets.sources import readers
from shalabench.datasets.sources.files import NOTE, as_data_error, generate_once, same_content
from shalabench.datasets.sources.readers import read_picture, unpack

DIRECTORY = b"PK\1\2"  # begins a file's entry at the end of a zip


def change(content: bytes, place: int, value: int) -> bytes:
    """Set a byte of every entry in a zip's directory."""
    raw = bytearray(content)
    for entry in re.finditer(re.escape(DIRECTORY), content):
        raw[entry.start() + place] = value
    return bytes(raw)


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


DAMAGE = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "flipped": flip,
    "no zip": lambda content: b"no archive",
    "encrypted": lambda content: change(content, 8, 1),
    "unknown compression": lambda content: change(content, 10, 77),
}


def make():
    return {
        split: {"x": np.full((50, 30), i, np.uint8), f"{NOTE}y": np.arange(i + 1)}
        for i, split in enumerate(("train", "validation", "test"))
    }


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_cache_says_what_to_delete(tmp_path, kind):
    file = tmp_path / "drawn-0.npz"
    first = generate_once(file, make)
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[kind](whole))
    with pytest.raises(DataError, match=rf"Delete {re.escape(str(file))} and run again"):
        generate_once(file, make)
    file.unlink()
    assert generate_once(file, make)[1] == first[1]


def test_notes_on_how_data_were_read_change_no_digest(tmp_path):
    noted = generate_once(tmp_path / "a.npz", make)
    plain = {split: {"x": own["x"]} for split, own in make().items()}
    assert generate_once(tmp_path / "b.npz", lambda: plain)[1] == noted[1]
    assert noted[0]["test"][f"{NOTE}y"].tolist() == [0, 1, 2]


def test_other_content_than_was_written_is_noticed():
    with pytest.raises(ValueError, match="SHA-256"):
        same_content([np.zeros(3)], "b" * 64)


@pytest.mark.parametrize(
    "error",
    [
        lzma.LZMAError("corrupt"),
        struct.error("unpack requires 4 bytes"),
        Image.DecompressionBombError("too many pixels"),
        MemoryError(),
        NotImplementedError("compression 77"),
        AttributeError("no header"),
        OverflowError("too large"),
    ],
)
def test_every_kind_of_error_becomes_a_sentence(error):
    says = r"^x does not open \(.+\)\. Delete it\.$"
    with pytest.raises(DataError, match=says), as_data_error("x does not open", "Delete it."):
        raise error


def test_an_interrupt_is_none():
    with pytest.raises(KeyboardInterrupt), as_data_error("x", "y"):
        raise KeyboardInterrupt


def test_a_huge_picture_is_refused_by_name(tmp_path, monkeypatch):
    Image.new("RGB", (30, 30)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # Pillow refuses twice as many
    with pytest.raises(DataError, match=r"large\.png does not open .*900 pixels"):
        read_picture(tmp_path / "large.png")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_greys_of_more_than_eight_bits_are_refused_and_not_clipped(tmp_path, dtype):
    file = tmp_path / "deep.tif"
    Image.fromarray(np.full((4, 4), 1000, dtype)).save(file)
    with pytest.raises(DataError, match=r"deep\.tif has greys of more than 8 bits"):
        read_picture(file, "L")


def archive_of(folder, name):
    (folder / "in").mkdir()
    (folder / "in" / "a.txt").write_bytes(np.random.default_rng(0).bytes(3000))
    file = folder / name
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
            out.write(folder / "in" / "a.txt", "a.txt")
    else:
        with tarfile.open(file, "w:xz" if file.suffix == ".xz" else "w:gz") as out:
            out.add(folder / "in" / "a.txt", "a.txt")
    return file


@pytest.mark.parametrize(
    ("name", "kind"),
    [("x.zip", kind) for kind in DAMAGE]
    + [
        (f"x.tar.{form}", k)
        for form in ("gz", "xz")
        for k in ("empty", "half", "no zip", "flipped")
    ],
)
def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path, name, kind):
    archive = archive_of(tmp_path, name)
    archive.write_bytes(DAMAGE[kind](archive.read_bytes()))
    with pytest.raises(DataError, match=rf"{name} does not unpack"):
        unpack(archive, tmp_path / "out")
    assert {file.name for file in tmp_path.iterdir()} == {"in", name}


def test_an_archive_is_unpacked_once_by_whoever_comes_first(tmp_path, monkeypatch):
    archive, calls = archive_of(tmp_path, "x.zip"), []
    work = readers._unpack
    monkeypatch.setattr(readers, "_unpack", lambda *args: (calls.append(args), work(*args)))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: unpack(archive, tmp_path / "sub" / "out"), range(6)))
    assert len(calls) == 1
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["out"]
    assert (tmp_path / "sub" / "out" / "a.txt").stat().st_size == 3000
