"""Tables by prior: what an architecture is worth, and what its prior."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from shalabench.analysis.joining import alike, join
from shalabench.analysis.rows import Row

KINDS = {"own": "own", "gmm": "mixture", "diffusion": "diffusion"}
"""What a column is called, by the value of `prior.kind`."""
MEANING = (
    "own: the method's prior. mixture, diffusion: a Gaussian mixture, and a diffusion prior like "
    "ShaLa's, fitted to the latents of the same trained networks (docs/priors.md)."
)
_OF_PRIORS = re.compile(r" \[prior\.[^\]]*\]")
# How a run is evaluated says nothing of its networks, and may differ by its age.
_APART = ("prior.", "evaluators.")
_KIND = re.compile(r" \[prior\.kind=[^\]]*\]")
_FIXED = ("posterior", "cross")  # what no prior changes
_Metrics = dict[str, tuple[str, int, str]]
_Result = tuple[list[Row], _Metrics]


def column(metric: str, kind: str) -> str:
    """The name of a metric's column for a kind of prior."""
    return f"{metric} {KINDS[kind]}"


def split_by_prior(rows: Sequence[Row], metrics: Mapping[str, tuple[str, int, str]]) -> _Result:
    """One row for each trained method, and a column for each metric of joint samples and prior.

    Posterior and cross coherence, which no prior changes, keep their columns. A perfect prior would
    reach the posterior coherence.

    Args:
        rows: As `make_rows` gives them; rows that differ only in their prior become one.
        metrics: Measured ones.

    Returns:
        The rows and their columns; none if no metric depends on the prior.
    """
    joint = [name for name in metrics if name.rpartition("/")[2] == "joint"]
    if not joint:
        return [], {}
    by_networks = [_by_kind(same) for same in alike(rows, _APART)]
    groups = [group for same in by_networks for group in same]
    kinds = [kind for kind in KINDS if any(kind in group for group in groups)]
    columns: _Metrics = {column(n, kind): metrics[n] for n in joint for kind in kinds}
    fixed = [name for name in metrics if name.rpartition("/")[2] in _FIXED]
    fixed.sort(key=lambda name: _FIXED.index(name.rpartition("/")[2]))
    columns |= {name: metrics[name] for name in fixed}
    joined = [
        _joined(group, joint, fixed, _KIND if place else _OF_PRIORS)
        for same in by_networks
        for place, group in enumerate(same)
    ]
    return joined, columns


def _by_kind(rows: Sequence[Row]) -> list[dict[str, Row]]:
    """Rows of the same networks by the kind of prior.

    A second prior of a kind, such as one of other components, has a row of its own.
    """
    groups: list[dict[str, Row]] = []
    for row in rows:
        kind = row.settings.get("prior.kind", "own")
        group = next((group for group in groups if kind not in group), None)
        if group is None:
            groups.append(group := {})
        group[kind] = row
    return groups


def of_networks(rows: Sequence[Row], metric: str) -> list[Row]:
    """The rows, but one of each trained method where a metric does not depend on the prior.

    Args:
        rows: With the metric.
        metric: Its name.
    """
    if metric.rpartition("/")[2] not in _FIXED:
        return list(rows)
    return [
        next((row for row in same if row.settings.get("prior.kind", "own") == "own"), same[0])
        for same in alike(rows, _APART)
    ]


def _joined(
    group: Mapping[str, Row],
    joint: Sequence[str],
    fixed: Sequence[str],
    unnamed: re.Pattern[str],
) -> Row:
    """The rows of one trained method by the kind of prior as one row."""
    first = group.get("own") or next(iter(group.values()))
    label = unnamed.sub("", first.label)
    kinds = {id(own): kind for kind, own in group.items()}

    def place(name: str, own: Row) -> str:
        if name in joint:
            return column(name, kinds[id(own)])
        return name if name in fixed and own is first else ""

    row = join([group[kind] for kind in KINDS if kind in group], label, place, first)
    row.is_variant = row.is_variant and first.is_variant
    row.reason = "; ".join(dict.fromkeys(own.reason for own in group.values() if own.reason))
    return row
