"""Whether a function gives the same value when it is evaluated again.

One that draws random numbers, as a network with dropout does, has no error estimate that falls with
the step: steps become so short that a solve does not end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.common.checks import rows_of

# The first look, in evaluations; the next ones are at twice as many each.
FIRST_LOOK = 256


class Looks:
    """When to evaluate twice: seldom, so that it costs nothing, and soon in a solve of many steps.

    next: after so many evaluations.

    Args:
        first: evaluations before the first look.
    """

    def __init__(self, first: int = FIRST_LOOK) -> None:
        self.next = first

    def due(self, evaluations: int) -> bool:
        """Whether so many evaluations are a reason to look."""
        if evaluations < self.next:
            return False
        self.next = 2 * evaluations
        return True


def check_repeats(
    name: str, first: Tensor, again: Tensor, step: Tensor, scale: Tensor, who: Tensor
) -> None:
    """Raise a RuntimeError where two values at one point differ by more than is tolerated.

    Args:
        name: of the function.
        first, again: its values [A, ...].
        step: the step in which they are used, [A].
        scale: what errors may be, [A, ...].
        who: the samples, int64 [A].
    """
    apart = rows_of((again.double() - first.double()) / scale.double())
    apart = step.double().abs() * torch.nan_to_num(apart, 0.0, 0.0, 0.0).square().mean(1).sqrt()
    if bool((apart > 1).any()):
        worst = int(apart.argmax())
        off = float((again[worst].double() - first[worst].double()).abs().max())
        size = float(first[worst].double().abs().max())
        raise RuntimeError(
            f"{name}: evaluated twice at the same time and state of sample {int(who[worst])} it "
            f"gives values that differ by {off:.3g} where they are as large as {size:.3g}, more "
            "than the tolerances allow in a step: steps cannot be chosen by error. If a network "
            "has dropout or batch normalisation, call its eval(); fixed steps need no estimate"
        )
