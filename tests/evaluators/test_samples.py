"""Pictures of every kind of modality, and the reconstruction error."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.shapes import shapes
from PIL import Image

from evaluators.samples import Samples, _first
from shalabench.api import DataSpec, EvalContext, Modality, Split
from shalabench.execute.evaluation import encode_picture

SPEC = DataSpec(
    "fake",
    1,
    (
        Modality("a", "image", (3, 28, 28)),
        Modality("b", "image", (1, 64, 48)),
        Modality("c", "text", (12,), "categorical", vocabulary=tuple("abcd")),
    ),
    2,
    {"test": 20},
    "",
    "",
)
TILE = 64 + 4  # the largest side, and a margin of two pixels
GREEN, WHITE = [20, 160, 60], [255, 255, 255]


def split():
    return Split(
        {
            "a": torch.full((20, 3, 28, 28), 51, dtype=torch.uint8),
            "b": torch.zeros(20, 1, 64, 48, dtype=torch.uint8),
            "c": torch.ones(20, 12, dtype=torch.uint8),
        }
    )


class Copy(torch.nn.Module):
    """Gives the data back, modality "a" brighter by a tenth, half of the text wrong."""

    max_given = None

    def sample(self, n, rng):
        return split().batch(torch.arange(n)).views

    def translate(self, given, targets, rng):
        views = self.sample(len(next(iter(given.values()))), rng)
        return {name: views[name] for name in targets}

    def reconstruct(self, views, rng):
        wrong = torch.arange(12) % 2
        return {"a": views["a"] + 0.1, "b": views["b"] - 0.5, "c": views["c"] + wrong}


def measure(model, spec=SPEC, data=None, **settings):
    evaluator = Samples(Samples.Config(**settings))
    return evaluator.run(model, spec, data or split(), EvalContext(torch.device("cpu"), 0))


def test_grids_have_a_column_a_tuple_and_a_row_a_modality():
    pictures = measure(Copy(), columns=5, sources=4).pictures
    shapes = {name: tuple(picture.shape) for name, picture in pictures.items()}
    assert shapes == {
        "joint": (3 * TILE, 5 * TILE, 3),
        "cross": (3 * TILE, 3 * 4 * TILE + 2 * 6, 3),
        "reconstruction": (6 * TILE, 5 * TILE, 3),
    }
    assert all(picture.dtype == torch.uint8 for picture in pictures.values())


def test_small_images_are_enlarged_twice_without_smoothing_and_centred():
    joint = measure(Copy()).pictures["joint"]
    tile = joint[:TILE, :TILE]
    inside = (tile == 51).all(2)
    assert inside.sum() == 56**2
    assert inside[6:62, 6:62].all()
    assert (tile[~inside] == 255).all()


def test_what_was_given_is_framed_on_top_of_its_block():
    cross = measure(Copy(), sources=2).pictures["cross"]
    block = 2 * TILE + 6
    for i in range(3):
        assert cross[0, i * block].tolist() == GREEN
        assert cross[TILE, i * block].tolist() == WHITE
    assert cross[0, block - 1].tolist() == WHITE


def test_text_is_written_and_differs_by_its_letters():
    class Writer(torch.nn.Module):
        def sample(self, n, rng):
            views = Copy().sample(n, rng)
            views["c"][1] = 3
            return views

    joint = measure(Writer())
    row = joint.pictures["joint"][2 * TILE :]
    first, second = row[:, :TILE], row[:, TILE : 2 * TILE]
    assert (first < 128).any()
    assert (second < 128).any()
    assert not torch.equal(first, second)


def test_reconstruction_errors_are_the_known_ones():
    found = {(s.metric, s.target): s for s in measure(Copy()).scores}
    assert found["reconstruction/mae", "a"].value == pytest.approx(0.1, abs=1e-6)
    assert found["reconstruction/mae", "b"].value == 0  # below 0 is clamped
    assert found["reconstruction/mae", None].value == pytest.approx(0.05, abs=1e-6)
    assert found["reconstruction/psnr", "a"].value == pytest.approx(20, abs=1e-4)
    assert found["reconstruction/psnr", "b"].value == 100  # an exact copy stays finite
    assert found["reconstruction/psnr", None].value == pytest.approx(60, abs=1e-4)
    assert found["reconstruction/token-accuracy", None].value == 0.5
    assert found["reconstruction/token-accuracy", "c"].n == 20
    assert found["reconstruction/mae", "b"].stderr == 0


def test_errors_do_not_depend_on_the_batch_size():
    class Noisy(Copy):
        def reconstruct(self, views, rng):
            noise = rng.normal(len(views["a"]), 1, 1, 1)
            return views | {"a": views["a"] + 0.1 * noise}

    one, other = (measure(Noisy(), batch_size=size).scores for size in (20, 3))
    assert [s.value for s in one] == pytest.approx([s.value for s in other], rel=1e-6)


def test_many_modalities_make_no_larger_grid_of_translations():
    names = tuple("abcdefghij")
    spec = DataSpec(
        "fake", 1, tuple(Modality(n, "image", (3, 28, 28)) for n in names), 0, {}, "", ""
    )
    data = Split({n: torch.zeros(9, 3, 28, 28, dtype=torch.uint8) for n in names})

    class Blank(torch.nn.Module):
        max_given = 1

        def translate(self, given, targets, rng):
            return dict.fromkeys(targets, next(iter(given.values())))

    outcome = measure(Blank(), spec, data)
    assert set(outcome.pictures) == {"cross"}
    assert outcome.scores == []
    assert outcome.pictures["cross"].shape[1] < 10 * 3 * 60


def test_a_model_without_any_ability_is_skipped_with_a_reason():
    evaluator = Samples(Samples.Config())
    assert "nor reconstructs" in evaluator.skip(torch.nn.Module, SPEC)
    assert evaluator.skip(Copy, SPEC) is None


WORDS = DataSpec(
    "captioned",
    1,
    (
        Modality("photo", "image", (3, 64, 64)),
        Modality(
            "caption",
            "text",
            (6,),
            "categorical",
            vocabulary=("<pad>", "<eos>", "a", "red", "bird", "."),
        ),
    ),
    0,
    {"test": 20},
    "",
    "",
)


class Captions(torch.nn.Module):
    """Gives each photo the same caption, and each caption a grey photo."""

    max_given = None

    def sample(self, n, rng):
        caption = torch.tensor([2, 3, 4, 5, 1, 3]).expand(n, 6)  # what follows the end is not said
        return {"photo": torch.full((n, 3, 64, 64), 0.5), "caption": caption}

    def translate(self, given, targets, rng):
        views = self.sample(len(next(iter(given.values()))), rng)
        return {name: views[name] for name in targets}


def captioned():
    tensors = {
        "photo": torch.zeros(20, 3, 64, 64, dtype=torch.uint8),
        "caption": torch.tensor([[2, 4, 5, 1, 0, 0]], dtype=torch.uint8).expand(20, 6),
    }
    return measure(Captions(), WORDS, Split(tensors), columns=3, sources=2)


def test_captions_are_written_out_beside_the_real_ones_up_to_their_end():
    texts = captioned().texts
    assert texts["cross"] == (
        "1\n  caption, real: a bird .\n  caption, from photo: a red bird .\n\n"
        "2\n  caption, real: a bird .\n  caption, from photo: a red bird .\n"
    )
    assert texts["joint"].splitlines()[:2] == ["1", "  caption, sampled: a red bird ."]


def test_captions_get_a_tile_that_holds_them():
    pictures = captioned().pictures
    assert pictures["joint"].shape == (2 * 132, 3 * 132, 3)
    assert (pictures["joint"][132:, :132] < 100).any()  # ink


def test_data_without_texts_have_no_transcript():
    photos = DataSpec("plain", 1, WORDS.modalities[:1], 0, {"test": 20}, "", "")
    data = Split({"photo": torch.zeros(20, 3, 64, 64, dtype=torch.uint8)})
    assert measure(Captions(), photos, data).texts == {}


class Brighter(torch.nn.Module):
    """Reconstructs photos brighter by a tenth."""

    def reconstruct(self, views, rng):
        return {name: x + 0.1 * x if x.dim() == 4 else x for name, x in views.items()}


def test_a_photo_with_several_captions_is_shown_once_and_counts_once():
    greys = torch.tensor([0, 100, 200], dtype=torch.uint8).view(3, 1, 1, 1)
    caption = torch.tensor([[2, 4, 5, 1, 0, 0]], dtype=torch.uint8).expand(30, 6)
    rows = torch.arange(3).repeat_interleave(10)
    data = Split({"photo": greys.expand(3, 3, 64, 64), "caption": caption}, rows={"photo": rows})
    outcome = measure(Brighter(), WORDS, data, columns=3)
    top = outcome.pictures["reconstruction"][66, [66, 66 + 132, 66 + 264], 0]
    assert top.tolist() == [0, 100, 200]
    error = next(s for s in outcome.scores if s.metric == "reconstruction/mae" and s.is_summary)
    expected = 0.1 * torch.tensor([0.0, 100, 200]).double() / 255
    assert error.n == 3
    assert error.value == pytest.approx(expected.mean().item(), rel=1e-5)
    assert error.stderr == pytest.approx(expected.std().item() / 3**0.5, rel=1e-5)


def test_jitters_of_one_scan_count_as_one_in_the_error_and_each_in_the_mean():
    scans, greys = torch.arange(20) % 10, torch.arange(10, dtype=torch.uint8) * 20
    data = Split(split().tensors | {"a": greys[scans].view(20, 1, 1, 1).expand(20, 3, 28, 28)})
    data = replace(data, shared={"a": scans})
    found = {(s.metric, s.target): s for s in measure(Brighter(), data=data).scores}
    error, expected = found["reconstruction/mae", "a"], 0.1 * greys.double() / 255
    assert (error.n, error.value) == (20, pytest.approx(expected.mean().item(), rel=1e-5))
    assert error.stderr == pytest.approx(expected.std().item() / 10**0.5, rel=1e-5)


def test_photos_are_shown_from_the_whole_split():
    greys = torch.arange(0, 250, 25, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 3, 64, 64)
    caption = torch.zeros(30, 12, dtype=torch.uint8)
    rows = {"photo": torch.arange(10).repeat_interleave(3)}
    shown = _first(Split({"photo": greys, "caption": caption}, rows=rows), 4)
    levels = (shown["photo"][:, 0, 0, 0] * 255).round().int() // 25
    assert levels.tolist() == [0, 3, 6, 9]


@pytest.mark.parametrize(("size", "kept"), [(64, True), (400, True), (900, False)])
def test_pictures_stay_below_what_git_should_keep(size, kept):
    noise = torch.randint(0, 256, (size, size, 3), generator=torch.Generator().manual_seed(0))
    content = encode_picture(noise.to(torch.uint8))
    assert len(content) <= 300_000
    assert (Image.open(io.BytesIO(content)).size == (size, size)) == kept


def test_grids_are_kept_without_loss():
    picture = measure(Copy(), columns=5).pictures["cross"]
    image = Image.open(io.BytesIO(encode_picture(picture)))
    assert image.format == "WEBP"
    assert torch.equal(torch.from_numpy(np.array(image.convert("RGB"))), picture)


class Middle(torch.nn.Module):
    """Reconstructs by the mean of the test split, or `part` of the way from there to the data."""

    max_given = None

    def __init__(self, data, part):
        super().__init__()
        self.data, self.part = data, part

    def sample(self, n, rng):
        return self.data.split("test").batch(torch.arange(n)).views

    def translate(self, given, targets, rng):
        views = self.sample(len(next(iter(given.values()))), rng)
        return {name: views[name] for name in targets}

    def reconstruct(self, views, rng):
        tensors = self.data.split("test").tensors
        means = {n: tensors[n].float().mean(0) for n in ("row", "field", "flags")}
        nearer = {n: m + self.part * (views[n] - m) for n, m in means.items()}
        return views | nearer


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_vectors_are_drawn_and_their_unexplained_variance_is_measured(part):
    data = shapes()
    outcome = measure(Middle(data, part), data.spec, data.split("test"), columns=4)
    found = {s.target: s.value for s in outcome.scores if s.metric.endswith("unexplained")}
    assert found.keys() == {None, "row", "field", "flags"}
    for value in found.values():
        assert value == pytest.approx((1 - part) ** 2, abs=1e-5)
    assert {s.target for s in outcome.scores if s.metric.endswith("mae")} == {None, "wide"}
    assert set(outcome.pictures) == {"joint", "cross", "reconstruction"}
    for picture in outcome.pictures.values():
        assert picture.dtype == torch.uint8
        assert picture.shape[-1] == 3
