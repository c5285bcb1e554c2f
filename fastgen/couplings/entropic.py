"""The entropic coupling as training uses it: pairs of a batch of noise and a batch of data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen.couplings.sampling import round_to_permutation, sample_pairs
from fastgen.couplings.sinkhorn import RegScale, sinkhorn


@dataclass
class Sinkhorn:
    """Pairs from the entropic plan: ``i, j = Sinkhorn(reg)(x0, x1)``.

    The k-th call with the same object uses draw k, so that a run is a function of its seed.

    Args:
        reg: the regularisation.
        reg_scale: "mean_cost" (reg is a part of the mean cost of the batch) or "absolute".
        pairs: "sample": every x0[i] once, with a partner drawn from its row of the plan;
            "permutation": a pairing near the plan in which no partner repeats.
        seed: of the draws.
        options: further keyword arguments of `sinkhorn`; a tolerance that is not reached raises a
            `SinkhornError`.
    """

    reg: float = 0.05
    reg_scale: RegScale = "mean_cost"
    pairs: Literal["sample", "permutation"] = "sample"
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    draw: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Check what no call would check before it is too late."""
        if self.pairs not in ("sample", "permutation"):
            raise ValueError(f"pairs={self.pairs!r}: expected 'sample' or 'permutation'")
        if not self.reg > 0:
            raise ValueError(f"reg={self.reg}: expected a number > 0")

    def __call__(
        self,
        x0: Tensor,
        x1: Tensor,
        labels0: Tensor | None = None,
        labels1: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Index tensors (i, j): x0[i] pairs with x1[j].

        Labels do not enter the cost: wrap the coupling in `ByLabel` to pair within labels.

        Args:
            x0: [n, ...].
            x1: [m, ...].
            labels0: None, or [n].
            labels1: None, or [m].

        Raises:
            ValueError: naming the argument; also for labels, which would be ignored.
        """
        check_no_labels(self, labels0, labels1)
        result = sinkhorn(
            x0.detach(), x1.detach(), self.reg, reg_scale=self.reg_scale, **self.options
        )
        draw, self.draw = self.draw, self.draw + 1
        if self.pairs == "sample":
            return sample_pairs(result, seed=self.seed, draw=draw)
        return torch.arange(x0.shape[0], device=x0.device), round_to_permutation(result)


def check_no_labels(coupling: object, labels0: Tensor | None, labels1: Tensor | None) -> None:
    """Raise a ValueError for labels: nothing is silently ignored."""
    for name, labels in (("labels0", labels0), ("labels1", labels1)):
        if labels is not None:
            raise ValueError(
                f"{name}: {type(coupling).__name__} pairs points whatever their labels; wrap it in "
                "ByLabel to pair within labels"
            )
