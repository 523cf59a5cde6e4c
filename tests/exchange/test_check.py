"""What samples may be: sizes, ranges, types, counts and names."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from helpers.shapes import MODALITIES, shapes
from helpers.tiny import SPEC
from PIL import Image

from shalabench.api import BenchError, ConfigErrors, DataError, Modality
from shalabench.exchange.check import check, encode
from shalabench.exchange.layout import Found
from shalabench.exchange.read import read

RNG = np.random.default_rng(0)


def arrays(n=6, **changes):
    """Joint samples of the tiny data: a `[3, 8, 8]`, b `[1, 5, 5]`, c four letters of xyz."""
    made = {
        "joint/a": RNG.integers(256, size=(n, 3, 8, 8), dtype=np.uint8),
        "joint/b": RNG.uniform(size=(n, 1, 5, 5)),
        "joint/c": RNG.integers(3, size=(n, 4)),
    }
    return {key: x for key, x in (made | changes).items() if x is not None}


def checked(made, tuples=10, **facts):
    return check(Found(made, source="here", **facts), SPEC, tuples)


def test_good_samples_become_tensors():
    made = arrays()
    samples = checked(made)
    assert samples.number == 6
    assert samples.joint["a"].dtype == torch.uint8
    assert samples.joint["b"].dtype == torch.float32
    np.testing.assert_allclose(samples.joint["b"].numpy(), made["joint/b"], rtol=1e-6)
    assert samples.joint["c"].tolist() == made["joint/c"].tolist()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"joint/a": np.zeros((6, 8, 8, 3), np.uint8)}, ["6 x 8 x 8 x 3", "n x 3 x 8 x 8"]),
        ({"joint/a": np.zeros((0, 3, 8, 8), np.uint8)}, ["0 x 3 x 8 x 8"]),
        ({"joint/a": np.full((6, 3, 8, 8), 254.0)}, ["float64", "254", "0 to 1", "--range"]),
        ({"joint/a": np.linspace(-1, 1, 1152).reshape(6, 3, 8, 8)}, ["-1 to 1", "--range"]),
        ({"joint/a": np.ones((6, 3, 8, 8), np.uint8)}, ["uint8", "1 to 1", "0 to 255"]),
        ({"joint/a": np.full((6, 3, 8, 8), 7, np.int64)}, ["int64", "uint8"]),
        ({"joint/a": np.full((6, 3, 8, 8), np.nan)}, ["not finite"]),
        ({"joint/c": np.full((6, 4), 3)}, ["3 to 3", "0 to 2"]),
        ({"joint/c": np.zeros((6, 4))}, ["float64", "token ids"]),
        ({"joint/c": np.array(["xyzx", "xyz"])}, ["line 2", "3 characters", "4"]),
        ({"joint/c": np.array(["xyzx", "xyza"])}, ["line 2", "'a'"]),
        ({"joint/b": np.zeros((5, 1, 5, 5))}, ["joint/a 6", "joint/b 5"]),
        ({"joint/c": None}, ["none of c"]),
        ({"joint/d": np.zeros((6, 2))}, ["'d'", "a, b, c"]),
        ({"joined/a": np.zeros((6, 2))}, ["'joined/a'", "joint/NAME"]),
        ({"translate/a": np.zeros((6, 2))}, ["translate/GIVEN/TARGET"]),
    ],
)
def test_what_was_found_and_what_is_expected_are_told(changes, words):
    with pytest.raises(ConfigErrors) as error:
        checked(arrays(**changes))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_all_mistakes_are_told_together():
    with pytest.raises(ConfigErrors) as error:
        checked(arrays(**{"joint/a": np.zeros((6, 9)), "joint/c": np.zeros((6, 4))}))
    assert len(error.value.messages) == 2


def test_a_stated_range_is_taken_and_must_fit():
    x = np.linspace(-1, 1, 1152).reshape(6, 3, 8, 8)
    samples = checked(arrays(**{"joint/a": x}), range=(-1.0, 1.0))
    np.testing.assert_allclose(samples.joint["a"].numpy(), (x + 1) / 2, atol=1e-6)
    for y, stated in ((1.5 * x, (-1.0, 1.0)), (x, (0.0, 1.0))):  # beyond it, kept
        samples = checked(arrays(**{"joint/a": y}), range=stated)
        expected = (y - stated[0]) / (stated[1] - stated[0])
        np.testing.assert_allclose(samples.joint["a"].numpy(), expected, atol=1e-6)
    with pytest.raises(ConfigErrors, match="does not fit the stated range 0 to 1"):
        checked(arrays(**{"joint/a": 255 * np.abs(x)}), range=(0.0, 1.0))


def translations(n, pairs="ab ac ba bc ca cb", **changes):
    joint = arrays(n)
    made = {f"translate/{p[0]}/{p[1]}": joint[f"joint/{p[1]}"] for p in pairs.split()}
    return made | changes


def test_translations_are_put_in_the_order_of_the_tuples():
    made = translations(3)
    samples = checked(made, index=np.array([7, 2, 9]))
    assert samples.index.tolist() == [2, 7, 9]
    expected = made["translate/a/c"][[1, 0, 2]].tolist()
    assert samples.translations["a",]["c"].tolist() == expected


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (None, ["3 tuples", "has 10", "'index'"]),
        (np.array([1, 2]), ["3 whole numbers"]),
        (np.array([1, 2, 10]), ["1 to 10", "0 to 9"]),
        (np.array([1, 2, 2]), ["twice"]),
        (np.array([0.0, 1.0, 2.0]), ["float64"]),
    ],
)
def test_the_index_names_each_given_tuple_once(index, words):
    with pytest.raises(ConfigErrors) as error:
        checked(translations(3), index=index)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_missing_pairs_are_told():
    samples = checked(translations(3, "ab ac ba"), index=np.arange(3))
    assert samples.translations == {}
    assert "3 of 6 pairs" in samples.gaps[0]
    assert "b/c, c/a, c/b" in samples.gaps[0]


def test_strings_become_tokens_as_the_data_have_them():
    words = Modality("t", "text", (5,), vocabulary=("<pad>", "<eos>", "<unk>", "red", "bird"))
    assert encode(words, "red bird") == ([3, 4, 1, 0, 0], "")
    assert encode(words, "red blue red bird red bird") == ([3, 2, 3, 4, 1], "")
    assert words.text(encode(words, "red bird")[0]) == "red bird"
    letters = Modality("t", "text", (4,), vocabulary=tuple(" ab"))
    assert encode(letters, " ab") == ([0, 1, 2, 0], "")
    assert encode(letters, "abab?")[1]


# Folders and archives.


def write_folder(root, made):
    for key, x in made.items():
        folder = root / key
        if x.ndim == 2:
            folder.parent.mkdir(parents=True, exist_ok=True)
            text = "\n".join("".join("xyz"[t] for t in row) for row in x)
            folder.with_suffix(".txt").write_text(text)
            continue
        folder.mkdir(parents=True)
        for number, image in enumerate((x * 255).round() if x.dtype.kind == "f" else x):
            pixels = image.astype(np.uint8).transpose(1, 2, 0)
            picture = pixels[..., 0] if pixels.shape[2] == 1 else pixels
            Image.fromarray(picture).save(folder / f"{number}.png")
    return root


@pytest.mark.parametrize("form", ["npz", "pt", "nested", "safetensors", "folder", "short"])
def test_every_form_holds_the_same_samples(tmp_path, form):
    made = arrays()
    made["joint/b"] = (made["joint/b"] * 255).round().astype(np.uint8)
    path = tmp_path / f"samples.{form}"
    if form == "npz":
        np.savez(path, **made)
    elif form == "pt":
        torch.save({key: torch.from_numpy(x) for key, x in made.items()}, path)
    elif form == "nested":
        path = path.with_suffix(".pt")
        inner = {key.split("/")[1]: torch.from_numpy(x) for key, x in made.items()}
        torch.save({"joint": inner}, path)
    elif form == "safetensors":
        pytest.importorskip("safetensors.numpy").save_file(made, path)
    elif form == "folder":
        write_folder(path, made)
    else:
        path = path.with_suffix(".npz")
        np.savez(path, **{key.split("/")[1]: x for key, x in made.items()})
    samples = check(read(path), SPEC, 10)
    assert samples.digest == checked(made).digest
    for name, x in samples.joint.items():
        assert x.tolist() == made[f"joint/{name}"].tolist(), name


def test_pictures_of_translations_are_named_by_the_given_tuple(tmp_path):
    made = translations(3)
    root = write_folder(tmp_path / "samples", made)
    for folder in root.glob("translate/*/*"):
        if folder.is_dir():
            for old, new in (("2", "8"), ("1", "4")):
                (folder / f"{old}.png").rename(folder / f"{new}.png")
    samples = check(read(root), SPEC, 10)
    assert samples.index.tolist() == [0, 4, 8]
    assert samples.translations["b",]["a"].tolist() == made["translate/b/a"].tolist()


def test_pictures_of_a_tuple_have_one_number(tmp_path):
    root = write_folder(tmp_path / "samples", arrays())
    (root / "joint" / "b" / "5.png").rename(root / "joint" / "b" / "6.png")
    with pytest.raises(DataError, match="lacks number 5"):
        read(root)


def test_pictures_of_another_kind_are_refused(tmp_path):
    root = write_folder(tmp_path / "samples", arrays())
    Image.new("RGBA", (8, 8)).save(root / "joint" / "a" / "0.png")
    with pytest.raises(DataError, match="mode RGBA"):
        read(root)
    Image.new("RGB", (9, 8)).save(root / "joint" / "a" / "0.png")
    with pytest.raises(DataError, match="9 x 8"):
        read(root)


class Trap:
    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("form", ["npz", "pt", "npy"])
def test_nothing_is_unpickled(tmp_path, form):
    trap = Trap()
    trap.folder = str(tmp_path / "trapped")
    path = tmp_path / f"samples.{form}"
    if form == "npz":
        np.savez(path, **{"joint/a": np.array([trap], object)})
    elif form == "pt":
        path.write_bytes(pickle.dumps(trap))
    else:
        path = tmp_path / "samples"
        (path / "joint").mkdir(parents=True)
        np.save(path / "joint" / "a.npy", np.array([trap], object))
    with pytest.raises(DataError):
        read(path)
    assert not (tmp_path / "trapped").exists()


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "samples.npz").write_bytes(b"PK nonsense")
    for name in ("samples.npz", "nowhere.npz", "samples.txt"):
        with pytest.raises(BenchError, match=name):
            read(tmp_path / name)


def vectors(**changes):
    made = {f"joint/{m.name}": _some(m) for m in MODALITIES}
    return check(Found(made | changes, source="here"), shapes().spec, 10)


def _some(modality):
    if modality.kind == "text":
        return RNG.integers(3, size=(6, *modality.shape))
    return RNG.uniform(size=(6, *modality.shape))


def test_vectors_are_taken_in_the_units_of_the_data():
    row = 40 * RNG.normal(size=(6, 5))
    samples = vectors(**{"joint/row": row})
    assert samples.joint["row"].dtype == torch.float32
    np.testing.assert_allclose(samples.joint["row"].numpy(), row, rtol=1e-6)
    assert samples.joint["field"].shape == (6, 2, 3)


@pytest.mark.parametrize(
    ("key", "array", "words"),
    [
        ("row", np.zeros((6, 4)), ["6 x 4", "n x 5", "(n, numbers)"]),
        ("row", np.zeros((6, 5), int), ["int64", "units of the data"]),
        ("field", np.full((6, 2, 3), np.inf), ["not finite"]),
        ("flags", np.full((6, 1, 2, 2), 1.5), ["1.5 to 1.5", "0 to 1", "'flags'"]),
    ],
)
def test_vectors_that_are_none_are_refused(key, array, words):
    with pytest.raises(ConfigErrors) as caught:
        vectors(**{f"joint/{key}": array})
    for word in words:
        assert word in str(caught.value)
