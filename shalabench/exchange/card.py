"""The model card of saved weights: their scores, data, settings, command and limits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shalabench.api import Model, Reconstruct, Translate
from shalabench.api.commands import command_line

_DIGITS = (
    "Digits of scikit-learn: UCI, Optical Recognition of Handwritten Digits (Alpaydin and Kaynak "
    "1998), CC BY 4.0."
)
_PHOTOGRAPHS = (
    "Photographs: scikit-learn's flower.jpg, CC BY 2.0; scikit-image's coffee, CC0, and astronaut, "
    "hubble_deep_field and retina, public domain."
)
_MNIST = "MNIST (LeCun, Cortes and Burges): CC BY-SA 3.0, as its copies state."
_DRAWN = "Drawn from a seed by the code of shala-bench; nothing is from elsewhere."
LICENSES = {  # by dataset: sources and their licences
    "birds": _DRAWN,
    "cars": _DRAWN,
    "cub": "CUB-200-2011 (Wah et al. 2011), photographs from Flickr, and captions by Reed et al. "
    "(2016). No licence of either is known to shala-bench.",
    "digit-features": _DIGITS,
    "mst": f"{_MNIST} SVHN (Netzer et al. 2011): non-commercial use only.",
    "mst-digits": f"{_DIGITS} {_PHOTOGRAPHS}",
    "polydigits": f"{_DIGITS} {_PHOTOGRAPHS}",
    "polydigits-quadrant": f"{_DIGITS} {_PHOTOGRAPHS}",
    "polymnist": f"{_MNIST} Photographs of PolyMNIST (Sutter, Daunhawer and Vogt 2021): no licence "
    "is known to shala-bench.",
    "shapenet-cars": "ShapeNet (Chang et al. 2015): non-commercial research and education, by "
    "ShapeNet's terms.",
    "toy": _DRAWN,
    "toy-views": _DRAWN,
}
_UNKNOWN = "No licence of these data is known to shala-bench."


def write_card(config: Mapping[str, Any], model: Model, name: str, license: str) -> str:
    """The text of README.md.

    Args:
        config: As config.json holds it.
        model: Whose weights they are.
        name: Of the folder.
        license: Of the weights, as the hub names it; empty: none is stated.
    """
    run = config["run"]
    title = f"{run['model']} on {run['dataset']}"
    parts = [
        f"---\n{_front_matter(config, model, name, license)}---",
        f"# {title}",
        f"Weights of `{run['model']}` ({run.get('paper') or 'no paper'}), trained on the dataset "
        f"`{run['dataset']}` by shala-bench {config['version']}.",
        "```python\nimport shalabench as sb\n\n"
        f'model = sb.load_pretrained("{name}")  # the folder, or "owner/{name}" on the hub\n'
        f"{_example(model)}```",
        "## Scores",
        *_scores(config),
        "## Data",
        *_data(model),
        "## Training",
        *_training(config),
        "## Weights",
        _weights(config, license),
        "## Limits",
        "\n".join(f"- {text}" for text in _limits(config, model)),
    ]
    return "\n\n".join(parts) + "\n"


def _example(model: Model) -> str:
    lines = ["views = model.sample(8, seed=0)  # by modality\n"] if hasattr(model, "sample") else []
    if isinstance(model, Translate) and len(model.spec.names) > 1:
        first, other = model.spec.names[:2]
        lines.append(f'more = model.translate({{"{first}": x}}, ["{other}"], seed=0)\n')
    if not lines and isinstance(model, Reconstruct):
        lines.append("views = model.reconstruct(views, seed=0)\n")
    return "".join(lines)


def _summaries(config: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], dict, dict]]:
    """Result, description of the metric and score of everything that was measured."""
    for result in config["results"]:
        metrics = {metric["name"]: metric for metric in result["metrics"]}
        for score in result["scores"]:
            yield result, metrics[score["metric"]], score


def _front_matter(config: Mapping[str, Any], model: Model, name: str, license: str) -> str:
    run = config["run"]
    task = "any-to-any" if isinstance(model, Translate) else "unconditional-image-generation"
    splits: dict[str, list[dict[str, Any]]] = {}
    for result, metric, score in _summaries(config):
        facts = {"n": score["n"], "direction": metric["direction"]}
        facts |= {} if score["stderr"] is None else {"stderr": score["stderr"]}
        splits.setdefault(result["split"], []).append(
            {
                "type": metric["name"],
                "name": metric["name"],
                "value": score["value"],
                "args": facts,
            }
        )
    table: dict[str, Any] = {"license": license} if license else {}
    table |= {
        "library_name": config["library_name"],
        "tags": ["multimodal", "shala-bench", run["model"], run["dataset"]],
    }
    if splits:
        results = [
            {
                "task": {"type": task},
                "dataset": {"name": run["dataset"], "type": run["dataset"], "split": split},
                "metrics": metrics,
            }
            for split, metrics in splits.items()
        ]
        table["model-index"] = [{"name": name, "results": results}]
    return "".join(f"{line}\n" for line in _yaml(table))


def _yaml(value: Any) -> Iterator[str]:
    """Lines of YAML in block style; plain values are written as JSON, which YAML contains."""
    items = value.items() if isinstance(value, dict) else ((None, x) for x in value)
    for key, x in items:
        head = "-" if key is None else f"{key}:"
        if not isinstance(x, dict | list):
            yield f"{head} {json.dumps(x, ensure_ascii=False)}"
            continue
        lines = [f"  {line}" for line in _yaml(x)]
        if key is None and lines:
            yield f"- {lines.pop(0).lstrip()}"
        else:
            yield head
        yield from lines


def _scores(config: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for result, metric, score in _summaries(config):
        digits, stderr = metric["digits"], score["stderr"]
        error = "not estimated" if stderr is None else f"{stderr:.{digits + 1}f}"
        role = "" if metric["role"] == "method" else f" ({metric['role']})"
        value = f"{score['value']:.{digits}f}"
        name, n = f"{metric['name']}{role}", f"{score['n']:,}"
        rows.append((name, value, error, metric["direction"], result["split"], n))
    if not rows:
        yield (
            "The weights were changed after they were loaded, so the scores of the run are not "
            "theirs."
            if config["weights"]["changed"]
            else "The run has no scores."
        )
        return
    head = ("metric", "value", "standard error", "better", "split", "n")
    yield _table(head, rows)
    yield (
        "They are those in the record of the run, of one training. The standard error is over "
        "test items or samples."
    )
    measured = {r["evaluator"]: r for r in config["results"]}
    lines = []
    for name, result in measured.items():
        used = result.get("instruments") or {
            key: x.get("digest", "") for key, x in result.get("classifiers", {}).items()
        }
        words = ", ".join(f"{key} {str(x)[:12]}" for key, x in used.items())
        lines.append(f"- `{name}` {result['version']}" + (f", with {words}" if words else ""))
    yield "Evaluators, and digests of the classifiers and extractors:\n\n" + "\n".join(lines)


def _data(model: Model) -> Iterator[str]:
    spec = model.spec
    sizes = ", ".join(f"{n:,} {name}" for name, n in spec.sizes.items())
    classes = f"{spec.classes} classes" if spec.classes else "No classes"
    yield (
        f"`{spec.name}`, version {spec.version}: {spec.source}. Tuples: {sizes}. {classes}. "
        f"Fingerprint {spec.fingerprint}."
    )
    yield f"Licence of the data: {LICENSES.get(spec.name, _UNKNOWN)}"
    rows = [(m.name, m.kind, " x ".join(map(str, m.shape)), m.likelihood) for m in spec.modalities]
    yield _table(("modality", "kind", "shape", "likelihood"), rows)


def command_of(run: Mapping[str, Any]) -> str:
    """The command that trains such a run, also where `auto` would choose another precision."""
    overrides, key = list(run["overrides"]), "train.precision"
    if key in run["settings"] and not any(text.startswith(f"{key}=") for text in overrides):
        overrides.append(f"{key}={run['settings'][key]}")
    options = {"models": run["model"], "dataset": run["dataset"], "preset": run["preset"]}
    options |= {"seeds": f"{run['seed']},", "set": overrides}
    return command_line("shala-bench run", options)


def _training(config: Mapping[str, Any]) -> Iterator[str]:
    run, trained = config["run"], config["training"]
    yield f"```bash\n{command_of(run)}\n```"
    made = trained.get("provenance", {})
    facts = {
        "run": run.get("train_id"),
        "method": f"{run['model']}, version {run['model_version']}",
        "parameters": trained.get("parameters"),
        "commit": made.get("commit") or None,
        "torch": made.get("packages", {}).get("torch"),
        "device": made.get("device"),
        "precision of the training": made.get("precision"),
        "CPU seconds": made.get("cpu_seconds"),
    }
    yield "\n".join(f"- {key}: {value}" for key, value in facts.items() if value is not None)
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in run["settings"].items()
    ]
    yield "Settings:\n\n```text\n" + "\n".join(lines) + "\n```"


def _weights(config: Mapping[str, Any], license: str) -> str:
    weights = config["weights"]
    stated = license or "none is stated"
    return (
        f"`{weights['file']}`: {weights['bytes']:,} bytes, SHA-256 {weights['sha256']}. Precision: "
        f"{weights['precision']}. Licence of the weights: {stated}."
    )


def _limits(config: Mapping[str, Any], model: Model) -> Iterator[str]:
    spec, weights, run = model.spec, config["weights"], config["run"]
    if weights["precision"] == "float16":
        text = "Matrices and kernels are rounded to float16, and the scores are of the run before."
        if weights["rounding"]:
            apart = weights["rounding"]["mean_difference"].items()
            text += (
                f" {weights['rounding']['samples']} joint samples of seed 0 differ from the run's "
                "by, in the mean (of texts: share of tokens), "
                f"{', '.join(f'{value:.2g} ({name})' for name, value in apart)}."
            )
        yield text
    if weights["changed"]:
        yield "The weights were changed after the training."
    yield f"One training, of seed {run['seed']}: the errors do not hold other trainings' spread."
    if spec.proxy_for:
        yield (
            f"`{spec.name}` is a proxy dataset for `{spec.proxy_for}`: values that were published "
            "of that are not comparable."
        )
    if spec.deviation:
        yield f"The data differ from the published ones: {spec.deviation}."
    if spec.missing:
        yield f"Each view of a training tuple was absent with probability {spec.missing:g}."
    if model.reduced:
        yield f"Of the published method, this is smaller or missing: {model.reduced}."
    yield (
        f"Views must be as the dataset's ({', '.join(spec.names)}); other data were not measured."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
