"""Entropic transport by POT, geomloss and OTT-JAX, which give the potential of the second cloud."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable

import torch
from torch import Tensor

# Read when jax is first used: one thread, as torch has.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
# More pairs than this are not a matrix, which would be 1 GiB, but computed for so many rows.
OTT_MATRIX, OTT_ROWS = 1 << 28, 1024


def pot(x0: Tensor, x1: Tensor, reg: float, tolerance: float) -> Callable[[], Tensor]:
    """POT's log-domain solver on torch tensors; it checks an L2 error, every 10 sweeps."""
    import ot

    n = len(x0)
    weights = torch.full((n,), 1 / n)

    def run() -> Tensor:
        cost = torch.cdist(x0, x1).square()
        # The L1 error is at most sqrt(n) times the L2 norm; for these clouds about 0.8 of that.
        _, log = ot.bregman.sinkhorn_log(
            weights,
            weights,
            cost,
            reg,
            numItermax=2000,
            stopThr=tolerance / n**0.5,
            log=True,
            warn=False,
        )
        result: Tensor = log["log_v"] + torch.tensor(n).log()
        return result * reg

    return run


def geomloss(x0: Tensor, x1: Tensor, reg: float, scaling: float) -> Callable[[], Tensor]:
    """geomloss' dense backend; its cost is half the squared distance."""
    from geomloss import SamplesLoss

    loss = SamplesLoss(
        "sinkhorn",
        p=2,
        blur=(reg / 2) ** 0.5,
        scaling=scaling,
        debias=False,
        potentials=True,
        backend="tensorized",
    )

    def run() -> Tensor:
        result: Tensor = 2 * loss(x0, x1)[1].flatten()
        return result

    return run


def ott(
    x0: Tensor, x1: Tensor, reg: float, tolerance: float, momentum_from: int | None
) -> Callable[[], Tensor]:
    """OTT-JAX's solver, compiled; it checks the L1 error every 10 sweeps.

    momentum_from: the sweep after which momentum follows the rate of the error (Lehmann et al.);
    None for none.
    """
    jax = importlib.import_module("jax")
    linear = importlib.import_module("ott.solvers.linear")
    clouds = importlib.import_module("ott.geometry.pointcloud")
    acceleration = importlib.import_module("ott.solvers.linear.acceleration")
    a, b = (jax.numpy.asarray(x.numpy()) for x in (x0, x1))
    rows = OTT_ROWS if len(x0) * len(x1) > OTT_MATRIX else None
    momentum = None if momentum_from is None else acceleration.Momentum(start=momentum_from)

    def potential(x: object, y: object) -> object:
        geometry = clouds.PointCloud(x, y, epsilon=reg, batch_size=rows)
        return linear.solve(geometry, threshold=tolerance, momentum=momentum).g

    solve = jax.jit(potential)

    def run() -> Tensor:
        return torch.utils.dlpack.from_dlpack(solve(a, b).block_until_ready())

    return run
