"""Any network as a model: what it predicts, on which schedule, and how it is told the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, overload

import torch
from torch import Tensor, nn

from fastgen.common.devices import upload
from fastgen.common.errors import nearest
from fastgen.model.inputs import TIME_INPUTS, network_time
from fastgen.model.parametrisation import Parametrisation
from fastgen.schedules import DiscreteVP, Schedule


class Moment(Protocol):
    """When a network is called: internal time, and for networks of two times the other one."""

    @property
    def time(self) -> float:
        """The internal time."""

    @property
    def until(self) -> float | None:
        """The end of the interval, or None for `time`."""


class Instant(NamedTuple):
    """A moment of one time."""

    time: float
    until: float | None = None


class Model:
    """A network ``net(x, t, **kwargs)`` together with what its output means.

    Args:
        net: any callable of x [B, ...] and t [B] that returns a tensor of x's shape.
        schedule: the process x_t = alpha(t) x_0 + sigma(t) eps it was trained on.
        predicts: "data", "noise", "velocity" (dx/dt), "v", "score" or "edm" (the inner network
            F of EDM's preconditioning; c_in, c_skip and c_out are applied here), or
            "average_velocity", of a network that is called as net(x, t, r, **kwargs), or
            "velocity_and_score", of one that returns both, as a pair of [SF]2M networks does:
            lambda x, t: (flow(x, t), score(x, t)).
        time_input: what the network is fed as t: "unit" (t itself, or 1 - t with data_at=1),
            "index" (the step of a `DiscreteVP` schedule, from 0), "sigma" (sigma / alpha),
            "log_snr" (log alpha^2/sigma^2), "edm" (log(sigma / alpha) / 4), or a function of t.
        data_at: 0 if the network's time has data at 0; 1 if it has data at 1, as most
            flow-matching code: time and the sign of the velocity are then flipped.
        sigma_data: standard deviation of the data in EDM's preconditioning.
        dtype: dtype of the network's input; the default is that of its parameters, or the
            state's dtype if it has none.
        time_dtype: dtype of t; torch.int64 is accepted where all times are whole numbers.
        second_time: what such a network is fed as r: the "end" of the interval, as
            ``time_input`` says (MeanFlow), or the "step", |r - t| (shortcut models).
        learned_variance: the output has twice the channels (axis 1) of x, the second half being
            the interpolation of log-variances of Improved DDPM, in [-1, 1] (used by
            ``ddpm(variance="learned")``, left alone by all other solvers).
        score_scale: the second output of such a pair is this many times the score; networks
            trained on [SF]2M's loss give sigma^2 / 2 times the score of a bridge of noise sigma.
        reuses_output: True for a network that overwrites its last output (CUDA graphs).

    Raises:
        ValueError: naming the argument that is out of range.
    """

    def __init__(
        self,
        net: Callable[..., Tensor],
        schedule: Schedule,
        predicts: str,
        *,
        time_input: str | Callable[[float], float] = "unit",
        data_at: int = 0,
        sigma_data: float = 0.5,
        dtype: torch.dtype | None = None,
        time_dtype: torch.dtype = torch.float32,
        second_time: str = "end",
        learned_variance: bool = False,
        score_scale: float = 1.0,
        reuses_output: bool = False,
    ) -> None:
        if not callable(net):
            raise TypeError(f"net: expected a callable net(x, t, **kwargs), got {net!r}")
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule: expected a fastgen.schedules.Schedule, got {schedule!r}")
        if isinstance(time_input, str):
            if time_input not in TIME_INPUTS:
                raise ValueError(f"time_input={time_input!r}: {nearest(time_input, TIME_INPUTS)}")
            if time_input == "index" and not isinstance(schedule, DiscreteVP):
                raise ValueError(
                    f"time_input='index' needs a DiscreteVP schedule, got {schedule!r}; pass a "
                    "function of t instead"
                )
        if second_time not in ("end", "step"):
            raise ValueError(f"second_time={second_time!r}: expected 'end' or 'step'")
        self.net, self.schedule, self.second_time = net, schedule, second_time
        self.parametrisation = Parametrisation(
            schedule, predicts, data_at, sigma_data, score_scale=score_scale
        )
        if learned_variance and self.parametrisation.outputs == 2:
            raise ValueError(
                "learned_variance: a network of velocity and score has none; leave it out"
            )
        self.time_input, self.dtype, self.time_dtype = time_input, dtype, time_dtype
        self.learned_variance, self.reuses_output = learned_variance, reuses_output

    @property
    def predicts(self) -> str:
        """What the network predicts."""
        return self.parametrisation.predicts

    @property
    def device(self) -> torch.device:
        """Where the network's first parameter is; the CPU if it has none."""
        if isinstance(self.net, nn.Module):
            for parameter in self.net.parameters():
                return parameter.device
        return torch.device("cpu")

    def input_dtype(self, state: torch.dtype) -> torch.dtype:
        """The dtype the network is fed for a state of dtype ``state``."""
        if self.dtype is not None:
            return self.dtype
        if isinstance(self.net, nn.Module):
            kinds = (p.dtype for p in self.net.parameters() if p.dtype.is_floating_point)
            return next(kinds, state)
        return state

    @overload
    def network_time(self, t: float) -> float: ...
    @overload
    def network_time(self, t: Tensor) -> Tensor: ...
    def network_time(self, t: Any) -> Any:
        """What the network is fed at internal time t, or at float64 times [A] in ``time_dtype``.

        Raises:
            ValueError: where that is not a finite number (log-SNR at alpha = 0), or not whole for
                a ``time_dtype`` of whole numbers. Tensors are not looked at.
        """
        kind = self.time_input
        time = network_time(kind, self.schedule, t, self.parametrisation.data_at)
        if isinstance(time, Tensor):
            return time.to(self.time_dtype)
        if not math.isfinite(time):
            raise ValueError(
                f"time_input={kind!r} is {time} at t={t}; start or end the time grid elsewhere "
                "(plan(..., start=, end=)) or choose another time_input"
            )
        if not self.time_dtype.is_floating_point and time != round(time):
            raise ValueError(
                f"time_dtype={self.time_dtype}: the network's time {time} at t={t} is not whole; "
                "use a grid on the schedule's steps ('leading', 'linspace', 'trailing') or a "
                "floating time_dtype"
            )
        return time

    def time_values(self, moments: Sequence[Moment]) -> list[list[float]]:
        """The times that the network is fed at some moments, [1 or 2 times][moments]."""
        columns = [[self.network_time(e.time) for e in moments]]
        if self.predicts == "average_velocity":
            ends = [self.network_time(e.time if e.until is None else e.until) for e in moments]
            pairs = zip(ends, columns[0], strict=True)
            steps = [abs(end - start) for end, start in pairs]
            columns.append(ends if self.second_time == "end" else steps)
        return columns

    def time_table(
        self, values: Sequence[Sequence[float]], batch: int, device: torch.device
    ) -> Tensor:
        """What `time_values` found, on a device for B samples: [1 or 2 times, moments, B]."""
        columns = upload(torch.tensor(values, dtype=torch.float64).to(self.time_dtype), device)
        return columns[..., None].expand(-1, -1, batch).contiguous()

    def times(
        self, moments: Sequence[Moment], batch: int, device: torch.device
    ) -> list[tuple[Tensor, ...]]:
        """For each moment the times that the network is fed, each [batch]."""
        return time_rows(self.time_table(self.time_values(moments), batch, device))

    def predict(self, quantity: str, x: Tensor, t: float, **net_kwargs: Any) -> Tensor:
        """One quantity ("data", "noise", "velocity", "v", "score") at state x [B, ...], time t."""
        p, q = self.parametrisation.conversion(quantity, t)
        scaled = (x * self.parametrisation.input_scale(t)).to(self.input_dtype(x.dtype))
        (times,) = self.times([Instant(t)], x.shape[0], x.device)
        outputs = self.net(scaled, *times, **net_kwargs)
        if self.parametrisation.outputs == 2:
            outputs = outputs[self.parametrisation.output(quantity)]
        output = outputs.to(x.dtype)
        output = output.chunk(2, 1)[0] if self.learned_variance else output
        return p * x + q * output if p else q * output


def time_rows(table: Tensor) -> list[tuple[Tensor, ...]]:
    """A time table by evaluation."""
    return list(zip(*(column.unbind(0) for column in table.unbind(0)), strict=True))
