"""The variance-preserving chain of DDPM, with any betas, as a process in continuous time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastgen.common.checks import check_dense
from fastgen.common.errors import nearest
from fastgen.common.tensors import is_tensor
from fastgen.schedules import scalar
from fastgen.schedules.base import Number, Schedule, evaluate, register
from fastgen.schedules.vp import VariancePreserving, minus_log_alpha, noise_scale

_MOST_STEPS = 1_000_000  # the tables of all of them are kept

if TYPE_CHECKING:
    import torch

    Betas: TypeAlias = Sequence[float] | NDArray[np.floating[Any]] | torch.Tensor


@register
@dataclasses.dataclass(frozen=True, init=False, repr=False)
class DiscreteVP(VariancePreserving):
    """alpha((i + 1) / N)^2 = product over j <= i of (1 - beta_j), sigma^2 = 1 - alpha^2.

    betas: noise variances of the N = num_steps steps, in (0, 1); the last one may be 1 (zero
    terminal signal-to-noise ratio). `from_alphas_cumprod` takes their products instead. Index i
    (0 .. N - 1) is at t = (i + 1) / N, data at t = 0.
    log alpha is linear between these times, data included; in a last interval that ends at
    alpha = 0, alpha is linear. Derivatives at a knot are those of the interval below it, so that
    g^2 at index i is -N log(1 - beta_i).
    DDPM of Ho et al. 2020 (arXiv 2006.11239); interpolated as by DPM-Solver, Lu et al. 2022
    (2206.00927). The first tensor on a device copies the knots there, once.

    Schedules are equal where their betas are. `to_config` stores the constructor and its
    arguments where one of them made the schedule, and the betas otherwise.
    """

    betas: tuple[float, ...]
    _numpy_tables: tuple[NDArray[np.float64], ...] = dataclasses.field(init=False, compare=False)
    _torch_tables: dict[torch.device, tuple[torch.Tensor, ...]] = dataclasses.field(
        init=False, compare=False, default_factory=dict
    )
    _float_tables: tuple[list[float], ...] = dataclasses.field(init=False, compare=False)
    _origin: Mapping[str, Any] = dataclasses.field(init=False, compare=False)

    def __init__(self, betas: Betas) -> None:
        values = _numbers("betas", betas)
        good = (values > 0) & (values < 1)
        good[-1] |= values[-1] == 1
        if not good.all():
            i = int(np.argmin(good))
            raise ValueError(
                f"DiscreteVP: betas[{i}] = {float(values[i])!r} is out of range; give betas in "
                "(0, 1), where only the last may be 1"
            )
        tables = self._tabulate(values)
        object.__setattr__(self, "betas", tuple(values.tolist()))
        object.__setattr__(self, "_numpy_tables", tables)
        object.__setattr__(self, "_torch_tables", {})
        object.__setattr__(self, "_float_tables", tuple(table.tolist() for table in tables))
        object.__setattr__(self, "_origin", {})

    @staticmethod
    def _tabulate(betas: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """-log alpha at the N + 1 knots, and its finite rise over each of the N intervals."""
        with np.errstate(divide="ignore"):
            rise = -np.log1p(-betas) / 2
        knots = np.concatenate([[0.0], np.cumsum(rise.astype(np.longdouble))]).astype(np.float64)
        return knots, np.where(np.isfinite(rise), rise, 0.0)

    @classmethod
    def linear(
        cls, num: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> DiscreteVP:
        """beta_i from beta_start to beta_end linearly (Ho et al. 2020, arXiv 2006.11239)."""
        given = {"num": _count(num), "beta_start": float(beta_start), "beta_end": float(beta_end)}
        return cls(np.linspace(beta_start, beta_end, num))._made_by("linear", given)

    @classmethod
    def scaled_linear(
        cls, num: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
    ) -> DiscreteVP:
        """sqrt(beta_i) linearly, as in latent diffusion (Rombach et al. 2022, arXiv 2112.10752)."""
        _in_unit_interval(beta_start=beta_start, beta_end=beta_end)
        given = {"num": _count(num), "beta_start": float(beta_start), "beta_end": float(beta_end)}
        roots = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num)
        return cls(roots**2)._made_by("scaled_linear", given)

    @classmethod
    def squared_cosine(cls, num: int = 1000, max_beta: float = 0.999) -> DiscreteVP:
        """beta_i = min(1 - c((i + 1) / N) / c(i / N), max_beta), c(t) = cos(pi/2 (t+s) / (1+s))^2.

        s = 0.008. Nichol and Dhariwal 2021 (arXiv 2102.09672).
        """
        _in_unit_interval(max_beta=max_beta)
        at = np.arange(_count(num) + 1) / num
        squares = np.cos(math.pi / 2 * (at + 0.008) / 1.008) ** 2
        given = {"num": _count(num), "max_beta": float(max_beta)}
        betas = np.minimum(1 - squares[1:] / squares[:-1], max_beta)
        return cls(betas)._made_by("squared_cosine", given)

    @classmethod
    def sigmoid(
        cls, num: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> DiscreteVP:
        """beta_i = beta_start + (beta_end - beta_start) logistic(x_i), x from -6 to 6 linearly.

        GeoDiff, Xu et al. 2022 (arXiv 2203.02923).
        """
        given = {"num": _count(num), "beta_start": float(beta_start), "beta_end": float(beta_end)}
        x = np.linspace(-6, 6, num)
        betas = beta_start + (beta_end - beta_start) / (1 + np.exp(-x))
        return cls(betas)._made_by("sigmoid", given)

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Betas) -> DiscreteVP:
        """alpha((i + 1) / N)^2 = alphas_cumprod[i], as checkpoints and diffusers keep it.

        alphas_cumprod: [N], strictly falling, between 1 and 0; the last one may be 0.
        """
        values = _numbers("alphas_cumprod", alphas_cumprod)
        before = np.concatenate([[1.0], values[:-1]])
        good = (values < before) & (values > 0)
        good[-1] |= values[-1] == 0 < before[-1]
        if not good.all():
            i = int(np.argmin(good))
            raise ValueError(
                f"DiscreteVP: alphas_cumprod[{i}] = {float(values[i])!r} after "
                f"{float(before[i])!r} is out of range; give strictly falling numbers in (0, 1), "
                "where only the last may be 0"
            )
        return cls((before - values) / before)

    def rescale_zero_terminal_snr(self) -> DiscreteVP:
        """A schedule with alpha shifted and scaled: it ends at 0 and keeps its value at index 0.

        Algorithm 1 of Lin et al. 2023 (arXiv 2305.08891).
        """
        if self.zero_terminal_snr:
            return self
        if self.num_steps < 2:
            raise ValueError(
                "DiscreteVP: one beta cannot be rescaled to zero terminal SNR with its first "
                "alpha kept; give at least 2 betas"
            )
        knots, _ = self._numpy_tables
        alphas = np.exp(-knots[1:])
        scale = alphas[0] / (alphas[0] - alphas[-1])
        after = scale * (alphas - alphas[-1])
        # 1 - (after_i / after_{i-1})^2 by the difference of the alphas, which does not cancel.
        falls = -scale * alphas[:-1] * np.expm1(np.log1p(-np.array(self.betas[1:])) / 2)
        share = (falls / after[:-1])[:-1]
        result = DiscreteVP([self.betas[0], *(share * (2 - share)).tolist(), 1.0])
        if self._origin:
            object.__setattr__(result, "_origin", {**self._origin, "zero_terminal_snr": True})
        return result

    def to_config(self) -> dict[str, Any]:
        """A dictionary for JSON, from which `from_config` makes an equal schedule.

        It names the constructor and its arguments where one made the schedule, which spares
        storing N betas; otherwise it holds the betas.
        """
        return {"name": type(self).__name__, **(self._origin or {"betas": self.betas})}

    @classmethod
    def _from_parameters(cls, parameters: Mapping[str, Any]) -> Schedule:
        """The schedule of {"betas": ...} or {"constructor": ..., and its arguments}.

        Raises:
            ValueError: for an unknown constructor.
            TypeError: for an unknown parameter.
        """
        if "constructor" not in parameters:
            return super()._from_parameters(parameters)
        arguments = dict(parameters)
        name, rescale = arguments.pop("constructor"), arguments.pop("zero_terminal_snr", False)
        if name not in _CONSTRUCTORS:
            raise ValueError(
                f"{cls.__name__} has no constructor {name!r}; {nearest(str(name), _CONSTRUCTORS)}"
            )
        for key in arguments:
            if key not in _CONSTRUCTORS[name]:
                meant = nearest(key, [*_CONSTRUCTORS[name], "zero_terminal_snr"])
                raise TypeError(f"{cls.__name__}.{name} has no parameter {key!r}; {meant}")
        schedule: DiscreteVP = getattr(cls, name)(**arguments)
        return schedule.rescale_zero_terminal_snr() if rescale else schedule

    def _made_by(self, constructor: str, arguments: Mapping[str, Any]) -> DiscreteVP:
        object.__setattr__(self, "_origin", {"constructor": constructor, **arguments})
        return self

    @property
    def num_steps(self) -> int:
        """N, the number of betas."""
        return len(self.betas)

    @property
    def t_min(self) -> float:
        """1 / N, the time of index 0."""
        return 1 / self.num_steps

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether alpha(1) = 0."""
        return self.betas[-1] == 1

    def time_of_index(self, index: Number) -> Number:
        """(index + 1) / N, for index in [-1, N - 1], fractions included; -1 is data."""
        if not is_tensor(index):
            values = np.asarray(index, dtype=np.float64)
            good = (values >= -1) & (values <= self.num_steps - 1)
            if not good.all():
                raise ValueError(
                    f"index = {float(values[~good].flat[0])!r} is out of range: give an index "
                    f"within [0, {self.num_steps - 1}], or -1 for data"
                )
        return evaluate(lambda i, xp: (i + 1) / self.num_steps, index, check=False)

    def index_of_time(self, t: Number) -> Number:
        """N t - 1; exactly an integer where t is the time of an index to within rounding."""
        precision = 2.0**-52
        if is_tensor(t) and t.is_floating_point():
            import torch

            precision = torch.finfo(t.dtype).eps
        slack = 4 * self.num_steps * precision
        return evaluate(lambda t, xp: _snap(t * self.num_steps, slack, xp) - 1, t, fast=True)

    def __repr__(self) -> str:
        shown = [f"{beta:.6g}" for beta in self.betas]
        if len(shown) > 3:
            shown = [shown[0], "...", shown[-1]]
        return f"DiscreteVP(num_steps={self.num_steps}, betas=[{', '.join(shown)}])"

    def _tables(self, like: Any, xp: Any) -> tuple[Any, ...]:
        if xp is scalar:
            return self._float_tables
        if xp is np:
            return self._numpy_tables
        import torch

        from fastgen.common.kept import kept

        def made() -> tuple[Any, ...]:
            return tuple(torch.from_numpy(table).to(like.device) for table in self._numpy_tables)

        return kept(self._torch_tables, like.device, made)

    def _interval(self, t: Any, xp: Any) -> tuple[Any, Any, Any]:
        """(l, rest, slope) with alpha = exp(l) rest and d alpha / dt = exp(l) slope.

        Where alpha is linear down to 0, l is constant; elsewhere rest = 1.
        """
        knots, rises = self._tables(t, xp)
        position = t * self.num_steps
        slack = 4 * self.num_steps * 2**-52
        if xp is scalar:  # as below, without a function call for each operation
            whole = round(position)
            up = whole if abs(position - whole) <= slack else math.ceil(position)
            j = min(max(up - 1, 0), self.num_steps - 1)
            part = position - j
        else:
            below = xp.ceil(_snap(position, slack, xp)) - 1
            below = xp.clip(below, 0, self.num_steps - 1)
            j = below.astype(np.int64) if xp is np else below.to(xp.int64)
            part = position - below
        log_alpha = -knots[j] - part * rises[j]
        slope = -self.num_steps * rises[j]
        if not self.zero_terminal_snr:
            return log_alpha, xp.ones_like(t), slope
        last = j == self.num_steps - 1
        rest = xp.where(last, 1 - part, 1.0)
        return log_alpha, rest, xp.where(last, -float(self.num_steps), slope)

    def _alpha(self, t: Any, xp: Any) -> Any:
        log_alpha, rest, _ = self._interval(t, xp)
        return xp.exp(log_alpha) * rest

    def _sigma(self, t: Any, xp: Any) -> Any:
        log_alpha, rest, _ = self._interval(t, xp)
        return _sigma_of(log_alpha, rest, xp)

    # What follows would do without: it looks the interval up once instead of two or three times.
    def _ratio(self, t: Any, xp: Any) -> Any:
        log_alpha, rest, _ = self._interval(t, xp)
        return _sigma_of(log_alpha, rest, xp) / (xp.exp(log_alpha) * rest)

    def _d_sigma(self, t: Any, xp: Any) -> Any:
        log_alpha, rest, slope = self._interval(t, xp)
        alpha = xp.exp(log_alpha)
        return -(alpha * rest) * (alpha * slope) / _sigma_of(log_alpha, rest, xp)

    def _d_alpha(self, t: Any, xp: Any) -> Any:
        log_alpha, _, slope = self._interval(t, xp)
        return xp.exp(log_alpha) * slope

    def _drift(self, t: Any, xp: Any) -> Any:
        _, rest, slope = self._interval(t, xp)
        return slope / rest

    def _time_at_ratio(self, ratio: Any, xp: Any) -> Any:
        knots, rises = self._tables(ratio, xp)
        depth = minus_log_alpha(ratio, xp)
        j = xp.clip(xp.searchsorted(knots, depth) - 1, 0, self.num_steps - 1)
        beyond = depth - knots[j]
        if self.zero_terminal_snr:
            last = j == self.num_steps - 1
            part = xp.where(last, -xp.expm1(-beyond), beyond / xp.where(last, 1.0, rises[j]))
        else:
            part = beyond / rises[j]
        return (j + part) / self.num_steps


