"""The samples of a run, written and scored, give the run's own values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.toys import toy_data

from shalabench.api import BenchError, DataPaths
from shalabench.api.registry import find
from shalabench.exchange.check import check
from shalabench.exchange.read import read
from shalabench.exchange.score import Request, score
from shalabench.exchange.write import write

FEW = "evaluators.quality.extractors=classifier"


def values_of(folder, evaluator):
    (result,) = (r for r in folder.results() if r["evaluator"] == evaluator)
    return {
        (s["metric"], tuple(s["given"]), s["target"]): (s["value"], s["stderr"])
        for s in result["scores"]
    }


def request_of(tmp_path, judges, **changes):
    paths = DataPaths(tmp_path, tmp_path / "cache")
    base = dict(name="again", dataset="toy", store=tmp_path / "store", paths=paths)
    base |= dict(preset="smoke", overrides=(FEW,), archive=judges, device="cpu")
    return Request(**(base | changes))


@pytest.mark.parametrize(
    ("form", "evaluator"),
    [("npz", "coherence"), ("npz", "quality"), ("safetensors", "coherence")],
)
def test_exact_values_give_the_figures_of_the_run(tmp_path, trained, judges, form, evaluator):
    paths = DataPaths(tmp_path, tmp_path)
    out, words = write(trained, tmp_path / "out", paths, form=form, evaluator=evaluator)
    assert words.startswith("64 joint samples, translations of 64 test tuples")
    scored = score(out, request_of(tmp_path, judges, evaluators=(evaluator,)))
    ours, theirs = values_of(scored.folder, evaluator), values_of(trained, evaluator)
    bounds = {key for key in theirs if key[0].startswith("floor")}  # these need no samples
    several = {key for key in theirs if "subset" in key[0]}
    assert len(ours) > 8
    assert ours.keys() == theirs.keys() - bounds - several
    for key, value in ours.items():
        for mine, its in zip(value, theirs[key], strict=True):  # the value and its error
            assert mine == (its and pytest.approx(its, rel=1e-9, abs=1e-12)), key


def test_pictures_give_the_figures_within_their_rounding(tmp_path, trained, judges):
    paths = DataPaths(tmp_path, tmp_path)
    out, _ = write(trained, tmp_path / "out", paths, form="png", number=40)
    exact, _ = write(trained, tmp_path / "exact", paths, form="npz", number=40)
    spec = toy_data(tmp_path).spec
    rounded, whole = (check(read(path), spec, 64) for path in (out, exact))
    assert rounded.index.tolist() == whole.index.tolist() == list(range(40))
    assert rounded.joint["bar"].dtype == torch.uint8
    assert torch.equal(rounded.joint["word"], whole.joint["word"])
    for mine, theirs in zip(
        rounded.translations["bar",].values(), whole.translations["bar",].values(), strict=True
    ):
        if mine.dim() == 4:
            assert (mine / 255 - theirs.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    preset = {"preset": "external", "evaluators": ("coherence",)}
    values = [
        values_of(score(p, request_of(tmp_path, judges, name=n, **preset)).folder, "coherence")
        for n, p in (("a", out), ("b", exact))
    ]
    for key, (value, _) in values[0].items():
        assert value == pytest.approx(values[1][key][0], abs=0.1), key


def test_some_of_the_test_tuples_are_compared_with_all_real_images(tmp_path, trained, judges):
    paths = DataPaths(tmp_path, tmp_path)
    out, _ = write(trained, tmp_path / "out", paths)
    found = read(out)
    rows = np.random.default_rng(0).permutation(64)[:40]
    for key in found.arrays:
        if not key.startswith("joint"):
            found.arrays[key] = found.arrays[key][rows]
    request = request_of(tmp_path, judges, preset="external", range=found.range)
    scored = score({**found.arrays, "index": rows}, request)
    (quality,) = (r for r in scored.folder.results() if r["evaluator"] == "quality")
    assert set(quality["details"]["real"].values()) == {64}
    (summary,) = (
        s for s in quality["scores"] if s["metric"] == "fid/classifier/cross" and not s["given"]
    )
    assert summary["n"] == 40
    # The tuples' own labels and views count: coherence is the mean over them, by hand.
    from classifiers import load

    data = toy_data(tmp_path)
    (coherence,) = (r for r in scored.folder.results() if r["evaluator"] == "coherence")
    word = load(data.spec, "cpu", judges)["stripe"].network
    made = torch.from_numpy(np.asarray(found.arrays["translate/bar/stripe"]))
    right = word(made.clamp(0, 1)).argmax(1) == data.split("test").labels[rows]
    (one,) = (
        s["value"]
        for s in coherence["scores"]
        if (s["metric"], s["given"], s["target"]) == ("coherence/cross", ["bar"], "stripe")
    )
    assert one == pytest.approx(right.double().mean().item())


def test_the_record_says_what_was_scored_and_is_not_repeated(tmp_path, trained, judges):
    out, _ = write(trained, tmp_path / "out", DataPaths(tmp_path, tmp_path))
    request = request_of(tmp_path, judges, evaluators=("coherence",))
    scored = score(out, request)
    run, own = scored.folder.run, scored.folder.run["data"]["external"]
    assert run["model"] == "again (external)"
    assert (own["joint"], own["given"]) == (64, 64)
    assert run["data"]["fingerprint"] == trained.run["data"]["fingerprint"]
    assert own["digest"] == scored.folder.trained["digest"]
    (result,) = scored.folder.results()
    (theirs,) = (r for r in trained.results() if r["evaluator"] == "coherence")
    assert result["classifiers"] == theirs["classifiers"]
    file = next((scored.folder.path / "results").iterdir())
    before = file.read_bytes()
    assert score(out, request).folder == scored.folder
    assert file.read_bytes() == before


def test_an_evaluator_that_fails_stops_no_other(tmp_path, trained, judges, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("of the evaluator")

    monkeypatch.setattr(find("evaluator", "samples").cls, "run", broken)
    out, _ = write(trained, tmp_path / "out", DataPaths(tmp_path, tmp_path))
    request = request_of(tmp_path, judges, evaluators=("samples", "coherence"))
    scored = score(out, request)
    assert scored.evaluated == ["coherence"]
    assert "ZeroDivisionError: of the evaluator" in scored.failed["samples"]
    (failure,) = (scored.folder.path / "failures").iterdir()
    assert "Traceback" in failure.read_text()
    monkeypatch.undo()
    assert sorted(score(out, request).evaluated) == ["coherence", "samples"]
    assert not list((scored.folder.path / "failures").iterdir())


def test_fewer_samples_than_the_preset_measures_are_refused(tmp_path, trained, judges):
    out, _ = write(trained, tmp_path / "out", DataPaths(tmp_path, tmp_path), number=30)
    with pytest.raises(BenchError, match="preset smoke measures quality on 64 joint samples"):
        score(out, request_of(tmp_path, judges))
    assert not (tmp_path / "store").exists()
    assert "quality" in score(out, request_of(tmp_path, judges, preset="external")).evaluated
