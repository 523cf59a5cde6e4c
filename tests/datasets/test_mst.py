"""MNIST-SVHN-Text and its proxy: pairs, texts, damaged files, and every method on them."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.idx import expect, idx
from scipy.io import savemat

from shalabench.api import DataError, DataPaths, Joint, Rng, Split, Translate
from shalabench.api.registry import entries, find
from shalabench.config.settings import resolve
from shalabench.datasets.mst import Mst
from shalabench.datasets.mst_digits import MstDigits
from shalabench.datasets.sources import mnist, svhn
from shalabench.datasets.sources.digits import part_digits
from shalabench.datasets.sources.mst import ALPHABET, DIGITS, write_words
from shalabench.execute.incomplete import Incomplete


def numbered(count: int, first: int) -> np.ndarray:
    """The numbers from `first`, each as two bytes, so that an image tells which one it is."""
    return (np.arange(first, first + count, dtype=">u2")).view(np.uint8).reshape(count, 2)


def write_sources(root: Path, svhn_counts=(240, 60)) -> None:
    """Images whose first two pixels are their number: below 1,000 train, from there on test."""
    (root / "mnist").mkdir(parents=True)
    (root / "svhn").mkdir()
    parts = zip(
        ("train", "t10k"), ("train", "test"), (300, 50), svhn_counts, (0, 1000), strict=True
    )
    for prefix, part, count, count_svhn, first in parts:
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, :2] = numbered(count, first)
        files = {"images-idx3": images, "labels-idx1": (np.arange(count) % 10).astype(np.uint8)}
        for stem, array in files.items():
            file = root / "mnist" / f"{prefix}-{stem}-ubyte.gz"
            file.write_bytes(gzip.compress(idx(array)))
        pixels = np.zeros((32, 32, 3, count_svhn), np.uint8)
        pixels[0, :2, 0] = numbered(count_svhn, first).T
        labels = np.arange(count_svhn) % 10
        labels[labels == 0] = 10
        savemat(
            root / "svhn" / f"{part}_32x32.mat",
            {"X": pixels, "y": labels[:, None].astype(np.uint8)},
            do_compression=True,
        )


@pytest.fixture
def root(tmp_path, monkeypatch):
    write_sources(tmp_path)
    expect(tmp_path / "mnist", monkeypatch)
    return tmp_path


def prepared(root: Path, **settings) -> Mst:
    dataset = Mst(Mst.Config(**({"repeats": 3} | settings)))
    dataset.prepare(DataPaths(root, root / "cache"))
    return dataset


def views(split: Split) -> dict[str, torch.Tensor]:
    return split.batch(torch.arange(len(split))).views


def numbers(split: Split, name: str) -> torch.Tensor:
    """Which source image each tuple shows."""
    two = (views(split)[name][:, 0, 0, :2] * 255).round().long()
    return two[:, 0] * 256 + two[:, 1]


def texts(split: Split) -> list[str]:
    return ["".join(ALPHABET[t] for t in row) for row in split.tensors["text"].tolist()]


def test_the_three_views_of_a_tuple_share_its_label(root):
    dataset = prepared(root)
    for part in ("train", "validation", "test"):
        split = dataset.split(part)
        for name in ("mnist", "svhn"):
            assert torch.equal(numbers(split, name) % 10, split.labels), (part, name)
        assert [t.strip() for t in texts(split)] == [DIGITS[c] for c in split.labels]


def test_each_image_is_paired_as_often_as_asked_and_not_always_with_the_same(root):
    split = prepared(root).split("train")
    assert len(split) == 3 * 220  # 240 SVHN digits, 2 of each class held out
    for name in ("mnist", "svhn"):
        counts = torch.bincount(numbers(split, name))
        assert set(counts[counts > 0].tolist()) == {3}
    pairs = set(zip(numbers(split, "mnist").tolist(), numbers(split, "svhn").tolist(), strict=True))
    assert len(pairs) > 2 * 220


def test_the_test_pairs_are_the_same_under_another_seed_and_the_training_pairs_are_not(root):
    one, two = prepared(root), prepared(root, seed=1)
    for part, same in (("train", False), ("validation", True), ("test", True)):
        first, second = views(one.split(part)), views(two.split(part))
        assert all(torch.equal(first[n], second[n]) for n in first) == same, part
    assert one.spec.fingerprint != two.spec.fingerprint
    assert one.spec.fingerprint == prepared(root).spec.fingerprint


def test_the_same_data_under_another_likelihood_are_no_longer_the_same(root):
    one, two = prepared(root), prepared(root, text_likelihood="categorical-published")
    assert one.spec.fingerprint != two.spec.fingerprint


def test_no_image_is_in_two_splits(root):
    dataset = prepared(root)
    for name in ("mnist", "svhn"):
        found = [set(numbers(dataset.split(p), name).tolist()) for p in dataset.spec.sizes]
        assert sum(map(len, found)) == len(set.union(*found))


def test_label_ten_is_the_digit_zero(root):
    _, labels = svhn.read_part(root, "train")
    assert labels[:3].tolist() == [0, 1, 2]
    assert labels.max() == 9


def test_images_are_read_upright_with_their_colours(tmp_path):
    pixels = np.zeros((32, 32, 3, 2), np.uint8)
    pixels[1, 2, 0, 1] = 7  # second image: row 1, column 2, red
    savemat(tmp_path / "x.mat", {"X": pixels, "y": np.array([[1], [2]], np.uint8)})
    images, _ = svhn.read_mat(tmp_path / "x.mat")
    assert np.argwhere(images).tolist() == [[1, 0, 1, 2]]


def test_a_part_of_svhn_is_reported_in_the_data_s_description(root):
    spec = prepared(root).spec
    assert spec.deviation in spec.source
    assert "240 of 73,257 train images" in spec.deviation


def test_own_files_as_large_as_the_published_ones_are_told_by_their_digest(root, monkeypatch):
    monkeypatch.setattr(svhn, "SIZES", {"train": 240, "test": 60})
    assert "train_32x32.mat" in prepared(root).spec.deviation
    own = {p: hashlib.md5((root / svhn._name(p)).read_bytes()).hexdigest() for p in svhn.SIZES}
    monkeypatch.setattr(svhn, "_CHECKSUMS", {part: f"md5:{x}" for part, x in own.items()})
    assert prepared(root).spec.deviation == ""


@pytest.mark.parametrize("kept", [0, 40, 130, 300, 0.5, 0.99])
def test_a_mat_file_cut_short_is_reported_with_what_was_expected(root, kept):
    file = root / "svhn" / "train_32x32.mat"
    raw = file.read_bytes()
    file.write_bytes(raw[: int(kept * len(raw)) if kept < 1 else kept])
    with pytest.raises(DataError, match=r"train_32x32\.mat .*X \[32, 32, 3, N\]"):
        prepared(root)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"X": np.zeros((32, 32, 3, 4), np.uint8)}, r"x\.mat.* y\b"),
        ({"X": np.zeros((4, 3, 32, 32), np.uint8), "y": np.ones((4, 1))}, r"\(32, 32, 3, 4\)"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[0], [11]])}, "labels 0, 11"),
    ],
)
def test_a_mat_file_of_another_kind_is_reported(tmp_path, content, named):
    savemat(tmp_path / "x.mat", content)
    with pytest.raises(DataError, match=named):
        svhn.read_mat(tmp_path / "x.mat")


def test_missing_files_are_named_with_the_next_step(tmp_path):
    with pytest.raises(DataError, match=r"svhn/train_32x32\.mat.*prepare mst"):
        prepared(tmp_path)


def test_a_digit_without_images_is_reported(root):
    file = root / "svhn" / "test_32x32.mat"
    savemat(file, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[10], [1]], np.uint8)})
    with pytest.raises(DataError, match="digit 2 in svhn"):
        prepared(root)


def test_what_is_downloaded_has_its_published_address_and_checksum(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(mnist, "fetch", lambda root: None)
    monkeypatch.setattr(svhn, "download", lambda remote, folder: asked.append(remote))
    with pytest.raises(DataError, match="SHALA_DATA"):
        Mst(Mst.Config()).prepare(DataPaths(tmp_path, tmp_path), download=True)
    assert [remote.name for remote in asked] == ["svhn/train_32x32.mat", "svhn/test_32x32.mat"]
    for remote in asked:
        assert remote.urls[0].startswith("http://ufldl.stanford.edu/housenumbers/")
        assert remote.checksum.startswith("md5:")


def test_an_unknown_character_is_reported_with_its_position():
    words = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")
    with pytest.raises(DataError, match=r"'ü' at position 2 of 'fünf'.*digit 5"):
        write_words(np.arange(10), words, np.random.default_rng(0))


@pytest.mark.parametrize("word", ["", "eightyfive"])
def test_a_word_that_does_not_fit_is_reported(word):
    with pytest.raises(DataError, match=r"digit 0.*1 to 7"):
        write_words(np.arange(1), (word,), np.random.default_rng(0))


def test_every_start_that_the_published_code_draws_occurs_evenly():
    """0 .. 7 - length, so that the last of the eight letters is always blank."""
    n = 6000
    written = write_words(np.zeros(n, int), ("three",), np.random.default_rng(0))
    starts = (written == ALPHABET.index("t")).argmax(1)
    counts = np.bincount(starts)
    assert len(counts) == 3
    assert np.abs(counts - n / 3).max() < 4 * (n * 2 / 9) ** 0.5
    assert len(ALPHABET) == 71


def test_the_proxy_shares_no_source_digit_between_splits():
    parts = part_digits(1797, seed=0)
    assert sum(map(len, parts.values())) == 1797
    assert len(set.union(*(set(p.tolist()) for p in parts.values()))) == 1797


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proxy")
    dataset = MstDigits(MstDigits.Config(train=300, validation=20, test=40))
    dataset.prepare(DataPaths(folder, folder))
    return dataset


def test_the_proxy_has_mst_s_modalities_and_its_texts_name_the_label(root, proxy):
    assert proxy.spec.modalities == prepared(root).spec.modalities
    split = proxy.split("train")
    assert [t.strip() for t in texts(split)] == [DIGITS[c] for c in split.labels]
    assert proxy.spec.proxy_for == "mst"


def test_the_proxy_s_house_numbers_can_be_reported_from_their_walls(proxy):
    """Ink and wall differ in brightness by .22 before blur and noise."""
    x = proxy.split("train").tensors["svhn"].double() / 255
    grey = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)[:, 8:24, 8:24]
    spread = grey.flatten(1).quantile(0.95, 1) - grey.flatten(1).quantile(0.05, 1)
    assert (spread > 0.15).double().mean() > 0.97


def test_hidden_views_of_shared_rows_are_zero_and_others_are_as_before(root):
    dataset = prepared(root)
    incomplete = Incomplete(dataset, 0.5)
    spec, split, hidden = incomplete.spec, dataset.split("train"), incomplete.split("train")
    before, batch = views(split), hidden.batch(torch.arange(len(hidden)))
    assert len(hidden) == len(split)
    for m, name in enumerate(spec.names):
        there = batch.present[:, m]
        assert torch.equal(batch.views[name][there], before[name][there])
        assert batch.views[name][~there].abs().sum() == 0
        assert 0 < there.sum() < len(split)


def test_the_head_of_a_split_with_shared_rows_has_its_first_tuples(root):
    split = prepared(root).split("train")
    head = split.head(5).to("cpu")
    assert len(head) == 5
    for name, x in views(head).items():
        assert torch.equal(x, views(split)[name][:5])


@pytest.mark.parametrize("name", sorted(entries("model")))
def test_every_method_runs_on_the_proxy_or_says_why_not(name, proxy):
    cls = find("model", name).cls
    config = resolve(name, "mst-digits", "smoke", ()).model
    if reason := cls.skip(proxy.spec, config):
        pytest.skip(reason)
    torch.manual_seed(0)
    model, data = cls(proxy.spec, config), proxy.split("train")
    for stage in model.stages():
        stage.begin(data)
        terms = stage.update(data.batch(torch.arange(8)), Rng(0))
        assert all(torch.isfinite(value) for value in terms.values())
        stage.finish(data)
    model.eval()
    given = views(proxy.split("test").head(3))
    with torch.no_grad():
        made = model.sample(3, Rng(1)) if isinstance(model, Joint) else {}
        if isinstance(model, Translate):
            made |= model.translate({"svhn": given["svhn"]}, ["text", "mnist"], Rng(1))
            made |= model.translate({"text": given["text"]}, ["svhn"], Rng(1))
    assert made
    for n, x in made.items():
        assert x.shape == given[n].shape


def moved_dots(root):
    for file in list((root / "mnist").iterdir()):
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))


def moved_unpacked(root):
    for file in (root / "mnist").iterdir():
        file.write_bytes(gzip.decompress(file.read_bytes()))


def moved_kaggle(root):
    for file in list((root / "mnist").iterdir()):
        (root / "mnist" / file.stem).mkdir()
        (root / "mnist" / file.stem / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()


def moved_torchvision(root):
    (root / "MNIST").mkdir()
    (root / "mnist").rename(root / "MNIST" / "raw")
    for file in list((root / "svhn").iterdir()):
        file.rename(root / file.name)
    (root / "svhn").rmdir()


@pytest.mark.parametrize("move", [moved_dots, moved_unpacked, moved_kaggle, moved_torchvision])
def test_the_files_are_read_where_and_as_people_have_them(root, move, monkeypatch):
    fingerprint = prepared(root).spec.fingerprint
    move(root)
    monkeypatch.setattr(mnist, "download", lambda *_: pytest.fail("nothing is missing"))
    monkeypatch.setattr(svhn, "download", lambda *_: pytest.fail("nothing is missing"))
    mnist.fetch(root)
    svhn.fetch(root)
    assert prepared(root).spec.fingerprint == fingerprint


@pytest.mark.parametrize("kind", [np.float64, np.int32, np.uint16])
def test_pixels_of_another_type_are_the_same_where_their_range_is_beyond_doubt(tmp_path, kind):
    file, pixels = tmp_path / "x.mat", np.arange(256, dtype=np.uint8).repeat(24)
    pixels = pixels.reshape(32, 32, 3, 2)
    savemat(file, {"X": pixels.astype(kind), "y": [[1], [10]]})
    assert np.array_equal(svhn.read_mat(file)[0], pixels.transpose(3, 2, 0, 1))
    for wrong in (pixels.astype(kind) * 2, pixels.astype(float) - 128, pixels.astype(int) % 2):
        savemat(file, {"X": wrong, "y": [[1], [10]]})
        with pytest.raises(DataError, match=r"x\.mat has pixels of the type"):
            svhn.read_mat(file)
