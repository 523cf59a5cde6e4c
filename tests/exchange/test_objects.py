"""Objects of other code, and models from here for other code."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toys import toy_data

import shalabench as sb
from shalabench.api import BenchError, DataPaths, Rng
from shalabench.exchange.loaded import LoadedRun
from shalabench.exchange.objects import generate
from shalabench.execute.trained import load_trained

ROOT = Path(__file__).parent.parent.parent
MODULE = """
import torch

class Copier:
    def sample(self, n):
        return {"bar": torch.rand(n, 3, 8, 8), "stripe": torch.rand(n, 1, 8, 8).numpy(),
                "word": torch.zeros(n, 4, dtype=torch.long)}

    def translate(self, given, targets):
        n = len(next(iter(given.values())))
        return {name: self.sample(n)[name] for name in targets}

class Broken(Copier):
    def translate(self, given, targets):
        raise ZeroDivisionError("of the user's code")

make, broken = Copier, Broken
"""


class Counter:
    """Samples that are as bright as their number."""

    asked = 0

    def sample(self, n):
        self.asked += n
        x = torch.arange(self.asked - n, self.asked) / 2000
        return {"bar": x[:, None, None, None].expand(-1, 3, 8, 8)}


def test_the_answers_of_an_object_are_joined_in_order(tmp_path):
    toy = toy_data(tmp_path)
    spec = replace(toy.spec, modalities=toy.spec.modalities[:1])
    found = generate(Counter(), spec, toy.split("test"), 1200)
    np.testing.assert_allclose(found.arrays["joint/bar"][:, 0, 0, 0], np.arange(1200) / 2000)
    assert found.index.tolist() == list(range(64))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ([1], "list|\\[1\\]"),
        ({"bar": torch.zeros(64, 3, 8, 8)}, "bar, stripe, word"),
        (
            {n: torch.zeros(3, *s) for n, s in {"bar": (3,), "stripe": (1,), "word": (4,)}.items()},
            "a row for each",
        ),
    ],
)
def test_another_answer_is_refused(tmp_path, made, words):
    toy = toy_data(tmp_path)
    source = type("Mine", (), {"sample": lambda self, n: made})()
    with pytest.raises(BenchError, match=words):
        generate(source, toy.spec, toy.split("test"), 0)


def bench(tmp_path, source, *more):
    (tmp_path / "mine.py").write_text(MODULE)
    command = [sys.executable, str(ROOT / "bench.py"), "evaluate", source, "--dataset", "toy"]
    command += ["--name", "mine", "--store", "store", "--cache-dir", "cache", "--device", "cpu"]
    return subprocess.run(
        [*command, "--preset", "external", *more],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_function_is_scored_and_one_that_raises_is_not(tmp_path, judges):
    more = ("--classifiers", str(judges), "--evaluators", "coherence,samples", "--number", "50")
    done = bench(tmp_path, "mine:make", *more, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["evaluated"] == ["coherence", "samples"]
    assert facts["samples"] == "50 joint samples, translations of 50 test tuples"
    done = bench(tmp_path, "mine:make", *more)
    assert "coherence, samples in store" in done.stdout
    assert "mine (external)  " in done.stdout  # its row
    done = bench(tmp_path, "mine:broken", *more, "--name", "bad")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.rstrip().endswith("ZeroDivisionError: of the user's code")
    assert [path.name for path in (tmp_path / "store").glob("bad*")] == []
    done = bench(tmp_path, "mine:absent", *more)
    assert (done.returncode, "'absent'" in done.stderr) == (2, True)


def test_tables_comparisons_and_reports_mark_external_rows(tmp_path, trained, judges):
    from click.testing import CliRunner

    from shalabench.cli import main

    store = tmp_path / "store"
    model = LoadedRun(*load_trained(trained, DataPaths(tmp_path, tmp_path)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHALA_CACHE", str(tmp_path))
        sb.evaluate(
            model,
            "toy",
            ["coherence"],
            **{"name": "mvae", "preset": "smoke", "store": store, "archive": judges},
        )
    stores = ["--store", str(trained.path.parent), "--store", str(store)]
    runner = CliRunner()
    done = runner.invoke(main, ["table", "--metric", "coherence", "--notes", *stores])
    assert done.exit_code == 0, done.output
    assert "mvae (external)" in done.output
    words = " ".join(done.output.split())  # notes are wrapped
    assert "the preset is that of the evaluation, not of the training" in words
    done = runner.invoke(main, ["compare", "mvae", "mvae (external)", *stores])
    assert done.exit_code == 0, done.output
    done = runner.invoke(main, ["report", str(tmp_path / "report"), *stores])
    assert done.exit_code == 0, done.output
    pages = " ".join(file.read_text() for file in (tmp_path / "report").rglob("*.html"))
    assert "mvae (external)" in pages
    for command in (["status"], ["status", "--outdated"], ["export", str(tmp_path / "packed")]):
        done = runner.invoke(main, [*command, *stores])
        assert done.exit_code == 0, done.output
    done = runner.invoke(
        main, ["table", "--metric", "coherence", "--store", str(tmp_path / "packed")]
    )
    assert "mvae (external)" in done.output


# Loaded models.


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return LoadedRun(*load_trained(trained, DataPaths(folder, folder)))


def test_seeds_stand_for_random_numbers(model):
    with torch.inference_mode():
        expected = model.model.sample(5, Rng(3))
    few, many = model.sample(5, seed=3), model.sample(700, seed=3)
    for name in model.names:
        assert torch.equal(
            few[name], expected[name].clamp(0, 1) if name != "word" else expected[name]
        )
        torch.testing.assert_close(many[name][:5], few[name])
    assert not torch.equal(model.sample(5, seed=4)["bar"], few["bar"])


def test_given_views_may_be_bytes_and_strings(model):
    split = model.dataset.split("test")
    views = split.batch(torch.arange(4)).views
    plain = model.translate({"bar": views["bar"]}, ["stripe", "word"])
    again = model.translate({"bar": split.tensors["bar"][:4].numpy()}, ["stripe", "word"])
    torch.testing.assert_close(again["stripe"], plain["stripe"])
    words = [model.spec["word"].text(x.tolist()) for x in views["word"]]
    of_tokens, of_text = (model.encode({"word": x}) for x in (views["word"], words))
    assert torch.equal(of_text, of_tokens)
    assert of_tokens.shape[0] == 4
    assert model.reconstruct(views)["bar"].shape == (4, 3, 8, 8)
    assert model.classes == 4


@pytest.mark.parametrize(
    ("given", "targets", "words"),
    [
        ({}, ["bar"], "nothing"),
        ({"car": torch.zeros(2, 3, 8, 8)}, ["bar"], "'car'.*'bar'"),
        ({"bar": torch.zeros(2, 3, 8, 8)}, ["strip"], "'strip'.*'stripe'"),
        ({"bar": torch.zeros(3, 8, 8)}, ["stripe"], r"n x 3 x 8 x 8"),
        ({"bar": torch.full((2, 3, 8, 8), 200.0)}, ["stripe"], "200"),
        ({"bar": torch.zeros(2, 3, 8, 8), "word": ["a", "b", "c"]}, ["stripe"], "bar 2, word 3"),
    ],
)
def test_wrong_views_are_refused(model, given, targets, words):
    with pytest.raises(BenchError, match=words):
        model.translate(given, targets)
