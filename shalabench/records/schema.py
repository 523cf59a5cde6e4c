"""What the files of a record hold, checked with pydantic and brought into today's form.

`read` is all that others need. It checks one JSON object and returns it with today's names and
roles, so that no other module knows how older records name them.
"""

from __future__ import annotations

import re
import reprlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shalabench.api.records import is_summary

Whole = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[Number, Field(ge=0)]
Texts = list[str]


class SchemaError(ValueError):
    """A record reads, but a field of it is missing or has another form."""


class _Model(BaseModel):
    """Unknown fields are kept, and no value is converted."""

    model_config = ConfigDict(extra="allow", strict=True)


class Data(_Model):
    """Of what data a run is."""

    fingerprint: str
    source: str
    version: int = 1
    complete: str = ""
    proxy_for: str = ""
    deviation: str = ""
    sizes: dict[str, Whole] = {}
    modalities: Texts = []


class Run(_Model):
    """run.json."""

    train_id: str
    model: str
    model_version: int
    paper: str
    dataset: str
    preset: str
    seed: Whole
    overrides: Texts
    data: Data
    settings: dict[str, Any]
    origins: dict[str, Annotated[Texts, Field(min_length=2, max_length=2)]] = {}


class Training(_Model):
    """The provenance of a training."""

    source: str
    nets: str
    commit: str | None = None
    packages: dict[str, Any] = {}
    seconds: Size | None = None
    cpu_seconds: Size | None = None
    peak_memory: Size | None = None


class Trained(_Model):
    """trained.json."""

    parameters: Size | None = None
    provenance: Training


class Failed(_Model):
    """failed.json."""

    status: str
    reason: str = ""


class MetricOf(_Model):
    """The description of one metric in a result."""

    name: str
    direction: Literal["higher", "lower"]
    digits: Annotated[int, Field(ge=0, le=17)]
    meaning: str
    role: str = "method"
    of: str = ""
    headline: bool = False


class ScoreOf(BaseModel):
    """One value. A field that this code does not know is refused: it may change the meaning."""

    model_config = ConfigDict(extra="forbid", strict=True)

    metric: str
    value: Number
    n: Whole
    stderr: Size | None
    given: Texts
    target: str | None
    groups: Annotated[int, Field(ge=2)] | None = None


class Classifier(_Model):
    """A classifier that an evaluation used."""

    digest: str


class Angle(_Model):
    """PSNR of the views at one angle to the given one."""

    degrees: Number
    psnr: Number


class Part(_Model):
    """The share of one attribute that is right, and what guessing scores."""

    value: Number | None
    chance: Number | None


class Facts(_Model):
    """What a row's values depend on, in words."""

    __pydantic_extra__: dict[str, str]
    resolution: Annotated[str, Field(pattern=r"^\d+ px")] = ""


class Details(_Model):
    """What an evaluator records besides scores."""

    extractor: str = ""
    notes: Texts = []
    row: Facts | None = None
    intervals: dict[str, Annotated[list[Number], Field(min_length=2, max_length=2)]] = {}
    by_angle: list[Angle] = []
    parts: dict[str, dict[str, Part]] = {}
    extractors: dict[str, Details] = {}


class Evaluation(_Model):
    """The provenance of an evaluation."""

    source: str
    seconds: Size | None = None
    finished: Size = 0


class ResultOf(_Model):
    """One file of results/."""

    eval_id: str
    evaluator: str
    version: int
    settings: dict[str, Any]
    split: str
    classifiers: dict[str, Classifier]
    instruments: dict[str, Any] = {}
    metrics: list[MetricOf]
    scores: list[ScoreOf]
    details: Details = Details()
    pictures: Texts = []
    texts: Texts = []
    provenance: Evaluation


_FORMS: dict[str, type[BaseModel]] = {
    "run": Run,
    "trained": Trained,
    "failed": Failed,
    "result": ResultOf,
}
_RENAMED: dict[str, tuple[str, dict[str, str]]] = {  # today's names of older fields
    "run": ("data", {"twin": "proxy_for", "departs": "deviation"}),
    "trained": ("provenance", {"borrowed": "reused"}),
}


def read(kind: str, content: dict[str, Any], file: str) -> dict[str, Any]:
    """A record's content in today's form.

    Args:
        kind: "run", "trained", "failed" or "result".
        content: Of the file.
        file: Its name, for the message.

    Raises:
        SchemaError: A field is missing or has another form, or a score has a field that this code
            does not know. The message has the file, the key, the value and what is expected.
    """
    part, names = _RENAMED.get(kind, ("", {}))
    if isinstance(content.get(part), dict):
        renamed = {names.get(key, key): value for key, value in content[part].items()}
        if isinstance(reused := renamed.get("reused"), dict) and "lender" in reused:
            renamed["reused"] = {{"lender": "run"}.get(k, k): x for k, x in reused.items()}
        content = content | {part: renamed}
    try:
        _FORMS[kind].model_validate(content)
    except ValidationError as error:
        raise SchemaError(_sentence(error.errors()[0], file)) from error
    if kind != "result":
        return content
    metrics = {metric["name"]: _with_role(metric) for metric in content["metrics"]}
    for score in content["scores"]:
        if is_summary(score) and score["metric"] not in metrics:
            raise SchemaError(f"{file} has scores of '{score['metric']}' without its description.")
    return content | {"metrics": list(metrics.values())}


def _sentence(error: Any, file: str) -> str:
    where, kind = ".".join(map(str, error["loc"])), error["type"]
    if kind == "extra_forbidden":
        return (
            f"{file}: a score has '{error['loc'][-1]}', which this code does not know: the record "
            "was made by newer code. Update this code to read it."
        )
    value = "nothing" if kind == "missing" else reprlib.repr(error["input"])
    expected = "a value" if kind == "missing" else error["msg"].removeprefix("Input should be ")
    key = f" as '{where}'" if where else ""
    return f"{file} has {value}{key} where {expected} is expected."


_BOUND = re.compile(r"(floor|ceiling|chance|classifier)(?:-[a-z]+)?/(.+)")
_OF = {"classifier/accuracy": "coherence"} | dict.fromkeys(
    ("chance/attributes", "ceiling/attributes"), "attributes/caption-to-image"
)
_OF |= {"coherence/joint-classes": "coherence/joint"}
_HEADLINES = re.compile(
    "coherence/(cross|joint)|attributes/(caption-to-image|joint)|(psnr|ssim)/p1|consistency/shape"
    "|fid/[^/]+/cross"
)


def _with_role(metric: dict[str, Any]) -> dict[str, Any]:
    """A metric with role, `of` and headline, which older records do not hold.

    Their names begin with the role: "floor/fid/classifier", "floor-white/psnr",
    "ceiling-truth/consistency/shape", "chance/attributes", "classifier/accuracy".
    """
    if "role" in metric:
        return metric
    name = metric["name"]
    bound = _BOUND.fullmatch(name)
    role, of = (bound[1], bound[2]) if bound else ("method", "")
    of = _OF.get(name, of)
    return metric | {"role": role, "of": of, "headline": bool(_HEADLINES.fullmatch(name))}
