"""polydigits-quadrant: labels are what the pictures show, and places as even as they can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shalabench.api import DataPaths
from shalabench.datasets.polydigits_quadrant import GRAMMAR, PolyDigitsQuadrant, spread
from shalabench.datasets.sources.digits import place_digits, read_digits, read_photographs

SIZES = {"train": 400, "validation": 40, "test": 120}
IMAGES = ("m0", "m1", "m2")


@pytest.fixture(scope="module")
def quadrant(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quadrant")
    dataset = PolyDigitsQuadrant(PolyDigitsQuadrant.Config(**SIZES))
    dataset.prepare(DataPaths(folder, folder))
    return dataset


def uncover(image, photograph):
    """The ink of an image `[3, S, S]`, bool `[S, S]`: where it is its background inverted.

    The background is the one piece of the photograph that each pixel equals, as it is or inverted.
    """
    side = image.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(photograph, (side, side), axis=(0, 1))
    fits = np.ones(windows.shape[:2], bool)
    for row, column in ((0, 0), (0, 31), (31, 0), (31, 31), (0, 16), (16, 0), (31, 16), (16, 31)):
        seen, there = image[:, row, column], windows[:, :, :, row, column]
        fits &= (there == seen).all(-1) | (there == 255 - seen).all(-1)
    found = []
    for top, left in np.argwhere(fits):
        crop = windows[top, left]
        ink = (crop == 255 - image).all(0)
        if (ink | (crop == image).all(0)).all():
            found.append(ink)
    assert all((ink == found[0]).all() for ink in found)
    return found[0]


def test_the_place_is_the_quadrant_in_which_the_ink_is(quadrant):
    split, photographs = quadrant.split("test"), read_photographs()
    for name, photograph in zip(IMAGES, photographs, strict=False):
        for number in range(20):
            ink = uncover(split.tensors[name][number].numpy(), photograph)
            rows, columns = np.nonzero(ink)
            place = 2 * (rows.mean() >= 16) + (columns.mean() >= 16)
            assert place == split.facts["attributes"][number, 1]
            inside = (rows >= 16) == (place >= 2), (columns >= 16) == (place % 2)
            assert np.mean(inside[0] & inside[1]) > 0.8
            assert 15 < len(rows) < 110


def test_digits_of_images_and_labels_are_those_of_their_scans(quadrant):
    _, labels = read_digits()
    for name in SIZES:
        split = quadrant.split(name)
        digit, place = split.facts["attributes"].unbind(1)
        assert list(split.shared) == list(IMAGES)
        scans = split.sources(IMAGES)
        assert torch.equal(torch.from_numpy(labels)[scans], digit.expand(3, -1))
        assert (scans.sort(0).values.diff(dim=0) > 0).all()  # no scan twice in a tuple
        for attribute, values in (("digit", digit), ("place", place)):
            modality, words = quadrant.spec[attribute], split.tensors[attribute].tolist()
            said = [GRAMMAR.parse(modality.text(word)) for word in words]
            known = dict((a.name, a.values) for a in GRAMMAR.attributes)[attribute]
            assert said == [{attribute: known[value]} for value in values.tolist()]
    parts = [set(quadrant.split(name).sources(IMAGES).flatten().tolist()) for name in SIZES]
    assert len(set.union(*parts)) == sum(map(len, parts))


def test_every_place_is_as_frequent_as_another_for_every_digit(quadrant):
    for name, size in SIZES.items():
        digit, place = quadrant.split(name).facts["attributes"].unbind(1)
        counts = torch.zeros(10, 4, dtype=torch.int64)
        counts.index_put_((digit, place), torch.ones(size, dtype=torch.int64), accumulate=True)
        assert counts.sum(1).tolist() == [size // 10] * 10
        assert (counts.amax(1) - counts.amin(1)).max() <= 1
    classes = np.repeat([0, 1], [5, 7])
    firsts = [spread(classes, 4, np.random.default_rng(seed)) for seed in range(2000)]
    shares = np.stack([np.bincount(values[:5], minlength=4) for values in firsts]).mean(0)
    assert np.abs(shares - 5 / 4).max() < 0.05  # no value has the remainder for itself


def test_digits_are_written_half_as_large_into_each_quadrant():
    ones = np.ones((4, 8, 8), np.float32)
    written = place_digits(ones, np.arange(4), np.random.default_rng(0)) > 128
    for place, ink in enumerate(written):
        rows, columns = np.nonzero(ink)
        middle = rows.mean(), columns.mean()
        expected = 7.5 + 16 * (place // 2), 7.5 + 16 * (place % 2)
        assert middle == pytest.approx(expected, abs=1.2)  # a pixel of shift
        assert 0.8 * 12.6**2 < len(rows) < 1.3 * 12.6**2


def test_labels_of_another_weight_are_other_data_of_the_same_cache(quadrant, tmp_path):
    made = []
    for weight in (50.0, 1.0):
        config = PolyDigitsQuadrant.Config(**SIZES, label_weight=weight)
        dataset = PolyDigitsQuadrant(config)
        dataset.prepare(DataPaths(tmp_path, tmp_path))
        made.append(dataset.spec)
    assert made[0].fingerprint == quadrant.spec.fingerprint != made[1].fingerprint
    assert [m.weight for m in made[1].modalities] == [1.0] * 5
    assert len(list(tmp_path.glob("*.npz"))) == 1
