"""Studies as a table that fits a terminal."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from shalabench.analysis.studies import render_studies, summarise
from shalabench.api import BenchError
from shalabench.cli import main
from shalabench.records.study import MethodStudy, Study, Trial, read_studies, read_study


def trial(number, rung, objective, status="done", **values):
    facts = {"optimiser.lr": 0.00123, "latent_dim": 128, "feature_dim": 128, "beta": 0.0123}
    return Trial(
        number=number,
        rung=rung,
        values=facts | values,
        status=status,
        objective=objective,
        cpu_seconds=1000.0,
        evaluation_seconds=10.0,
    )


@pytest.fixture
def study():
    trials = [trial(0, 0, 0.3), trial(1, 0, 0.0, "collapsed"), trial(2, 0, 0.4)]
    trials += [trial(2, 1, 0.5), trial(0, 2, 0.45), trial(2, 2, 0.533, latent_dim=16)]
    base = {"version": 1, "overrides": ["prior.kind=gmm"], "space": {}}
    facts = {"dataset": "mst-digits", "preset": "quick", "fingerprint": "x", "classes": 10}
    return Study(
        **facts,
        seed=0,
        trials=3,
        budget=3000,
        methods={
            "renderdiffusion": MethodStudy(**base, trials=trials, chosen=2, out_of_budget=True),
            "mvae": MethodStudy(**base, trials=[trial(0, 0, 0.0, "drawn")]),
        },
    )


def test_a_summary_compares_the_best_with_the_preset_at_the_last_rung(study):
    first, second = summarise(study)
    assert first["trials"] == [3, 1, 2]
    assert (first["lost"], first["cpu_seconds"], first["evaluation_seconds"]) == (1, 6000.0, 60.0)
    assert (first["default"], first["best"]) == (0.45, 0.533)
    assert first["chosen"]["latent_dim"] == 16
    assert (second["trials"], second["default"], second["best"]) == ([0, 0, 0], None, None)


def test_the_table_has_80_columns(study):
    text = render_studies([study], as_json=False)
    assert max(map(len, text.splitlines())) <= 80
    assert {".450", ".533", "3/1/2*"} <= set(text.split())
    assert "optimiser.lr 0.00123" in text
    assert "prior.kind=gmm" in text


def test_studies_are_read_as_they_were_written_and_shown_by_the_command(study, tmp_path):
    study.write(tmp_path)
    assert read_study(tmp_path / "mst-digits-quick.json") == study
    words = ["tune", "--show", "--json", "--studies", str(tmp_path), "--dataset", "mst-digits"]
    (shown,) = json.loads(CliRunner().invoke(main, words).output)
    assert shown["summary"][0]["best"] == 0.533
    with pytest.raises(BenchError, match="mst-digits-quick"):
        read_studies(tmp_path, "toy", None)
    (tmp_path / "bad.json").write_text('{"dataset": "toy"}')
    with pytest.raises(BenchError, match=r"bad\.json"):
        read_studies(tmp_path, None, None)


def test_the_command_names_what_is_missing():
    done = CliRunner().invoke(main, ["tune", "--models", "mvae"])
    assert done.exit_code == 2
    assert "--dataset, --trials, --budget" in done.output
