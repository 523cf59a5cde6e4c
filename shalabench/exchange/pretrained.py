"""A folder that holds a trained model and needs neither its data nor its run.

config.json         the method, its settings, the data's description, digests and scores
model.safetensors   the weights
README.md           the model card
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from shalabench import __version__
from shalabench.api import BenchError, DataSpec, Joint, Model, Rng, unknown
from shalabench.api.files import write_atomic
from shalabench.api.records import is_summary
from shalabench.exchange.card import write_card
from shalabench.exchange.loaded import LoadedRun, Precision
from shalabench.execute.tensors import misfit
from shalabench.execute.trained import build_model
from shalabench.records.digests import Damaged, digest_of, is_sealed, read_checked, seal
from shalabench.records.locations import CONFIG
from shalabench.records.schema import SchemaError, read
from shalabench.records.store import RunFolder, guard

WEIGHTS, CARD = "model.safetensors", "README.md"
LIBRARY = "shala-bench"
_FORMAT = 1
_SECTIONS = ("model", "prior", "sampling", "train", "data")  # of settings that decide the weights
_OF_RUN = (
    *("train_id", "model", "model_version", "paper", "dataset", "preset", "seed", "overrides"),
    "data",
)
_OF_RESULT = (
    *("eval_id", "evaluator", "version", "settings", "split", "n", "classifiers", "instruments"),
    "metrics",
)
_COMPARED = 64  # joint samples that rounded and exact weights make
_AGAIN = "Save or download it again."


def describe(folder: RunFolder) -> dict[str, Any]:
    """What the config says of a run: its settings, its training and its scores.

    Raises:
        BenchError: A record does not read.
    """
    run = folder.run
    settings = {k: x for k, x in run["settings"].items() if k.partition(".")[0] in _SECTIONS}
    trained = folder.trained or {}
    return {
        "run": {key: run[key] for key in _OF_RUN if key in run} | {"settings": settings},
        "training": {key: trained[key] for key in ("parameters", "provenance") if key in trained},
        "results": [_summarise(folder, name) for name in folder.result_names()],
        "weights": {"precision": "float32", "rounding": None, "changed": False},
    }


def _summarise(folder: RunFolder, name: str) -> dict[str, Any]:
    """The scores of an evaluation that are no parts of others."""
    try:
        result = read("result", folder.result(name), name)
    except SchemaError as error:
        file = folder.path / "results" / name
        raise BenchError(f"The record {file} does not read: {error}") from error
    kept = {key: result[key] for key in _OF_RESULT if key in result}
    return kept | {"scores": list(filter(is_summary, result["scores"]))}


def save(
    model: Model,
    facts: Mapping[str, Any],
    folder: Path,
    *,
    precision: Precision = "float32",
    license: str = "",
) -> dict[str, Any]:
    """Write a trained model to a folder; files of these names in it are replaced.

    Args:
        model: On any device.
        facts: As `describe` gives them.
        folder: Made if it does not exist.
        precision: "float32" keeps every bit. "float16" rounds matrices and kernels, which halves
            the file and changes samples; the config and the card say by how much. Weights that
            were loaded from such a file stay as they are.
        license: Of the weights, as the hub names it ("apache-2.0"), for the card.

    Returns:
        The config.

    Raises:
        BenchError: The folder cannot be written, the precision is unknown, or a weight does not
            fit in float16.
    """
    from safetensors.torch import save as pack

    if precision not in get_args(Precision):
        raise BenchError(unknown("precision", precision, get_args(Precision)))
    # Cloned, since safetensors refuses tensors that share memory.
    state = {k: x.detach().cpu().contiguous().clone() for k, x in model.state_dict().items()}
    weights = dict(facts["weights"])
    was_rounded = weights["precision"] == "float16"
    if was_rounded or precision == "float16":
        state = {name: _round(name, x) for name, x in state.items()}
    if precision == "float16" and not was_rounded:
        weights |= {"precision": precision, "rounding": _measure_rounding(model, state)}
    content = pack(state, {"format": "pt"})
    weights |= {"file": WEIGHTS, "sha256": digest_of(content), "bytes": len(content)}
    config = {
        "library_name": LIBRARY,
        "format": _FORMAT,
        "version": __version__,
        **facts,
        "spec": asdict(model.spec),
        "weights": weights,
    }
    with guard(folder, "OUT"):
        write_atomic(folder / WEIGHTS, content)
        text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
        write_atomic(folder / CONFIG, seal(text.encode()))
        card = write_card(config, model, folder.name, license)
        write_atomic(folder / CARD, card.encode())
    return config


def _round(name: str, x: Tensor) -> Tensor:
    """A float32 matrix or kernel in float16; anything else as it is.

    Vectors, such as biases, statistics and schedules, are a small part of the file.
    """
    if x.dtype != torch.float32 or x.dim() < 2:
        return x
    rounded = x.half()
    if not bool(torch.isfinite(rounded).all()):
        raise BenchError(
            f"The weight '{name}' has values up to {x.abs().max():.3g}, and float16 ends at 65504. "
            "Save it in float32."
        )
    return rounded


def _measure_rounding(model: Model, rounded: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """How far joint samples of seed 0 are from those of the exact weights; None without samples.

    Images and vectors: mean absolute difference. Texts: share of the tokens that differ.
    """
    if not isinstance(model, Joint):
        return None
    exact = {name: x.detach().clone() for name, x in model.state_dict().items()}
    device, drawn = next(iter(exact.values())).device, []
    for state in (rounded, exact):
        model.load_state_dict(_widened(state, exact))
        with torch.inference_mode():
            drawn.append(model.sample(_COMPARED, Rng(0, device=device)))
    after, before = drawn
    differences = {}
    for modality in model.spec.modalities:
        x, y = before[modality.name], after[modality.name]
        apart = (x != y).double() if modality.kind == "text" else (x.double() - y.double()).abs()
        differences[modality.name] = apart.mean().item()
    return {"samples": _COMPARED, "seed": 0, "mean_difference": differences}


def _widened(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with those that are in float16 in the type of the model's."""
    return {
        name: x.to(like[name].dtype) if x.dtype == torch.float16 and name in like else x
        for name, x in state.items()
    }


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Run(_Part):
    model: str
    model_version: int
    dataset: str
    settings: dict[str, Any]


