"""Dials: the rule by numbers, trials that train nothing, and studies that go on."""

from __future__ import annotations

import dataclasses
import json
import threading

import pytest
from helpers.campaigns import Listener, options

from shalabench.api import BenchError, ConfigErrors, Dial, Settings, setting
from shalabench.config import tuned
from shalabench.config.search import dials_of, grid
from shalabench.config.settings import describe_preset, presets, resolve
from shalabench.execute import dials, studies
from shalabench.execute.dials import DialRequest, tune_dials
from shalabench.execute.halving import choose_dials
from shalabench.records.study import DialStudy, Reading, read_study

REQUEST = DialRequest(
    ("mvae", "shala"), "toy", "smoke", overrides=("sampling.given_temperature=1.0",), seed=3
)


def reading(coherence, stderr=0.03, kid=0.1, recall=0.5, classes=9.0):
    return Reading(coherence=coherence, stderr=stderr, kid=kid, recall=recall, classes=classes)


NEUTRAL = reading(0.4, stderr=0.04)  # with .03 of the others: .05 for the difference


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([], 0),
        ([reading(0.4), reading(0.3)], 0),  # a tie
        ([reading(0.449), reading(0.44)], 0),  # within one standard error
        ([reading(0.43), reading(0.46)], 2),
        ([reading(0.46), reading(0.49), reading(0.47)], 2),
        ([reading(0.46), reading(0.46)], 1),  # of equal ones the first
        ([reading(0.46), reading(0.9, kid=0.111)], 1),
        ([reading(0.46), reading(0.9, kid=0.109)], 2),
        ([reading(0.46), reading(0.9, recall=0.449)], 1),
        ([reading(0.46), reading(0.9, recall=0.451)], 2),
        ([reading(0.46), reading(0.9, classes=4.9)], 1),
        ([reading(0.46), reading(0.9, classes=5.0)], 2),
        ([reading(0.9, kid=None, recall=None, classes=None)], 1),  # translations without images
    ],
)
def test_dials_must_be_better_beyond_noise_and_cost_neither_quality_nor_variety(others, chosen):
    assert choose_dials([NEUTRAL, *others], classes=10) == chosen


def test_a_negative_kid_may_worsen_by_a_tenth_of_its_size():
    neutral = reading(0.4, kid=-0.01)
    assert choose_dials([neutral, reading(0.9, kid=-0.0091)], 10) == 1
    assert choose_dials([neutral, reading(0.9, kid=-0.0089)], 10) == 0


class Inner(Settings):
    scale: float = setting(3.0, "A scale.", "our choice", dial=Dial(0.0, (0.0, 2.0, 1.0), "cross"))


class Outer(Settings):
    heat: float = setting(0.7, "Of joint.", "our choice", dial=Dial(1.0, (0.5, 1.0), "joint"))
    mild: float = setting(0.7, "Of cross.", "our choice", dial=Dial(1.0, (0.5, 1.0), "cross"))
    plain: float = setting(0.7, "No dial.", "our choice")
    inner: Inner = Inner()


def test_joint_and_cross_dials_vary_at_once_from_the_neutral_values_outward():
    space = dials_of("model", Outer())
    assert set(space) == {"model.heat", "model.mild", "model.inner.scale"}
    points = grid(space)
    assert [point["model.heat"] for point in points] == [1, 0.5, 1, 1, 1, 1]
    cross = [(point["model.mild"], point["model.inner.scale"]) for point in points]
    assert cross[0] == (1, 0)
    assert set(cross[1:3]) == {(0.5, 0), (1, 1)}
    assert set(cross) == {(mild, scale) for mild in (0.5, 1) for scale in (0, 1, 2)}
    with pytest.raises(ValueError, match="none of"):
        Dial(1.0, (0.5, 0.7), "joint")


def run(request, tmp_path, archive, stop=None):
    with Listener() as listener:
        folder = tmp_path / "studies"
        return tune_dials(request, folder, options(tmp_path, archive), listener, stop)


def plain(study):
    """All but what the clock says."""
    content = study.model_dump()
    for method in content["methods"].values():
        for trial in method["trials"]:
            del trial["evaluation_seconds"]
    return content


@pytest.fixture(scope="module")
def finished(tmp_path_factory, archive):
    """A study that was stopped after its second trial and then went on, and its folder."""
    folder, stop, seen = tmp_path_factory.mktemp("dials"), threading.Event(), []
    record = dials._Dials._record

    def stopping(self, *arguments):
        record(self, *arguments)
        seen.append(arguments)
        if len(seen) == 3:
            stop.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dials._Dials, "_record", stopping)
        _, code = run(REQUEST, folder, archive, stop)
    assert code == 3
    saved = read_study(folder / "studies" / "toy-smoke-dials.json", DialStudy)
    measured = [t.number for m in saved.methods.values() for t in m.trials if t.train_id]
    assert sorted(measured) == [0, 0, 1]
    assert not any(method.chosen for method in saved.methods.values())
    study, code = run(REQUEST, folder, archive)
    assert code == 0
    return study, folder


def test_every_trial_but_the_neutral_one_trains_nothing(finished):
    study, folder = finished
    assert read_study(folder / "studies" / "toy-smoke-dials.json", DialStudy) == study
    runs = {}
    for file in (folder / "store").glob("*/run.json"):
        runs[json.loads(file.read_text())["train_id"]] = file.parent
    assert len(runs) == 8
    for name, method in study.methods.items():
        assert len(method.trials) == 4
        for trial in method.trials:
            path = runs[trial.train_id]
            settings = json.loads((path / "run.json").read_text())["settings"]
            assert {key: settings[key] for key in trial.values} == trial.values
            made = json.loads((path / "trained.json").read_text())
            reused = made["provenance"].get("reused", {"stages": []})["stages"]
            stages = {"mvae": 1, "shala": 2}[name]
            assert len(reused) == (stages if trial.number else 0)


