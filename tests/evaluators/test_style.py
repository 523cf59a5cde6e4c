"""The style evaluator: gains of copies and of the truth, colours, silhouettes, what is skipped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.rings import NAMES, SIDE, SPEC, Known, ring_of, tools_of
from pydantic import ValidationError
from skimage.color import rgb2lab

from evaluators.style import Style, chi_square, colours, gain
from shalabench.api import BenchError, Split
from shalabench.metrics.images import lab, overlap


def measure(model, split, **settings):
    return Style(Style.Config(**{"strengths": (1.0,), **settings})).run(
        model, SPEC, split, tools_of()
    )


def summaries(outcome):
    return {s.metric: s for s in outcome.scores}


def truth_of(split, first, size):
    own = split.facts["restyled"][first : first + size].float() / 255
    return {name: own[:, i] for i, name in enumerate(NAMES)}


class Source(Known):
    """Does nothing; its decoder adds noise of a hundredth."""

    def transfer(self, source, reference, strength, rng):
        return source

    def reconstruct(self, views, rng):
        return {n: x + 0.01 * rng.fork(n).normal(*x.shape) for n, x in views.items()}


class Reference(Source):
    def transfer(self, source, reference, strength, rng):
        return reference


class Oracle(Source):
    """Knows the truth."""

    def __init__(self, split):
        self.split = split

    def transfer(self, source, reference, strength, rng):
        return truth_of(self.split, rng.first, len(source["v00"]))


class Ceiling(Oracle):
    """The truth, as its decoder shows it."""

    def transfer(self, source, reference, strength, rng):
        made = super().transfer(source, reference, strength, rng)
        return self.reconstruct(made, rng)

    def reconstruct(self, views, rng):
        return {name: 0.9 * x for name, x in views.items()}


@pytest.fixture
def split():
    return ring_of(4, restyled=True)


def test_copies_gain_nothing_and_what_the_decoder_shows_gains_all(split):
    source, reference = (summaries(measure(m, split)) for m in (Source(), Reference()))
    for found, name in ((source, "source"), (reference, "reference")):
        assert found["style/psnr"].value == found[f"floor-{name}/style/psnr"].value
    gains = {found["style/psnr-gain"].value for found in (source, reference)}
    assert max(gains) == 0
    assert min(gains) < 0
    full = summaries(measure(Ceiling(split), split))
    assert full["style/psnr-gain"].value == pytest.approx(1)
    assert full["style/ssim-gain"].value == pytest.approx(1)


def test_the_truth_itself_has_the_largest_figures(split):
    found = summaries(measure(Oracle(split), split))
    assert found["style/psnr"].value == 100
    assert found["style/ssim"].value == pytest.approx(1)
    assert found["style/preference"].value == 1
    assert found["style/iou"].value == 1
    assert found["style/psnr-gain"].value > 1
    for kind in ("iou", "iou-margin", "preference"):
        assert found[f"ceiling-truth/style/{kind}"].value == found[f"style/{kind}"].value


def test_gain_is_a_place_between_the_better_copy_and_the_ceiling():
    values = (torch.tensor(x) for x in (22.0, 20.0, 18.0, 25.0))
    assert gain(*values).item() == pytest.approx(0.4)
    assert math.isnan(gain(*(torch.tensor(x) for x in (22.0, 26.0, 18.0, 25.0))).item())


def test_without_a_decoder_s_ceiling_there_is_no_gain(split):
    class Bare(Known):
        def transfer(self, source, reference, strength, rng):
            return source

    found = summaries(measure(Bare(), split))
    assert "style/psnr" in found
    assert not any("gain" in name or name.endswith("-ceiling") for name in found)


def test_preference_and_margin_tell_the_copies_apart(split):
    source, reference = (summaries(measure(m, split)) for m in (Source(), Reference()))
    assert source["style/preference"].value == 0
    assert reference["style/preference"].value == 1
    assert source["style/iou"].value == 1
    margin = source["style/iou-margin"].value
    assert margin > 0.05
    assert reference["style/iou-margin"].value == pytest.approx(-margin)


def test_the_curve_has_a_line_for_each_strength_and_guidance(split):
    asked = []

    class Guided(Source):
        def transfer(self, source, reference, strength, rng, *, guidance=None):
            asked.append((strength, guidance))
            mix = strength if guidance is None else strength / 2
            return {n: (1 - mix) * x + mix * reference[n] for n, x in source.items()}

    settings = {"strengths": (0.25, 1.0), "guidances": (3.0,), "curve_items": 2}
    outcome = measure(Guided(), split, **settings)
    curve = outcome.details["curve"]
    lines = [(row["strength"], row["guidance"]) for row in curve]
    assert lines == [(0.25, None), (1.0, None), (0.25, 3.0), (1.0, 3.0)]
    assert set(asked) == {(0.5, None), *lines}
    assert curve[1]["preference"] == 1
    assert curve[0]["iou-margin"] > curve[1]["iou-margin"]
    assert len(outcome.texts["curve"].splitlines()) == 5
    assert [row["guidance"] for row in measure(Source(), split).details["curve"]] == [None]


def test_figures_do_not_depend_on_the_batch_size(split):
    one, all_ = (summaries(measure(Source(), split, batch_size=size)) for size in (1, 4))
    assert one.keys() == all_.keys()
    for name in one:
        assert one[name].value == pytest.approx(all_[name].value, abs=1e-9), name


def test_the_figure_has_source_reference_output_and_truth_in_rows(split):
    figure = measure(Oracle(split), split).pictures["transfer"]
    tile = 64 + 4
    assert figure.shape == (4 * (4 * tile) + 3 * 8, 8 * tile, 3)
    rows = figure[: 4 * tile].view(4, tile, 8 * tile, 3)
    assert rows[1, 0, 0].tolist() == [20, 160, 60]
    assert rows[0, 0, 0].tolist() == [255, 255, 255]
    assert torch.equal(rows[2], rows[3])
    shown = split.tensors["v00"][0].permute(1, 2, 0)
    assert torch.equal(rows[0, 2:66:4, 2:66:4], shown)


def test_lab_equals_scikit_image():
    torch.manual_seed(0)
    pixels = torch.cat([torch.rand(500, 3), torch.zeros(1, 3), torch.ones(1, 3)]).double()
    expected = torch.from_numpy(rgb2lab(pixels.numpy()))
    assert (lab(pixels) - expected).abs().max() < 1e-3


def test_colours_are_histograms_of_the_masked_pixels_of_all_views():
    torch.manual_seed(0)
    pictures = torch.rand(2, 3, 3, 6, 5).double()
    masks = torch.rand(2, 3, 6, 5) < 0.5
    found = colours(pictures, masks)
    for i in range(2):
        own = rgb2lab(pictures[i].movedim(1, -1)[masks[i]].numpy())
        edges = np.linspace(-110, 110, 17)
        both, _, _ = np.histogram2d(own[:, 1], own[:, 2], (edges, edges))
        light, _ = np.histogram(own[:, 0], 8, (0, 100))
        expected = np.concatenate([both.ravel(), light]) / len(own)
        assert found[i].numpy() == pytest.approx(expected)
    assert colours(pictures, masks & False).isnan().all()


def test_chi_square_is_0_for_equals_and_1_a_histogram_for_strangers():
    a, b = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.2, 0.8])
    assert chi_square(a, a).item() == 0
    assert chi_square(a, b).item() == pytest.approx(1)


def test_overlap_is_intersection_over_union():
    a, b = torch.zeros(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)
    a[0, :2], b[0, :, :2] = True, True
    assert overlap(a, b).item() == pytest.approx(4 / 12)
    assert overlap(a & False, b & False).item() == 1


def test_data_without_truths_are_skipped_with_a_reason():
    split = ring_of(2)
    with pytest.warns(UserWarning, match="style_reference and restyled"):
        outcome = measure(Source(), Split(split.tensors, facts=split.facts))
    assert outcome.scores == []
    assert outcome.details["skipped"]
    evaluator = Style(Style.Config())
    assert evaluator.skip(Known, SPEC) == "The model lacks the ability Transfer."
    assert evaluator.skip(Source, SPEC) is None


def test_values_that_are_not_finite_are_told(split):
    class Broken(Source):
        def transfer(self, source, reference, strength, rng):
            return {n: torch.full((len(x), 3, SIDE, SIDE), torch.nan) for n, x in source.items()}

    with pytest.raises(BenchError, match="'v00' to 'v15' that are not finite"):
        measure(Broken(), split)


@pytest.mark.parametrize(
    "setting",
    [{"strength": 0}, {"strengths": (0.5, 1.5)}, {"strengths": ()}, {"guidances": (0.0, -1.0)}],
)
def test_settings_out_of_bounds_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Style.Config(**setting)
