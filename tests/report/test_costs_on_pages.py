"""A dataset's page shows what trainings cost and what other sources published."""

from __future__ import annotations

import html
import json
import re

from helpers.records import write_run

from shalabench.records.store import Store
from shalabench.report import build_report

MLD = {"model.steps": 100, "model.batch_size": 30}
MLD |= {"model.prior.steps": 7020, "model.prior.batch_size": 256}


def rows_of(text):
    """The cells of each row of the page's tables."""
    lines = re.findall(r"<tr>(.*?)</tr>", text, re.S)
    plain = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S) for line in lines]
    return [[html.unescape(re.sub(r"<[^>]+>", "", x)).strip() for x in cells] for cells in plain]


def test_a_page_has_tuples_shares_a_mark_and_every_source(tmp_path):
    folder = write_run(tmp_path / "store", "mld", 0, 0.1, settings=MLD)
    trained = json.loads((folder / "trained.json").read_text())
    trained["last"] = {"autoencoders": {}, "prior": {}}
    (folder / "trained.json").write_text(json.dumps(trained))
    write_run(tmp_path / "store", "cmvae", 0, 0.2)
    build_report([Store(tmp_path / "store")], tmp_path / "out")
    text = (tmp_path / "out" / "polymnist-quick.html").read_text(encoding="utf-8")
    rows = rows_of(text)
    assert [row[1:4] for row in rows if row[0] == "mld ‡" and "M" in row[1]] == [
        ["0.00 M", "1.80 M", "0.02 / 1.0"]
    ]
    assert "mld is undertrained" in text
    values = [row for row in rows if row[:2] == ["cmvae", "coherence/joint"]]
    assert [row[2] for row in values] == ["0.764", "0.781"]  # the library's, its paper's
    assert "Senellart" in text
