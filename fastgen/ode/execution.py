"""How a solve is carried out; no result depends on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastgen.common.checks import check_at_least, check_function
from fastgen.ode.watching import Attempt


@dataclass(frozen=True)
class Execution:
    """With which samples f is called, and how often a GPU is waited for.

    compact: True promises that f may be called with some samples only, whichever; samples that
    have ended are then left out. None does so where f takes ``rows``. check_every: steps between
    two looks at which samples have ended; each look makes a GPU wait. None is 8 on a GPU, else 1.
    record_steps: keep every attempted step in `Solution.steps`, which `Solution.plot` draws; takes
    a little more time for each, and no result changes. on_attempt: called with an `Attempt` after
    every attempted step, also those that were refused.
    """

    compact: bool | None = None
    check_every: int | None = None
    record_steps: bool = False
    on_attempt: Callable[[Attempt], Any] | None = None

    def __post_init__(self) -> None:
        if self.check_every is not None:
            check_at_least("check_every", self.check_every, 1)
        if self.on_attempt is not None:
            check_function("on_attempt", self.on_attempt)

    def check(self, adaptive: bool, capture: bool, returned: bool) -> None:
        """Refuse what the method does not do.

        Raises:
            ValueError: naming the field.
        """
        if self.record_steps and (capture or not adaptive or not returned):
            raise ValueError(
                "execution: record_steps=True is for methods of varying steps without "
                "capture=True, with return_solution=True"
            )
        if self.on_attempt is not None and (capture or not adaptive):
            raise ValueError(
                "execution: on_attempt is for methods of varying steps without capture=True; "
                "those of fixed steps attempt each step once, and `callback` sees it"
            )
