"""New runs against reference runs: what `bench.py check` reports. Free of torch.

A folder of reference records may hold `gates.json`: {"metrics": [...], "parts": [...], "seeds":
[...]}. It lists the metrics that are gates, the metrics of which each pair of given and target is a
gate, and the seeds of new runs. Without the file, all metrics of role "method" are gates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shalabench.analysis.compare import differing_measures, differing_settings
from shalabench.analysis.fitting import draw, terminal_width
from shalabench.analysis.gate import LEVEL, Gate, Verdict, judge
from shalabench.analysis.rows import group_rows, refuse_mixture
from shalabench.api.errors import BenchError, unknown
from shalabench.records.columns import RunRow, ScoreRow, run_rows, score_rows
from shalabench.records.frame import Records, load
from shalabench.records.store import RunFolder, Store

GATES = "gates.json"
_WORK = ["model", "dataset", "preset", "overrides"]
_BROKEN = ["diverged", "failed"]
_LEAST = 2  # reference seeds of a gate
HOLDS, REGRESSED, INCOMPLETE, NOT_COMPARABLE = range(4)


class _Gates(BaseModel):
    """What `gates.json` may hold."""

    model_config = ConfigDict(extra="forbid", strict=True)

    metrics: list[str] = []
    parts: list[str] = []
    seeds: list[Annotated[int, Field(ge=0)]] = []


@dataclass
class Report:
    """The outcome of a check.

    Attributes:
        verdicts: One per gate.
        broken: New runs that failed or diverged, or whose evaluators failed, with the reason.
        incomplete: What is missing, in sentences.
        differing: What makes runs not comparable, in sentences.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 holds, 1 regression, 2 incomplete, 3 not comparable; a regression before all else."""
        if self.broken or any(v.state == "regressed" for v in self.verdicts):
            return REGRESSED
        if self.differing:
            return NOT_COMPARABLE
        return INCOMPLETE if self.incomplete or not self.verdicts else HOLDS


def read_gates(reference: Path) -> dict[str, Any]:
    """The reference folder's choice of metrics and seeds; empty where it makes none.

    Raises:
        BenchError: The file does not read.
    """
    file = reference / GATES
    if not file.exists():
        return {}
    try:
        return _Gates.model_validate_json(file.read_bytes()).model_dump(exclude_unset=True)
    except (OSError, ValidationError) as error:
        errors = error.errors() if isinstance(error, ValidationError) else []
        reasons = [": ".join([*map(str, e["loc"]), e["msg"]]) for e in errors] or [str(error)]
        raise BenchError(
            f"{file} does not read ({'; '.join(reasons)}). Write an object with two lists of "
            "names, 'metrics' and 'parts', and a list of whole numbers, 'seeds'."
        ) from error


def work_of(reference: Path) -> tuple[list[RunRow], tuple[str, ...]]:
    """One run of each row of a reference, which all have to be run again, and the evaluators."""
    records = _reference(reference)
    evaluators = dict.fromkeys(r.evaluator for r in records.all_results())
    return run_rows(records.runs.drop_duplicates(_WORK)), tuple(evaluators)


def not_judged(
    outcomes: Mapping[str, tuple[str, str, Path | None]], checkout: Mapping[str, Any]
) -> dict[str, str]:
    """New runs that were asked for and cannot be judged, by name, with the reason.

    A run that was recorded before is trusted only where its commit is the present one and neither
    tree had changes.

    Args:
        outcomes: Status, sentence and folder of each run that was asked for.
        checkout: "commit" and "dirty" of the code that is checked.
    """
    excluded = {}
    for name, (status, text, folder) in outcomes.items():
        if status in ("stopped", "busy") or (status == "failed" and folder is None):
            excluded[folder.name if folder else name] = text
        elif status == "already" and folder:
            made_by = (RunFolder(folder).trained or {}).get("provenance", {})
            commit, dirty = made_by.get("commit"), made_by.get("dirty")
            is_clean = dirty is False and checkout["dirty"] is False
            if not (is_clean and commit and commit == checkout["commit"]):
                excluded[folder.name] = (
                    f"Other code may have recorded it: commit {(commit or 'unknown')[:12]}"
                    f"{', with changes' if dirty else ''}. Remove {folder}, or name another "
                    "--store."
                )
    return excluded


def check(
    reference: Path,
    stores: Sequence[Store],
    *,
    unmade: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """Test the runs of some stores against a folder of reference records.

    Args:
        reference: The folder.
        stores: Where the new runs lie.
        unmade: New runs that were asked for and that cannot be judged, with the reason; where a
            folder's name is among them, its record is passed over.

    Raises:
        BenchError: There is no reference run, or the gates' file does not read.
    """
    report, gates = Report(), []
    chosen, records = read_gates(reference), _reference(reference)
    report.incomplete += [f"{name}: {reason}" for name, reason in unmade.items()]
    new = load(stores, may_be_empty=True)
    report.incomplete += [f"{p.where} is {p.kind}: {p.text}" for p in new.problems]
    for label, rows in group_rows(records):
        first = rows.rows[0]
        where = f"{label} on {first.dataset}, preset {first.preset}"
        alike = (new.runs[_WORK] == [getattr(first, key) for key in _WORK]).all(axis=1)
        runs = new.runs[alike & ~new.runs["run"].isin(list(unmade))]
        is_unmeasured = (runs["state"] == "done") & (runs["reason"] != "")
        is_broken = runs["state"].isin(_BROKEN) | is_unmeasured
        is_trained = runs["provenance"].astype(bool) & ~is_broken
        for run in run_rows(runs[is_broken]):
            state = "failed" if run.state == "done" else run.state  # an evaluator failed
            report.broken.append(f"{run.run} {state}: {run.reason}")
        for run in run_rows(runs[~is_broken & ~is_trained]):
            because = f": {run.reason.rstrip('.')}" if run.reason else ""
            report.incomplete.append(f"{run.run} is {run.state}{because}.")
        group = new.of(runs[is_trained])
        if group.runs.empty:
            if not is_broken.any():
                report.incomplete.append(f"{where}: there is no new run. Add --run to make it.")
            continue
        try:
            refuse_mixture(label, group)
        except BenchError as error:
            report.differing.append(f"{where}: {error}")
            continue
        if differing := differing_settings(rows, group) + differing_measures(rows, group):
            report.differing.append(f"{where}: {'; '.join(differing)}.")
            continue
        gates += _gates(label, rows, group, chosen, report)
    if gates:
        report.verdicts = judge(gates)
    elif not (report.broken or report.incomplete or report.differing):
        report.incomplete.append("No metric of the reference is a gate; nothing was checked.")
    known = {name for r in records.all_results() for name in r.scored}
    for name in dict.fromkeys([*chosen.get("metrics", ()), *chosen.get("parts", ())]):
        if name not in known:
            report.incomplete.append(unknown(f"metric of {GATES}", name, known))
    return report


def _reference(reference: Path) -> Records:
    records = load([Store(reference)])
    if records.problems:
        first = records.problems[0]
        raise BenchError(
            f"The reference {reference} holds records that cannot be used, such as {first.where}: "
            f"{first.text} Move them away or make them again."
        )
    return records.of(records.runs[records.runs["provenance"].astype(bool)])


def _gates(
    label: str, reference: Records, new: Records, chosen: dict[str, list[Any]], report: Report
) -> list[Gate]:
    """The gates of one row; what is missing is reported."""
    olds, news = (_gated(group, chosen) for group in (reference, new))
    gates = []
    for name, old in olds.items():
        now = news.get(name, [])
        if len(old) < _LEAST:
            report.incomplete.append(
                f"{label}: {name} has {len(old)} reference seeds; {_LEAST} are needed at least."
            )
        elif len(now) < len(new.runs):
            lacking = len(new.runs) - len(now)
            report.incomplete.append(f"{label}: {lacking} new runs lack {name}.")
        else:
            gates.append(
                Gate(
                    label,
                    old[0].dataset,
                    name,
                    old[-1].direction == "higher",
                    tuple(s.value for s in old),
                    tuple(s.value for s in now),
                    max((s.stderr for s in [*old, *now] if s.stderr == s.stderr), default=0.0),
                )
            )
    return gates


def _gated(group: Records, chosen: dict[str, list[Any]]) -> dict[str, list[ScoreRow]]:
    """The scores that are gates, one a run, by the gate's name."""
    gated: dict[str, dict[str, ScoreRow]] = {}
    for score in score_rows(group.scores):
        name = score.metric
        if score.given or score.target is not None:
            is_gate = name in chosen.get("parts", ())
            name += f" {'+'.join(score.given)}->{score.target}"
        else:
            is_gate = name in chosen["metrics"] if "metrics" in chosen else score.role == "method"
        if is_gate:
            gated.setdefault(name, {})[score.train_id] = score
    return {name: list(by_run.values()) for name, by_run in gated.items()}


