"""Couplings by name, as training with noise uses them: which noise goes to which sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from fastgen.common.checks import check_choice
from fastgen.common.display import displayed
from fastgen.couplings.coupling import (
    ByLabel,
    Coupling,
    ExactOT,
    Hilbert,
    Independent,
    Sinkhorn,
    Sorted,
)

WITHIN_LABELS = "label-"


def _entropic(pairs: Literal["sample", "plan"]) -> Callable[..., Coupling]:
    def make(reg: float = 0.05, reg_scale: Any = "mean_cost", **options: Any) -> Coupling:
        return Sinkhorn(reg, reg_scale, pairs, options=options)

    return make


# Of each name: what makes it, the options it takes, and the one it needs.
_ENTROPIC = ("reg", "reg_scale", "tolerance", "max_iterations", "on_failure")
_KINDS: dict[str, tuple[Callable[..., Coupling], tuple[str, ...], str | None]] = {
    "independent": (Independent, (), None),
    "ot": (ExactOT, ("cost", "mode", "epsilon", "threads"), None),
    "sinkhorn": (_entropic("sample"), _ENTROPIC, None),
    "unbalanced": (_entropic("plan"), (*_ENTROPIC, "penalty"), "penalty"),
    "partial": (_entropic("plan"), (*_ENTROPIC, "mass"), "mass"),
    "hilbert": (Hilbert, (), None),
    "sorted": (Sorted, (), None),
}
NAMES = (*_KINDS, *(WITHIN_LABELS + k for k in _KINDS if k != "independent"))


@displayed
@dataclass(frozen=True)
class NamedCoupling:
    """A coupling by name, the same at each (seed, step), so that a killed run goes on exactly.

    name: "independent"; "ot", exact minibatch optimal transport (Tong et al. 2024, arXiv
    2302.00482; Pooladian et al. 2023, 2304.14772); "sinkhorn", every noise sample with a partner
    drawn from its row of the entropic plan; "unbalanced", pairs drawn from a plan whose marginals
    are relaxed by ``penalty`` (UOT-FM of Eyring et al. 2024, arXiv 2311.15100); "partial", from
    one that moves only ``mass`` < 1; "hilbert" and "sorted", by rank.

    "label-..." of each pairs within a label only. Without that the noise of a label's samples is
    not that of the prior (Cheng and Schwing 2025, arXiv 2503.10636).

    options: of `fastgen.couplings.assign` ("ot") or `fastgen.couplings.sinkhorn` (reg, by default
    0.05 of the mean cost ...).

    Raises:
        ValueError: for an unknown name, or an option that is missing.
        TypeError: for an unknown option.
    """

    name: str = "independent"
    options: Mapping[str, Any] = field(default_factory=dict)
    _coupling: Coupling = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_choice("coupling", self.name, NAMES)
        make, known, needed = _KINDS[self._kind]
        for option in self.options:
            if option not in known:
                raise TypeError(
                    f"coupling={self.name!r}: unknown option {option!r}; known: "
                    f"{', '.join(known) or 'none'}"
                )
        if needed is not None and needed not in self.options:
            raise ValueError(f"coupling={self.name!r}: give the option {needed!r}")
        object.__setattr__(self, "_coupling", make(**self.options))

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
        coupling = self._coupling
        if isinstance(coupling, Sinkhorn):
            # Within labels a step takes a draw for each label, of which one means "none given".
            coupling = coupling.at(seed, step * (classes + 2 if self.within_labels else 1))
        if not self.within_labels:
            return coupling(x0, x1)
        if labels is None:
            raise ValueError(
                f"coupling={self.name!r}: the data have no labels; give them, or use {self._kind!r}"
            )
        return ByLabel(coupling)(x0, x1, labels1=labels)
