"""Solids from triangles: tubes, caps, balls and boxes."""

from __future__ import annotations

import numpy as np

Piece = tuple[np.ndarray, np.ndarray]
"""Points `[V, 3]` in metres and triangles `[F, 3]`."""


def tube(rings: np.ndarray) -> Piece:
    """Rings `[S, K, 3]` joined by triangles, without ends."""
    s, k = rings.shape[:2]
    i, j = np.meshgrid(np.arange(s - 1), np.arange(k), indexing="ij")
    a, b = i * k + j, i * k + (j + 1) % k
    quads = np.stack([a, b, b + k, a + k], -1).reshape(-1, 4)
    return rings.reshape(-1, 3).copy(), np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def cap(
    points: np.ndarray, faces: np.ndarray, shape: tuple[int, int], *, first: bool = True
) -> Piece:
    """Close a tube's ends with fans."""
    s, k = shape
    j = np.arange(k)
    centres: list[np.ndarray] = []
    fans, count = [], len(points)
    for ring, wanted in ((0, first), (s - 1, True)):
        if not wanted:
            continue
        own = points[ring * k : (ring + 1) * k]
        fan = np.stack([np.full(k, count + len(centres)), ring * k + (j + 1) % k, ring * k + j], 1)
        fans.append(fan if ring == 0 else fan[:, ::-1])
        centres.append(own.mean(0))
    return np.concatenate([points, centres]), np.concatenate([faces, *fans])


def ball(
    middle: tuple[float, float, float],
    half: tuple[float, float, float],
    power: float,
    segments: int = 8,
) -> Piece:
    """A superellipsoid: 2 is a ball, more is nearer to a box."""
    up = np.linspace(-np.pi / 2, np.pi / 2, segments)[1:-1]
    around = np.linspace(0, 2 * np.pi, 2 * segments, endpoint=False)

    def bend(x: np.ndarray) -> np.ndarray:
        return np.sign(x) * np.abs(x) ** (2 / power)

    v = up[:, None]
    x, y = (bend(np.cos(v)) * bend(turn(around)) for turn in (np.cos, np.sin))
    rings = np.stack(np.broadcast_arrays(x, y, bend(np.sin(v))), -1)  # [S, K, 3]
    points, faces = cap(*tube(rings), rings.shape[:2])
    points[-2:, 2] = -1, 1
    return points * np.array(half) + np.array(middle), faces


def box(middle: tuple[float, ...], half: tuple[float, ...]) -> Piece:
    """A box with edges; its upper side has the last two triangles."""
    sides = []
    for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1), (2, -1), (2, 1)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        quad = np.zeros((4, 3))
        quad[:, axis] = sign
        quad[:, a], quad[:, b] = (-1, 1, 1, -1), (-1, -1, 1, 1)
        sides.append(quad if sign > 0 else quad[::-1])
    points = np.concatenate(sides) * np.array(half) + np.array(middle)
    start = 4 * np.arange(6)[:, None]
    faces = np.stack([start + np.array([0, 1, 2]), start + np.array([0, 2, 3])], 1).reshape(-1, 3)
    return points, faces


def normals_of(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Mean of the normals of the triangles at each point, by area."""
    a, b, c = (points[faces[:, i]] for i in range(3))
    across = np.cross(b - a, c - a)
    normals = np.zeros_like(points)
    for i in range(3):
        np.add.at(normals, faces[:, i], across)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
