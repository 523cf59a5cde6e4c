"""Drawn birds: the same on every machine, as the attributes say, and named exactly."""

from __future__ import annotations

import numpy as np
import pytest

from shalabench.api import DataPaths
from shalabench.datasets.birds import FACTS, GRAMMAR, LENGTH, VOCABULARY, Birds, generate
from shalabench.datasets.synthetic.birds import ATTRIBUTES, draw


@pytest.fixture(scope="module")
def made():
    return generate(200, [0, 9])


def test_the_same_seed_draws_the_same_bytes(made):
    again = generate(200, [0, 9])
    assert all(np.array_equal(made[name], again[name]) for name in made)
    other = generate(200, [1, 9])
    assert not np.array_equal(made["image"], other["image"])


def test_the_drawing_of_a_seed_has_not_changed():
    # The bytes are part of the data's identity; where this fails, raise the dataset's version.
    values = np.array([[i % len(a.values) for a in ATTRIBUTES] for i in range(8)])
    means = draw(values, [0]).mean(axis=(1, 2, 3))
    assert means.round(1).tolist() == MEANS


MEANS = [184.6, 121.4, 152.2, 140.4, 176.8, 139.0, 150.5, 135.8]


def test_another_weight_of_the_picture_draws_nothing_anew_but_is_another_dataset(tmp_path):
    sizes = {"train": 100, "validation": 10, "test": 10}
    first, second = Birds(Birds.Config(**sizes)), Birds(Birds.Config(**sizes, image_weight=0.5))
    for dataset in (first, second):
        dataset.prepare(DataPaths(data=tmp_path, cache=tmp_path))
    assert len(list(tmp_path.iterdir())) == 1
    assert first.spec.fingerprint != second.spec.fingerprint
    assert [d.spec["image"].weight for d in (first, second)] == [0.02, 0.5]


def test_every_attribute_changes_the_picture():
    base = np.zeros((1, len(ATTRIBUTES)), int)
    plain = draw(base, [3])
    for i, attribute in enumerate(ATTRIBUTES):
        changed = base.copy()
        changed[0, i] = 1
        difference = np.abs(draw(changed, [3]).astype(int) - plain).max(axis=(0, 1))  # [H, W]
        assert (difference > 40).sum() >= 5, attribute.name


def test_captions_name_exactly_what_is_recorded(made):
    for tokens, values, named in zip(*(made[n] for n in ("caption", *FACTS)), strict=True):
        words = [VOCABULARY[t] for t in tokens]
        text = " ".join(words[: words.index("<eos>")])
        expected = {
            a.name: a.values[v]
            for a, v, is_named in zip(ATTRIBUTES, values, named, strict=True)
            if is_named
        }
        assert GRAMMAR.parse(text) == expected, text
        assert set(words[words.index("<eos>") + 1 :]) <= {"<pad>"}


def test_attributes_are_even_and_independent(made):
    values = made["attributes"]
    for i, attribute in enumerate(ATTRIBUTES):
        k = len(attribute.values)
        share = np.bincount(values[:, i], minlength=k) / len(values)
        assert np.abs(share - 1 / k).max() < 4 * (1 / k / len(values)) ** 0.5, attribute.name
    table = np.corrcoef(values.T) - np.eye(len(ATTRIBUTES))
    assert np.abs(table).max() < 4 / len(values) ** 0.5


def test_preparing_reads_the_cache_and_gives_three_disjoint_splits(tmp_path):
    config = Birds.Config(train=100, validation=10, test=20)
    dataset, again = Birds(config), Birds(config)
    dataset.prepare(DataPaths(tmp_path, tmp_path))
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again.prepare(DataPaths(tmp_path, tmp_path))
    assert again.spec == dataset.spec
    assert files == {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    pictures = [dataset.split(name).tensors["image"] for name in ("train", "validation", "test")]
    distinct = {x.numpy().tobytes() for part in pictures for x in part}
    assert len(distinct) == 130
    assert dataset.spec["caption"].shape == (LENGTH,)


def test_the_head_of_a_split_keeps_its_facts_in_step(tmp_path):
    dataset = Birds(Birds.Config(train=100, validation=10, test=20))
    dataset.prepare(DataPaths(tmp_path, tmp_path))
    head = dataset.split("test").head(5)
    assert {name: len(x) for name, x in head.facts.items()} == {"attributes": 5, "named": 5}
