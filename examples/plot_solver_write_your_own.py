"""
Your own solver in ten lines
============================

A solver is a function of symbols: it asks for network evaluations and adds up what they give, and
no tensor is touched. From those ten lines come fused kernels, guidance, gradients and reproducible
noise. Here is Ralston's third-order method, what becomes of it as a plan, and its order, measured
on a flow that is known in closed form.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.solvers import register


# %%
@register("my_ralston_3", order=3, evaluations="3", source="Ralston 1962, Math. Comp. 16")
def my_ralston_3(p, times):
    """Three slopes, at the start, the middle and three quarters of the step."""
    x = p.initial()
    for s, t in pairwise(times):
        h = t - s
        a = p.velocity(x, s)
        b = p.velocity(x + h / 2 * a, s + h / 2)
        c = p.velocity(x + 3 * h / 4 * b, s + 3 * h / 4)
        x = p.state(x + h / 9 * (2 * a + 3 * b + 4 * c), t)
    return x


# %%
# The plan of two steps: every line is one kernel call after an evaluation.
schedule = fastgen.schedules.Rectified()
print(fastgen.plan("my_ralston_3", schedule, 2))

# %%
# Its order. Gaussian data of width 0.4 are carried by a flow that only scales them.
SCALE = 0.4


def velocity(x, t):
    """d log std / dt x, std^2 = ((1 - t) scale)^2 + t^2."""
    t = t[:, None]
    variance = ((1 - t) * SCALE) ** 2 + t**2
    return (t - (1 - t) * SCALE**2) / variance * x


model = fastgen.Model(velocity, schedule, "velocity", time_dtype=torch.float64)
start = fastgen.randn((64, 1), seed=0, dtype=torch.float64)
figure, axis = plt.subplots(figsize=(6, 4.2), layout="constrained")
budgets = (8, 16, 32, 64, 128)
for solver in ("euler", "heun", "my_ralston_3", "rk4"):
    errors = []
    for steps in budgets:
        x = fastgen.sample(model, start, solver, steps, dtype=torch.float64)
        errors.append(float((x - SCALE * start).square().mean().sqrt()))
    slope = torch.tensor(errors[-2] / errors[-1]).log2()
    mine = solver == "my_ralston_3"
    axis.plot(
        budgets,
        errors,
        "o-",
        color="tab:red" if mine else "0.6",
        linewidth=2.5 if mine else 1,
        label=f"{solver}: {slope:.2f}",
    )
    axis.annotate(solver, (budgets[-1], errors[-1]), xytext=(6, -3), textcoords="offset points")
axis.set_xscale("log", base=2)
axis.set_yscale("log")
axis.set(xlabel="steps", ylabel="root mean square error", xlim=(7, 330))
axis.legend(title="measured order", frameon=False)
plt.show()
