"""Data frames from made-up stores whose values are known."""

from __future__ import annotations

import copy
import gc
import json
import pickle

import pytest
from click.testing import CliRunner
from helpers.records import table_of, write_run, write_two_methods

from bench import main
from shalabench.records.budgets import tuples_seen
from shalabench.records.frame import load
from shalabench.records.store import Store


@pytest.fixture
def store(tmp_path):
    return write_two_methods(tmp_path)


RESULT = "results/coherence-0.json"


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        *((RESULT, ("scores", 0, "stderr"), x) for x in (float("nan"), float("inf"), -1, "x")),
        *((RESULT, ("scores", 0, "n"), x) for x in (None, "many", 1.5, -1, True)),
        *((RESULT, ("scores", 0, "value"), x) for x in (float("nan"), "0.5", None, 10**309)),
        (RESULT, ("scores", 0, "given"), "m0"),
        (RESULT, ("scores", 0, "target"), 5),
        (RESULT, ("scores", 0, "metric"), "coherence/undescribed"),
        *((RESULT, ("metrics", 0, "digits"), x) for x in ("3", -1, 10**9)),
        *((RESULT, ("metrics", 0, "direction"), x) for x in ("bigger", None)),
        *((RESULT, ("details",), x) for x in (None, {"notes": None}, {"notes": "x"})),
        (RESULT, ("details",), {"row": {"protocol": 5}}),
        (RESULT, ("details",), {"row": {"resolution": "wide"}}),
        (RESULT, ("details",), {"intervals": {"coherence/joint": [1]}}),
        (RESULT, ("instruments",), ["x"]),
        (RESULT, ("pictures",), None),
        (RESULT, ("classifiers", "m0", "digest"), 5),
        (RESULT, ("provenance", "seconds"), "x"),
        *(("run.json", ("seed",), x) for x in ("0", -1)),
        ("run.json", ("paper",), None),
        ("run.json", ("overrides",), [1]),
        ("run.json", ("origins",), {"model.x": ["alone"]}),
        ("run.json", ("data", "fingerprint"), 3),
        ("run.json", ("data", "sizes"), {"test": "x"}),
        ("run.json", ("data", "modalities"), None),
        ("trained.json", ("provenance", "source"), None),
        ("trained.json", ("provenance",), ["source", "nets"]),
        *(("trained.json", ("provenance", key), "x") for key in ("seconds", "peak_memory")),
        ("trained.json", ("parameters",), "many"),
        ("failed.json", ("reason",), None),
        ("failed.json", ("status",), 5),
    ],
)
def test_a_field_of_another_schema_costs_its_record_alone(store, tmp_path, file, keys, value):
    path = tmp_path / "shala-0-" / file
    content = json.loads(path.read_text()) if path.exists() else {"status": "failed"}
    *above, last = keys
    place = content
    for key in above:
        place = place[key]
    place[last] = value
    path.write_text(json.dumps(content))
    found = load([store])
    (problem,) = found.problems
    assert problem.where == (f"shala-0-/{file}" if file == RESULT else "shala-0-")
    assert problem.kind == "another schema"
    assert last in problem.text or "coherence/undescribed" in problem.text
    assert len(found.runs) == 6 - (file != RESULT)
    rows = {row.label: row.cells["coherence/joint"] for row in table_of(store).rows if row.cells}
    assert {label: cell.seeds for label, cell in rows.items()} == {"shala": 2, "mmvae+": 3}
    assert not rows["mmvae+"].mark


@pytest.mark.parametrize("name", ["trained.json", "failed.json", "run.json"])
@pytest.mark.parametrize("content", ["[1]", "null", "5"])
def test_a_record_that_is_no_object_is_a_problem(store, tmp_path, name, content):
    (tmp_path / "shala-0-" / name).write_text(content)
    (problem,) = load([store]).problems
    assert (problem.where, problem.kind) == ("shala-0-", "unreadable")
    assert "where an object is expected" in problem.text
    found = CliRunner().invoke(main, ["export", str(tmp_path / "copy"), "--store", str(tmp_path)])
    assert isinstance(found.exception, SystemExit | None)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_result_can_be_copied_and_pickled(store, again):
    [result, *_] = load([store]).all_results()
    assert result.metrics  # cached
    made = again(result)
    assert (made, made.evaluator, made.pictures) == (result, "coherence", ())


def test_reading_leaves_the_garbage_collector_as_it_was(store):
    frozen = gc.get_freeze_count()
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            load([store])
            assert gc.isenabled() == enabled
        finally:
            gc.enable()
    assert gc.get_freeze_count() == frozen


