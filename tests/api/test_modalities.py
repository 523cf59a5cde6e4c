"""What contradicts itself in data is reported when they are prepared."""

from __future__ import annotations

import pytest
import torch
from helpers.shapes import MODALITIES, Shapes, shapes

from shalabench.api import DataError, Modality, Split


@pytest.mark.parametrize("modality", MODALITIES)
def test_modalities_that_can_be_have_no_problem(modality):
    assert modality.problem() == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (("x", "sound", (4,)), "kind 'sound'; image, text, vector"),
        (("x", "image", (8, 8)), r"shape \(8, 8\); 3 positive"),
        (("x", "vector", ()), r"shape \(\); 1 to 8 positive"),
        (("x", "vector", (3, 0), "normal"), r"shape \(3, 0\)"),
        (("x", "text", (2, 3), "categorical", 1, 1, ("a",)), r"shape \(2, 3\); 1 positive"),
        (("x", "vector", (3,), "categorical"), "'categorical'; bernoulli, laplace, normal"),
        (("x", "text", (3,), "normal", 1, 1, ("a",)), "'normal'; categorical"),
        (("x", "text", (3,), "categorical"), "a text has a vocabulary"),
        (("x", "vector", (3,), "normal", 0.0), "scale 0.0; a positive"),
        (("x", "vector", (3,), "normal", 1.0, float("nan")), "weight nan; a positive"),
    ],
)
def test_a_modality_that_contradicts_itself_is_refused_in_prepare(fields, words):
    data = Shapes(Shapes.Config())
    data.modalities = (Modality(*fields),)
    data._split = lambda seed: Split({"x": torch.zeros(2, 3)})
    with pytest.raises(DataError, match=words):
        data.prepare()


def with_row(x):
    data = shapes()
    good = data._split
    data._split = lambda seed: Split({**good(seed).tensors, "row": x})
    return data


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(40, 4), r"'row' of the split 'train' has the shape 40 x 4; n x 5"),
        (torch.zeros(40, 5).double(), r"float64; float32 was expected of the kind 'vector'"),
        (torch.zeros(40, 5).byte(), r"uint8; float32"),
        (torch.full((40, 5), torch.nan), "not finite"),
        (torch.full((40, 5), torch.inf), "not finite"),
    ],
)
def test_views_that_are_not_what_was_stated_are_refused_in_prepare(x, words):
    with pytest.raises(DataError, match=words):
        with_row(x).prepare()


def test_flags_outside_of_0_to_1_and_missing_modalities_are_refused():
    data = shapes()
    good = data._split(0).tensors
    for changed, words in (
        ({"flags": good["flags"] + 1}, "0 to 1 was expected of the likelihood"),
        ({"wide": good["wide"].float()}, "float32; uint8 was expected of the kind 'image'"),
    ):
        data._split = lambda seed, more=changed: Split({**good, **more})
        with pytest.raises(DataError, match=words):
            data.prepare()
    data._split = lambda seed: Split({"wide": good["wide"]})
    with pytest.raises(DataError, match="has no 'row'"):
        data.prepare()


def test_a_split_that_is_made_later_is_checked_when_it_is_read():
    data = shapes()
    bad = Split({**data._split(0).tensors, "row": torch.zeros(40, 9)})
    data.set_splits(
        {"train": lambda: bad},
        {"train": 40},
        modalities=data.modalities,
        classes=3,
        fingerprint="",
        source="",
    )
    with pytest.raises(DataError, match="n x 5"):
        data.split("train")


def test_vectors_of_any_shape_are_read_as_they_are_and_move_with_their_split():
    data = shapes()
    split = data.split("train")
    views = split.batch(torch.tensor([5, 0])).views
    for name in ("row", "field", "flags"):
        assert torch.equal(views[name], split.tensors[name][[5, 0]])
    assert views["wide"].max() <= 1
    assert torch.equal(split.head(3).tensors["flags"], split.tensors["flags"][:3])
