"""The drop-ins for k-diffusion, EDM, flow_matching and azula beside what they stand in for.

Networks cost nothing: they hand out tensors made beforehand, the same ones in every run, so the
results can be compared and the time is that of the sampler. k-diffusion is read from its own
sampling.py, which imports more than its samplers need; EDM's code is not a package, so its
sampler is Algorithm 2 in eager PyTorch; flow_matching steps by torchdiffeq, which is called here
as it calls it. Noise is torch's and the same on both sides unless the case says "contract": made
in the kernels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import installed, k_diffusion
from benchmarks.problems.networks import Outputs
from benchmarks.tools.harness import Case, Provider, measured
from benchmarks.tools.rows import Row
from fastgen import Sampler, plan
from fastgen.integrations.azula import as_model
from fastgen.integrations.edm import edm_sampler
from fastgen.integrations.flow_matching.solver import ODESolver
from fastgen.integrations.k_diffusion import sampling

STEPS = 20
SHAPES = [(256, 2), (1, 4, 64, 64), (64, 3, 32, 32)]
# Sampler, its options, evaluations per step; "randn" gives both sides fresh noise where theirs
# is a Brownian tree, which is another on each side.
SAMPLERS: list[tuple[str, dict[str, Any], int]] = [
    ("euler", {}, 1),
    ("heun", {}, 2),
    ("dpm_2", {}, 2),
    ("lms", {}, 1),
    ("dpmpp_2m", {}, 1),
    ("euler", {"s_churn": 10.0}, 1),
    ("euler_ancestral", {}, 1),
    ("dpm_2_ancestral", {}, 2),
    ("dpmpp_2s_ancestral", {}, 2),
    ("dpmpp_sde", {"noise_sampler": "randn"}, 2),
    ("dpmpp_2m_sde", {"noise_sampler": "randn"}, 1),
    ("dpmpp_3m_sde", {"noise_sampler": "randn"}, 1),
]
DETERMINISTIC = ("lms", "dpmpp_2m")


def _seeded(function: Callable[..., Tensor], net: Outputs, *arguments: Any, **options: Any) -> Any:
    def run() -> Tensor:
        torch.manual_seed(0)
        return function(net(), *arguments, **options)

    return run


def k_diffusion_cases(shape: tuple[int, ...]) -> Iterator[Case]:
    """One case for each sampler with equal noise, and one with noise made in the kernels."""
    peer = k_diffusion.sampling()
    x, net = torch.randn(shape) * 20, Outputs(shape)
    sigmas = sampling.get_sigmas_karras(STEPS, 0.03, 20.0)

    def randn(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.randn_like(x)

    for name, options, calls in SAMPLERS:
        own = {k: randn if v == "randn" else v for k, v in options.items()}
        function = getattr(sampling, f"sample_{name}")
        arguments = x, sigmas, None, None, True
        units = calls * STEPS
        run = _seeded(function, net, *arguments, **own)
        theirs: list[Provider] = []
        if peer is not None:
            run_theirs = _seeded(getattr(peer, f"sample_{name}"), net, *arguments, **own)
            theirs = [Provider("k-diffusion", run_theirs, "k-diffusion", units)]
        shown = [f"{k}={v:g}" for k, v in options.items() if v != "randn"]
        label = " ".join([f"k_diffusion {name}", *shown])
        yield Case(
            "drop_ins",
            label,
            shape,
            torch.float32,
            [Provider("fastgen", run, units=units), *theirs],
            tolerance=1e-4,
        )
        if name not in DETERMINISTIC:
            own.pop("noise_sampler", None)
            run = _seeded(function, net, *arguments, noise="contract", seed=0, **own)
            yield Case(
                "drop_ins",
                f"{label}, contract noise",
                shape,
                torch.float32,
                [Provider("fastgen", run, units=units), *theirs],
            )


class EdmNet:
    """The attributes of EDM's networks."""

    sigma_min, sigma_max = 0.0, math.inf

    def __init__(self, net: Callable[..., Tensor]) -> None:
        self.net = net

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """Every level is possible."""
        return torch.as_tensor(sigma)

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """The denoised state."""
        return self.net(x, sigma)


