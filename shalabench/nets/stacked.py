"""Networks of one architecture evaluated together: one call a layer in place of one a modality.

What surrounds the arithmetic of small layers costs more than the arithmetic: calls, casts of
weights and gradients, changes of layout. So the weights of M networks are put together for each
layer. Images take one grouped convolution, vectors one batched product. Each network keeps its own
parameters, so checkpoints stay as they are. docs/speed.md has the measurements, which are from
CPUs; on other devices, and without gradients, the networks are called one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from shalabench.nets.precision import widened

Rule = Callable[[Sequence[Any], Tensor], Any]
"""`(M layers, their inputs) -> their outputs`: images `[N, M C, H, W]` or vectors `[M, N, D]`."""
_RULES: dict[type[nn.Module], Rule] = {}
_signatures: WeakKeyDictionary[nn.Module, tuple] = WeakKeyDictionary()


def stacks(*kinds: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register how M layers of a class are evaluated together.

    A rule may return a distribution of batch shape `[M, N, D]` where it ends the networks.
    """

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register


def apply_each(networks: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[Any]:
    """The output of each network at its input; networks that are alike are evaluated together.

    Args:
        networks: From `[N, ...]` to a tensor `[N, ...]` or a distribution `[N, D]`.
        inputs: One for each network.

    Returns:
        What each network returns when it is called, to rounding.
    """
    groups: dict[tuple, list[int]] = {}
    for i, (network, x) in enumerate(zip(networks, inputs, strict=True)):
        groups.setdefault((_signature(network), x.shape, x.dtype), []).append(i)
    outputs: list[Any] = [None] * len(networks)
    for members in groups.values():
        chosen, given = [networks[i] for i in members], [inputs[i] for i in members]
        together = _pays(given[0]) and all(map(_is_stackable, chosen))
        made = _together(chosen, given) if together else map(nn.Module.__call__, chosen, given)
        for i, output in zip(members, made, strict=True):
            outputs[i] = output
    return outputs


def follow(layers: Sequence[nn.Module], x: Tensor) -> Any:
    """Evaluate M layers of one class together, by their rule."""
    return _RULES[type(layers[0])](layers, x)


def _pays(x: Tensor) -> bool:
    """On CPUs, in training: an evaluation remembers what each encoder returned."""
    return x.device.type == "cpu" and torch.is_grad_enabled()


def _signature(network: nn.Module) -> tuple:
    """Equal for networks of equal layers and sizes."""
    if network not in _signatures:
        _signatures[network] = repr(network), *(p.shape for p in network.parameters())
    return _signatures[network]


def _is_stackable(network: nn.Module) -> bool:
    """Whether every layer has a rule; compiled networks and grouped layers have none."""
    if getattr(network, "_compiled_call_impl", None) is not None:
        return False
    return all(type(m) in _RULES and getattr(m, "groups", 1) == 1 for m in network.modules())


def _together(networks: Sequence[nn.Module], inputs: Sequence[Tensor]) -> Iterable[Any]:
    count = len(networks)
    images = inputs[0].dim() == 4
    output = follow(networks, torch.cat(list(inputs), 1) if images else torch.stack(list(inputs)))
    if not isinstance(output, Tensor):
        pairs = zip(output.mean.unbind(), output.scale.unbind(), strict=True)
        return [type(output)(mean, scale, validate_args=False) for mean, scale in pairs]
    if output.dim() < 4:
        return output.unbind()
    ready = output.dtype == widened(output.dtype) and output.stride(3) == 1
    return (output if ready else _Widen.apply(output)).chunk(count, 1)


@stacks(nn.Sequential)
def _sequential(layers: Sequence[nn.Sequential], x: Tensor) -> Any:
    for alike in _reorder(list(zip(*layers, strict=True))):
        x = follow(alike, x)
    return x


_ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.LeakyReLU)


def _reorder(positions: list[tuple[nn.Module, ...]]) -> list[tuple[nn.Module, ...]]:
    """Activations beside a change of shape take vectors, whose gradients need no new layout."""
    for i, (now, then) in enumerate(pairwise(positions)):
        late = isinstance(now[0], _ACTIVATIONS) and isinstance(then[0], nn.Flatten)
        early = isinstance(now[0], nn.Unflatten) and isinstance(then[0], _ACTIVATIONS)
        if late or early:
            positions[i : i + 2] = then, now
    return positions


