"""A schedule from a user's own alpha(t) and sigma(t)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fastgen.common.display import brief
from fastgen.schedules.base import Schedule, set_real

TimeFunction = Callable[[torch.Tensor], Any]

_TOLERANCE = 1e-6  # on alpha(0) = 1 and sigma(0) = 0
_CHECK_POINTS = 1025
_HALVINGS = 62  # from the doubles in [0, 1] to one
_ONE = int(np.float64(1.0).view(np.int64))


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
    _ratios: ClassVar[NDArray[np.float64]]

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
                    f"UserSchedule: {name}({t[i]:.6g}) = {values[i]!r}; {name} must be finite and "
                    "not negative for t in [0, 1]"
                )
            if abs(values[0] - wanted) > _TOLERANCE:
                raise ValueError(
                    f"UserSchedule: {name}(0) = {values[0]!r}, but t = 0 is data: make it {wanted} "
                    "(t = 1 is noise; a function with data at t = 1 takes 1 - t)"
                )
        object.__setattr__(self, "_ratios", ratio)  # for guesses
        rising = ratio[1:] > ratio[:-1]
        if not rising.all():
            i = int(np.argmin(rising))
            raise ValueError(
                f"UserSchedule: sigma / alpha does not rise from t = {t[i]:.6g} ({ratio[i]!r}) to "
                f"t = {t[i + 1]:.6g} ({ratio[i + 1]!r}); it must rise strictly from data (t = 0) "
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

    def _alpha(self, t: Any, xp: Any) -> Any:
        return xp.where(t == 0, 1.0, _call("alpha", self.alpha_function, t, xp))

    def _sigma(self, t: Any, xp: Any) -> Any:
        return xp.where(t == 0, 0.0, _call("sigma", self.sigma_function, t, xp))

    def _d_alpha(self, t: Any, xp: Any) -> Any:
        if self.d_alpha_function is not None:
            return _call("d_alpha", self.d_alpha_function, t, xp)
        return _slope("alpha", self.alpha_function, t, xp)

    def _d_sigma(self, t: Any, xp: Any) -> Any:
        if self.d_sigma_function is not None:
            return _call("d_sigma", self.d_sigma_function, t, xp)
        return _slope("sigma", self.sigma_function, t, xp)

    def _time_at_ratio(self, ratio: Any, xp: Any) -> Any:
        # Positive doubles are ordered like their bit patterns: bisecting these ends at
        # neighbouring doubles after 62 halvings, however small the time is.
        if xp is np and np.size(ratio) == 1:
            return np.reshape(self._time_of(float(np.reshape(ratio, ()))), np.shape(ratio))
        target = torch.as_tensor(ratio).detach()
        low = torch.zeros_like(target, dtype=torch.int64)
        high = torch.ones_like(target).view(torch.int64)
        for _ in range(_HALVINGS):
            middle = low + (high - low) // 2
            below = self._ratio(middle.view(torch.float64), torch) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        t = torch.where(target > 0, high.view(torch.float64), 0.0)
        return t if xp is torch else t.numpy()

    def _time_of(self, ratio: float) -> float:
        """One time by the same halvings, those on the way to a guess in one call.

        A plan asks for hundreds of single times, and a call of alpha and sigma costs the same for
        one time as for many. Halvings after one that went another way than to the guess are done
        again, to a better guess from the values that are known.
        """
        if not ratio > 0:
            return 0.0
        low, high, left = 0, _ONE, _HALVINGS
        below, above = 0.0, math.inf
        guess = float(np.interp(ratio, self._ratios, np.linspace(0.0, 1.0, _CHECK_POINTS)))
        while left:
            goal = max(low + 1, min(high, int(np.float64(guess).view(np.int64))))
            middles, a, b = [], low, high
            for _ in range(left):
                middles.append(a + (b - a) // 2)
                a, b = (middles[-1], b) if middles[-1] < goal else (a, middles[-1])
            times = np.array(middles, dtype=np.int64).view(np.float64)
            values = self._ratio(torch.from_numpy(times), torch).tolist()
            for middle, value in zip(middles, values, strict=True):
                left -= 1
                if value < ratio:
                    low, below = middle, value
                else:
                    high, above = middle, value
                if (value < ratio) != (middle < goal):
                    break
            start, end = np.array([low, high], dtype=np.int64).view(np.float64).tolist()
            guess = _between(ratio, start, end, below, above)
        return float(np.int64(high).view(np.float64))


def _between(ratio: float, low: float, high: float, below: float, above: float) -> float:
    """Where a ratio is between two times, by a power law if both ratios are known."""
    if not (0 < below < above < math.inf and low > 0):
        return math.sqrt(low * high) if low > 0 else high / 2
    share = math.log(ratio / below) / math.log(above / below)
    return float(low * (high / low) ** share)


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
