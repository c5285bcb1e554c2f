"""
Data of any scale
=================

Paths lead from noise N(0, 1) to the data. Where one coordinate is 10,000 times the noise and
another a thousandth of it, a network learns neither. A ``Scaling`` lets it see (x - mean) /
deviation, is stored with the checkpoint, and is undone on samples.
"""

# %%
# Two moons, the first coordinate in thousands and the second in thousandths, as measurements come.
# Without a scaling the trainer warns.

import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen import plots
from fastgen.networks import MLP
from fastgen.training import Flow, Scaling, Settings, Trainer, load

data = fastgen.datasets.load("moons").samples * torch.tensor([1e4, 1e-3])
objective, found = Flow(coupling="ot"), {}
settings = Settings(steps=900, batch=256, learning_rate=1e-2, average=0.99)
folder = Path(tempfile.mkdtemp())
for name, scaling in (("as they are", None), ("scaled", Scaling.of(data))):
    torch.manual_seed(0)
    network = MLP((2,), (64, 64, 64), activation="silu")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = Trainer(network, objective.loss, data, settings, scaling=scaling)
    print(name, "-", str(said[0].message)[:60] + " ..." if said else "no warning")
    trainer.run(checkpoint=folder / "moons.safetensors")
    trained = load(folder / "moons.safetensors")
    model, decode = trained.model(), trained.scaling.decode if trained.scaling else lambda x: x
    found[name] = decode(fastgen.sample(model, (2000, 2), "heun", 20, seed=1))

# %%
# The same network, steps and seed. As they are, neither is learned: the large coordinate takes all
# of the loss and is not reached all the same, the small one stays noise, a thousand times the data.

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
reach = 1.4 * data.abs().amax(0)
for ax, (title, x) in zip(axes, {"data": data[:2000], **found}.items(), strict=True):
    plots.samples(x, ax=ax)
    ax.set(title=title, aspect="auto", xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]))
spread = {name: (x.std(0) / data.std(0)).tolist() for name, x in found.items()}
for name, (first, second) in spread.items():
    print(f"{name}: deviations {first:.2f} and {second:.2f} times those of the data")
plt.show()
