"""Settings that came later leave the identities of older runs as they were."""

from shalabench.records.ids import as_before, as_then, train_id


def identity(settings, train):
    return train_id("mmvae", 1, settings, "toy", "f", train, 0)


def test_a_later_setting_at_what_older_runs_did_changes_no_identity():
    older = identity({"beta": 1.0}, {"precision": "bf16"})
    assert identity({"beta": 1.0, "experts": "all"}, {"precision": "bf16", "tf32": False}) == older
    assert identity({"beta": 1.0, "experts": 1}, {"precision": "bf16"}) != older
    assert identity({"beta": 1.0}, {"precision": "bf16", "tf32": True}) != older


def test_dotted_keys_are_known():
    kept = {"model.beta": 1.0, "model.experts": 2}
    assert as_before(kept | {"train.tf32": False}) == kept
    assert as_before({"model.experts": "all"}) == {}
    assert as_before({"model.prior.spacing": "uniform"}) == {}
    assert as_before({"prior": {"spacing": "uniform", "steps": 3}}) == {"prior": {"steps": 3}}
    assert as_before({"model.prior.spacing": "log-snr"}) != {}
    assert as_before({"data.captions": "whole"}) == {}
    assert as_before({"data.captions": "parts"}) != {}


def test_an_older_run_is_read_with_what_it_did_then():
    known = ["model.beta", "model.prior.spacing", "model.experts"]
    older = {"model.beta": 2.0, "model.experts": 1}
    assert as_then(older, known) == older | {"model.prior.spacing": "uniform"}
    assert as_then({"model.prior.spacing": "log-snr"}, known[1:2]) == {
        "model.prior.spacing": "log-snr"
    }
