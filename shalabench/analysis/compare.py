"""Two methods, presets, commits or stores against each other. Free of torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shalabench.analysis.rows import GATE, group_rows, refuse_mixture, scores_of
from shalabench.analysis.statistics import Difference, difference
from shalabench.analysis.variants import ablation_of, as_rows
from shalabench.analysis.verdicts import Collapse, collapses, first_stages, sharing, sources_of
from shalabench.api.errors import BenchError, unknown
from shalabench.api.files import expand_home
from shalabench.config.ablations import readable
from shalabench.config.settings import DEFAULT
from shalabench.records.columns import REFERENCE, RunRow
from shalabench.records.frame import Records, Result, load
from shalabench.records.store import Store

_KEYS = {  # what two sides of a kind have in common
    "method": ["dataset", "preset"],
    "preset": ["model", "dataset"],
    "commit": ["model", "dataset", "preset"],
    "store": ["model", "dataset", "preset"],
}
_SHORT = 12  # letters of a digest
_Cells = dict[tuple[str, ...], dict[str, Records]]


@dataclass
class Comparison:
    """One pair of rows.

    Attributes:
        place: What both have in common, such as the dataset and preset.
        names: Of the two sides.
        configuration: Setting or fact, with its value on each side, where they differ.
        only: For each side, the settings that the other has not.
        metrics: Metric, direction, digits and difference.
        refused: Why some metrics, or all, are not compared.
        collapsed: By metric, the sides whose models have collapsed.
    """

    place: str
    names: tuple[str, str]
    configuration: list[tuple[str, str, str]] = field(default_factory=list)
    only: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    metrics: list[tuple[str, str, int, Difference]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    collapsed: dict[str, dict[str, Collapse]] = field(default_factory=dict)


def compare(
    a: str,
    b: str,
    stores: Sequence[Store],
    *,
    metric: str = "",
    dataset: str | None = None,
    preset: str | None = None,
    models: Sequence[str] = (),
    split: str = "test",
) -> tuple[list[Comparison], list[str]]:
    """Compare two sides wherever both have runs.

    Args:
        a, b: Two folders of records, methods, rows of a table or an ablation, presets, or
            beginnings of a commit.
        stores: Where the records lie, unless the sides are stores themselves.
        metric: Only metrics that begin so.
        dataset, preset, models: Only these.
        split: What was measured on.

    Returns:
        The comparisons, and sentences on what is left out.

    Raises:
        BenchError: A side is not known, they are of two kinds, or nothing can be compared.
    """
    names = a, b
    if all(map(_is_store, names)):
        kind = other = "store"
        sources = [load([Store(expand_home(name))], split) for name in names]
    else:
        records = load(stores, split)
        if ablation := ablation_of(names):
            records = as_rows(ablation, records)
        asked_for, known = _labels(records.select(dataset, preset, models)), _labels(records)
        a, b = names = _packaged(a, asked_for), _packaged(b, asked_for)
        kind, other = (_kind(name, records, known) for name in names)
        sources = [records, records]
    if kind != other:
        raise BenchError(
            f"'{a}' is a {kind} and '{b}' is a {other}. Name two methods, two presets, two commits "
            "or two folders of records."
        )
    sides, left_out = [], readable()[1]
    asked = [("dataset", dataset), ("preset", preset), *(("model", name) for name in models)]
    for name, group in zip(names, sources, strict=True):
        for column, value in asked:
            known = set(group.runs[column])
            if value is not None and value not in known:
                raise BenchError(unknown(column, value, known))
        left_out += [f"{p.where}: {p.kind}: {p.text}" for p in group.problems]
        sides.append(_cells(group.select(dataset, preset, models), kind, name))
    groups = [group for side in sides for rows in side.values() for group in rows.values()]
    known = {name for group in groups for r in group.all_results() for name in r.scored}
    if known and not any(name.startswith(metric) for name in known):
        raise BenchError(unknown("metric", metric, known))
    comparisons, left_out = [], list(dict.fromkeys(left_out))
    reused = {name: run for records in sources for name, run in sources_of(records.rows).items()}
    places = sorted(sides[0].keys() | sides[1].keys())
    if kind == "method" and preset is None:
        places = [shared for shared in places if GATE not in shared] or places
    for shared in places:
        rows, title = [side.get(shared, {}) for side in sides], ", ".join(shared)
        pairs, reason = _pairs(kind, names, title, rows)
        left_out += [reason] if reason else []
        for first, second in pairs:
            is_variant = kind != "method" and first != shared[0]
            shown = (first, second) if kind == "method" else names
            place = f"{title}, {first}" if is_variant else title
            if kind == "method" and (end := _end(first)) and end == _end(second):
                shown = (first.partition(" ")[0], second.partition(" ")[0])
                place = f"{title} {end}"
            comparison = Comparison(place, shown)
            _fill(comparison, rows[0][first], rows[1][second], metric, reused)
            comparisons.append(comparison)
    if not any(comparison.metrics for comparison in comparisons):
        reasons = [text for comparison in comparisons for text in comparison.refused] or left_out
        raise BenchError(" ".join([f"'{a}' and '{b}' cannot be compared.", *reasons]))
    return comparisons, left_out


def _is_store(name: str) -> bool:
    folder = expand_home(name)
    return folder.is_dir() and Store(folder).has_runs()


def _labels(records: Records) -> set[str]:
    """The methods, and the labels of their rows in the tables."""
    found = set(records.runs["model"])
    for _, runs in records.runs.groupby(_KEYS["method"]):
        found |= {label for label, _ in group_rows(records.of(runs))}
    return found


def _packaged(name: str, labels: set[str]) -> str:
    """A row's label; a packaged row may be named without "(reference)" if no other has its name."""
    marked = f"{name} {REFERENCE}"
    return marked if name not in labels and marked in labels else name


