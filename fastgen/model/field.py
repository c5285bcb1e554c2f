"""A model as a field: what it predicts at states whose times differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import per_row
from fastgen.common.derivatives import check_recorded, check_whole_derivative, elsewhere
from fastgen.model.guidance import Guidance, check_guidance, check_pair_alone
from fastgen.model.model import Model, check_model, merged

GIVE_DIVERGENCE = (
    "write it in operations that autograd records, or give its divergence: "
    "log_likelihood(..., divergence=function), called as the network is, [B]"
)


class ModelField:
    """What a model predicts at states x [A, ...] and float64 times [A], one call of the network.

    The network's arguments that are per sample (``Model(per_sample=...)``) are handed over for the
    samples of the call. Where one that is not declared may be, the network is called with the
    whole batch: the samples that were not asked for are at the first one's state and time.

    Args:
        model: the network and what it means.
        batch: B, the samples of the whole batch.
        net_kwargs: passed to the network.
        guidance: classifier-free guidance or autoguidance at all times.
        recorded: whether what the network gives has to be differentiable in x, or constant.

    Raises:
        ValueError: for a network that takes whole times only, or guidance in an interval.
    """

    def __init__(
        self,
        model: Model,
        batch: int,
        net_kwargs: Mapping[str, Any] | None = None,
        guidance: Guidance | None = None,
        recorded: bool = False,
    ) -> None:
        check_model(model)
        if not model.time_dtype.is_floating_point:
            raise ValueError(
                f"time_dtype={model.time_dtype}: error-controlled steps stop at times that are "
                "not whole; the network must take a floating time"
            )
        check_guidance(guidance)
        if guidance is not None and guidance.interval != (0.0, 1.0):
            raise ValueError("guidance: an interval is a discontinuity for error-controlled steps")
        if guidance is not None:
            guidance.check_forgets("an error-controlled run or a likelihood")
        check_pair_alone(model.parametrisation.outputs, guidance)
        self.model, self.batch, self.guidance = model, batch, guidance
        self.recorded, self._looked_at = recorded, set[str]()
        self.kwargs = merged(net_kwargs, {})
        branches = [] if guidance is None else guidance.separate(self.kwargs)
        declared, both = model.declared, (self.kwargs, *[kwargs for kwargs, _ in branches])
        for kwargs in both:
            declared.check(kwargs, batch)
        self.whole = any(declared.undeclared(kwargs, batch) for kwargs in both)
        self._places: tuple[Tensor, Tensor] | None = None
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

    def divergence(
        self,
        quantity: str,
        own: Callable[..., Any],
        t: Tensor,
        x: Tensor,
        rows: Tensor,
        dims: int | Tensor,
    ) -> Tensor:
        """The divergence [A] of a quantity, from that of the network's output in its input.

        own: called as the network is; gives one number for each sample. dims: of a sample, or [A].
        """
        p, q = self.model.parametrisation.conversion(quantity, t)
        c_in = self.model.parametrisation.input_scale(t)
        scaled, *times = self._inputs(t, x)

        def call(x: Tensor, times: Sequence[Tensor], kwargs: Mapping[str, Any]) -> Tensor:
            found = own(x, *times, **kwargs)
            if not isinstance(found, Tensor) or found.shape != (len(x),):
                got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"divergence: expected a tensor of shape [{len(x)}], got {got}")
            return found

        found = self._of_rows(call, scaled, times, self.kwargs, rows)
        total: Tensor = q * c_in * found.double() + p * dims
        return total.to(x.dtype)

    def _inputs(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """What the network is called with at states x and times t."""
        model = self.model
        c_in = model.parametrisation.input_scale(t)
        scaled = x * per_row(c_in.to(x.dtype), x) if isinstance(c_in, Tensor) else x
        scaled = scaled.to(model.input_dtype(x.dtype))
        time = model.network_time(t)
        if model.predicts == "average_velocity":
            return scaled, time, time if model.second_time == "end" else torch.zeros_like(time)
        return scaled, time

    def _output(self, quantity: str, t: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """The output that tells the quantity, guided, in x's dtype."""
        guidance = self.guidance
        scaled, *times = self._inputs(t, x)
        found = self._call(None, quantity, scaled, times, self.kwargs, rows)
        if guidance is not None:
            found = guidance.of_rows(rows).around(
                found,
                self.kwargs,
                lambda kwargs, net: self._call(net, quantity, scaled, times, kwargs, rows),
                t,
            )
        return found.to(x.dtype)

    def _call(
        self,
        net: Any,
        quantity: str,
        x: Tensor,
        times: Sequence[Tensor],
        kwargs: Mapping[str, Any],
        rows: Tensor,
    ) -> Tensor:
        which = self.model.parametrisation.output(quantity)

        def call(x: Tensor, times: Sequence[Tensor], kwargs: Mapping[str, Any]) -> Tensor:
            found = self.model.outputs(x, times, kwargs, net=net)[which]
            if self.recorded:

                def again() -> Tensor:
                    return self.model.outputs(elsewhere(x), times, kwargs, net=net)[which]

                check_recorded("net", found, again, remedy=GIVE_DIVERGENCE)
                self._look_once(
                    "net" if net is None else "guidance",
                    lambda x: self.model.outputs(x, times, kwargs, net=net)[which],
                    x,
                )
            return found

        return self._of_rows(call, x, times, kwargs, rows)

    def _look_once(self, name: str, output: Callable[[Tensor], Tensor], x: Tensor) -> None:
        """Check a network's derivative at the first evaluation."""
        if name not in self._looked_at:
            self._looked_at.add(name)
            check_whole_derivative(name, output, x, remedy=GIVE_DIVERGENCE)

    def _of_rows(
        self,
        call: Callable[[Tensor, Sequence[Tensor], Mapping[str, Any]], Tensor],
        x: Tensor,
        times: Sequence[Tensor],
        kwargs: Mapping[str, Any],
        rows: Tensor,
    ) -> Tensor:
        """What a call with the arguments of these samples gives, or with the whole batch."""
        some = len(rows) < self.batch
        if some and self.whole:
            places = self._fill(rows)
            x, times = x[places], tuple([t[places] for t in times])
        elif some:
            kwargs = self.model.declared.of_rows(kwargs, rows, self.batch)
        found = call(x, times, kwargs)
        return found[rows] if some and self.whole else found

    def _fill(self, rows: Tensor) -> Tensor:
        """For each sample of the batch its place among those of a call, the first one's for others.

        A solve asks for the same samples many times in a row.
        """
        if self._places is None or self._places[0] is not rows:
            places = torch.zeros(self.batch, dtype=torch.int64, device=rows.device)
            places[rows] = torch.arange(len(rows), device=rows.device)
            self._places = rows, places
        return self._places[1]
