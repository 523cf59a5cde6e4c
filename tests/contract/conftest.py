"""Every registered model, with toy data that it can run on."""

from __future__ import annotations

import pytest
from helpers.toys import toy_data

from shalabench.api.registry import entries, find
from shalabench.config.settings import resolve


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    return [toy_data(folder, name) for name in ("toy", "toy-views")]


@pytest.fixture(scope="module", params=sorted(entries("model")))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def toy(name, toys):
    """The first toy dataset that the model can run on."""
    cls = find("model", name).cls
    for data in toys:
        if cls.skip(data.spec, resolve(name, data.name, "smoke", ()).model) is None:
            return data
    pytest.fail(f"No toy dataset suits the model {name}.")
