"""Guidance: a second network output that enters the same fused stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen.common.checks import check_number, check_pair
from fastgen.common.devices import upload
from fastgen.common.display import displayed
from fastgen.common.typed import shown, typed_fields
from fastgen.model.arguments import Declared

Network = Callable[..., Tensor]
# Data prediction [B, ...] and time to data prediction.
Transform = Callable[[Tensor, float], Tensor]


@displayed
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
        batched: evaluate c and u in one call on 2 B rows where one call can have the arguments of
            both: tensors [B, ...] or [1, ...] that differ are joined along their first axis, also
            in dictionaries, lists and tuples, and what all samples share is handed over once.
            Otherwise there are two calls: where a name is given for u alone, where numbers or None
            differ, and for a tensor [B, ...] that is the same for both and that
            ``Model(shared=..., per_sample=...)`` says nothing of.

    Example:
        >>> def net(x, t, labels):
        ...     return labels[:, None] + 0 * x
        >>> model = fastgen.Model(net, fastgen.schedules.CosineVP(), predicts="data")
        >>> none, wanted = torch.zeros(4), torch.ones(4)
        >>> guidance = fastgen.Guidance(2.0, unconditional={"labels": none})
        >>> x = fastgen.sample(
        ...     model, (4, 1), "ddim", 10, guidance=guidance, net_kwargs={"labels": wanted}
        ... )
        >>> x[:, 0].tolist()  # u + 2 (c - u)
        [2.0, 2.0, 2.0, 2.0]
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
        typed_fields(self)
        check_scale("scale", self.scale)
        if not isinstance(self.unconditional, Mapping) or not all(
            isinstance(name, str) for name in self.unconditional
        ):
            raise TypeError(
                f"unconditional={self.unconditional!r}: expected a dictionary of the network's "
                "arguments, such as {'label': null}"
            )
        low, high = check_pair("interval", self.interval)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"interval={self.interval!r}: expected 0 <= low <= high <= 1")
        if self.network is not None and not callable(self.network):
            raise TypeError(f"network: expected a callable net(x, t, **kwargs), got {self.network}")
        if not 0 <= check_number("rescale", self.rescale) <= 1:
            raise ValueError(f"rescale={self.rescale!r}: expected a number in [0, 1]")
        if not isinstance(self.batched, bool):
            raise TypeError(f"batched={shown(self.batched)}: expected True or False")
        if self.network is not None and self.batched:
            object.__setattr__(self, "batched", False)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"scale": self.scale}
        facts |= {"unconditional": self.unconditional} if self.unconditional else {}
        facts |= {"network": self.network} if self.network is not None else {}
        facts["interval"] = self.interval
        facts |= {"rescale": self.rescale} if self.rescale else {}
        return {**facts, "batched": self.batched}

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
        if c.ndim < 2 or c.numel() <= len(c):  # one number has no deviation to keep
            return guided
        axes = tuple(range(1, c.ndim))
        own = guided.std(axes, keepdim=True)
        flat = own < torch.finfo(own.dtype).tiny  # all numbers are equal: nothing to scale
        ratio = torch.where(flat, 1.0, c.std(axes, keepdim=True)) / torch.where(flat, 1.0, own)
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

    def joined(
        self, batch: int, net_kwargs: Mapping[str, Any], declared: Declared
    ) -> dict[str, Any] | None:
        """Keyword arguments for one call on c's and u's rows, or None where there must be two."""
        return declared.joined(net_kwargs, self.separate(net_kwargs), batch)

    def separate(self, net_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments for u's own call."""
        return {**net_kwargs, **self.unconditional}


def dynamic_threshold(percentile: float = 0.995, least: float = 1.0) -> Transform:
    """A transform that clips every sample's data prediction to its own range and divides by it.

    s = max(percentile of |x_0|, least); x_0 <- clip(x_0, -s, s) least / s (Saharia et al. 2022,
    arXiv 2205.11487, section 2.3, with data in [-least, least]).
    """
    if not 0 < check_number("percentile", percentile) <= 1:
        raise ValueError(f"percentile={percentile!r}: expected a number in (0, 1]")
    if not 0 < check_number("least", least) < math.inf:
        raise ValueError(f"least={least!r}: expected a positive number")

    def transform(data: Tensor, t: float) -> Tensor:
        if not data.numel():
            return data.clone()
        flat = data.reshape(len(data), -1).abs()
        s = _quantile(flat, percentile).clamp(min=least)
        s = s.reshape(-1, *[1] * (data.ndim - 1))
        return data.clamp(-s, s) * (least / s)

    return transform


def check_guidance(guidance: Any) -> None:
    """Raise a TypeError for something else than a `Guidance` or None."""
    if guidance is not None and not isinstance(guidance, Guidance):
        raise TypeError(
            f"guidance={guidance!r}: expected fastgen.Guidance(scale, unconditional={{...}}), "
            "or None"
        )


def check_pair_alone(outputs: int, guidance: Any, transform: Any = None) -> None:
    """Raise a ValueError where a network of two outputs is given what takes one."""
    given = {"guidance": guidance, "transform": transform}
    names = [name for name, value in given.items() if value is not None]
    if outputs == 2 and names:
        raise ValueError(
            f"{', '.join(names)}: a network of velocity and score is run as it is; combine "
            "conditional and unconditional outputs in net"
        )


def check_scale(name: str, scale: Any) -> None:
    """Raise an error for a guidance scale that is neither a finite number nor floating [B]."""
    if not isinstance(scale, Tensor):
        if not math.isfinite(check_number(name, scale)):
            raise ValueError(f"{name}={scale!r}: expected a finite number, or one per sample [B]")
    elif scale.ndim != 1 or scale.is_complex():
        raise ValueError(
            f"{name}: expected a number or [B], got {scale.dtype} {tuple(scale.shape)}"
        )


def _quantile(values: Tensor, fraction: float) -> Tensor:
    """The quantile of each row [B], between neighbours linearly, as torch.quantile's.

    torch.quantile sorts whole rows, of 2^24 numbers at most, and until torch 2.10 it waited for
    the device.
    """
    if values.dtype not in (torch.float32, torch.float64):
        return _quantile(values.float(), fraction).to(values.dtype)
    last = values.shape[1] - 1
    number = np.float32 if values.dtype == torch.float32 else np.float64
    place = float(number(fraction) * number(last))
    low = min(int(place), last)
    largest = values.topk(last + 1 - low, dim=1).values
    return largest[:, -1].lerp(largest[:, max(last - low - 1, 0)], place - low)
