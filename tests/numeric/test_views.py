"""View synthesis: PSNR and SSIM against scikit-image, visibility by hand, the protocol by loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

from evaluators.views import ViewSynthesis, _interval
from harness.api import Camera, DataSpec, Modality, Split, Tools
from nets.similarity import psnr, seen_from, ssim

VIEWS, SIDE, N = 8, 12, 5
NAMES = tuple(f"v{i:02}" for i in range(VIEWS))


@pytest.fixture(autouse=True)
def _single():
    """Pictures are float32; undoes the folder's default."""
    torch.set_default_dtype(torch.float32)


def pairs():
    """Pictures `[3, 16, 20]` with a random, a blurred and a noisy version."""
    rng = np.random.default_rng(0)
    real = rng.uniform(size=(3, 16, 20))
    blurred = np.stack([np.convolve(row, np.ones(3) / 3, "same") for row in real.reshape(-1, 20)])
    noisy = np.clip(real + rng.normal(0, 0.1, real.shape), 0, 1)
    return real, [rng.uniform(size=real.shape), blurred.reshape(real.shape), noisy]


def test_psnr_and_ssim_are_scikit_images():
    real, versions = pairs()
    for made in versions:
        a, b = torch.from_numpy(made), torch.from_numpy(real)
        expected = structural_similarity(real, made, data_range=1.0, channel_axis=0)
        assert ssim(a, b).item() == pytest.approx(expected, abs=1e-6)
        assert psnr(a, b).item() == pytest.approx(
            peak_signal_noise_ratio(real, made, data_range=1.0), abs=1e-6
        )


def test_a_batch_is_scored_picture_by_picture():
    real, versions = pairs()
    made, many = torch.from_numpy(np.stack(versions)), torch.from_numpy(real).expand(3, -1, -1, -1)
    for function in (psnr, ssim):
        alone = [function(made[i], many[i]).item() for i in range(3)]
        assert function(made, many).tolist() == pytest.approx(alone, rel=1e-12)


def test_the_boxed_ssim_is_that_of_the_cut_pictures():
    real, (_, _, made) = pairs()
    box = torch.zeros(16, 20, dtype=torch.bool)
    box[3, 5] = box[12, 16] = True
    expected = structural_similarity(
        real[:, 3:13, 5:17], made[:, 3:13, 5:17], data_range=1.0, channel_axis=0
    )
    found = ssim(torch.from_numpy(made), torch.from_numpy(real), box)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_a_box_below_a_window_is_widened_to_one():
    real, (_, _, made) = pairs()
    box = torch.zeros(16, 20, dtype=torch.bool)
    box[15, 19] = True  # in the corner: the last window
    expected = structural_similarity(
        real[:, 9:, 13:], made[:, 9:, 13:], data_range=1.0, channel_axis=0
    )
    found = ssim(torch.from_numpy(made), torch.from_numpy(real), box)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_masked_psnr_counts_the_mask_only():
    a, b = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    b[:, 0, 0] = 0.1
    b[:, 3, 3] = 1.0
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 0] = True
    assert psnr(a, b, mask).item() == pytest.approx(20, abs=1e-4)
    assert psnr(a, b, torch.zeros_like(mask)).isnan()
    assert psnr(a, a).item() == 100


def test_a_plane_behind_another_is_hidden_where_that_covers_it():
    # Two cameras side by side before a far wall; a near plate covers the left half of the first.
    straight = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    here = Camera(straight, (0.0, 0.0, 0.0), (1.0, 1.0))
    aside = Camera(straight, (1.0, 0.0, 0.0), (1.0, 1.0))  # stands at x = -1
    side = 40
    u = (torch.arange(side) + 0.5) / side - 0.5

    def view(shift):
        # The wall z = 4 everywhere; the plate z = 2 at x in [-1, 0].
        at = u * 2 + shift
        depth = torch.where((at >= -1) & (at <= 0), 2.0, 4.0)
        return depth.expand(1, side, side)

    found = seen_from(view(0.0), here, view(-1.0), aside)[0, 0]
    x = u * 4
    there = (x + 1) / 4  # where a wall point lands in the other view
    through = -1 + there * 2  # where its ray crosses the plate's plane
    covered = (through >= -1) & (through <= 0)
    wall = ~((u * 2 >= -1) & (u * 2 <= 0))
    expected = (there.abs() < 0.5) & ~covered
    clear = wall & (through.abs() > 0.15) & ((there.abs() - 0.5).abs() > 0.05)
    assert covered[clear].sum() > 5
    assert (~covered)[clear].sum() > 2
    assert torch.equal(found[clear], expected[clear])


def test_a_camera_sees_all_that_it_shows_and_nothing_where_nothing_is():
    camera = Camera.orbit(30, 30, 1.5, 1.1)
    depth = torch.full((2, 16, 16), 1.4)
    depth[:, :4] = 0
    seen = seen_from(depth, camera, depth, camera)
    assert torch.equal(seen, depth > 0)


