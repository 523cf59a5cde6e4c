"""digit-features: features of known shapes, disjoint scans, and standardised numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shalabench.api import DataPaths
from shalabench.datasets.digit_features import DigitFeatures
from shalabench.datasets.sources.digits import read_digits
from shalabench.datasets.sources.shapes import COUNT, measure_shapes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digit-features")
    made = DigitFeatures(DigitFeatures.Config(train=2000, validation=100, test=400))
    made.prepare(DataPaths(folder, folder))
    return made


def test_features_are_those_of_a_shape_drawn_by_hand():
    digit = np.zeros((1, 8, 8))
    digit[0, 2, 3:5] = 1, 0.5  # down 2; across 3 and 4 with the parts 2/3 and 1/3
    (found,) = measure_shapes(digit)
    rows, columns, waves, moments = np.split(found, [8, 14, 29])
    assert rows.tolist() == [0, 0, 1.5, 0, 0, 0, 0, 0]
    assert columns.tolist() == [0, 0, 1, 0.5, 0, 0]
    across = np.abs(1 + 0.5 * np.exp(-2j * np.pi * np.arange(3) / 8))  # the same at every row
    np.testing.assert_allclose(waves.reshape(5, 3), np.tile(across, (5, 1)))
    # Of two values, 3 and 4, with the mean 10/3: variance 2/9, third moment 2/27.
    np.testing.assert_allclose(moments, [0, 0, 2 / 9, 0, 0, 0, 2 / 27], atol=1e-12)


def test_waves_do_not_change_by_shifts_and_moments_do_not_by_brightness():
    digits, _ = read_digits()
    some = digits[:20]
    found, shifted = measure_shapes(some), measure_shapes(np.roll(some, (1, 3), (1, 2)))
    np.testing.assert_allclose(shifted[:, 14:29], found[:, 14:29], atol=1e-6)
    np.testing.assert_allclose(measure_shapes(some / 2)[:, 29:], found[:, 29:], atol=1e-9)
    assert found.shape == (20, COUNT)


def test_splits_share_no_scan_and_views_of_a_tuple_are_of_different_ones(data):
    scans = {}
    for name in ("train", "validation", "test"):
        shared = data.split(name).shared
        assert not (shared["picture"] == shared["features"]).any()
        scans[name] = set(torch.cat(list(shared.values())).tolist())
    assert not scans["train"] & scans["test"]
    assert not scans["train"] & scans["validation"]
    assert not scans["test"] & scans["validation"]


def test_views_are_of_the_stated_scans_and_class(data):
    digits, labels = read_digits()
    split, train = data.split("test"), data.split("train")
    seen = split.shared["picture"]
    np.testing.assert_array_equal(
        split.tensors["picture"][:, 0], np.rint(digits[seen] * 255).astype(np.uint8)
    )
    for source in split.shared.values():
        np.testing.assert_array_equal(labels[source], split.labels)
    # Standardised by the scans of the training split, each counted once.
    raw = measure_shapes(digits)
    known = raw[np.unique(train.shared["features"])]
    expected = (raw[split.shared["features"]] - known.mean(0)) / known.std(0)
    np.testing.assert_allclose(split.tensors["features"], expected, atol=1e-3)
    assert data.spec["word"].text(split.tensors["word"][0].tolist()).strip() in (
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    )


def test_another_likelihood_is_another_identity_of_the_same_numbers(data, tmp_path):
    config = data.config.model_copy(update={"likelihood": "laplace"})
    other = DigitFeatures(config)
    other.prepare(DataPaths(tmp_path, tmp_path))
    assert other.spec["features"].likelihood == "laplace"
    assert other.spec.fingerprint != data.spec.fingerprint
    same = [d.split("train").tensors["features"] for d in (data, other)]
    assert torch.equal(*same)
