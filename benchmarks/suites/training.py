"""Drawing one training batch, pairing given, beside torchcfm with independent pairs; one thread.

Then whole OT-CFM steps, beside the same step with independent pairs: what they take more is what
the pairing costs. "in the background" pairs the next batch on a second thread; of the step's wall
time it is measured which share the step waits for its pairs. Where pairing takes longer than
training, a second core cannot hide it: the step takes as long as the pairing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.peers import installed
from benchmarks.tools.harness import Case, Provider, measured
from benchmarks.tools.rows import Row, recorded, row
from benchmarks.tools.stacked import Stack
from fastgen.common.threads import threads
from fastgen.couplings import ExactOT, paired_batches
from fastgen.datasets import load
from fastgen.networks import ModulatedMLP
from fastgen.training import losses, paths

SUITE = "training"
SHAPES = [(512, 2), (256, 784), (256, 3072)]
WARM, STEPS = 3, 10


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
    peer = installed("torchcfm")
    if peer is None:
        return Case(SUITE, name, shape, torch.float32, providers)
    matcher = peer.ConditionalFlowMatcher(sigma)
    if name == "Brownian bridge":
        matcher = peer.SchrodingerBridgeConditionalFlowMatcher(sigma)
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


def batches(rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Noise and moons."""
    data, generator = load("moons").samples, torch.Generator().manual_seed(0)
    while True:
        x0 = torch.randn(rows, 2, generator=generator)
        yield x0, data[torch.randint(len(data), (rows,), generator=generator)]


def trainer(network: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Path, network, gradients, AdamW."""
    path = paths.Linear()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)

    def train(x0: Tensor, x1: Tensor) -> Tensor:
        sample = path.sample(x0, x1)
        loss = losses.flow_matching(network(sample.x_t, sample.t), sample)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    return train


def step(name: str, network: nn.Module, rows: int = 512) -> Case:
    """A whole step on the moons: data, noise, pairs, path, network, gradients, AdamW."""
    train, coupling = trainer(network), ExactOT()
    independent, inline = batches(rows), batches(rows)
    background = paired_batches(batches(rows), coupling)
    ways: dict[str, Callable[[], Tensor]] = {
        "independent pairs": lambda: train(*next(independent)),
        "exact OT": lambda: train(*coupling.pair(*next(inline))),
        "exact OT, in the background": lambda: train(*next(background)),
    }
    peer = installed("torchcfm.optimal_transport")
    if peer is not None:
        sampler, theirs = peer.OTPlanSampler("exact"), batches(rows)
        ways["exact OT of torchcfm"] = lambda: train(*sampler.sample_plan(*next(theirs)))
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


def waiting(name: str, network: nn.Module, quick: bool, rows: int = 512) -> Iterator[Row]:
    """The share of a step's wall time that passes before its pairs are there."""
    train, coupling = trainer(network), ExactOT()
    ways: dict[str, Iterator[tuple[Tensor, ...]]] = {
        "exact OT": (coupling.pair(*pair) for pair in batches(rows)),
        "exact OT, in the background": paired_batches(batches(rows), coupling),
    }
    shares: dict[str, list[float]] = {way: [] for way in ways}
    with threads(1):
        for _ in range(3 if quick else 10):
            for way, pairs in ways.items():
                # A round's first steps fill the queue, and are not counted.
                _waited(train, pairs, WARM)
                shares[way].append(_waited(train, pairs, STEPS))
    for way, values in shares.items():
        yield row(
            SUITE, f"waiting for pairs, {name}", way, "fastgen-torch", (rows, 2), torch.float32,
            "share", "%", values,
        )  # fmt: skip


def _waited(
    train: Callable[[Tensor, Tensor], Tensor], pairs: Iterator[tuple[Tensor, ...]], steps: int
) -> float:
    """Per cent."""
    begin, waited = time.perf_counter(), 0.0
    for _ in range(steps):
        asked = time.perf_counter()
        x0, x1 = next(pairs)
        waited += time.perf_counter() - asked
        train(x0, x1)
    return 100 * waited / (time.perf_counter() - begin)


def rows(quick: bool) -> Iterator[Row]:
    """The suite."""
    yield from measured(cases(quick), quick)
    for name, network in (("[64, 64, 64]", Small()), ("ModulatedMLP", ModulatedMLP((2,)))):
        if not recorded(SUITE, f"waiting for pairs, {name}", "exact OT", (512, 2)):
            yield from waiting(name, network, quick)