def test_readings_are_the_validation_scores_and_the_rule_chooses(finished):
    study, folder = finished
    for name, method in study.methods.items():
        # With one given temperature, only ShaLa has a dial of translation.
        assert set(method.chosen) == {"mvae": {"joint"}, "shala": {"joint", "cross"}}[name]
        for protocol, number in method.chosen.items():
            trials = method.at(protocol)
            assert len(trials) == 4
            readings = [getattr(trial, protocol) for trial in trials]
            assert number == trials[choose_dials(readings, study.classes)].number
    trial = study.methods["shala"].trials[2]
    for file in (folder / "store").glob("*/results/*.json"):
        result = json.loads(file.read_text())
        if result["train_id"] != trial.train_id:
            continue
        assert result["split"] == "validation"
        scores = {s["metric"]: s for s in result["scores"] if not s["given"] and not s["target"]}
        if result["evaluator"] == "coherence":
            assert trial.joint.coherence == scores["coherence/joint"]["value"]
            assert trial.cross.stderr == scores["coherence/cross"]["stderr"]
        else:
            assert trial.cross.kid == scores[f"kid/{study.extractor}/cross"]["value"]
            assert trial.joint.recall == scores[f"recall/{study.extractor}/joint"]["value"]
            assert scores[f"kid/{study.extractor}/cross"]["n"] == study.images == 64


def test_a_finished_study_does_nothing_more_and_refuses_another(finished, archive, monkeypatch):
    study, folder = finished
    monkeypatch.setattr(studies, "run_campaign", None)
    assert run(REQUEST, folder, archive) == (study, 0)
    for changes, words in (
        ({"overrides": ()}, "overrides of mvae"),
        ({"seed": 0}, "seed 3, not 0"),
        ({"preset": "smoke-dials"}, "preset 'smoke'"),
    ):
        with pytest.raises(BenchError, match=words):
            run(dataclasses.replace(REQUEST, **changes), folder, archive)
    fixed = ("sampling.joint_temperature=1.0", "sampling.given_temperature=0.7")
    with pytest.raises(BenchError, match="mvae: It has no dial"):
        run(dataclasses.replace(REQUEST, models=("mvae",), overrides=fixed), folder, archive)


def test_methods_may_have_settings_of_their_own(tmp_path, archive):
    given = ("models.mvae.beta=2", "models.jmvae.alpha=0.3")
    request = dataclasses.replace(REQUEST, models=("mvae", "jmvae"), overrides=given)
    work = dials._Dials(
        request, tmp_path, options(tmp_path, archive), Listener(), threading.Event()
    )
    jobs = [run for run, _ in work._jobs(first=True).values()]
    assert [run.overrides for run in jobs] == [("model.beta=2",), ("model.alpha=0.3",)]
    assert (jobs[0].resolved.model.beta, jobs[1].resolved.model.alpha) == (2, 0.3)


def test_the_preset_with_dials_has_the_chosen_ones(finished, monkeypatch):
    study, folder = finished
    monkeypatch.setenv("SHALA_STUDIES", str(folder / "studies"))
    assert "smoke-dials" in presets()
    assert "toy" in describe_preset("smoke-dials")
    method = study.methods["shala"]
    resolved = resolve("shala", "toy", "smoke-dials", ())
    values = resolved.values()
    assert {key: values[key] for key in method.values} == method.values
    source = resolved.origins["model.prior.guidance"].source
    assert source == "study toy-smoke-dials: 4 trials, with sampling.given_temperature=1.0"
    with pytest.raises(ConfigErrors, match=r"No tuned dials for jmvae .* tune --dials"):
        resolve("jmvae", "toy", "smoke-dials", ())


def test_the_tuned_preset_has_neutral_dials_and_its_dials_lie_above(tmp_path, monkeypatch):
    monkeypatch.setenv("SHALA_STUDIES", str(tmp_path))
    values = tuned.render({"shala": ({"beta": 3.0}, "study a")})
    (tmp_path / "polydigits-quick.toml").write_text(values)
    found = {"model.prior.guidance": 0.5, "sampling.joint_temperature": 0.7}
    chosen = tuned.render({"shala": (found, "study b")}, "methods")
    (tmp_path / "polydigits-quick-tuned-dials.toml").write_text(chosen)
    assert {"quick-tuned", "quick-tuned-dials"} <= set(presets())
    assert "quick-dials" not in presets()
    plain, neutral, dialled = (
        resolve("shala", "polydigits", preset, ())
        for preset in ("quick", "quick-tuned", "quick-tuned-dials")
    )
    assert [r.model.prior.guidance for r in (plain, neutral, dialled)] == [2.0, 0.0, 0.5]
    assert [r.model.beta for r in (plain, neutral, dialled)] == [1.0, 3.0, 3.0]
    assert [r.sampling.joint_temperature for r in (neutral, dialled)] == [1.0, 0.7]
    assert neutral.origins["model.prior.guidance"].source == "neutral (docs/tuning.md)"
    assert dialled.origins["model.prior.guidance"].source == "study b"
    assert dialled.origins["model.beta"].layer.endswith("preset quick-tuned")
    with pytest.raises(ConfigErrors, match="quick-dials-tuned"):
        resolve("shala", "polydigits", "quick-dials-tuned", ())
