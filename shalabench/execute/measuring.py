"""Evaluations of one run, each on its own: the failure of one is recorded and stops no other.

A failure is failures/<evaluator>-<identity>.json in the run's folder until the evaluation succeeds.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping

from shalabench.api import BenchError
from shalabench.api.errors import out_of_memory
from shalabench.execute.evaluation import Evaluation
from shalabench.execute.trainer import Stopped
from shalabench.records.digests import set_aside
from shalabench.records.store import LETTERS, RunFolder, StoreError


def is_recorded(evaluation: Evaluation, folder: RunFolder) -> bool:
    """Whether a result is recorded and reads."""
    if not folder.has_result(evaluation.identity):
        return False
    try:
        folder.result(evaluation.file_name)
    except BenchError:
        return False
    return True


def known_failures(todo: Iterable[Evaluation], folder: RunFolder) -> dict[str, str]:
    """Why some evaluations failed when they were last tried, by evaluator."""
    failures = folder.failures()
    known = [e for e in todo if e.file_name in failures]
    return {e.evaluator.name: str(failures[e.file_name].get("reason")) for e in known}


def reasons_of(failed: Mapping[str, str]) -> str:
    """Sentences on the evaluators that failed, each after a blank."""
    text = "".join(f" {name} failed: {reason}" for name, reason in failed.items())
    return f"{text} Add --retry to try that again." if failed else text


def measure_each(
    todo: Iterable[Evaluation], folder: RunFolder, measure: Callable[[Evaluation], None]
) -> dict[str, str]:
    """Carry out evaluations that are not recorded.

    Args:
        todo: The evaluations.
        folder: Of the run, which is held.
        measure: Carries one out and records it.

    Returns:
        Why some failed, by evaluator.

    Raises:
        Stopped: As `measure` raises it.
        StoreError: The store cannot be written.
    """
    failed = {}
    for evaluation in todo:
        name, file = evaluation.evaluator.name, folder.path / "results" / evaluation.file_name
        if is_recorded(evaluation, folder):  # by another process, meanwhile
            continue
        if file.exists():
            folder.log("warning", message=f"{file.name} was damaged and is measured again.")
            set_aside(file)
        try:
            measure(evaluation)
        except (Stopped, StoreError):
            raise
        except Exception as error:  # recorded with its traceback
            failed[name] = _reason(error, evaluation)
            folder.write_json(
                f"failures/{evaluation.file_name}",
                {
                    "eval_id": evaluation.identity,
                    "evaluator": name,
                    "version": evaluation.evaluator.version,
                    "split": evaluation.split,
                    "reason": failed[name],
                    "traceback": traceback.format_exc(),
                    "finished": round(time.time()),
                },
            )
            folder.log("unmeasured", evaluator=name, reason=failed[name])
        else:
            (folder.path / "failures" / evaluation.file_name).unlink(missing_ok=True)
    return failed


def _reason(error: Exception, evaluation: Evaluation) -> str:
    name = evaluation.evaluator.name
    if out_of_memory(error):
        size = getattr(evaluation.evaluator.config, "batch_size", None)
        key = f"evaluators.{name}.batch_size"
        hint = (
            f" with {key} = {size}. Halve it with --set {key}={max(1, size // 2)}" if size else ""
        )
        return f"Out of memory{hint}."
    if isinstance(error, BenchError):
        return str(error)
    where = f"failures/{name}-{evaluation.identity[:LETTERS]}.json"
    return f"{type(error).__name__}: {error}. The traceback is in {where}."
