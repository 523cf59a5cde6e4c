"""Tables by prior: what an architecture is worth, and what its prior."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from shalabench.analysis.joining import alike, join
from shalabench.analysis.rows import Row

KINDS = {"own": "own", "gmm": "mixture", "diffusion": "diffusion"}
"""What a column is called, by the value of `prior.kind`."""
MEANING = (
    "own: the method's prior. mixture, diffusion: a Gaussian mixture, and a diffusion prior like "
    "ShaLa's, fitted to the latents of the same trained networks (docs/priors.md). Costs are those "
    "with the first of these priors."
)
OF_PRIORS = re.compile(r" \[prior\.[^\]]*\]")
# Settings that say nothing of the networks. Those of evaluators may differ by the age of a run.
_APART = ("prior.", "evaluators.")
_KIND = re.compile(r" \[prior\.kind=[^\]]*\]")
_FIXED = ("posterior", "cross")  # what no prior changes
_Metrics = dict[str, tuple[str, int, str]]
_Result = tuple[list[Row], _Metrics]


def column(metric: str, kind: str) -> str:
    """The name of a metric's column for a kind of prior."""
    return f"{metric} {KINDS[kind]}"


def metric_of(name: str) -> str:
    """The metric of a column, whose name may end with a kind of prior."""
    return name.partition(" ")[0]


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
    fixed = [name for name in metrics if name.rpartition("/")[2] in _FIXED]
    fixed.sort(key=lambda name: _FIXED.index(name.rpartition("/")[2]))
    groups = by_network(rows)
    kinds = [kind for kind in KINDS if any(kind in group for group in groups.values())]
    columns = {column(n, kind): metrics[n] for n in joint for kind in kinds}
    columns |= {name: metrics[name] for name in fixed}
    return [_joined(label, group, joint, fixed) for label, group in groups.items()], columns


def merge_priors(rows: Sequence[Row], metrics: Mapping[str, tuple[str, int, str]]) -> _Result:
    """One row for each trained method, with all metrics and the published values.

    A metric that a prior changes has a column for each kind of prior. Published values stand beside
    the method's own prior.

    Args:
        rows: As of a table, with published values.
        metrics: Its columns.

    Returns:
        The rows and their columns; as they are if no networks have several priors.
    """
    groups = by_network(rows)
    if len(groups) == len(rows):
        return list(rows), dict(metrics)
    varied = [name for name in metrics if _is_varied(name, groups.values())]
    fixed = [name for name in metrics if name not in varied]
    joined = [_joined(label, group, varied, fixed) for label, group in groups.items()]
    filled = {name for row in joined for name in row.cells}
    columns: _Metrics = {}
    for name, facts in metrics.items():
        own = [column(name, kind) for kind in KINDS] if name in varied else [name]
        columns |= {new: facts for new in own if name in fixed or new in filled}
    for row, group in zip(joined, groups.values(), strict=True):
        first = next(iter(group.values()))
        places = {name: column(name, "own") if name in varied else name for name in metrics}
        row.published = {places.get(n, n): text for n, text in first.published.items()}
    return joined, columns


def _is_varied(metric: str, groups: Iterable[Mapping[str, Row]]) -> bool:
    """Whether a prior changes what a metric measures."""
    means = [{r.cells[metric].mean for r in g.values() if metric in r.cells} for g in groups]
    what = metric.rpartition("/")[2]
    if what == "joint" or what in _FIXED:
        return what == "joint" and any(means)
    return any(len(found) > 1 for found in means)


def by_network(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Rows by the label of their networks, which names no prior, and by the kind of prior."""
    groups = {}
    for same in alike(rows, _APART):
        for place, group in enumerate(_by_kind(same)):
            ordered = {kind: group[kind] for kind in KINDS if kind in group}
            unnamed = _KIND if place else OF_PRIORS
            groups[unnamed.sub("", next(iter(ordered.values())).label)] = ordered
    return groups


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
    """One row of each trained network: its best, or that of its own prior if it is as good.

    Args:
        rows: With the metric, the best first.
        metric: Its name.
    """
    chosen = []
    for same in alike(rows, _APART):
        best = same[0].cells[metric].mean
        own = (r for r in same if r.settings.get("prior.kind", "own") == "own")
        chosen.append(next((r for r in own if r.cells[metric].mean == best), same[0]))
    return chosen


def _joined(
    label: str, group: Mapping[str, Row], joint: Sequence[str], fixed: Sequence[str]
) -> Row:
    """The rows of one trained method by the kind of prior as one row."""
    ordered = list(group.values())
    first = ordered[0]
    kinds = {id(own): kind for kind, own in group.items()}
    sources = {name: own for own in reversed(ordered) for name in own.cells}

    def place(name: str, own: Row) -> str:
        if name in joint:
            return column(name, kinds[id(own)])
        return name if name in fixed and own is sources[name] else ""

    row = join(ordered, label, place, first)
    row.costs = first.costs
    row.is_variant = row.is_variant and first.is_variant
    row.reason = "; ".join(dict.fromkeys(own.reason for own in group.values() if own.reason))
    return row
