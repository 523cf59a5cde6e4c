"""Comparisons from made-up stores whose values are known."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from helpers.records import write_run

from bench import main
from shalabench.analysis.compare import compare
from shalabench.api import BenchError
from shalabench.records.store import Store


@pytest.fixture
def store(tmp_path):
    for seed, (a, b) in enumerate(((0.80, 0.30), (0.82, 0.34), (0.84, 0.38))):
        write_run(tmp_path, "shala", seed, a)
        write_run(tmp_path, "mmvae+", seed, b, x=2)
    return Store(tmp_path)


def run(*arguments):
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def test_methods_are_compared_over_seeds_with_their_settings(store):
    found = run("shala", "mmvae+", "--store", store.root)
    assert found.exit_code == 0, found.output
    line = next(x for x in found.output.splitlines() if x.startswith("coherence/joint"))
    assert "+0.480" in line
    assert "+0.408 to +0.552" in line  # 2.776 * sqrt((0.02**2 + 0.04**2) / 3)
    assert "shala is better" in line
    assert "Interval: over 3 and 3 seeds." in found.output
    assert any(x.split() == ["model.x", "1", "2"] for x in found.output.splitlines())


def test_fewer_than_three_seeds_a_side_are_not_tested(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, "shala", seed, 0.8)
    for seed in (0, 1, 2):
        write_run(tmp_path, "mmvae+", seed, 0.3 + seed / 100)
    found = run("shala", "mmvae+", "--store", tmp_path)
    line = next(x for x in found.output.splitlines() if x.startswith("coherence/joint"))
    assert "+0.490" in line
    assert "+0.462 to +0.518" in line  # 1.96 * sqrt(2) * 0.01, of one training a side
    assert line.endswith("not tested")
    assert "better" not in found.output
    assert "Not tested over trainings: there are 2 and 3 seeds" in found.output
    assert "--seeds 3" in found.output
    plain = json.loads(run("shala", "mmvae+", "--store", tmp_path, "--json").output)
    (metric,) = plain["comparisons"][0]["metrics"]
    assert (metric["p"], metric["is_tested"], metric["verdict"]) == (None, False, "not tested")


def test_seeds_are_paired_only_where_runs_share_a_first_stage(tmp_path):
    settings = {"settings": {"prior.kind": "gmm"}, "overrides": ["prior.kind=gmm"]}
    for seed, (own, shift) in enumerate(((0.50, 0.011), (0.60, 0.010), (0.70, 0.009))):
        write_run(tmp_path, "shala", seed, own, settings={"prior.kind": "own"})
        write_run(tmp_path, "shala", seed, own + shift, name="gmm", **settings)
        write_run(tmp_path, "shala", seed, own + shift, name="x", overrides=["model.x=2"], x=2)
    (prior,), _ = compare("shala [prior.kind=gmm]", "shala", [Store(tmp_path)])
    found = prior.metrics[0][3]
    assert found.basis == "3 seeds, paired"
    assert found.margin == pytest.approx(4.302653 * 0.001 / 3**0.5, rel=1e-5)
    (other,), _ = compare("shala [model.x=2]", "shala", [Store(tmp_path)])
    assert other.metrics[0][3].basis == "3 and 3 seeds"


def test_runs_that_reused_weights_of_one_source_are_paired(tmp_path):
    """Here x is a setting of a sampler, and the second variant took the weights of the first."""
    for seed in (0, 1, 2):
        write_run(tmp_path, "shala", seed, 0.5 + seed / 10)
        for x, source in ((2, f"shala-{seed}-"), (3, f"shala-{seed}-x2")):
            changes = {"overrides": [f"model.x={x}"], "x": x, "name": f"x{x}"}
            folder = write_run(tmp_path, "shala", seed, 0.6 + seed / 10 + x / 1000, **changes)
            trained = json.loads((folder / "trained.json").read_text())
            trained["provenance"]["reused"] = {"run": source, "stages": ["inference"]}
            (folder / "trained.json").write_text(json.dumps(trained))
    for a, b in (("shala", "shala [model.x=3]"), ("shala [model.x=2]", "shala [model.x=3]")):
        (found,), _ = compare(a, b, [Store(tmp_path)])
        assert found.metrics[0][3].basis.startswith("3 seeds, paired"), (a, b)


def test_a_collapsed_model_is_not_called_better(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path, "shala", seed, 0.809 + seed / 100, classes=1.0)
        write_run(tmp_path, "mmvae+", seed, 0.5 + seed / 100, classes=8.0)
    found = run("shala", "mmvae+", "--store", tmp_path, "--metric", "coherence/joint")
    line = next(x for x in found.output.splitlines() if x.startswith("coherence/joint "))
    assert "0.819†" in line
    assert line.endswith("shala collapsed")
    assert "shala (1.0 of 10 classes)" in found.output
    assert "shala is better" not in found.output


def test_json_holds_every_value(store):
    found = run("shala", "mmvae+", "--store", store.root, "--json")
    metric = json.loads(found.output)["comparisons"][0]["metrics"][0]
    assert metric["value"] == pytest.approx(0.48)
    assert metric["direction"] == "higher"


def test_other_data_are_refused_by_name(tmp_path):
    write_run(tmp_path, "shala", 0, 0.8, data="aaaa")
    write_run(tmp_path, "mmvae+", 0, 0.3, data="bbbb")
    found = run("shala", "mmvae+", "--store", tmp_path)
    assert found.exit_code == 2
    assert "the data differ (fingerprints aaaa and bbbb)" in found.output


def test_other_classifiers_are_refused_by_name(tmp_path):
    write_run(tmp_path, "shala", 0, 0.8, judge="one")
    write_run(tmp_path, "mmvae+", 0, 0.3, judge="two")
    with pytest.raises(BenchError, match=r"classifier of m0 \(one and two\)"):
        compare("shala", "mmvae+", [Store(tmp_path)])


def test_classifiers_that_differ_within_a_side_are_refused_too(tmp_path):
    for seed, judge in enumerate(("one", "two")):
        write_run(tmp_path, "shala", seed, 0.8, judge=judge)
        write_run(tmp_path, "mmvae+", seed, 0.3, judge="one")
    with pytest.raises(BenchError, match="differ in their coherence classifiers"):
        compare("shala", "mmvae+", [Store(tmp_path)])


def test_two_stores_are_compared_run_by_run(tmp_path):
    for name, shift in (("old", 0.0), ("new", 0.1)):
        for seed in (0, 1, 2):
            write_run(tmp_path / name, "shala", seed, 0.5 + shift + seed / 1000 * (1 + shift))
        write_run(tmp_path / name, "mmvae+", 0, 0.3)
    write_run(tmp_path / "new", "mvae", 0, 0.3)
    found, left_out = compare(str(tmp_path / "new"), str(tmp_path / "old"), [])
    assert [c.place for c in found] == ["mmvae+, polymnist, quick", "shala, polymnist, quick"]
    assert found[1].metrics[0][3].value == pytest.approx(0.1, abs=1e-3)
    assert any("mvae, polymnist, quick: only" in text for text in left_out)


def test_two_commits_are_compared_though_their_code_differs(tmp_path):
    for commit, value, code in (("a" * 40, 0.5, "s1"), ("b" * 40, 0.6, "s2")):
        folder = write_run(tmp_path, "shala", 0, value, name=commit, source=code)
        provenance = {"source": code, "nets": "n", "commit": commit}
        (folder / "trained.json").write_text(json.dumps({"provenance": provenance}))
    (found,), _ = compare("bbbbbbb", "aaaaaaa", [Store(tmp_path)])
    assert found.metrics[0][3].value == pytest.approx(0.1)
    assert ("code digest, source", "s2", "s1") in found.configuration


def test_variants_of_a_method_are_named_and_not_mixed(store):
    write_run(store.root, "shala", 0, 0.9, name="v", overrides=["model.x=3"], x=3)
    (found,), _ = compare("shala [model.x=3]", "shala", [store])
    assert found.names == ("shala [model.x=3]", "shala")
    assert found.metrics[0][3].a == pytest.approx(0.9)
    write_run(store.root, "mvae", 0, 0.9, name="a", overrides=["model.x=3"], x=3)
    write_run(store.root, "mvae", 0, 0.9, name="b", overrides=["model.x=4"], x=4)
    with pytest.raises(BenchError, match=r"several variants .*mvae \[model.x=3\]"):
        compare("mvae", "shala", [store])


def test_a_variant_is_called_as_in_the_table_of_its_dataset(store):
    write_run(store.root, "shala", 0, 0.5, name="v", overrides=["model.x=3"], x=3)
    write_run(store.root, "shala", 0, 0.5, name="other", dataset="mst", x=7)
    (found,), _ = compare("shala", "shala [model.x=3]", [store], dataset="polymnist")
    assert found.names == ("shala", "shala [model.x=3]")


def test_an_extractor_that_is_a_classifier_is_named_by_its_digest_only(store):
    """Older records name no instruments, and their classifiers' digests are the same."""
    for folder in store.root.glob("shala*"):
        (file,) = (folder / "results").iterdir()
        file.write_text(json.dumps(json.loads(file.read_text()) | {"instruments": {"m0": "d"}}))
    (found,), _ = compare("shala", "mmvae+", [store])
    assert found.metrics
    assert not found.refused


