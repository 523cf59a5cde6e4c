"""The command line: every mistake is told in sentences, all at once, before any work."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import bench
from harness.config import resolve
from harness.published import read_published


def call(*arguments):
    return CliRunner().invoke(bench.main, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "--models", "mmvae-plus", "--dataset", "toy"], "Did you mean 'mmvae+'?"),
        (["run", "--models", "shala", "--dataset", "tox"], "Did you mean 'toy'?"),
        (["run", "--models", "shala", "--dataset", "toy", "--preset", "quik"], "'quick'"),
        (["run", "--models", "shala", "--dataset", "toy", "--seeds", "x"], "--seeds is 'x'"),
        (["run", "--models", "shala", "--dataset", "toy", "--time-limit", "x"], "90s"),
        (
            ["run", "--models", "shala", "--dataset", "toy", "--evaluators", "coherense"],
            "coherence",
        ),
        (
            ["config", "--models", "shala", "--dataset", "toy", "--set", "model.latentdim=3"],
            "latent_dim",
        ),
        (
            ["config", "--models", "shala", "--dataset", "toy", "--set", "model.latent_dim=0"],
            "greater",
        ),
        (["config", "--models", "shala", "--dataset", "toy", "--set", "nonsense"], "KEY=VALUE"),
        (["table", "--metric", "coherense"], "Did you mean 'coherence'?"),
        (["table", "--metric", "coherence", "--dataset", "polymist"], "'polymnist'"),
        (["list", "modls"], "'models'"),
        (["tabel"], "'table'"),
    ],
)
def test_a_mistake_is_told_with_the_nearest_name(arguments, expected):
    result = call(*arguments)
    assert result.exit_code == 2
    assert expected in result.output
    assert "Traceback" not in result.output


def test_several_mistakes_are_told_together():
    result = call(
        *("config", "--models", "shalla,mmvae", "--dataset", "toy"),
        *("--preset", "smok", "--set", "train.precision=half"),
    )
    for word in ("'shalla'", "'mmvae'", "'smok'"):
        assert word in result.output
    result = call(
        *("config", "--models", "shala", "--dataset", "toy"),
        *("--set", "train.precision=half", "--set", "model.nothing=1", "--set", "data.train=1"),
    )
    for word in ("train.precision", "model.nothing", "data.train"):
        assert word in result.output


def test_layers_override_in_the_stated_order(tmp_path, monkeypatch):
    from harness import config

    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    (tmp_path / "presets").mkdir()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "presets" / "p.toml").write_text(
        "# About.\n[model]\nlatent_dim = 2\nbeta = { value = 2, source = 'here' }\nsteps = 2\n"
    )
    (tmp_path / "datasets" / "toy.toml").write_text(
        "[model]\nsteps = 3\nbatch_size = 3\nfeature_dim = 3\n[models.shala]\nbatch_size = 4\n"
        "feature_dim = 4\n[presets.p.models.shala]\nfeature_dim = 5\n"
    )
    found = resolve("shala", "toy", "p", ("model.fusion_width=6",))
    model = found.model
    assert (model.latent_dim, model.beta, model.steps) == (2, 2, 3)
    assert (model.batch_size, model.feature_dim, model.fusion_width) == (4, 5, 6)
    assert found.origins["model.beta"].source == "here"
    assert found.origins["model.beta"].layer == "preset p"
    assert found.origins["model.feature_dim"].layer == "dataset toy, preset p"
    assert found.origins["model.fusion_width"].layer == "--set"
    assert found.origins["model.kl_warmup"].layer == "class default"


def test_every_setting_of_every_preset_has_a_source():
    for dataset in ("polydigits", "polymnist"):
        for preset in ("smoke", "quick", "cpu", "paper"):
            result = call(
                *("config", "--models", "shala,mmvae+", "--dataset", dataset),
                *("--preset", preset, "--json"),
            )
            assert result.exit_code == 0, result.output
            for settings in json.loads(result.output).values():
                bare = [s["setting"] for s in settings if not s["source"]]
                assert bare == [], (dataset, preset)


def test_lists_show_papers_versions_and_abilities():
    result = call("list", "models", "--json")
    shala = next(m for m in json.loads(result.output)["models"] if m["name"] == "shala")
    assert "AAAI 2026" in shala["paper"]
    assert shala["version"] == "1"
    for ability in ("joint", "translate", "transfer"):
        assert ability in shala["abilities"]
    for kind in ("datasets", "evaluators", "presets"):
        assert call("list", kind).exit_code == 0


def test_a_broken_file_is_listed_with_its_reason(tmp_path, monkeypatch):
    import baselines
    from harness.api import registry

    (tmp_path / "halfdone.py").write_text("import no_such_module\n")
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_discovered", set())
    monkeypatch.setitem(registry._broken, "model", {})
    result = call("list", "models")
    assert "baselines.halfdone" in result.output
    assert "No module named 'no_such_module'" in result.output


def test_published_figures_are_the_paper_s():
    """Typed from the paper's tables by hand, not read from the file."""
    found = {(p.dataset, p.method, p.metric, p.condition): p.value for p in read_published()}
    fid = "fid/inception-v3-compat/"
    for key, value in {
        ("polymnist", "shala", "coherence/joint", ""): "0.815",
        ("polymnist", "shala", "coherence/cross", ""): "0.897",
        ("polymnist", "mmvae+", "coherence/joint", ""): "0.344",
        ("polymnist", "mmvae+", "coherence/cross", ""): "0.869",
        ("polymnist", "mvtcae", "coherence/joint", ""): "0.003",
        ("mst", "mmjsd", "coherence/cross", ""): "0.72",
        ("mst", "mvebm", "coherence/cross", ""): "0.43",
        ("polymnist", "mvae", f"{fid}joint", ""): "50.65",
        ("polymnist", "cmvae", f"{fid}cross", ""): "74.53",
        ("cub", "shala", f"{fid}cross", ""): "25.58",
        ("cub", "mvebm", f"{fid}cross", ""): "136.16",
        ("cars", "shala", "psnr", "128 px"): "24.7",
        ("cars", "syncdreamer", "ssim", "256 px"): "0.88",
        ("mst", "shala", "coherence/joint", "condition on x"): "0.23",
        ("polymnist", "shala", f"{fid}cross", "1/4x parameters"): "49.75",
    }.items():
        assert found[key] == value, key
    counts = {}
    for p in read_published():
        counts[p.source[-7:]] = counts.get(p.source[-7:], 0) + 1
    assert counts == {"Table 2": 29, "Table 3": 25, "Table 4": 16, "Table 5": 8, "Table 6": 8}
    assert ("mst", "mmjsd", "coherence/joint", "") not in found
