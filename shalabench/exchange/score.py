"""Score samples from elsewhere, and record the results as those of a run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from shalabench.api import (
    BenchError,
    Classifier,
    ConfigErrors,
    DataPaths,
    Dataset,
    Model,
    Settings,
    Split,
)
from shalabench.api.registry import find
from shalabench.config.evaluation import resolve_evaluation
from shalabench.config.nested import leaves
from shalabench.config.settings import Resolved
from shalabench.config.training import (
    EvaluateSettings,
    PriorSettings,
    SamplingSettings,
    TrainSettings,
)
from shalabench.exchange.adapter import Lacking, as_model, remember, track
from shalabench.exchange.check import check
from shalabench.exchange.layout import Found, Samples
from shalabench.exchange.objects import generate
from shalabench.exchange.read import read
from shalabench.execute.description import describe_data
from shalabench.execute.evaluation import Evaluation, evaluate, plan_evaluations
from shalabench.execute.inputs import (
    choose_device,
    keep_freed_memory,
    load_classifiers,
    open_dataset,
)
from shalabench.execute.measuring import is_recorded, measure_each
from shalabench.execute.provenance import describe_checkout
from shalabench.metrics.efficientnet import EFFICIENTNET, efficientnet_file
from shalabench.records.ids import hash_of
from shalabench.records.store import RunFolder, Store

EXTERNAL = "external"
MARK = f" ({EXTERNAL})"
_NAME = re.compile(r"[\w.+-][\w.+ -]*")
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What to score samples on, and how.

    Attributes:
        name: Of the method that made the samples; " (external)" is added.
        dataset: Registered name.
        preset: Whose settings the evaluators have; "external" for those of no preset.
        seed: Which training of the method made the samples, where several are scored.
        overrides: "data.key=value" or "evaluators.name.key=value" each.
        evaluators: Names; every one that applies if empty.
        split: "test" or "validation".
        number: How many joint samples, and how many test tuples, an object generates for; 0: as
            many as there are test tuples.
        range: Black and white of floating-point images, if stated.
        archive: Classifiers to use in place of the shipped ones.
        device: "auto", "cpu" or "cuda[:n]".
    """

    name: str
    dataset: str
    store: Path
    paths: DataPaths
    preset: str = "quick"
    seed: int = 0
    overrides: tuple[str, ...] = ()
    evaluators: tuple[str, ...] = ()
    split: Literal["test", "validation"] = "test"
    number: int = 0
    range: tuple[float, float] | None = None
    archive: Path | None = None
    device: str = "auto"


@dataclass
class Scored:
    """What was done.

    Attributes:
        folder: Of the record.
        samples: In words.
        evaluated: Evaluators whose results are recorded.
        skipped: Why others are not, by name.
        failed: Evaluators that failed, with the reasons.
        warnings: Of the evaluators.
    """

    folder: RunFolder
    samples: str
    evaluated: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def score(
    source: Path | Mapping[str, Any] | object,
    request: Request,
    report: Report = lambda evaluator, done, total: None,
) -> Scored:
    """Check samples, score them, and record the results.

    Args:
        source: A folder or an archive, arrays by key, or an object with `sample(n)` or
            `translate(given, targets)`.
        request: On what and how.
        report: Called with the evaluator and (done, total) items.

    Raises:
        BenchError: The samples are not what the dataset needs, or no evaluator applies; then
            nothing is recorded.
    """
    if not _NAME.fullmatch(request.name):
        raise BenchError(
            f"The name is '{request.name}'. Write one of letters, digits, blanks and . + - _, such "
            "as my-vae."
        )
    work = _prepare(source, request)
    samples = work.samples
    planned, skipped, failed = plan_evaluations(
        request.evaluators,
        work.resolved,
        type(work.model),
        work.dataset.spec,
        work.identity,
        work.classifiers,
        request.split,
    )
    place = request.name.replace(" ", "_"), request.dataset, f"{request.preset}-{EXTERNAL}"
    folder = Store(request.store).folder(*place, request.seed, work.identity)
    scored = Scored(folder, samples.words, skipped=skipped, failed=failed)
    if not planned:
        raise _unscored(samples, samples.gaps, skipped | failed)
    with folder.lock(wait=True), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        _describe(folder, work, request)
        _measure(work, planned, scored, request, report)
        if folder.trained is None:
            made = {"source": "", "nets": "", **describe_checkout()}
            folder.write_json("trained.json", {"digest": samples.digest, "provenance": made})
    scored.warnings = list(dict.fromkeys(str(warning.message) for warning in warned))
    if samples.gaps:
        scored.skipped["translations"] = " ".join(samples.gaps)
    return scored


