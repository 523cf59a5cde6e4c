"""No update and no sampler mixes devices or makes the host wait, by tensors that fake a GPU's.

Fake tensors have a device and no values: reading one is an error. Backward passes of fake CUDA
tensors need a GPU; `test_graphs.py` watches those on the CPU.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import get_args

import pytest
import torch
from helpers.recorder import waits
from helpers.toys import build
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shalabench.api import Joint, Rng, Translate
from shalabench.api.descent import Descent
from shalabench.nets import solvers
from shalabench.nets.diffusion import make_schedule

CUDA, BATCH = torch.device("cuda"), 4
NOT_RUN = {"eg3d": "inversion reads the count of Adam, which is on the host"}  # translation


class Watch(TorchDispatchMode):
    """Refuses what a GPU's host waits for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not waits(func, args), f"The host waits for {func.name()}."
        result = func(*args, **(kwargs or {}))
        given, made = (
            {x.device.type for x in tree_leaves(tree) if isinstance(x, torch.Tensor) and x.dim()}
            for tree in ((args, kwargs), result)
        )
        assert len(given | made) < 2, f"{func.name()} copies between {given | made}."
        return result


def fake(x):
    return torch.empty(x.shape, dtype=x.dtype, device=CUDA)


def slopes(y, x, **_):
    """In place of a gradient."""
    return [torch.zeros_like(each) for each in (x if isinstance(x, list | tuple) else [x])]


def on_the_host(work):
    """The work with plain tensors, for what is computed on the host and stays there."""

    def plain(*arguments):
        with unset_fake_temporarily():
            return work(*arguments)

    return plain


@pytest.fixture
def model(name, toy, monkeypatch):
    """The model on a faked GPU, without backward passes."""
    model = build(name, toy)
    monkeypatch.setattr(Descent, "descend", lambda self, loss: None)
    monkeypatch.setattr(solvers, "_times", on_the_host(solvers._times))
    monkeypatch.setattr(torch.autograd, "grad", slopes)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for module in model.modules():
            for key, x in module._parameters.items():
                if x is not None:
                    module._parameters[key] = torch.nn.Parameter(fake(x), x.requires_grad)
            for key, x in module._buffers.items():
                if x is not None:
                    module._buffers[key] = fake(x)
        with torch.enable_grad():
            yield model


@pytest.fixture
def data(toy, model):
    split = toy.split("train")
    return split._each({name: fake(x) for name, x in split.tensors.items()}, fake)


def test_no_update_waits(model, data):
    for stage in model.stages():
        stage.begin(data)
        model.train()
        for step in range(2):
            index, rng = torch.arange(BATCH, device=CUDA), Rng(0, device=CUDA)
            with Watch() if step else nullcontext():  # constants move once
                terms = stage.update(data.batch(index), rng)
            assert {value.device.type for value in terms.values()} == {"cuda"}


@torch.no_grad()
def test_no_sampler_waits(name, model, data):
    model.eval()
    views = data.batch(torch.arange(BATCH, device=CUDA)).views
    first, *others = model.spec.names
    for again in (False, True):
        with Watch() if again else nullcontext():
            made = {}
            if isinstance(model, Joint):
                made |= model.sample(BATCH, Rng(0, device=CUDA))
            if isinstance(model, Translate) and name not in NOT_RUN:
                made |= model.translate({first: views[first]}, others, Rng(0, device=CUDA))
        assert {x.device.type for x in made.values()} == {"cuda"}


@torch.no_grad()
@pytest.mark.parametrize("sampler", get_args(solvers.Sampler))
@pytest.mark.parametrize("spacing", get_args(solvers.Spacing))
def test_no_reverse_process_waits(sampler, spacing, monkeypatch):
    monkeypatch.setattr(solvers, "_times", on_the_host(solvers._times))
    schedule = make_schedule("cosine", 40, "velocity")
    with FakeTensorMode(allow_non_fake_inputs=True):
        for key, x in schedule._buffers.items():
            schedule._buffers[key] = fake(x)
        start, rng = torch.zeros(BATCH, 3, device=CUDA), Rng(0, device=CUDA)
        with Watch():
            z = solvers.sample(
                sampler, lambda z, t: z.tanh(), schedule, start, rng, steps=7, spacing=spacing
            )
    assert z.device.type == "cuda"
