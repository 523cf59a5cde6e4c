"""A trained model, with seeds in place of `Rng` and plain arrays in place of the data's tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from shalabench.api import (
    BenchError,
    Dataset,
    DataSpec,
    Joint,
    Latent,
    Modality,
    Model,
    Reconstruct,
    Rng,
    Translate,
    Views,
    unknown,
)
from shalabench.api.files import expand_home
from shalabench.exchange.check import encode

_BATCH = 500

Precision = Literal["float32", "float16"]
"""What weights are saved in."""


class LoadedRun:
    """The trained model of a run.

    Views are dictionaries by modality: images `[n, C, H, W]` in [0, 1], texts `[n, L]` token ids,
    vectors `[n, ...]` in the units of the data.
    Where views are given, uint8 images in 0 to 255 and lists of strings are understood too. The
    same seed gives the same samples, whatever their number.

    Args:
        model: Trained, in eval mode.
        dataset: Its data.
        facts: Gives what `exchange.pretrained.describe` says of the run; None: it cannot be saved.

    Attributes:
        model: The model itself, in eval mode, on the CPU.
        dataset: Its data; None where the weights were loaded without them.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset | None = None,
        facts: Callable[[], Mapping[str, Any]] | None = None,
    ):
        self.model, self.dataset, self._facts = model, dataset, facts
        self._digest = _digest_of(model) if facts else ""

    def __repr__(self) -> str:
        able = [word for word, kind in _ABILITIES.items() if isinstance(self.model, kind)]
        return f"<{self.model.name} on {self.spec.name}: {', '.join(able)}>"

    @property
    def spec(self) -> DataSpec:
        """What its data consist of."""
        return self.model.spec

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return self.spec.names

    @property
    def classes(self) -> int:
        """Number of classes of the data; 0 where they have none."""
        return self.spec.classes

    def sample(self, n: int, seed: int = 0) -> Views:
        """`n` joint samples."""
        self._need("sample")
        return self._batched(n, lambda rows, rng: self.model.sample(len(rows), rng), seed)

    def translate(self, given: Mapping[str, Any], targets: Sequence[str], seed: int = 0) -> Views:
        """One sample of the targets for each given tuple."""
        self._need("translate")
        views, wanted = self._views(given), [targets] if isinstance(targets, str) else list(targets)
        for name in wanted:
            self._modality(name)
        most = self.model.max_given
        if most is not None and len(views) > most:
            raise BenchError(f"{self.model.name} takes at most {most} given modalities.")
        return self._given(views, lambda part, rng: self.model.translate(part, wanted, rng), seed)

    def reconstruct(self, views: Mapping[str, Any], seed: int = 0) -> Views:
        """One reconstruction of each tuple, all modalities given."""
        self._need("reconstruct")
        return self._given(self._views(views, whole=True), self.model.reconstruct, seed)

    def encode(self, given: Mapping[str, Any], seed: int = 0) -> Tensor:
        """One sample `[n, D]` of the shared latent of each given tuple."""
        self._need("encode")

        def make(part: Views, rng: Rng) -> Views:
            return {"z": self.model.encode(part, rng)}

        return self._given(self._views(given), make, seed)["z"]

    def save_pretrained(
        self, folder: str | Path, *, precision: Precision = "float32", license: str = ""
    ) -> dict[str, Any]:
        """Write config, weights and model card to a folder, from which `load_pretrained` reads.

        Weights that were changed after they were loaded are saved without the run's scores.

        Args:
            folder: Made if it does not exist; files of these names in it are replaced.
            precision: "float32" keeps every bit; "float16" halves the file and changes samples,
                and the config and the card say by how much.
            license: Of the weights, as the hub names it ("apache-2.0"); the card says none if
                empty.

        Returns:
            The config.
        """
        from shalabench.exchange.pretrained import save

        if self._facts is None:
            raise BenchError("A model that `load_run` or `load_pretrained` returned can be saved.")
        facts = dict(self._facts())
        if _digest_of(self.model) != self._digest:
            facts["results"] = []
            facts["weights"] = {"precision": "float32", "rounding": None, "changed": True}
        return save(self.model, facts, expand_home(folder), precision=precision, license=license)

    def push_to_hub(
        self,
        name: str,
        *,
        precision: Precision = "float32",
        license: str = "",
        **options: Any,
    ) -> str:
        """Write what `save_pretrained` writes to the Hugging Face hub; needs the extra `hub`.

        Args:
            name: "owner/name".
            precision: As in `save_pretrained`.
            license: The same.
            options: Of huggingface_hub's `push_to_hub`, such as private or commit_message.

        Returns:
            The address of the commit.
        """
        from shalabench.exchange.hub import push

        return push(self, name, {"precision": precision, "license": license}, options)

    @staticmethod
    def from_pretrained(source: str | Path, **options: Any) -> LoadedRun:
        """The same as `shalabench.load_pretrained`."""
        from shalabench import load_pretrained

        return load_pretrained(source, **options)

    def _need(self, ability: str) -> None:
        if not isinstance(self.model, _ABILITIES[ability]):
            raise BenchError(f"{self.model.name} has no method '{ability}'.")

    def _modality(self, name: str) -> Modality:
        if name not in self.names:
            raise BenchError(unknown("modality", name, self.names))
        return self.spec[name]

    def _views(self, given: Mapping[str, Any], *, whole: bool = False) -> Views:
        views = {name: _as_tensor(x, self._modality(name)) for name, x in given.items()}
        if not views or (whole and set(views) != set(self.names)):
            raise BenchError(
                f"Views of {', '.join(views) or 'nothing'} are given; "
                f"{'all' if whole else 'one or more'} of {', '.join(self.names)} are needed."
            )
        if len({len(x) for x in views.values()}) > 1:
            counts = ", ".join(f"{name} {len(x)}" for name, x in views.items())
            raise BenchError(f"The numbers of given views differ: {counts}.")
        return views

    def _given(self, views: Views, make: Callable[[Views, Rng], Views], seed: int) -> Views:
        def of(rows: range, rng: Rng) -> Views:
            return make({name: x[rows.start : rows.stop] for name, x in views.items()}, rng)

        return self._batched(len(next(iter(views.values()))), of, seed)

    def _batched(self, n: int, make: Callable[[range, Rng], Views], seed: int) -> Views:
        parts = []
        with torch.inference_mode():
            for first in range(0, n, _BATCH):
                rows = range(first, min(first + _BATCH, n))
                parts.append(make(rows, Rng(seed, first=first)))
        if not parts:
            raise BenchError("No sample is asked for; write a number of at least 1.")
        images = {m.name for m in self.spec.modalities if m.kind == "image"}
        whole = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
        return {name: x.clamp(0, 1) if name in images else x for name, x in whole.items()}


