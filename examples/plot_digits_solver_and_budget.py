"""
Digits by solver and budget
===========================

One small network, trained on the handwritten digits of scikit-learn by flow matching, and the
question that a user of it has: which solver, and how many evaluations? Each row is a solver, each
column a budget; all of them begin at the same noise. With two evaluations digits are blurred or
noisy, with eight it takes a second look to tell the solvers apart; the chart says how far each is
from the flow that it follows. Multistep solvers are ahead at first, Heun's method from twelve on.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.nn import functional

import fastgen
from fastgen.datasets import load_digits
from fastgen.networks import ModulatedMLP
from fastgen.training import Flow, Settings, Trainer

# %%
# Training takes ten seconds on one core. The checkpoint is shared by the examples with digits: a
# trainer that resumes a finished run has nothing left to do.
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
# Ten digits for each solver and budget. A step of Heun's method takes two evaluations.
labels = torch.arange(10)
SOLVERS = ("euler", "heun", "dpmpp_2m", "unipc")
BUDGETS = (2, 4, 8, 32)
figure, axes = plt.subplots(4, 4, figsize=(11, 4.4), layout="constrained")
for row, solver in zip(axes, SOLVERS, strict=True):
    for axis, budget in zip(row, BUDGETS, strict=True):
        steps = budget // 2 if solver == "heun" else budget
        x = fastgen.sample(
            model, (10, 1, 8, 8), solver, steps, seed=5, net_kwargs={"labels": labels}
        )
        cells = functional.pad(x, (1, 1, 1, 1), value=-1).reshape(2, 5, 10, 10)
        sheet = cells.transpose(1, 2).reshape(20, 50)
        axis.imshow(-sheet, cmap="gray", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(solver)
for axis, budget in zip(axes[0], BUDGETS, strict=True):
    axis.set_title(f"{budget} evaluations")

# %%
# The distance to where each solver ends with very many steps tells the same in numbers.
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
noise, many = fastgen.randn((100, 1, 8, 8), seed=6), {"labels": labels.repeat(10)}
exact = fastgen.sample(model, noise, "rk4", 100, net_kwargs=many)
for solver in SOLVERS:
    per_step = 2 if solver == "heun" else 1
    budgets = (4, 6, 8, 12, 16, 24, 32, 64)
    ends = [fastgen.sample(model, noise, solver, n // per_step, net_kwargs=many) for n in budgets]
    axis.plot(
        budgets, [float((x - exact).square().mean().sqrt()) for x in ends], "o-", label=solver
    )
axis.set_xscale("log", base=2)
axis.set_yscale("log")
axis.set(xlabel="evaluations", ylabel="distance to the exact flow, per pixel")
axis.legend(frameon=False)
axis.grid(color="0.92")
plt.show()
