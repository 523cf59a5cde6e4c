"""PolyMNIST from each of its sources, on small stand-ins, and damaged files of every kind."""

from __future__ import annotations

import gzip
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.idx import expect, idx
from PIL import Image

from shalabench.api import DataError, DataPaths
from shalabench.datasets import polymnist
from shalabench.datasets.polymnist import PolyMNIST
from shalabench.datasets.sources import mnist
from shalabench.datasets.sources.polymnist import PUBLISHED, compare_published
from shalabench.datasets.sources.readers import read_picture, unpack

MODALITIES = 2
REAL = Path(os.environ.get("SHALA_DATA", "absent"))


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
def root(tmp_path, monkeypatch):
    write_mnist(tmp_path / "mnist")
    write_pictures(tmp_path / "polymnist_backgrounds")
    expect(tmp_path / "mnist", monkeypatch)
    return tmp_path


def prepared(root: Path, **settings) -> PolyMNIST:
    dataset = PolyMNIST(PolyMNIST.Config(modalities=MODALITIES, validation=100, **settings))
    dataset.prepare(DataPaths(root, root / "cache"))
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


def test_generation_is_repeatable_and_depends_on_the_seed(root):
    first = prepared(root)
    (root / "cache").rename(root / "elsewhere")
    again = prepared(root)
    assert first.spec.fingerprint == again.spec.fingerprint
    assert prepared(root, seed=1).spec.fingerprint != first.spec.fingerprint


def test_data_are_generated_once(root, monkeypatch):
    first = prepared(root)
    monkeypatch.setattr(polymnist, "_generate", None)
    again = prepared(root)
    for split in ("train", "validation", "test"):
        for name, tensor in first.split(split).tensors.items():
            assert torch.equal(tensor, again.split(split).tensors[name])


def test_generation_that_was_cut_off_is_done_again(root):
    whole = prepared(root)
    (folder,) = (root / "cache").iterdir()
    (folder / "done.json").unlink()
    (folder / "test-m1.npy").unlink()
    assert prepared(root).spec.fingerprint == whole.spec.fingerprint


def test_a_damaged_cache_is_reported(root):
    prepared(root)
    (folder,) = (root / "cache").iterdir()
    (folder / "train-m0.npy").write_bytes(b"")
    with pytest.raises(DataError, match=re.escape(str(folder))):
        prepared(root)


def test_the_fingerprint_tells_one_validation_cut_from_another(root):
    one = PolyMNIST(PolyMNIST.Config(modalities=MODALITIES, validation=100))
    two = PolyMNIST(PolyMNIST.Config(modalities=MODALITIES, validation=120))
    for dataset in (one, two):
        dataset.prepare(DataPaths(root, root / "cache"))
    assert one.spec.fingerprint != two.spec.fingerprint


def test_some_digits_only_are_other_data_cut_from_the_same_cache(root):
    whole, part = prepared(root), prepared(root, digits=(3, 7))
    assert len(list((root / "cache").iterdir())) == 1
    assert part.spec.fingerprint != whole.spec.fingerprint
    assert prepared(root, digits=tuple(range(10))).spec.fingerprint == whole.spec.fingerprint
    assert part.spec.source == f"{whole.spec.source}; of the digits only 3, 7"
    assert part.spec.deviation.endswith("of the digits only 3, 7")
    for name in ("train", "validation", "test"):
        kept = torch.isin(whole.split(name).labels, torch.tensor([3, 7]))
        assert torch.equal(part.split(name).labels, whole.split(name).labels[kept])
        for modality, x in part.split(name).tensors.items():
            assert torch.equal(x, whole.split(name).tensors[modality][kept])


def test_validation_and_train_make_up_the_training_tuples(root):
    def tuples(*splits):
        stacked = (torch.cat([*dataset.split(s).tensors.values()], 1).numpy() for s in splits)
        return sorted(x.tobytes() for part in stacked for x in part)

    dataset = prepared(root)
    made = polymnist._generation(root, MODALITIES, 0).make("train")
    published = np.concatenate([made["m0"], made["m1"]], 1)
    assert tuples("train", "validation") == sorted(x.tobytes() for x in published)


def test_other_pictures_than_the_published_are_named_in_the_source(root):
    spec = prepared(root).spec
    assert spec.deviation == "not the published file: 00x.jpg, 01x.jpg"
    assert spec.deviation in spec.source


def test_other_digits_than_mnists_are_refused(root):
    file = root / "mnist" / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(gzip.compress(idx(np.zeros(40, np.uint8))))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz .*md5"):
        prepared(root)


def test_a_picture_smaller_than_a_digit_is_reported(root):
    Image.new("RGB", (20, 50)).save(root / "polymnist_backgrounds" / "01x.jpg")
    with pytest.raises(DataError, match=r"01x\.jpg"):
        prepared(root)


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


