"""Data of some digits only: the same tuples as in the whole, and a whole that is what it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench import main
from shalabench.api import ConfigErrors, DataError, DataPaths, Split
from shalabench.config.settings import resolve
from shalabench.datasets.mst_digits import MstDigits
from shalabench.datasets.polydigits import PolyDigits
from shalabench.datasets.sources.digits import pair_evenly, part_digits, read_digits

SMALL = {"train": 100, "validation": 10, "test": 10}
# Of SMALL in version 2, where its settings do not name the digits.
BEFORE = "7ff5e752705811c877e141ebb464f0e1a8c0829474ff445aff5c1b422ca1bf6f"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return DataPaths(folder, folder)


def prepared(paths, **settings):
    dataset = PolyDigits(PolyDigits.Config(**SMALL, **settings))
    dataset.prepare(paths)
    return dataset


def test_all_digits_have_the_fingerprint_and_the_settings_of_before(paths):
    for digits in ((), range(10)):
        dataset = prepared(paths, digits=tuple(digits))
        assert dataset.spec.fingerprint == BEFORE
        assert "digits only" not in dataset.spec.source
        assert "digits" not in dataset.config.model_dump_json()
    for name in ("polydigits", "polymnist"):
        resolved = resolve("shala", name, "quick", ["data.digits=[]"])
        assert "data.digits" not in resolved.values()


def test_some_digits_are_the_tuples_of_the_whole_under_their_old_labels(paths):
    whole, part = prepared(paths), prepared(paths, digits=(1, 0))
    for name in ("train", "validation", "test"):
        all_of, some = whole.split(name), part.split(name)
        kept = all_of.labels <= 1
        assert torch.equal(some.labels, all_of.labels[kept])
        for modality, x in some.tensors.items():
            assert torch.equal(x, all_of.tensors[modality][kept])
    assert part.spec.sizes == {"train": 20, "validation": 2, "test": 2}
    assert part.spec.classes == 10
    assert part.spec.source.endswith("of the digits only 0, 1")
    hidden = prepared(paths, missing=0.3)  # views are hidden later
    assert hidden.spec.fingerprint == whole.spec.fingerprint
    (file,) = paths.cache.glob("*.npz")
    assert file.name == "polydigits-9c4a138d2844eb75.npz"  # of existing caches


def test_other_digits_are_other_data_in_whatever_order_they_are_named(paths):
    prints = [prepared(paths, digits=d).spec.fingerprint for d in ((0, 1), (1, 0, 1), (0, 2))]
    assert prints[0] == prints[1]
    assert len({BEFORE, *prints}) == 3


@pytest.mark.parametrize("kept", [0, 100, 0.5])
def test_a_damaged_cache_is_named(tmp_path, kept):
    prepared(DataPaths(tmp_path, tmp_path))
    (file,) = tmp_path.glob("*.npz")
    raw = file.read_bytes()
    file.write_bytes(raw[: int(kept * len(raw)) if kept < 1 else kept])
    with pytest.raises(DataError, match=file.name):
        prepared(DataPaths(tmp_path, tmp_path))


@pytest.mark.parametrize(
    ("digits", "message"), [("[0,12]", "less than or equal to 9"), ("[4]", "two")]
)
def test_impossible_digits_are_reported_before_any_work(digits, message):
    with pytest.raises(ConfigErrors, match=message):
        resolve("shala", "polymnist", "quick", [f"data.digits={digits}"])


def test_config_prints_the_digits_whether_all_or_some():
    for given, expected in (([], []), (["--set", "data.digits=[1,0]"], [0, 1])):
        asked = ["config", "--models", "shala", "--dataset", "polydigits", "--json", *given]
        found = json.loads(CliRunner().invoke(main, asked).output)["shala"]
        assert [s["value"] for s in found if s["setting"] == "data.digits"] == [expected]


@pytest.mark.parametrize("modalities", [2, 5])
@pytest.mark.parametrize(
    ("split", "size"), [("train", 20_000), ("validation", 1_000), ("test", 2_000), ("test", 37)]
)
def test_modalities_of_a_tuple_show_different_scans_each_used_equally_often(
    split, size, modalities
):
    digits, labels = read_digits()
    part = part_digits(len(digits), 0)[split]
    chosen, own = pair_evenly(part, labels, size, modalities, np.random.default_rng(1))
    scans = np.stack(chosen)  # [M, N]
    assert np.isin(scans, part).all()
    assert (labels[scans] == own).all()
    assert np.ptp(np.bincount(own, minlength=10)) <= 1
    assert all(len(set(tuple_)) == modalities for tuple_ in scans.T.tolist())
    for c in range(10):
        members = part[labels[part] == c]
        uses = [(scan[own == c, None] == members).sum(0) for scan in scans]  # M of [k]
        assert all(use.max() - use.min() <= 1 for use in uses)


def test_pairs_of_scans_are_as_random_as_they_can_be():
    labels, size = np.zeros(4, int), 30_000
    chosen, _ = pair_evenly(np.arange(4), labels, size, 3, np.random.default_rng(2))
    _, counts = np.unique(np.stack(chosen), axis=1, return_counts=True)
    assert len(counts) == 24  # all ordered triples of different scans
    # A round of four tuples holds four triples: a variance of at most four times the binomial's.
    assert np.abs(counts - size / 24).max() < 5 * (4 * size / 24) ** 0.5


def test_a_class_with_fewer_scans_than_modalities_is_named():
    labels = np.repeat([0, 1], [5, 2])
    with pytest.raises(DataError, match="2 scans of the digit 1"):
        pair_evenly(np.arange(7), labels, 20, 3, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("kind", "names"), [(PolyDigits, [f"m{m}" for m in range(5)]), (MstDigits, ["mnist", "svhn"])]
)
def test_splits_say_which_scan_each_view_comes_from(tmp_path, kind, names):
    dataset = kind(kind.Config(**SMALL))
    dataset.prepare(DataPaths(tmp_path, tmp_path))
    _, labels = read_digits()
    for split in map(dataset.split, SMALL):
        assert list(split.shared) == names
        scans = split.sources(dataset.spec.names)
        assert torch.equal(torch.from_numpy(labels)[scans], split.labels.expand(len(names), -1))
        assert (scans.sort(0).values.diff(dim=0) > 0).all()  # no scan twice in a tuple
        assert torch.equal(split.head(5).shared[names[1]], scans[1, :5])
    assert dataset.split("test").sources(["text"]) is None


def test_ten_modalities_show_ten_scans_on_ten_photographs(paths):
    dataset = prepared(paths, modalities=10)
    names = dataset.spec.names
    assert names == tuple(f"m{m}" for m in range(10))
    for split in map(dataset.split, SMALL):
        assert (split.sources(names).sort(0).values.diff(dim=0) > 0).all()
    train = dataset.split("train").tensors
    colours = torch.stack([train[n].float().median(0).values.mean((1, 2)) for n in names])
    apart = torch.cdist(colours, colours) + 1e3 * torch.eye(10)
    assert apart.min() > 3  # of 255, between the median colours of two photographs


def test_a_cache_without_scans_is_made_again_under_the_same_fingerprint(tmp_path):
    paths = DataPaths(tmp_path, tmp_path)
    first = prepared(paths)
    (file,) = tmp_path.glob("*.npz")
    with np.load(file) as content:
        older = {name: content[name] for name in content if "source-" not in name}
    np.savez(file, **older)
    again = prepared(paths, digits=(3, 4))
    whole, part = first.split("test"), again.split("test")
    kept = (whole.labels == 3) | (whole.labels == 4)
    assert torch.equal(part.shared["m2"], whole.shared["m2"][kept])
    assert prepared(paths).spec.fingerprint == first.spec.fingerprint


def test_sources_of_different_modalities_are_told_apart_unless_they_are_shared():
    rows = {"a": torch.tensor([0, 0, 1]), "b": torch.tensor([1, 0, 1])}
    shared = {"c": torch.tensor([4, 2, 2]), "d": torch.tensor([2, 3, 4])}
    split = Split(dict.fromkeys("abcde", torch.zeros(3, 1)), rows=rows, shared=shared)
    found = split.sources("abcde")
    assert found.shape == (4, 3)
    assert found[2:].tolist() == [[4, 2, 2], [2, 3, 4]]
    assert set(found[0].tolist()).isdisjoint([*found[1].tolist(), 2, 3, 4])
    assert set(found[1].tolist()).isdisjoint([2, 3, 4])
    assert split.sources("e") is None
