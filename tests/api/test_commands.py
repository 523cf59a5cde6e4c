"""Command lines survive the shell that reads them."""

from __future__ import annotations

import shlex
from pathlib import Path

from shalabench.api.commands import command_line


def test_options_are_quoted_repeated_and_left_out_where_empty():
    texts = ["data.digits=[0, 1]", "model.name=it's"]
    options = {"dataset": "mst", "seed": 0, "set": texts, "store": Path("a b"), "none": None}
    options |= {"empty": "", "nothing": []}
    words = shlex.split(command_line("shala-bench run", options))
    expected = ["shala-bench", "run", "--dataset", "mst", "--seed", "0", "--set", texts[0]]
    assert words == [*expected, "--set", texts[1], "--store", "a b"]
