"""What every noise schedule offers, and the one place where floats, arrays and tensors meet."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastgen.common.display import html_of
from fastgen.common.errors import nearest
from fastgen.common.tensors import is_tensor
from fastgen.schedules import scalar

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Number = TypeVar("Number", float, NDArray[np.float64], "torch.Tensor")
S = TypeVar("S", bound="type[Schedule]")

_registry: dict[str, type[Schedule]] = {}
# Values at single times that a schedule keeps: some plans' worth.
KEPT_VALUES = 4096


def register(cls: S) -> S:
    """Class decorator: lets `from_config` find a Schedule by its class name."""
    if _registry.setdefault(cls.__name__, cls) is not cls:
        raise ValueError(
            f"a schedule named {cls.__name__!r} is registered already; rename the class"
        )
    return cls


def names() -> tuple[str, ...]:
    """Names that `from_config` knows, sorted."""
    return tuple(sorted(_registry))


def from_config(config: Mapping[str, Any]) -> Schedule:
    """The schedule that `config`, made by `Schedule.to_config`, describes.

    Raises:
        ValueError: for an unknown name.
        TypeError: for an unknown parameter.
    """
    name = config.get("name")
    if name not in _registry:
        raise ValueError(f"unknown schedule {name!r}; {nearest(str(name), _registry)}")
    return _registry[name]._from_parameters({k: v for k, v in config.items() if k != "name"})


class Schedule:
    """x_t = alpha(t) x_0 + sigma(t) eps, with t = 1 noise and t = 0 exactly data.

    alpha, sigma: signal and noise scale; eps: standard normal.
    lambda = log(alpha / sigma) is the half log signal-to-noise ratio of DPM-Solver (Lu et al.
    2022, arXiv 2206.00927). r = sigma / alpha is the sigma of EDM (Karras et al. 2022, arXiv
    2206.00364). The forward process is dx = f(t) x dt + g(t) dW (Song et al. 2021, arXiv
    2011.13456).

    Every method takes a float, a numpy array or a torch tensor and computes in float64. A float
    gives a float and an array a float64 array. A tensor gives a tensor of the same floating dtype
    (float64 for an integer tensor) on the same device, differentiable in t. Floats and arrays out
    of range raise ValueError. Tensors are not looked at, which would make a GPU wait; inverse
    functions clamp them. Limits are returned as such: half_log_snr(0) = inf, ratio(1) = inf where
    alpha(1) = 0.

    A subclass is a frozen dataclass that gives `_alpha`, `_sigma`, `_d_alpha`, `_d_sigma` and
    `_time_at_ratio`, and more where the defaults would lose digits. Each is called with t and
    the namespace (numpy or torch) to compute in. With `_fast_on_floats = True` the namespace may
    also be `fastgen.schedules.scalar`, and t a Python float: a tenth of the time, the same bits.
    """

    _fast_on_floats: ClassVar[bool] = False

    @property
    def t_min(self) -> float:
        """The smallest time at which an interior point of a time grid may lie."""
        return 1e-3

    @property
    def t_max(self) -> float:
        """The time at which sampling starts unless told otherwise."""
        return 1.0

    @property
    def default_grid(self) -> str:
        """The time grid that samplers use unless told otherwise."""
        return "uniform"

    @property
    def constant(self) -> bool:
        """Whether its values depend on its parameters alone: not for what calls a user's function.

        Then plans on it, and what they are lowered to, are kept for later calls.
        """
        return self._fast_on_floats

    def _evaluated(self, function: Callable[[Any, Any], Any], t: Number) -> Number:
        """`evaluate`; a plan asks for the same few floats again and again, so they are kept.

        Only for functions that compute in `scalar`, which depend on the parameters alone, and
        `while_planning`: a user's own may depend on what is trained meanwhile.
        """
        if type(t) is not float or not (self._fast_on_floats or "_known" in self.__dict__):
            return evaluate(function, t, fast=self._fast_on_floats)
        known = self.__dict__.setdefault("_known", {})
        key = function.__name__, t
        found = known.get(key)
        if found is None:
            found = evaluate(function, t, fast=self._fast_on_floats)
            if len(known) >= KEPT_VALUES:
                known.clear()
            known[key] = found
        return found  # type: ignore[no-any-return]

    def while_planning(self, times: Sequence[float] = ()) -> Schedule:
        """Itself, or a copy that keeps what its functions gave, for the time of one plan.

        times: those of the plan's grid, at which it will be asked for values.
        """
        if self._fast_on_floats:
            return self
        other = copy.copy(self)
        other.__dict__["_known"] = {}
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_known"}

    def _facts(self) -> dict[str, Any]:
        ends = {f"{name}(1)": getattr(self, name)(1.0) for name in ("alpha", "sigma")}
        known = {field.name: getattr(self, field.name) for field in _parameters(type(self))}
        return {**known, **ends, "t_min": self.t_min, "default_grid": self.default_grid}

    def _repr_html_(self) -> str:
        return html_of(self)

    def plot(self, times: Any = None, ax: Axes | None = None, **style: Any) -> Figure | SubFigure:
        """Draw alpha, sigma and the log signal-to-noise ratio over time.

        Args:
            times: [N], times of a grid to mark: those of a plan, or of `fastgen.timesteps.times`.
            ax: the axes whose place is taken; None makes a figure.
            **style: for the lines.

        Returns:
            The figure.

        Raises:
            ImportError: without matplotlib.

        Example:
            >>> schedule = fastgen.schedules.CosineVP()
            >>> plan = fastgen.plan("dpmpp_2m", schedule, 12, timesteps="karras")
            >>> figure = schedule.plot(plan.times)
        """
        from fastgen.schedules.drawing import draw_schedule

        return draw_schedule(self, times, ax, style)

    def alpha(self, t: Number) -> Number:
        """Signal scale, 1 at t = 0."""
        return self._evaluated(self._alpha, t)

    def sigma(self, t: Number) -> Number:
        """Noise scale, 0 at t = 0."""
        return self._evaluated(self._sigma, t)

    def d_alpha(self, t: Number) -> Number:
        """Time derivative of alpha."""
        return self._evaluated(self._d_alpha, t)

    def d_sigma(self, t: Number) -> Number:
        """Time derivative of sigma; inf at t = 0 where that is a square root or a jump."""
        return self._evaluated(self._d_sigma, t)

    def ratio(self, t: Number) -> Number:
        """The noise-to-signal ratio sigma / alpha; inf where alpha is 0."""
        return self._evaluated(self._ratio, t)

    def half_log_snr(self, t: Number) -> Number:
        """log(alpha / sigma), falling from inf at t = 0."""
        return self._evaluated(self._half_log_snr, t)

    def log_snr(self, t: Number) -> Number:
        """log(alpha^2 / sigma^2) = 2 half_log_snr."""
        return 2 * self.half_log_snr(t)

    def drift(self, t: Number) -> Number:
        """f(t) = d log alpha / dt of the forward process; -inf where alpha reaches 0."""
        return self._evaluated(self._drift, t)

    def diffusion_squared(self, t: Number) -> Number:
        """g(t)^2 = d(sigma^2)/dt - 2 f sigma^2 of the forward process."""
        return self._evaluated(self._diffusion_squared, t)

    def time_at_ratio(self, ratio: Number) -> Number:
        """The time at which sigma / alpha equals `ratio`; the inverse of `ratio(t)`."""
        self._check_ratio(ratio)
        fast = self._fast_on_floats
        return evaluate(self._clamped_time_at_ratio, ratio, check=False, fast=fast)

    def time_at(self, half_log_snr: Number) -> Number:
        """The time at which log(alpha / sigma) equals `half_log_snr`; its inverse."""
        self._check_half_log_snr(half_log_snr)
        return evaluate(
            lambda value, xp: self._clamped_time_at_ratio(xp.exp(-value), xp),
            half_log_snr,
            check=False,
            fast=self._fast_on_floats,
        )

    def times_at(self, half_log_snr: Sequence[float]) -> list[float]:
        """`time_at` of each number, NaN for one that is not finite: the nodes of a whole plan."""
        return [self.time_at(x) if math.isfinite(x) else math.nan for x in half_log_snr]

    def times_at_ratio(self, ratio: Sequence[float]) -> list[float]:
        """`time_at_ratio` of each number, NaN for one that is not finite."""
        return [self.time_at_ratio(x) if math.isfinite(x) else math.nan for x in ratio]

    def warp(self, t: Number) -> Number:
        """The reparametrisation [0, 1] -> [0, 1] that time grids apply; the identity here."""
        return evaluate(lambda t, xp: t, t, fast=True)

    def unwarp(self, t: Number) -> Number:
        """The inverse of `warp`."""
        return evaluate(lambda t, xp: t, t, fast=True)

    def regular_at(self, t: float) -> bool:
        """Whether alpha, sigma and their derivatives are finite at t.

        Only there may a step in velocity form, d_alpha x_0 + d_sigma eps, evaluate.
        """
        functions = (self.alpha, self.sigma, self.d_alpha, self.d_sigma)
        return all(math.isfinite(function(float(t))) for function in functions)

    def to_config(self) -> dict[str, Any]:
        """A dictionary for JSON, from which `from_config` makes an equal schedule."""
        values = {field.name: getattr(self, field.name) for field in _parameters(type(self))}
        return {"name": type(self).__name__, **values}

    @classmethod
    def _from_parameters(cls, parameters: Mapping[str, Any]) -> Schedule:
        """The schedule of a configuration without its name; TypeError on an unknown parameter."""
        known = [field.name for field in _parameters(cls)]
        for key in parameters:
            if key not in known:
                raise TypeError(f"{cls.__name__} has no parameter {key!r}; {nearest(key, known)}")
        return cls(**parameters)

    def _alpha(self, t: Any, xp: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define _alpha(t, xp)")

    def _sigma(self, t: Any, xp: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define _sigma(t, xp)")

    def _d_alpha(self, t: Any, xp: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define _d_alpha(t, xp)")

    def _d_sigma(self, t: Any, xp: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define _d_sigma(t, xp)")

    def _time_at_ratio(self, ratio: Any, xp: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define _time_at_ratio(ratio, xp)")

    def _ratio(self, t: Any, xp: Any) -> Any:
        return self._sigma(t, xp) / self._alpha(t, xp)

    def _half_log_snr(self, t: Any, xp: Any) -> Any:
        return -xp.log(self._ratio(t, xp))

    def _drift(self, t: Any, xp: Any) -> Any:
        return self._d_alpha(t, xp) / self._alpha(t, xp)

    def _diffusion_squared(self, t: Any, xp: Any) -> Any:
        sigma = self._sigma(t, xp)
        return 2 * sigma * (self._d_sigma(t, xp) - self._drift(t, xp) * sigma)

    def _ratio_floor(self) -> float:
        """The smallest ratio above 0 that the process passes."""
        return 0.0

    def _clamped_time_at_ratio(self, ratio: Any, xp: Any) -> Any:
        return xp.clip(self._time_at_ratio(ratio, xp), 0.0, 1.0)

    def _check_ratio(self, ratio: Any) -> None:
        if is_tensor(ratio):
            return
        low, high = self._ratio_floor(), self.ratio(1.0)
        if isinstance(ratio, float) and low <= ratio <= high:
            return
        values = np.asarray(ratio, dtype=np.float64)
        good = (values >= low * (1 - 1e-9)) & (values <= high * (1 + 1e-9)) | (values == 0)
        wanted = f"a value within [{low:.6g}, {high:.6g}], or 0, of {self!r}"
        _refuse("ratio", values, good, wanted)

    def _check_half_log_snr(self, half_log_snr: Any) -> None:
        if is_tensor(half_log_snr):
            return
        floor = self._ratio_floor()
        low, high = self.half_log_snr(1.0), -math.log(floor) if floor else math.inf
        if isinstance(half_log_snr, float) and low <= half_log_snr <= high:
            return
        values = np.asarray(half_log_snr, dtype=np.float64)
        good = (values >= low - 1e-9) & (values <= high + 1e-9) | (values == math.inf)
        wanted = f"a value within [{low:.6g}, {high:.6g}], or inf, of {self!r}"
        _refuse("half_log_snr", values, good, wanted)


def evaluate(
    function: Callable[[Any, Any], Any], value: Number, check: bool = True, fast: bool = False
) -> Number:
    """`function(value, numpy or torch)` in float64, given back in the kind of `value`.

    fast: whether the function also computes one float in `fastgen.schedules.scalar`.
    """
    given: Any = value
    result: Any
    if fast and isinstance(given, float) and (not check or 0.0 <= given <= 1.0):
        try:
            return function(float(given), scalar)  # type: ignore[no-any-return]
        except ArithmeticError:  # a limit such as log 0, which numpy knows
            pass
    if is_tensor(given):
        import torch

        dtype = given.dtype if given.is_floating_point() else torch.float64
        result = function(given.to(torch.float64), torch).to(dtype)
        return result  # type: ignore[no-any-return]
    sequence = isinstance(given, np.ndarray | list | tuple)
    try:
        values: Any = np.asarray(given, dtype=np.float64) if sequence else np.float64(given)
    except (TypeError, ValueError):
        raise TypeError(f"t={given!r}: expected a number, an array or a tensor") from None
    if check:
        _refuse("t", values, (values >= 0) & (values <= 1), "within [0, 1] (1 = noise, 0 = data)")
    with np.errstate(all="ignore"):  # limits such as log 0 = -inf are meant
        result = function(values, np)
    result = np.asarray(result, dtype=np.float64) if sequence else float(result)
    return result  # type: ignore[no-any-return]


def _refuse(name: str, values: Any, good: Any, wanted: str) -> None:
    if not (good.all() if good.ndim else good):
        worst = float(np.asarray(values)[~np.asarray(good)].flat[0])
        raise ValueError(f"{name} = {worst!r} is out of range: give {wanted}")


def _parameters(cls: type[Schedule]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]


def set_real(
    schedule: Schedule, name: str, low: float, high: float, remedy: str, *, closed: bool = False
) -> None:
    """Store parameter `name` of a frozen schedule as a float in (low, high), or (low, high]."""
    given = getattr(schedule, name)
    where = f"{type(schedule).__name__}: {name} = {given!r}"
    try:
        value = float(given)
    except (TypeError, ValueError):
        raise TypeError(f"{where} is not a number; {remedy}") from None
    inside = low < value < high or (closed and value == high)
    if not (inside and math.isfinite(value)):
        raise ValueError(f"{where} is out of range; {remedy}")
    object.__setattr__(schedule, name, value)
