"""Damage to the files of a run is noticed when they are read."""

from __future__ import annotations

import json
import random

import pytest

from shalabench.api import BenchError
from shalabench.records.digests import (
    Damaged,
    checkpoint_name,
    digest_of,
    parse_checkpoint,
    read_checked,
)
from shalabench.records.store import RunFolder

CONTENT = {"train_id": "a", "x": {"value": 0.125, "text": "é \u2028"}, "scores": [1, 2.5, None]}


def test_a_record_gives_what_was_written_and_states_the_digest_of_it(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_json("run.json", CONTENT)
    assert folder.run == CONTENT
    raw = (tmp_path / "run.json").read_bytes()
    stated = json.loads(raw)["sha256"]
    plain = (json.dumps(CONTENT, indent=1, ensure_ascii=False) + "\n").encode()
    assert stated == digest_of(plain)


def test_no_flipped_bit_gives_other_values(tmp_path):
    folder, file = RunFolder(tmp_path), tmp_path / "run.json"
    folder.write_json("run.json", CONTENT)
    whole, unnoticed = file.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 3):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        try:
            found = folder.run
        except BenchError:
            continue
        unnoticed += 1
        found.pop("sha256", None)
        assert found == CONTENT, (bit, content)
    assert unnoticed <= 16  # between the digest and the end, where nothing is said


@pytest.mark.parametrize("cut", range(2, 60, 7))
def test_a_record_that_was_cut_or_lengthened_is_told(tmp_path, cut):
    folder, file = RunFolder(tmp_path), tmp_path / "run.json"
    folder.write_json("run.json", CONTENT)
    file.write_bytes(file.read_bytes()[:-cut] + (b"\n}\n" if cut > 3 else b""))
    with pytest.raises(BenchError, match=r"run\.json does not read"):
        _ = folder.run


def test_a_record_without_a_digest_is_read(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(CONTENT, indent=1))
    assert RunFolder(tmp_path).run == CONTENT


def test_a_checkpoint_is_named_by_its_content(tmp_path):
    name = checkpoint_name(1, 23, b"content")
    assert parse_checkpoint(name) == (1, 23, digest_of(b"content"))
    assert parse_checkpoint("01-000000023.pt") == (1, 23, None)
    assert parse_checkpoint(".1-01-000000023.pt") is None
    folder, chance = RunFolder(tmp_path), random.Random(0)
    for step in (1, 2, 3):
        folder.write_checkpoint(0, step, chance.randbytes(20))
    assert [parse_checkpoint(file.name)[1] for file in folder.checkpoints()] == [3, 2]


def test_a_file_of_another_digest_is_damaged(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    assert read_checked(tmp_path / "x", None) == read_checked(tmp_path / "x", digest_of(b"x"))
    for name, digest in (("x", digest_of(b"y")), ("none", None)):
        with pytest.raises(Damaged):
            read_checked(tmp_path / name, digest)