def _kind(name: str, records: Records, methods: set[str]) -> str:
    if _is_store(name):
        return "store"
    presets = set(records.runs["preset"])
    if name in methods:
        return "method"
    if name in presets:
        return "preset"
    commits = set(records.runs["commit"]) - {""}
    if re.fullmatch(r"[0-9a-f]{6,40}", name) and any(c.startswith(name) for c in commits):
        return "commit"
    known = methods | presets | {commit[:_SHORT] for commit in commits}
    text = unknown("method, preset, commit or folder", name, known)
    left_out = [f"Left out: {p.where}: {p.text}" for p in records.problems]
    raise BenchError(" ".join([text, *left_out, *readable()[1]]))


def _cells(records: Records, kind: str, name: str) -> _Cells:
    """Rows by label in each cell of what the sides have in common."""
    chosen = records.runs
    if kind == "preset":
        chosen = chosen[chosen["preset"] == name]
    elif kind == "commit":
        chosen = chosen[chosen["commit"].map(lambda commit: commit.startswith(name))]
    cells = {}
    for shared, runs in chosen.groupby(_KEYS[kind]):
        rows = {k: group for k, group in group_rows(records.of(runs)) if group.all_results()}
        if kind == "method" and name in rows:
            rows = {name: rows[name]}
        elif kind == "method":
            rows = {k: group for k, group in rows.items() if name in set(group.runs["model"])}
        if rows:
            cells[shared] = rows
    return cells


def _pairs(
    kind: str, names: tuple[str, str], where: str, rows: list[dict[str, Records]]
) -> tuple[list[tuple[str, str]], str]:
    """The labels of the rows to compare, or why there are none."""
    if not all(rows):
        return [], f"{where}: only '{names[not rows[0]]}' has runs measured there."
    if all(len(side) == 1 for side in rows):
        return [(label, other) for label in rows[0] for other in rows[1]], ""
    end_of = _end if kind == "method" else str
    ends = [{end_of(label): label for label in side} for side in rows]
    if pairs := [(ends[0][end], ends[1][end]) for end in ends[0] if end in ends[1]]:
        return pairs, ""
    labels = " and ".join(", ".join(side) for side in rows)
    return [], f"{where}: several variants ({labels}). Name the row in full, in quotes."


def _end(label: str) -> str:
    """What follows the method in a row's label: "[prior.kind=gmm]"."""
    return label.partition(" ")[2]


def _fill(
    comparison: Comparison, a: Records, b: Records, metric: str, reused: dict[str, str]
) -> None:
    sides = (a, b)
    comparison.configuration, comparison.only = _configuration(*sides)
    for name, group in zip(comparison.names, sides, strict=True):
        try:
            refuse_mixture(name, group)
        except BenchError as error:
            comparison.refused.append(str(error))
    if differ := _differing_data(a, b):
        texts = " and ".join(differ)
        comparison.refused.append(f"{comparison.place}: the data differ (fingerprints {texts}).")
    if comparison.refused:
        return
    known: dict[str, dict[str, Any]] = {}
    for label, results in _by_label(*sides).items():
        if not all(results):
            lacking = comparison.names[bool(results[0])]
            comparison.refused.append(f"{label}: '{lacking}' was not measured by it.")
        elif differing := _differing(*results):
            comparison.refused.append(
                f"{comparison.place}: values of {label} are not compared, for these differ: "
                f"{'; '.join(differing)}. Evaluate both sides again with the same."
            )
        else:
            known |= {name: m for side in results for r in side for name, m in r.metrics.items()}
    shared = sharing(*(first_stages(group, reused) for group in sides))
    collapsed = [(n, collapses(g)) for n, g in zip(comparison.names, sides, strict=True)]
    for name, facts in known.items():
        scores = [scores_of(group, name) for group in sides]
        if not name.startswith(metric) or not all(scores) or facts["role"] != "method":
            continue
        n = [{s.n for s in side.values()} for side in scores]
        if facts.get("biased") and n[0] != n[1]:
            comparison.refused.append(f"{name} depends on n, which differs: {n[0]} and {n[1]}.")
            continue
        about = name, facts["direction"], facts["digits"]
        comparison.metrics.append((*about, difference(scores[0], scores[1], shared)))
        if found := {side: c[name] for side, c in collapsed if name in c}:
            comparison.collapsed[name] = found


