"""Training, storing and loading of the modality classifiers."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers.shapes import shapes

import classifiers
from classifiers.attributes import measure_answers
from classifiers.networks import PublishedClassifier
from classifiers.weights import SHIPPED
from shalabench.api import DataError, DataPaths, DataSpec, Modality
from shalabench.datasets.birds import Birds

FACTS = {"dataset": "toy", "accuracy": 0.75, "command": "a test"}
PUBLISHED = DataSpec(
    "polymnist",
    1,
    tuple(Modality(f"m{i}", "image", (3, 28, 28)) for i in range(2)),
    10,
    {"test": 50},
    "",
    "",
)


@pytest.fixture
def archive(toy, tmp_path):
    """Untrained classifiers of the toy data in a folder of our own format."""
    for modality in toy.spec.modalities:
        network = classifiers.train(toy.spec, modality, toy.split("train"), updates=1)
        classifiers.save(network, modality, tmp_path, FACTS)
    return tmp_path


@pytest.fixture
def published(tmp_path):
    """A zip file like the published one."""
    torch.manual_seed(0)
    with zipfile.ZipFile(tmp_path / "PolyMNIST.zip", "w") as packed:
        for name in PUBLISHED.names:
            file = tmp_path / f"pretrained_img_to_digit_clf_{name}"
            torch.save(PublishedClassifier().state_dict(), file)
            packed.write(file, f"data/clf/{file.name}")
            file.unlink()
    return tmp_path / "PolyMNIST.zip"


def test_every_kind_of_modality_is_learnt_and_stored(toy, tmp_path):
    device = torch.device("cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("classifiers.training.train", partial(classifiers.train, updates=150))
        facts = list(classifiers.train_all(toy, device, tmp_path, "a command"))
    assert [f["modality"] for f in facts] == ["bar", "stripe", "word"]
    assert all(f["accuracy"] > 0.9 for f in facts)
    loaded = classifiers.load(toy.spec, device, tmp_path)
    for name, stated in zip(toy.spec.names, facts, strict=True):
        own = loaded[name]
        assert own.accuracy == stated["accuracy"]
        assert own.digest == hashlib.sha256((tmp_path / f"{name}.npz").read_bytes()).hexdigest()
        assert "a command" in own.source
        measured = measure_answers(own.network, toy.spec[name], toy.spec, toy.split("test"))
        assert measured["class"] == pytest.approx(stated["accuracy"], abs=1e-4)


def test_training_twice_gives_the_same_weights(toy):
    modality = toy.spec.modalities[0]
    one, other = (
        classifiers.train(toy.spec, modality, toy.split("train"), updates=3).state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_loaded_classifiers_are_frozen_and_in_eval_mode(toy, archive):
    for own in classifiers.load(toy.spec, "cpu", archive).values():
        assert not any(module.training for module in own.network.modules())
        assert not any(p.requires_grad for p in own.network.parameters())


def test_data_without_classes_need_no_classifiers(toy):
    assert classifiers.load(replace(toy.spec, classes=0), "cpu") == {}


def test_a_dataset_without_shipped_classifiers_says_what_to_run(toy):
    with pytest.raises(DataError, match=r"classifiers train --dataset toy"):
        classifiers.load(toy.spec, "cpu")


def test_classifiers_for_other_modalities_name_both(toy, archive):
    spec = replace(toy.spec, modalities=(Modality("m0", "image", (3, 8, 8)),))
    with pytest.raises(DataError, match=r"bar, stripe, word\b.*\bm0 of 'toy'"):
        classifiers.load(spec, "cpu", archive)


def test_classifiers_for_another_dataset_name_both(toy, archive):
    with pytest.raises(DataError, match=r"'bar' of 'toy'.*'other'"):
        classifiers.load(replace(toy.spec, name="other"), "cpu", archive)


def test_classifiers_for_another_shape_are_refused(toy, archive):
    modalities = (Modality("bar", "image", (1, 28, 28)),)
    with pytest.raises(DataError, match=r"bar\.npz"):
        classifiers.load(replace(toy.spec, modalities=modalities), "cpu", archive)


def test_changed_weights_are_refused_by_their_digest(toy, archive):
    file = archive / "stripe.npz"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(file))):
        classifiers.load(toy.spec, "cpu", archive)


def test_pickled_weights_are_refused_even_with_a_right_digest(toy, archive):
    file, index = archive / "bar.npz", archive / "weights.json"
    np.savez(file, head=np.array([{"an": "object"}], dtype=object))
    entries = json.loads(index.read_text())
    entries["bar"]["digest"] = hashlib.sha256(file.read_bytes()).hexdigest()
    index.write_text(json.dumps(entries))
    with pytest.raises(DataError, match=r"bar\.npz"):
        classifiers.load(toy.spec, "cpu", archive)


@pytest.mark.parametrize(
    ("content", "named"),
    [("{", "weights.json"), ("[]", "weights.json"), ('{"bar": {"digest": ""}}', "of 'bar'")],
)
def test_a_damaged_index_is_named(toy, archive, content, named):
    (archive / "weights.json").write_text(content)
    with pytest.raises(DataError, match=named):
        classifiers.load(toy.spec, "cpu", archive)


def test_an_unwritable_folder_is_named(toy, tmp_path):
    (tmp_path / "file").write_text("in the way")
    modality = toy.spec.modalities[0]
    network = classifiers.train(toy.spec, modality, toy.split("train"), updates=1)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "file"))):
        classifiers.save(network, modality, tmp_path / "file", FACTS)


def test_the_published_archive_serves_zipped_and_unpacked(published, tmp_path):
    zipped = classifiers.load(PUBLISHED, "cpu", published)
    with zipfile.ZipFile(published) as packed:
        packed.extractall(tmp_path / "unpacked")
    unpacked = classifiers.load(PUBLISHED, "cpu", tmp_path / "unpacked")
    assert {n: c.digest for n, c in zipped.items()} == {n: c.digest for n, c in unpacked.items()}
    own = zipped["m1"]
    assert (own.source, own.accuracy) == ("the published archive", None)
    x = torch.rand(2, 3, 28, 28)
    assert torch.equal(own.network(x), own.network(x))  # its dropout is off


def test_an_archive_without_the_modality_or_of_another_kind_is_named(published, tmp_path):
    more = replace(
        PUBLISHED, modalities=(*PUBLISHED.modalities, Modality("m7", "image", (3, 9, 9)))
    )
    with pytest.raises(DataError, match=r"m0, m1\b.*\bm7 of 'polymnist'"):
        classifiers.load(more, "cpu", published)
    (tmp_path / "text.zip").write_text("no zip file")
    with pytest.raises(DataError, match=r"text\.zip"):
        classifiers.load(PUBLISHED, "cpu", tmp_path / "text.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        classifiers.load(PUBLISHED, "cpu", tmp_path / "empty")


def test_two_candidates_are_refused_by_name_and_what_macos_adds_is_none(published, tmp_path):
    before = {n: c.digest for n, c in classifiers.load(PUBLISHED, "cpu", published).items()}
    with zipfile.ZipFile(published, "a") as packed:
        packed.writestr("__MACOSX/data/clf/._pretrained_img_to_digit_clf_m0", b"\0\5\x16\7")
        packed.writestr("__MACOSX/pretrained_img_to_digit_clf_m0", b"\0\5\x16\7")
        packed.extractall(tmp_path / "unpacked")
    for archive in (published, tmp_path / "unpacked"):
        found = classifiers.load(PUBLISHED, "cpu", archive)
        assert {n: c.digest for n, c in found.items()} == before
    with zipfile.ZipFile(published, "a") as packed:
        packed.writestr("old/pretrained_img_to_digit_clf_m0.pt", b"another")
        packed.extractall(tmp_path / "unpacked")
    for archive in (published, tmp_path / "unpacked"):
        with pytest.raises(
            DataError, match=r"two classifiers for 'm0': data\S+_m0 and old\S+m0\.pt"
        ):
            classifiers.load(PUBLISHED, "cpu", archive)


def test_a_published_file_that_would_run_code_is_refused(tmp_path):
    for name in PUBLISHED.names:
        file = tmp_path / f"pretrained_img_to_digit_clf_{name}"
        file.write_bytes(pickle.dumps(Modality("m0", "image", (1,)), protocol=2))
    with pytest.raises(DataError, match=r"_clf_m0 does not load \(it holds more than tensors\)"):
        classifiers.load(PUBLISHED, "cpu", tmp_path)


@pytest.mark.parametrize(("dataset", "count"), [("polydigits", 10), ("polymnist", 10)])
def test_shipped_weights_load_are_small_and_state_at_least_097(dataset, count):
    names = tuple(f"m{i}" for i in range(count))
    spec = DataSpec(
        dataset, 1, tuple(Modality(n, "image", (3, 28, 28)) for n in names), 10, {}, "", ""
    )
    shipped = classifiers.load(spec, "cpu")
    assert all(own.accuracy >= 0.97 for own in shipped.values())
    assert all((SHIPPED / dataset / f"{n}.npz").stat().st_size < 300_000 for n in names)


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("birds")
    dataset = Birds(Birds.Config(train=100, validation=10, test=200))
    dataset.prepare(DataPaths(folder, folder))
    return dataset


def test_attributes_are_classified_in_images_only_by_shipped_weights(birds):
    found = classifiers.load(birds.spec, "cpu")
    assert list(found) == ["image"]
    parts = measure_answers(
        found["image"].network, birds.spec["image"], birds.spec, birds.split("test")
    )
    assert list(parts) == [a.name for a in birds.spec.grammar.attributes]
    assert sum(parts.values()) / len(parts) == pytest.approx(found["image"].accuracy, abs=0.03)
    assert min(parts.values()) > 0.75


def test_attribute_classifiers_are_trained_stored_and_read_again(birds, tmp_path):
    entries = list(classifiers.train_all(birds, torch.device("cpu"), tmp_path, "test", updates=2))
    assert [entry["modality"] for entry in entries] == ["image"]
    assert set(entries[0]["by_attribute"]) == {a.name for a in birds.spec.grammar.attributes}
    assert classifiers.load(birds.spec, "cpu", tmp_path)["image"].digest == entries[0]["digest"]


def test_vectors_of_any_shape_are_classified(tmp_path):
    data, device = shapes(), torch.device("cpu")
    spec = replace(data.spec, modalities=data.spec.modalities[:3])
    for modality in spec.modalities:
        network = classifiers.train(spec, modality, data.split("train"), updates=60)
        found = measure_answers(network, modality, spec, data.split("test"))
        assert found["class"] > 0.9, modality.name
        classifiers.save(network, modality, tmp_path, FACTS | {"dataset": "shapes"})
    loaded = classifiers.load(spec, device, tmp_path)
    x = data.split("test").tensors["field"]
    assert loaded["field"].network(x).shape == (len(x), 3)


def test_a_shape_that_no_classifier_takes_is_refused_before_the_first_is_trained(tmp_path):
    data = shapes(wide={"shape": (3, 4, 14)})
    data._spec = replace(data.spec, modalities=data.spec.modalities[::-1])
    with pytest.raises(DataError, match=r"'wide' is 4 x 14.*at least 5 x 5"):
        list(classifiers.train_all(data, torch.device("cpu"), tmp_path, "a command"))
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_classifiers_of_features_are_accurate():
    folder = SHIPPED / "digit-features"
    entries = json.loads((folder / "weights.json").read_text())
    assert sorted(entries) == ["features", "picture", "word"]
    for name, entry in entries.items():
        assert entry["accuracy"] > 0.95
        content = (folder / f"{name}.npz").read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["digest"]
