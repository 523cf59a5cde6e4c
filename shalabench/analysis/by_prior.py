"""Tables by prior: what an architecture is worth, and what its prior."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from shalabench.analysis.rows import Row

KINDS = {"own": "own", "gmm": "mixture", "diffusion": "diffusion"}
"""What a column is called, by the value of `prior.kind`."""
MEANING = (
    "own: the method's prior. mixture, diffusion: a Gaussian mixture, and a diffusion prior like "
    "ShaLa's, fitted to the latents of the same trained networks (docs/priors.md)."
)
T = TypeVar("T")
_OF_PRIORS = re.compile(r" \[prior\.[^\]]*\]")
# How a run is evaluated says nothing of its networks, and may differ by its age.
_APART = ("prior.", "evaluators.")
_KIND = re.compile(r" \[prior\.kind=[^\]]*\]")
_Metrics = dict[str, tuple[str, int, str]]
_Result = tuple[list[Row], _Metrics]


def column(metric: str, kind: str) -> str:
    """The name of a metric's column for a kind of prior."""
    return f"{metric} {KINDS[kind]}"


def split_by_prior(rows: Sequence[Row], metrics: Mapping[str, tuple[str, int, str]]) -> _Result:
    """One row for each trained method, and a column for each metric of joint samples and prior.

    Posterior coherence, which no prior changes, keeps its column: a perfect prior would reach it.

    Args:
        rows: As `make_rows` gives them; rows that differ only in their prior become one.
        metrics: Measured ones.

    Returns:
        The rows and their columns; none if no metric depends on the prior.
    """
    joint = [name for name in metrics if name.rpartition("/")[2] == "joint"]
    if not joint:
        return [], {}
    alike: dict[str, list[dict[str, Row]]] = {}
    for row in rows:
        rest = {k: v for k, v in row.settings.items() if not k.startswith(_APART)}
        same = alike.setdefault(json.dumps([row.method, rest], sort_keys=True), [])
        kind = row.settings.get("prior.kind", "own")
        # A second prior of a kind, such as one of other components, has a row of its own.
        group = next((group for group in same if kind not in group), None)
        if group is None:
            same.append(group := {})
        group[kind] = row
    groups = [group for same in alike.values() for group in same]
    kinds = [kind for kind in KINDS if any(kind in group for group in groups)]
    columns: _Metrics = {column(n, kind): metrics[n] for n in joint for kind in kinds}
    ceilings = [name for name in metrics if name.rpartition("/")[2] == "posterior"]
    columns |= {name: metrics[name] for name in ceilings}
    joined = [
        _joined(group, joint, ceilings, _KIND if place else _OF_PRIORS)
        for same in alike.values()
        for place, group in enumerate(same)
    ]
    return joined, columns


def _joined(
    group: Mapping[str, Row],
    joint: Sequence[str],
    ceilings: Sequence[str],
    unnamed: re.Pattern[str],
) -> Row:
    """The rows of one trained method by the kind of prior as one row."""
    first = group.get("own") or next(iter(group.values()))
    label = unnamed.sub("", first.label)
    row = replace(first, label=label, is_variant=label != first.method and first.is_variant)
    row.cells, row.scores, row.data, row.collapsed, row.published = {}, {}, {}, {}, {}
    row.runs = tuple(name for own in group.values() for name in own.runs)
    kinds = [kind for kind in KINDS if kind in group]
    places = [(n, column(n, kind), group[kind]) for n in joint for kind in kinds]
    places += [(n, n, own) for n in ceilings for own in [first]]
    for name, place, own in places:
        _copy(own.cells, row.cells, name, place)
        _copy(own.scores, row.scores, name, place)
        _copy(own.data, row.data, name, place)
        _copy(own.collapsed, row.collapsed, name, place)
    row.reason = "; ".join(dict.fromkeys(own.reason for own in group.values() if own.reason))
    return row


def _copy(source: Mapping[str, T], target: dict[str, T], name: str, place: str) -> None:
    if name in source:
        target[place] = source[name]
