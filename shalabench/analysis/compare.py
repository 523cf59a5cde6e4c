"""Two methods, presets, commits or stores against each other. Free of torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from shalabench.analysis.statistics import Difference, difference
from shalabench.analysis.tables import group_rows, refuse_mixture
from shalabench.analysis.variants import ablation_of, as_rows
from shalabench.api.errors import BenchError, unknown
from shalabench.api.records import Score
from shalabench.config.settings import DEFAULT
from shalabench.records.gather import Gathered, Record, gather, source_of
from shalabench.records.store import Store

_KEYS = {  # what two sides of a kind have in common
    "method": ("dataset", "preset"),
    "preset": ("model", "dataset"),
    "commit": ("model", "dataset", "preset"),
    "store": ("model", "dataset", "preset"),
}
_SHORT = 12  # letters of a digest
_OF_DATA = re.compile("(classifier|floor|ceiling|chance)[/-]")  # "floor/fid", "floor-white/psnr"


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
    """

    place: str
    names: tuple[str, str]
    configuration: list[tuple[str, str, str]] = field(default_factory=list)
    only: tuple[list[str], list[str]] = ((), ())
    metrics: list[tuple[str, str, int, Difference]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


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
        a: A folder of records, a method (or a table's row, of an ablation too), a preset, or the
            beginning of a commit.
        b: Another of the same kind.
        stores: Where the records lie, unless the sides are stores themselves.
        metric: Only metrics that begin so.
        dataset: Only this one.
        preset: Only this one.
        models: Only these.
        split: What was measured on.

    Returns:
        The comparisons, and sentences on what is left out.

    Raises:
        BenchError: A side is not known, they are of two kinds, or nothing can be compared.
    """
    found = None if _is_store(a) and _is_store(b) else gather(stores, split)
    if found and (ablation := ablation_of((a, b))):
        found = replace(found, records=as_rows(ablation, found.records))
    kind, other = _kind(a, found), _kind(b, found)
    if kind != other:
        raise BenchError(
            f"'{a}' is a {kind} and '{b}' is a {other}. Name two methods, two presets, two commits "
            "or two folders of records."
        )
    sides, left_out = [], []
    for name in (a, b):
        own = gather([Store(Path(name))], split) if kind == "store" else found
        _check_asked(own.records, dataset=[dataset], preset=[preset], model=models)
        left_out += [f"{p.where}: {p.kind}: {p.told}" for p in own.problems]
        asked = [r for r in own.records if _is_asked(r, dataset, preset, models)]
        sides.append(_cells(asked, kind, name))
    _check_metric(metric, [r for side in sides for r in _records(side)])
    comparisons, alone = _pairs(kind, (a, b), *sides)
    left_out = list(dict.fromkeys(left_out)) + alone
    for comparison, first, second in comparisons:
        _fill(comparison, first, second, metric)
    done = [comparison for comparison, _, _ in comparisons]
    if not any(c.metrics for c in done):
        reasons = [text for c in done for text in c.refused] or left_out
        raise BenchError(" ".join([f"'{a}' and '{b}' cannot be compared.", *reasons]))
    return done, left_out


def _check_asked(records: list[Record], **asked: Sequence[str | None]) -> None:
    """Complain of names that no record knows."""
    for kind, names in asked.items():
        known = {record.run[kind] for record in records}
        for name in names:
            if name is not None and name not in known:
                raise BenchError(unknown(kind, name, known))


def _records(cells: dict[tuple[str, ...], dict[str, list[Record]]]) -> list[Record]:
    return [record for rows in cells.values() for own in rows.values() for record in own]


def _check_metric(metric: str, records: list[Record]) -> None:
    """Complain of a metric of which no record has a figure."""
    known = {score["metric"] for r in records for result in r.results for score in result["scores"]}
    if known and not any(name.startswith(metric) for name in known):
        raise BenchError(unknown("metric", metric, known))


def _is_store(name: str) -> bool:
    return Path(name).is_dir() and any(Path(name).rglob("run.json"))


def _kind(name: str, found: Gathered | None) -> str:
    if _is_store(name):
        return "store"
    records = found.records if found else []
    methods = {r.run["model"] for r in records}
    for own in _by(_KEYS["method"], records).values():
        methods |= {label for label, _ in group_rows(own)}
    presets = {r.run["preset"] for r in records}
    if name in methods:
        return "method"
    if name in presets:
        return "preset"
    if re.fullmatch(r"[0-9a-f]{6,40}", name) and any(_commit(r).startswith(name) for r in records):
        return "commit"
    commits = {_commit(r)[:_SHORT] for r in records} - {""}
    text = unknown("method, preset, commit or folder", name, methods | presets | commits)
    left_out = [f"Left out: {p.where}: {p.told}" for p in found.problems] if found else []
    raise BenchError(" ".join([text, *left_out]))


def _commit(record: Record) -> str:
    return record.trained.get("provenance", {}).get("commit") or ""


def _is_asked(record: Record, dataset: str | None, preset: str | None, models: Sequence[str]):
    run = record.run
    fits = dataset in (None, run["dataset"]) and preset in (None, run["preset"])
    return fits and (not models or run["model"] in models)


def _cells(records: list[Record], kind: str, name: str) -> dict[tuple[str, ...], dict[str, list]]:
    """Rows by label in each cell of what the sides have in common."""
    chosen = {}
    for place, own in _by(_KEYS[kind], records).items():
        if kind == "preset":
            own = [r for r in own if r.run["preset"] == name]
        elif kind == "commit":
            own = [r for r in own if _commit(r).startswith(name)]
        rows = {label: runs for label, runs in group_rows(own) if any(r.results for r in runs)}
        if kind == "method":
            rows = {
                label: runs
                for label, runs in rows.items()
                if label == name or (name not in rows and runs[0].run["model"] == name)
            }
        if rows:
            chosen[place] = rows
    return chosen


def _by(keys: Sequence[str], records: list[Record]) -> dict[tuple[str, ...], list[Record]]:
    found: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        found.setdefault(tuple(record.run[key] for key in keys), []).append(record)
    return found


def _pairs(kind: str, names: tuple[str, str], a: dict, b: dict):
    """The pairs of rows, and what has no partner."""
    pairs, alone = [], []
    for place in sorted(a.keys() | b.keys()):
        where = ", ".join(place)
        if place not in a or place not in b:
            alone.append(f"{where}: only '{names[place not in a]}' has runs measured there.")
            continue
        rows = a[place], b[place]
        if all(len(side) == 1 for side in rows):
            labels = [(next(iter(rows[0])), next(iter(rows[1])))]
        elif kind == "method":
            labels = []
        else:
            labels = [(label, label) for label in rows[0] if label in rows[1]]
        if not labels:
            told = " and ".join(", ".join(side) for side in rows)
            alone.append(f"{where}: several variants ({told}). Name the row in full, in quotes.")
        for first, second in labels:
            shown = (first, second) if kind == "method" else names
            title = where if kind == "method" or first == place[0] else f"{where}, {first}"
            pairs.append((Comparison(title, shown), rows[0][first], rows[1][second]))
    return pairs, alone


def _fill(comparison: Comparison, a: list[Record], b: list[Record], metric: str) -> None:
    comparison.configuration, comparison.only = _configuration(a, b)
    for name, own in zip(comparison.names, (a, b), strict=True):
        try:
            refuse_mixture(name, own)
        except BenchError as error:
            comparison.refused.append(str(error))
    prints = [{r.run["data"]["fingerprint"] for r in own} for own in (a, b)]
    if prints[0] != prints[1]:
        told = " and ".join(", ".join(sorted(p[:_SHORT] for p in side)) for side in prints)
        comparison.refused.append(f"{comparison.place}: the data differ (fingerprints {told}).")
    if comparison.refused:
        return
    known: dict[str, dict[str, Any]] = {}
    for source in dict.fromkeys(source_of(r) for f in [*a, *b] for r in f.results):
        results = [[r for f in own for r in f.results if source_of(r) == source] for own in (a, b)]
        if not all(results):
            lacking = comparison.names[bool(results[0])]
            comparison.refused.append(f"{source}: '{lacking}' was not measured by it.")
            continue
        if differing := _differing(*results):
            comparison.refused.append(
                f"{comparison.place}: figures of {source} are not compared, for these differ: "
                f"{'; '.join(differing)}. Evaluate both sides again with the same."
            )
            continue
        known |= {m["name"]: m for side in results for r in side for m in r["metrics"]}
    for name, facts in known.items():
        scores = [_scores(own, name) for own in (a, b)]
        if not name.startswith(metric) or not all(scores) or is_of_data(name):
            continue
        n = [{s.n for s in side.values()} for side in scores]
        if facts.get("biased") and n[0] != n[1]:
            comparison.refused.append(f"{name} depends on n, which differs: {n[0]} and {n[1]}.")
            continue
        found = difference(*scores)
        comparison.metrics.append((name, facts["direction"], facts["digits"], found))


def is_of_data(metric: str) -> bool:
    """Whether it measures the data or the classifiers rather than a method."""
    return _OF_DATA.match(metric) is not None


def differing_settings(a: list[Record], b: list[Record]) -> list[str]:
    """Settings, data and version of the method that are not the same on both sides.

    A setting that one side's code did not know counts where it is not at its default: a new one's
    default is what was done before, or the method's version is raised.
    """
    differing, only = _configuration(a, b)
    measured = [{r["evaluator"] for record in own for r in record.results} for own in (a, b)]
    both = tuple(f"evaluators.{name}." for name in measured[0] & measured[1])
    only = tuple(
        [key for key in keys if not key.startswith("evaluators.") or key.startswith(both)]
        for keys in only
    )
    settings = {key for record in (*a, *b) for key in record.run["settings"]} | {"version"}
    told = [f"{key} is {x} there and {y} here" for key, x, y in differing if key in settings]
    for side, own, keys in zip(("there", "here"), (a, b), only, strict=True):
        chosen = (key for key in keys if key in settings and not _at_default(own, key))
        told += [f"{key} is only {side}" for key in chosen]
    prints = [{r.run["data"]["fingerprint"][:_SHORT] for r in own} for own in (a, b)]
    if prints[0] != prints[1]:
        told.append(
            f"the data's fingerprint is {_told(prints[0])} there and {_told(prints[1])} here"
        )
    return told


def _at_default(records: list[Record], key: str) -> bool:
    origins = [r.run["origins"][key] for r in records if key in r.run.get("origins", {})]
    return bool(origins) and all(layer == DEFAULT for layer, _ in origins)


def differing_measures(a: list[Record], b: list[Record]) -> list[str]:
    """Evaluators' versions, classifiers and extractors that are not the same on both sides."""
    told = []
    for source in dict.fromkeys(source_of(r) for f in a for r in f.results):
        results = [[r for f in own for r in f.results if source_of(r) == source] for own in (a, b)]
        if results[1]:
            told += [f"{source}: {text}" for text in _differing(*results)]
    return told


def _told(values: set[str]) -> str:
    return ", ".join(sorted(values))


def _scores(records: list[Record], metric: str) -> dict[int, Score]:
    found = {r.run["seed"]: r.score(metric) for r in records}
    return {seed: score for seed, score in found.items() if score is not None}


def _differing(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[str]:
    """What was measured with, where it is not one and the same on both sides."""
    facts: dict[str, list[set[str]]] = {}
    for side, results in enumerate((a, b)):
        for result in results:
            details = result.get("details", {})
            used = {"version": result["version"], "real images": details.get("real")}
            used |= {f"classifier of {k}": c["digest"] for k, c in result["classifiers"].items()}
            extractors = result.get("instruments", {}).keys() - result["classifiers"].keys()
            used |= {f"extractor of {key}": result["instruments"][key] for key in extractors}
            for key, value in used.items():
                values = facts.setdefault(key, [set(), set()])
                values[side].add(json.dumps(value, sort_keys=True).strip('"')[:_SHORT])
    return [
        f"{key} ({' and '.join(', '.join(sorted(side)) or 'none' for side in sides)})"
        for key, sides in facts.items()
        if len(sides[0] | sides[1]) > 1 or not all(sides)
    ]


def _configuration(a: list[Record], b: list[Record]):
    """What differs in settings and surroundings; settings that one side alone has."""
    facts: list[dict[str, set[str]]] = [{}, {}]
    for side, own in enumerate((a, b)):
        for record in own:
            for key, value in _facts(record).items():
                facts[side].setdefault(key, set()).add(value)
    differing = [
        (key, ", ".join(sorted(values)), ", ".join(sorted(facts[1][key])))
        for key, values in facts[0].items()
        if key in facts[1] and values != facts[1][key]
    ]
    only = [[key for key in facts[i] if key not in facts[1 - i]] for i in (0, 1)]
    return differing, (only[0], only[1])


def _facts(record: Record) -> dict[str, str]:
    run, provenance = record.run, record.trained.get("provenance", {})
    facts = {"method": run["model"], "version": run["model_version"], "preset": run["preset"]}
    facts |= run["settings"]
    facts |= {"parameters": record.trained.get("parameters")}
    facts |= {k: provenance.get(k) for k in ("device", "platform", "python", "precision")}
    facts |= {"commit": _commit(record)[:_SHORT], "dirty": provenance.get("dirty")}
    facts |= {f"package {k}": v for k, v in provenance.get("packages", {}).items()}
    for key in ("source", "nets"):
        facts[f"code digest, {key}"] = provenance.get(key, "")[:_SHORT]
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}


def render_comparisons(found: list[Comparison], left_out: list[str], as_json: bool) -> str:
    """The comparisons as text, or as JSON with every figure."""
    if as_json:
        plain = []
        for c in found:
            metrics = [{"metric": m, "direction": d, **asdict(diff)} for m, d, _, diff in c.metrics]
            plain.append(vars(c) | {"metrics": metrics})
        return json.dumps({"comparisons": plain, "left_out": left_out}, indent=1)
    parts = [_readable(comparison) for comparison in found]
    if left_out:
        parts.append("\n".join(["Left out:", *(f"  {text}" for text in left_out)]))
    return "\n\n".join(parts)


def _readable(c: Comparison) -> str:
    from tabulate import tabulate

    a, b = c.names
    lines = [f"{a} against {b}: {c.place}", ""]
    if c.metrics:
        head = ("metric", a, b, "difference", "95 % interval", "verdict", "interval over")
        body = [_line(c.names, *metric) for metric in c.metrics]
        aligned = ("left", "right", "right", "right", "right", "left", "left")
        lines += [tabulate(body, head, disable_numparse=True, colalign=aligned), ""]
    lines += [f"  {text}" for text in c.refused]
    if any("items" in diff.basis for *_, diff in c.metrics):
        lines.append(
            "  An interval over test items says nothing of other trainings, and takes both sides' "
            "errors as independent: records hold no outcome an item to pair by."
        )
    if len(c.metrics) > 1:
        lines.append("  Each interval is for its metric alone: of twenty, one errs by chance.")
    if c.configuration:
        shown = [(key, _cut(x), _cut(y)) for key, x, y in c.configuration]
        lines += ["", tabulate(shown, ("differs", a, b), disable_numparse=True)]
    else:
        lines += ["", "No setting that both have differs."]
    for name, keys in zip(c.names, c.only, strict=True):
        if keys:
            lines += ["", f"Only {name}: {', '.join(keys)}."]
    return "\n".join(lines)


def _line(names: tuple[str, str], metric: str, direction: str, digits: int, diff: Difference):
    return (
        metric,
        f"{diff.a:.{digits}f}",
        f"{diff.b:.{digits}f}",
        f"{diff.value:+.{digits}f}",
        spread(diff, digits),
        verdict(diff, direction, names),
        diff.basis,
    )


def spread(diff: Difference, digits: int) -> str:
    """The interval in words."""
    if diff.margin is None:
        return "unknown"
    return f"{diff.value - diff.margin:+.{digits}f} to {diff.value + diff.margin:+.{digits}f}"


def verdict(diff: Difference, direction: str, names: tuple[str, str]) -> str:
    """Which side is better, or that they are not told apart."""
    if not diff.is_told:
        return "not told apart" if diff.p is not None else "not tested"
    ahead = (diff.value > 0) == (direction != "lower")
    return f"{names[0] if ahead else names[1]} is better"


def _cut(text: str, width: int = 40) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
