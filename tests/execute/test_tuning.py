"""Tuning: the same chances for each method, halving by numbers, and studies that go on."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import pytest
from helpers.campaigns import Listener, options

from shalabench.analysis.studies import render_studies
from shalabench.api import BenchError, ConfigErrors
from shalabench.config.search import space_of
from shalabench.config.settings import describe_preset, presets, resolve
from shalabench.execute import tuning
from shalabench.execute.halving import draw, judge, promote, replace_collapsed
from shalabench.execute.tuning import Request, tune
from shalabench.records.study import RUNGS, Trial, read_study

REQUEST = Request(("mvae", "jmvae"), "toy", "smoke", trials=4, budget=1e6, seed=3)


@pytest.mark.parametrize(
    ("objectives", "kept"),
    [
        ([0.1, 0.5, 0.3, 0.2, 0.9, 0.4, 0.8, 0.6, 0.7], [4, 6, 8]),
        ([0.2, 0.2, 0.2, 0.1], [0]),  # equal ones: the first, which is the preset
        ([0.0, 0.0, 0.1], [2]),
        ([0.3, 0.4], [1]),
        ([0.0], [0]),
    ],
)
def test_the_best_third_goes_on(objectives, kept):
    assert promote(dict(enumerate(objectives))) == kept


def test_a_setting_that_collapses_at_the_end_is_replaced_by_the_next_best():
    def trials(rung, **ends):
        return [
            Trial(number=int(n[1:]), rung=rung, values={}, status=status, objective=objective)
            for n, (status, objective) in ends.items()
        ]

    half = trials(1, n2=("done", 0.6), n4=("collapsed", -0.7), n5=("done", 0.54))
    own = ("done", 0.2)
    assert replace_collapsed(half, trials(2, n0=own, n2=("done", 0.5))) == []
    assert replace_collapsed(half, trials(2, n0=own, n2=("collapsed", -0.8))) == [5]
    assert replace_collapsed(half, trials(2, n0=own, n2=("diverged", -1.0))) == [5]
    both = trials(2, n0=own, n2=("diverged", -1.0), n5=("collapsed", -0.9))
    assert replace_collapsed(half, both) == []  # the last one collapsed earlier
    quarter = trials(0, n3=("done", 0.4), n4=("done", 0.9), n0=("done", 0.3))
    assert replace_collapsed([*quarter, *half], both) == [3]
    repeated = Trial(number=2, rung=2, repeat=1, values={}, status="diverged", objective=-1.0)
    good = trials(2, n0=own, n2=("done", 0.5))
    assert replace_collapsed(half, [*good, repeated]) == [5]
    assert replace_collapsed(half, [repeated, *good]) == [5]  # whatever their order
    early = trials(0, n2=("collapsed", -0.8), n5=("collapsed", -0.7))  # and better at the half
    assert replace_collapsed([*early, *half], [*good, repeated]) == [5]


def test_what_is_chosen_survives_other_seeds(tmp_path, archive, monkeypatch):
    request = dataclasses.replace(REQUEST, models=("mvae",), seeds=3)
    read, fragile = tuning._Tuning._read, []

    def fails_with_another_seed(self, run, folder):
        facts = read(self, run, folder) | {"status": "done"}
        if run.seed == request.seed + 2 and not fragile:
            fragile.append(run.resolved.model.beta)
            facts |= {"status": "collapsed", "objective": -0.9}
        return facts

    monkeypatch.setattr(tuning._Tuning, "_read", fails_with_another_seed)
    study, code = run(request, tmp_path, archive)
    method = study.methods["mvae"]
    repeats = [trial for trial in method.trials if trial.repeat]
    assert code == 0
    assert fragile
    assert all(t.rung == len(RUNGS) - 1 for t in repeats)
    first = repeats[0].number
    assert [(t.number, t.repeat, t.status) for t in repeats] == [
        (first, 1, "done"),
        (first, 2, "collapsed"),
        (method.chosen, 1, "done"),
        (method.chosen, 2, "done"),
    ]
    assert method.chosen != first
    assert method.last_of(method.chosen).repeat == 0
    assert len({t.train_id for t in repeats if t.status == "done"}) == 3
    assert "+4" in render_studies([study], as_json=False)
    again, _ = run(dataclasses.replace(request, seeds=1), tmp_path, archive)
    assert again.methods == study.methods  # fewer seeds ask for nothing new


@pytest.mark.parametrize(
    ("effective", "objective", "collapsed"),
    [(9.0, 0.5, False), (5.0, 0.5, False), (4.99, -0.4, True), (0.0, -0.4, True)],
)
def test_a_collapsed_model_ranks_below_all_others(effective, objective, collapsed):
    assert judge(0.4, 0.6, effective, classes=10) == (pytest.approx(objective), collapsed)


def test_collapsed_models_rank_by_what_a_collapse_does_not_raise():
    same_digit, several = judge(0.9, 0.1, 1.0, 10)[0], judge(0.2, 0.35, 4.5, 10)[0]
    assert -1 < same_digit < several < 0


def test_draws_lie_in_the_space_follow_the_seed_and_learn_from_what_was_found():
    space = {"a": {"low": 0.01, "high": 1.0, "log": True}, "b": {"choices": [8, 16, 32]}}
    first = draw(space, [], 5, seed=2**62 + 1)
    assert first == draw(space, [], 5, seed=2**62 + 1) != draw(space, [], 5, seed=2**62 + 2)
    assert all(0.01 <= values["a"] <= 1 and values["b"] in (8, 16, 32) for values in first)
    assert all(values["a"] == float(f"{values['a']:.3g}") for values in first)
    before = [
        Trial(number=i, rung=0, values=values, objective=float(values["b"] == 8))
        for i, values in enumerate(draw(space, [], 30, seed=1))
    ]
    learned = draw(space, before, 100, seed=5)
    assert sum(values["b"] == 8 for values in learned) >= 45  # 33 by chance


def run(request, tmp_path, archive, stop=None, **changes):
    with Listener() as listener:
        chosen = options(tmp_path, archive, **changes)
        return tune(request, tmp_path / "studies", chosen, listener, stop)


def plain(study):
    """All but what the clock says."""
    content = study.model_dump()
    for method in content["methods"].values():
        for trial in method["trials"]:
            del trial["cpu_seconds"], trial["evaluation_seconds"]
    return content


@pytest.fixture(scope="session")
def finished(tmp_path_factory, archive):
    """A study of two methods, made in one go, and its folder."""
    folder = tmp_path_factory.mktemp("tuned")
    study, code = run(REQUEST, folder, archive)
    assert code == 0
    return study, folder


def test_each_method_has_the_same_trials_and_the_preset_is_among_the_last(finished):
    study, folder = finished
    assert read_study(folder / "studies" / "toy-smoke.json") == study
    for name, method in study.methods.items():
        assert [trial.number for trial in method.at(0)] == [0, 1, 2, 3]
        scores = {trial.number: trial.objective for trial in method.at(0)}
        assert [trial.number for trial in method.at(1)] == promote(scores)
        assert {0, *promote(scores)} == {trial.number for trial in method.at(2)}
        own = resolve(name, "toy", "smoke", ()).model
        assert method.at(0)[0].values["latent_dim"] == own.latent_dim
        assert all(trial.status != "drawn" and trial.cpu_seconds > 0 for trial in method.trials)
        best = max(method.at(2), key=lambda trial: (trial.objective, -trial.number))
        assert method.chosen == best.number
        assert method.spent == pytest.approx(sum(trial.cpu_seconds for trial in method.trials))


def test_the_updates_of_every_stage_are_shortened_and_validation_judges(finished):
    _, folder = finished
    runs = {}
    for file in (folder / "store").glob("*/run.json"):
        record = json.loads(file.read_text())
        runs[record["train_id"]] = record["settings"]["model.steps"], file.parent
    study, _ = finished
    for method in study.methods.values():
        for trial in method.trials:
            steps, path = runs[trial.train_id]
            assert steps == round(20 * RUNGS[trial.rung])
            (result,) = (json.loads(f.read_text()) for f in path.glob("results/*.json"))
            assert (result["evaluator"], result["split"]) == ("coherence", "validation")
            scores = {s["metric"]: s["value"] for s in result["scores"] if not s["given"]}
            assert trial.joint == scores["coherence/joint"]
            assert trial.train_id == result["train_id"]


def test_a_stopped_study_goes_on_to_the_same_end(finished, tmp_path, archive, monkeypatch):
    """It is stopped in a batch at the first rung, and again at a deadline that has passed."""
    stop, record = threading.Event(), tuning._Tuning._record

    def stopping(self, *arguments):
        record(self, *arguments)
        if sum(t.status != "drawn" for m in self.study.methods.values() for t in m.trials) == 2:
            stop.set()

    monkeypatch.setattr(tuning._Tuning, "_record", stopping)
    study, code = run(REQUEST, tmp_path, archive, stop)
    monkeypatch.undo()
    assert code == 3
    saved = read_study(tmp_path / "studies" / "toy-smoke.json")
    assert saved == study
    states = [trial.status for trial in saved.methods["mvae"].trials]
    assert states.count("drawn") == 1
    assert run(REQUEST, tmp_path, archive, deadline=time.time() - 1)[1] == 3
    study, code = run(REQUEST, tmp_path, archive)
    assert code == 0
    assert plain(study) == plain(finished[0])
    again, code = run(REQUEST, tmp_path, archive)
    assert (again, code) == (study, 0)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(finished, tmp_path, archive):
    request = dataclasses.replace(REQUEST, models=("mvae",), trials=2)
    study, code = run(request, tmp_path, archive, jobs=2)
    assert code == 0
    alone = plain(finished[0])["methods"]["mvae"]["trials"]
    first = plain(study)["methods"]["mvae"]["trials"][:2]
    assert first == alone[:2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"overrides": ("data.seed=1",)}, "fingerprint"),
        ({"overrides": ("prior.kind=gmm",)}, "overrides of mvae"),
        ({"overrides": ("model.latent_dim=8",)}, "space of mvae"),
        ({"trials": 5}, "trials 4, not 5"),
        ({"budget": 1.0}, "budget"),
        ({"seed": 0}, "seed 3, not 0"),
    ],
)
def test_another_study_is_refused_by_name(finished, archive, changes, words):
    _, folder = finished
    before = (folder / "studies" / "toy-smoke.json").read_bytes()
    with pytest.raises(BenchError, match=words) as caught:
        run(dataclasses.replace(REQUEST, **changes), folder, archive)
    assert "--studies" in str(caught.value)
    assert (folder / "studies" / "toy-smoke.json").read_bytes() == before


@pytest.mark.parametrize(
    ("part", "key", "words"),
    [
        ("settings", "model.steps", r"model\.steps of mvae 7, not"),
        ("code", "source", r"code of mvae \(the method\)"),
        ("code", "nets", r"code of mvae \(the shared networks\)"),
    ],
)
def test_a_study_of_other_presets_or_code_is_refused_by_name(
    finished, tmp_path, archive, part, key, words
):
    (tmp_path / "studies").mkdir()
    file = tmp_path / "studies" / "toy-smoke.json"
    content = json.loads((finished[1] / "studies" / file.name).read_text())
    content["methods"]["mvae"][part][key] = 7 if part == "settings" else "another"
    file.write_text(json.dumps(content))
    with pytest.raises(BenchError, match=words):
        run(REQUEST, tmp_path, archive)


def test_trials_have_neutral_dials_as_the_tuned_preset_has(tmp_path, archive, monkeypatch):
    own = resolve("shala", "toy", "quick", ()).model.prior.guidance
    assert own == 2.0, "the preset's dial is not neutral, or this test shows nothing"
    plain = Request(("shala", "mvae"), "toy", "quick", trials=1, budget=1.0)

    def tried(**changes):
        request = dataclasses.replace(plain, **changes)
        no_folders = options(tmp_path, archive)
        work = tuning._Tuning(request, tmp_path, no_folders, Listener(), threading.Event())
        return {
            run.model: (run.resolved.model, work.study.methods[run.model].overrides)
            for run, _ in work._jobs(list(work.runs)).values()
        }

    settings, overrides = tried()["shala"]
    assert settings.prior.guidance == 0.0
    assert overrides == ["model.prior.guidance=0.0"]
    assert tried()["mvae"][1] == []
    given = ("model.prior.guidance=1.0",)
    settings, overrides = tried(models=("shala",), overrides=given)["shala"]
    assert settings.prior.guidance == 1.0
    assert overrides == list(given)
    steps = ("models.shala.steps=8", "models.mvae.steps=12")  # of one method each
    settings, overrides = tried(overrides=steps)["shala"]
    assert (settings.steps, settings.prior.guidance) == (2, 0.0)  # a quarter of them
    assert overrides == ["model.steps=8", "model.prior.guidance=0.0"]
    assert tried(overrides=steps)["mvae"][1] == ["model.steps=12"]


def test_a_setting_that_is_given_is_not_searched(tmp_path, archive):
    request = dataclasses.replace(
        REQUEST, models=("mvae",), trials=1, overrides=("model.latent_dim=8",)
    )
    study, _ = run(request, tmp_path, archive)
    assert "latent_dim" not in study.methods["mvae"].space


def test_a_method_out_of_budget_gets_no_new_settings_and_still_chooses(tmp_path, archive):
    request = dataclasses.replace(REQUEST, models=("mvae",), trials=9, budget=1e-9)
    study, code = run(request, tmp_path, archive)
    method = study.methods["mvae"]
    assert code == 0
    assert method.out_of_budget
    assert len(method.at(0)) == 3  # one batch
    assert method.chosen is not None


def test_the_tuned_preset_has_the_chosen_values_with_the_study_as_source(finished, monkeypatch):
    study, folder = finished
    monkeypatch.setenv("SHALA_STUDIES", str(folder / "studies"))
    assert "smoke-tuned" in presets()
    assert "toy" in describe_preset("smoke-tuned")
    method = study.methods["jmvae"]
    resolved = resolve("jmvae", "toy", "smoke-tuned", ())
    values = method.last_of(method.chosen).values
    assert resolved.model.optimiser.lr == values["optimiser.lr"]
    assert {k: getattr(resolved.model, k) for k in ("beta", "alpha", "latent_dim")} == {
        k: values[k] for k in ("beta", "alpha", "latent_dim")
    }
    origin = resolved.origins["model.optimiser.lr"]
    assert origin.layer == "dataset toy x jmvae, preset smoke-tuned"
    assert origin.source == f"study toy-smoke: 4 trials, {method.spent:.0f} CPU s"
    assert resolved.origins["model.steps"].layer == "preset smoke"
    assert resolve("jmvae", "toy", "smoke-tuned", ("model.beta=7",)).model.beta == 7
    with pytest.raises(ConfigErrors, match="No tuned values for mopoe on toy under preset smoke"):
        resolve("mopoe", "toy", "smoke-tuned", ())
    with pytest.raises(ConfigErrors, match="No tuned values for jmvae on polydigits"):
        resolve("jmvae", "polydigits", "smoke-tuned", ())


def test_what_cannot_be_tuned_says_why(tmp_path, archive, monkeypatch):
    def ask(**changes):
        run(dataclasses.replace(REQUEST, **changes), tmp_path, archive)

    with pytest.raises(BenchError, match="pixelnerf: It declares no search space"):
        ask(models=("pixelnerf",))
    with pytest.raises(BenchError, match=r"prior\.kind=gmm"):
        ask(models=("mmvm",))
    with pytest.raises(BenchError, match="no classes"):
        ask(dataset="toy-views")
    with pytest.raises(BenchError, match="Tune the preset 'smoke'"):
        ask(preset="smoke-tuned")
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(BenchError, match=r"shala-bench\[tune\]"):
        ask()
    assert not (tmp_path / "studies").exists()


def test_a_failed_training_is_no_trial_and_is_tried_again(tmp_path, archive, monkeypatch):
    def explode(self):
        raise RuntimeError("no luck")

    request = dataclasses.replace(REQUEST, trials=1)
    cls = tuning.find("model", "jmvae").cls
    monkeypatch.setattr(cls, "stages", explode)
    study, code = run(request, tmp_path, archive)
    assert code == 1
    assert [t.status for t in study.methods["jmvae"].trials] == ["drawn"]
    assert study.methods["mvae"].chosen == 0
    monkeypatch.undo()
    study, code = run(request, tmp_path, archive)
    assert code == 0
    assert study.methods["jmvae"].chosen == 0


def test_spaces_of_all_methods_are_alike_in_size_and_hold_the_preset():
    from shalabench.api.registry import entries

    sizes = {}
    for name in entries("model"):
        settings = resolve(name, "polydigits", "quick", ()).model
        space = space_of(settings)
        sizes[name] = len(space)
        if space:
            assert "optimiser.lr" in space, name
            assert space["optimiser.lr"]["high"] == pytest.approx(4 * settings.optimiser.lr)
    tuned = {name: size for name, size in sizes.items() if size}
    assert len(tuned) == 21
    assert set(tuned.values()) == {3, 4, 5}
