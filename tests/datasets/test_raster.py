"""The depth buffer against a loop over pixels and triangles, and light of known strength."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from shalabench.datasets.sources.rig import ring
from shalabench.datasets.synthetic.render.raster import Mesh, rasterise, shoot
from shalabench.datasets.synthetic.render.shade import ground, shadow

pytestmark = pytest.mark.float64

CAMERAS = ring(3)


def soup(count: int = 14) -> Mesh:
    rng = np.random.default_rng(1)
    middle = rng.uniform(-0.3, 0.3, (count, 1, 3))
    points = (middle + rng.uniform(-0.3, 0.3, (count, 3, 3))).reshape(-1, 3)
    normals = np.tile([0.0, 0.0, 1.0], (len(points), 1))
    faces = np.arange(3 * count).reshape(-1, 3)
    return Mesh(*map(torch.from_numpy, (points, normals, faces, np.arange(count))))


def test_every_sample_shows_the_nearest_triangle_of_a_plain_loop():
    side, mesh = 12, soup()
    shot = shoot(mesh, CAMERAS, side)
    hits = rasterise(shot, torch.ones_like(shot.outside))
    found = dict(
        zip(
            hits.sample.tolist(),
            zip(hits.part.tolist(), hits.depth.tolist(), strict=True),
            strict=True,
        )
    )
    wanted = {}
    for n, camera in enumerate(CAMERAS):
        rotation, shift = np.array(camera.rotation), np.array(camera.translation)
        for row in range(side):
            for column in range(side):
                ray = np.array([(column + 0.5) / side - 0.5, (row + 0.5) / side - 0.5])
                ray = np.append(ray / camera.focal[0], 1.0)
                for face in range(len(mesh.faces)):
                    corners = mesh.points[mesh.faces[face]].numpy() @ rotation.T + shift
                    # The ray meets the plane at weights that sum to one, with depth t.
                    weights = np.linalg.solve(corners.T, ray)
                    if (weights >= 0).all():
                        depth, key = 1 / weights.sum(), (n * side + row) * side + column
                        if depth < wanted.get(key, (0, math.inf))[1]:
                            wanted[key] = face, depth
    assert found.keys() == wanted.keys()
    assert all(found[key][0] == wanted[key][0] for key in wanted)
    assert max(abs(found[key][1] - wanted[key][1]) for key in wanted) < 1e-9


def test_points_of_hits_project_to_their_samples():
    side = 16
    shot = shoot(soup(), CAMERAS, side)
    hits = rasterise(shot, torch.ones_like(shot.outside))
    for sample, point in zip(hits.sample.tolist()[::7], hits.point.tolist()[::7], strict=True):
        x, y, _ = CAMERAS[sample // side**2].project(tuple(point))
        assert abs(x * side - (sample % side + 0.5)) < 1e-6
        assert abs(y * side - (sample // side % side + 0.5)) < 1e-6


def test_only_wanted_triangles_are_seen():
    shot = shoot(soup(), CAMERAS, 12)
    hits = rasterise(shot, shot.outside)
    picture = torch.div(hits.sample, 144, rounding_mode="floor")
    assert shot.outside[picture, hits.part].all()
    assert not shot.outside.all()


def test_ground_is_where_the_camera_sees_it():
    at = ground(CAMERAS, 8, -0.2)
    for n, row, column in ((0, 5, 2), (2, 7, 7)):
        x, y = at[n, row, column].tolist()
        u, v, _ = CAMERAS[n].project((x, y, -0.2))
        assert abs(u * 8 - (column + 0.5)) < 1e-9
        assert abs(v * 8 - (row + 0.5)) < 1e-9


def test_a_shadow_is_half_at_an_edge_and_gone_far_away():
    at = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.5, 0.2], [3.0, 0.0]], dtype=torch.float64)
    dark = shadow(at, (0.5, 0.2), 0.01)
    assert torch.allclose(dark, torch.tensor([1.0, 0.5, 0.25, 0.0], dtype=torch.float64), atol=1e-9)
