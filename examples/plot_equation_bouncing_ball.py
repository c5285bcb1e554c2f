"""
Bouncing balls: events of an ODE
================================

An event is a time at which a function of the state changes its sign: here, a ball meets the
floor. Every ball of the batch has its own steps and its own bounces, found to 1e-9 in time on the
step's interpolant. After a bounce the next stretch begins where the event was, with the velocity
turned round and a quarter of the energy lost.
"""

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.ode import Event

# %%
# State: height and velocity. The event is the height at the floor, on the way down.
GRAVITY, KEPT = 9.81, 0.75**0.5


def fall(t, y):
    """Height' = velocity, velocity' = -g."""
    return torch.stack([y[:, 1], torch.full_like(y[:, 1], -GRAVITY)], 1)


floor = Event(lambda t, y: y[:, 0], terminal=True)
y = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.5, 4.0]]).double()
now = torch.zeros(3).double()

# %%
# A stretch is one call, from each ball's own time. Outputs after the bounce repeat its state and
# are not drawn.
HORIZON = 3.0
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
bounces = []
while float(now.min()) < HORIZON:
    times = now[:, None] + torch.linspace(0, HORIZON, 300).double()
    solution = fastgen.odeint(fall, y, times, event=floor, return_solution=True, rtol=1e-9)
    for ball in range(3):
        seen = (times[ball] < solution.reached[ball]) & (times[ball] <= HORIZON)
        axes[0].plot(times[ball][seen], solution.ys[seen, ball, 0], color=f"C{ball}")
        axes[1].plot(
            solution.ys[seen, ball, 1], solution.ys[seen, ball, 0], color=f"C{ball}", linewidth=1
        )
    bounces += [(c.sample, c.time) for c in solution.events if c.time < HORIZON]
    y = solution.ys[-1] * torch.tensor([0.0, -KEPT])
    now = solution.reached
axes[0].plot([t for _, t in bounces], [0.0] * len(bounces), "k|", markersize=10)
axes[0].set(xlabel="time, s", ylabel="height, m", title="three balls, and their bounces")
axes[1].set(xlabel="velocity, m/s", ylabel="height, m", title="phase plane")

# %%
# The first bounce of a ball that falls from height h is at sqrt(2 h / g).
found = min(t for ball, t in bounces if ball == 1)
print(f"from 2 m: found {found:.12f}, exact {(2 * 2.0 / GRAVITY) ** 0.5:.12f}")
plt.show()
