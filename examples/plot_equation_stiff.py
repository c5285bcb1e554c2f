"""
Stiff equations, and noise with steps of varying size
=====================================================

Two changes of an import line. Where an equation has a fast rate that its solution no longer shows,
explicit methods take steps of that rate; implicit ones, of torchdiffeq's main branch, take steps of
the solution. And where noise acts in some places only, torchsde's ``srk`` may choose its steps,
along one and the same Brownian motion.
"""

import matplotlib.pyplot as plt
import torch

from fastgen.integrations.torchdiffeq import odeint, odeint_dense
from fastgen.integrations.torchsde import BrownianInterval, sdeint

# %%
# Prothero and Robinson's equation, y' = -r (y - cos t) - sin t with r = 1000: whatever the start
# is, the solution is cos t almost at once.
RATE = 1000.0


class Stiff(torch.nn.Module):
    """The right-hand side, which counts its evaluations."""

    calls = 0

    def forward(self, t, y):
        """The slope at (t, y)."""
        self.calls += 1
        return -RATE * (y - torch.cos(t)) - torch.sin(t)


t = torch.linspace(0, 3, 7, dtype=torch.float64)
y0 = torch.ones(1, dtype=torch.float64)


def solved(method, **options):
    """Evaluations, and the largest error at the times t."""
    field = Stiff()
    y = odeint(field, y0, t, method=method, **options)
    return field.calls, float((y[:, 0] - torch.cos(t)).abs().max())


figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
explicit = [solved("dopri5", rtol=10.0**-k, atol=10.0**-k) for k in (3, 5, 7, 9)]
axis.loglog(*zip(*explicit, strict=True), "s-", color="0.4", label="dopri5 (explicit)")
for method in ("implicit_euler", "trbdf2", "sdirk2", "radauIIA5"):
    steps = [solved(method, options={"step_size": 0.5 / n}) for n in (1, 2, 4, 8)]
    axis.loglog(*zip(*steps, strict=True), "o-", label=f"{method} (implicit)")
axis.set(xlabel="evaluations of f", ylabel="largest error", title=f"a rate of {RATE:g}")
axis.grid(color="0.92")
axis.legend(frameon=False, fontsize=8)

# %%
# A solution as a function of time: the interpolants of the solver's own steps. A value costs no
# evaluation of f, and has a derivative in the time.
field = Stiff()
solution = odeint_dense(field, y0, t[0], t[-1], rtol=1e-6, atol=1e-8)
before = field.calls
when = torch.tensor(1.234, dtype=torch.float64, requires_grad=True)
(slope,) = torch.autograd.grad(solution(when), when)
print(f"y(1.234) - cos 1.234 = {float((solution(when) - torch.cos(when)).detach()):.1e}")
print(f"y'(1.234) + sin 1.234 = {float((slope + torch.sin(when)).detach()):.1e}")
print(f"evaluations: {before} to solve, {field.calls - before} to ask")


# %%
# Noise in a burst: dx = -x dt + s(t) cos(x) dW, where s is 5 for a fiftieth of the time and 0.1
# otherwise. A tolerance that is too loose would step over it. The reference is the solution along
# the same motion by 2048 steps.
class Burst:
    """Drift and diffusion; evaluations of the drift are counted."""

    noise_type, sde_type = "diagonal", "ito"
    calls = 0

    def f(self, t, x):
        """The drift."""
        self.calls += 1
        return -x

    def g(self, t, x):
        """The diffusion."""
        return (0.1 + 5 * torch.exp(-(((t - 0.6) / 0.02) ** 2))) * torch.cos(x)


x0, ts = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
motions = [
    BrownianInterval(
        0.0, 1.0, (1, 2), torch.float64, entropy=seed, levy_area_approximation="space-time"
    )
    for seed in range(4)
]
references = [sdeint(Burst(), x0, ts, m, "srk", dt=2.0**-11)[-1] for m in motions]


def along(k, **options):
    """Evaluations of f, and the error at the end, along a motion."""
    sde = Burst()
    x = sdeint(sde, x0, ts, motions[k], "srk", **options)
    return sde.calls, float((x[-1] - references[k]).abs().mean())


def mean(**options):
    """The same, over motions."""
    return [sum(k) / 4 for k in zip(*(along(k, **options) for k in range(4)), strict=True)]


fixed = [mean(dt=2.0**-k) for k in (5, 6, 7, 8)]
chosen = [mean(adaptive=True, dt=2.0**-6, rtol=0.0, atol=a) for a in (1e-3, 3e-4, 1e-4)]
figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
axis.loglog(*zip(*fixed, strict=True), "s-", color="0.4", label="srk, equal steps")
axis.loglog(*zip(*chosen, strict=True), "o-", color="tab:orange", label="srk, adaptive")
axis.set(xlabel="evaluations of f", ylabel="mean error", title="noise in a burst")
axis.grid(color="0.92")
axis.legend(frameon=False)
plt.show()
