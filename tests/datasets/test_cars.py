"""Drawn cars: their pictures, what is known of them, and styles that fit every shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shalabench.api import DataPaths
from shalabench.datasets.cars import Cars, design, draw_car
from shalabench.datasets.sources.rig import ring
from shalabench.datasets.synthetic.cars.drawing import stage
from shalabench.datasets.synthetic.cars.materials import PARTS
from shalabench.datasets.synthetic.cars.meshes import build
from shalabench.datasets.synthetic.cars.shapes import KINDS, draw_shape
from shalabench.datasets.synthetic.cars.styles import draw_style

GOLDEN = Path(__file__).parent.parent / "golden"
SMALL = Cars.Config(resolution=16, train=8, validation=8, test=8, views=2)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cars")
    dataset = Cars(SMALL)
    dataset.prepare(DataPaths(folder, folder))
    return dataset, folder


def shape_of(kind: str, seed: int = 0):
    return draw_shape(kind, np.random.default_rng([seed, 0]))


def style_of(seed: int):
    return draw_style(np.random.default_rng([seed, 1]))


@pytest.mark.parametrize(("kind", "seed"), [("sedan", 3), ("pickup", 4), ("bus", 5)])
def test_three_cars_look_as_they_did(kind, seed):
    cameras = [ring()[i] for i in (1, 6, 11)]
    drawn = stage(shape_of(kind, seed), cameras, 64).draw(style_of(seed))
    found = np.concatenate(list(drawn.permute(0, 2, 3, 1).numpy()), 1)
    with Image.open(GOLDEN / f"car-{kind}.png") as picture:
        wanted = np.asarray(picture)
    off = np.abs(found.astype(int) - wanted).max(-1)
    assert (off <= 2).mean() >= 0.999


def test_pictures_are_the_same_for_any_number_of_threads():
    before = torch.get_num_threads()
    drawn = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            drawn.append(draw_car(shape_of("suv"), [style_of(0), style_of(1)], 1, 32))
    finally:
        torch.set_num_threads(before)
    for other in drawn[1:]:
        assert all(np.array_equal(drawn[0][name], other[name]) for name in drawn[0])


def test_the_shape_does_not_depend_on_the_style():
    drawn = [draw_car(shape_of("coupe"), [style_of(i)], 2, 32) for i in (0, 1)]
    assert not np.array_equal(drawn[0]["pictures"], drawn[1]["pictures"])
    for name in ("alpha", "parts", "depth"):
        assert np.array_equal(drawn[0][name], drawn[1][name])


def test_shapes_and_styles_come_from_independent_streams():
    first, other = (
        design(SMALL, "train"),
        design(SMALL.model_copy(update={"held_out": "bus"}), "train"),
    )
    assert first.styles == other.styles  # other kinds were drawn, the styles are the same
    assert first.shapes != other.shapes
    longer = design(SMALL.model_copy(update={"train": 24}), "train")
    assert longer.shapes[:8] == first.shapes
    assert longer.styles[:8] == first.styles


def test_no_shape_and_no_style_is_in_two_splits():
    plans = [design(Cars.Config(), split) for split in ("train", "validation", "test")]
    for part in ("shapes", "styles"):
        drawn = [one for plan in plans for one in getattr(plan, part)]
        assert len(set(drawn)) == len(drawn) == 288 + 32 + 32


def test_restyled_truth_is_the_shape_drawn_in_the_other_tuples_style(small):
    facts, plan = small[0].split("test").facts, design(SMALL, "test")
    reference = facts["style_reference"]
    assert sorted(reference.tolist()) == list(range(8))
    assert (reference != torch.arange(8)).all()
    for i in (0, 5):
        drawn = draw_car(plan.shapes[i], [plan.styles[reference[i]]], 2, 16)
        assert np.array_equal(facts["restyled"][i].numpy(), drawn["pictures"])
    assert set(small[0].split("train").facts) == {"alpha", "parts", "depth"}


def test_facts_fit_the_pictures(small):
    split = small[0].split("train")
    alpha, parts, depth = (split.facts[name] for name in ("alpha", "parts", "depth"))
    assert alpha.shape == parts.shape == depth.shape == (8, 2, 16, 16)
    assert torch.equal(parts > 0, depth > 0)
    assert torch.equal(alpha >= 127, parts > 0)
    assert 0.5 < depth[depth > 0].min() < depth.max() < 2.5
    assert parts.max() < len(PARTS)
    corner = torch.stack([x[:, :, 0, 0] for x in split.tensors.values()])
    assert (corner == 255).all()  # white behind


def test_a_depth_is_where_another_camera_sees_the_same_paint():
    side, cameras = 64, ring()
    scene = stage(shape_of("van", 2), cameras, side)
    paint = PARTS.index("paint")
    agreed, cases = 0, 0
    for row, column in torch.nonzero(scene.parts[2] == paint)[::17].tolist():
        depth = float(scene.depth[2, row, column])
        camera = cameras[2]
        x, y = ((i + 0.5) / side - 0.5 for i in (column, row))
        seen = np.array([x / camera.focal[0], y / camera.focal[1], 1.0]) * depth
        world = np.array(camera.rotation).T @ (seen - np.array(camera.translation))
        u, v, z = cameras[3].project(tuple(world.tolist()))
        there = float(scene.depth[3, int(v * side), int(u * side)])
        if there and there > z - 0.03:  # not hidden by something nearer
            cases += 1
            agreed += abs(there - z) < 0.03
    assert cases > 10
    assert agreed / cases > 0.9


def test_cars_fill_a_box_of_side_one():
    for kind in KINDS:
        points = build(shape_of(kind)).mesh.points
        extent = points.max(0).values - points.min(0).values
        assert abs(float(extent.max()) - 1) < 1e-12
        assert (points.max(0).values + points.min(0).values).abs().max() < 1e-12


def test_a_kind_held_out_is_alone_in_the_test_split():
    config = Cars.Config(held_out="coupe")
    assert {shape.kind for shape in design(config, "test").shapes} == {"coupe"}
    assert {shape.kind for shape in design(config, "train").shapes} == set(KINDS) - {"coupe"}


def test_preparing_again_reads_the_cache(small):
    dataset, folder = small
    files = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = Cars(SMALL)
    again.prepare(DataPaths(folder, folder))
    assert again.spec == dataset.spec
    assert files == {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert [m.camera for m in again.spec.modalities] == list(ring(2))
