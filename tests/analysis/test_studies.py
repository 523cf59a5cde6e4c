"""Studies as a table that fits a terminal."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from shalabench.analysis.studies import render_studies, summarise
from shalabench.api import BenchError
from shalabench.cli import main
from shalabench.records.study import (
    DialStudy,
    DialTrial,
    MethodDials,
    MethodStudy,
    Reading,
    Study,
    Trial,
    read_studies,
    read_study,
)


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


def test_dials_stand_below_their_neutral_values(study, tmp_path):
    space = {
        "sampling.joint_temperature": {"neutral": 1.0, "choices": [0.7, 1.0], "of": "joint"},
        "sampling.given_temperature": {"neutral": 1.0, "choices": [0.7, 1.0], "of": "cross"},
        "model.prior.guidance": {"neutral": 0.0, "choices": [0.0, 2.0], "of": "cross"},
    }
    joint = Reading(coherence=0.412, stderr=0.011, classes=9.3, kid=1.2345678, recall=0.5)
    cross = Reading(coherence=0.631, stderr=0.007, kid=0.25, recall=0.75)
    better = cross.model_copy(update={"coherence": 0.7})
    trials = [
        DialTrial(number=0, values=dict(zip(space, (1, 1, 0), strict=True)), joint=joint),
        DialTrial(number=1, values=dict(zip(space, (0.7, 0.7, 2), strict=True)), joint=joint),
    ]
    trials[0].cross, trials[1].cross = cross, better
    method = MethodDials(
        version=1, overrides=[], space=space, trials=trials, chosen={"joint": 0, "cross": 1}
    )
    facts = {"dataset": "mst-digits", "preset": "quick-tuned", "fingerprint": "x", "classes": 10}
    found = DialStudy(
        **facts,
        seed=0,
        extractor="efficientnet-lite0",
        images=1000,
        methods={"renderdiffusion": method, "mvae": method.model_copy(update={"chosen": {}})},
    )
    rows = [(row["of"], row["is_neutral"], row["coherence"]) for row in summarise(found)]
    assert rows == [("joint", True, 0.412), ("cross", True, 0.631), ("cross", False, 0.7)]
    assert method.values == dict(zip(space, (1, 0.7, 2), strict=True))
    text = render_studies([found], as_json=False)
    assert max(map(len, text.splitlines())) <= 80
    assert "not chosen yet: mvae" in text
    study.write(tmp_path)
    found.write(tmp_path)
    assert read_studies(tmp_path, None, None) == [found, study]
    assert read_studies(tmp_path, None, "quick-tuned") == [found]
    words = ["tune", "--show", "--studies", str(tmp_path)]
    shown = CliRunner().invoke(main, words).output.splitlines()
    lines = [" ".join(line.split()) for line in shown]
    assert "renderdiffusion joint: neutral .412 ± .011 1.235 .500 9.3" in lines
    assert "given_temperature 0.7, .700 ± .007 0.25 .750 -" in lines
    assert "guidance 2" in lines


def test_dials_have_no_trials_or_budget():
    words = ["tune", "--dials", "--models", "mvae", "--dataset", "toy", "--budget", "9"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "--budget does not go with --dials" in done.output
