"""Optimal transport: assignments, entropic and stored couplings, distances."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from fastgen import couplings
from fastgen.couplings import (
    ByLabel,
    ExactOT,
    GlobalBatch,
    Hilbert,
    Independent,
    LargeCoupling,
    PairingCollate,
    Semidiscrete,
    Sinkhorn,
    Sorted,
)
from tests.bits.problems import F32, F64, clouds, normal
from tests.bits.registry import group

SIZES = ((16, 16, 2), (33, 33, 5), (64, 64, 12), (12, 20, 3), (20, 12, 3), (1, 1, 2))


def assigned(*arguments, **options):
    found = couplings.assign(*arguments, return_duals=True, **options)
    return [found.permutation, found.cost, found.gap, found.duals]


@group("assign")
def assignments():
    for n, m, d in SIZES:
        for dtype in (F32, F64):
            x0, x1 = clouds(n, m, d, dtype)
            name = f"{n}-{m}-{d}/{dtype}"
            for cost in ("sqeuclidean", "euclidean"):
                yield f"{name}/{cost}", partial(assigned, x0, x1, cost=cost)
            yield f"{name}/eps", partial(assigned, x0, x1, mode="eps", epsilon=0.02)
            matrix = (x0[:, None] - x1[None]).abs().sum(-1)
            yield f"{name}/matrix", partial(assigned, cost=matrix)
            yield f"{name}/reference", partial(assigned, x0, x1, backend="reference")
    x0, x1 = clouds(200, 200, 2)
    yield "200", partial(assigned, x0, x1)
    yield "200/indices", lambda: couplings.assign(x0, x1).indices()
    yield (
        "200/warm",
        lambda: assigned(x0, x1 + 0.01, warm_start=couplings.assign(x0, x1, return_duals=True)),
    )
    yield "copies", partial(assigned, x0[:3].repeat(20, 1), x1[:60])
    yield "batched", partial(assigned, normal(3, 14, 2), normal(3, 14, 2, seed=1), batched=True)
    yield "function", partial(assigned, x0, x1, cost=lambda a, b: (a[:, None] - b).abs().amax(-1))
    for options in ({"mode": "epsilon"}, {"cost": "square"}, {"backend": "c++"}):
        yield f"error/{options}", partial(assigned, x0, x1, **options)


def entropic(n, m, d, dtype, **options):
    """Potentials, plan, cost, pairs, and what a second solve makes of them."""
    x0, x1 = clouds(n, m, d, dtype)
    result = couplings.sinkhorn(x0, x1, **{"reg": 0.2, "reg_scale": "mean_cost", **options})
    facts = [result.f, result.g, result.value, result.marginal_error, result.mass]
    plan = [result.plan(), result.marginals(), result.transport_cost(), result.iterations]
    pairs = [couplings.sample_pairs(result, c, seed=3, draw=2) for c in (None, 50)]
    return [facts, plan, pairs]


def rounded(n):
    x0, x1 = clouds(n, n, 3, F64)
    return couplings.round_to_permutation(couplings.sinkhorn(x0, x1, 0.5))


@group("sinkhorn")
def entropic_couplings():
    for n, m, d in ((16, 16, 2), (33, 20, 5), (40, 70, 40)):
        for dtype in (F32, F64):
            call, name = partial(entropic, n, m, d, dtype), f"{n}-{m}-{d}/{dtype}"
            yield f"{name}/balanced", call
            yield f"{name}/small", partial(call, reg=0.02, on_failure="return")
            yield f"{name}/penalty", partial(call, penalty=1.5)
            yield f"{name}/penalties", partial(call, penalty=(1.5, 0.4))
            yield f"{name}/partial", partial(call, mass=0.6)
            yield f"{name}/plain", partial(call, relax=False, anneal=False)
            weights = torch.linspace(0.5, 1.5, n, dtype=F64)
            yield f"{name}/weights", partial(call, weights0=weights / weights.sum())
            yield (
                f"{name}/divergence",
                partial(couplings.sinkhorn_divergence, *clouds(n, m, d, dtype), 0.3),
            )
    yield "gradient", gradient_of_divergence
    yield "rounded", partial(rounded, 24)
    yield "error/iterations", partial(entropic, 16, 16, 2, F64, reg=1e-4, max_iterations=3)
    yield "error/scale", partial(entropic, 16, 16, 2, F64, reg_scale="mean")


def gradient_of_divergence():
    x0, x1 = (x.requires_grad_() for x in clouds(12, 14, 3, F64))
    found = couplings.sinkhorn_divergence(x0, x1, 0.5)
    return [found, torch.autograd.grad(found, [x0, x1])]


COUPLINGS = {
    "independent": Independent,
    "exact": ExactOT,
    "replace": lambda: ExactOT(replace=True, generator=torch.Generator().manual_seed(1)),
    "hilbert": Hilbert,
    "sorted": Sorted,
    "direction": lambda: Sorted(torch.tensor([0.5, -1.0])),
    "sinkhorn": Sinkhorn,
    "permutation": lambda: Sinkhorn(0.1, pairs="permutation"),
    "label": lambda: ByLabel(ExactOT()),
    "global": lambda: GlobalBatch(ExactOT()),
}


@group("couplings")
def classes():
    labels = torch.arange(30) % 3
    for name, make in COUPLINGS.items():
        for dtype in (F32, F64):
            x0, x1 = clouds(30, 30, 2, dtype)
            given = (labels, labels) if name == "label" else ()
            yield f"{name}/{dtype}", partial(paired, make, x0, x1, given)
            yield f"{name}/{dtype}/alone", partial(paired, make, x0[:1], x1[:1], ())
    yield "collate", lambda: PairingCollate(ExactOT())([(x, k) for k, x in enumerate(normal(8, 2))])
    yield (
        "stream",
        lambda: list(
            couplings.paired_batches([clouds(16, 16, 2, seed=k) for k in range(3)], ExactOT())
        ),
    )
    yield "semidiscrete", semidiscrete
    yield "large", large
    for p in (1, 2, 3):
        call = partial(couplings.wasserstein, *clouds(40, 40, 3), p)
        yield f"wasserstein/{p}/exact", call
        yield f"wasserstein/{p}/sliced", partial(call, "sliced", directions=16, seed=2)


def paired(make, x0, x1, labels):
    """Indices of two batches, and the samples of a first."""
    if make is COUPLINGS["global"]:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        coupling, again = make(), make()
        found = [coupling(x0, x1, *labels), coupling(x1, x0, *labels)]
        i, j = again(x0, x1, *labels)
        return [found, x0[i], x1[j]]
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def semidiscrete():
    points = clouds(50, 50, 3)[1]
    coupling = Semidiscrete(points, block=17).fit(20, batch=64, seed=3)
    pairs = coupling.pair(normal(40, 3, seed=7))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "potential.safetensors"
        coupling.save(path)
        again = Semidiscrete.load(path, points)
    return [coupling.potential, pairs, again.potential]


def large():
    coupling = LargeCoupling.pair(*clouds(60, 45, 3), 0.2, block=20, seed=4, tolerance=1e-3)
    batches = [coupling.batch(16, draw=k, seed=1) for k in range(3)]
    return [coupling.partner, coupling.marginal_error, coupling.iterations, batches]