def test_rows_of_an_ablation_are_called_as_in_its_table(tmp_path):
    for seed in (0, 1):
        for w, joint in ((0.0, 0.5), (4.0, 0.7)):
            settings = {"settings": {"model.prior.guidance": w}, "name": str(w)}
            changed = [f"model.prior.guidance={w}"]
            write_run(tmp_path, "shala", seed, joint + seed / 10, overrides=changed, **settings)
    found = run("shala (w = 4)", "shala (w = 0)", "--store", tmp_path)
    assert found.exit_code == 0, found.output
    assert "+0.200" in found.output
    missing = run("shala (w = 1)", "shala (w = 0)", "--store", tmp_path)
    assert missing.exit_code == 2
    assert "Did you mean 'shala (w = 4)'" in missing.output


def test_an_unknown_metric_is_called_so(store):
    with pytest.raises(BenchError, match=r"Unknown metric 'coherrence/joint'. Did you mean"):
        compare("shala", "mmvae+", [store], metric="coherrence/joint")


def test_sides_of_two_kinds_and_unknown_names_are_refused(store):
    with pytest.raises(BenchError, match="'shala' is a method and 'quick' is a preset"):
        compare("shala", "quick", [store])
    with pytest.raises(BenchError, match="Did you mean 'shala'"):
        compare("shalla", "mmvae+", [store])


