"""Settings that came later leave the identities of older runs as they were."""

from shalabench.records.ids import train_id, with_later_settings, without_later_settings


def identity(settings, train):
    return train_id("mmvae", 1, settings, "toy", "f", train, 0)


def test_a_later_setting_at_what_older_runs_did_changes_no_identity():
    older = identity({"beta": 1.0}, {"precision": "bf16"})
    assert identity({"beta": 1.0, "experts": "all"}, {"precision": "bf16", "tf32": False}) == older
    assert identity({"beta": 1.0, "experts": 1}, {"precision": "bf16"}) != older
    assert identity({"beta": 1.0}, {"precision": "bf16", "tf32": True}) != older


def test_dotted_keys_are_known():
    kept = {"model.beta": 1.0, "model.experts": 2}
    assert without_later_settings(kept | {"train.tf32": False}) == kept
    assert without_later_settings({"model.experts": "all"}) == {}
    assert without_later_settings({"model.prior.spacing": "uniform"}) == {}
    assert without_later_settings({"prior": {"spacing": "uniform", "steps": 3}}) == {
        "prior": {"steps": 3}
    }
    assert without_later_settings({"model.prior.spacing": "log-snr"}) != {}
    assert without_later_settings({"data.captions": "whole"}) == {}
    assert without_later_settings({"data.captions": "parts"}) != {}


def test_an_older_run_is_read_with_what_it_did_then():
    known = ["model.beta", "model.prior.spacing", "model.experts"]
    older = {"model.beta": 2.0, "model.experts": 1}
    assert with_later_settings(older, known) == older | {"model.prior.spacing": "uniform"}
    assert with_later_settings({"model.prior.spacing": "log-snr"}, known[1:2]) == {
        "model.prior.spacing": "log-snr"
    }
