"""Drawing one training batch, pairing given, beside torchcfm with independent pairs; one thread."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.harness import Case, Provider, Row, measured
from fastgen.training import paths

SHAPES = [(512, 2), (256, 784), (256, 3072)]


def batch(shape: tuple[int, ...], sigma: float, name: str) -> Case:
    """Times, states and velocities of conditional flow matching from x0 to x1."""
    x0, x1 = torch.randn(2, *shape).unbind(0)
    pairs = None, torch.randperm(shape[0])
    path = paths.Brownian(sigma) if name == "Brownian bridge" else paths.Linear(sigma)

    def fastgen() -> torch.Tensor:
        return path.sample(x0, x1, seed=1, step=3).velocity

    def paired() -> torch.Tensor:
        return path.sample(x0, x1, seed=1, step=3, pairs=pairs).velocity

    providers = [Provider("fastgen", fastgen), Provider("fastgen, with a pairing", paired)]
    try:
        from torchcfm import ConditionalFlowMatcher
        from torchcfm import SchrodingerBridgeConditionalFlowMatcher as BridgeMatcher
    except ImportError:
        return Case("training", name, shape, torch.float32, providers)
    matcher = ConditionalFlowMatcher(sigma)
    if name == "Brownian bridge":
        matcher = BridgeMatcher(sigma)
        matcher.ot_sampler.sample_plan = lambda x0, x1: (x0, x1)  # the pairing is given

    def torchcfm() -> torch.Tensor:
        result: torch.Tensor = matcher.sample_location_and_conditional_flow(x0, x1)[2]
        return result

    return Case(
        "training",
        name,
        shape,
        torch.float32,
        [*providers, Provider("torchcfm", torchcfm, "torchcfm")],
        floor_bytes=16 * x0.numel(),
    )


def cases(quick: bool) -> list[Case]:
    """All cases of the suite."""
    kinds = [("straight", 0.0), ("straight, sigma 0.1", 0.1), ("Brownian bridge", 1.0)]
    shapes = SHAPES[:2] if quick else SHAPES
    return [batch(shape, sigma, name) for shape in shapes for name, sigma in kinds]


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    return measured(cases(quick), quick)
