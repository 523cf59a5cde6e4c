#!/usr/bin/env bash
# torch 2.14.1: FlopCounterMode counts the weight gradient of a grouped convolution `groups` times.
# A convolution's backward pass has twice the work of its forward pass; with 5 groups the counter
# gives six times. The rule multiplies all input channels by all output channels.
# benchmarks/timing.py divides that part by the number of groups.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.14.1'
"$work/venv/bin/python" - << 'END'
import torch
from torch.utils.flop_counter import FlopCounterMode

print("torch", torch.__version__)
ratios = {}
for groups in (1, 5):
    layer = torch.nn.Conv2d(40, 80, 3, padding=1, groups=groups)
    images = torch.randn(2, 40, 8, 8, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        total = layer(images).sum()
    with FlopCounterMode(display=False) as backward:
        total.backward()
    ratios[groups] = backward.get_total_flops() / forward.get_total_flops()
print("backward / forward, by groups:", ratios)
assert ratios == {1: 2.0, 5: 6.0}, "Grouped convolutions are now counted alike."
END
