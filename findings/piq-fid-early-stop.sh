#!/usr/bin/env bash
# piq 0.8.0 takes the matrix root in FID by Newton-Schulz iterations. It stops when the square of
# the root is right to 1e-5 of its norm, which the directions of large variance dominate. The others
# have not converged then, so the trace is too small and FID too large: here ten times, and a set
# differs from itself.
# Upstream: github.com/photosynthesis-team/piq/issues/381 (open).
# The project takes eigenvalues (shalabench/metrics/fid.py). Values of fid/... (docs/protocols.md)
# cannot be compared with those of piq, even for the same features.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.14.1' 'torchvision==0.29.1' 'piq==0.8.0'
"$work/venv/bin/python" - << 'END'
import piq
import torch

print("torch", torch.__version__, "piq", piq.__version__)


def frechet(a, b):
    """The definition, with the trace of the root from eigenvalues."""
    first, second = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.eigvals(first @ second).sqrt().real.sum()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    return (shift + first.trace() + second.trace() - 2 * root).item()


generator = torch.Generator().manual_seed(0)
spread = 1 / torch.arange(1, 257, dtype=torch.float64)  # standard deviations of 256 features
a, b = torch.randn(2, 2000, 256, dtype=torch.float64, generator=generator) * spread
score = piq.FID()
for name, pair in {"two samples": (a, b), "a sample and itself": (a, a)}.items():
    print(f"{name}: piq {score(*pair).item():.4f}, by the definition {frechet(*pair):.4f}")
assert score(a, b) > 5 * frechet(a, b), "FID is now near its definition."
assert score(a, a) > 0.01, "FID of a set and itself is now near 0."
END