def test_a_score_of_newer_code_says_so(store, tmp_path):
    path = tmp_path / "shala-0-" / RESULT
    content = json.loads(path.read_text())
    content["scores"][0]["unit"] = "dB"
    path.write_text(json.dumps(content))
    (problem,) = load([store]).problems
    assert problem.kind == "another schema"
    assert "'unit'" in problem.text
    assert "newer code" in problem.text


def test_older_names_of_fields_are_read(tmp_path):
    folder = write_run(tmp_path, "shala", 0, 0.5)
    run = json.loads((folder / "run.json").read_text())
    del run["data"]["deviation"]
    run["data"] |= {"twin": "cub", "departs": "Half of it."}
    (folder / "run.json").write_text(json.dumps(run))
    made = {"source": "s", "nets": "n", "borrowed": {"lender": "x"}}
    (folder / "trained.json").write_text(json.dumps({"provenance": made}))
    (found,) = load([Store(tmp_path)]).runs.itertuples()
    assert (found.proxy_for, found.deviation) == ("cub", "Half of it.")
    assert found.provenance["reused"] == {"run": "x"}


@pytest.mark.parametrize(
    ("name", "role", "of", "headline"),
    [
        ("coherence/cross", "method", "", True),
        ("coherence/posterior", "method", "", False),
        ("fid/inception/cross", "method", "", True),
        ("floor/fid/classifier", "floor", "fid/classifier", False),
        ("floor-white/psnr", "floor", "psnr", False),
        ("ceiling-truth/consistency/shape", "ceiling", "consistency/shape", False),
        ("chance/attributes", "chance", "attributes/caption-to-image", False),
        ("classifier/accuracy", "classifier", "coherence", False),
    ],
)
def test_older_metrics_get_their_roles_and_declared_ones_keep_theirs(
    tmp_path, name, role, of, headline
):
    folder = write_run(tmp_path, "shala", 0, 0.5)
    file = folder / "results" / "coherence-0.json"
    result = json.loads(file.read_text())
    result["metrics"][0]["name"] = result["scores"][0]["metric"] = name
    declared = {"role": "ceiling", "of": "x", "headline": True, "name": "floor/x"}
    result["metrics"].append(result["metrics"][1] | declared)
    result["scores"].append(result["scores"][0] | {"metric": "floor/x"})
    file.write_text(json.dumps(result))
    scores = load([Store(tmp_path)]).scores.drop_duplicates("metric").set_index("metric")
    assert list(scores.loc[name][["role", "of", "headline"]]) == [role, of, headline]
    assert list(scores.loc["floor/x"][["role", "of", "headline"]]) == ["ceiling", "x", True]


@pytest.mark.parametrize(
    ("stages", "settings", "tuples"),
    [
        (["vae"], {}, 3000),
        (["vae", "prior"], {"model.prior.steps": 10, "model.prior.batch_size": 8}, 3080),
        (["single", "volume"], {"model.volume_steps": 5, "model.volume_batch_size": 2}, 3010),
        (["vae", "mixture"], {}, 3000),
        (["vae", "other"], {}, None),
    ],
)
def test_tuples_seen_are_summed_over_the_stages_that_ran(stages, settings, tuples):
    settings = {"model.steps": 100, "model.batch_size": 30, "model.unused.steps": 7, **settings}
    assert tuples_seen(settings, {stage: {} for stage in stages}) == tuples


def test_a_trial_s_results_on_validation_and_a_run_s_on_test_are_one_training(tmp_path):
    """The setting that a study chose is trained once: its folders hold results of two splits."""
    trial = write_run(tmp_path, "shala", 0, 0.5)
    tuned = write_run(tmp_path, "shala", 0, 0.7, name="tuned")
    result = json.loads((trial / "results" / "coherence-0.json").read_text())
    result["split"] = "validation"
    (trial / "results" / "coherence-0.json").write_text(json.dumps(result))
    same = json.loads((tuned / "run.json").read_text()) | {"train_id": str(trial)}
    (tuned / "run.json").write_text(json.dumps(same))
    for split, value in (("validation", 0.5), ("test", 0.7)):
        found = load([Store(tmp_path)], split)
        assert found.problems == []
        joint = found.scores[found.scores.metric == "coherence/joint"]
        assert joint.value.tolist() == [value]
        assert found.splits[str(trial)] == {"test", "validation"}
