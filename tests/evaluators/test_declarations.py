"""What evaluators declare of their metrics."""

from __future__ import annotations

import pytest

from shalabench.api.registry import entries, find

EVERY = {m.name: m for name in entries("evaluator") for m in find("evaluator", name).cls.metrics}
PREFIXES = {
    "floor": "floor",
    "ceiling": "ceiling",
    "chance": "chance",
    "classifier": "classifier",
}


@pytest.mark.parametrize("name", EVERY)
def test_a_bound_has_a_role_and_a_family_that_exists(name):
    metric = EVERY[name]
    assert metric.role == PREFIXES.get(name.partition("/")[0].partition("-")[0], "method")
    assert metric.of or metric.role == "method"
    if metric.of:
        assert not metric.headline
        assert any(f"{other}/".startswith(f"{metric.of}/") for other in EVERY if other != name)


def test_the_headlines_are_those_of_tables_and_reports():
    headlines = {name for name, metric in EVERY.items() if metric.headline}
    assert {name for name in headlines if name[:4] not in ("fid/", "kid/")} == {
        "coherence/cross",
        "coherence/joint",
        "coherence/one-to-many",
        "attributes/caption-to-image",
        "attributes/joint",
        "psnr/p1",
        "ssim/p1",
        "consistency/shape",
    }
    assert {name for name in headlines if name[:4] in ("fid/", "kid/")} == {
        "fid/inception-v3-compat/cross",
        "fid/inception-v3-other/cross",
        "fid/efficientnet-lite0/cross",
        "kid/efficientnet-lite0/cross",
    }
