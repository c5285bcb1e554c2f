"""
Finer steps on the same Brownian path
=====================================

An SDE solver with other steps usually sees other noise, so that a finer run gives another sample
and nothing can be compared. A ``BrownianPath`` is a function of the time: whatever grid asks, the
answers belong to one motion. On the left a path is read on finer and finer grids. On the right
``noise="brownian"`` does the same for the sampler: runs with more steps converge, sample by
sample, to the run on the finest grid, at the order of the solver.
"""

import matplotlib.pyplot as plt
import torch

import fastgen

# %%
# One motion, read four times as densely each time: points that were known stay where they are.
path = fastgen.BrownianPath((1, 1), 0.0, 1.0, seed=2)
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
for count, colour, size in ((256, "0.75", 0), (32, "tab:blue", 3), (4, "tab:red", 6)):
    times = torch.linspace(0, 1, count + 1).double()
    values = path.at(times).flatten()
    left.plot(times, values, "o-", color=colour, markersize=size, linewidth=1, label=f"{count}")
left.set(xlabel="time", ylabel="W", title="one path, three grids")
left.legend(title="intervals", frameon=False)

# %%
# The exact model of four Gaussians, sampled along one path by Euler-Maruyama.
schedule = fastgen.schedules.LinearVP()
centres = torch.tensor([[-1.5, -1.5], [-1.5, 1.5], [1.5, -1.5], [1.5, 1.5]])


def data_prediction(x, t):
    """E[x_0 | x_t = x] of four Gaussians of width 0.3."""
    alpha, sigma = schedule.alpha(t[0].item()), schedule.sigma(t[0].item())
    variance = (alpha * 0.3) ** 2 + sigma**2
    mean = (-(torch.cdist(x, alpha * centres) ** 2) / (2 * variance)).softmax(1) @ centres
    return mean + alpha * 0.3**2 / variance * (x - alpha * mean)


model = fastgen.Model(data_prediction, schedule, predicts="data")


def run(steps, noise, trajectory=False):
    """200 samples by Euler-Maruyama, from one seed."""
    options = {"noise": noise, "trajectory": trajectory, "end": 0.002}
    return fastgen.sample(model, (200, 2), "euler_maruyama", steps, seed=3, **options)


for steps, colour in ((1024, "0.75"), (128, "tab:blue"), (16, "tab:red")):
    states = run(steps, "brownian", trajectory=True)[1][:, 6]
    middle.plot(*states.T, "-", color=colour, linewidth=1, zorder=steps == 16)
    middle.plot(*states[-1], "o", color=colour)
middle.scatter(*centres.T, marker="+", s=60, color="black", linewidths=1)
middle.set(aspect="equal", title="one sample in 16, 128, 1024 steps", xticks=[], yticks=[])

# %%
# The distance of every sample to its own finest run. Fresh draws do not converge to anything.
budgets = [2**k for k in range(4, 9)]
for noise, marker in (("brownian", "o-"), ("draws", "s--")):
    finest = run(1024, noise)
    errors = [float((run(n, noise) - finest).norm(dim=1).mean()) for n in budgets]
    right.plot(budgets, errors, marker, label=f'noise="{noise}"')
right.plot(budgets, [6 / n for n in budgets], color="0.6", linewidth=1, label="order 1")
right.set_xscale("log", base=2)
right.set_yscale("log")
right.set(xlabel="steps", ylabel="mean distance to the finest run", title="all samples")
right.legend(frameon=False, loc="center left", bbox_to_anchor=(0.42, 0.72))
plt.show()
