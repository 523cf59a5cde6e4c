"""Every convention's camera projects points to where its own formula puts them."""

from __future__ import annotations

import numpy as np
import pytest

from shalabench.api import Camera, from_eg3d, from_nmr, from_opengl, from_pose, from_srn
from shalabench.datasets.sources.rig import ring

pytestmark = pytest.mark.float64

POINTS = np.random.default_rng(0).uniform(-0.4, 0.4, (20, 3))
WIDTH = 128.0
FOCAL, CENTRE = 150.0, (66.0, 61.0)


def look(azimuth: float, elevation: float, distance: float) -> np.ndarray:
    """World to camera [4, 4] in OpenCV's axes, from its definition."""
    a, e = np.radians([azimuth, elevation])
    place = distance * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    ahead = -place / np.linalg.norm(place)
    right = np.cross(ahead, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(ahead, right), ahead])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ place
    return pose


POSE = look(37.0, 22.0, 1.7)


def seen(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Pixels (x, y) of an image WIDTH wide."""
    return np.array([camera.project(tuple(p))[:2] for p in points.tolist()]) * WIDTH


def own(points: np.ndarray) -> np.ndarray:
    """The same by the plain pinhole formula."""
    x, y, z = POSE[:3, :3] @ points.T + POSE[:3, 3:]
    return np.stack([FOCAL * x / z + CENTRE[0], FOCAL * y / z + CENTRE[1]], 1)


def test_sixteen_cameras_are_syncdreamers():
    k = np.array([[280.0, 0, 128], [0, 280.0, 128], [0, 0, 1]])
    for i, camera in enumerate(ring()):
        pose = look(22.5 * i, 30.0, 1.5)
        assert np.abs(np.array(camera.rotation) - pose[:3, :3]).max() < 1e-6
        assert np.abs(np.array(camera.translation) - pose[:3, 3]).max() < 1e-6
        assert np.allclose(np.array(camera.focal) * 256, k[[0, 1], [0, 1]])
        assert np.allclose(np.array(camera.centre) * 256, k[:2, 2])


def test_the_world_stands_upright_in_every_picture():
    for camera in ring():
        assert camera.project((0.0, 0.0, 0.3))[1] < 0.5 < camera.project((0.0, 0.0, -0.3))[1]


def test_opencv_pose_projects_by_the_pinhole_formula():
    k = np.array([[FOCAL, 0, CENTRE[0]], [0, FOCAL, CENTRE[1]], [0, 0, 1]])
    for pose in (POSE, POSE[:3]):
        assert np.abs(seen(from_pose(pose, k, WIDTH), POINTS) - own(POINTS)).max() < 1e-9


def test_srn_pose_is_its_inverse():
    camera = from_srn(np.linalg.inv(POSE).ravel(), FOCAL, CENTRE, WIDTH)
    assert np.abs(seen(camera, POINTS) - own(POINTS)).max() < 1e-9


def test_opengl_camera_looks_along_minus_z_with_y_up():
    pose = np.linalg.inv(POSE) @ np.diag([1.0, -1, -1, 1])
    x, y, z = (np.linalg.inv(pose) @ np.vstack([POINTS.T, np.ones(len(POINTS))]))[:3]
    # pixelNeRF: uv = -xy / z * (f, -f) + c
    wanted = np.stack([-x / z * FOCAL + CENTRE[0], y / z * FOCAL + CENTRE[1]], 1)
    camera = from_opengl(pose, FOCAL, CENTRE, WIDTH)
    assert np.abs(seen(camera, POINTS) - wanted).max() < 1e-9
    assert np.abs(wanted - own(POINTS)).max() < 1e-9


def test_nmr_matrices_give_coordinates_from_minus_one_to_one():
    to_theirs = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # our z up to their y up
    world = POSE.copy()
    world[:3, :3] = POSE[:3, :3] @ to_theirs.T
    k = np.diag([2 * FOCAL / WIDTH, 2 * FOCAL / WIDTH, 1.0, 1.0])
    theirs = POINTS @ to_theirs.T
    x, y, z = k[:3, :3] @ (world[:3, :3] @ theirs.T + world[:3, 3:])
    wanted = (np.stack([x / z, y / z], 1) + 1) / 2 * WIDTH
    assert np.abs(seen(from_nmr(world, k), POINTS) - wanted).max() < 1e-9


def test_eg3d_label_is_a_pose_and_intrinsics_in_widths():
    k = np.array([[FOCAL, 0, CENTRE[0]], [0, FOCAL, CENTRE[1]], [0, 0, WIDTH]]) / WIDTH
    label = np.concatenate([np.linalg.inv(POSE).ravel(), k.ravel()])
    assert np.abs(seen(from_eg3d(label), POINTS) - own(POINTS)).max() < 1e-9


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: from_srn(np.zeros(12), 1.0, (0.5, 0.5), 1.0), "12 numbers"),
        (lambda: from_srn(np.zeros(16), 1.0, (0.5, 0.5), 1.0), "no rotation"),
        (lambda: from_pose(np.eye(3), np.eye(3), 1.0), "shape"),
        (lambda: from_pose(np.full((3, 4), np.nan), np.eye(3), 1.0), "not finite"),
        (lambda: from_pose(POSE, -np.eye(3), 1.0), "make no camera"),
        (lambda: from_pose(POSE * [[1], [1], [-1], [1]], np.eye(3), 1.0), "no rotation"),
        (lambda: from_eg3d(np.zeros(24)), "24 numbers"),
    ],
)
def test_what_is_no_camera_is_refused_with_the_reason(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()