def _by_label(a: Records, b: Records) -> dict[str, tuple[list[Result], list[Result]]]:
    """The results of both sides by evaluator and extractor."""
    sides: dict[str, tuple[list[Result], list[Result]]] = {}
    for side, group in enumerate((a, b)):
        for result in group.all_results():
            sides.setdefault(result.label, ([], []))[side].append(result)
    return sides


def differing_settings(a: Records, b: Records) -> list[str]:
    """Settings, data and version of the method that are not the same on both sides.

    A setting that one side's code did not know counts where it is not at its default: a new one's
    default is what was done before, or the method's version is raised.
    """
    differing, only = _configuration(a, b)
    both = (group.all_results() for group in (a, b))
    measured = set.intersection(*({r.evaluator for r in results} for results in both))
    settings = {key for group in (a, b) for each in group.runs["settings"] for key in each}
    texts = [
        f"{key} is {x} there and {y} here"
        for key, x, y in differing
        if key in settings | {"version"}
    ]
    for side, group, keys in zip(("there", "here"), (a, b), only, strict=True):
        for key in (key for key in keys if key in settings):
            part, _, rest = key.partition(".")
            unused = part == "evaluators" and rest.partition(".")[0] not in measured
            layers = {origins[key][0] for origins in group.runs["origins"] if key in origins}
            if not unused and layers != {DEFAULT}:
                texts.append(f"{key} is only {side}")
    if differ := _differing_data(a, b):
        texts.append(f"the data's fingerprint is {differ[0]} there and {differ[1]} here")
    return texts


def _differing_data(a: Records, b: Records) -> list[str]:
    """The short fingerprints of each side, where they are not the same."""
    sides = [set(group.runs["fingerprint"]) for group in (a, b)]
    short = [", ".join(sorted(text[:_SHORT] for text in side)) for side in sides]
    return short if sides[0] != sides[1] else []


def differing_measures(a: Records, b: Records) -> list[str]:
    """Evaluators' versions, classifiers and extractors that are not the same on both sides."""
    pairs = _by_label(a, b).items()
    return [f"{label}: {text}" for label, p in pairs if all(p) for text in _differing(*p)]


def _differing(a: list[Result], b: list[Result]) -> list[str]:
    """What was measured with, where it is not one and the same on both sides."""
    return [
        f"{key} ({' and '.join(', '.join(sorted(side)) or 'none' for side in sides)})"
        for key, sides in _by_key(map(_measured_with, a), map(_measured_with, b)).items()
        if len(sides[0] | sides[1]) > 1 or not all(sides)
    ]


def _measured_with(result: Result) -> dict[str, str]:
    used = {"version": result.version, "real images": result.details.get("real")}
    used |= {f"classifier of {key}": c["digest"] for key, c in result.classifiers.items()}
    extractors = result.instruments.keys() - result.classifiers.keys()
    used |= {f"extractor of {key}": result.instruments[key] for key in extractors}
    return {k: json.dumps(v, sort_keys=True).strip('"')[:_SHORT] for k, v in used.items()}


def _by_key(*sides: Iterable[Mapping[str, Any]]) -> dict[str, tuple[set[str], set[str]]]:
    """The values of each fact on both sides, as text."""
    values: dict[str, tuple[set[str], set[str]]] = {}
    for side, facts in enumerate(sides):
        for key, value in (item for each in facts for item in each.items()):
            text = value if isinstance(value, str) else json.dumps(value)
            values.setdefault(key, (set(), set()))[side].add(text)
    return values


def _configuration(
    a: Records, b: Records
) -> tuple[list[tuple[str, str, str]], tuple[list[str], list[str]]]:
    """What differs in settings and surroundings; settings that only one side has."""
    values = _by_key(map(_facts, a.rows), map(_facts, b.rows))
    differing = [
        (key, ", ".join(sorted(first)), ", ".join(sorted(second)))
        for key, (first, second) in values.items()
        if first and second and first != second
    ]
    only_a = [key for key, (_, second) in values.items() if not second]
    return differing, (only_a, [key for key, (first, _) in values.items() if not first])


def _facts(run: RunRow) -> dict[str, Any]:
    made = run.provenance
    return {
        **{"method": run.model, "version": run.model_version, "preset": run.preset},
        **run.settings,
        "parameters": int(run.parameters) if run.parameters == run.parameters else None,
        **{key: made.get(key) for key in ("device", "platform", "python", "precision")},
        **{"commit": run.commit[:_SHORT], "dirty": made.get("dirty")},
        **{f"package {key}": version for key, version in made.get("packages", {}).items()},
        **{f"code digest, {key}": made.get(key, "")[:_SHORT] for key in ("source", "nets")},
    }