_CONSTRUCTORS: Mapping[str, tuple[str, ...]] = {
    "linear": ("num", "beta_start", "beta_end"),
    "scaled_linear": ("num", "beta_start", "beta_end"),
    "squared_cosine": ("num", "max_beta"),
    "sigmoid": ("num", "beta_start", "beta_end"),
}


def _numbers(name: str, given: Any) -> NDArray[np.float64]:
    """Numbers [num_steps]."""
    if not isinstance(given, np.ndarray):
        given = _plain(given)
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"DiscreteVP: {name} = {given!r}; give numbers [num_steps]") from None
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            f"DiscreteVP: {name} has shape {values.shape}; give a one-dimensional sequence of at "
            "least one number"
        )
    return values


def _plain(betas: Any) -> Any:
    """Betas without tensors, whatever transforms of torch run."""
    if not is_tensor(betas) and not any(map(is_tensor, betas if isinstance(betas, list) else ())):
        return betas
    from fastgen.common.transforms import constant

    def on_the_host(betas: Any) -> Any:
        if is_tensor(betas):
            return check_dense("betas", betas).detach().cpu().double().numpy()
        return [float(b) for b in betas]

    on_the_host.__qualname__ = "DiscreteVP"  # as a message names it
    return constant(on_the_host)(betas)


def _sigma_of(log_alpha: Any, rest: Any, xp: Any) -> Any:
    # rest = 0 gives the same sigma = 1 as 2^-53, without an infinite gradient.
    return noise_scale(log_alpha + xp.log(xp.clip(rest, 2.0**-53, None)), xp)


def _snap(position: Any, slack: float, xp: Any) -> Any:
    whole = xp.round(position)
    return xp.where(xp.absolute(position - whole) <= slack, whole, position)


def _count(num: int) -> int:
    whole = isinstance(num, int | np.integer) and not isinstance(num, bool)
    if not whole or not 1 <= num <= _MOST_STEPS:
        raise ValueError(
            f"num = {num!r} is not a positive integer up to {_MOST_STEPS}; give the number of betas"
        )
    return int(num)


def _in_unit_interval(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} = {value!r} is out of range; give a beta in (0, 1)")