def render_check(report: Report) -> str:
    """The verdicts as a table, and what could not be judged."""
    lines = []
    if report.verdicts:
        head = ("gate", "reference", "new", "change", "visible drop", "p", "verdict")
        body = [_line(verdict) for verdict in report.verdicts]
        lines += [draw(body, head, terminal_width()), ""]
        lines.append(
            "Change: positive is better. Visible drop: the gate reports it with a probability of "
            f"95 %. p: one-sided; Holm over all gates at {LEVEL:.0%}."
        )
    lines += [f"Broken: {text}" for text in report.broken]
    lines += [f"Not comparable: {text}" for text in report.differing]
    lines += [f"Incomplete: {text}" for text in report.incomplete]
    if improved := sum(verdict.state == "improved" for verdict in report.verdicts):
        lines.append(
            f"Warning: {improved} gates improved. If that is intended, make the reference again."
        )
    results = ("All gates hold.", "REGRESSION.", "INCOMPLETE.", "NOT COMPARABLE.")
    return "\n".join([*lines, results[report.exit_code]])


def report_json(report: Report) -> str:
    """The same with every value."""
    return json.dumps(asdict(report) | {"exit_code": report.exit_code}, indent=1)


def _line(verdict: Verdict) -> tuple[str, ...]:
    gate = verdict.gate
    mean = [math.fsum(x) / len(x) for x in (gate.reference, gate.new)]
    return (
        f"{gate.label} {gate.dataset} {gate.metric}",
        f"{mean[0]:.4g} ({len(gate.reference)})",
        f"{mean[1]:.4g} ({len(gate.new)})",
        f"{round(verdict.change, 12):+.3g}",
        f"{verdict.visible:.3g}",
        f"{verdict.p:.2g}",
        verdict.state,
    )
