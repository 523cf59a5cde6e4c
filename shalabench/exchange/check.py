"""Check samples against a dataset before anything is computed: names, sizes, counts, values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shalabench.api import END, PAD, ConfigErrors, DataSpec, Modality
from shalabench.exchange.layout import (
    JOINT,
    RECONSTRUCT,
    TRANSLATE,
    Found,
    Given,
    Samples,
    key_of,
    split_key,
)

_UNKNOWN = "<unk>"
_SEVERAL = 5  # mistakes of a kind that are listed


def check(found: Found, spec: DataSpec, tuples: int) -> Samples:
    """The samples as tensors.

    Args:
        found: What was read.
        spec: Of the dataset.
        tuples: In the split that they are measured on.

    Raises:
        ConfigErrors: Every mistake, with what was found and what is expected.
    """
    mistakes: list[str] = []
    arrays: dict[str, Tensor] = {}
    for key, array in found.arrays.items():
        problem = _misnamed(key, spec)
        if problem:
            mistakes.append(problem)
            continue
        modality = spec[split_key(key)[-1]]
        x = _convert(np.asarray(array), modality, f"{key} in {found.source}", found.range, mistakes)
        if x is not None:
            arrays[key] = x
    if not found.arrays:
        mistakes.append(f"{found.source} holds no samples; {', '.join(spec.names)} were expected.")
    if mistakes:
        raise ConfigErrors(mistakes)
    samples = _sorted(arrays, found, spec, tuples, mistakes)
    if mistakes:
        raise ConfigErrors(mistakes)
    return samples


def _misnamed(key: str, spec: DataSpec) -> str:
    """What is wrong with a key, in a sentence."""
    kind, *rest = split_key(key)
    own = f"The modalities of '{spec.name}' are {', '.join(spec.names)}."
    if kind not in (JOINT, TRANSLATE, RECONSTRUCT):
        kinds = f"{JOINT}/NAME, {TRANSLATE}/GIVEN/TARGET or {RECONSTRUCT}/NAME"
        return f"'{key}' is no name of samples; {kinds} was expected. {own}"
    parts = 2 if kind == TRANSLATE else 1
    if len(rest) != parts:
        form = f"{TRANSLATE}/GIVEN/TARGET" if kind == TRANSLATE else f"{kind}/NAME"
        return f"'{key}' was found, and {form} was expected. {own}"
    named = [*(rest[0].split("+") if kind == TRANSLATE else ()), rest[-1]]
    wrong = [name for name in named if name not in spec.names]
    return f"'{key}' names '{wrong[0]}'. {own}" if wrong else ""


def _convert(
    array: np.ndarray,
    modality: Modality,
    where: str,
    low_high: tuple[float, float] | None,
    mistakes: list[str],
) -> Tensor | None:
    """Images uint8 or float32 from 0 to 1, token ids, or vectors; None after a mistake."""
    before = len(mistakes)
    if modality.kind == "text":
        x = _convert_text(array, modality, where, mistakes)
    elif modality.kind == "vector":
        x = _convert_vectors(array, modality, where, mistakes)
    else:
        x = _convert_images(array, modality, where, low_high, mistakes)
    return x if len(mistakes) == before else None


def _shaped(array: np.ndarray, modality: Modality, where: str, mistakes: list[str]) -> bool:
    if array.ndim and array.shape[1:] == modality.shape and len(array):
        return True
    found = " x ".join(map(str, array.shape)) or "a single number"
    expected = " x ".join(map(str, modality.shape))
    orders = {"image": " (n, channels, height, width)", "text": " (n, tokens)"}
    order = orders.get(modality.kind, " (n, numbers)")
    mistakes.append(f"{where} has the shape {found}; n x {expected}{order} was expected.")
    return False


def _convert_images(
    array: np.ndarray,
    modality: Modality,
    where: str,
    low_high: tuple[float, float] | None,
    mistakes: list[str],
) -> Tensor | None:
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        mistakes.append(
            f"{where} has the type {array.dtype}; uint8 (0 to 255) or floating point (0 to 1) was "
            "expected."
        )
        return None
    if not _shaped(array, modality, where, mistakes):
        return None
    low, high = float(array.min()), float(array.max())
    spans = f"{where} is {array.dtype} with values from {low:.4g} to {high:.4g}"
    state = "State what black and white are by --range 0 1 or --range 0 255."
    if array.dtype == np.uint8:
        if high <= 1 and low_high is None:
            mistakes.append(f"{spans}; 0 to 255 was expected. {state}")
        if low_high in (None, (0.0, 255.0)):
            return torch.from_numpy(np.ascontiguousarray(array))
    if not np.isfinite(array).all():
        mistakes.append(f"{where} has values that are not finite; numbers were expected.")
        return None
    if low_high is None and not 0 <= low <= high <= 1:
        mistakes.append(f"{spans}; 0 to 1 was expected of floating-point images. {state}")
        return None
    black, white = low_high or (0.0, 1.0)
    span = white - black
    if span <= 0:
        mistakes.append(f"The range of {where} is {black:g} to {white:g}; it must rise.")
        return None
    if low < black - span or high > white + span:
        mistakes.append(f"{spans}, which does not fit the stated range {black:g} to {white:g}.")
        return None
    x = torch.from_numpy(np.ascontiguousarray(array, np.float32))
    return x if (black, white) == (0, 1) else (x - black) / span


def _convert_vectors(
    array: np.ndarray, modality: Modality, where: str, mistakes: list[str]
) -> Tensor | None:
    """Numbers in the units of the data; `--range` is for images."""
    if array.dtype.kind != "f":
        mistakes.append(
            f"{where} has the type {array.dtype}; floating-point numbers in the units of the data "
            "were expected of a vector."
        )
        return None
    if not _shaped(array, modality, where, mistakes):
        return None
    if not np.isfinite(array).all():
        mistakes.append(f"{where} has values that are not finite; numbers were expected.")
        return None
    low, high = float(array.min()), float(array.max())
    if modality.likelihood == "bernoulli" and not 0 <= low <= high <= 1:
        mistakes.append(
            f"{where} has values from {low:.4g} to {high:.4g}; 0 to 1 was expected of "
            f"'{modality.name}', whose likelihood is 'bernoulli'."
        )
        return None
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _convert_text(
    array: np.ndarray, modality: Modality, where: str, mistakes: list[str]
) -> Tensor | None:
    if array.dtype.kind == "U" and array.ndim == 1:
        rows = []
        for line, text in enumerate(array.tolist(), start=1):
            tokens, problem = encode(modality, text)
            rows.append(tokens)
            if problem:
                mistakes.append(f"{where}, line {line}: {problem}")
                return None
        return torch.tensor(rows, dtype=torch.int64).view(-1, *modality.shape)
    if array.dtype.kind not in "iu":
        mistakes.append(
            f"{where} has the type {array.dtype}; whole numbers (token ids) or strings were "
            "expected of a text."
        )
        return None
    if not _shaped(array, modality, where, mistakes):
        return None
    least, most, size = int(array.min()), int(array.max()), len(modality.vocabulary)
    if least < 0 or most >= size:
        mistakes.append(
            f"{where} has token ids from {least} to {most}; 0 to {size - 1} was expected."
        )
        return None
    return torch.from_numpy(np.ascontiguousarray(array, np.int64))


def encode(modality: Modality, text: str) -> tuple[list[int], str]:
    """Token ids of a string, the inverse of `Modality.text`, and what is wrong with it.

    Words are parted by blanks, unknown ones are "<unk>" if the vocabulary has it, and what is too
    long is cut, as the data are. Where every token is one character, a string that is too short
    ends in blanks.
    """
    number = {word: i for i, word in enumerate(modality.vocabulary)}
    (length,) = modality.shape
    if all(len(token) == 1 for token in number):
        letters = text + " " * (length - len(text)) if " " in number else text
        wrong = sorted(set(letters) - number.keys())
        if len(letters) != length:
            return [], f"{text!r} has {len(text)} characters; {length} were expected."
        return [
            number.get(c, 0) for c in letters
        ], f"{wrong[0]!r} is no character." if wrong else ""
    words = text.split()[: length - 1 if END in number else length]
    wrong = [] if _UNKNOWN in number else [word for word in words if word not in number]
    if wrong:
        return [], f"'{wrong[0]}' is not in the vocabulary of '{modality.name}'."
    tokens = [number.get(word, number.get(_UNKNOWN, 0)) for word in words]
    tokens += [number[END]] if END in number else []
    missing = length - len(tokens)
    if missing and PAD not in number:
        return [], f"{text!r} has {len(words)} words; {length} were expected."
    return tokens + [number[PAD]] * missing if missing else tokens, ""


def _sorted(
    arrays: dict[str, Tensor], found: Found, spec: DataSpec, tuples: int, mistakes: list[str]
) -> Samples:
    """The arrays by what they are, once names and counts agree."""
    joint: dict[str, Tensor] = {}
    reconstructions: dict[str, Tensor] = {}
    translations: dict[Given, dict[str, Tensor]] = {}
    for key, x in arrays.items():
        kind, *rest = split_key(key)
        if kind == JOINT:
            joint[rest[0]] = x
        elif kind == RECONSTRUCT:
            reconstructions[rest[0]] = x
        else:
            named = rest[0].split("+")
            inner = tuple(name for name in spec.names if name in named)
            translations.setdefault(inner, {})[rest[1]] = x
    for kind, own in ((JOINT, joint), (RECONSTRUCT, reconstructions)):
        if own and (missing := [name for name in spec.names if name not in own]):
            mistakes.append(
                f"{found.source} has {kind} samples of {', '.join(own)} and none of "
                f"{', '.join(missing)}; all modalities were expected."
            )
    _refuse_other_counts(JOINT, {f"{JOINT}/{name}": len(x) for name, x in joint.items()}, mistakes)
    counts = {f"{RECONSTRUCT}/{name}": len(x) for name, x in reconstructions.items()}
    for given, targets in translations.items():
        counts |= {key_of(given, target): len(x) for target, x in targets.items()}
    _refuse_other_counts("given", counts, mistakes)
    rows = next(iter(counts.values()), 0)
    index = _index(found, rows, tuples, mistakes) if counts else torch.arange(0)
    order = index.argsort()
    gaps = _gaps(translations, spec)
    if gaps:
        translations = {}
    return Samples(
        {name: joint[name] for name in spec.names if name in joint},
        {g: {t: x[order] for t, x in own.items()} for g, own in translations.items()},
        {name: reconstructions[name][order] for name in spec.names if name in reconstructions},
        index[order],
        found.source,
        gaps,
    )


def _refuse_other_counts(what: str, counts: dict[str, int], mistakes: list[str]) -> None:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{key} {n:,}" for key, n in list(counts.items())[:_SEVERAL])
        mistakes.append(f"The numbers of {what} samples differ: {listed}; equal ones are needed.")


def _index(found: Found, rows: int, tuples: int, mistakes: list[str]) -> Tensor:
    """Numbers `[rows]` of the test tuples that were given."""
    if found.index is None:
        if rows != tuples:
            mistakes.append(
                f"{found.source} has translations of {rows:,} tuples, the split has {tuples:,}, "
                "and nothing says which were given. Add 'index', an array of their numbers."
            )
        return torch.arange(rows)
    index = np.asarray(found.index)
    if index.dtype.kind not in "iu" or index.shape != (rows,):
        mistakes.append(
            f"'index' has the type {index.dtype} and the shape {index.shape}; {rows:,} whole "
            "numbers, one for each translation, were expected."
        )
        return torch.arange(rows)
    if index.min() < 0 or index.max() >= tuples:
        mistakes.append(
            f"'index' has numbers from {index.min()} to {index.max()}; 0 to {tuples - 1} was "
            "expected."
        )
    if len(np.unique(index)) != len(index):
        mistakes.append("'index' names a test tuple twice; each may be given once.")
    return torch.from_numpy(index.astype(np.int64))


def _gaps(translations: dict[Given, dict[str, Tensor]], spec: DataSpec) -> list[str]:
    """Why translations cannot be scored: the protocols average over all pairs."""
    if not translations:
        return []
    pairs = [(a, b) for a in spec.names for b in spec.names if a != b]
    missing = [f"{a}/{b}" for a, b in pairs if b not in translations.get((a,), {})]
    if not missing:
        return []
    listed = ", ".join(missing[:_SEVERAL]) + (", ..." if len(missing) > _SEVERAL else "")
    return [
        f"Translations are not scored: {len(missing)} of {len(pairs)} pairs of one given modality "
        f"and another target are missing ({listed})."
    ]


def complete_subsets(samples: Samples, subsets: Sequence[Given], names: Sequence[str]) -> bool:
    """Whether all targets outside of each subset have been generated from it."""
    return all(
        {name for name in names if name not in subset}
        <= samples.translations.get(subset, {}).keys()
        for subset in subsets
    )
