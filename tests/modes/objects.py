"""Objects that people copy and pickle, used once before: each as (make, use)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fastgen
import fastgen.integrations.diffusers as schedulers
import fastgen.integrations.torchsde as torchsde
from fastgen import couplings, schedules, training
from fastgen.schedules import LinearVP
from tests.modes.entries import model, network, noise_like, sampler
from tests.modes.modes import states

Use = Callable[[Any], Tensor]
OBJECTS: dict[str, tuple[Callable[[], Any], Use]] = {}
SLOW = {"compiled"}  # of which each copy compiles


def used(name: str, make: Callable[[], Any], use: Use) -> None:
    """Put an object into the table; it is used once when it is made."""

    def made() -> Any:
        found = make()
        use(found)
        return found

    OBJECTS[name] = made, use


class Policy(nn.Module):
    """A module that holds its sampler, as robot policies do; training keeps an average of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        nn.init.constant_(self.layer.weight, 0.1)
        nn.init.constant_(self.layer.bias, 0.2)
        plan = fastgen.plan("dpmpp_2m", LinearVP(), 4)
        self.sampler = fastgen.Sampler(fastgen.Model(self.velocity, LinearVP(), "velocity"), plan)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))

    def forward(self, seed: int) -> Tensor:
        return self.sampler((3, 6), seed=seed)


def _guided() -> fastgen.Sampler:
    guidance = fastgen.Guidance(torch.tensor([1.0, 2.0, 3.0]), {"shift": torch.zeros(3)})
    return sampler("ddim", guidance=guidance)


def _served(batch: Any) -> Tensor:
    ticket = batch.admit(seed=4)
    while ticket not in (done := batch.step()):
        pass
    return done[ticket]


used("sampler", sampler, lambda s: s((3, 6), seed=4))
used("sampler_sde", lambda: sampler("ddpm"), lambda s: s((3, 6), seed=4))
used("sampler_brownian", lambda: sampler("euler_maruyama", noise="brownian"), lambda s: s((3, 6)))
used("sampler_guided", _guided, lambda s: s((3, 6), seed=4, shift=torch.ones(3)))
used("sampler_float64", lambda: sampler(dtype=torch.float64), lambda s: s((3, 6), seed=4))
used("policy", Policy, lambda p: p(4))
used("captured", lambda: sampler().capture((3, 6)), lambda c: c(seed=4))
used("compiled", lambda: sampler().compile((3, 6)), lambda c: c((3, 6), seed=4))
used("continuous_batch", lambda: sampler().serve((3, 6)), _served)
used("model", model, lambda m: m.predict("data", states(), 0.5))
used("guidance", lambda: fastgen.Guidance(2.0, {"shift": torch.zeros(3)}), lambda g: torch.tensor(
    g.weights(0.5, g.scale)
))  # fmt: skip
used("plan", lambda: fastgen.plan("unipc", LinearVP(), 4), lambda p: fastgen.Sampler(model(), p)(
    (3, 6)
))  # fmt: skip
for kind in (LinearVP, schedules.CosineVP, schedules.Rectified, schedules.VE, schedules.EDM):
    used(f"schedule_{kind.__name__}", kind, lambda s: torch.tensor(s.sigma(0.37)))
used("brownian_path", lambda: fastgen.BrownianPath((3, 6), seed=4), lambda w: w(0.25, 0.75))
used("exact_ot", couplings.ExactOT, lambda c: c.pair(noise_like(states()), states())[1])
used("sinkhorn", lambda: couplings.Sinkhorn(reg=0.5), lambda c: c.pair(
    noise_like(states()), states()
)[1])  # fmt: skip
used("linear_path", training.paths.Linear, lambda p: p.sample(
    noise_like(states()), states(), seed=4
).x_t)  # fmt: skip
used(
    "brownian_interval",
    lambda: torchsde.BrownianInterval(0.0, 1.0, size=(3, 6), entropy=7),
    lambda w: w(0.25, 0.75),
)

DETERMINISTIC = (
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


def _half_way(name: str) -> Any:
    """A scheduler after two steps, with the state that it left."""
    scheduler = getattr(schedulers, name)()
    scheduler.set_timesteps(6)
    return [scheduler, *_onward(scheduler, states(), 0, 2)]


def _onward(scheduler: Any, x: Tensor, start: int, count: int) -> tuple[int, Tensor]:
    for k in range(start, start + count):
        t = scheduler.timesteps[k]
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(scaled, t.reshape(1) / 1000), t, x).prev_sample
    return start + count, x


for scheduler in DETERMINISTIC:
    OBJECTS[scheduler] = (
        lambda name=scheduler: _half_way(name),
        lambda half: _onward(half[0], half[2], half[1], 3)[1],
    )
