"""Drawn birds: the same on every machine, as the attributes say, and named exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import classifiers
from shalabench.api import ConfigErrors, DataPaths
from shalabench.config.settings import resolve
from shalabench.datasets.birds import (
    EITHER,
    FACTS,
    GRAMMAR,
    LENGTH,
    PARTS,
    VOCABULARY,
    Birds,
    describe_parts,
    generate,
)
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


COLOURS = {"body", "wing", "crown", "breast", "bill"}
SMALL = {"train": 100, "validation": 10, "test": 60}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same birds with one caption and with two, and the folder of their caches."""
    folder = tmp_path_factory.mktemp("birds")
    made = {}
    for captions in ("whole", "parts"):
        made[captions] = Birds(Birds.Config(**SMALL, captions=captions))
        made[captions].prepare(DataPaths(folder, folder))
    return made, folder


def test_each_of_two_captions_names_all_of_its_own_attributes_and_no_other(both):
    parts, every = both[0]["parts"], {a.name for a in ATTRIBUTES}
    assert parts.spec.names == ("image", "colours", "scene")
    for split in map(parts.split, SMALL):
        own = dict(zip(FACTS, (split.facts[f] for f in FACTS), strict=True))
        for number, values in enumerate(own["attributes"].tolist()):
            truth = {a.name: a.values[v] for a, v in zip(ATTRIBUTES, values, strict=True)}
            texts = [parts.spec[n].text(split.tensors[n][number].tolist()) for n in PARTS]
            assert [len(text.split()) for text in texts] == [19, 10]
            for text, names in zip(texts, (COLOURS, every - COLOURS), strict=True):
                expected = {name: truth[name] for name in names}
                assert EITHER.parse(text) == expected, text
                assert EITHER.spot(text) == expected, text
        named = {a.name for a, n in zip(ATTRIBUTES, own["named"].T, strict=True) if n.all()}
        assert named == COLOURS
        assert own["named"].sum() == len(split) * len(COLOURS)


def test_two_captions_are_of_the_same_birds_which_are_not_drawn_again(both):
    (whole, parts), folder = both[0].values(), both[1]
    for name in SMALL:
        first, second = (dataset.split(name) for dataset in (whole, parts))
        assert torch.equal(first.tensors["image"], second.tensors["image"])
        assert torch.equal(first.facts["attributes"], second.facts["attributes"])
    assert whole.spec.fingerprint != parts.spec.fingerprint
    assert parts.spec["scene"] != whole.spec["caption"]
    assert [parts.spec[n].weight for n in PARTS] == [whole.spec["caption"].weight] * 2
    files = sorted(folder.iterdir(), key=lambda file: file.stat().st_size)
    assert len(files) == 2
    assert files[0].stat().st_size < files[1].stat().st_size / 10  # no pictures
    times = [file.stat().st_mtime_ns for file in files]
    again = Birds(Birds.Config(**SMALL, captions="parts"))
    again.prepare(DataPaths(folder, folder))
    assert again.spec == parts.spec
    assert times == [file.stat().st_mtime_ns for file in files]


def test_the_captions_of_a_seed_have_not_changed():
    values = np.array([[i % len(a.values) for a in ATTRIBUTES] for i in range(4)])
    described = describe_parts(values, [0])
    assert described["colours"].sum(1).tolist() == [239, 409, 333, 287]
    assert described["scene"].sum(1).tolist() == [264, 209, 223, 284]


def test_shipped_classifiers_read_the_birds_of_two_captions(both):
    found = []
    for dataset in both[0].values():
        spec = dataset.spec
        (classifier,) = classifiers.load(spec, "cpu").values()
        found.append(
            classifiers.measure_answers(
                classifier.network, spec["image"], spec, dataset.split("test")
            )
        )
    assert found[0] == found[1]
    assert min(found[1].values()) > 0.7


def test_other_captions_are_refused_before_any_work():
    with pytest.raises(ConfigErrors, match="'whole' or 'parts'"):
        resolve("shala", "birds", "quick", ["data.captions=upper"])
    assert resolve("shala", "birds", "quick", ["data.captions=parts"]).data.captions == "parts"
