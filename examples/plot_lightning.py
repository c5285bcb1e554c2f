"""
Training with Lightning
=======================

``TrainingModule`` is an objective of ``fastgen.training`` as a LightningModule: Lightning makes the
loop, the devices, precision, checkpoints and logs; fastgen gives the loss, the rate, the average of
the weights. ``SampleSheets`` draws the same samples after every few epochs.
"""

# %%
# Moons as data, a small network, flow matching with optimal pairs of noise and data. The rate falls
# to 0 at the Trainer's last step.

import logging
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset

import fastgen
from fastgen.integrations.lightning import SampleSheets, TrainingModule
from fastgen.training import Flow

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")
seed_everything(0, verbose=False)

points = 2 * torch.from_numpy(fastgen.datasets.moons(4096, np.random.default_rng(0))).float()
train, held_out = points[:3072], points[3072:]
loaders = [
    DataLoader(TensorDataset(train), 256, shuffle=True),
    DataLoader(TensorDataset(held_out), 1024),
]

module = TrainingModule(
    fastgen.networks.MLP((2,), (64, 64, 64), "silu"),
    Flow(coupling="ot"),
    learning_rate=1e-2,
    warm_up=20,
    average=0.97,
)
folder = Path(tempfile.mkdtemp())
sheets = SampleSheets((2,), "heun", 8, count=1000, every=10, folder=folder)
trainer = Trainer(
    max_epochs=40,
    callbacks=[sheets],
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    check_val_every_n_epoch=40,
)
trainer.fit(module, *loaders)
print({name: round(value.item(), 3) for name, value in trainer.callback_metrics.items()})

# %%
# What the callback wrote: equal noise at epochs 10, 20, 30 and 40. A logger of Weights & Biases or
# TensorBoard gets the same pictures.

figure, axes = plt.subplots(1, 4, figsize=(10, 2.7), layout="constrained")
for axis, path in zip(axes, sorted(folder.iterdir()), strict=True):
    axis.imshow(plt.imread(path))
    axis.set_title(f"step {int(path.stem.rpartition('-')[2])}", fontsize=9)
    axis.axis("off")

# %%
# ``module.model()`` is a ``fastgen.Model`` of the averaged weights: sample, evaluate, save, share.

x = fastgen.sample(module.model(), (1024, 2), "heun", 8, seed=1)
print(f"W2 to held-out moons: {fastgen.wasserstein(x, held_out):.3f}")
plt.show()
