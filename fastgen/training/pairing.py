"""Couplings by name, as training with noise uses them: which noise goes to which sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fastgen.common.errors import nearest
from fastgen.couplings import ByLabel, Coupling, ExactOT, Hilbert, Independent, Sorted
from fastgen.couplings import sinkhorn as solve
from fastgen.couplings.sampling import sample_pairs

WITHIN_LABELS = "label-"


@dataclass
class _Entropic(Coupling):
    """Pairs of the entropic plan, as a function of (seed, draw)."""

    options: dict[str, Any]
    balanced: bool
    seed: int
    draw: int

    def __call__(
        self, x0: Tensor, x1: Tensor, labels0: Tensor | None = None, labels1: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Every row of x0 once, or, where the plan leaves rows out, as the plan has them."""
        result = solve(x0.detach(), x1.detach(), **self.options)
        draw, self.draw = self.draw, self.draw + 1  # one for each label
        count = None if self.balanced else len(x0)
        return sample_pairs(result, count, seed=self.seed, draw=draw)


Make = Callable[[dict[str, Any], int, int], Coupling]


def _entropic(required: str | None) -> Make:
    def make(options: dict[str, Any], seed: int, draw: int) -> Coupling:
        scaled = {"reg": 0.05, "reg_scale": "mean_cost", **options}
        return _Entropic(scaled, required is None, seed, draw)

    return make


def _simple(kind: Callable[..., Coupling]) -> Make:
    return lambda options, seed, draw: kind(**options)


# Of each name: what makes it, the options it takes, and the one it needs.
_ENTROPIC = ("reg", "reg_scale", "tolerance", "max_iterations", "on_failure")
_KINDS: dict[str, tuple[Make, tuple[str, ...], str | None]] = {
    "independent": (_simple(Independent), (), None),
    "ot": (_simple(ExactOT), ("cost", "mode", "epsilon", "threads"), None),
    "sinkhorn": (_entropic(None), _ENTROPIC, None),
    "unbalanced": (_entropic("penalty"), (*_ENTROPIC, "penalty"), "penalty"),
    "partial": (_entropic("mass"), (*_ENTROPIC, "mass"), "mass"),
    "hilbert": (_simple(Hilbert), (), None),
    "sorted": (_simple(Sorted), (), None),
}
NAMES = (*_KINDS, *(WITHIN_LABELS + k for k in _KINDS if k != "independent"))


@dataclass(frozen=True)
class Pairing:
    """A coupling by name, the same at each (seed, step), so that a killed run goes on exactly.

    name: "independent"; "ot", exact minibatch optimal transport (Tong et al. 2024, arXiv
    2302.00482; Pooladian et al. 2023, 2304.14772); "sinkhorn", every noise sample with a partner
    drawn from its row of the entropic plan; "unbalanced", pairs drawn from a plan whose marginals
    are relaxed by ``penalty`` (UOT-FM of Eyring et al. 2024, arXiv 2311.15100), and "partial", from
    one that moves only ``mass`` < 1; "hilbert" and "sorted" by rank; and "label-..." of each: only
    within a label, without which the noise of a label's samples is not that of the prior (Cheng and
    Schwing 2025, arXiv 2503.10636).
    options: of `fastgen.couplings.assign` ("ot") or `fastgen.couplings.sinkhorn` (reg, by default
    0.05 of the mean cost ...).

    Raises:
        ValueError: for an unknown name, or an option that is missing.
        TypeError: for an unknown option.
    """

    name: str = "independent"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"coupling={self.name!r}: {nearest(self.name, NAMES)}")
        _, known, needed = _KINDS[self._kind]
        for option in self.options:
            if option not in known:
                raise TypeError(
                    f"coupling={self.name!r}: unknown option {option!r}; known: "
                    f"{', '.join(known) or 'none'}"
                )
        if needed is not None and needed not in self.options:
            raise ValueError(f"coupling={self.name!r}: give the option {needed!r}")

    @property
    def _kind(self) -> str:
        return self.name.removeprefix(WITHIN_LABELS)

    @property
    def within_labels(self) -> bool:
        """Whether labels are needed."""
        return self.name.startswith(WITHIN_LABELS)

    def __call__(
        self,
        x0: Tensor,
        x1: Tensor,
        labels: Tensor | None = None,
        *,
        seed: int = 0,
        step: int = 0,
        classes: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Indices (i, j): noise x0[i] goes with x1[j], whose label is labels[j].

        Args:
            x0: noise [B, ...]. x1: data [B, ...].
            labels: of x1, [B].
            seed, step: of what is drawn.
            classes: of the labels: sets the draws of the steps apart.

        Raises:
            ValueError: without the labels that are needed.
        """
        draw = step * (classes + 2 if self.within_labels else 1)
        coupling = _KINDS[self._kind][0](dict(self.options), seed, draw)
        if not self.within_labels:
            return coupling(x0, x1)
        if labels is None:
            raise ValueError(
                f"coupling={self.name!r}: the data have no labels; give them, or use {self._kind!r}"
            )
        return ByLabel(coupling)(x0, x1, labels1=labels)
