#!/usr/bin/env bash
# safetensors 0.8.0: safetensors.numpy.save and save_file write an array's memory as it lies, under the
# array's shape. If the memory is not in C order, the file holds the values in other places: images
# stored channels-last and seen as [B, C, H, W] come back scrambled. There is no error, and mean and
# histogram agree. Version 0.7.0 kept the order; safetensors.torch refuses such tensors.
# Upstream: safetensors/safetensors#825.
# Here, samples of other projects come as .safetensors (docs/external.md), and coherence and FID of
# scrambled images are low scores, not errors. shalabench/exchange/write.py writes arrays in C order.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
for version in 0.7.0 0.8.0; do
  "$work/venv/bin/pip" install --quiet 'numpy==2.4.6' "safetensors==$version"
  "$work/venv/bin/python" - "$work/samples.safetensors" << 'END'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load, load_file, save, save_file

version = safetensors.__version__
print("safetensors", version, "numpy", np.__version__)
stored = np.random.default_rng(0).random((100, 28, 28, 3), np.float32)  # channels last
arrays = {
    "images as [B, H, W, C]": stored,
    "images as [B, C, H, W]": stored.transpose(0, 3, 1, 2),
    "latents in Fortran order": np.asfortranarray(stored[:, :, 0, 0]),
    "labels, a column of a table": np.arange(200).reshape(100, 2)[:, 1],
}
save_file(arrays, sys.argv[1])
kept = {}
for name, array in arrays.items():
    back = load(save({name: array}))[name]
    assert back.shape == array.shape
    assert np.array_equal(back, load_file(sys.argv[1])[name]), "save and save_file differ."
    kept[name] = (back == array).mean().item()
    print(f"  {name}: {kept[name]:.0%} of values in place, mean {array.mean():.4f} -> {back.mean():.4f}")
in_order, *others = kept.values()
assert in_order == 1, "An array in C order has changed."
assert all((x == 1) == (version == "0.7.0") for x in others), "Other orders behave differently now."
END
done
