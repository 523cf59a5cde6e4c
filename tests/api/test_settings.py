"""Settings: what values a component may have."""

from __future__ import annotations

import pytest

from shalabench.api import Settings


def test_a_list_of_settings_is_of_finite_numbers():
    class Config(Settings):
        scales: tuple[float, ...] = (1.0,)

    with pytest.raises(ValueError, match="finite"):
        Config(scales=(1.0, float("nan")))
