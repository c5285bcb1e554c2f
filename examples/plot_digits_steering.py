"""
Steering by a classifier
========================

A flow of digits that knows no labels, and a classifier that has never seen noise. Which digits
does it draw where each is asked to be one certain digit? Eight plain samples give the best of
eight. Steering spends the same eight runs as particles: half-way they are weighed by what the
classifier says of their predictions, and those that lead nowhere go on from those that lead on.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.datasets import load_digits
from fastgen.networks import ModulatedMLP
from fastgen.training import Flow, Settings, Trainer

# %%
# The flow, trained in ten seconds, or taken as another example left it. It is told the label 10,
# which means "none".
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
# The classifier: two layers, trained on slightly noisy digits for a second.
classifier = torch.nn.Sequential(
    torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.SiLU(), torch.nn.Linear(64, 10)
)
optimiser = torch.optim.AdamW(classifier.parameters(), 5e-3)
for _ in range(400):
    chosen = torch.randint(len(digits.images), (128,))
    noisy = digits.images[chosen] + 0.3 * torch.randn(128, 1, 8, 8)
    loss = torch.nn.functional.cross_entropy(classifier(noisy), digits.labels[chosen])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

# %%
# The reward of a sample is the log-probability of the digit that it is asked to be. Sample b is to
# be digit b, and its particles are rows 8 b to 8 b + 7.
PARTICLES = 8
wanted = torch.arange(10).repeat_interleave(PARTICLES)


def reward(x):
    """log p(wanted digit | x) of images [80, 1, 8, 8]."""
    return classifier(x).log_softmax(1).gather(1, wanted[:, None])[:, 0]


plan = fastgen.plan("ddpm", model.schedule, steps=40)
run = {"net_kwargs": {"labels": torch.full((10,), 10)}, "seed": 1}
best = fastgen.best_of(model, plan, reward, (10, 1, 8, 8), PARTICLES, **run)
found = fastgen.steer(model, plan, reward, (10, 1, 8, 8), PARTICLES, scale=1.0, **run)

rows = {"one sample": best.samples[:, 0], "best of 8": best.best, "steered": found.best}
figure, axes = plt.subplots(3, 10, figsize=(7.5, 2.6), layout="constrained")
for row, (name, images) in zip(axes, rows.items(), strict=True):
    for axis, image in zip(row, images[:, 0], strict=True):
        axis.imshow(-image, cmap="gray", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
figure.suptitle("asked to be 0, 1, ... 9")

# %%
# The lineages of the particles that were to be a seven: from noise on the left to samples on the
# right, each line the way of one particle that is left, back to where it came from. And how many
# particles counted, for every digit, before they were drawn anew at less than half.
figure, (tree, count) = plt.subplots(1, 2, figsize=(7.5, 3), layout="constrained")
places = [torch.arange(PARTICLES)]
for ancestors in found.ancestors[:, 7].flip(0):
    places.append(ancestors[places[-1]])
ways = torch.stack(places[::-1])
times = [1.0, *found.times]
tree.plot(times, ways, color="tab:blue", alpha=0.5, linewidth=2)
tree.set(xlabel="time", ylabel="particle", title="who leads to a seven", xlim=(1, 0))
count.plot(found.times, found.effective, color="tab:gray", alpha=0.6)
count.axhline(PARTICLES / 2, color="tab:red", linestyle="--")
count.set(xlabel="time", ylabel="effective particles", xlim=(1, 0), ylim=(0, PARTICLES))

# %%
# The mean reward of both, and any particle again, alone and without the classifier, from the ids of
# its lineage.
for name, result in (("best of 8", best), ("steered", found)):
    print(f"{name}: {float(result.rewards.amax(1).mean()):.3f}")
print("the same:", torch.allclose(found.redraw(7, 0), found.samples[7, 0], atol=1e-5))
plt.show()