def test_a_broken_record_is_left_out_and_named(store):
    (store.root / "broken").mkdir()
    (store.root / "broken" / "run.json").write_text("{")
    found, left_out = compare("shala", "mmvae+", [store])
    assert found[0].metrics
    assert any("broken: unreadable" in text for text in left_out)
    with pytest.raises(BenchError, match=r"Unknown method.*Left out: .*broken"):
        compare("mvae", "mmvae+", [store])


def test_variants_of_two_methods_are_compared_where_they_vary_alike(tmp_path):
    """With several priors, each is compared with the same one; the gate's runs wait to be asked."""
    for kind, gain in (("own", 0.0), ("gmm", 0.2)):
        for seed in range(3):
            more = {"settings": {"prior.kind": kind}, "overrides": [f"prior.kind={kind}"]}
            for model, value in (("shala", 0.3), ("mopoe", 0.5)):
                write_run(tmp_path, model, seed, value + gain + seed / 100, name=kind, **more)
    gate = write_run(tmp_path, "shala", 9, 0.1, name="gate")
    run = json.loads((gate / "run.json").read_text())
    (gate / "run.json").write_text(json.dumps(run | {"preset": "gate"}))
    found, left_out = compare("mopoe", "shala", [Store(tmp_path)])
    assert left_out == []
    assert {c.place: c.names for c in found} == {
        f"polymnist, quick [prior.kind={kind}]": ("mopoe", "shala") for kind in ("own", "gmm")
    }
    for comparison in found:
        ((name, *_, found_difference),) = comparison.metrics
        assert (name, found_difference.value) == ("coherence/joint", pytest.approx(0.2))


def test_a_packaged_row_needs_no_mark_where_only_it_is_called_so(tmp_path):
    for seed in range(3):
        write_run(tmp_path / "own", "mvae", seed, 0.1)
        elsewhere = {"dataset": "mst", "overrides": ["model.x=1"]}
        write_run(tmp_path / "own", "shala", seed, 0.1, **elsewhere)
        for x in (1, 2):
            more = {"overrides": [f"model.x={x}"], "x": x, "name": f"x{x}"}
            write_run(tmp_path / "packaged", "shala", seed, 0.2 * x, **more)
    stores = [Store(tmp_path / "own"), Store(tmp_path / "packaged", is_reference=True)]
    names = "shala [model.x=2]", "shala [model.x=1]"
    (found,), _ = compare(*names, stores, dataset="polymnist")
    assert found.names == ("shala [model.x=2] (reference)", "shala [model.x=1] (reference)")
