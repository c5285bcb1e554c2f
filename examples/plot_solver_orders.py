"""
Orders of convergence, measured
===============================

A solver of order p makes an error that falls as the p-th power of the step. Where data are
Gaussian the probability flow has a closed form, so the error is known to the last digit. Each
line is one solver; what counts in practice is the horizontal axis, evaluations of the network,
not steps: a fourth-order method pays for its order with four evaluations in each step.
"""

import matplotlib.pyplot as plt
import torch

import fastgen

# %%
# Data N(0, s^2) stay Gaussian on the way to noise, and the flow only scales them: what starts at
# x ends at x s / std(start), in the limit of no noise left.
schedule = fastgen.schedules.LinearVP()
SCALE, END = 0.4, 0.01


def deviation(t):
    """Of the state at time t."""
    return (schedule.alpha(t) ** 2 * SCALE**2 + schedule.sigma(t) ** 2) ** 0.5


def noise_prediction(x, t):
    """E[eps | x_t = x]."""
    return (schedule.sigma(t) / deviation(t) ** 2)[:, None] * x


model = fastgen.Model(noise_prediction, schedule, predicts="noise", time_dtype=torch.float64)
start = fastgen.randn((64, 1), seed=0, dtype=torch.float64)
exact = start * deviation(END) / deviation(1.0)

# %%
# All solvers on one grid, uniform in log-SNR, with the time stopped just before the data.
SOLVERS = {
    "ddim": "tab:blue",
    "dpmpp_2m": "tab:orange",
    "unipc": "tab:red",
    "heun": "tab:green",
    "exponential_rk4": "tab:purple",
}
figure, axis = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
slopes = {}
for solver, colour in SOLVERS.items():
    evaluations, errors = [], []
    for steps in (8, 16, 32, 64, 128):
        plan = fastgen.plan(solver, schedule, steps, timesteps="log_snr", end=END, predicts="noise")
        x = fastgen.Sampler(model, plan, dtype=torch.float64)(start)
        evaluations.append(plan.nfe)
        errors.append(float((x - exact).square().mean().sqrt()))
    slopes[solver] = float(torch.tensor([errors[-2] / errors[-1]]).log2())
    axis.loglog(evaluations, errors, "o-", color=colour, label=f"{solver}: {slopes[solver]:.2f}")
axis.set(xlabel="evaluations of the network", ylabel="root mean square error")
axis.legend(title="measured order", frameon=False)
axis.grid(color="0.92")
for solver, slope in slopes.items():
    print(f"{solver:16} stated order {fastgen.solvers.get(solver).order}, measured {slope:.2f}")
plt.show()
