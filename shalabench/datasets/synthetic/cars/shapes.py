"""Shapes of cars: eight body kinds with continuous measures, in metres.

A car stands on z = 0 and looks along x; the middle of its length and width is x = y = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np

Kind = Literal["sedan", "hatchback", "wagon", "coupe", "suv", "pickup", "van", "bus"]


@dataclass(frozen=True)
class Shape:
    """One car's measures; metres, but for those in parts of the length, counted from the nose.

    Attributes:
        kind: Name of the body kind.
        length: Of the body.
        width: Of the body, without mirrors.
        height: Of the roof.
        clearance: Under the body.
        wheel: Radius of a wheel.
        front: From the nose to the front axle.
        rear: From the rear axle to the tail.
        nose: Height of the bonnet's front edge.
        cowl: Height of the bonnet at the windscreen.
        deck: Height of the body at the tail.
        screen: Part of the length at which the windscreen begins.
        brow: Part of the length at which it meets the roof.
        crest: Part of the length at which the roof ends.
        back: Part of the length at which the rear window ends.
        tumble: How much narrower each side of the roof is than the body.
        round: Radius of the body's edges.
        arch: Radius of the wheel arches in radii of the wheel.
        lamp: Height of the lamps over the clearance, in parts of the body's height there.
        grille: Width of the grille in widths of the car.
    """

    kind: str
    length: float
    width: float
    height: float
    clearance: float
    wheel: float
    front: float
    rear: float
    nose: float
    cowl: float
    deck: float
    screen: float
    brow: float
    crest: float
    back: float
    tumble: float
    round: float
    arch: float = 1.14
    lamp: float = 0.62
    grille: float = 0.42

    def along(self, part: float) -> float:
        """The x of a part of the length, counted from the nose."""
        return self.length * (0.5 - part)

    @property
    def axles(self) -> tuple[float, float]:
        """The x of the front and the rear wheels."""
        return self.length / 2 - self.front, self.rear - self.length / 2

    @property
    def doors(self) -> tuple[float, ...]:
        """The x of the doors' edges along a side, from the front."""
        first = min(self.along(self.screen) - 0.14, self.axles[0] - 1.1 * self.wheel)
        last = max(self.along(self.crest) - 0.05, self.axles[1] + 0.55 * self.wheel)
        if self.kind == "bus":
            first, last = self.along(0.035), self.along(0.97)
            return first, first - 0.95, *np.linspace(first - 0.95, last, 6)[1:]
        if self.kind in ("coupe", "van"):
            return first, first - 1.12
        if self.kind == "pickup":
            last = self.along(self.back) + 0.04
        return first, (first + last) / 2 - 0.02, last

    @property
    def bed(self) -> tuple[float, float, float] | None:
        """A pickup's open bed: x of its rear and front end, and its half width."""
        if self.kind != "pickup":
            return None
        return self.along(0.985), self.along(self.back + 0.015), self.width / 2 - 0.13


_TYPICAL = (
    # kind, length, width, height, clearance, wheel, front, rear, nose, cowl, deck,
    #     screen, brow, crest, back, tumble, round
    ("sedan", 4.70, 1.84, 1.44, 0.17, 0.335, 0.88, 1.02, 0.72, 0.96, 1.00,
        0.265, 0.430, 0.690, 0.860, 0.26, 0.13),
    ("hatchback", 4.05, 1.77, 1.50, 0.17, 0.325, 0.80, 0.70, 0.74, 0.99, 1.00,
        0.245, 0.420, 0.870, 0.975, 0.23, 0.14),
    ("wagon", 4.80, 1.83, 1.48, 0.17, 0.335, 0.90, 1.00, 0.73, 0.97, 1.00,
        0.255, 0.405, 0.890, 0.978, 0.22, 0.13),
    ("coupe", 4.45, 1.88, 1.29, 0.14, 0.345, 0.86, 0.90, 0.64, 0.88, 0.95,
        0.330, 0.500, 0.625, 0.905, 0.30, 0.15),
    ("suv", 4.65, 1.92, 1.74, 0.25, 0.385, 0.88, 0.90, 0.93, 1.14, 1.16,
        0.245, 0.370, 0.895, 0.980, 0.22, 0.14),
    ("pickup", 5.35, 1.95, 1.82, 0.28, 0.400, 0.92, 1.25, 1.00, 1.18, 1.14,
        0.245, 0.360, 0.560, 0.612, 0.20, 0.10),
    ("van", 5.00, 1.96, 2.05, 0.21, 0.345, 0.90, 1.00, 0.86, 1.16, 1.18,
        0.130, 0.270, 0.968, 0.990, 0.15, 0.10),
    ("bus", 7.80, 2.35, 2.85, 0.30, 0.450, 1.70, 2.00, 1.02, 1.16, 1.16,
        0.012, 0.036, 0.984, 0.992, 0.07, 0.09),
)  # fmt: skip
KINDS: tuple[str, ...] = get_args(Kind)
_SPREAD = {  # largest change of a measure, as a part of it
    "length": 0.07, "width": 0.04, "height": 0.045, "clearance": 0.18, "wheel": 0.06,
    "front": 0.07, "rear": 0.09, "nose": 0.06, "cowl": 0.025, "deck": 0.03,
    "tumble": 0.25, "round": 0.3, "arch": 0.02, "lamp": 0.10, "grille": 0.30,
}  # fmt: skip
_SHIFT = 0.022  # largest change of what is counted in parts of the length
_SHIFTED = ("screen", "brow", "crest", "back")


def draw_shape(kind: str, rng: np.random.Generator) -> Shape:
    """A car of the kind whose measures vary evenly and independently about the typical ones."""
    row = next(row for row in _TYPICAL if row[0] == kind)
    typical = Shape(*row)
    changes = {}
    for name in (field.name for field in fields(Shape)[1:]):
        value, step = getattr(typical, name), rng.uniform(-1, 1)
        if name in _SHIFTED:
            room = min(_SHIFT, 0.4 * (1 - value), 0.4 * value)
            changes[name] = value + step * room
        else:
            changes[name] = value * (1 + step * _SPREAD[name])
    return replace(typical, **changes)
