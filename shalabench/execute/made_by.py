"""What a training is made by: its code, packages, device and threads.

Two trainings of the same settings are equal, bit for bit, only if all of these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MADE_BY = ("source", "nets", "packages", "platform", "device", "threads")
CODE = {"source": "the method", "nets": "the shared networks"}


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, str]:
    """What differs, as a phrase by its name in `MADE_BY`; what either does not tell is left out.

    Args:
        theirs: Of another training, or of an earlier part of this one.
        mine: Of what is to be trained now.
    """
    found = {}
    for key in MADE_BY:
        if key not in theirs or key not in mine or theirs[key] == mine[key]:
            continue
        if key in CODE:
            found[key] = f"other code of {CODE[key]}"
        elif key == "packages":
            names = [n for n, v in mine[key].items() if theirs[key].get(n) != v]
            pairs = (f"{n} {theirs[key].get(n, 'absent')}, here {mine[key][n]}" for n in names)
            found[key] = f"other packages ({'; '.join(pairs)})"
        else:
            found[key] = f"{key} {theirs[key]} (here {mine[key]})"
    return found
