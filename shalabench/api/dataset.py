"""The contract of a dataset: splits of aligned views, held in memory as they are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from shalabench.api.errors import DataError
from shalabench.api.modalities import DataSpec, Modality
from shalabench.api.settings import Settings, setting

Views = dict[str, Tensor]
"""By modality name: images `[B, C, H, W]` float32 in [0, 1], texts `[B, L]` int64, vectors float32.
"""

SplitName = Literal["train", "validation", "test"]


class DataSettings(Settings):
    """Settings that every dataset has; the `Config` of a dataset derives from it."""

    missing: float = setting(
        0.0,
        "Probability that a view of a training tuple is absent; at least one of each stays.",
        "our choice: complete tuples",
        ge=0,
        lt=1,
    )


@dataclass(frozen=True)
class DataPaths:
    """The two folders of data.

    Attributes:
        data: Published data (`SHALA_DATA`, `--data-root`). Only downloads write to it.
        cache: Data generated from a seed or from `data` (`SHALA_CACHE`, `--cache-dir`).
    """

    data: Path
    cache: Path


@dataclass(frozen=True)
class Batch:
    """Some tuples of a split.

    Attributes:
        split: The split that contains the tuples.
        index: `[B]` int64, numbers of the tuples in the split, on the split's device.
    """

    split: Split
    index: Tensor

    @cached_property
    def views(self) -> Views:
        """The tuples' views, converted on the device. On GPUs, images have channels-last layout."""
        rows = self.split.rows
        return {
            name: _convert(x[rows[name][self.index] if name in rows else self.index])
            for name, x in self.split.tensors.items()
        }

    @cached_property
    def present(self) -> Tensor | None:
        """Which views are present, `[B, M]` bool in the order of the modalities; None: all.

        An absent view is all zeros.
        """
        return None if self.split.present is None else self.split.present[self.index]

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Split:
    """All tuples of one split.

    Attributes:
        tensors: By modality: images uint8 `[N, C, H, W]` in 0..255, texts uint8 or int64 `[N, L]`,
            vectors float32 `[N, ...]`; `[R, ...]` where the modality is in `rows`.
        labels: `[N]` int64, or None if the data have no labels. Models never see them.
        present: `[N, M]` bool, which views of each tuple are present; None if all are.
        rows: By modality, `[N]` int64 in 0..R - 1: which row of its tensor each tuple shows, for
            data that pair one image several times. Other modalities have one row for each tuple.
        shared: By modality, `[N]` int64: what each tuple's view was made from, such as a scanned
            digit, for data that make several different views from one source. Equal numbers are
            one source, also between modalities. Standard errors count rows and sources.
        facts: Other known facts of each tuple, `[N, ...]` by name. Models never see them.
            "attributes": int64 `[N, A]`, the index of each attribute's value in
            `DataSpec.grammar`. "named": bool `[N, A]`, which attributes the caption names (the
            first text, if there are several).
    """

    tensors: dict[str, Tensor]
    labels: Tensor | None = None
    present: Tensor | None = None
    rows: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        name, x = next(iter(self.tensors.items()))
        return len(self.rows.get(name, x))

    @property
    def device(self) -> torch.device:
        """The device that all tensors are on."""
        return next(iter(self.tensors.values())).device

    def to(self, device: torch.device | str) -> Split:
        """The same split on another device."""
        tensors = {name: x.to(device) for name, x in self.tensors.items()}
        return self._each(tensors, lambda x: x.to(device))

    def head(self, n: int) -> Split:
        """The first `n` tuples."""
        tensors = {name: x if name in self.rows else x[:n] for name, x in self.tensors.items()}
        return self._each(tensors, lambda x: x[:n])

    def distinct(self) -> Tensor:
        """Ascending numbers `[n]` of the tuples that do not repeat the images of the tuple before.

        Only modalities in `rows` count. If consecutive tuples share an image, it is listed once.
        """
        fresh = torch.ones(len(self), dtype=torch.bool, device=self.device)
        if self.rows:
            rows = torch.stack(list(self.rows.values()))
            fresh[1:] = (rows[:, 1:] != rows[:, :-1]).any(0)
        return fresh.nonzero()[:, 0]

    def sources(self, names: Iterable[str], items: Tensor | None = None) -> Tensor | None:
        """The sources of the tuples' views: tuples that share one depend on each other.

        Args:
            names: Names of modalities.
            items: `[n]`, numbers of tuples; None: all.

        Returns:
            Numbers of sources `[m, n]`, for those m of the modalities that are in `shared` or
            `rows`; None if none is. Equal numbers are one source.
        """
        found, first = [], 1 + max((int(x.max()) for x in self.shared.values()), default=-1)
        for name in names:
            if name in self.shared:
                found.append(self.shared[name])
            elif name in self.rows:
                found.append(self.rows[name] + first)
                first = 1 + int(found[-1].max())
        if not found:
            return None
        return torch.stack(found if items is None else [x[items] for x in found])

    def _each(self, tensors: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> Split:
        """The split with these tensors, and with all that has a row for each tuple changed."""
        labels, present = (None if x is None else change(x) for x in (self.labels, self.present))
        rows, facts, shared = (
            {name: change(x) for name, x in own.items()}
            for own in (self.rows, self.facts, self.shared)
        )
        return Split(tensors, labels, present, rows, facts, shared)

    def batch(self, index: Tensor) -> Batch:
        """The tuples with the given numbers; their views are converted when they are first read."""
        return Batch(self, index)

    def batches(self, size: int) -> Iterator[Batch]:
        """All tuples in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield self.batch(torch.arange(start, stop, device=self.device))


def check_split(modalities: Iterable[Modality], name: str, split: Split) -> None:
    """Refuse a split whose tensors do not fit its modalities.

    Raises:
        DataError: A tensor is missing or does not fit; the message states what is expected.
    """
    for m in modalities:
        where, x = f"'{m.name}' of the split '{name}'", split.tensors.get(m.name)
        if x is None:
            raise DataError(f"The split '{name}' has no '{m.name}', which its description lists.")
        if x.shape[1:] != m.shape:
            shapes = (" x ".join(map(str, shape)) for shape in (x.shape, ("n", *m.shape)))
            raise DataError("{} has the shape {}; {} was expected.".format(where, *shapes))
        types = _TYPES[m.kind]
        if x.dtype not in types:
            wanted = " or ".join(str(t).removeprefix("torch.") for t in types)
            raise DataError(
                f"{where} has the type {x.dtype}; {wanted} was expected of the kind '{m.kind}'."
            )
        if m.kind != "vector" or not len(x):
            continue
        if not bool(torch.isfinite(x).all()):
            raise DataError(
                f"{where} has values that are not finite. Fill them in, or leave the tuples out."
            )
        low, high = x.min().item(), x.max().item()
        if m.likelihood == "bernoulli" and not 0 <= low <= high <= 1:
            raise DataError(
                f"{where} has values from {low:.4g} to {high:.4g}; 0 to 1 was expected of the "
                "likelihood 'bernoulli'."
            )


_TYPES = {
    "image": (torch.uint8,),
    "text": (torch.uint8, torch.int64),
    "vector": (torch.float32,),
}


def _convert(x: Tensor) -> Tensor:
    if x.is_floating_point():
        return x
    if x.dim() != 4:
        return x.long()
    # On a CPU, several networks' inputs and outputs are reordered together (nets/stacked.py).
    form = torch.contiguous_format if x.device.type == "cpu" else torch.channels_last
    return x.to(torch.float32, memory_format=form).div_(255)


class Dataset(ABC):
    """Aligned views of the same thing, in three splits.

    A subclass is one file, decorated with `register_dataset`; its `prepare` ends with
    `set_splits`. The validation split is cut from the training data by a fixed seed. Nothing is
    chosen or standardised on the test split.

    Args:
        config: An instance of the class's `Config`.
    """

    Config: ClassVar[type[DataSettings]] = DataSettings
    name: ClassVar[str]
    version: ClassVar[int]

    def __init__(self, config: DataSettings):
        self.config = config

    @abstractmethod
    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        """Make the splits ready to be read; do nothing if they are.

        Args:
            paths: Folders of downloaded and of generated data.
            download: Whether missing sources may be fetched (with checksum and resume).

        Raises:
            DataError: Sources are missing or damaged; the message names the file and the next step.
        """

    def set_splits(
        self,
        splits: Mapping[SplitName, Split | Callable[[], Split]],
        sizes: dict[str, int] | None = None,
        **facts: Any,
    ) -> None:
        """Store the splits and describe the data.

        Args:
            splits: "train", "validation" and "test", on the CPU. Or functions that make them; each
                is called when its split is first read.
            sizes: Number of tuples of each split. Without it, functions are called at once.
            **facts: The other fields of `DataSpec`, without name and version.

        Raises:
            DataError: A modality contradicts itself, or a split does not fit the modalities.
        """
        if problem := next(filter(None, (m.problem() for m in facts["modalities"])), None):
            raise DataError(problem)
        self._modalities: tuple[Modality, ...] = tuple(facts["modalities"])
        for name, split in splits.items():
            if isinstance(split, Split):
                check_split(self._modalities, name, split)
        self._splits: dict[SplitName, Split | Callable[[], Split]] = dict(splits)
        sizes = sizes or {name: len(self.split(name)) for name in splits}
        self._spec = DataSpec(name=self.name, version=self.version, sizes=sizes, **facts)

    @property
    def spec(self) -> DataSpec:
        """The description of the data; known after `prepare`."""
        return self._spec

    def split(self, name: SplitName) -> Split:
        """One split, on the CPU; known after `prepare`."""
        split = self._splits[name]
        if not isinstance(split, Split):
            split = split()
            check_split(self._modalities, name, split)
            self._splits[name] = split
        return split
