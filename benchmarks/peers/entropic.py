"""Entropic transport by POT and geomloss; both give the potential of the second cloud."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


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
