"""The view evaluator: its figures against loops, floors, perfect and noisy predictions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.rings import NAMES, SIDE, SPEC, VIEWS, Known, Noisy, ring_of, tools_of
from skimage.metrics import structural_similarity

from evaluators.views import ViewSynthesis
from shalabench.api import BenchError, Modality, Split, Translate


def measure(model, split, train=None, **settings):
    evaluator = ViewSynthesis(ViewSynthesis.Config(**settings))
    return evaluator.run(model, SPEC, split, tools_of(train))


def summaries(outcome):
    return {s.metric: s for s in outcome.scores if s.is_summary}


class Fixed(Known):
    """Always the same picture of each view."""

    def __init__(self, pictures):
        self.pictures = pictures

    def translate(self, given, targets, rng):
        n = len(next(iter(given.values())))
        return {name: self.pictures[name].expand(n, -1, -1, -1) for name in targets}


def looped(made, real):
    """PSNR and SSIM of byte pictures, object by object and view by view, from the formulas."""
    psnrs, ssims = [], []
    for a, b in zip(made.double() / 255, real.double() / 255, strict=True):  # [T, 3, R, R]
        mse = [float(((x - y) ** 2).mean()) for x, y in zip(a, b, strict=True)]
        own = [10 * torch.tensor(1 / m).log10().item() if m else 100.0 for m in mse]
        alike = [
            structural_similarity(
                x.movedim(0, -1).numpy(), y.movedim(0, -1).numpy(), data_range=1.0, channel_axis=-1
            )
            for x, y in zip(a, b, strict=True)
        ]
        psnrs.append(sum(own) / len(own))
        ssims.append(sum(alike) / len(alike))
    return sum(psnrs) / len(psnrs), sum(ssims) / len(ssims)


def others(split):
    return torch.stack([split.tensors[name] for name in NAMES[1:]], dim=1)


def test_a_perfect_prediction_has_the_largest_figures_everywhere():
    found = summaries(measure(Noisy(ring_of(3), 0.0), ring_of(3)))
    for name, score in found.items():
        if not name.startswith("floor"):
            assert score.value == pytest.approx(100 if "psnr" in name else 1), name
    assert {"psnr/p1", "ssim/p1-box", "psnr/p1-rotated", "views/psnr-8-given"} <= set(found)


def test_figures_are_means_of_views_then_objects_and_never_of_pooled_errors():
    split = ring_of(4)
    pictures = {n: (26 + 12 * i) / 255 * torch.ones(3, SIDE, SIDE) for i, n in enumerate(NAMES)}
    found = summaries(measure(Fixed(pictures), split))
    made = torch.stack([(255 * pictures[n]).round() for n in NAMES[1:]]).expand(4, -1, -1, -1, -1)
    psnr, ssim = looped(made, others(split))
    assert found["psnr/p1"].value == pytest.approx(psnr, abs=1e-6)
    assert found["ssim/p1"].value == pytest.approx(ssim, abs=1e-6)
    pooled = -10 * ((made - others(split)).double() / 255).square().mean().log10().item()
    assert abs(found["psnr/p1"].value - pooled) > 0.3


def test_predictions_are_clipped_and_rounded_before_they_are_scored():
    split = ring_of(3)
    exact = Noisy(split, 0.0)

    class Off(Known):
        def translate(self, given, targets, rng):
            return {
                name: torch.where(x == 1, 7.0, x + 0.4 / 255)
                for name, x in exact.translate(given, targets, rng).items()
            }

    assert summaries(measure(Off(), split))["psnr/p1"].value == 100


def test_floors_are_those_of_loops():
    test, train = ring_of(3), ring_of(9, seed=1)
    found = summaries(measure(Noisy(test), test, train))
    mean = others(train).double().mean(0).round().expand(3, -1, -1, -1, -1)
    first, bank = (s.tensors["v00"].double().flatten(1) for s in (test, train))
    nearest = [min(range(9), key=lambda k: (x - bank[k]).square().sum().item()) for x in first]
    guesses = {"mean": mean, "nearest": others(train)[nearest], "white": torch.full_like(mean, 255)}
    for name, guess in guesses.items():
        psnr, ssim = looped(guess, others(test))
        assert found[f"floor-{name}/psnr"].value == pytest.approx(psnr, abs=1e-6)
        assert found[f"floor-{name}/ssim"].value == pytest.approx(ssim, abs=1e-6)


def test_pictures_without_an_object_count_in_no_value_and_are_named():
    split, train = ring_of(3), ring_of(4, seed=1)
    whole = summaries(measure(Noisy(split), split, train))
    blank = {n: x.clone() for n, x in split.tensors.items()}
    for name in NAMES[1:]:
        blank[name][2] = 255  # every target of the last object
    blank[NAMES[3]][0] = 250
    outcome = measure(Noisy(split), replace(split, tensors=blank), train)
    found = summaries(outcome)
    assert found["floor-white/psnr"].n == found["psnr/p1"].n == 2
    assert found["psnr/p1-best-of-8"].n == found["psnr/p1-rotated"].n - 1 == 2  # view 0 is left
    assert found["floor-white/psnr"].value < whole["floor-white/psnr"].value + 1
    count = len(NAMES)
    (note, *_) = [n for n in outcome.details["notes"] if "no object" in n]
    assert f"{count} of {3 * count}" in note
    assert f"0/{NAMES[3]}, 2/{NAMES[1]}" in note
    assert not any("no object" in n for n in measure(Noisy(split), split).details["notes"])


def test_without_training_data_only_the_white_floor_is_told():
    found = summaries(measure(Noisy(ring_of(2)), ring_of(2)))
    assert [n for n in found if n.startswith("floor")] == ["floor-white/psnr", "floor-white/ssim"]


def test_figures_do_not_depend_on_the_batch_size():
    split, train = ring_of(3), ring_of(4, seed=1)
    one, all_ = (
        summaries(measure(Noisy(split), split, train, batch_size=size, more_items=2))
        for size in (1, 3)
    )
    assert one.keys() == all_.keys()
    for name in one:
        assert one[name].value == pytest.approx(all_[name].value, abs=1e-9), name
        assert one[name].stderr == pytest.approx(all_[name].stderr, abs=1e-9), name


def test_figures_of_fewer_objects_say_so_with_p1_of_the_same():
    split = ring_of(4)
    model = Fixed(dict.fromkeys(NAMES, torch.zeros(3, SIDE, SIDE)))
    (_, note) = measure(model, split, more_items=2).details["notes"]
    few = summaries(measure(model, split.head(2)))
    assert f"first 2 objects only; psnr/p1 of these is {few['psnr/p1'].value:.2f}" in note
    assert len(measure(model, split).details["notes"]) == 1


def test_of_eight_samples_the_mean_is_less_noisy_and_the_best_no_worse():
    split = ring_of(3)
    outcome = measure(Noisy(split), split)
    found = {name: score.value for name, score in summaries(outcome).items()}
    assert not outcome.details["deterministic"]
    assert found["psnr/p1-mean-of-8"] > found["psnr/p1"] + 3
    assert found["psnr/p1-best-of-8"] > found["psnr/p1"]
    assert found["ssim/p1-best-of-8"] > found["ssim/p1"]


def test_a_method_without_noise_is_asked_for_two_samples_only():
    calls, sizes = [], []

    class Counted(Fixed):
        def translate(self, given, targets, rng):
            calls.append(tuple(given))
            sizes.append(len(next(iter(given.values()))))
            return super().translate(given, targets, rng)

    outcome = measure(Counted({name: torch.zeros(3, SIDE, SIDE) for name in NAMES}), ring_of(2))
    found = summaries(outcome)
    assert outcome.details["deterministic"]
    assert found["psnr/p1-best-of-8"].value == found["psnr/p1"].value
    assert found["psnr/p1-mean-of-8"].value == found["psnr/p1"].value
    assert calls.count(("v00",)) == 2  # headline, which the sheet shows, and one to compare
    assert sizes[:2] == [2, 1]
    assert {c for c in calls if len(c) == 1} == {("v00",), ("v04",), ("v08",), ("v12",)}
    assert [len(c) for c in calls if len(c) > 1] == [2, 4, 8]


def test_p2_has_the_same_targets_for_every_number_of_given_views():
    asked = {}

    class Asked(Noisy):
        def translate(self, given, targets, rng):
            if len(given) > 1:
                asked[tuple(given)] = tuple(targets)
            return super().translate(given, targets, rng)

    split = ring_of(2)
    found = summaries(measure(Asked(split), split))
    assert set(asked) == {NAMES[::8], NAMES[::4], NAMES[::2]}
    assert set(asked.values()) == {NAMES[1::2]}
    assert "views/ssim-1-given" in found


def test_a_method_that_takes_one_view_has_no_p2():
    class One(Noisy):
        max_given = 1

    found = summaries(measure(One(ring_of(2)), ring_of(2)))
    assert not any("given" in name for name in found)


def test_hidden_pixels_are_those_that_view_0_does_not_show():
    split = ring_of(2)
    depth = split.facts["depth"]
    depth[:, 1:] = torch.where(depth[:, 1:] > 0, 1.5, 0.0)
    depth[:, 0] = 0.2  # something right before camera 0 hides all
    found = summaries(measure(Noisy(split), split))
    assert "views/psnr-visible" not in found
    assert found["views/psnr-hidden"].value < 40
    bare = Split(split.tensors)
    assert "views/psnr-hidden" not in summaries(measure(Noisy(bare), bare))


def test_what_is_not_white_is_scored_apart():
    split = ring_of(3)
    real = others(split).double() / 255
    found = summaries(measure(Fixed(dict.fromkeys(NAMES, torch.ones(3, SIDE, SIDE))), split))
    expected = []
    for own in real.flatten(0, 1):
        drawn = (own < 0.95).any(0)
        expected.append(-10 * (1 - own[:, drawn]).square().mean().log10().item())
    value = found["psnr/p1-foreground"].value
    assert value == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    assert value < found["psnr/p1"].value - 1


def test_figures_by_angle_cover_every_target_and_parts_name_them():
    split = ring_of(3)
    outcome = measure(Noisy(split), split)
    rows = outcome.details["by_angle"]
    assert [row["degrees"] for row in rows] == sorted(row["degrees"] for row in rows)
    assert (rows[-1]["degrees"], rows[-1]["views"]) == (120, 1)
    assert sum(row["views"] for row in rows) == VIEWS - 1
    parts = [s for s in outcome.scores if s.metric == "psnr/p1" and not s.is_summary]
    assert [s.target for s in parts] == list(NAMES[1:])
    opposite = next(s.value for s in parts if s.target == "v08")
    assert rows[-1]["psnr"] == pytest.approx(opposite)


def test_intervals_enclose_the_mean_and_errors_are_over_objects():
    split = ring_of(6)
    outcome = measure(Fixed(dict.fromkeys(NAMES, torch.ones(3, SIDE, SIDE))), split)
    low, high = outcome.details["intervals"]["psnr/p1"]
    score = summaries(outcome)["psnr/p1"]
    assert low < score.value < high
    assert 0.5 * (high - low) / 1.96 == pytest.approx(score.stderr, rel=0.2)


def test_the_record_says_what_a_table_needs():
    model = Noisy(ring_of(2))
    model.reduced, model.supervision = "no weights of others", "single views"
    row = measure(model, ring_of(2)).details["row"]
    assert row == {
        "resolution": "16 px",
        "supervision": "single views",
        "reduced": "no weights of others",
        "protocol": "P1",
    }
    assert measure(Noisy(ring_of(2)), ring_of(2)).details["row"]["supervision"] == "aligned views"


def test_the_sheet_frames_the_given_view_and_shows_the_truth_below():
    split = ring_of(2)
    sheet = measure(Noisy(split, 0.0), split).pictures["sheet"]
    tile = 64 + 4
    assert sheet.shape == (2 * 2 * tile + 8, VIEWS * tile, 3)
    assert sheet[0, 0].tolist() == [20, 160, 60]
    assert sheet[0, tile].tolist() == [255, 255, 255]
    assert torch.equal(sheet[2:tile, tile:], sheet[tile + 2 : 2 * tile, tile:])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_told(value):
    with pytest.raises(BenchError, match="not finite"):
        measure(Fixed(dict.fromkeys(NAMES, torch.full((3, SIDE, SIDE), value))), ring_of(2))


def test_data_without_cameras_small_pictures_and_other_methods_are_skipped_with_a_reason():
    evaluator = ViewSynthesis(ViewSynthesis.Config())
    assert evaluator.skip(Noisy, SPEC) is None
    text = Modality("t", "text", (4,))
    bare = replace(SPEC, modalities=(*SPEC.modalities, text))
    assert evaluator.skip(Noisy, bare) == "The dataset 'ring' has no cameras for t."
    small = tuple(replace(m, shape=(3, 6, 6)) for m in SPEC.modalities)
    assert "at least 7 x 7" in evaluator.skip(Noisy, replace(SPEC, modalities=small))
    assert evaluator.skip(Known, SPEC) == f"The model lacks the ability {Translate.__name__}."