@stacks(*_ACTIVATIONS, nn.AvgPool2d, nn.Upsample, nn.Identity)
def _same(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    return layers[0](x)


@stacks(nn.Flatten)
def _flatten(layers: Sequence[nn.Flatten], x: Tensor) -> Tensor:
    if x.dim() == 3:  # vectors already
        return x
    return x.unflatten(1, (len(layers), -1)).transpose(0, 1).flatten(2)


@stacks(nn.Unflatten)
def _unflatten(layers: Sequence[nn.Unflatten], x: Tensor) -> Tensor:
    images = x.unflatten(2, layers[0].unflattened_size).transpose(0, 1).flatten(1, 2)
    return images.contiguous(memory_format=torch.channels_last)


@stacks(nn.Linear)
def _linear(layers: Sequence[nn.Linear], x: Tensor) -> Tensor:
    return _Linear.apply(x, *_parameters(layers))


@stacks(nn.Conv2d, nn.ConvTranspose2d)
def _convolution(layers: Sequence[nn.Conv2d | nn.ConvTranspose2d], x: Tensor) -> Tensor:
    first, count = layers[0], len(layers)
    if _is_finest(first):
        return _finest(layers, x)
    transposed = isinstance(first, nn.ConvTranspose2d)
    shape = first.stride, first.padding, first.dilation, transposed, first.output_padding, count
    return _Convolution.apply(x, shape, count, *_parameters(layers))


_FINEST = 4  # channels up to which a transposed convolution is slow for its few products
_TAPS = ((1, 3), (2, 0))  # of a kernel of 3 and a zero: the output's parity, the input's offset


def _is_finest(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.ConvTranspose2d)
        and layer.out_channels <= _FINEST
        and (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (2, 2), (1, 1))
        and layer.bias is not None
    )


def _finest(layers: Sequence[Any], x: Tensor) -> Tensor:
    """Transposed convolutions to a few channels as convolutions of 2 x 2 (Shi et al. 2016).

    Each gives the four pixels that lie between an input pixel and its neighbours.
    """
    first, count = layers[0], len(layers)
    taps = torch.tensor(_TAPS, device=x.device)
    kernels = functional.pad(torch.stack([layer.weight for layer in layers]), (0, 1, 0, 1))
    kernels = kernels[:, :, :, taps][..., taps]  # [M, C, O, 2, 2, 2, 2]
    weight = kernels.permute(0, 2, 3, 5, 1, 4, 6).reshape(-1, first.in_channels, 2, 2)
    bias = torch.cat([layer.bias for layer in layers]).repeat_interleave(4)
    shape = (1, 1), (1, 1), (1, 1), False, (0, 0), count
    quarters = _Convolution.apply(x, shape, 1, weight, bias)  # its first row and column are unused
    pairs = zip(x.shape[2:], first.output_padding, strict=True)
    height, width = (2 * side - 1 + extra for side, extra in pairs)
    return _Interleave.apply(quarters)[..., :height, :width]


def _parameters(layers: Sequence[Any]) -> list[Tensor]:
    """The weights of all layers, then their biases if they have any."""
    biases = [] if layers[0].bias is None else [layer.bias for layer in layers]
    return [layer.weight for layer in layers] + biases


def _arithmetic(x: Tensor) -> torch.dtype:
    """The type in which autocast would compute a product with `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


_SMALL = 1 << 15  # elements up to which one call for all matters more than one pass over them


def _gather(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Weights or biases of M layers, one after the other along the first dimension."""
    first = parts[0]
    if first.numel() <= _SMALL:
        return torch.cat(list(parts)).to(dtype)
    form = torch.channels_last if first.dim() == 4 else torch.contiguous_format
    shape = len(parts) * first.shape[0], *first.shape[1:]
    together = torch.empty(shape, dtype=dtype, device=first.device, memory_format=form)
    for whole, part in zip(together.chunk(len(parts)), parts, strict=True):
        whole.copy_(part)
    return together


_FEW = 48  # rows up to which casting a weight's gradient takes longer than its product saves


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """`a @ b` in another type, computed in whichever takes less time."""
    if a.shape[2] > _FEW:
        return torch.bmm(a, b).to(dtype)
    with torch.autocast(a.device.type, enabled=False):  # a backward pass may run under autocast
        return torch.bmm(a.to(dtype), b.to(dtype))


