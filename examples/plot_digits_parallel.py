"""
Parallel in time: fifty steps in a handful of rounds
====================================================

A sampler's steps wait for each other. Parallel in time, the network is called on all states of a
window at once, on guesses first; each round the guesses become better, and a front of states that
are settled moves from noise to data. Left: how far every state is from the ordinary run's after
each round. The digits below are the last states of the rounds: after five the digit is there.
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
# What the network is called with is kept, for the picture.
net, schedule, inputs = model.net, model.schedule, []


def watched(x, t, labels):
    """The network, which keeps what it is called with."""
    inputs.append(x[:, 0].clone())  # the memory is used again
    return net(x, t, labels=labels)


# Labels belong to the samples: a window repeats them.
model = fastgen.Model(watched, schedule, "velocity", data_at=1, per_sample=("labels",))

# %%
# The ordinary run, an SDE of 50 steps, and the same in parallel, with and without acceleration.
sampler = fastgen.Sampler(model, fastgen.plan("ddim", schedule, 50, eta=1.0))
label = torch.tensor([3])
expected = sampler((1, 1, 8, 8), seed=4, labels=label)
states = torch.cat(inputs)
runs = {}
for name, acceleration in (("secant", "secant"), ("Picard", None)):
    inputs.clear()
    parallel = fastgen.Parallel(window=50, tolerance=1e-3, acceleration=acceleration)
    x = sampler((1, 1, 8, 8), seed=4, labels=label, parallel=parallel)
    error = float((x - expected).norm() / expected.norm())
    print(f"{name}: {parallel.report.rounds} rounds, {parallel.report.rows} rows, {error:.1e} away")
    runs[name] = list(inputs), parallel.report.accepted

# %%
# Errors of all states, round by round; what is settled is not evaluated again.
figure, axes = plt.subplot_mosaic(
    [["secant", "Picard"], ["last", "last"]], figsize=(9, 5), height_ratios=[3, 1]
)
figure.set_layout_engine("constrained")
for name, (rounds, accepted) in runs.items():
    settled = 0
    for number, (x, count) in enumerate(zip(rounds, accepted, strict=True)):
        away = (x - states[settled:]).flatten(1).norm(dim=1) / states[settled:].flatten(1).norm(
            dim=1
        )
        colour = plt.cm.viridis(number / 14)
        axes[name].semilogy(range(settled, 50), away.clamp(min=1e-7), color=colour)
        settled += count
    axes[name].set(title=f"{name}: {len(rounds)} rounds", xlabel="evaluation", ylim=(1e-7, 3))
axes["secant"].set_ylabel("distance from the ordinary run")

# %%
# The last state of every round, which becomes the digit.
rounds = [x[-1] for x in runs["secant"][0]]
pictures = torch.cat([*rounds, states[-1]], dim=1)
axes["last"].imshow(-pictures, cmap="gray", vmin=-1.2, vmax=1.2)
axes["last"].set(title="the last state, round by round; right: of the ordinary run")
axes["last"].axis("off")
plt.show()