@dataclass(frozen=True)
class _Work:
    """Checked samples and what they are scored with.

    Attributes:
        split: The tuples to measure on, with their numbers, on the device.
        model: Returns the samples.
        identity: Takes the place of a `train_id`.
    """

    samples: Samples
    dataset: Dataset
    split: Split
    model: Model
    classifiers: dict[str, Classifier]
    resolved: Resolved
    identity: str


def _prepare(source: Path | Mapping[str, Any] | object, request: Request) -> _Work:
    """Check samples and settings; nothing is recorded."""
    preset = "" if request.preset == EXTERNAL else request.preset
    device = choose_device(request.device)
    overrides = (*_extractors(device), *request.overrides)
    data, settings, origins = resolve_evaluation(request.dataset, preset, overrides)
    for name in request.evaluators:
        find("evaluator", name)
    keep_freed_memory()
    dataset = open_dataset(request.dataset, data, request.paths)
    split = dataset.split(request.split)
    found = _find(source, request, dataset)
    samples = check(replace(found, range=request.range or found.range), dataset.spec, len(split))
    settings = _fit(settings, samples, request, dataset)
    tracked = track(split.to(device), samples.index.to(device))
    model = as_model(samples, dataset.spec, tracked, request.name + MARK)
    classifiers = load_classifiers(dataset, (), request.archive, device)
    whole = len(tracked) == len(split) and not tracked.rows
    key = f"{dataset.spec.fingerprint} {request.split}" if whole else ""
    classifiers = remember(classifiers, tracked, key, request.paths.cache)
    identity = hash_of(
        {
            "external": request.name,
            "samples": samples.digest,
            "dataset": request.dataset,
            "fingerprint": dataset.spec.fingerprint,
            "seed": request.seed,
        }
    )
    resolved = Resolved(
        *(Settings(), data, TrainSettings(), PriorSettings(), SamplingSettings()),
        *(EvaluateSettings(), settings, origins),
    )
    return _Work(samples, dataset, tracked, model, classifiers, resolved, identity)


def _measure(
    work: _Work, planned: list[Evaluation], scored: Scored, request: Request, report: Report
) -> None:
    """Carry out evaluations and enter how they ended.

    Raises:
        BenchError: None has a result.
    """

    def measure(evaluation: Evaluation) -> None:
        name = evaluation.evaluator.name
        try:
            evaluate(
                evaluation,
                work.model,
                work.dataset.spec,
                work.split,
                seed=request.seed,
                classifiers=work.classifiers,
                folder=scored.folder,
                training=work.identity,
                report=lambda done, total: report(name, done, total),
                splits=None,  # no floors, which need the training split and no samples
                cache=request.paths.cache,
            )
        except Lacking as error:
            scored.skipped[name] = str(error)

    scored.failed |= measure_each(planned, scored.folder, measure)
    scored.evaluated = [e.evaluator.name for e in planned if is_recorded(e, scored.folder)]
    if not scored.evaluated:
        raise _unscored(work.samples, [], scored.skipped | scored.failed)


def _unscored(samples: Samples, gaps: list[str], why_not: Mapping[str, str]) -> BenchError:
    """The error that no evaluator can score samples."""
    reasons = " ".join([*gaps, *(f"{name}: {why}" for name, why in why_not.items())])
    return BenchError(f"No evaluator can score {samples.source}. {reasons}")


