"""Evaluate a trained model with every evaluator that applies, and record the results."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
import traceback
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
    sampling,
)
from shalabench.api.registry import entries, find
from shalabench.config.settings import Resolved
from shalabench.execute.provenance import describe_code, describe_machine
from shalabench.records.ids import eval_id
from shalabench.records.store import LETTERS, RunFolder, write_whole

_PICTURE_LIMIT = 300_000  # bytes; records are kept in git
_QUALITIES = (90, 75)  # of lossy WebP; 90 shows no difference


@dataclass(frozen=True)
class Evaluation:
    """One evaluator applied to one run.

    Attributes:
        identity: Its `eval_id`.
        split: Name of the split that it measures on.
        instruments: Digests of what it measures with.
    """

    evaluator: Evaluator
    identity: str
    split: str
    instruments: dict[str, str]

    @property
    def file_name(self) -> str:
        """Of its result, in `results` of the run's folder."""
        return f"{self.evaluator.name}-{self.identity[:LETTERS]}.json"


def plan_evaluations(
    names: tuple[str, ...],
    resolved: Resolved,
    model: type[Model],
    spec: DataSpec,
    training: str,
    classifiers: Mapping[str, Classifier],
    split: str,
) -> tuple[list[Evaluation], dict[str, str], dict[str, str]]:
    """The evaluations of a run, and why evaluators are skipped, or failed at their first question.

    Args:
        names: Evaluators to use; every registered one if empty.
        resolved: The run's settings.
        model: The method's class.
        spec: What the data consist of.
        training: The run's `train_id`.
        classifiers: By modality.
        split: Name of the split to measure on.
    """
    wanted, skipped, failed = [], {}, {}
    for name in names or tuple(entries("evaluator")):
        evaluator = find("evaluator", name).cls(resolved.evaluators[name])
        try:
            reason = evaluator.skip(model, spec) or evaluator.too_few(spec, split)
            used = evaluator.instruments(spec, classifiers) if reason is None else {}
        except DataError as error:
            reason = str(error)
        except Exception as error:  # of an evaluator's code; the others go on
            line = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(line.filename).name}, line {line.lineno}"
            failed[name] = f"Its code raised {type(error).__name__}: {error} ({where})."
            continue
        if reason is not None:
            skipped[name] = reason
            continue
        settings = resolved.evaluators[name].model_dump(mode="json")
        n = spec.sizes[split]
        identity = eval_id(training, name, evaluator.version, settings, used, split, n)
        wanted.append(Evaluation(evaluator, identity, split, used))
    return wanted, skipped, failed


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
    precision: str = "float32",
) -> None:
    """Run one evaluator and record its results.

    All is computed in float32, but for the denoisers of latents in samplers.

    Args:
        evaluation: What is measured.
        model: In eval mode.
        spec: Of the data.
        split: The tuples to measure on.
        seed: Of the run.
        classifiers: By modality.
        folder: Of the run.
        training: The run's `train_id`.
        report: Called with (done, total) items.
        splits: Gives the other splits by name; None where floors cannot be measured.
        cache: Folder for what is computed once for several runs.
        precision: In which samplers compute the denoisers of latents.

    Raises:
        BenchError: A classifier is in training mode, in which dropout would change its output.
    """
    evaluator = evaluation.evaluator
    if not evaluator.uses_classifiers:
        classifiers = {}
    if training_mode := [name for name, c in classifiers.items() if c.network.training]:
        raise BenchError(
            f"The classifier of '{training_mode[0]}' is in training mode; evaluation mode is "
            "needed. Call eval() on its network after loading it."
        )
    used = {n: c for n, c in classifiers.items() if n in evaluation.instruments}
    seed = derive_seed(seed, evaluator.name, "evaluation")
    scratch = folder.path / "partial" / f"{evaluator.name}-{evaluation.identity[:LETTERS]}"
    context = EvalContext(split.device, seed, classifiers, report, splits, cache, scratch)
    began = time.time()
    with torch.inference_mode(), sampling(precision):
        outcome = evaluator.run(model, spec, split, context)
    scored = {score.metric for score in outcome.scores}
    end = _ending(evaluation, folder)
    pictures = {
        f"pictures/{evaluator.name}-{stem}{end}.webp": encode_picture(picture)
        for stem, picture in outcome.pictures.items()
    }
    texts = {
        f"texts/{evaluator.name}-{stem}{end}.txt": text.encode()
        for stem, text in outcome.texts.items()
    }
    for name, content in (pictures | texts).items():
        write_whole(folder.path / name, content)
    folder.write_json(
        f"results/{evaluation.file_name}",
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
            "metrics": [
                vars(metric)
                | (
                    {}
                    if outcome.headlines is None
                    else {"headline": metric.name in outcome.headlines}
                )
                for metric in evaluator.metrics
                if metric.name in scored
            ],
            "scores": [score.to_json() for score in outcome.scores],
            "details": outcome.details,
            "pictures": list(pictures),
            "texts": list(texts),
            "provenance": {
                **describe_code(find("evaluator", evaluator.name)),
                **describe_machine(split.device),
                "precision": precision,
                "seconds": round(time.time() - began, 2),
                "finished": round(time.time()),
            },
        },
    )
    folder.log("evaluated", evaluator=evaluator.name)
    shutil.rmtree(scratch, ignore_errors=True)
    with contextlib.suppress(OSError):  # it does not exist, or holds another evaluation's work
        scratch.parent.rmdir()


def _ending(evaluation: Evaluation, folder: RunFolder) -> str:
    """What pictures' and texts' names end in: nothing for an evaluator's first test results."""
    tests = set()
    for name in folder.result_names():
        with contextlib.suppress(BenchError):  # a damaged one has no part in this evaluation
            result = folder.result(name)
            tests |= {result["evaluator"]} if result["split"] == "test" else set()
    first = evaluation.split == "test" and evaluation.evaluator.name not in tests
    return "" if first else f"-{evaluation.identity[:LETTERS]}"


def _describe(classifier: Classifier) -> dict[str, Any]:
    return {
        "accuracy": classifier.accuracy,
        "digest": classifier.digest,
        "source": classifier.source,
    }


def encode_picture(picture: torch.Tensor) -> bytes:
    """A picture uint8 `[H, W, 3]` as WebP: lossless if that is within the limit, else lossy.

    A picture that is still too large is halved.
    """
    image = Image.fromarray(np.ascontiguousarray(picture.cpu().numpy()))
    content = _webp(image, lossless=True)
    for quality in _QUALITIES:
        if len(content) > _PICTURE_LIMIT:
            content = _webp(image, quality=quality)
    while len(content) > _PICTURE_LIMIT:
        image = image.reduce(2)
        content = _webp(image, quality=_QUALITIES[0])
    return content


def _webp(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", method=6, **options)
    return file.getvalue()
