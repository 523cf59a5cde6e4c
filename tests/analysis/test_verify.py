"""`status --verify` finds what is damaged, and says what has no digest."""

from __future__ import annotations

import gzip
import json

import pytest
from click.testing import CliRunner
from helpers.records import write_run

from shalabench.analysis.verify import verify
from shalabench.cli import main
from shalabench.records.digests import digest_of
from shalabench.records.packed import NAME, is_as_written
from shalabench.records.store import RunFolder, Store


@pytest.fixture
def folder(tmp_path):
    """A run with weights, a checkpoint and two results, all with digests."""
    path = write_run(tmp_path / "store", "shala", 0, 0.5)
    made = RunFolder(path)
    made.weights.write_bytes(b"weights")
    trained = made.trained | {"digest": digest_of(b"weights")}
    for name, content in (
        ("run.json", made.run),
        ("trained.json", trained),
        ("results/coherence-0.json", made.results()[0]),
        ("results/other.json", made.results()[0] | {"train_id": made.run["train_id"]}),
    ):
        made.write_json(name, content)
    made.write_checkpoint(0, 1, b"checkpoint")
    return made


def test_what_is_whole_is_counted(folder):
    assert verify(folder) == {
        "run": folder.path.name,
        "checked": 6,
        "unchecked": 0,
        "damaged": [],
    }


@pytest.mark.parametrize(
    "name", ["run.json", "trained.json", "results/coherence-0.json", "weights.pt", "checkpoint"]
)
def test_a_flipped_bit_of_any_file_is_found(folder, name):
    file = folder.checkpoints()[0] if name == "checkpoint" else folder.path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (text,) = verify(folder)["damaged"]
    assert file.name in text
    words = ["status", "--verify", "--store", str(folder.path.parent)]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 1
    assert file.name in found.output
    (run,) = json.loads(CliRunner().invoke(main, [*words, "--json"]).output)
    assert len(run["damaged"]) == 1


def test_a_result_of_another_training_is_found(folder):
    folder.write_json("results/other.json", folder.result("other.json") | {"train_id": "another"})
    (text,) = verify(folder)["damaged"]
    assert "another training" in text


def test_records_from_before_digests_are_no_damage(tmp_path):
    write_run(tmp_path, "shala", 0, 0.5)
    found = CliRunner().invoke(main, ["status", "--verify", "--store", str(tmp_path)])
    assert found.exit_code == 0
    assert "3 were recorded without one, and 0 are damaged" in found.output


def test_packed_runs_are_compared_with_the_digest_of_their_file(folder, tmp_path):
    Store(tmp_path / "store").export(tmp_path / "copy")
    (run,) = Store(tmp_path / "copy").runs()
    assert (verify(run)["checked"], verify(run)["damaged"]) == (1, [])
    file = run.path.parent / NAME
    changed = gzip.decompress(file.read_bytes()).replace(b'"value":0.5', b'"value":0.7')
    file.write_bytes(gzip.compress(changed))
    is_as_written.cache_clear()
    (run,) = Store(tmp_path / "copy").runs()
    assert len(verify(run)["damaged"]) == 1
