"""The command line: every mistake is named in one answer, before any work begins."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import shalabench
from shalabench.cli import main


def call(*arguments):
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "--models", "mmvae-plus", "--dataset", "toy"], "'mmvae+'?"),
        (["run", "--models", "shala", "--dataset", "tox"], "'toy'?"),
        (["run", "--models", "shala", "--dataset", "toy", "--preset", "quik"], "'quick'"),
        (["run", "--models", "shala", "--dataset", "toy", "--seeds", "x"], "--seeds"),
        (["run", "--models", "shala", "--dataset", "toy", "--seeds", "0"], "--seeds"),
        (["run", "--models", "shala", "--dataset", "toy", "--seeds", "-1,2"], "--seeds"),
        (["run", "--models", ",", "--dataset", "toy"], "--models all"),
        (["run", "--models", "shala", "--dataset", "toy", "--ablation", "table5"], "'table5'"),
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
        (["table"], "--metric"),
        (["table", "--metric", "coherense"], "'coherence'?"),
        (["table", "--metric", "coherence", "--dataset", "polymist"], "'polymnist'"),
        (["table", "--metric", "coherence", "--models", "shalla"], "'shala'?"),
        (["table", "--metric", "coherence", "--preset", "quik"], "'quick'?"),
        (["table", "--metric", "coherence", "--store", "nowhere"], "'nowhere'"),
        (["table", "--metric", "psnr", "--dataset", "polymnist"], "'psnr'"),
        (["figure", "dots", "--dataset", "polymnst"], "'polymnist'?"),
        (["figure", "dots", "--models", "shalla"], "'shala'?"),
        (["figure", "dots", "--preset", "qick"], "'quick'?"),
        (["figure", "latent", "--dataset", "nosuch"], "'nosuch'"),
        (["figure", "latent", "--digits", "0,x"], "--digits"),
        (["check", "--seeds", "1,2"], "--run"),
        (["check", "--run", "--seeds", "x"], "--seeds"),
        (["list", "modls"], "'models'"),
        (["prepare", "toy", "--set", "data.trian=100"], "'data.train'?"),
        (["prepare", "toy", "--set", "data.train"], "KEY=VALUE"),
        (["tabel"], "'table'"),
    ],
)
def test_a_mistake_ends_with_code_2_and_the_nearest_name(arguments, expected):
    result = call(*arguments)
    assert result.exit_code == 2
    assert expected in result.output
    assert "Traceback" not in result.output


def test_several_wrong_names_of_a_table_are_reported_together():
    result = call(
        *("table", "--metric", "coherense", "--dataset", "tox"),
        *("--models", "shalla", "--preset", "quik"),
    )
    for word in ("'coherense'", "'tox'", "'shalla'", "'quik'"):
        assert word in result.output


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
def test_help_states_the_exit_codes(command):
    result = call(*command, "--help")
    assert result.exit_code == 0
    codes = " ".join(result.output.partition("Exit codes:")[2].split())
    last = "3 not comparable" if command == ["check"] else "3 stopped"
    for code in ("0 ", "1 ", "2 ", last):
        assert code in codes


@pytest.mark.parametrize("name", main.commands)
def test_every_option_is_explained(name):
    for parameter in main.commands[name].params:
        assert parameter.param_type_name == "argument" or parameter.help, parameter.name


def test_runs_that_all_failed_leave_no_table(tmp_path):
    wild = ("--set", "model.optimiser.lr=1e30", "--set", "train.precision=float32")
    toy = ("--models", "mvae", "--dataset", "toy", "--preset", "smoke")
    words = ("run", *toy, *wild, "--store", str(tmp_path), "--cache-dir", str(tmp_path))
    result = call(*words)
    assert result.exit_code == 1
    assert "No table: none of these runs has finished." in result.output
    assert "Unknown metric" not in result.output
    again = call(*words, "--json")  # not trained again
    assert again.exit_code == 1
    assert json.loads(again.stdout) == []


def test_the_version_is_that_of_the_package():
    result = call("--version")
    assert result.exit_code == 0
    assert shalabench.__version__ in result.output


def test_prepare_prints_the_sizes(tmp_path):
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
    assert "No module named 'no_such_module'" in " ".join(result.output.split())