def test_endings_in_capitals_are_read_and_what_macos_leaves_is_not(tmp_path):
    write_folders(tmp_path / "PolyMNIST")
    fingerprint = prepared(tmp_path).spec.fingerprint
    folder = tmp_path / "PolyMNIST" / "train" / "m1"
    (folder / "3.3.png").rename(folder / "3.3.PNG")
    (folder / "._4.4.png").write_bytes(b"\0\5\x16\7")
    assert prepared(tmp_path).spec.fingerprint == fingerprint
    (folder / "3.3.png").write_bytes((folder / "3.3.PNG").read_bytes())
    with pytest.raises(DataError, match=r"3\.3\.png are one picture|3\.3\.PNG are one picture"):
        prepared(tmp_path)


def test_a_file_that_only_one_modality_has_is_reported(tmp_path):
    write_folders(tmp_path / "PolyMNIST")
    os.remove(tmp_path / "PolyMNIST" / "train" / "m1" / "3.3.png")
    with pytest.raises(DataError, match=r"3\.3\.png"):
        prepared(tmp_path)


def test_a_tile_that_does_not_open_is_reported(tmp_path):
    write_folders(tmp_path / "PolyMNIST")
    (tmp_path / "PolyMNIST" / "test" / "m1" / "3.3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"3\.3\.png"):
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


@pytest.mark.parametrize(
    "dtype", [torch.int16, torch.int64, torch.float16, torch.bfloat16, torch.float64]
)
def test_tensors_of_other_types_are_the_same_bytes(tmp_path, dtype):
    write_tensors(tmp_path / "one" / "MMNIST", torch.uint8)
    write_tensors(tmp_path / "two" / "MMNIST", torch.uint8)
    for file in (tmp_path / "two").rglob("m?.pt"):
        torch.save(torch.load(file).to(dtype), file)
    one, two = prepared(tmp_path / "one"), prepared(tmp_path / "two")
    assert one.spec.fingerprint == two.spec.fingerprint


def test_a_damaged_tensor_is_reported(tmp_path):
    write_tensors(tmp_path / "PolyMNIST", torch.uint8)
    file = tmp_path / "PolyMNIST" / "test" / "m1.pt"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"m1\.pt"):
        prepared(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.full((20, 3, 28, 28), 1.5), "values outside"),
        (torch.full((20, 3, 28, 28), float("nan")), "values outside"),
        (torch.full((20, 3, 28, 28), -1, dtype=torch.int8), "values outside"),
        (torch.ones(20, 3, 28, 28, dtype=torch.int64), "beyond doubt"),  # bytes, or 0 and 1
        (torch.zeros(20, 3, 32, 32), "shape"),
        (torch.zeros(19, 3, 28, 28), "differ in length"),
        ([1, 2], "no tensor"),
        (Path("object"), "does not load"),  # a pickle of more than tensors
    ],
)
def test_a_tensor_of_another_kind_is_reported(tmp_path, content, message):
    write_tensors(tmp_path / "PolyMNIST", torch.uint8)
    torch.save(content, tmp_path / "PolyMNIST" / "test" / "m1.pt")
    with pytest.raises(DataError, match=message):
        prepared(tmp_path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (torch.zeros(20, 3, 28, 28).to_sparse(), "sparse"),
        (torch.zeros(20, 3, 28, 28, dtype=torch.complex64), "complex"),
        (torch.zeros(20, 3, 28, 28, device="meta"), "meta"),
        (torch.zeros(1, dtype=torch.uint8).expand(20, 3, 28, 28), "without being stored"),
    ],
)
def test_an_exotic_tensor_is_named_with_its_kind(tmp_path, content, kind):
    write_tensors(tmp_path / "PolyMNIST", torch.uint8)
    torch.save(content, tmp_path / "PolyMNIST" / "test" / "m1.pt")
    with pytest.raises(DataError, match=rf"m1\.pt .*{kind}"):
        prepared(tmp_path)


@pytest.mark.parametrize("wrong", [2.5, float("nan")])
def test_labels_are_never_rounded(tmp_path, wrong):
    write_tensors(tmp_path / "PolyMNIST", torch.uint8)
    labels = torch.arange(20) % 10 + 0.0
    file = tmp_path / "PolyMNIST" / "test" / "labels.pt"
    torch.save(labels, file)
    assert prepared(tmp_path).split("test").labels.tolist() == labels.tolist()
    labels[7] = wrong
    torch.save(labels, file)
    with pytest.raises(DataError, match=r"labels\.pt has labels that are no whole"):
        prepared(tmp_path)


def test_own_tensors_in_the_published_layout_are_not_the_published_ones(tmp_path):
    write_tensors(tmp_path / "PolyMNIST", torch.uint8)
    spec = prepared(tmp_path).spec
    words = "150 of 60,000 train and 20 of 10,000 test tuples"
    assert spec.deviation == f"not the published tuples, but {words}"
    assert spec.deviation in spec.source


