"""Write the samples of a trained run in the layout that `read` reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shalabench.api import (
    BenchError,
    DataPaths,
    EvalContext,
    Joint,
    Modality,
    Reconstruct,
    Rng,
    Translate,
    Views,
    derive_seed,
)
from shalabench.api.files import write_atomic
from shalabench.exchange.layout import INDEX, JOINT, RANGE, RECONSTRUCT, TRANSLATE
from shalabench.execute.inputs import choose_device
from shalabench.execute.trained import load_trained
from shalabench.records.store import RunFolder, guard

_BATCH = 500  # the evaluators' default: other batches round differently
_CROSS = {"coherence": "coherence/cross"}  # what evaluators call translations; "cross" for others
_POSTERIOR = {"samples": "reconstruction"}  # and reconstructions; "posterior" for others


def write(
    folder: RunFolder,
    out: Path,
    paths: DataPaths,
    *,
    number: int = 0,
    form: str = "npz",
    evaluator: str = "coherence",
    device: str = "auto",
) -> tuple[Path, str]:
    """Write joint samples, translations from each single view, and reconstructions.

    Args:
        folder: Of a finished run that has its weights.
        out: A file, or a folder for "png". An ending that is missing is added.
        paths: Where the data lie.
        number: Joint samples, and test tuples given, the first ones; 0: as many as there are.
        form: "npz" or "safetensors" with exact values, or "png".
        evaluator: Whose random numbers are used.
        device: "auto", "cpu" or "cuda[:n]".

    Returns:
        Where they are, and what they are in words.

    Raises:
        BenchError: The run cannot be loaded, or `out` cannot be written.
    """
    ending = "" if form == "png" else f".{form}"
    out = out if out.suffix == ending else out.with_name(out.name + ending)
    if out.exists() and not (out.is_dir() and not any(out.iterdir()) and form == "png"):
        raise BenchError(f"{out} exists. Name another OUT, or move it away.")
    where = choose_device(device)
    arrays, modalities, words = _generate(folder, paths, number, evaluator, where)
    with guard(out, "OUT"):
        if form == "png":
            _write_folder(arrays, {m.name: m for m in modalities}, out)
        else:
            plain = {key: x.numpy() for key, x in arrays.items()}
            plain[RANGE] = np.array([0.0, 1.0], np.float32)
            write_atomic(out, _packed(plain, form))
    return out, words


def _generate(
    folder: RunFolder, paths: DataPaths, number: int, evaluator: str, device: torch.device
) -> tuple[dict[str, Tensor], tuple[Modality, ...], str]:
    """Samples by key as the evaluator draws them, unclamped; their modalities; and words."""
    model, dataset = load_trained(folder, paths)
    model.to(device)
    spec, split = dataset.spec, dataset.split("test").to(device)
    context = EvalContext(device, derive_seed(folder.run["seed"], evaluator, "evaluation"))
    n = min(number or len(split), len(split))
    arrays: dict[str, Tensor] = {}
    words: list[str] = []

    def keep(folder: str, items: int, make: Callable[[Tensor, Rng], Views], *purpose: str) -> None:
        with torch.inference_mode():
            views = context.map(make, items, _BATCH, *purpose)
        arrays.update({f"{folder}/{name}": x.cpu().contiguous() for name, x in views.items()})

    if isinstance(model, Joint):
        count = number or n
        keep(JOINT, count, lambda i, rng: model.sample(len(i), rng), "joint")
        words.append(f"{count:,} joint samples")
    if isinstance(model, Translate):
        cross = _CROSS.get(evaluator, "cross")
        for given in spec.names:
            targets = [name for name in spec.names if name != given]

            def translate(
                index: Tensor, rng: Rng, given: str = given, targets: list[str] = targets
            ) -> Views:
                views = split.batch(index).views
                return model.translate({given: views[given]}, targets, rng)

            keep(f"{TRANSLATE}/{given}", n, translate, cross, given)
        words.append(f"translations of {n:,} test tuples")
    if isinstance(model, Reconstruct):
        keep(
            RECONSTRUCT,
            n,
            lambda i, rng: model.reconstruct(split.batch(i).views, rng),
            _POSTERIOR.get(evaluator, "posterior"),
        )
        words.append(f"reconstructions of {n:,} test tuples")
    if not words:
        raise BenchError(f"{folder.path.name} neither samples, nor translates, nor reconstructs.")
    if words[-1] != f"{number or n:,} joint samples":
        arrays[INDEX] = torch.arange(n)
    return arrays, spec.modalities, ", ".join(words)


def _packed(arrays: dict[str, np.ndarray], form: str) -> bytes | Callable[[Path], None]:
    if form == "safetensors":
        from safetensors.numpy import save

        return save(arrays)

    def write_npz(path: Path) -> None:
        with path.open("wb") as out:
            np.savez(out, **arrays)  # type: ignore[arg-type]

    return write_npz


def _write_folder(arrays: dict[str, Tensor], names: dict[str, Modality], out: Path) -> None:
    """PNG named by the number of the sample or of the given tuple; other kinds as .npy."""
    for key, x in arrays.items():
        modality = names.get(key.split("/")[-1])
        if modality is None or modality.kind != "image":
            content = io.BytesIO()
            np.save(content, x.numpy())
            write_atomic(out / f"{key}.npy", content.getvalue())
            continue
        pixels = (x.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        (out / key).mkdir(parents=True)
        for number, pixel in enumerate(pixels):
            image = Image.fromarray(pixel[..., 0] if pixel.shape[-1] == 1 else pixel)
            image.save(out / key / f"{number:05d}.png")
