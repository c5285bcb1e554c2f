"""Any network as a model: what it predicts, on which schedule, and how it is told the time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, overload

import torch
from torch import Tensor

from fastgen.common.checks import check_choice, check_floating, check_number
from fastgen.common.devices import upload
from fastgen.common.display import displayed
from fastgen.common.errors import nearest
from fastgen.common.typed import typed
from fastgen.kernels.contract import DTYPE_CODES
from fastgen.model.arguments import Declared
from fastgen.model.inputs import TIME_INPUTS, network_time
from fastgen.model.output import called, check_output, device_of, dtype_of
from fastgen.model.parametrisation import QUANTITIES, Parametrisation
from fastgen.model.pretrained import Pretrained
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


@displayed
class Model(Pretrained):
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
        dtype: dtype of the network's input; the default is that of most of a module's weights,
            or the state's dtype: for a module without weights and for a function around one.
        time_dtype: dtype of t; torch.int64 is accepted where all times are whole numbers.
        second_time: what such a network is fed as r: the "end" of the interval, as
            ``time_input`` says (MeanFlow), or the "step", |r - t| (shortcut models).
        learned_variance: the output has twice the channels (axis 1) of x, the second half being
            the interpolation of log-variances of Improved DDPM, in [-1, 1] (used by
            ``ddpm(variance="learned")``, left alone by all other solvers).
        score_scale: the second output of such a pair is this many times the score; networks
            trained on [SF]2M's loss give sigma^2 / 2 times the score of a bridge of noise sigma.
        reuses_output: True for a network that overwrites its last output (CUDA graphs).
        shared: names of the network's keyword arguments that all samples share.
        per_sample: names of those whose tensors have a row for each sample. Without a declaration
            both are taken for possible where a first axis is B, which costs evaluations:
            see `fastgen.model.arguments`.

    Raises:
        ValueError: naming the argument that is out of range.

    Example:
        >>> def velocity(x, t):  # of a flow from noise at t = 0 to data at t = 1
        ...     return (3 - x) / (1 - t[:, None]).clamp_min(1e-3)
        >>> schedule = fastgen.schedules.Rectified()
        >>> model = fastgen.Model(velocity, schedule, predicts="velocity", data_at=1)
        >>> fastgen.sample(model, (2, 1), "euler", steps=10).round(decimals=3).tolist()
        [[3.0], [3.0]]
    """

    # Whether torch.compile can make a graph of the network; where not, `compiled` says what of it.
    traceable = True

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
        shared: Collection[str] = (),
        per_sample: Collection[str] = (),
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
        elif not callable(time_input):
            raise TypeError(
                f"time_input={time_input!r}: expected a function of t, or one of "
                f"{', '.join(TIME_INPUTS)}"
            )
        for name, kind, known in (
            ("dtype", dtype, (None, *DTYPE_CODES)),
            ("time_dtype", time_dtype, (*DTYPE_CODES, torch.int64, torch.int32)),
        ):
            if not (kind is None or isinstance(kind, torch.dtype)) or kind not in known:
                raise ValueError(f"{name}={kind!r}: expected one of {', '.join(map(str, known))}")
        check_choice("second_time", second_time, ("end", "step"))
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
        self.declared = Declared.of(shared, per_sample)

    def _facts(self) -> dict[str, Any]:
        facts = {"net": self.net, "predicts": self.predicts, "schedule": self.schedule}
        facts |= {"time_input": self.time_input, "data_at": self.parametrisation.data_at}
        if self.predicts == "edm":
            facts["sigma_data"] = self.parametrisation.sigma_data
        if self.predicts == "average_velocity":
            facts["second_time"] = self.second_time
        for name in ("learned_variance", "reuses_output"):
            facts |= {name: True} if getattr(self, name) else {}
        dtype = self.input_dtype(torch.float32) if self.dtype is None else self.dtype
        return facts | {"dtype": dtype, "device": self.device}

    def compiled(self) -> Model:
        """The same model, whose network is ``torch.compile(net)``."""
        other = copy.copy(self)
        other.net = torch.compile(self.net)
        return other

    @property
    def predicts(self) -> str:
        """What the network predicts."""
        return self.parametrisation.predicts

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are; the CPU if it has none, or modules on several."""
        return device_of(self.net)

    def input_dtype(self, state: torch.dtype) -> torch.dtype:
        """The dtype the network is fed for a state of dtype ``state``."""
        return dtype_of(self.net, state) if self.dtype is None else self.dtype

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
        columns = upload(
            torch.tensor(values, dtype=torch.float64, device="cpu").to(self.time_dtype), device
        )
        return columns[..., None].expand(-1, -1, batch).contiguous()

    def times(
        self, moments: Sequence[Moment], batch: int, device: torch.device
    ) -> list[tuple[Tensor, ...]]:
        """For each moment the times that the network is fed, each [batch]."""
        return time_rows(self.time_table(self.time_values(moments), batch, device))

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the network's output for states of a shape.

        Raises:
            ValueError: for states without channels, where there are to be twice as many.
        """
        if not self.learned_variance:
            return tuple(shape)
        if len(shape) < 2:
            raise ValueError(
                f"learned_variance: states of shape {tuple(shape)} have no channels (axis 1)"
            )
        return (shape[0], 2 * shape[1], *shape[2:])

    def outputs(
        self,
        x: Tensor,
        times: Sequence[Tensor],
        net_kwargs: Mapping[str, Any],
        where: str = "",
        net: Callable[..., Any] | None = None,
    ) -> tuple[Tensor, ...]:
        """One call of the network, checked: the prediction, and what comes with it.

        Args:
            x: the network's input [B, ...], scaled and in its dtype.
            times: what it is fed as times, each [B].
            net_kwargs: passed to it.
            where: a place for messages.
            net: another network of the same meaning.

        Returns:
            (prediction,); (velocity, score) of a pair; (prediction, variance) with
            ``learned_variance``.

        Raises:
            ValueError: for an output of another type, shape, dtype or device.
        """
        found = called(self.net if net is None else net, x, times, net_kwargs)
        shape = self.output_shape(x.shape)
        if self.parametrisation.outputs == 2:
            pair = pair_of(found)
            return tuple([check_output(part, shape, x.device, where=where) for part in pair])
        output = check_output(found, shape, x.device, where=where)
        return output.chunk(2, 1) if self.learned_variance else (output,)

    @typed
    def predict(
        self,
        quantity: str,
        x: Tensor,
        t: float,
        *,
        net_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """One quantity ("data", "noise", "velocity", "v", "score") at state x [B, ...], time t.

        Args:
            quantity: what is wanted.
            x: states of floating numbers.
            t: one time in [0, 1], 0 for data.
            net_kwargs: passed to the network, like all further keyword arguments; here any name
                is possible.

        Raises:
            TypeError, ValueError: naming the argument, or saying what the network returned.
        """
        check_choice("quantity", quantity, QUANTITIES)
        check_floating("x", x)
        kwargs = merged(net_kwargs, kwargs)
        p, q = self.parametrisation.conversion(quantity, check_time("t", t))
        scaled = (x * self.parametrisation.input_scale(t)).to(self.input_dtype(x.dtype))
        (times,) = self.times([Instant(t)], x.shape[0], x.device)
        outputs = self.outputs(scaled, times, kwargs)
        output = outputs[self.parametrisation.output(quantity)].to(x.dtype)
        return p * x + q * output if p else q * output


def check_model(model: Any) -> None:
    """Raise a TypeError for something else than a `Model`, such as a bare network."""
    if not isinstance(model, Model):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        remedy = (
            "say what the network predicts: fastgen.Model(net, schedule, predicts='noise')"
            if callable(model)
            else "make one: fastgen.Model(net, schedule, predicts='noise')"
        )
        raise TypeError(f"model: expected a fastgen.Model, got {kind}; {remedy}")


def merged(net_kwargs: Mapping[str, Any] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The network's arguments, of which those with other meanings here come as a dictionary.

    Raises:
        TypeError: for something else than a dictionary, and for a name that is given twice.
    """
    if net_kwargs is None:
        return dict(kwargs)
    if not isinstance(net_kwargs, Mapping) or not all(isinstance(k, str) for k in net_kwargs):
        raise TypeError(
            f"net_kwargs: expected a dictionary of the network's arguments, got "
            f"{type(net_kwargs).__name__}"
        )
    twice = sorted(net_kwargs.keys() & kwargs.keys())
    if twice:
        raise TypeError(f"net_kwargs: {', '.join(twice)} given twice; give each once")
    return {**net_kwargs, **kwargs}


def check_time(name: str, t: Any) -> float:
    """The value, or an error if it is not one time in [0, 1]."""
    time = check_number(name, t)
    if not 0 <= time <= 1:
        raise ValueError(f"{name}={t!r}: expected a time in [0, 1], 0 for data and 1 for noise")
    return time


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


def time_rows(table: Tensor) -> list[tuple[Tensor, ...]]:
    """A time table by evaluation."""
    return list(zip(*(column.unbind(0) for column in table.unbind(0)), strict=True))
