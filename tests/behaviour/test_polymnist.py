"""PolyMNIST from each of its sources, on small stand-ins, and damaged files of every kind."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import polymnist
from data.polymnist import PolyMNIST
from data.sources.idx import read_idx
from data.sources.pictures import read_picture
from harness.api import DataError, Places

MODALITIES = 2


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, n: int = 300) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", n), ("t10k", 40)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        images[np.arange(count), labels, rng.integers(28, size=count)] = 255
        for stem, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            (folder / f"{prefix}-{stem}.gz").write_bytes(gzip.compress(idx(array)))


def write_pictures(folder: Path, n: int = MODALITIES) -> None:
    folder.mkdir(parents=True)
    for m in range(n):
        pixels = np.full((40, 50, 3), 20 * (m + 1), np.uint8)
        Image.fromarray(pixels).save(folder / f"{m:02d}x.jpg")


@pytest.fixture
def root(tmp_path):
    write_mnist(tmp_path / "mnist")
    write_pictures(tmp_path / "polymnist_backgrounds")
    return tmp_path


def prepared(root: Path, **settings) -> PolyMNIST:
    dataset = PolyMNIST(PolyMNIST.Config(modalities=MODALITIES, validation=100, **settings))
    dataset.prepare(Places(root, root / "cache"))
    return dataset


def test_generated_tuples_share_the_class_and_invert_the_ink(root):
    dataset = prepared(root)
    train = dataset.split("train")
    assert dataset.spec.sizes == {"train": 200, "validation": 100, "test": 40}
    for m in range(MODALITIES):
        x = train.tensors[f"m{m}"].int()
        background = 20 * (m + 1)
        ink = (x - (255 - background)).abs().amax(1) < 4  # JPEG is off by a little
        rows = ink.any(2)  # the stand-in digits have one pixel, in the row of their class
        assert torch.equal(rows.int().argmax(1), train.labels)
        assert (rows.sum(1) == 1).all()


def test_generation_is_repeatable_cached_and_depends_on_the_seed(root):
    first, again = prepared(root), prepared(root)
    assert first.spec.fingerprint == again.spec.fingerprint
    assert prepared(root, seed=1).spec.fingerprint != first.spec.fingerprint
    assert "generated" in first.spec.source


def test_no_validation_tuple_is_trained_on(root):
    def keys(split):
        return {x.numpy().tobytes() for x in torch.cat(list(split.tensors.values()), 1)}

    dataset = prepared(root)
    assert len(dataset.split("train")) + len(dataset.split("validation")) == 300
    assert not keys(dataset.split("test")) >= keys(dataset.split("validation"))


def write_folders(folder: Path) -> None:
    rng = np.random.default_rng(1)
    for part, count in (("train", 120), ("test", 20)):
        for m in range(MODALITIES):
            own = folder / part / f"m{m}"
            own.mkdir(parents=True)
            for i in rng.permutation(count):  # a directory's order must not matter
                pixels = np.full((28, 28, 3), i + m, np.uint8)
                Image.fromarray(pixels).save(own / f"{i}.{i % 10}.png")


def test_published_folders_are_paired_by_file_name(tmp_path):
    write_folders(tmp_path / "PolyMNIST")
    dataset = prepared(tmp_path)
    test = dataset.split("test")
    assert "folders" in dataset.spec.source
    assert (test.tensors["m1"].int() - test.tensors["m0"].int() == 1).all()
    assert torch.equal(test.tensors["m0"][:, 0, 0, 0].long() % 10, test.labels)


def test_a_file_that_only_one_modality_has_is_told(tmp_path):
    write_folders(tmp_path / "PolyMNIST")
    os.remove(tmp_path / "PolyMNIST" / "train" / "m1" / "3.3.png")
    with pytest.raises(DataError, match=r"3\.3\.png is in only one"):
        prepared(tmp_path)


def write_tensors(folder: Path, dtype: torch.dtype) -> None:
    for part, count in (("train", 150), ("test", 20)):
        (folder / part).mkdir(parents=True)
        pixels = torch.randint(256, (count, 3, 28, 28), generator=torch.Generator().manual_seed(0))
        tensor = pixels.to(torch.uint8) if dtype == torch.uint8 else pixels.float() / 255
        for m in range(MODALITIES):
            torch.save(tensor, folder / part / f"m{m}.pt")
        torch.save(torch.arange(count) % 10, folder / part / "labels.pt")


def test_published_tensors_are_read_as_bytes_or_fractions(tmp_path):
    write_tensors(tmp_path / "one" / "MMNIST", torch.uint8)
    write_tensors(tmp_path / "two" / "PolyMNIST", torch.float32)
    one, two = prepared(tmp_path / "one"), prepared(tmp_path / "two")
    assert one.spec.fingerprint == two.spec.fingerprint
    assert "tensors" in one.spec.source


def test_a_damaged_tensor_is_told(tmp_path):
    write_tensors(tmp_path / "PolyMNIST", torch.uint8)
    file = tmp_path / "PolyMNIST" / "test" / "m1.pt"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"m1\.pt does not load"):
        prepared(tmp_path)


def test_missing_data_say_where_they_were_looked_for_and_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"(?s)data root .*SHALA_DATA.*prepare polymnist"):
        prepared(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:200], "does not unpack"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:-5]), "cut short or damaged"),
        (lambda raw: gzip.compress(b"\0\0"), "no idx file"),
        (lambda raw: gzip.compress(b"\0\0\x08\x03\0"), "cut short within its header"),
    ],
)
def test_a_damaged_idx_file_is_told(root, damage, message):
    file = root / "mnist" / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=message):
        read_idx(file)


def test_a_picture_that_does_not_open_is_told(tmp_path):
    file = tmp_path / "00.png"
    file.write_bytes(b"no picture")
    with pytest.raises(DataError, match="does not open"):
        read_picture(file)


def test_a_downloaded_file_with_other_content_is_told(root):
    with pytest.raises(DataError, match="md5"):
        polymnist._verify(root / "mnist" / "train-labels-idx1-ubyte.gz", "0" * 32)
