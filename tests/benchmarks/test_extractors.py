"""docs/extractors.md shows what the script recorded, and the damages are what they say."""

from __future__ import annotations

import json

import pytest
import torch


@pytest.fixture(scope="module")
def extractors(load):
    return load("extractors")


def test_the_page_shows_what_is_recorded(extractors):
    text = extractors.PAGE.read_text(encoding="utf-8")
    made = json.loads(extractors.FILE.read_text(encoding="utf-8"))
    assert extractors.render_page(text, made) == text
    for dataset in made["answers"]:
        for family in ("fid", "kid"):
            assert f"<!-- extractors: {dataset} {family} -->" in text


def test_the_recorded_network_sees_blur_and_the_classifiers_less(extractors):
    made = json.loads(extractors.FILE.read_text(encoding="utf-8"))
    answers = made["answers"]["polydigits"]
    network = f"{extractors.NETWORK}, 64 px"

    def times(extractor, damage):
        own = answers[extractor]
        return own[damage]["fid"] / own[extractors.FLOOR]["fid"]

    assert times(network, "blur, 1 px") > 2
    assert times(network, "blur, 0.5 px") > 1.2 > times(extractors.CLASSIFIER, "blur, 0.5 px")
    assert made["images"] >= 1280  # else FID says little


def test_damages(extractors):
    make = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 3, 12, 12), generator=make, dtype=torch.uint8)
    labels = torch.arange(40) % 10
    made = extractors.damages(images, labels, 255 - images, 20)
    sets = {name: change() for name, change in made.items()}
    assert all(x.dtype == torch.uint8 and x.shape == (20, 3, 12, 12) for x in sets.values())
    assert torch.equal(sets[extractors.FLOOR], images[:20])
    assert torch.equal(sets["another photograph"], 255 - images[:20])
    kept = images[torch.tensor([i for i in range(40) if i % 10 != 4])][:20]
    assert torch.equal(sets["a class lost"], kept)
    own = images[:20].double()
    mean = (own[0] + own[10]) / 2  # both of class 0
    assert (sets["mean of two"][0] - mean).abs().max() <= 0.5
    assert len(sets["8 grey levels"].unique()) == 8
    noise = (sets["noise, 0.05"].double() - own)[(own > 60) & (own < 195)]
    assert noise.std().item() == pytest.approx(0.05 * 255, rel=0.1)
    spreads = [sets[f"blur, {s} px"].double().std((2, 3)).mean() for s in ("0.5", "1", "2")]
    assert own.std((2, 3)).mean() > spreads[0] > spreads[1] > spreads[2]
    assert sets["blur, 2 px"].double().mean().item() == pytest.approx(own.mean().item(), rel=0.02)


def test_blindness_is_an_fid_near_the_floor(extractors):
    found = {
        extractors.FLOOR: {"fid": 2.0, "kid": 0.0},
        "seen": {"fid": 2.3, "kid": 0.01},
        "unseen": {"fid": 2.1, "kid": 0.002},
    }
    made = {"answers": {"data": {"x": found}}, "cost": {"28": {"64": 1.25}}}
    assert extractors.show_blind(made) == "- x: unseen on data (1.05×)."
    assert "2.30 (1.1×)" in extractors.show_answers(made["answers"]["data"], "fid")
    assert "10.0" in extractors.show_answers(made["answers"]["data"], "kid")
    assert "1.2" in extractors.show_cost(made)
