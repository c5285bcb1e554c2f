"""
Van der Pol's oscillator: each sample its own steps
===================================================

Sixty-four oscillators in one batch, each at another phase. Where one of them jumps it needs short
steps, and the others do not: with ``step="per_sample"`` each takes its own, and none waits for the
fastest. The chart on the right counts evaluations of both ways at the same tolerance.
"""

import matplotlib.pyplot as plt
import torch

import fastgen

# %%
# x'' = mu (1 - x^2) x' - x, as a system of first order; starts all over the plane.
MU = 5.0


def oscillator(t, y):
    """x' = v, v' = mu (1 - x^2) v - x."""
    x, v = y.unbind(-1)
    return torch.stack([v, MU * (1 - x**2) * v - x], -1)


generator = torch.Generator().manual_seed(0)
y0 = torch.stack(
    [6 * torch.rand(64, generator=generator) - 3, 16 * torch.rand(64, generator=generator) - 8], 1
).double()
times = torch.linspace(0, 20, 1500).double()
options = {"rtol": 1e-6, "atol": 1e-6, "return_solution": True}
own = fastgen.odeint(oscillator, y0, times, **options)
joint = fastgen.odeint(oscillator, y0, times, step="joint", **options)

# %%
# All paths fall onto the limit cycle.
figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(11, 3.5), layout="constrained", width_ratios=(3, 4, 3)
)
left.plot(*own.ys.permute(2, 0, 1), color="tab:blue", linewidth=0.3)
left.plot(*own.ys[-700:, 0].T, color="tab:red", linewidth=1.5)
left.scatter(*y0.T, s=6, color="black", zorder=3, linewidths=0)
left.set(xlabel="x", ylabel="v", title="phase plane")
for k, offset in zip(range(5), range(0, 30, 6), strict=True):
    middle.plot(times, own.ys[:, k, 0] + offset, linewidth=1)
middle.set(xlabel="time", yticks=[], title="five of them")
per_sample = own.stats.evaluations.double()
right.hist(per_sample, bins=20, color="tab:blue", label="per sample")
right.axvline(float(joint.stats.evaluations.max()), color="tab:orange", linewidth=2, label="joint")
right.set(xlabel="evaluations of one sample", ylabel="samples", title="work", xlim=(0, None))
right.legend(frameon=False)
jointly = int(joint.stats.evaluations.max())
print(
    f"evaluations of a sample: {float(per_sample.mean()):.0f} with its own steps, {jointly} jointly"
)
plt.show()
