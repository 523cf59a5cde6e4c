"""PSNR and SSIM against scikit-image, masks and boxes against crops, and the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from shalabench.api import BenchError, Rng
from shalabench.metrics.images import boxed_ssim, foreground, psnr, quantise, ssim
from shalabench.metrics.scores import Bootstrap

pytestmark = pytest.mark.float64


def pairs(kind, channels=3, shape=(19, 24)):
    """Six pairs, `[2, 3, C, H, W]` each."""
    make = np.random.default_rng(0)
    real = gaussian_filter(make.random((2, 3, channels, *shape)), (0, 0, 0, 2, 2))
    real = (real - real.min()) / (real.max() - real.min())
    other = {
        "random": make.random(real.shape),
        "blurred": gaussian_filter(real, (0, 0, 0, 1.5, 1.5)),
        "noisy": (real + make.normal(0, 0.1, real.shape)).clip(0, 1),
        "white": np.ones(real.shape),
    }[kind]
    return torch.from_numpy(other), torch.from_numpy(real)


def each(made, real):
    for i in np.ndindex(*made.shape[:2]):
        yield i, made[i].movedim(0, -1).numpy(), real[i].movedim(0, -1).numpy()


@pytest.mark.parametrize("kind", ["random", "blurred", "noisy", "white"])
@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_and_ssim_equal_scikit_image(kind, channels):
    made, real = pairs(kind, channels)
    for i, a, b in each(made, real):
        expected = structural_similarity(b, a, data_range=1.0, channel_axis=-1)
        assert abs(ssim(made, real)[i].item() - expected) < 1e-6
        expected = peak_signal_noise_ratio(b, a, data_range=1.0)
        assert abs(psnr(made, real)[i].item() - expected) < 1e-6


def test_ssim_of_quantised_float32_predictions_equals_scikit_image():
    made, real = (quantise(x.float()) for x in pairs("noisy"))
    for i, a, b in each(made, real):
        expected = structural_similarity(b, a, data_range=1.0, channel_axis=-1)
        assert abs(ssim(made, real)[i].item() - expected) < 1e-6


def test_psnr_of_a_known_error():
    real = torch.full((2, 3, 8, 8), 0.5)
    made = real + torch.tensor([0.1, 0.01])[:, None, None, None]
    assert psnr(made, real).tolist() == pytest.approx([20, 40])


def test_a_mask_chooses_the_pixels_that_count():
    made, real = pairs("noisy")
    mask = torch.rand(2, 3, 19, 24) < 0.3
    for i in np.ndindex(2, 3):
        a, b = made[i][:, mask[i]], real[i][:, mask[i]]
        expected = -10 * (a - b).square().mean().log10()
        assert psnr(made, real, mask)[i].item() == pytest.approx(expected.item())
    assert psnr(made, real, torch.zeros_like(mask)).isnan().all()


@pytest.mark.parametrize(
    ("rows", "columns", "crop"),
    [
        ((3, 15), (5, 20), ((3, 15), (5, 20))),
        ((0, 19), (0, 24), ((0, 19), (0, 24))),
        ((4, 6), (22, 24), ((4, 11), (17, 24))),  # widened to the window, inwards at the edge
    ],
)
def test_boxed_ssim_is_scikit_image_s_of_the_crop(rows, columns, crop):
    made, real = pairs("noisy")
    mask = torch.zeros(2, 3, 19, 24, dtype=torch.bool)
    mask[..., rows[0], columns[0]] = mask[..., rows[1] - 1, columns[1] - 1] = True
    (top, bottom), (left, right) = crop
    for i, a, b in each(made, real):
        a, b = (x[top:bottom, left:right] for x in (a, b))
        expected = structural_similarity(b, a, data_range=1.0, channel_axis=-1)
        assert boxed_ssim(made, real, mask)[i].item() == pytest.approx(expected, abs=1e-6)
    assert boxed_ssim(made, real, mask & False).isnan().all()


def test_values_are_clipped_and_rounded_to_bytes():
    x = torch.tensor([-1.0, 2.0, 0.4999 / 255, 0.5001 / 255, 100.4 / 255])
    assert (quantise(x) * 255).tolist() == pytest.approx([0, 255, 0, 1, 100])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(value):
    with pytest.raises(BenchError, match="'v03' that are not finite"):
        quantise(torch.tensor([0.1, value]), "'v03'")


def test_pictures_smaller_than_the_window_are_refused():
    with pytest.raises(BenchError, match="at least 7 x 7 pixels; these have 6 x 9"):
        ssim(torch.zeros(1, 3, 6, 9), torch.zeros(1, 3, 6, 9))


def test_white_is_told_from_what_is_drawn():
    x = torch.ones(1, 3, 1, 3)
    x[0, 1, 0, 1], x[0, :, 0, 2] = 0.94, 0.96
    assert foreground(x).tolist() == [[[False, True, False]]]


def test_the_bootstrap_error_of_a_mean_is_the_standard_error():
    objects = Rng(3).normal(400).double()
    summary = Bootstrap(Rng(1))
    summary.add_mean("m", objects)
    (score,) = summary.scores
    expected = objects.std(correction=0).item() / 20
    assert score.value == pytest.approx(objects.mean().item())
    assert score.stderr == pytest.approx(expected, rel=0.05)
    low, high = summary.intervals["m"]
    assert low == pytest.approx(score.value - 1.96 * expected, abs=0.2 * expected)
    assert high == pytest.approx(score.value + 1.96 * expected, abs=0.2 * expected)


def test_objects_without_a_figure_are_left_out_and_one_has_no_error():
    summary = Bootstrap(Rng(1))
    summary.add_mean("none", torch.full((3,), torch.nan))
    summary.add_mean("one", torch.tensor([torch.nan, 2.0]))
    (score,) = summary.scores
    assert (score.metric, score.value, score.n, score.stderr) == ("one", 2.0, 1, None)
    assert summary.intervals == {}
