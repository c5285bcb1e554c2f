"""A schedule from a user's own alpha(t) and sigma(t)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fastgen.common.display import brief
from fastgen.schedules import scalar
from fastgen.schedules.base import Schedule, set_real

TimeFunction = Callable[[torch.Tensor], Any]

_TOLERANCE = 1e-6  # on alpha(0) = 1 and sigma(0) = 0
_CHECK_POINTS = 1025
_HALVINGS = 62  # from the doubles in [0, 1] to one
_ONE = int(np.float64(1.0).view(np.int64))
_ROUNDS = 12
_POWERS = np.concatenate([np.arange(1, 17), 2 ** np.arange(5, 63)])
_AROUND = np.concatenate([-_POWERS[::-1], [0], _POWERS])
_FOUR, _UNIT = np.arange(4), np.eye(4)
_LEAST = np.nextafter(0.0, 1.0)


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class UserSchedule(Schedule):
    """alpha and sigma as given, for example UserSchedule(lambda t: 1 - t**2, lambda t: t).

    alpha, sigma: functions of a float64 tensor of times in [0, 1], acting element by element, with
    alpha(0) = 1, sigma(0) = 0 and a strictly rising sigma / alpha. d_alpha, d_sigma: their
    derivatives, by autograd when None. t_min: smallest time of interior grid points.

    alpha and sigma are checked on construction, where ValueError names what is wrong. The inverse
    bisects, so `time_at` and `time_at_ratio` do not propagate gradients. Functions have no JSON
    form: `to_config` raises TypeError.
    """

    alpha_function: TimeFunction
    sigma_function: TimeFunction
    d_alpha_function: TimeFunction | None = None
    d_sigma_function: TimeFunction | None = None
    minimal_time: float = 1e-3
    _logs: ClassVar[tuple[NDArray[np.float64], NDArray[np.float64]]]

    def __init__(
        self,
        alpha: TimeFunction,
        sigma: TimeFunction,
        d_alpha: TimeFunction | None = None,
        d_sigma: TimeFunction | None = None,
        t_min: float = 1e-3,
    ) -> None:
        given = {"alpha": alpha, "sigma": sigma, "d_alpha": d_alpha, "d_sigma": d_sigma}
        for name, function in given.items():
            if not (callable(function) or (function is None and name.startswith("d_"))):
                raise TypeError(
                    f"UserSchedule: {name} = {function!r} is not callable; give a function of a "
                    "float64 tensor of times"
                )
            object.__setattr__(self, f"{name}_function", function)
        object.__setattr__(self, "minimal_time", t_min)
        set_real(self, "minimal_time", 0, 1, "give t_min in (0, 1)")
        self._validate()

    @property
    def t_min(self) -> float:
        """As given."""
        return self.minimal_time

    def to_config(self) -> dict[str, Any]:
        """Refused with TypeError."""
        raise TypeError(
            "UserSchedule holds functions and has no configuration; write a Schedule subclass "
            "with @fastgen.schedules.register to store it"
        )

    def __repr__(self) -> str:
        return (
            f"UserSchedule(alpha={brief(self.alpha_function)}, "
            f"sigma={brief(self.sigma_function)}, t_min={self.t_min!r})"
        )

    def _validate(self) -> None:
        t = np.linspace(0.0, 1.0, _CHECK_POINTS)
        with np.errstate(all="ignore"):
            alpha = _call("alpha", self.alpha_function, t, np)
            sigma = _call("sigma", self.sigma_function, t, np)
            ratio = sigma / alpha
        for name, values, wanted in (("alpha", alpha, 1.0), ("sigma", sigma, 0.0)):
            bad = ~(np.isfinite(values) & (values >= 0))
            if bad.any():
                i = int(np.argmax(bad))
                raise ValueError(
                    f"UserSchedule: {name}({t[i]:.6g}) = {values[i]}; {name} must be finite and "
                    "not negative for t in [0, 1]"
                )
            if abs(values[0] - wanted) > _TOLERANCE:
                raise ValueError(
                    f"UserSchedule: {name}(0) = {values[0]}, but t = 0 is data: make it {wanted} "
                    "(t = 1 is noise; a function with data at t = 1 takes 1 - t)"
                )
        with np.errstate(divide="ignore"):
            object.__setattr__(self, "_logs", (np.log(ratio), np.log(t)))  # for guesses
        rising = ratio[1:] > ratio[:-1]
        if not rising.all():
            i = int(np.argmin(rising))
            raise ValueError(
                f"UserSchedule: sigma / alpha does not rise from t = {t[i]:.6g} ({ratio[i]}) to "
                f"t = {t[i + 1]:.6g} ({ratio[i + 1]}); it must rise strictly from data (t = 0) "
                "to noise (t = 1)"
            )
        for name in ("alpha", "sigma"):
            if getattr(self, f"d_{name}_function") is None:
                _check_recorded(name, getattr(self, f"{name}_function"), t)
        for name, function in (("d_alpha", self._d_alpha), ("d_sigma", self._d_sigma)):
            slope = function(np.array([0.5]), np)
            if not np.isfinite(slope).all():
                raise ValueError(
                    f"UserSchedule: {name}(0.5) = {float(slope[0])!r}; give {name} in closed form"
                )

    def while_planning(self, times: Sequence[float] = ()) -> Schedule:
        """A copy that keeps what the functions gave, those of the grid in one call."""
        other = super().while_planning(times)
        other.__dict__.update(_values={}, _grid=frozenset(times), _fast_on_floats=True)
        return other

    def _alpha(self, t: Any, xp: Any) -> Any:
        if xp is scalar:
            return self._value("alpha", t) if t else 1.0
        return xp.where(t == 0, 1.0, _call("alpha", self.alpha_function, t, xp))

    def _sigma(self, t: Any, xp: Any) -> Any:
        if xp is scalar:
            return self._value("sigma", t) if t else 0.0
        return xp.where(t == 0, 0.0, _call("sigma", self.sigma_function, t, xp))

    def _d_alpha(self, t: Any, xp: Any) -> Any:
        return self._slope("alpha", t, xp)

    def _d_sigma(self, t: Any, xp: Any) -> Any:
        return self._slope("sigma", t, xp)

    def _slope(self, name: str, t: Any, xp: Any) -> Any:
        if xp is scalar:
            return self._value(f"d_{name}", t)
        given = getattr(self, f"d_{name}_function")
        if given is not None:
            return _call(f"d_{name}", given, t, xp)
        return _slope(name, getattr(self, f"{name}_function"), t, xp)

    def _value(self, name: str, t: float) -> float:
        """One of the four functions, of which ratio, its logarithm and others are made."""
        known: dict[tuple[str, float], float] = self.__dict__["_values"]
        if (name, t) not in known:
            grid: frozenset[float] = self.__dict__["_grid"]
            times = sorted(grid) if t in grid else [t]
            found = getattr(self, f"_{name}")(np.array(times), np)
            known.update(zip(((name, u) for u in times), found.tolist(), strict=True))
        return known[name, t]

    def _time_at_ratio(self, ratio: Any, xp: Any) -> Any:
        if xp is torch:
            low = torch.zeros_like(ratio, dtype=torch.int64)
            return self._bisected(ratio.detach(), low, torch.full_like(low, _ONE))
        given = np.asarray(ratio, dtype=np.float64)
        found = self._times_of(given.reshape(-1)).reshape(given.shape)
        return float(found) if xp is scalar else found

    def times_at(self, half_log_snr: Sequence[float]) -> list[float]:
        """All in one search."""
        self._check_half_log_snr([x for x in half_log_snr if math.isfinite(x)])
        with np.errstate(over="ignore"):
            finite = [x if math.isfinite(x) else math.nan for x in half_log_snr]
            return self._times_at([float(np.exp(-x)) for x in finite])

    def times_at_ratio(self, ratio: Sequence[float]) -> list[float]:
        """All in one search."""
        self._check_ratio([x for x in ratio if math.isfinite(x)])
        return self._times_at(ratio)

    def _times_at(self, ratio: Sequence[float]) -> list[float]:
        values = np.array(ratio, dtype=np.float64)
        finite = np.isfinite(values)
        found = np.full(values.shape, math.nan)
        found[finite] = self._times_of(values[finite])
        return found.tolist()  # type: ignore[no-any-return]

    def _times_of(self, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        """The first double at which sigma / alpha is not below each ratio [N].

        Positive doubles are ordered like their bit patterns, and among these one call looks at
        steps of all powers of two around a guess. A plan asks for hundreds of single times, and a
        call of alpha and sigma costs the same for one time as for many; most need two.
        """
        low, high = np.zeros(len(ratio), np.int64), np.full(len(ratio), _ONE)
        guess = self._guess(ratio)
        for _ in range(_ROUNDS):
            places = np.clip(guess, 0.0, 1.0).view(np.int64)[:, None] + _AROUND
            places = places.clip(low[:, None], high[:, None])
            values = self._ratio(torch.from_numpy(places.view(np.float64).reshape(-1)), torch)
            values = values.detach().numpy().reshape(places.shape)
            is_below = (values < ratio[:, None]) & (places < high[:, None])
            is_below |= places <= low[:, None]
            rows, first = np.arange(len(ratio)), (~is_below).argmax(1)
            last = np.maximum(first - 1, 0)
            low, high = places[rows, last], places[rows, first]
            if (high - low <= 1).all():
                return np.where(ratio > 0, high.view(np.float64), 0.0)
            guess = self._between(ratio, low, high, values[rows, last], values[rows, first])
        bounds = torch.from_numpy(low), torch.from_numpy(high)
        return self._bisected(torch.from_numpy(ratio), *bounds).numpy()  # type: ignore[no-any-return]

    def _bisected(self, ratio: Any, low: Any, high: Any) -> Any:
        """The same by halvings of the bit patterns between two, without a look at the values."""
        for _ in range(_HALVINGS):
            middle = low + (high - low) // 2
            below = self._ratio(middle.view(torch.float64), torch) < ratio
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return torch.where(ratio > 0, high.view(torch.float64), 0.0)

    def _guess(self, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        """Times from the values seen on construction: cubics of log t in the logarithm."""
        logs, times = self._logs
        at = np.log(np.maximum(ratio, _LEAST))
        i = (np.searchsorted(logs, at) - 2).clip(1, len(logs) - 5)  # neither 0 nor infinity
        known = logs[i[:, None] + _FOUR]
        apart = known[:, :, None] - known[:, None]
        weights = np.where(apart == 0, 1.0, (at[:, None, None] - known[:, None]) / (apart + _UNIT))
        found = np.exp((weights.prod(2) * times[i[:, None] + _FOUR]).sum(1))
        inside = (known[:, 0] <= at) & (at <= known[:, -1])
        ends = np.interp(at, logs[1:-1], times[1:-1])
        return np.where(inside, found, np.exp(ends))

    def _between(self, ratio: Any, first: Any, last: Any, below: Any, above: Any) -> Any:
        """Where ratios are between two bit patterns: by a power law of t, or of 1 - t at a pole."""
        low, high = first.view(np.float64), last.view(np.float64)
        middle = (first + (last - first) // 2).view(np.float64)
        with np.errstate(all="ignore"):
            share = np.log(ratio / below) / np.log(above / below)
            start, rise = np.diff(self._logs[0])[[1, -2]] / math.log(2)
            inside = np.where(
                low > 0, low * (high / low) ** share, high * (ratio / above) ** (1 / start)
            )
            pole = 1 - (1 - low) * (below / ratio) ** (1 / rise)
        inside = np.where(np.isfinite(inside), inside, middle)
        near = (high == 1) & (low > 0.5) & np.isfinite(pole) & (above > 8 * below)
        return np.where(near, pole, inside)


def _call(name: str, function: TimeFunction, t: Any, xp: Any) -> Any:
    times = t if xp is torch else torch.from_numpy(np.array(t))
    values = function(times)
    try:
        values = torch.as_tensor(values, dtype=torch.float64, device=times.device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"UserSchedule: {name} gave {type(values).__name__}; it must give a tensor like the "
            "times"
        ) from None
    if values.ndim and values.shape != times.shape:
        raise ValueError(
            f"UserSchedule: {name} gave shape {tuple(values.shape)} for times of shape "
            f"{tuple(times.shape)}; it must act element by element"
        )
    values = values.expand(times.shape)
    return values if xp is torch else values.detach().numpy()


def _check_recorded(name: str, function: TimeFunction, t: Any) -> None:
    """Raise a ValueError for a function of time that autograd does not see through."""
    with torch.inference_mode(False), torch.enable_grad():
        values = _call(name, function, torch.from_numpy(np.array(t)).requires_grad_(), torch)
    if not values.requires_grad and bool((values != values[0]).any()):
        raise ValueError(
            f"UserSchedule: {name} depends on t, but autograd did not record how (NumPy, detach or "
            f"torch.no_grad inside), so its derivative would count as zero; give d_{name}"
        )


def _slope(name: str, function: TimeFunction, t: Any, xp: Any) -> Any:
    """The derivative of `function` by autograd, itself differentiable where t is."""
    given = t if xp is torch else torch.from_numpy(np.array(t))
    keep = given.requires_grad and torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        times = given if keep else given.detach().clone().requires_grad_()
        values = _call(name, function, times, torch)
        slope = torch.zeros_like(times)
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(
                values.sum(), times, create_graph=keep, allow_unused=True
            )
            slope = slope if gradient is None else gradient
    return slope if xp is torch else slope.numpy()
