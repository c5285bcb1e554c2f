"""The whole run by Adam, along gradients through the network.

For losses that are a function of the user's, and for the relaxed objective of S4S (Frankel et al.
2025, arXiv 2502.17423, section 3): a sample may begin anywhere within a ball around its noise,
min over |x_0' - x_0| <= radius |x_0|, as far as the teacher's end is concerned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastgen.fitting.moving import Moving
from fastgen.fitting.study import Batch, Study
from fastgen.fitting.whole_run import Descent, Search


class Adam(Search):
    """A batch of the training noise in each iteration; rates fall as a cosine.

    error: of the states at the end, about, to which steps are relative.
    """

    every = 20

    def __init__(
        self,
        study: Study,
        moving: Moving,
        descent: Descent,
        train: Sequence[Batch],
        error: float,
    ) -> None:
        super().__init__(study, moving, descent, train)
        rates = {"gaps": 3.0, "moves": 1.0}
        groups = [
            {"params": group, "lr": descent.rate * error * rates[name]}
            for name, group in self.groups.items()
            if group
        ]
        for parameter in self.free:
            parameter.requires_grad_(True)
        self.optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda k: 0.5 * (1 + math.cos(math.pi * min(k / descent.iterations, 1)))
        )
        self.starts = [self.start(b) for b in train]
        self.offsets = [torch.zeros_like(x) for x in self.starts]

    @torch.enable_grad()
    def advance(self) -> bool:
        """One step of Adam on the next batch; False, and nothing moved, where it is not finite."""
        k = self.iteration % len(self.train)
        batch, radius = self.train[k], self.descent.relaxation
        start = self.starts[k] + self.offsets[k]
        start.requires_grad_(radius > 0)
        loss = self.descent.error(self.run(batch, start), batch.targets[-1])
        wanted = [*self.free, *([start] if radius > 0 else [])]
        gradients = torch.autograd.grad(loss, wanted)
        if not all(bool(torch.isfinite(g).all()) for g in (loss, *gradients)):
            return False
        for parameter, gradient in zip(self.free, gradients, strict=False):
            parameter.grad = gradient
        self.optimiser.step()
        self.schedule.step()
        if radius > 0:
            self._relax(k, gradients[-1], radius)
        self.iteration += 1
        return True

    def _relax(self, k: int, gradient: Tensor, radius: float) -> None:
        """Move the starts of a batch downhill by a tenth of the ball, and back into it."""
        axes = tuple(range(1, gradient.ndim))
        size = partial(torch.linalg.vector_norm, dim=axes, keepdim=True)
        norms = [size(x).clamp(min=1e-30) for x in (gradient, self.starts[k])]
        moved = self.offsets[k] - 0.1 * radius * norms[1] * gradient / norms[0]
        length = size(moved).clamp(min=1e-30)
        self.offsets[k] = moved * (radius * norms[1] / length).clamp(max=1.0)

    def state(self) -> dict[str, Any]:
        """What `load` takes, in numbers and tensors."""
        return super().state() | {
            "optimiser": self.optimiser.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "offsets": self.offsets,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken."""
        super().load(state)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.offsets = state["offsets"]
