"""
Generation: a set of digits, killed and resumed
===============================================

A set of samples is a folder of shards that any number of processes draw. The picture shows four
runs into one folder, as they might be on a cluster: the first is cut off after four shards, two
processes that begin in different halves are lost too, and the last run makes the set whole. Each
line has two shards, in the colour of the run that drew them. Below are the last samples of the set,
and the same ones drawn by nothing but a plain call of the sampler.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import fastgen
from fastgen.datasets import load_digits
from fastgen.generation import Features, Generated, Place
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
sampler = fastgen.Sampler(model, fastgen.plan("dpmpp_2m", model.schedule, 8))

# %%
# A set of 600 digits in 24 shards. A run ends after some calls of the network, as if the process
# were killed: what is whole stays on the disk.
COUNT, SHARD, CALLS = 600, 25, 8
labels = [i % 10 for i in range(COUNT)]
folder = Path(tempfile.mkdtemp())
drawn_by = np.zeros(COUNT // SHARD, dtype=int)
network = model.net


def run(number, place, shards=COUNT):
    """Draw until so many shards are done and a call of the next; note whose each shard is."""
    calls = []

    def die(*_):
        calls.append(0)
        if len(calls) > shards * CALLS + 1:
            raise KeyboardInterrupt

    hook = network.register_forward_pre_hook(die)
    try:
        return fastgen.generate(
            sampler, (1, 8, 8), count=COUNT, out=folder, seed=5, shard=SHARD, batch=SHARD,
            labels=labels, features=Features(), place=place,
        )  # fmt: skip
    except KeyboardInterrupt:
        return None
    finally:
        hook.remove()
        there = [int(path.stem) for path in (folder / "records").glob("*.json")]
        drawn_by[[k for k in there if not drawn_by[k]]] = number


run(1, Place(), shards=4)
run(2, Place(0, 2), shards=3)
run(3, Place(1, 2), shards=6)
generated = run(4, Place())
print(generated)

# %%
# The set, and its last shard again by a plain call: the same bits.
ids = range(COUNT - SHARD, COUNT)
alone = sampler((SHARD, 1, 8, 8), seed=5, sample_ids=ids, labels=torch.tensor(labels[-SHARD:]))
stored = (alone * 127.5 + 128).clamp(0, 255).to(torch.uint8)
assert torch.equal(generated.samples()[-SHARD:], stored)

figure, axes = plt.subplots(3, 1, figsize=(10, 5.4), height_ratios=(3, 1, 1), layout="constrained")
squares = np.repeat(drawn_by, SHARD).reshape(COUNT // 50, 50)
axes[0].imshow(squares, cmap=plt.get_cmap("tab10", 4), vmin=0.5, vmax=4.5, aspect="auto")
for k, number in enumerate(drawn_by):
    row, column = divmod(k * SHARD, 50)
    axes[0].text(column + SHARD / 2 - 0.5, row, f"shard {k}, run {number}", color="white",
                 ha="center", va="center", fontsize=8)  # fmt: skip
axes[0].set(xticks=[], yticks=[], title=f"{COUNT} samples by four runs, three of them cut off")
last = {"samples of the set": generated.samples()[-SHARD:], "a plain call": stored}
for axis, (name, part) in zip(axes[1:], last.items(), strict=True):
    axis.imshow(255 - np.concatenate(list(part[:, 0].numpy()), 1), cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(name, rotation=0, ha="right", va="center")

# %%
# Mean and covariance were gathered on the way, in the order of the shards whoever drew them; here
# beside those of the digits that the network was trained on.
real = (digits.images * 127.5 + 128).clamp(0, 255).flatten(1)
with np.load(folder / "statistics.npz") as file:
    mean = torch.from_numpy(file["mu"])
distance = float((mean - real.double().mean(0)).norm() / real.double().mean(0).norm())
print(f"means of the pixels: apart by {distance:.1%}")
assert Generated(folder).manifest["complete"]
plt.show()