def algorithm_2(net: EdmNet, latents: Tensor, s_churn: float) -> Tensor:
    """Karras et al. 2022 (arXiv 2206.00364), Alg. 2, as one writes it in PyTorch; float64."""
    steps = torch.arange(STEPS, dtype=torch.float64) / (STEPS - 1)
    t = (80 ** (1 / 7) + steps * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    t = torch.cat([net.round_sigma(t), torch.zeros(1)])
    x = latents.double() * t[0]
    for i, (now, after) in enumerate(itertools.pairwise(t)):
        gamma = min(s_churn / STEPS, math.sqrt(2) - 1)
        up = net.round_sigma(now + gamma * now)
        x = x + (up**2 - now**2).sqrt() * torch.randn_like(x)
        d = (x - net(x, up).double()) / up
        euler = x + (after - up) * d
        if i < STEPS - 1:
            d_after = (euler - net(euler, after).double()) / after
            euler = x + (after - up) * (d + d_after) / 2
        x = euler
    return x


def edm_cases(shape: tuple[int, ...]) -> Iterator[Case]:
    """EDM's sampler with and without churn, in float64 as its code has it, and in float32."""
    net, latents, units = Outputs(shape), torch.randn(shape), 2 * STEPS - 1

    def ours(net: Callable[..., Tensor], **options: Any) -> Tensor:
        return edm_sampler(EdmNet(net), latents, num_steps=STEPS, **options)

    def theirs(net: Callable[..., Tensor], s_churn: float) -> Tensor:
        return algorithm_2(EdmNet(net), latents, s_churn)

    for churn in (0.0, 10.0):
        other = Provider("eager Alg. 2", _seeded(theirs, net, churn), "torch", units)
        run = _seeded(ours, net, S_churn=churn)
        label = f"edm S_churn={churn:g}"
        pair = [Provider("fastgen", run, units=units), other]
        yield Case("drop_ins", label, shape, torch.float64, pair, tolerance=1e-9)
        run = _seeded(ours, net, S_churn=churn, noise="contract", seed=0)
        pair = [Provider("fastgen", run, units=units), other]
        yield Case("drop_ins", f"{label}, contract noise", shape, torch.float64, pair)
        run = _seeded(ours, net, S_churn=churn, noise="contract", seed=0, dtype=torch.float32)
        pair = [Provider("fastgen", run, units=units), other]
        yield Case("drop_ins", f"{label}, contract noise, float32", shape, torch.float32, pair)


def flow_cases(shape: tuple[int, ...]) -> Iterator[Case]:
    """The fixed-step methods beside torchdiffeq."""
    net, x, times = Outputs(shape), torch.randn(shape), torch.tensor([0.0, 1.0])
    peer = installed("torchdiffeq")
    for method, calls in (("euler", 1), ("midpoint", 2), ("rk4", 4)):
        units = calls * STEPS

        def ours(net: Callable[..., Tensor], method: str = method) -> Tensor:
            return ODESolver(net).sample(x, step_size=1 / STEPS, method=method)

        providers = [Provider("fastgen", _seeded(ours, net), units=units)]
        if peer is not None:

            def theirs(net: Callable[..., Tensor], method: str = method) -> Tensor:
                options = {"step_size": 1 / STEPS}
                with torch.no_grad():
                    states = peer.odeint(
                        lambda t, x: net(x=x, t=t), x, times, method=method, options=options
                    )
                return states[-1]

            providers.append(Provider("torchdiffeq", _seeded(theirs, net), "torchdiffeq", units))
        label = f"flow_matching {method}"
        yield Case("drop_ins", label, shape, torch.float32, providers, tolerance=1e-4)


class Denoiser(torch.nn.Module):
    """An azula denoiser that hands out a network's outputs as posterior means."""

    def __init__(self, schedule: Any, net: Outputs) -> None:
        super().__init__()
        self.schedule, self.net = schedule, net
        self.restart()

    def restart(self) -> None:
        """From the first output on."""
        self.outputs = self.net()

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        """The posterior."""
        return SimpleNamespace(mean=self.outputs(x))


def azula_cases(shape: tuple[int, ...]) -> Iterator[Case]:
    """DDIM of a denoiser by azula's sampler and as a model."""
    noise, sample = installed("azula.noise"), installed("azula.sample")
    if noise is None or sample is None:
        return
    denoiser, x, stop = Denoiser(noise.VPSchedule(), Outputs(shape)), torch.randn(shape), 0.05
    model = as_model(denoiser, times="each")
    ours = Sampler(model, plan("ddim", model.schedule, STEPS, timesteps="uniform", end=stop))
    theirs = sample.DDIMSampler(denoiser, steps=STEPS, stop=stop, silent=True)

    def run(sampler: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        def from_the_first() -> Tensor:
            denoiser.restart()
            return sampler(x)

        return from_the_first

    pair = [
        Provider("fastgen", run(ours), units=STEPS),
        Provider("azula", run(theirs), "azula", STEPS),
    ]
    yield Case("drop_ins", "azula ddim", shape, torch.float32, pair, tolerance=1e-4)


def cases(quick: bool) -> list[Case]:
    """All cases of the suite."""
    return [
        case
        for shape in (SHAPES[:1] if quick else SHAPES)
        for kind in (k_diffusion_cases, edm_cases, flow_cases, azula_cases)
        for case in kind(shape)
    ]


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    return measured(cases(quick), quick)
