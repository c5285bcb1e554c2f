"""Where the noise of a drop-in comes from: the arguments noise= and seed=.

"torch" draws what the peer draws, from the generators that the peer uses. "contract" is the
library's own noise: a function of (seed, sample, draw, element), made in the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_choice
from fastgen.common.kept import keeps
from fastgen.noise.keys import id_tensor, seed_tensor

NOISES = ("torch", "contract")
Seeds = int | Sequence[int] | Tensor
# Called as sampler(sigma, sigma_next) -> unit noise for the step between these noise levels.
NoiseSampler = Callable[[Any, Any], Tensor]


def check_noise(noise: str, seed: object, choices: Collection[str] = NOISES) -> None:
    """Raise a ValueError for an unknown choice, or a seed that the choice would not read."""
    check_choice("noise", noise, choices)
    if noise != "contract" and seed is not None:
        raise ValueError(
            f"seed={seed!r}: it is the seed of noise='contract'; noise={noise!r} comes from the "
            "peer's generators, which have seeds of their own"
        )


def fresh_seed() -> int:
    """A seed drawn from torch's global generator."""
    return int(torch.randint(2**63 - 1, (), device="cpu").item())


@keeps(16)
def unread_keys(rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Seeds and sample ids of a run whose kernels draw nothing."""
    return seed_tensor(0, rows, device), id_tensor(None, rows, device)


@dataclass(frozen=True)
class NoiseSource:
    """Where a run's noise comes from.

    Attributes:
        kind: "contract", or another name that the drop-in knows.
        seed: of "contract", one or one per sample; None draws one.
        sampler: what makes the noise otherwise; None where a run adds none.
        foreign: whether the sampler is the caller's, who expects noise levels as tensors.
    """

    kind: str = "torch"
    seed: Seeds | None = None
    sampler: NoiseSampler | None = None
    foreign: bool = False

    @property
    def in_kernels(self) -> bool:
        """Whether the kernels make the noise."""
        return self.kind == "contract"

    def keys(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Seeds [1] or [rows] and sample ids [rows] for the kernels of a run."""
        if not self.in_kernels:
            return unread_keys(rows, device)
        seed = fresh_seed() if self.seed is None else self.seed
        return seed_tensor(seed, rows, device), id_tensor(None, rows, device)
