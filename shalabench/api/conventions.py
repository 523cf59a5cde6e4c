"""Camera conventions of other projects, converted into `Camera`. Free of torch.

Each function takes arrays or nested sequences. Image coordinates are in pixels from the upper left
corner: an image of W pixels reaches from 0 to W. Pixels are square.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from shalabench.api.cameras import Camera

_FLIP = np.diag([1.0, -1.0, -1.0])  # OpenGL's camera (y up, z backwards) and OpenCV's
_UPRIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # y up to z up
_TOLERANCE = 1e-3  # of a rotation's orthogonality; files hold few digits


def from_pose(pose: ArrayLike, intrinsics: ArrayLike, width: float) -> Camera:
    """A camera from OpenCV's convention, such as SyncDreamer's K and poses.

    Args:
        pose: `[3, 4]` or `[4, 4]`, world to camera, x right, y down, z ahead.
        intrinsics: `[3, 3]` in pixels.
        width: Width of the image, in pixels.

    Raises:
        ValueError: A shape is wrong, a number is not finite, or a rotation is invalid.
    """
    matrix, k = _matrix(pose, "pose"), _array(intrinsics, (3, 3), "intrinsics")
    if abs(k[0, 1]) > _TOLERANCE * abs(k[0, 0]):
        raise ValueError(f"the intrinsics are skewed by {k[0, 1]:g}, which no camera here is")
    return _camera(matrix, (k[0, 0], k[1, 1]), (k[0, 2], k[1, 2]), width)


def from_srn(pose: ArrayLike, focal: float, centre: tuple[float, float], width: float) -> Camera:
    """A camera from a pose file of Scene Representation Networks (SRN), with OpenCV's axes.

    Args:
        pose: `[4, 4]`, camera to world, or its 16 numbers row by row.
        focal: Focal length in pixels of an image of the given width.
        centre: Principal point (x, y) in the same pixels.
        width: Width in the file of intrinsics; the pictures may have another.

    Raises:
        ValueError: As `from_pose`.
    """
    values = np.asarray(pose, float)
    if values.size != 16:
        raise ValueError(f"the pose has {values.size} numbers, and 16 were expected")
    return _camera(_invert(values.reshape(4, 4)), (focal, focal), centre, width)


def from_opengl(pose: ArrayLike, focal: float, centre: tuple[float, float], width: float) -> Camera:
    """A camera from OpenGL's convention, as in pixelNeRF and Blender: y up, looking along -z.

    Args:
        pose: `[3, 4]` or `[4, 4]`, camera to world.
        focal: Focal length in pixels.
        centre: Principal point (x, y) in pixels, y down.
        width: Width of the image, in pixels.

    Raises:
        ValueError: As `from_pose`.
    """
    matrix = _matrix(pose, "pose").copy()
    matrix[:, :3] = matrix[:, :3] @ _FLIP
    return _camera(_invert(matrix), (focal, focal), centre, width)


def from_nmr(world: ArrayLike, intrinsics: ArrayLike) -> Camera:
    """A camera from `world_mat` and `camera_mat` of NMR renderings in DVR's layout, with y up.

    Args:
        world: `[3, 4]` or `[4, 4]`, world to camera, OpenCV's axes.
        intrinsics: `[3, 3]` or `[4, 4]`, for an image that reaches from -1 to 1.

    Raises:
        ValueError: As `from_pose`.
    """
    k = np.asarray(intrinsics, float)
    k = _array(k[:3, :3] if k.ndim == 2 else k, (3, 3), "camera matrix")
    matrix = _matrix(world, "world matrix").copy()
    matrix[:, :3] = matrix[:, :3] @ _UPRIGHT.T
    return _camera(matrix, (k[0, 0], k[1, 1]), (k[0, 2] + 1, k[1, 2] + 1), 2.0)


def from_eg3d(label: ArrayLike) -> Camera:
    """A camera from EG3D's 25 numbers: pose `[4, 4]`, camera to world, and intrinsics in widths.

    The axes are OpenCV's.

    Raises:
        ValueError: As `from_pose`.
    """
    values = np.asarray(label, float).ravel()
    if values.size != 25:
        raise ValueError(f"the label has {values.size} numbers, and 25 were expected")
    k = _array(values[16:].reshape(3, 3), (3, 3), "intrinsics")
    matrix = _invert(values[:16].reshape(4, 4))
    return _camera(matrix, (k[0, 0], k[1, 1]), (k[0, 2], k[1, 2]), 1.0)


def _camera(
    matrix: np.ndarray, focal: tuple[float, float], centre: tuple[float, float], width: float
) -> Camera:
    matrix = _matrix(matrix, "pose")
    numbers = np.array([*focal, *centre, width], float)
    if not np.isfinite(numbers).all() or min(*focal, width) <= 0:
        raise ValueError(f"focal lengths {focal}, centre {centre} and width {width} make no camera")
    rows = [*matrix[:, :3], matrix[:, 3]]
    x, y, z, translation = ((float(a), float(b), float(c)) for a, b, c in rows)
    (fx, fy), (cx, cy) = (tuple(float(x) / width for x in pair) for pair in (focal, centre))
    return Camera((x, y, z), translation, (fx, fy), (cx, cy))


def _invert(pose: ArrayLike) -> np.ndarray:
    matrix = _matrix(pose, "pose")
    rotation = matrix[:, :3].T
    return np.column_stack([rotation, -rotation @ matrix[:, 3]])


def _matrix(values: ArrayLike, name: str) -> np.ndarray:
    """`[3, 4]` with a true rotation."""
    array = np.asarray(values, float)
    if array.shape not in ((3, 4), (4, 4)):
        raise ValueError(f"the {name} has the shape {array.shape}, and (3, 4) or (4, 4) is needed")
    matrix = _array(array[:3], (3, 4), name)
    rotation = matrix[:, :3]
    off = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if off > _TOLERANCE or np.linalg.det(rotation) < 0:
        raise ValueError(f"the {name} holds no rotation (off by {off:.2g})")
    return matrix


def _array(values: ArrayLike, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = np.asarray(values, float)
    if array.shape != shape:
        raise ValueError(f"the {name} has the shape {array.shape}, and {shape} is needed")
    if not np.isfinite(array).all():
        raise ValueError(f"the {name} holds a number that is not finite")
    return array
