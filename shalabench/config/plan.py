"""The runs that a command asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shalabench.api import BenchError, ConfigErrors, unknown
from shalabench.api.registry import broken, entries
from shalabench.config import settings as layers
from shalabench.config.ablations import Ablation, check_keys, settings_of
from shalabench.config.scope import out_of_scope
from shalabench.config.settings import Resolved, resolve


@dataclass(frozen=True)
class Run:
    """One method, on one dataset, from one seed, with all its settings.

    Attributes:
        overrides: The --set arguments that were given, for the label of the run.
        line: Runs of one line are carried out one after another, since each may begin with what
            the one before has trained; a run without one stands alone.
    """

    model: str
    dataset: str
    preset: str
    seed: int
    resolved: Resolved
    overrides: tuple[str, ...] = ()
    line: str = ""


def plan(
    models: Sequence[str],
    dataset: str,
    preset: str,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    evaluators: Sequence[str] = (),
) -> list[Run]:
    """Resolve the settings of every run, seeds first, so that a stopped campaign is even.

    Args:
        models: Registered names, or "all" alone.
        dataset: Registered name.
        preset: Name of a preset.
        seeds: One run a method each.
        overrides: "key=value" each.
        evaluators: Names that will be asked for; only checked here.

    Raises:
        ConfigErrors: All mistakes together.
    """
    names = list(entries("model")) if list(models) == ["all"] else list(dict.fromkeys(models))
    mistakes = [] if names else ["No model is named; write --models shala, or --models all."]
    mistakes += _strangers(names, overrides)
    folder = layers.CONFIGS / "presets"
    mistakes += out_of_scope(names, dataset, preset, folder)
    for name in evaluators:
        if name not in entries("evaluator"):
            mistakes.append(unknown("evaluator", name, entries("evaluator")))
    resolved = {}
    for name in names:
        try:
            resolved[name] = resolve(name, dataset, preset, _for_model(name, overrides))
        except ConfigErrors as error:
            own = out_of_scope([name], dataset, preset, folder)  # said of all methods at once
            mistakes += [text for text in error.messages if text not in own]
    if mistakes:
        raise ConfigErrors(dict.fromkeys(mistakes))
    return [
        Run(name, dataset, preset, seed, resolved[name], _for_model(name, overrides))
        for seed in seeds
        for name in names
    ]


def plan_points(
    models: Sequence[str],
    dataset: str,
    preset: str,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    evaluators: Sequence[str] = (),
    *,
    tuples: Sequence[int] = (),
    priors: Sequence[str] = (),
) -> list[Run]:
    """The runs of `plan` for several lengths of the first stage and several priors, a line each.

    Args:
        models, dataset, preset, seeds, overrides, evaluators: As `plan` takes them.
        tuples: Training tuples of the first stage; those of the settings where empty.
        priors: Values of `prior.kind`; that of the settings where empty.

    Raises:
        ConfigErrors: As `plan`'s.
        BenchError: A method's first stage has no number of updates and batch size to set.
    """
    bases = plan(models, dataset, preset, seeds, overrides, evaluators)
    if not tuples and not priors:
        return bases
    runs: dict[tuple[int, str], list[Run]] = {}
    for base in bases:
        for count in _updates(base, tuples):
            for kind in priors or [base.resolved.prior.kind]:
                more = {"model.steps": count, "prior.kind": kind}
                changed = _changed(base, more)
                own = plan([base.model], dataset, preset, [base.seed], (*base.overrides, *changed))
                line = f"{base.model} seed {base.seed}"
                runs.setdefault((base.seed, base.model), []).append(replace(own[0], line=line))
    return [run for line in runs.values() for run in line]


def _updates(base: Run, tuples: Sequence[int]) -> list[int | None]:
    """Updates of the first stage for numbers of tuples, in order; the run's own where empty."""
    if not tuples:
        return [None]
    size = getattr(base.resolved.model, "batch_size", None)
    if not size or not hasattr(base.resolved.model, "steps"):
        raise BenchError(
            f"The first stage of '{base.model}' has no settings model.steps and model.batch_size, "
            "so --tuples cannot set its length. Leave it out of --models."
        )
    return list(dict.fromkeys(max(1, round(count / size)) for count in sorted(tuples)))


def _changed(base: Run, values: Mapping[str, object]) -> list[str]:
    """The values that a run does not have already, as overrides."""
    own = base.resolved.values()
    return [f"{k}={v}" for k, v in values.items() if v is not None and own.get(k) != v]


def plan_ablation(
    ablation: Ablation,
    dataset: str,
    preset: str,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    evaluators: Sequence[str] = (),
) -> list[Run]:
    """The runs of an ablation's variants, seeds first; arguments and errors as `plan`'s."""

    file = f"ablations/{ablation.name}.toml"
    if ablation.model not in entries("model") and not broken("model"):
        raise ConfigErrors([f"{unknown('model', ablation.model, entries('model'))} ({file})"])

    def of(more: Sequence[str]) -> list[Run]:
        return plan([ablation.model], dataset, preset, seeds, (*overrides, *more), evaluators)

    base = of(())[0].resolved.values()
    check_keys(ablation, base)
    variants, mistakes = [], []
    for settings in dict.fromkeys(settings_of(ablation, base)):
        try:
            variants.append(of(settings))
        except ConfigErrors as error:
            mistakes += [f"{text} It is set by {file}." for text in error.messages]
    if mistakes:
        raise ConfigErrors(dict.fromkeys(mistakes))
    return [run for seed in zip(*variants, strict=True) for run in seed]


def _strangers(names: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Complaints of `models.NAME.key=value` for a model that is not to be run."""
    return [
        f"{unknown('model', text.split('.')[1], names)} (--set {text})"
        for text in overrides
        if text.startswith("models.") and not any(text.startswith(f"models.{n}.") for n in names)
    ]


def _for_model(name: str, overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides for one model: `models.NAME.key=value` is for that model only."""
    special = f"models.{name}."
    return tuple(
        text.replace(special, "model.", 1) if text.startswith(special) else text
        for text in overrides
        if text.startswith(special) or not text.startswith("models.")
    )
