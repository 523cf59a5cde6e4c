#!/usr/bin/env bash
# multivae 1.0.3: a training that goes on from a checkpoint is another training. The trainer sets its
# seed again, so the epochs after the checkpoint draw the batches of the first epochs once more.
# Here, a run that resumes ends bit-equal to one that was not stopped (tests/execute).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'multivae==1.0.3' 'torch==2.14.1'
"$work/venv/bin/python" - "$work" 2> /dev/null << 'END'
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from multivae.data import MultimodalBaseDataset
from multivae.models import MVAE, MVAEConfig
from multivae.trainers import BaseTrainer, BaseTrainerConfig

work, shapes, batches = Path(sys.argv[1]), {"a": (4,), "b": (4,)}, []


class Watched(MVAE):
    def forward(self, inputs, **options):
        if self.training:
            batches.append(round(inputs.data["a"].sum().item(), 4))
        return super().forward(inputs, **options)


def data(n):
    return MultimodalBaseDataset({name: torch.randn(n, 4) for name in shapes})


def train(name, checkpoint=None):
    torch.manual_seed(1)
    model = Watched(MVAEConfig(n_modalities=2, latent_dim=2, input_dims=shapes))
    config = BaseTrainerConfig(
        output_dir=str(work / name),
        num_epochs=6,
        per_device_train_batch_size=50,
        learning_rate=0.001,
        steps_saving=1,
        no_cuda=True,
        seed=0,
    )
    trainer = BaseTrainer(model, whole, held, config, checkpoint=checkpoint)
    batches.clear()
    trainer.train()
    return Path(trainer.training_dir), [tuple(batches[i : i + 4]) for i in range(0, len(batches), 4)]


torch.manual_seed(0)
whole, held = data(200), data(50)
folder, epochs = train("whole")
_, rest = train("rest", str(folder / "checkpoint_epoch_3"))
lines = ["versions: multivae " + version("multivae") + ", torch " + torch.__version__]
lines += [f"epoch {i + 1}, sums of its batches: {e}" for i, e in enumerate(epochs)]
lines += [f"epoch {i + 4}, resumed after epoch 3: {e}" for i, e in enumerate(rest)]
print("\n".join(lines))
assert rest == epochs[:3] and rest != epochs[3:], "The batches are now those of later epochs."
END
