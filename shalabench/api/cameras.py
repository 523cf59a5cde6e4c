"""Cameras in one convention; `conventions` converts others into it.

OpenCV's: x right, y down, z into the scene; rotation and translation take the world to the camera;
intrinsics are in units of the image's width, so that they hold at every resolution. The world's z
is up. Free of torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. In its coordinates, a point p of the world is at rotation p + translation.

    Attributes:
        rotation: Rows of the 3 x 3 rotation from the world to the camera.
        translation: Translation from the world to the camera, in units of the world.
        focal: Focal lengths (x, y) in units of the image's width.
        centre: Principal point (x, y) in units of the image's width, from the image's upper left
            corner.
    """

    rotation: Matrix
    translation: Vector
    focal: tuple[float, float]
    centre: tuple[float, float] = (0.5, 0.5)

    @classmethod
    def orbit(cls, azimuth: float, elevation: float, distance: float, focal: float) -> Camera:
        """A camera that looks at the origin, with the world's z up in the picture.

        Args:
            azimuth: Degrees from the world's x axis towards its y axis.
            elevation: Degrees above the plane of x and y, between -90 and 90.
            distance: Distance from the origin, in units of the world.
            focal: Focal length in units of the image's width.
        """
        a, e = math.radians(azimuth), math.radians(elevation)
        forward = -math.cos(e) * math.cos(a), -math.cos(e) * math.sin(a), -math.sin(e)
        right = -math.sin(a), math.cos(a), 0.0
        down = _cross(forward, right)
        return cls((right, down, forward), (0.0, 0.0, distance), (focal, focal))

    @property
    def position(self) -> Vector:
        """The camera's centre in the world."""
        columns = zip(*self.rotation, strict=True)
        x, y, z = (-sum(map(float.__mul__, column, self.translation)) for column in columns)
        return x, y, z

    def project(self, point: Vector) -> tuple[float, float, float]:
        """Project a point of the world: (x, y) in units of the image's width, and its depth."""
        x, y, z = (
            sum(map(float.__mul__, row, point)) + t
            for row, t in zip(self.rotation, self.translation, strict=True)
        )
        return self.focal[0] * x / z + self.centre[0], self.focal[1] * y / z + self.centre[1], z


def _cross(a: Vector, b: Vector) -> Vector:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