class _Linear(Function):
    """Batched `x W^T + b`, whose weight gradient comes in the layout of the weights.

    Autocast's own is cast and transposed in one step, which is slow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        count = len(x)
        dtype = _arithmetic(x)
        x = x.to(dtype)
        weight = _gather(parameters[:count], dtype).unflatten(0, (count, -1))
        ctx.save_for_backward(x, weight)
        ctx.grown = parameters[0].dtype
        if len(parameters) == count:
            return torch.bmm(x, weight.transpose(1, 2))
        bias = _gather(parameters[count:], dtype).view(count, 1, -1)
        return torch.baddbmm(bias, x, weight.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        count = len(x)
        asked = ctx.needs_input_grad
        back = torch.bmm(grad, weight) if asked[0] else None
        weights: tuple = (None,) * count
        biases: tuple = (None,) * (len(asked) - 1 - count)
        if any(asked[1:]):
            weights = _product(grad.transpose(1, 2), x, ctx.grown).unbind()
            if biases:
                biases = grad.sum(1).to(ctx.grown).unbind()
        return back, *weights, *biases


class _Convolution(Function):
    """A grouped convolution, transposed or not, whose bias gradient is a plain sum.

    That of transposed convolutions is slow in torch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple, parts: int, *parameters: Tensor) -> Tensor:
        dtype = _arithmetic(x)
        x = x.to(dtype, memory_format=torch.channels_last)
        weight = _gather(parameters[:parts], dtype)
        bias = _gather(parameters[parts:], dtype) if len(parameters) > parts else None
        ctx.save_for_backward(x, weight)
        ctx.shape, ctx.parts, ctx.grown = shape, parts, parameters[0].dtype
        return torch.convolution(x, weight, bias, *shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        asked, transposed = ctx.needs_input_grad, ctx.shape[3]
        learns = any(asked[3:])
        grad = grad.contiguous(memory_format=torch.channels_last)
        back, grown, total = torch.ops.aten.convolution_backward(
            grad,
            x,
            weight,
            [grad.shape[1]],
            *ctx.shape,
            (asked[0], learns, learns and not transposed),
        )
        parts = ctx.parts
        weights: tuple = (None,) * parts
        biases: tuple = (None,) * (len(asked) - 3 - parts)
        if learns:
            weights = grown.to(ctx.grown, memory_format=torch.channels_last).chunk(parts)
            if biases:
                total = _sum_over_pixels(grad) if transposed else total
                biases = total.to(ctx.grown).chunk(parts)
        return back, None, None, *weights, *biases


def _sum_over_pixels(grad: Tensor) -> Tensor:
    """Sums `[C]` of channels-last images; in float32 a product takes a fifth of the time."""
    if grad.dtype != torch.float32:
        return grad.sum((0, 2, 3))
    rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
    with torch.autocast(grad.device.type, enabled=False):
        return (rows.new_ones(1, len(rows)) @ rows)[0]


class _Widen(Function):
    """Images `[N, C, H, W]` in float32 and in the memory order of views, in one step each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.narrow = x.dtype
        return x.to(widened(x.dtype), memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.to(ctx.narrow, memory_format=torch.channels_last)


class _Interleave(Function):
    """Images `[N, C, 2 H, 2 W]` from their quarters `[N, 4 C, H + 1, W + 1]`, as `_Widen`."""

    @staticmethod
    def forward(ctx: Any, quarters: Tensor) -> Tensor:
        n, channels, height, width = quarters.shape
        ctx.given = quarters.shape, quarters.dtype
        shape = n, channels // 4, 2 * height - 2, 2 * width - 2
        images = torch.empty(shape, dtype=widened(quarters.dtype), device=quarters.device)
        for i, part in enumerate(_quarters(images)):
            part.copy_(quarters[:, i::4, 1:, 1:])
        return images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        shape, dtype = ctx.given
        form = torch.channels_last
        back = torch.empty(shape, dtype=dtype, device=grad.device, memory_format=form)
        back[..., 0, :], back[..., 0] = 0, 0
        for i, part in enumerate(_quarters(grad)):
            back[:, i::4, 1:, 1:].copy_(part)
        return back


def _quarters(images: Tensor) -> list[Tensor]:
    """Every second pixel, for each parity of rows and columns."""
    return [images[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
