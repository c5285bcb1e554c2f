"""The part of benchmarks.gpu that pairs points."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.problems.points import clouds
from benchmarks.tools.harness import Provider
from benchmarks.tools.rows import row
from fastgen.couplings import Assignment, assign, costs
from fastgen.couplings.assignment import Backend
from fastgen.kernels.assignment import cuda
from fastgen.kernels.assignment.contract import Options


def couplings(bench: Bench) -> None:
    """Exact assignment, from points on the device to a permutation there.

    Beside it the same by way of the CPU, and torchcfm's plan. What the kernels counted (rounds,
    bids, steps ...), the certified gap and the excess over the CPU's cost are rows of their own.
    """
    sizes = [(64, 2), (64, 16)] if bench.quick else [(1024, 2), (1024, 784), (4096, 2)]
    sizes += [] if bench.quick else [(4096, 256), (16384, 2), (16384, 256)]
    for n, d in sizes:
        x0, x1 = (x.to(bench.device) for x in clouds(n, d))
        _coupling_case(bench, x0[None], x1[None], alone=True)
    for count, n in ((2, 16),) if bench.quick else ((512, 128), (128, 256), (64, 1024)):
        x0, x1 = torch.randn(2, count, n, 2, device=bench.device).unbind()
        _coupling_case(bench, x0, x1, alone=False)


def _coupling_case(bench: Bench, x0: Tensor, x1: Tensor, alone: bool) -> None:
    count, n, d = x0.shape
    case = "one assignment" if alone else f"{count} assignments"

    def provider(backend: Backend) -> Provider:
        if backend == "auto" and n > 4096:
            raise RuntimeError("takes too long")

        def run() -> Assignment:
            return assign(x0, x1, batched=True, backend=backend)

        if backend == "cuda":
            found = run()
            if not torch.as_tensor(found.gap <= 1.01e-6 * found.cost).all():
                raise RuntimeError(
                    f"relative gap {torch.as_tensor(found.gap / found.cost).max():.1e}"
                )
        return Provider("", run)

    def torchcfm() -> Provider:
        from torchcfm.optimal_transport import OTPlanSampler

        if not alone or n > 1024:
            raise RuntimeError("takes too long")
        sampler = OTPlanSampler("exact")
        return Provider("", lambda: sampler.sample_plan(x0[0], x1[0]), "torchcfm")

    providers = {
        "fastgen cuda": lambda: provider("cuda"),
        "fastgen copied to the CPU": lambda: provider("auto"),
        "torchcfm": torchcfm,
    }
    bench.compare("coupling", case, (n, d), x0.dtype, providers)
    if bench.device.type != "cuda":
        return
    try:
        problem = costs.problem(x0, x1, "sqeuclidean", True, on_device=True)
        found = cuda.solve(problem, Options())
        assert found.counts is not None
        figures = dict(zip(cuda.COUNTS, found.counts.double().mean(0).tolist(), strict=True))
        figures["gap"] = (found.gap / found.cost).max().item()
        least = torch.as_tensor(assign(x0[:1].cpu(), x1[:1].cpu(), batched=True).cost)
        figures["excess"] = abs(found.cost[0].item() / least.item() - 1)
    except Exception as error:
        bench.skip("coupling", case, "fastgen cuda", (n, d), f"{type(error).__name__}: {error}")
        return
    for metric, value in figures.items():
        shape = (n, d)
        bench.add(
            row(
                *("coupling", case, "fastgen cuda", "fastgen-torch", shape, x0.dtype),
                *(metric, "1", [value]),
            )
        )
