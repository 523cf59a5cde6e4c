#!/usr/bin/env bash
# multivae 1.0.3: MoPoE cannot generate from one modality alone. `predict` and `encode` encode all
# modalities before they choose the given ones, so a modality that is not there is a KeyError, though it
# would not be used. MVAE, MVTCAE, MMVAE, MMVAE+ and JMVAE take the given modality alone. Where all are
# there, MoPoE also pays for all encoders, which matters where costs are compared (docs/speed.md).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'multivae==1.0.3' 'torch==2.14.1'
"$work/venv/bin/python" - 2> /dev/null << 'END'
import logging
from importlib.metadata import version

import torch
from multivae import models
from multivae.data import MultimodalBaseDataset

logging.disable(logging.CRITICAL)
shapes, lines, works = {"a": (4,), "b": (4,)}, [], {}
only = MultimodalBaseDataset({"a": torch.zeros(5, 4)})
for name in ("MVAE", "MVTCAE", "MMVAE", "MMVAEPlus", "JMVAE", "MoPoE"):
    more = {"modalities_specific_dim": 2} if name == "MMVAEPlus" else {}
    config = getattr(models, f"{name}Config")
    model = getattr(models, name)(config(n_modalities=2, latent_dim=3, input_dims=shapes, **more))
    try:
        made = model.predict(only, cond_mod=["a"], gen_mod=["b"])
        works[name] = tuple(made["b"].shape) == (5, 4)
        lines.append(f"{name}: b from a alone, {tuple(made['b'].shape)}")
    except KeyError as error:
        works[name] = False
        lines.append(f"{name}: KeyError {error}")
print("multivae", version("multivae"), "torch", torch.__version__)
print("\n".join(lines))
assert [n for n, is_right in works.items() if not is_right] == ["MoPoE"], "MoPoE now can, or others cannot."
END
