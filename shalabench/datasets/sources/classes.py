"""Some digits only: the tuples kept, and the description and fingerprint of these data."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from shalabench.api import DataSettings, Split, setting

_ALL = tuple(range(10))


def _ordered(digits: tuple[int, ...]) -> tuple[int, ...]:
    """Each digit once, ascending; an empty tuple for all ten."""
    chosen = tuple(sorted(set(digits)))
    if len(chosen) == 1:
        raise ValueError("name two digits or more: one digit has no other class beside it")
    return () if chosen == _ALL else chosen


class DigitSettings(DataSettings):
    """Settings of datasets of handwritten digits."""

    digits: Annotated[tuple[Annotated[int, Field(ge=0, le=9)], ...], AfterValidator(_ordered)] = (
        setting(
            (),
            "Digits that are kept in all splits; all where empty.",
            "ShaLa paper: Figure 4 has 0 and 1",
        )
    )

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Older records and caches have no such setting: they hold all digits.
        return {key: x for key, x in dump(self).items() if key != "digits" or self.digits}


def keep_digits(split: Split, digits: tuple[int, ...]) -> Split:
    """The tuples of these digits with their labels; all tuples where `digits` is empty."""
    if not digits:
        return split
    kept = torch.isin(split.labels, torch.tensor(digits))
    tensors, shared = (
        {name: x[kept] for name, x in own.items()} for own in (split.tensors, split.shared)
    )
    return Split(tensors, split.labels[kept], shared=shared)


def fingerprint_digits(whole: str, digits: tuple[int, ...]) -> str:
    """The fingerprint of the tuples kept, where `whole` is that of all."""
    part = f"{whole} digits {list(digits)}"
    return hashlib.sha256(part.encode()).hexdigest() if digits else whole


def describe_digits(source: str, digits: tuple[int, ...]) -> str:
    """A description with the digits added, where not all are kept."""
    only = f"of the digits only {', '.join(map(str, digits))}" if digits else ""
    return "; ".join(filter(None, (source, only)))
