"""The idx reader against files written byte by byte."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from shalabench.api import DataError
from shalabench.datasets.sources.mnist import find_idx, read_idx

pytestmark = pytest.mark.float64

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
RAW = struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 4) + bytes(range(24))
LABELS = struct.pack(">4BI", 0, 0, 8, 1, 5) + bytes([7, 2, 1, 0, 4])


def written(folder: Path, content: bytes, name: str = "train-images-idx3-ubyte") -> Path:
    file = folder / name
    file.write_bytes(content)
    return file


def test_images_keep_order_and_shape(tmp_path):
    assert np.array_equal(read_idx(written(tmp_path, RAW), 3), IMAGES)


def test_labels_keep_order(tmp_path):
    assert read_idx(written(tmp_path, LABELS), 1).tolist() == [7, 2, 1, 0, 4]


def test_gzipped_and_plain_files_are_the_same(tmp_path):
    packed = written(tmp_path, gzip.compress(RAW), "images.gz")
    assert np.array_equal(read_idx(packed, 3), IMAGES)


def test_a_file_is_found_plain_or_gzipped(tmp_path):
    assert find_idx(tmp_path, "images") is None
    packed = written(tmp_path, gzip.compress(RAW), "images.gz")
    assert find_idx(tmp_path, "images") == packed
    plain = written(tmp_path, RAW, "images")
    assert find_idx(tmp_path, "images") == plain


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing.* 00000803"),
        (b"\x89PNG and more", "89504e47"),
        (LABELS, "00000801"),  # labels in the place of images
        (RAW[:9], "header"),
        (RAW[:-1], "23 .* 24"),
        (RAW + b"\0", "25 .* 24"),
    ],
)
def test_damage_is_reported_with_the_file_and_the_next_step(tmp_path, content, message):
    file = written(tmp_path, content)
    with pytest.raises(DataError, match=rf"{file}.*{message}"):
        read_idx(file, 3)


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(RAW)[:-9],
        gzip.compress(RAW)[:12] + b"\xff" * 20,
        b"",
    ],
    ids=["cut short", "another body", "empty"],
)
def test_damaged_gzip_is_reported_with_the_file_and_the_next_step(tmp_path, content):
    file = written(tmp_path, content, "images.gz")
    with pytest.raises(DataError, match=str(file)):
        read_idx(file, 3)


@pytest.mark.parametrize("name", ["images.gz", "images"])
def test_the_content_says_whether_a_file_is_packed_and_not_its_name(tmp_path, name):
    for content in (RAW, gzip.compress(RAW)):
        assert np.array_equal(read_idx(written(tmp_path, content, name), 3), IMAGES)


def test_other_content_is_reported_by_its_checksum(tmp_path):
    own = hashlib.md5(RAW).hexdigest()
    packed = written(tmp_path, gzip.compress(RAW), "images.gz")
    assert len(read_idx(packed, 3, own)) == 2
    with pytest.raises(DataError, match=f"{own}.* 000"):
        read_idx(packed, 3, "000")
