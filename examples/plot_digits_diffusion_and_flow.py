"""
Diffusion and flow matching: two objectives, one sampler
========================================================

The same network is trained twice on digits, with the same number of steps: to predict v on the
cosine schedule, which is diffusion (Salimans and Ho 2022, arXiv 2202.00512), and to predict the
velocity of straight paths, which is flow matching (Lipman et al. 2023, 2210.02747). To the sampler
both are models, and every solver takes both. The distance on the right is sliced Wasserstein to
held-out digits; the grey line is that between two halves of real ones.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.datasets import load_digits
from fastgen.networks import ModulatedMLP
from fastgen.training import Denoising, Flow, Settings, Trainer

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
# The other objective: everything else is the same.
diffusion = Denoising(fastgen.schedules.CosineVP(), "v")
torch.manual_seed(0)
network = ModulatedMLP((1, 8, 8), width=128, blocks=2, classes=10)
trainer = Trainer(network, diffusion.loss, digits.images, settings, digits.labels)
trainer.run()
MODELS = {"diffusion": diffusion.model(trainer.average), "flow": model}

# %%
# Both by a first-order and a second-order ODE solver, and diffusion by its SDE.
held_out, other = load_digits().held_out_a, load_digits().held_out_b
shape, kwargs = held_out.images.shape, {"labels": held_out.labels}
floor = fastgen.wasserstein(held_out.images, other.images, method="sliced")
RUNS = (
    ("diffusion", "ddpm"),
    ("diffusion", "ddim"),
    ("diffusion", "dpmpp_2m"),
    ("flow", "euler"),
    ("flow", "dpmpp_2m"),
)
BUDGETS = (4, 8, 16, 32)
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 3.6), layout="constrained", width_ratios=(3, 2)
)
rows = []
for name, solver in RUNS:
    apart = []
    for steps in BUDGETS:
        x = fastgen.sample(MODELS[name], tuple(shape), solver, steps, seed=1, net_kwargs=kwargs)
        apart.append(fastgen.wasserstein(x, held_out.images, method="sliced"))
    right.plot(BUDGETS, apart, "o-", label=f"{name}, {solver}")
    rows.append(torch.nn.functional.pad(x[::22][:20], (1, 1, 1, 1), value=-1)[:, 0])
sheet = torch.cat([torch.cat(list(row), 1) for row in rows])
left.imshow(-sheet, cmap="gray", vmin=-1, vmax=1)
left.set(xticks=[], yticks=[10 * k + 4.5 for k in range(len(RUNS))])
left.set_yticklabels([f"{name}, {solver}" for name, solver in RUNS])
left.set_title(f"{BUDGETS[-1]} evaluations")
right.axhline(floor, color="0.6")
right.set_xscale("log", base=2)
right.set(xlabel="evaluations", ylabel="distance to held-out digits", ylim=(0, 0.2))
right.legend(frameon=False, fontsize=8)
plt.show()
