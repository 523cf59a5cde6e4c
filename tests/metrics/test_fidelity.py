"""FID and its kin against closed forms, loops, and torch-fidelity's own command."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from helpers.qualities import SPEC, Copier, random_inception, split_of, tools_of
from PIL import Image
from scipy.linalg import sqrtm
from torch_fidelity import metric_fid, metric_kid, metric_prc

from evaluators.quality import Quality
from shalabench.metrics import pairs
from shalabench.metrics.features import Inception
from shalabench.metrics.fid import Real, compare, frechet


def features_of(n, mean, covariance, seed=0):
    """Features whose sample moments are exactly the given ones."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x = x - x.mean(0)
    x = np.linalg.solve(np.linalg.cholesky(np.cov(x, rowvar=False)), x.T).T
    return torch.from_numpy(x @ np.linalg.cholesky(covariance).T + mean)


def covariance_of(d, seed):
    x = np.random.default_rng(seed).normal(size=(2 * d, d))
    return x.T @ x / d


def precision_recall(made, real):
    values = compare(made, Real(real), 1, 0).values
    return values["precision"], values["recall"]


def theirs(made, real, subsets):
    """FID, KID, precision and recall by torch-fidelity's functions."""
    fid = {"mu": made.mean(0).numpy(), "sigma": np.cov(made.numpy(), rowvar=False)}
    other = {"mu": real.mean(0).numpy(), "sigma": np.cov(real.numpy(), rowvar=False)}
    size = min(1000, len(made), len(real))
    kid = metric_kid.kid_features_to_metric(
        made, real, kid_subsets=subsets, kid_subset_size=size, verbose=False
    )
    prc = metric_prc.prc_features_to_metric(made, real, save_cpu_ram=True, verbose=False)
    fid = metric_fid.fid_statistics_to_metric(fid, other, verbose=False)
    return {
        "fid": fid[metric_fid.KEY_METRIC_FID],
        "kid": kid[metric_kid.KEY_METRIC_KID_MEAN],
        "precision": prc[metric_prc.KEY_METRIC_PRECISION],
        "recall": prc[metric_prc.KEY_METRIC_RECALL],
    }


def measure(model, n=120, split=None, context=None, **settings):
    evaluator = Quality(
        Quality.Config(**{"kid_subsets": 2, "extractors": "classifier", **settings})
    )
    outcome = evaluator.run(model, SPEC, split or split_of(n), context or tools_of())
    return {s.metric: s for s in outcome.scores if s.is_summary}, outcome


def test_fid_of_two_gaussians_is_the_closed_form():
    d = 6
    first, second = covariance_of(d, 1), covariance_of(d, 2)
    means = np.arange(d) / 3, np.ones(d)
    expected = np.square(means[0] - means[1]).sum() + np.trace(first) + np.trace(second)
    expected -= 2 * np.trace(sqrtm(first @ second)).real
    made = features_of(300, means[0], first)
    real = Real(features_of(500, means[1], second, seed=1))
    assert frechet(made, real).item() == pytest.approx(expected, rel=1e-9)
    assert compare(made.float(), real, 1, 0).values["fid"] == pytest.approx(expected, rel=1e-5)


def test_a_set_is_at_no_distance_from_itself():
    x = features_of(200, np.full(5, 300.0), covariance_of(5, 3))
    assert frechet(x, Real(x)).item() == pytest.approx(0, abs=1e-6)
    assert precision_recall(x, x) == (1.0, 1.0)


