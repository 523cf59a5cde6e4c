"""Which records the commands read and write by default."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.records import write_run

from shalabench.api import BenchError, files
from shalabench.cli.options import read_stores
from shalabench.cli.run import headline_metrics
from shalabench.records import locations

ROOT = Path(__file__).parent.parent.parent


def test_a_clone_holds_its_records_and_its_runs():
    assert locations.clone() == ROOT
    assert locations.committed() == ROOT / "results"
    assert locations.default_store() == ROOT / "results" / "runs"
    assert locations.default_store("check") == ROOT / "results" / "check"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed package in one folder, and a user in another."""
    package = tmp_path / "site-packages" / "shalabench"
    (package / "records" / "committed" / "reference").mkdir(parents=True)
    monkeypatch.setattr(files, "_PACKAGE", package)
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(tmp_path / "user")
    return package


def test_an_installed_package_reads_its_own_data_before_any_run(installed, capsys):
    assert locations.clone() is None
    committed = installed / "records" / "committed"
    assert [store.root for store in read_stores(())] == [committed / "reference"]
    assert [store.root for store in read_stores((), "ablations")] == [
        committed / "reference",
        committed / "ablations",
    ]
    assert "results/reference" in capsys.readouterr().err


def test_an_installed_package_records_below_the_current_folder(installed, tmp_path, capsys):
    store = locations.default_store()
    assert store.absolute() == tmp_path / "user" / "results" / "runs"
    write_run(store, "shala", 0, 0.8)
    assert [read.root for read in read_stores((), "ablations")] == [store]
    assert capsys.readouterr().err == ""
    assert [(s.root, s.is_reference) for s in read_stores((), reference=True)] == [
        (installed / "records" / "committed" / "reference", True),
        (store, False),
    ]
    read_stores((), reference=False)
    assert "--reference" in capsys.readouterr().err  # what vanished from view is named


def test_a_given_store_is_read_alone_and_must_exist(tmp_path):
    assert [store.root for store in read_stores((tmp_path,))] == [tmp_path]
    with pytest.raises(BenchError, match="nowhere"):
        read_stores((tmp_path / "nowhere",))


def test_headline_metrics_that_depend_on_n_come_last():
    families = headline_metrics()
    assert {"coherence", "psnr", "fid"} <= set(families)
    assert families.index("psnr") < families.index("fid")
