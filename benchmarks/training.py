"""Drawing one training batch, pairing given, beside torchcfm with independent pairs; one thread.

Then whole OT-CFM steps, beside the same step with independent pairs: what they take more is what
the pairing costs. "in the background" pairs the next batch on a second thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.harness import Case, Provider, Row, measured
from benchmarks.stacked import Stack
from fastgen.couplings import ExactOT, paired_batches
from fastgen.networks import ModulatedMLP
from fastgen.training import losses, paths
from fastgen.training.data import load

SUITE = "training"
SHAPES = [(512, 2), (256, 784), (256, 3072)]


def batch(shape: tuple[int, ...], sigma: float, name: str) -> Case:
    """Times, states and velocities of conditional flow matching from x0 to x1."""
    x0, x1 = torch.randn(2, *shape).unbind(0)
    pairs = None, torch.randperm(shape[0])
    path = paths.Brownian(sigma) if name == "Brownian bridge" else paths.Linear(sigma)

    def fastgen() -> Tensor:
        return path.sample(x0, x1, seed=1, step=3).velocity

    def paired() -> Tensor:
        return path.sample(x0, x1, seed=1, step=3, pairs=pairs).velocity

    providers = [Provider("fastgen", fastgen), Provider("fastgen, with a pairing", paired)]
    try:
        from torchcfm import ConditionalFlowMatcher
        from torchcfm import SchrodingerBridgeConditionalFlowMatcher as BridgeMatcher
    except ImportError:
        return Case(SUITE, name, shape, torch.float32, providers)
    matcher = ConditionalFlowMatcher(sigma)
    if name == "Brownian bridge":
        matcher = BridgeMatcher(sigma)
        matcher.ot_sampler.sample_plan = lambda x0, x1: (x0, x1)  # the pairing is given

    def torchcfm() -> Tensor:
        result: Tensor = matcher.sample_location_and_conditional_flow(x0, x1)[2]
        return result

    return Case(
        SUITE,
        name,
        shape,
        torch.float32,
        [*providers, Provider("torchcfm", torchcfm, "torchcfm")],
        floor_bytes=16 * x0.numel(),
    )


def step(name: str, network: nn.Module, rows: int = 512) -> Case:
    """A whole step on the moons: data, noise, pairs, path, network, gradients, AdamW."""
    data, path, coupling = load("moons").samples, paths.Linear(), ExactOT()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
    generator = torch.Generator().manual_seed(0)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            x0 = torch.randn(rows, 2, generator=generator)
            yield x0, data[torch.randint(len(data), (rows,), generator=generator)]

    def train(x0: Tensor, x1: Tensor) -> Tensor:
        sample = path.sample(x0, x1)
        loss = losses.flow_matching(network(sample.x_t, sample.t), sample)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    independent, inline = batches(), batches()
    background = paired_batches(batches(), coupling)
    ways: dict[str, Callable[[], Tensor]] = {
        "independent pairs": lambda: train(*next(independent)),
        "exact OT": lambda: train(*coupling.pair(*next(inline))),  # type: ignore[arg-type]
        "exact OT, in the background": lambda: train(*next(background)),
    }
    try:
        from torchcfm.optimal_transport import OTPlanSampler

        sampler, theirs = OTPlanSampler("exact"), batches()
        ways["exact OT of torchcfm"] = lambda: train(*sampler.sample_plan(*next(theirs)))
    except ImportError:
        pass
    package = {"exact OT of torchcfm": "torchcfm"}
    providers = [Provider(k, run, package.get(k, "fastgen-torch")) for k, run in ways.items()]
    return Case(SUITE, f"OT-CFM step, {name}", (rows, 2), torch.float32, providers)


class Small(nn.Module):
    """The network [64, 64, 64] of the 2-D protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = Stack(["small"])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity."""
        found: Tensor = self.stack(x[None], t[None])[0]
        return found


def cases(quick: bool) -> list[Case]:
    """All cases of the suite."""
    kinds = [("straight", 0.0), ("straight, sigma 0.1", 0.1), ("Brownian bridge", 1.0)]
    shapes = SHAPES[:2] if quick else SHAPES
    steps = [step("[64, 64, 64]", Small()), step("ModulatedMLP", ModulatedMLP((2,)))]
    return [batch(shape, sigma, name) for shape in shapes for name, sigma in kinds] + steps


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    return measured(cases(quick), quick)