class Fake(nn.Module):
    """Predicts the truth, off by a grey level that the view's number and the noise decide."""

    max_given = 4
    name, reduced, supervision = "fake", "no network", "none"

    def __init__(self, real, off=0.0, noise=0.0):
        super().__init__()
        self.real, self.off, self.noise = real, off, noise

    def translate(self, given, targets, rng):
        made = {}
        given_view = next(iter(given.values()))
        for i, name in enumerate(targets):
            # Which objects these are is read off the given view, for any batch.
            key = next(iter(given))
            index = [int((self.real[key] == x).flatten(1).all(1).nonzero()[0]) for x in given_view]
            noise = self.noise * rng.fork(name).normal(len(index), 3, SIDE, SIDE)
            made[name] = self.real[name][index] + self.off * (i + 1) + noise
        return made


def data():
    rng = np.random.default_rng(0)
    pixels = {
        n: torch.from_numpy(rng.integers(0, 200, (N, 3, SIDE, SIDE), np.uint8)) for n in NAMES
    }
    cameras = [Camera.orbit(i * 360 / VIEWS, 30, 1.5, 1.1) for i in range(VIEWS)]
    modalities = tuple(
        Modality(n, "image", (3, SIDE, SIDE), camera=c) for n, c in zip(NAMES, cameras, strict=True)
    )
    facts = {
        "alpha": torch.full((N, VIEWS, SIDE, SIDE), 255, dtype=torch.uint8),
        "depth": torch.full((N, VIEWS, SIDE, SIDE), 1.4),
    }
    return DataSpec("fake", 1, modalities, 0, {"test": N}, "", ""), Split(pixels, facts=facts)


def measure(batch_size=16, samples=3, **fake):
    spec, split = data()
    model = Fake({n: x.float() / 255 for n, x in split.tensors.items()}, **fake)
    config = ViewSynthesis.Config(batch_size=batch_size, samples=samples)
    tools = Tools(torch.device("cpu"), 0, splits=lambda name: split)
    return ViewSynthesis(config).run(model, spec, split, tools)


def summaries(outcome):
    return {s.metric: s.value for s in outcome.scores if s.is_summary}


def test_a_perfect_prediction_has_the_largest_figures():
    found = summaries(measure())
    assert found["psnr"] == found["psnr/rotation"] == found["psnr/foreground"] == 100
    assert found["ssim"] == found["ssim/box"] == pytest.approx(1)
    assert found["psnr/given-4"] == 100
    assert "psnr/given-8" not in found
    assert "psnr/mean" not in found  # no noise: one sample is all there is


def test_the_headline_is_the_mean_over_views_then_objects_and_no_pooled_error():
    outcome = measure(off=5 / 255)
    levels = [(i + 1) * 5 / 255 for i in range(VIEWS - 1)]
    by_view = [-20 * np.log10(level) for level in levels]
    pooled = -10 * np.log10(np.mean(np.square(levels)))
    found = summaries(outcome)["psnr"]
    assert found == pytest.approx(np.mean(by_view), abs=1e-6)
    assert abs(found - pooled) > 2
    parts = {s.target: s.value for s in outcome.scores if s.metric == "psnr" and s.target}
    assert [parts[name] for name in NAMES[1:]] == pytest.approx(by_view, abs=1e-6)


def test_the_mean_of_noisy_samples_is_nearer_and_the_best_is_no_worse_than_one():
    found = summaries(measure(noise=0.1))
    assert found["psnr/mean"] > found["psnr"] + 2
    assert found["psnr/best"] >= found["psnr"]


def test_the_floors_are_those_of_loops():
    outcome = measure(off=0.1)
    _, split = data()
    real = np.stack([split.tensors[n].numpy() for n in NAMES], 1)[:, 1:] / 255
    white = np.mean(
        [[peak_signal_noise_ratio(x, np.ones_like(x), data_range=1) for x in o] for o in real]
    )
    floors = outcome.details["floors"]
    assert floors["white"]["psnr"] == pytest.approx(white, abs=1e-6)
    # Here the training split is the test split: the nearest object is the object.
    assert floors["nearest training object"]["psnr"] == 100
    mean = np.round(real.mean(0) * 255) / 255
    expected = np.mean(
        [
            [peak_signal_noise_ratio(x, m, data_range=1) for x, m in zip(o, mean, strict=True)]
            for o in real
        ]
    )
    assert floors["mean image"]["psnr"] == pytest.approx(expected, abs=1e-3)


def test_the_batch_size_changes_nothing():
    assert summaries(measure(noise=0.1)) == summaries(measure(noise=0.1, batch_size=2))


def test_the_bootstrap_interval_of_a_mean_is_that_of_its_normal_law():
    values = torch.from_numpy(np.random.default_rng(0).normal(20, 2, 400))
    low, high = _interval(values)
    half = 1.96 * values.std().item() / 20
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert low < values.mean() < high


def test_angles_and_notes_are_recorded():
    details = measure().details
    assert len(details["by_angle"]["psnr"]) == VIEWS // 2
    told = " ".join(details["notes"])
    assert "12 x 12" in told
    assert "fake, reduced: no network." in told


def test_data_without_cameras_are_skipped_with_the_reason():
    spec = DataSpec("digits", 1, (Modality("m0", "image", (1, 8, 8)),), 0, {}, "", "")
    assert "no cameras" in ViewSynthesis(ViewSynthesis.Config()).skip(Fake, spec)