def test_kid_of_whole_sets_is_the_unbiased_estimate_written_out():
    x, y = (features_of(12, np.full(3, m), covariance_of(3, s), s) for m, s in ((0.0, 1), (1.0, 2)))

    def k(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    within = [
        sum(k(u[i], u[j]) for i in range(12) for j in range(12) if i != j) / (12 * 11)
        for u in (x, y)
    ]
    across = sum(k(a, b) for a in x for b in y) / 144
    found = compare(x, Real(y), 1, 0).values["kid"]
    assert found == pytest.approx(sum(within) - 2 * across, rel=1e-9)


def test_precision_is_of_the_generated_and_recall_of_the_real():
    make = torch.Generator().manual_seed(0)
    left = torch.randn(60, 3, generator=make).double()
    right = torch.randn(60, 3, generator=make).double() + 100
    half = torch.randn(60, 3, generator=make).double()
    precision, recall = precision_recall(half, torch.cat([left, right]))
    assert precision > 0.8
    assert 0.3 < recall <= 0.5
    assert precision_recall(torch.cat([left, right]), half)[0] <= 0.5


@pytest.mark.parametrize(("n", "d"), [(60, 4), (50, 4), (12, 20), (26, 20)])
def test_leaving_a_group_out_is_the_fid_of_the_others(n, d):
    make = torch.Generator().manual_seed(0)
    made = torch.randn(n, d, generator=make).double() * torch.arange(1, d + 1) + 50
    real = Real(torch.randn(80, d, generator=make).double())
    found = frechet(made, real, 4)
    assert found[0].item() == pytest.approx(frechet(made, real).item(), rel=1e-12)
    for g, value in enumerate(found[1:]):
        others = torch.cat([made[k::4] for k in range(4) if k != g])
        assert value.item() == pytest.approx(frechet(others, real).item(), rel=1e-9)


@pytest.mark.parametrize("d", [4, 70])
def test_all_images_of_a_source_are_left_out_together(d):
    make = torch.Generator().manual_seed(0)
    made, real = torch.randn(60, d, generator=make).double(), torch.randn(80, d, generator=make)
    real, sources = Real(real.double()), 7 * torch.randperm(60, generator=make) // 5  # 84 numbers
    found = frechet(made, real, 4, sources)
    ranks = sources.unique(return_inverse=True)[1]
    for g, value in enumerate(found[1:]):
        expected = frechet(made[ranks % 4 != g], real)
        assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    few = compare(made, real, 2, 4, torch.arange(60) % 3)
    assert few.values == compare(made, real, 2, 4).values
    assert "fid" not in few.replicates


def test_the_error_of_fid_counts_sources_and_not_their_copies():
    make, error = torch.Generator().manual_seed(0), {}
    real = Real(torch.randn(500, 3, generator=make).double())
    made = torch.randn(200, 3, generator=make).double().repeat_interleave(10, 0)
    for sources in (None, torch.arange(200).repeat_interleave(10)):
        values = compare(made, real, 1, 20, sources).replicates["fid"]
        error[sources is None] = (values.std() / 20**0.5).item()
    expected = compare(made[::10], real, 1, 20).replicates["fid"].std().item() / 20**0.5
    assert error[False] == pytest.approx(expected, rel=0.15)
    assert error[True] < 0.7 * expected


@pytest.mark.parametrize(("n", "others", "d"), [(300, 400, 6), (400, 300, 6), (40, 60, 90)])
def test_all_figures_are_torch_fidelity_s(monkeypatch, n, others, d):
    """In blocks of rows that are no multiple of the groups, and with draws of a part."""
    monkeypatch.setattr(pairs, "_ROWS", 97)
    make = torch.Generator().manual_seed(d)
    made = torch.randn(n, d, generator=make).double() + 0.4
    real = torch.randn(others, d, generator=make).double() * torch.linspace(0.5, 1.5, d)
    found, groups = compare(made, Real(real), 3, 4), range(4)
    for family, expected in theirs(made, real, 3).items():
        # Their FID has roots of rounding where there are fewer images than dimensions.
        assert found.values[family] == pytest.approx(expected, rel=1e-6), family
    parts = [theirs(made[g::4], real[g::4], 1) for g in groups]
    for family in ("kid", "precision", "recall"):
        expected = [part[family] for part in parts]
        assert found.replicates[family].tolist() == pytest.approx(expected, rel=1e-6), family
    for g in groups:
        left_out = torch.cat([made[k::4] for k in groups if k != g])
        expected = 4 * found.values["fid"] - 3 * theirs(left_out, real, 1)["fid"]
        assert found.replicates["fid"][g].item() == pytest.approx(expected, rel=1e-5)


def test_draws_are_a_thousand_images_at_most_and_one_real_set_serves_two_sizes():
    make = torch.Generator().manual_seed(0)
    x = torch.randn(2600, 3, generator=make).double()
    real = Real(x[:1300])
    for made in (x[1300:], x[1300:2450], x[1300:]):
        found = compare(made, real, 2, 2)
        expected = theirs(made, real.features, 2)
        assert found.values["kid"] == pytest.approx(expected["kid"], rel=1e-6)
        assert found.values["recall"] == pytest.approx(expected["recall"], rel=1e-6)
        parts = [theirs(made[g::2], real.features[g::2], 1)["kid"] for g in range(2)]
        assert found.replicates["kid"].tolist() == pytest.approx(parts, rel=1e-6)


def test_constant_features_give_figures():
    x = torch.cat([features_of(60, np.zeros(3), covariance_of(3, 1)), torch.ones(60, 2)], 1)
    same = torch.ones(40, 5).double()
    found = compare(same, Real(x), 1, 3)
    expected = (1 - x.mean(0)).square().sum() + x.var(0).sum()
    assert found.values["fid"] == pytest.approx(expected.item(), rel=1e-6)
    assert all(torch.isfinite(values).all() for values in found.replicates.values())


def test_the_standard_error_is_the_spread_of_fresh_samples():
    make = torch.Generator().manual_seed(0)
    real = Real(torch.randn(1000, 3, generator=make).double())
    values, errors = [], []
    for _ in range(40):
        found = compare(torch.randn(300, 3, generator=make).double() + 0.5, real, 1, 10)
        values.append([found.values[f] for f in ("fid", "kid")])
        errors.append([(found.replicates[f].std() / 10**0.5).item() for f in ("fid", "kid")])
    fid, kid = np.mean(errors, 0) / np.std(values, 0)
    assert 0.8 < fid < 1.25
    assert 0.8 < kid < 3  # group against group: on the large side


def test_summaries_are_means_over_sources_then_targets_and_self_pairs_stand_apart():
    split = split_of(120)
    scores, outcome = measure(Copier(split), split=split, resamples=3)
    parts = {}
    for s in outcome.scores:
        if not s.is_summary:
            parts.setdefault(s.metric, {})[(*s.given, s.target)] = s.value
    cross, own = parts["fid/classifier/cross"], parts["fid/classifier/self"]
    assert set(cross) == {("b", "a"), ("c", "a"), ("a", "b"), ("c", "b")}
    assert set(own) == {("a", "a"), ("b", "b")}
    assert set(parts["fid/classifier/joint"]) == {("a",), ("b",)}
    a, b = ((cross[s, t] + cross["c", t]) / 2 for s, t in (("b", "a"), ("a", "b")))
    assert scores["fid/classifier/cross"].value == pytest.approx((a + b) / 2)
    joint = scores["fid/classifier/joint"]
    assert joint.value == pytest.approx(np.mean(list(parts["fid/classifier/joint"].values())))
    assert joint.n == 120
    assert joint.stderr > 0


def test_copies_are_perfect_and_rounding_and_clamping_come_before_the_features():
    split = split_of(120)
    for off in (0.0, 0.4):
        scores, _ = measure(Copier(split, off), split=split)
        assert scores["fid/classifier/cross"].value == pytest.approx(0, abs=1e-6)
        assert scores["precision/classifier/cross"].value == 1
        assert scores["recall/classifier/cross"].value == 1
    far, _ = measure(Copier(split, 40.0), split=split)
    assert far["fid/classifier/cross"].value > 1e-4
    assert far["fid/classifier/joint"].value == scores["fid/classifier/joint"].value


def test_batch_size_changes_no_figure():
    split = split_of(120)
    found = [
        measure(Copier(split), split=split, batch_size=size, items=50, samples=70)[0]
        for size in (7, 500)
    ]
    for name, score in found[0].items():
        assert score.value == pytest.approx(found[1][name].value, rel=1e-5, abs=1e-9), name
        assert score.n == (70 if name.endswith("joint") else 50)


def test_the_floor_is_the_real_training_set_in_the_generated_one_s_place():
    split, train = split_of(120), split_of(300, seed=5)
    scores, outcome = measure(Copier(split), split=split, context=tools_of(train=train))
    joint = scores["fid/classifier/joint"].value  # uniform, as the training set of `a`
    assert 0 < scores["floor/fid/classifier"].value < joint
    assert scores["floor/fid/classifier"].n == 120
    assert outcome.details["real"] == {"a": 120, "b": 120}


def test_inception_gives_what_torch_fidelity_gives_on_png_folders(tmp_path):
    from torch_fidelity import calculate_metrics

    content, n = random_inception(), 10
    digest = hashlib.sha256(content).hexdigest()
    make = torch.Generator().manual_seed(1)
    coarse = torch.rand(2 * n, 3, 7, 7, generator=make) ** torch.tensor([1.0] * n + [3.0] * n).view(
        -1, 1, 1, 1
    )
    images = (torch.nn.functional.interpolate(coarse, 28) * 255).to(torch.uint8)
    (tmp_path / "weights.pth").write_bytes(content)
    for i, image in enumerate(images):
        folder = tmp_path / ("made" if i < n else "real")
        folder.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:03d}.png")
    printed = calculate_metrics(
        input1=str(tmp_path / "made"),
        input2=str(tmp_path / "real"),
        feature_extractor="inception-v3-compat",
        feature_layer_prc="2048",
        feature_extractor_weights_path=str(tmp_path / "weights.pth"),
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=n,
        kid_subsets=2,
        samples_shuffle=False,
        batch_size=n,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    with torch.inference_mode():
        features = Inception(content, digest, torch.device("cpu"))(images).double()
    ours = compare(features[:n], Real(features[n:]), 2, 0).values
    assert ours["fid"] > 1e-3
    assert ours["fid"] == pytest.approx(printed["frechet_inception_distance"], rel=1e-3)
    assert ours["kid"] == pytest.approx(printed["kernel_inception_distance_mean"], rel=1e-3)
    assert ours["precision"] == pytest.approx(printed["precision"], rel=1e-3)
    assert ours["recall"] == pytest.approx(printed["recall"], rel=1e-3)


def test_what_is_computed_of_real_images_is_kept(tmp_path, monkeypatch):
    make = torch.Generator().manual_seed(0)
    made, real = (torch.randn(n, 6, generator=make).double() for n in (60, 80))
    expected = compare(made, Real(real), 3, 4)
    for _ in range(2):  # computed and kept, then read
        found = compare(made, Real(real, folder=tmp_path), 3, 4)
        assert found.values == expected.values
        for name, x in expected.replicates.items():
            assert torch.equal(found.replicates[name], x)
        monkeypatch.setattr("shalabench.metrics.fid.torch.linalg.qr", None)  # not called again
    assert len(list(tmp_path.glob("*.npz"))) == 2
