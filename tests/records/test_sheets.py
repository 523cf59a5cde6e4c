"""Published values, sources and budgets: whatever is wrong in a file is named with its place."""

from __future__ import annotations

import pytest

from shalabench.api import ConfigErrors
from shalabench.records import budgets, published

HEAD = "dataset,method,metric,condition,value,spread,key,source,note,protocol\n"
ROW = "mst,mvae,psnr,,0.12,0.1,cui2026,Table 2,,\n"


def test_a_byte_order_mark_and_other_line_ends_change_nothing(tmp_path):
    file = tmp_path / "published.csv"
    file.write_bytes(b"\xef\xbb\xbf" + (HEAD + ROW).replace("\n", "\r\n").encode())
    (row,) = published.read_published(file)
    assert (row.dataset, row.value, row.spread, row.protocol) == ("mst", "0.12", "0.1", "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HEAD + ROW.replace("0.12", "0,12"), ("line 2", "11 cells")),
        (HEAD + ROW.replace("0.12", "n/a"), ("line 2, column value", "'n/a'")),
        (HEAD + ROW.replace("0.12", "nan"), ("line 2, column value", "'nan'")),
        (HEAD + ROW.replace("0.1,", "-1,"), ("line 2, column spread", "'-1'")),
        (HEAD + ROW.replace("cui2026", "cui2025"), ("column key", "Did you mean 'cui2026'?")),
        (HEAD + ROW.replace("mvae", ""), ("line 2, column method",)),
        (HEAD + ROW + ROW, ("2 rows", "method 'mvae'")),
        (HEAD.replace("spread", "spraed") + ROW, ("'spraed'. Did you mean 'spread'?",)),
        (HEAD.replace(",protocol", "") + ROW, ("0 columns 'protocol'",)),
        (HEAD + ROW.replace("Table", '"Table'), ("published.csv", "CSV")),
        (HEAD.encode() + b"\xff", ("published.csv", "CSV")),
        ("", ("published.csv", "columns 'dataset'")),
    ],
)
def test_a_wrong_cell_is_reported_with_file_line_and_column(tmp_path, content, words):
    file = tmp_path / "published.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigErrors) as caught:
        published.read_published(file)
    for word in ("published.csv", *words):
        assert word in str(caught.value)


def test_budgets_are_whole_numbers_one_a_stage(tmp_path):
    file = tmp_path / "budgets.csv"
    head = "method,dataset,stage,updates,batch_size,published_for,source,undertrained\n"
    file.write_text(f"{head}mvae,,,1e3,0,,here,\nmvae,,,1,1,,here,\n")
    with pytest.raises(ConfigErrors) as caught:
        budgets.read_budgets(file)
    for word in ("column updates: '1e3'", "column batch_size: '0'", "2 rows of method 'mvae'"):
        assert word in str(caught.value)
