#!/usr/bin/env bash
# torch-fidelity 0.4.0 accepts the option feature_extractor_internal_dtype="float64" and computes in
# float32: its table of names maps both names to torch.float32. Means of float32 features are then
# also taken in float32. With 60,000 features around 300 the mean is off in the third decimal.
# The project extracts features itself and passes them as float64 (shalabench/metrics/fid.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.14.1' 'torchvision==0.29.1' 'torch-fidelity==0.4.0'
"$work/venv/bin/python" - << 'END'
from importlib.metadata import version

import torch
from torch_fidelity.helpers import text_to_dtype
from torch_fidelity.metric_fid import fid_features_to_statistics

print("torch", torch.__version__, "torch-fidelity", version("torch-fidelity"))
dtypes = {name: text_to_dtype(name) for name in ("float32", "float64")}
print(dtypes)
assert dtypes["float64"] == torch.float32, "float64 is now float64."

features = 300 + torch.randn(60_000, 4, generator=torch.Generator().manual_seed(0))
means = [fid_features_to_statistics(x)["mu"] for x in (features, features.double())]
error = abs(means[0] - means[1]).max()
print(f"The largest error of a mean from float32 features is {error:.1e}.")
assert error > 1e-4, "Means of float32 features are now taken in float64."
END
