"""
Training with accelerate
========================

``AcceleratedTrainer`` makes the steps of ``fastgen.training.Trainer`` in a loop that Hugging Face's
accelerate places, synchronises, casts and saves: the same program on one CPU, on several GPUs with
``accelerate launch``, or in half precision.
"""

# %%
# Digits and their labels. The loader gives pairs (images, labels); a tenth of the labels is left
# out at random, so that one network serves guidance.

import matplotlib.pyplot as plt
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import fastgen
from fastgen import plots
from fastgen.integrations.accelerate import AcceleratedTrainer
from fastgen.training import Flow, Settings

torch.manual_seed(0)
digits = fastgen.datasets.load_digits()
loaders = [
    DataLoader(TensorDataset(part.images, part.labels), 128, shuffle=part is digits.train)
    for part in (digits.train, digits.held_out_a)
]
trainer = AcceleratedTrainer(
    fastgen.networks.ModulatedMLP((1, 8, 8), width=128, blocks=2, classes=10),
    Flow(),
    loaders[0],
    Settings(steps=800, learning_rate=2e-3, average=0.99),
    Accelerator(),
    validation=loaders[1],
)
steps, validated, losses = [], [], []
for until in range(100, 801, 100):
    losses += trainer.run(until)
    steps.append(until)
    validated.append(trainer.validate())
print(f"validation loss {validated[0]:.3f} -> {validated[-1]:.3f}")

# %%
# The loss of every step, and of the averaged weights on held-out digits with equal noise each time.
# Then samples of each class.

labels = torch.arange(10).repeat(4)
guidance = fastgen.Guidance(2.0, unconditional={"labels": torch.full((40,), 10)})
x = fastgen.sample(
    trainer.model(),
    (40, 1, 8, 8),
    "heun",
    12,
    seed=0,
    guidance=guidance,
    net_kwargs={"labels": labels},
)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
left.plot(losses, color="0.8", linewidth=0.8, label="training")
left.plot(steps, validated, "o-", markersize=3, label="validation, averaged weights")
left.set_xlabel("step")
left.set_ylabel("loss")
left.set_ylim(0, 2)
left.legend(frameon=False)
plots.samples(x, ax=right, columns=10, invert=True)
right.set_title("guidance 2, Heun, 12 steps", fontsize=9)

# %%
# ``trainer.save(folder)`` and ``trainer.resume(folder)`` go on where a run stopped;
# ``trainer.model().save_pretrained(folder)`` is the model alone.

plt.show()
