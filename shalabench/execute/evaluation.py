"""Evaluation of a trained model by every evaluator that applies."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from shalabench.api import (
    BenchError,
    Classifier,
    DataError,
    DataSpec,
    EvalContext,
    Evaluator,
    Model,
    Split,
    derive_seed,
)
from shalabench.api.registry import entries, find
from shalabench.config.settings import Resolved
from shalabench.execute.provenance import describe_code, describe_machine
from shalabench.records.ids import eval_id
from shalabench.records.store import LETTERS, RunFolder, write_whole

_PICTURE_LIMIT = 300_000  # bytes; records are kept in git


@dataclass(frozen=True)
class Evaluation:
    """One evaluator's work on one run.

    Attributes:
        identity: Its `eval_id`.
        split: Name of the split that it measures on.
        instruments: Digests of what it measures with.
    """

    evaluator: Evaluator
    identity: str
    split: str
    instruments: dict[str, str]


def plan_evaluations(
    names: tuple[str, ...],
    resolved: Resolved,
    model: type[Model],
    spec: DataSpec,
    training: str,
    classifiers: Mapping[str, Classifier],
    split: str,
) -> tuple[list[Evaluation], dict[str, str]]:
    """The evaluations that a run calls for, and the reasons for those it cannot have.

    Args:
        names: Evaluators asked for; every registered one where empty.
        resolved: The run's settings.
        model: The method's class.
        spec: What the data consist of.
        training: The run's `train_id`.
        classifiers: By modality.
        split: The split that will be measured on.
    """
    wanted, skipped = [], {}
    for name in names or tuple(entries("evaluator")):
        evaluator = find("evaluator", name).cls(resolved.evaluators[name])
        reason = evaluator.skip(model, spec)
        if reason is not None:
            skipped[name] = reason
            continue
        try:
            used = evaluator.instruments(spec, classifiers)
        except DataError as error:
            skipped[name] = str(error)
            continue
        settings = resolved.evaluators[name].model_dump(mode="json")
        n = spec.sizes[split]
        identity = eval_id(training, name, evaluator.version, settings, used, split, n)
        wanted.append(Evaluation(evaluator, identity, split, used))
    return wanted, skipped


def evaluate(
    evaluation: Evaluation,
    model: Model,
    spec: DataSpec,
    split: Split,
    seed: int,
    classifiers: Mapping[str, Classifier],
    folder: RunFolder,
    training: str,
    report: Callable[[int, int], None],
    splits: Callable[[str], Split] | None = None,
    cache: Path | None = None,
) -> None:
    """Run one evaluator in float32 and record what it found.

    Raises:
        BenchError: A classifier is in training mode, where dropout would judge along.
    """
    evaluator = evaluation.evaluator
    own = classifiers if evaluator.uses_classifiers else {}
    if training_mode := [name for name, c in own.items() if c.network.training]:
        raise BenchError(
            f"The classifier of '{training_mode[0]}' is in training mode; evaluation mode is "
            "needed. Call eval() on its network after loading it."
        )
    used = {n: c for n, c in own.items() if n in evaluation.instruments}
    seed = derive_seed(seed, evaluator.name, "evaluation")
    scratch = folder.path / "partial" / f"{evaluator.name}-{evaluation.identity[:LETTERS]}"
    context = EvalContext(split.device, seed, own, report, splits, cache, scratch)
    began = time.time()
    with torch.inference_mode():
        outcome = evaluator.run(model, spec, split, context)
    scored = {score.metric for score in outcome.scores}
    end = _ending(evaluation, folder)
    pictures = {
        f"pictures/{evaluator.name}-{stem}{end}.png": _png(picture)
        for stem, picture in outcome.pictures.items()
    }
    texts = {
        f"texts/{evaluator.name}-{stem}{end}.txt": text.encode()
        for stem, text in outcome.texts.items()
    }
    for name, content in (pictures | texts).items():
        write_whole(folder.path / name, content)
    folder.write_json(
        f"results/{evaluator.name}-{evaluation.identity[:LETTERS]}.json",
        {
            "eval_id": evaluation.identity,
            "train_id": training,
            "evaluator": evaluator.name,
            "version": evaluator.version,
            "settings": evaluator.config.model_dump(mode="json"),
            "split": evaluation.split,
            "n": len(split),
            "classifiers": {n: _describe(c) for n, c in used.items()},
            "instruments": evaluation.instruments,
            "metrics": [vars(metric) for metric in evaluator.metrics if metric.name in scored],
            "scores": [score.to_json() for score in outcome.scores],
            "details": outcome.details,
            "pictures": list(pictures),
            "texts": list(texts),
            "provenance": {
                **describe_code(find("evaluator", evaluator.name)),
                **describe_machine(split.device),
                "seconds": round(time.time() - began, 2),
                "finished": round(time.time()),
            },
        },
    )
    folder.log("evaluated", evaluator=evaluator.name)
    shutil.rmtree(scratch, ignore_errors=True)
    with contextlib.suppress(OSError):  # another evaluation's work is there, or nothing ever was
        scratch.parent.rmdir()


def _ending(evaluation: Evaluation, folder: RunFolder) -> str:
    """Of the names of pictures and texts: none for an evaluator's first one of the test split."""
    name, tests = evaluation.evaluator.name, [r for r in folder.results() if r["split"] == "test"]
    first = evaluation.split == "test" and all(r["evaluator"] != name for r in tests)
    return "" if first else f"-{evaluation.identity[:LETTERS]}"


def _describe(classifier: Classifier) -> dict[str, Any]:
    return {
        "accuracy": classifier.accuracy,
        "digest": classifier.digest,
        "source": classifier.source,
    }


def _png(picture: torch.Tensor) -> bytes:
    """A PNG file; with 256 colours, then at half the size, where it would pass the limit."""
    image = Image.fromarray(np.ascontiguousarray(picture.cpu().numpy()))
    if len(content := _encoded(image)) > _PICTURE_LIMIT:
        content = _encoded(image.quantize(256, method=Image.Quantize.FASTOCTREE))
    while len(content) > _PICTURE_LIMIT:
        image = image.reduce(2)
        content = _encoded(image)
    return content


def _encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
