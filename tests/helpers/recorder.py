"""A stand-in for CUDA graphs on the CPU: the operations of some work, repeated on its tensors."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {  # operations whose result the host must read, or whose shape depends on values
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::_unique2",
    "aten::repeat_interleave.Tensor",
    "aten::bincount",
}


def waits(func, args):
    """Whether a GPU's host would wait for an operation."""
    ragged = func.name().startswith("aten::index") and any(
        x.dtype in (torch.bool, torch.uint8)
        for x in tree_leaves(args[1:2])
        if isinstance(x, torch.Tensor)
    )
    return ragged or func.name() in WAITS


def memory(tree):
    return {
        x.untyped_storage().data_ptr()
        for x in tree_leaves(tree)
        if isinstance(x, torch.Tensor) and x.numel()
    }


class Recorder(TorchDispatchMode):
    """Writes down every operation; `replay` does them again, into the same memory."""

    def __init__(self):
        super().__init__()
        self.done, self.before = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if waits(func, args):
            raise RuntimeError(f"The host waits for {func.name()}.")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.before += [(x, x.clone()) for x in tree_leaves(value)]
        result = func(*args, **kwargs)
        self.done.append((func, args, kwargs, result))
        return result

    def undo(self):
        """Restore what was overwritten: a capture computes nothing."""
        with torch.no_grad():
            for x, old in reversed(self.before):
                x.copy_(old)

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, result in self.done:
                if func._schema.is_mutable:
                    func(*args, **kwargs)
                elif not memory(result) & memory((args, kwargs)):  # views share memory already
                    fresh = func(*args, **kwargs)
                    for old, new in zip(tree_leaves(result), tree_leaves(fresh), strict=True):
                        if isinstance(old, torch.Tensor):
                            old.copy_(new)


def record(work):
    """Captures on the CPU, as `graphs.capture_on_gpu` does on a GPU."""
    recorder = Recorder()
    with recorder:
        work()
    recorder.undo()
    return recorder.replay
