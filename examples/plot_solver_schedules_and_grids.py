"""
Noise schedules and time grids
==============================

A schedule says how much signal and noise a state has at time t: x = alpha x_0 + sigma eps. A time
grid says where a solver evaluates the network, and is chosen apart from it. Below are the
schedules' curves, and ten steps of several grids on one of them. What matters to a solver is how
the grid divides the log signal-to-noise ratio, drawn last.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastgen
from fastgen import schedules

# %%
# alpha, sigma and log-SNR. EDM's noise goes up to 80, so it is drawn through the ratio alone.
SCHEDULES = {
    "LinearVP": schedules.LinearVP(),
    "CosineVP": schedules.CosineVP(),
    "SubVP": schedules.SubVP(),
    "Rectified": schedules.Rectified(),
    "EDM": schedules.EDM(),
}
t = np.linspace(0.002, 0.998, 400)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
for name, schedule in SCHEDULES.items():
    if name != "EDM":
        axes[0].plot(t, schedule.alpha(t), label=name)
        axes[1].plot(t, schedule.sigma(t), label=name)
    axes[2].plot(t, schedule.log_snr(t), label=name, color="tab:purple" if name == "EDM" else None)
for axis, title in zip(axes, ("signal alpha", "noise sigma", "log-SNR"), strict=True):
    axis.set(xlabel="time t: data at 0, noise at 1", title=title, xlim=(0, 1))
axes[2].legend(frameon=False)

# %%
# Ten steps of each grid, over time on the left, over log-SNR on the right. The last step, to
# t = 0, has an infinite log-SNR and is left out there.
GRIDS = ("uniform", "quadratic", "log_snr", "karras", "beta")
schedule = schedules.LinearVP()
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 2.8), layout="constrained", sharey=True)
for row, name in enumerate(GRIDS):
    times = fastgen.timesteps.times(name, schedule, 10)
    inner = times[times > 0]
    left.plot(times, np.full_like(times, row), "|-", color=f"C{row}", markersize=14)
    right.plot(schedule.log_snr(inner), np.full_like(inner, row), "|-", color=f"C{row}", ms=14)
left.set(xlabel="time t", yticks=range(len(GRIDS)), yticklabels=GRIDS, ylim=(-0.6, 4.6))
right.set(xlabel="log-SNR")
left.invert_xaxis()
plt.show()
