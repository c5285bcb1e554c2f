"""Guidance: a second network output that enters the same fused stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fastgen.common.devices import upload

Network = Callable[..., Tensor]
# Data prediction [B, ...] and time to data prediction.
Transform = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True, eq=False)
class Guidance:
    """Classifier-free guidance: output = u + scale (c - u), inside an interval of times.

    c is the network's output for the call's own keyword arguments, u that for ``unconditional``
    ones (Ho and Salimans 2022, arXiv 2207.12598), or that of a weaker ``network``
    (autoguidance, Karras et al. 2024, arXiv 2406.02507). Both outputs are read by the one kernel
    of the stage, so guidance adds no pass over memory. Outside the interval the network is
    called once, for c (Kynkäänniemi et al. 2024, arXiv 2404.07724).

    Args:
        scale: one number, or one per sample [B]; 1 switches it off.
        unconditional: keyword arguments that replace the call's for u.
        interval: (low, high), times t with low <= t <= high are guided.
        network: the network for u, if it is another one.
        rescale: phi in [0, 1]: how far the guided output is brought back to c's standard deviation
            in every sample (Lin et al. 2023, arXiv 2305.08891, eq. 15 and 16). That is not linear:
            above 0 the two outputs are merged before the stage.
        batched: evaluate c and u in one call on 2 B rows: tensors among the keyword arguments
            are joined along their first axis, everything else must be equal for both.
    """

    scale: float | Tensor
    unconditional: Mapping[str, Any] = field(default_factory=dict)
    interval: tuple[float, float] = (0.0, 1.0)
    network: Network | None = None
    rescale: float = 0.0
    batched: bool = True
    _scales: dict[tuple[torch.device, torch.dtype], Tensor] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise ValueError(f"interval={self.interval!r}: expected 0 <= low <= high <= 1")
        if isinstance(self.scale, Tensor) and self.scale.ndim != 1:
            raise ValueError(f"scale: expected a number or [B], got {tuple(self.scale.shape)}")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale={self.rescale!r}: expected a number in [0, 1]")
        if self.network is not None and self.batched:
            object.__setattr__(self, "batched", False)

    def active(self, t: float) -> bool:
        """Whether u is evaluated at time t."""
        alone = not isinstance(self.scale, Tensor) and self.scale == 1
        return self.interval[0] <= t <= self.interval[1] and not alone

    def weights(self, t: float, scale: float) -> tuple[float, ...]:
        """The factors that the stage gives to c and u, or to the one output it reads."""
        return (scale, 1 - scale) if self.active(t) and not self.rescale else (1.0,)

    def merge(self, c: Tensor, u: Tensor) -> Tensor:
        """The guided output g, and g (phi std(c) / std(g) + 1 - phi) for rescale phi."""
        guided = u + self._factor(c) * (c - u)
        if not self.rescale:
            return guided
        axes = tuple(range(1, c.ndim))
        ratio = c.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
        return guided * (self.rescale * ratio + (1 - self.rescale))

    def _factor(self, c: Tensor) -> float | Tensor:
        if not isinstance(self.scale, Tensor):
            return self.scale  # as a tensor, it would have to be copied to c's device
        if (c.device, c.dtype) not in self._scales:
            scale = upload(self.scale.to(dtype=c.dtype), c.device)
            self._scales[c.device, c.dtype] = scale
        return self._scales[c.device, c.dtype].reshape(-1, *[1] * (c.ndim - 1))

    def of_rows(self, rows: Tensor) -> Guidance:
        """The guidance of some samples [A] of the batch."""
        if not isinstance(self.scale, Tensor):
            return self
        return replace(self, scale=self.scale.to(rows.device)[rows])

    def joined(self, batch: int, net_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments for one call on c's and u's rows.

        Raises:
            ValueError: naming an argument that cannot be joined.
        """
        joined = {}
        for name, c in {**self.unconditional, **net_kwargs}.items():
            u = self.unconditional.get(name, c)
            if isinstance(c, Tensor) and isinstance(u, Tensor) and c.ndim and u.ndim:
                rows = [v if v.shape[0] == batch else v.expand(batch, *v.shape[1:]) for v in (c, u)]
                joined[name] = torch.cat(rows)
            elif c is u or c == u:
                joined[name] = c
            else:
                raise ValueError(
                    f"guidance: {name}={c!r} and its unconditional value {u!r} cannot be joined "
                    "in one call; pass tensors with a batch axis, or batched=False"
                )
        return joined

    def separate(self, net_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments for u's own call."""
        return {**net_kwargs, **self.unconditional}


def dynamic_threshold(percentile: float = 0.995, least: float = 1.0) -> Transform:
    """A transform that clips every sample's data prediction to its own range and divides by it.

    s = max(percentile of |x_0|, least); x_0 <- clip(x_0, -s, s) least / s (Saharia et al. 2022,
    arXiv 2205.11487, section 2.3, with data in [-least, least]).
    """
    if not 0 < percentile <= 1:
        raise ValueError(f"percentile={percentile!r}: expected a number in (0, 1]")
    if not least > 0:
        raise ValueError(f"least={least!r}: expected a positive number")

    def transform(data: Tensor, t: float) -> Tensor:
        flat = data.flatten(1).abs()
        s = torch.quantile(flat, percentile, dim=1).clamp(min=least)
        s = s.reshape(-1, *[1] * (data.ndim - 1))
        return data.clamp(-s, s) * (least / s)

    return transform
