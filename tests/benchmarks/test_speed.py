"""docs/speed.md shows what the scripts recorded."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def speed(load):
    return load("speed")


def test_the_page_shows_what_is_recorded(speed):
    text = speed.PAGE.read_text(encoding="utf-8")
    assert speed.render_page(text, speed.read_records()) == text
    for part in (*speed.PARTS, "targets"):
        assert f"<!-- speed: {part} -->" in text


def updates(*faster: float) -> dict:
    row = {"work": "vae", "stage": 0, "low": 1.0, "high": 3.0, "loss": 3e-6}
    row |= {"old_ms": 10.0, "new_ms": 5.0, "old_mib": 1000.0, "new_mib": 900.0}
    rows = [row | {"method": f"method{i}", "faster": x} for i, x in enumerate(faster)]
    facts = {"machine": "a machine", "torch": "2", "commit": "0123456789abc"}
    return facts | {"rows": rows, "means": {"first stages": 2.0, "evaluations": 4.5}}


def records() -> dict:
    peer = {"multivae_s": 3.0, "float32_s": 2.0, "bf16_s": 1.0}
    means = {"bf16": 3.0, "float32": 1.5}
    share = [
        {
            "dataset": "a",
            "method": name,
            "training": 100.0,
            "evaluators": {"x": x},
            "share": x / 100,
        }
        for name, x in (("small", 5.0), ("large", 50.0))
    ]
    growth = [["vae update", m, 10.0 * m, 1.0, m / 2, m / 2, 1.0] for m in (2, 4)]
    machine = {"machine": "a machine", "torch": "2"}
    made = {
        "peer": machine
        | {"versions": {"torch": "2"}, "methods": {"mopoe": peer | {"coherence": peer}}}
        | {"geometric_mean": means, "coherence_mean": means}
    }
    paired = ("updates", "updates-float32", "evaluation", "evaluation-views")
    made |= dict.fromkeys(paired, updates(1.5, 2.7))
    made |= dict.fromkeys(("share-quick", "share-cpu"), machine | {"rows": share})
    methods = {"mmvae": {"rows": growth, "powers": {"vae update": 0.91}}}
    made |= dict.fromkeys(("modalities", "views", "all-modalities"), machine | {"methods": methods})
    updates_with = [["mvtcae", 0.1, 1.0], ["product, full", 0.11, 1.1], ["codevae", 0.3, 3.0]]
    poolings = [["product", 0.1, 0.2, 0.9], ["hellinger", 0.3, 1.2, 1.8]]
    pooling = {"modalities": [8, 16], "updates": updates_with, "poolings": poolings}
    return made | {"pooling": machine | pooling}


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_targets_state_the_worst(speed):
    measured = [row[2] for row in cells(speed.show_targets(records()))[2:]]
    assert measured == [
        "2.00; least 1.50",
        "3.00; least 3.00",
        "1.50; least 1.50",
        "4.50",
        "4.50; least 1.50",
        "1.50; least 1.50",
        *["at most 50% (large); 1 of 2 hold it"] * 2,
        *["at most 0.90 times"] * 2,
        *["at most 0.91"] * 2,
        "at most 1.10 times (product)",
        "at most 0.90, Hellinger 1.80",
        "at most 3e-06",
    ]


def test_every_part_is_shown_between_its_marks(speed):
    page = "".join(f"<!-- speed: {part} -->\nold\n<!-- end -->\n" for part in speed.PARTS)
    made = records()
    text = speed.render_page(page, made)
    assert "old" not in text
    assert speed.render_page(text, made) == text
    for row in (
        ["method0", "vae", "10.0", "5.0", "1.50", "1.00 to 3.00", "1000 → 900"],
        ["mopoe", "3.00", "1.50", "1.50"],
        ["a", "large", "100", "50", "50%"],
        ["mmvae", "vae update", "2", "20.0", "4", "40.0", "0.91"],
        ["mmvae", "vae update", "20.0", "40.0", "0.91"],
        ["product, full", "110.0", "1.10"],
        ["hellinger", "0.300", "1.200", "1.80"],
    ):
        assert row in cells(text)
    del made["peer"]
    assert "mopoe" not in speed.render_page(text, made)