def _digest_of(model: Model) -> str:
    """SHA-256 over the names and values of a model's weights."""
    found = hashlib.sha256()
    for name, x in model.state_dict().items():
        found.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        found.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


_ABILITIES: dict[str, type] = {
    "sample": Joint,
    "translate": Translate,
    "reconstruct": Reconstruct,
    "encode": Latent,
}


def _as_tensor(x: Any, modality: Modality) -> Tensor:
    """Given views as a model takes them."""
    if modality.kind == "text" and len(x) and isinstance(x[0], str):
        rows = [encode(modality, text) for text in x]
        if wrong := [problem for _, problem in rows if problem]:
            raise BenchError(wrong[0])
        x = torch.tensor([tokens for tokens, _ in rows])
    view = x if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x))
    if tuple(view.shape[1:]) != modality.shape:
        shape = " x ".join(map(str, modality.shape))
        raise BenchError(
            f"'{modality.name}' has the shape {tuple(view.shape)}; n x {shape} was expected."
        )
    if modality.kind == "text":
        return view.long()
    if modality.kind == "vector":
        if not bool(torch.isfinite(view).all()):
            raise BenchError(f"'{modality.name}' has values that are not finite.")
        return view.float()
    view = view.float() / 255 if view.dtype == torch.uint8 else view.float()
    if not bool(((view >= 0) & (view <= 1)).all()):
        raise BenchError(
            f"'{modality.name}' has values from {view.min():.4g} to {view.max():.4g}; 0 to 1 was "
            "expected, or uint8."
        )
    return view
