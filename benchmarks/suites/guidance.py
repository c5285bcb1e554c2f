"""Rules of guidance: microseconds to merge two outputs, beside diffusers' guiders, one thread.

"a step" is a whole step of DDIM around a network that costs nothing: with plain guidance, whose two
outputs the stage itself reads, and with rules, which merge them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import fastgen
from benchmarks.tools.harness import Case, Provider, measured
from benchmarks.tools.rows import Row
from fastgen import Guidance, rules
from fastgen.schedules import LinearVP

SHAPES = [(1, 4, 64, 64), (16, 4, 64, 64), (64, 3, 32, 32)]
SCALE, STEPS = 6.5, 20
# Of diffusers.guiders: the class, its options, and what it is here. Theirs counts the scale from 0
# where a rule is of the paper's form.
GUIDERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "rescale": (
        "ClassifierFreeGuidance",
        {"guidance_scale": SCALE, "guidance_rescale": 0.7},
        {"rescale": 0.7},
    ),
    "zero_star": (
        "ClassifierFreeZeroStarGuidance",
        {"guidance_scale": SCALE, "zero_init_steps": 0},
        {"rule": "zero_star"},
    ),
    "tcfg": ("TangentialClassifierFreeGuidance", {"guidance_scale": SCALE}, {"rule": "tcfg"}),
    "apg": (
        "AdaptiveProjectedGuidance",
        {
            "guidance_scale": SCALE - 1,
            "adaptive_projected_guidance_rescale": 15.0,
            "eta": 0.3,
            "use_original_formulation": True,
            "adaptive_projected_guidance_momentum": None,
        },
        {"rule": rules.APG(eta=0.3, norm=15.0)},
    ),
}


def _outputs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(shape, generator=generator)
    return c, 0.7 * c + 0.5 * torch.randn(shape, generator=generator) + 0.1


def _merge(name: str, shape: tuple[int, ...]) -> Case:
    kind, theirs, ours = GUIDERS[name]
    c, u = _outputs(shape)
    guidance = Guidance(SCALE, **ours)
    providers = [Provider("fastgen", lambda: guidance.merge([c, u], 0.5).output)]
    try:
        import diffusers.guiders
    except ImportError:
        return Case("guidance", f"{name}, merge", shape, torch.float32, providers)
    guider = getattr(diffusers.guiders, kind)(**theirs)
    guider._step, guider._num_inference_steps, guider._enabled = 1, 10, True
    providers.append(Provider("diffusers", lambda: guider.forward(c, u).pred))
    return Case("guidance", f"{name}, merge", shape, torch.float32, providers, tolerance=1e-4)


def _step(shape: tuple[int, ...]) -> Case:
    schedule = LinearVP()
    both = torch.cat(_outputs(shape))
    plan = fastgen.plan("ddim", schedule, STEPS, start=0.99)

    def net(x: Tensor, t: Tensor, which: Tensor) -> Tensor:
        return both

    model = fastgen.Model(net, schedule, "noise", per_sample=("which",))
    which = torch.zeros(shape[0])

    def run(**options: Any) -> Callable[[], Tensor]:
        guidance = Guidance(SCALE, {"which": which + 1}, **options)
        sampler = fastgen.Sampler(model, plan, guidance=guidance)
        x = torch.randn(shape)
        return lambda: sampler(x, which=which)

    kinds: dict[str, dict[str, Any]] = {"fastgen, cfg": {}}
    kinds |= {f"fastgen, {name}": ours for name, (_, _, ours) in GUIDERS.items()}
    providers = [Provider(name, run(**options), units=STEPS) for name, options in kinds.items()]
    return Case("guidance", "a step", shape, torch.float32, providers)


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    shapes = SHAPES[1:2] if quick else SHAPES
    cases = [_merge(name, shape) for shape in shapes for name in GUIDERS]
    return measured([*cases, *(_step(shape) for shape in shapes)], quick)
