"""What a path gives for a batch: states, times, targets; also for samples of different lengths."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgen.common.display import displayed
from fastgen.common.padding import Padding

TARGETS = ("velocity", "noise", "score", "data", "source")


@displayed
class PathSample:
    """States x_t [B, ...] at times t [B], and the targets that were asked for as attributes.

    velocity: dx_t/dt; noise: z; score: of x_t given its end points, -z / s(t); data, source: the
    end points themselves, as they were paired. padding: of samples of different lengths, else None;
    losses are means over what it leaves.
    """

    def __init__(
        self,
        path: Any,
        t: Tensor,
        x_t: Tensor,
        targets: dict[str, Tensor],
        padding: Padding | None = None,
    ) -> None:
        self.path, self.t, self.x_t, self.targets = path, t, x_t, targets
        self.padding = padding

    def __getattr__(self, name: str) -> Tensor:
        if name in TARGETS:
            targets: dict[str, Tensor] = self.__dict__.get("targets", {})
            if name in targets:
                return targets[name]
            raise AttributeError(
                f"{name}: this sample has the targets {tuple(targets)}; ask for more, "
                f"path.sample(..., targets=(..., {name!r}))"
            )
        raise AttributeError(f"PathSample has no attribute {name!r}")

    def unpacked(self, padding: Padding) -> PathSample:
        """Of `packed` pairs, in the shape of the pairs."""
        targets = {name: padding.unpacked(x) for name, x in self.targets.items()}
        return PathSample(self.path, self.t, padding.unpacked(self.x_t), targets, padding)


def packed(
    x0: Tensor | None, x1: Tensor, pairs: tuple[Tensor | None, Tensor | None], mask: Tensor
) -> tuple[Tensor | None, Tensor, Padding]:
    """The pairs' live elements [B, N], and where they lie: what is live of a pair is so of x1."""
    live = Padding(mask, x1, name="data").live
    i, j = pairs
    if j is not None:
        x1, live = x1[j], live[j]
    if x0 is not None and i is not None:
        x0 = x0[i]
    padding = Padding(live, x1)
    if x0 is not None and len(x0) == len(x1):  # else it is said what is wrong with it
        x0 = padding.packed(x0)
    return x0, padding.packed(x1), padding
