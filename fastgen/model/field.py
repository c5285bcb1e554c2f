"""A model as a field: what it predicts at states whose times differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import per_row
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model


class ModelField:
    """What a model predicts at states x [A, ...] and float64 times [A], one call of the network.

    Keyword arguments that are tensors with the whole batch as first axis are handed over for the
    samples of the call.

    Args:
        model: the network and what it means.
        batch: B, the samples of the whole batch.
        net_kwargs: passed to the network.
        guidance: classifier-free guidance or autoguidance at all times.

    Raises:
        ValueError: for a network that takes whole times only, or guidance in an interval.
    """

    def __init__(
        self,
        model: Model,
        batch: int,
        net_kwargs: Mapping[str, Any],
        guidance: Guidance | None = None,
    ) -> None:
        if not model.time_dtype.is_floating_point:
            raise ValueError(
                f"time_dtype={model.time_dtype}: error-controlled steps stop at times that are "
                "not whole; the network must take a floating time"
            )
        if guidance is not None and guidance.interval != (0.0, 1.0):
            raise ValueError("guidance: an interval is a discontinuity for error-controlled steps")
        if guidance is not None and model.parametrisation.outputs == 2:
            raise ValueError(
                "guidance: a network of velocity and score is run as it is; combine conditional "
                "and unconditional outputs in net"
            )
        self.model, self.batch, self.guidance = model, batch, guidance
        self.kwargs = dict(net_kwargs)
        self.weak = {} if guidance is None else guidance.separate(net_kwargs)
        self.schedule = model.schedule

    def __call__(self, quantity: str, t: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """A quantity at float64 times t [A] and states x [A, ...] of the samples rows [A]."""
        p, q = self.model.parametrisation.conversion(quantity, t)
        found = self._output(quantity, t, x, rows)
        if isinstance(q, Tensor):
            found = found * per_row(q.to(x.dtype), x)
        elif q != 1:
            found = found * q
        return found + x * per_row(p.to(x.dtype), x) if isinstance(p, Tensor) else found

    def _output(self, quantity: str, t: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """The output that tells the quantity, guided, in x's dtype."""
        model, guidance = self.model, self.guidance
        c_in = model.parametrisation.input_scale(t)
        scaled = x * per_row(c_in.to(x.dtype), x) if isinstance(c_in, Tensor) else x
        scaled = scaled.to(model.input_dtype(x.dtype))
        time = model.network_time(t)
        times: tuple[Tensor, ...] = (time,)
        if model.predicts == "average_velocity":
            times = (time, time if model.second_time == "end" else torch.zeros_like(time))
        found = self._call(model.net, quantity, scaled, times, self.kwargs, rows)
        if guidance is not None:
            net = guidance.network or model.net
            weak = self._call(net, quantity, scaled, times, self.weak, rows)
            found = guidance.of_rows(rows).merge(found, weak)
        return found.to(x.dtype)

    def _call(
        self,
        net: Any,
        quantity: str,
        x: Tensor,
        times: tuple[Tensor, ...],
        kwargs: Mapping[str, Any],
        rows: Tensor,
    ) -> Tensor:
        if len(rows) < self.batch:
            kwargs = {
                name: value[rows]
                if isinstance(value, Tensor) and value.ndim and value.shape[0] == self.batch
                else value
                for name, value in kwargs.items()
            }
        found = net(x, *times, **kwargs)
        if self.model.parametrisation.outputs == 2:
            found = pair_of(found)[self.model.parametrisation.output(quantity)]
        if self.model.learned_variance:
            found = found.chunk(2, 1)[0]
        if not isinstance(found, Tensor) or found.shape != x.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"net: expected a tensor of shape {tuple(x.shape)}, got {shape}")
        return found


def pair_of(outputs: Any) -> tuple[Any, Any]:
    """The two outputs of a network of velocity and score.

    Raises:
        ValueError: if there are not two.
    """
    if not isinstance(outputs, (tuple, list)) or len(outputs) != 2:
        raise ValueError(
            f"net: expected (velocity, score), got {type(outputs).__name__}; wrap two "
            "networks as lambda x, t: (flow(x, t), score(x, t))"
        )
    return outputs[0], outputs[1]
