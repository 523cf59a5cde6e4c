"""Features of 8 x 8 scans of digits, of the kinds that UCI's Multiple Features data set has.

Profiles, Fourier coefficients and moments (van Breukelen et al. 1998), computed here from
scikit-learn's scans.
"""

from __future__ import annotations

import numpy as np

SIDE = 8
_FREQUENCIES = (0, 1, 2, 6, 7)  # down; -2 and -1 are stored as 6 and 7
_ACROSS = 3  # of frequencies across: 0, 1, 2
_ORDERS = ((2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3))
COUNT = 2 * SIDE - 2 + len(_FREQUENCIES) * _ACROSS + len(_ORDERS)


def measure_shapes(digits: np.ndarray) -> np.ndarray:
    """Features of each digit.

    Args:
        digits: `[N, 8, 8]` in [0, 1], ink 1.

    Returns:
        float64 `[N, 36]`: the ink of 8 rows and of the 6 inner columns, as the outer ones have
        almost none; 15 magnitudes of the Fourier transform, which no cyclic shift by whole pixels
        changes; 7 central moments of the second and third order for an ink of 1, in pixels to that
        power.
    """
    ink = digits.astype(np.float64)
    waves = np.abs(np.fft.rfft2(ink))[:, _FREQUENCIES, :_ACROSS].reshape(len(ink), -1)
    total = ink.sum((1, 2))[:, None, None]
    place = np.arange(SIDE, dtype=np.float64)
    part = ink / total
    down = place[:, None] - (part * place[:, None]).sum((1, 2))[:, None, None]
    across = place - (part * place).sum((1, 2))[:, None, None]
    moments = [(part * down**p * across**q).sum((1, 2)) for p, q in _ORDERS]
    return np.column_stack([ink.sum(2), ink.sum(1)[:, 1:-1], waves, *moments])