def _extractors(device: torch.device) -> tuple[str, ...]:
    """On a CPU, only the features that rank methods: the classifiers' hardly see blur."""
    if device.type != "cpu" or efficientnet_file() is None:
        return ()
    return (f"evaluators.quality.extractors={EFFICIENTNET}",)


def _find(source: Path | Mapping[str, Any] | object, request: Request, dataset: Dataset) -> Found:
    """The samples, unchecked."""
    if isinstance(source, str | Path):
        return read(Path(source))
    return generate(source, dataset.spec, dataset.split(request.split), request.number)


def _fit(
    settings: dict[str, Settings], samples: Samples, request: Request, dataset: Dataset
) -> dict[str, Settings]:
    """The evaluators' settings with the numbers of samples that there are.

    Raises:
        ConfigErrors: There are fewer than a preset asks for, of metrics that depend on the number.
    """
    images = [m.name for m in dataset.spec.modalities if m.kind == "image"]
    own = samples.translations
    has_selfs = all((name,) in own and name in own[name,] for name in images)
    total = dataset.spec.sizes[request.split]
    fitted: dict[str, Settings] = {}
    mistakes: list[str] = []
    for name, part in settings.items():
        changes: dict[str, Any] = _counts(name, part, samples, request, total, mistakes)
        if "self_pairs" in type(part).model_fields and not has_selfs:
            changes["self_pairs"] = False
        fitted[name] = part.model_copy(update=changes)
    if mistakes:
        raise ConfigErrors(mistakes)
    return fitted


def _counts(
    name: str,
    part: Settings,
    samples: Samples,
    request: Request,
    total: int,
    mistakes: list[str],
) -> dict[str, Any]:
    """The numbers of samples that an evaluator is given where it asks for others.

    Args:
        name, part: Of the evaluator, and its settings.
        samples: Those that there are.
        request: What is asked for.
        total: Number of tuples of the split.
        mistakes: Receives one sentence for each number that is too small.
    """
    is_external = request.preset == EXTERNAL
    is_biased = any(metric.biased for metric in find("evaluator", name).cls.metrics)
    is_asked = not request.evaluators or name in request.evaluators
    changes: dict[str, Any] = {}
    for key, given, count, what in (
        ("samples", samples.joint, samples.number, "joint samples"),
        ("items", samples.translations, len(samples.index), "tuples"),
    ):
        if not given or key not in type(part).model_fields:
            continue
        wanted = getattr(part, key)
        if key == "samples" and not wanted and is_external:
            changes[key] = count
        elif count < (wanted or total):
            changes[key] = count if key == "samples" else 0
            if is_biased and is_asked and not is_external:
                mistakes.append(
                    f"The preset {request.preset} measures {name} on {wanted or total:,} {what}, "
                    f"and there are {count:,}, with which its values cannot be compared. Give "
                    f"more, or use --preset {EXTERNAL} for a table apart."
                )
    return changes


def _describe(folder: RunFolder, work: _Work, request: Request) -> None:
    """Write run.json where there is none."""
    spec, samples, resolved = work.dataset.spec, work.samples, work.resolved
    values = {"data": resolved.data.model_dump(mode="json")}
    evaluators = {
        f"evaluators.{name}": part.model_dump(mode="json")
        for name, part in resolved.evaluators.items()
    }
    content = {
        "train_id": work.identity,
        "model": request.name + MARK,
        "model_version": 1,
        "paper": "",
        "dataset": request.dataset,
        "preset": request.preset,
        "seed": request.seed,
        "overrides": [],
        "data": {
            EXTERNAL: {
                "source": samples.source,
                "digest": samples.digest,
                "samples": samples.words,
                "joint": samples.number,
                "given": len(samples.index),
            },
            **describe_data(spec, spec),
        },
        "settings": dict(leaves(values | evaluators)),
        "origins": {},
    }
    if not folder.has_description():
        folder.write_json("run.json", content)