def test_the_published_tuples_are_told_by_their_classes():
    parts = {
        part: {"labels": np.repeat(np.arange(10), counts)} for part, counts in PUBLISHED.items()
    }
    assert compare_published(parts) == ""
    parts["test"]["labels"][0] = 3
    assert "979 test tuples show the digit 0, and 980" in compare_published(parts)


def test_a_changed_byte_of_the_cache_is_noticed(root):
    prepared(root)
    (folder,) = (root / "cache").iterdir()
    file = folder / "test-m1.npy"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"SHA-256.*Delete {re.escape(str(folder))}"):
        prepared(root)


def test_a_missing_tensor_is_reported(tmp_path):
    write_tensors(tmp_path / "PolyMNIST", torch.uint8)
    os.remove(tmp_path / "PolyMNIST" / "test" / "labels.pt")
    with pytest.raises(DataError, match=r"labels\.pt"):
        prepared(tmp_path)


def test_missing_data_say_where_they_were_looked_for_and_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"(?s)data root .*SHALA_DATA") as caught:
        prepared(tmp_path)
    for named in ("prepare polymnist", "m1.pt", "t10k-labels-idx1-ubyte.gz", "{00,01}*.jpg"):
        assert named in str(caught.value)


def test_only_what_is_missing_is_named(root):
    os.remove(root / "mnist" / "train-labels-idx1-ubyte.gz")
    with pytest.raises(DataError, match=r"[^,] mnist/train-labels-idx1-ubyte\.gz[^,]"):
        prepared(root)


def test_a_picture_that_does_not_open_is_reported(tmp_path):
    file = tmp_path / "00.png"
    file.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"00\.png"):
        read_picture(file)


def fetched(monkeypatch) -> list[str]:
    """The names of the files that are asked for; nothing is fetched."""
    names = []

    def note(remote, folder):
        names.append(remote.name)
        return folder / remote.name

    monkeypatch.setattr(polymnist, "download", note)
    monkeypatch.setattr(mnist, "download", note)
    monkeypatch.setattr(polymnist, "unpack", lambda archive, folder: None)
    return names


@pytest.mark.parametrize(
    ("settings", "first", "count"),
    [
        ({}, "PolyMNIST.zip", 1),
        ({"source": "tensors"}, "PolyMNIST.zip", 1),
        ({"source": "generated"}, "mnist/train-images-idx3-ubyte.gz", 4 + 5),
        ({"modalities": 10}, "mnist/train-images-idx3-ubyte.gz", 4 + 10),
    ],
)
def test_what_is_downloaded_serves_the_settings(tmp_path, monkeypatch, settings, first, count):
    names = fetched(monkeypatch)
    with pytest.raises(DataError, match="SHALA_DATA"):
        PolyMNIST(PolyMNIST.Config(**settings)).prepare(
            DataPaths(tmp_path, tmp_path), download=True
        )
    assert (names[0], len(names)) == (first, count)


def test_only_what_is_missing_is_downloaded(root, monkeypatch):
    os.remove(root / "mnist" / "train-labels-idx1-ubyte.gz")
    names = fetched(monkeypatch)
    dataset = PolyMNIST(PolyMNIST.Config(modalities=MODALITIES, validation=100))
    with pytest.raises(DataError):
        dataset.prepare(DataPaths(root, root / "cache"), download=True)
    assert names == ["mnist/train-labels-idx1-ubyte.gz"]


def test_an_archive_is_unpacked_whole_or_not_at_all(tmp_path):
    write_tensors(tmp_path / "made" / "MMNIST", torch.uint8)
    archive = tmp_path / "PolyMNIST.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted((tmp_path / "made").rglob("*.pt")):
            out.write(file, file.relative_to(tmp_path / "made"))
    whole = archive.read_bytes()
    archive.write_bytes(whole[:3000] + b"damage" + whole[3006:])
    with pytest.raises(DataError, match=r"PolyMNIST\.zip"):
        unpack(archive, tmp_path / "PolyMNIST")
    assert not (tmp_path / "PolyMNIST").exists()
    archive.write_bytes(whole)
    unpack(archive, tmp_path / "PolyMNIST")
    assert "tensors" in prepared(tmp_path).spec.source


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason="SHALA_DATA has no mnist/")
def test_the_real_set_has_the_published_sizes(tmp_path):
    dataset = PolyMNIST(PolyMNIST.Config(source="generated"))
    dataset.prepare(DataPaths(REAL, tmp_path))
    assert dataset.spec.sizes == {"train": 55_000, "validation": 5_000, "test": 10_000}
    labels = dataset.split("test").labels
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # MNIST's own
    assert torch.bincount(labels).tolist() == counts
