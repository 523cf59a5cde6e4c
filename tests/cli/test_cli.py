"""The command line: every mistake is told in sentences, all at once, before any work."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import bench
from shalabench.api import BenchError
from shalabench.records.published import read_published


def call(*arguments):
    return CliRunner().invoke(bench.main, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "--models", "mmvae-plus", "--dataset", "toy"], "Did you mean 'mmvae+'?"),
        (["run", "--models", "shala", "--dataset", "tox"], "Did you mean 'toy'?"),
        (["run", "--models", "shala", "--dataset", "toy", "--preset", "quik"], "'quick'"),
        (["run", "--models", "shala", "--dataset", "toy", "--seeds", "x"], "--seeds is 'x'"),
        (["run", "--models", "shala", "--dataset", "toy", "--seeds", "0"], "--seeds is '0'"),
        (["run", "--models", "shala", "--dataset", "toy", "--seeds", "-1,2"], "from 0 on"),
        (["run", "--models", ",", "--dataset", "toy"], "No model is named"),
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
        (["table", "--metric", "coherence", "--models", "shalla"], "Did you mean 'shala'?"),
        (["table", "--metric", "coherence", "--preset", "quik"], "Did you mean 'quick'?"),
        (["table", "--metric", "psnr", "--dataset", "polymnist"], "no figure of 'psnr'"),
        (["figure", "dots", "--dataset", "polymnst"], "Did you mean 'polymnist'?"),
        (["figure", "dots", "--models", "shalla"], "Did you mean 'shala'?"),
        (["figure", "dots", "--preset", "qick"], "Did you mean 'quick'?"),
        (["figure", "latent", "--dataset", "nosuch"], "Unknown dataset 'nosuch'"),
        (["list", "modls"], "'models'"),
        (["prepare", "toy", "--set", "data.trian=100"], "Did you mean 'data.train'?"),
        (["prepare", "toy", "--set", "data.train"], "KEY=VALUE"),
        (["tabel"], "'table'"),
    ],
)
def test_a_mistake_is_told_with_the_nearest_name(arguments, expected):
    result = call(*arguments)
    assert result.exit_code == 2
    assert expected in result.output
    assert "Traceback" not in result.output


def test_several_wrong_names_of_a_table_are_told_together():
    result = call(
        *("table", "--metric", "coherense", "--dataset", "tox"),
        *("--models", "shalla", "--preset", "quik"),
    )
    for word in ("'coherense'", "'tox'", "'shalla'", "'quik'"):
        assert word in result.output


@pytest.mark.parametrize("command", [[], *([name] for name in bench.main.commands)])
def test_help_states_the_exit_codes(command):
    text = " ".join(call(*command, "--help").output.split())
    codes = "0 all is well, 1 a run failed, 2 wrong input, 3 stopped before the end"
    if command == ["check"]:
        codes = "0 all gates hold, 1 a regression, 2 incomplete or wrong input, 3 not comparable"
    assert codes in text


def test_seeds_are_a_count_or_a_list():
    for text, expected in (
        ("3", (0, 1, 2)),
        ("0,4", (0, 4)),
        ("4,", (4,)),
        ("5,5", (5,)),
        ("7,,8", None),
    ):
        if expected is None:
            with pytest.raises(BenchError, match="--seeds"):
                bench._seeds(None, None, text)
        else:
            assert bench._seeds(None, None, text) == expected


def test_prepare_says_what_is_there(tmp_path):
    result = call("prepare", "toy", "--cache-dir", str(tmp_path), "--set", "data.train=100")
    assert result.exit_code == 0
    assert "100 train" in result.output


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
    from shalabench.api import registry

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
        ("cub", "cmvae", f"{fid}cross", "model.decoders=diffusion"): "28.00",
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
