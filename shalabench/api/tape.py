"""Keys of random draws in a tensor, so that each replay of a CUDA graph draws new numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from shalabench.api.random import Rng, derive_seed

Path = tuple[tuple[object, ...], ...]
"""The names of each fork from the first stream to a draw, and its call."""


class KeyTape:
    """The keys of all draws of an update, in one tensor on the device.

    A key follows from the seed of the update, the names of the forks and the number of the call.
    Names and numbers are the same in every update. So one update writes them down, `fill` derives
    the keys of any other from its seed, and the numbers drawn are those of a plain `Rng`.

    Args:
        device: Where the draws are made.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self._paths: list[Path] = []
        self._keys: Tensor | None = None  # None while draws are written down
        self._taken = 0

    def note(self, seed: int) -> Rng:
        """The random numbers of an ordinary update, of which every draw is written down."""
        self._paths, self._keys = [], None
        return _TapedRng(self, (), seed)

    def replay(self) -> Rng:
        """The random numbers of an update that takes its keys from the tensor, as `fill` left it.

        It draws as the update did that was noted last.
        """
        if self._keys is None:
            self._keys = torch.zeros(len(self._paths), dtype=torch.int64, device=self.device)
        self._taken = 0
        return _TapedRng(self, (), None)

    def fill(self, seed: int) -> None:
        """Set the keys to those of an update, by one copy for which the host does not wait."""
        if self._keys is None:
            raise RuntimeError("The keys have no tensor yet. Call replay first.")
        seeds: dict[Path, int] = {(): seed}

        def derive(path: Path) -> int:
            if path not in seeds:
                seeds[path] = derive_seed(derive(path[:-1]), *path[-1])
            return seeds[path]

        keys = torch.tensor([derive(path) for path in self._paths], dtype=torch.int64)
        if self.device.type == "cuda":
            keys = keys.pin_memory()  # kept by the allocator until the copy is done
        self._keys.copy_(keys, non_blocking=True)

    def write(self, path: Path) -> None:
        """Note a draw."""
        self._paths.append(path)

    def take(self, path: Path) -> Tensor:
        """The key of the next draw, 0-d.

        Raises:
            RuntimeError: It is not the draw that was noted.
        """
        number, self._taken = self._taken, self._taken + 1
        if self._keys is None or self._paths[number : number + 1] != [path]:
            raise RuntimeError(f"The draw {path} was not made in the update before.")
        return self._keys[number]


class _TapedRng(Rng):
    """A stream whose keys go on a tape; without a seed, they come from it."""

    def __init__(self, tape: KeyTape, path: Path, seed: int | None):
        super().__init__(seed or 0, device=tape.device)
        self._tape, self._path, self._known = tape, path, seed is not None
        if seed is None:
            del self.seed  # a graph would keep it

    def fork(self, *names: object) -> Rng:
        seed = derive_seed(self.seed, *names) if self._known else None
        return _TapedRng(self._tape, (*self._path, names), seed)

    def _key(self) -> int | Tensor:
        path = (*self._path, ("call", self._calls))
        if self._known:
            self._tape.write(path)
            return super()._key()
        self._calls += 1
        return self._tape.take(path)
