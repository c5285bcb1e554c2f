"""
Strange digits, noisy digits
============================

What else a model of digits is good for. Upper picture: held-out digits, and three kinds of pictures
that are none, ordered by a score of how strange they are to the model, the error with which it
takes noise away (no sampling, 16 calls of the network). Lower picture: digits with known noise, and
what one call of the network makes of them.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.datasets import load_digits
from fastgen.networks import ModulatedMLP
from fastgen.training import Flow, Settings, Trainer

# %%
# The network: a flow of the digits with labels, trained in ten seconds, or taken as another example
# left it.
digits = load_digits().train
objective = Flow()
torch.manual_seed(0)
network = ModulatedMLP((1, 8, 8), width=128, blocks=2, classes=10)
settings = Settings(steps=1200, learning_rate=2e-3)
trainer = Trainer(network, objective.loss, digits.images, settings, digits.labels)
checkpoint = Path("out/digits.safetensors")
if checkpoint.exists():
    trainer.resume(checkpoint)
trainer.run(checkpoint=checkpoint)
model = objective.model(trainer.average)

# %%
# Digits, and what is none: digits on their side, in negative, with shuffled pixels.
generator = torch.Generator().manual_seed(0)
held_out = load_digits().held_out_a.images
held_out = held_out[torch.randperm(len(held_out), generator=generator)[:60]]
shuffled = held_out[:20].flatten(1)[:, torch.randperm(64, generator=generator)]
groups = {
    "digits": held_out,
    "on their side": held_out[:20].transpose(2, 3),
    "negative": -held_out[20:40],
    "shuffled": shuffled.reshape(-1, 1, 8, 8),
}
scores = {
    name: fastgen.control.anomaly_score(model, images, levels=16, reference=digits.images[:300])
    for name, images in groups.items()
}
for name, score in scores.items():
    wins = (score[:, None] > scores["digits"]).double().mean()
    print(f"{name}: {score.median():.1f} deviations off; stranger than a digit in {wins:.0%}")

# %%
# Noise of a known deviation: one call.
noisy = held_out[:12] + 0.6 * fastgen.randn(held_out[:12].shape, seed=1)
clean = fastgen.control.denoise(model, noisy, noise=0.6)
before, after = [(x - held_out[:12]).square().mean().sqrt() for x in (noisy, clean)]
print(f"error {before:.2f} before, {after:.2f} after")

# %%
# The upper axes have one row for each group; bars are single pictures.
figure = plt.figure(figsize=(8, 5.2), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=(1.2, 1))
axis = top.subplots()
for height, (name, score) in enumerate(scores.items()):
    axis.scatter(score.clamp_min(0.03), torch.full_like(score, -height), marker="|", s=160)
    axis.text(0.02, -height, name, ha="right", va="center")
axis.set(xscale="log", yticks=[], xlabel="score (deviations of usual digits)", xlim=(0.025, None))
axis.spines[["left", "top", "right"]].set_visible(False)
for line, images in zip(bottom.subplots(3, 12), (held_out, noisy, clean), strict=True):
    for cell, image in zip(line, images[:12], strict=True):
        cell.imshow(-image[0], cmap="gray", vmin=-1, vmax=1)
        cell.set(xticks=[], yticks=[])
for cell, name in zip(bottom.axes[::12], ("digit", "with noise", "one call"), strict=True):
    cell.set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()