class _Weights(_Part):
    file: Literal["model.safetensors"]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    precision: Precision
    rounding: dict[str, Any] | None
    changed: bool


class _Config(_Part):
    library_name: Literal["shala-bench"]
    format: Literal[1]
    version: str
    run: _Run
    spec: DataSpec
    training: dict[str, Any]
    results: list[dict[str, Any]]
    weights: _Weights


def load(folder: Path, *, trust_code: bool = False) -> LoadedRun:
    """The trained model in a folder that `save` wrote, in eval mode, on the CPU.

    Args:
        folder: Holds config.json and model.safetensors.
        trust_code: Whether modules that the settings name for networks of one's own may be
            imported.

    Raises:
        BenchError: A file is damaged, the method is unknown or of another version here, or the
            weights are not those of the config.
    """
    config, content = _read_config(folder / CONFIG)
    facts = {key: content[key] for key in ("run", "training", "results", "weights")}
    try:
        model = _build(config, facts["run"], trust_code)
        state = _read_state(folder / WEIGHTS, config.weights.sha256)
    except BenchError as error:
        kind = Damaged if isinstance(error, Damaged) else BenchError
        raise kind(f"{folder} cannot be loaded. {error}") from error
    expected = model.state_dict()
    state = _widened(state, expected)
    if text := misfit(state, expected):
        raise BenchError(
            f"{folder} cannot be loaded. Its weights do not fit its {CONFIG} ({text}). {_AGAIN}"
        )
    model.load_state_dict(state)
    return LoadedRun(model, facts=lambda: facts)


def _read_config(file: Path) -> tuple[_Config, dict[str, Any]]:
    """The config, checked and as it is."""
    try:
        content = file.read_bytes()
        if not is_sealed(content):
            raise ValueError("it states no digest of its own")
        return _Config.model_validate_json(content), json.loads(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "content"
        raise BenchError(
            f"{file} is no {CONFIG} that {LIBRARY} {__version__} reads: '{key}' is wrong "
            f"({first['msg'].lower()}). Install the version that wrote it, or save the weights "
            "again."
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Damaged(f"{file} does not read ({reason}). {_AGAIN}") from error


def _build(config: _Config, run: Mapping[str, Any], trust_code: bool) -> Model:
    """The model before its weights are loaded."""
    for modality in config.spec.modalities:
        if problem := modality.problem():
            raise BenchError(problem)
    outside = {key: x for key, x in run["settings"].items() if "custom" in key.split(".")}
    if outside and not trust_code:
        named = ", ".join(f"{key} = {value}" for key, value in outside.items())
        raise BenchError(
            f"Its settings name code that would be imported: {named}. If you trust it, call "
            "load_pretrained with trust_code=True."
        )
    cure = f"Install {LIBRARY} {config.version}, which wrote it, or train it again."
    try:
        return build_model(run, config.spec, "The model", cure)
    except _UNBUILT as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BenchError(
            f"'{run['model']}' cannot be built with these settings for these data ({reason}). "
            f"{_AGAIN}"
        ) from error


_UNBUILT = (  # what constructors of networks raise of settings that contradict the data
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError),
    *(RuntimeError, TypeError, ValueError),
)


def _read_state(file: Path, digest: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as unpack

    try:
        return unpack(read_checked(file, digest))
    except Damaged as error:
        raise Damaged(f"{file.name} does not read: {error}. {_AGAIN}") from error
    except SafetensorError as error:
        raise Damaged(f"{file.name} is no archive of safetensors ({error}). {_AGAIN}") from error
