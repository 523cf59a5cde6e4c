"""Vectors in a loaded model, and written to a folder and read back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.shapes import shapes

from shalabench.api import BenchError
from shalabench.api.registry import find
from shalabench.config.settings import resolve
from shalabench.exchange.check import check
from shalabench.exchange.loaded import LoadedRun
from shalabench.exchange.read import read
from shalabench.exchange.write import _write_folder


@pytest.fixture(scope="module")
def loaded():
    data = shapes()
    model = find("model", "mvae").cls(data.spec, resolve("mvae", "toy", "smoke", ()).model)
    return LoadedRun(model.eval(), data)


def test_vectors_are_given_and_made_in_the_units_of_the_data(loaded):
    with torch.no_grad():
        loaded.model.decoders["row"].layers[-2].bias.fill_(-40.0)
    made = loaded.translate({"field": 5 * np.ones((3, 2, 3))}, ["row", "flags", "wide"])
    assert made["row"].shape == (3, 5)
    assert (made["row"] < -30).all()
    assert made["flags"].shape == (3, 1, 2, 2)
    assert 0 <= made["wide"].min() <= made["wide"].max() <= 1
    with pytest.raises(BenchError, match="'row' has values that are not finite"):
        loaded.translate({"row": np.full((1, 5), np.nan)}, ["wide"])
    with pytest.raises(BenchError, match=r"n x 5 was expected"):
        loaded.translate({"row": np.zeros((1, 4))}, ["wide"])


def test_a_folder_of_samples_holds_vectors_as_they_are(loaded, tmp_path):
    made, spec = loaded.sample(4), loaded.spec
    made["wide"] = loaded.dataset.split("test").batch(torch.arange(4)).views["wide"]
    arrays = {f"joint/{name}": x for name, x in made.items()}
    _write_folder(arrays, {m.name: m for m in spec.modalities}, tmp_path)
    samples = check(read(tmp_path), spec, 40)
    for name in ("row", "field", "flags"):
        assert torch.equal(samples.joint[name], made[name])
