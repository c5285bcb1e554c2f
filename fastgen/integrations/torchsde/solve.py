"""torchsde's `sdeint` and `sdeint_adjoint`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import as_numbers, check_integer
from fastgen.common.errors import nearest
from fastgen.integrations.torchsde.log_ode import solve_log_ode
from fastgen.integrations.torchsde.motions import AREAS, BrownianInterval, fresh_entropy
from fastgen.integrations.torchsde.reversible import solve_with_state
from fastgen.sde import Adaptive
from fastgen.sde import sdeint as fastgen_sdeint

# torchsde's names for methods, by the type of equation.
METHODS = {
    "euler": "euler_maruyama",
    "milstein": "milstein",
    "srk": "srk",
    "midpoint": "midpoint",
    "heun": "heun",
    "euler_heun": "euler_heun",
    "log_ode": "midpoint",  # for noise that commutes
    "reversible_heun": "reversible_heun",
}
METHODS_OF = {
    "ito": ("euler", "milstein", "srk"),
    "stratonovich": (
        "milstein",
        "midpoint",
        "heun",
        "euler_heun",
        "log_ode",
        "reversible_heun",
    ),
}
REFUSED = {
    "adjoint_reversible_heun": "it is the gradient of 'reversible_heun': use sdeint_adjoint",
}
NOISE_TYPES = ("general", "diagonal", "scalar", "additive")
SDE_TYPES = ("ito", "stratonovich")
NAMES = (
    "drift",
    "diffusion",
    "prior_drift",
    "diffusion_prod",
    "drift_and_diffusion",
    "drift_and_diffusion_prod",
)


class _Area:
    """Another motion with a space-time Levy area, as `fastgen.sdeint` asks for it."""

    def __init__(self, bm: Any) -> None:
        area = getattr(bm, "levy_area_approximation", None)
        if area in (None, "none"):
            raise ValueError(
                f"bm: {type(bm).__name__} with levy_area_approximation={area!r}: method='srk' "
                "reads the space-time Levy area; make it with "
                "levy_area_approximation='space-time', or take method='euler' or 'milstein'"
            )
        self.bm = bm

    def __call__(self, s: float, t: float) -> Tensor:
        w: Tensor = self.bm(s, t)
        return w

    def with_area(self, s: float, t: float) -> tuple[Tensor, Tensor]:
        """W and H, from U = the integral of W_u - W_s over [s, t]."""
        w, u = self.bm(s, t, return_U=True)
        return w, u / (t - s) - w / 2


class WithRatio:
    """An SDE with one more element, the integral of |u|^2 / 2, g u = f - h (Li et al. 2020)."""

    def __init__(self, diagonal: bool, f: Callable[..., Tensor], g: Any, h: Any) -> None:
        self.diagonal, self.drift, self.diffusion, self.prior = diagonal, f, g, h

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """Drift and rate of the ratio."""
        y = y[:, :-1]
        f, g, h = self.drift(t, y), self.diffusion(t, y), self.prior(t, y)
        if self.diagonal:
            tiny = torch.where(g >= 0, 1e-7, -1e-7).to(g)
            u = (f - h) / torch.where(g.abs() < 1e-7, tiny, g)
        else:
            u = torch.bmm(torch.linalg.pinv(g), (f - h)[..., None])[..., 0]
        return torch.cat([f, u.square().sum(1, keepdim=True) / 2], 1)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """Diffusion, none of the ratio."""
        g = self.diffusion(t, y[:, :-1])
        return torch.cat([g, g.new_zeros(g.shape[0], 1, *g.shape[2:])], 1)


def sdeint(
    sde: Any,
    y0: Tensor,
    ts: Sequence[float] | Tensor,
    bm: Any = None,
    method: str | None = None,
    dt: float | Tensor = 1e-3,
    adaptive: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-4,
    dt_min: float = 1e-5,
    options: dict[str, Any] | None = None,
    names: dict[str, str] | None = None,
    logqp: bool = False,
    extra: bool = False,
    extra_solver_state: Any = None,
    *,
    entropy: int | None = None,
) -> Any:
    """torchsde's `sdeint` by `fastgen.sdeint`; states [T, batch, d].

    Args:
        sde: an object with f and g (or f_and_g, or products g_prod, f_and_g_prod, from which g is
            made noise by noise), noise_type and sde_type; h for logqp.
        y0: [batch, d].
        ts: strictly increasing times; each is hit exactly.
        bm: a Brownian motion, torchsde's or this module's; None draws steps' noise anew, or for
            adaptive steps takes a tree.
        method: torchsde's name; None takes its default.
        dt: longest step, or the first of adaptive ones.
        adaptive, rtol, atol, dt_min: error-controlled steps, the same for all samples.
        options: {"grad_free": True} for Milstein's method without derivatives.
        names: other names of drift, diffusion, prior_drift and of their products.
        logqp: also return the log-ratio's increments [T - 1, batch].
        extra: also return the solver's state at the end: (f, g, z) of "reversible_heun", z where
            f and g are evaluated; () of the others, which have none.
        extra_solver_state: of an earlier solve, which this one goes on from.
        entropy: the seed where bm is None; None draws one from torch's generator.

    Raises:
        ValueError: naming what does not fit, or is not offered and why.
    """
    check_types(sde)
    if extra_solver_state and method != "reversible_heun":
        raise ValueError(
            f"extra_solver_state: method={method!r} has none; 'reversible_heun' has (f, g, z)"
        )
    if method == "reversible_heun" and (extra or extra_solver_state):
        return run_reversible(
            sde, y0, ts, bm, float(dt), names, logqp, extra, extra_solver_state, entropy
        )
    settings: dict[str, Any] = {"dt": float(dt)}
    control = None
    if adaptive:
        control = Adaptive(
            rtol=rtol, atol=atol, step="joint", first_step=float(dt), min_step=dt_min
        )
        settings = {"adaptive": control}
    if method == "log_ode":
        _check_log_ode(sde, bm)
        if sde.noise_type == "general":
            f, g, y, times = _equation(sde, y0, ts, bm, names, logqp)
            ys = solve_log_ode(f, g, y, times, float(dt), bm, entropy, control)
            found = _parted(ys) if logqp else (ys,)
            return (*found, ()) if extra else found if logqp else ys
    chosen = method_of(sde, method, bm, adaptive, options)
    ys = solve(sde, y0, ts, bm, chosen, names, logqp, entropy, settings)
    if not extra:
        return ys
    return (*ys, ()) if logqp else (ys, ())


def solve(
    sde: Any,
    y0: Tensor,
    ts: Sequence[float] | Tensor,
    bm: Any,
    method: str,
    names: dict[str, str] | None,
    logqp: bool,
    entropy: int | None,
    settings: dict[str, Any],
) -> Any:
    """By fastgen's method and with settings of `fastgen.sdeint`."""
    f, g, y0, times = _equation(sde, y0, ts, bm, names, logqp)
    noise: Any = bm
    if isinstance(bm, BrownianInterval) and bm.ends is None:
        noise = bm.path
    elif bm is not None and method == "srk":
        noise = _Area(bm)
    ys = fastgen_sdeint(
        at_a_time(f),
        at_a_time(g),
        y0,
        times,
        method=method,
        noise_type=sde.noise_type,
        sde_type=sde.sde_type,
        seed=fresh_entropy() if entropy is None else check_integer("entropy", entropy) % 2**64,
        noise=noise,
        on_failure="return",
        **settings,
    )
    return _parted(ys) if logqp else ys


def run_reversible(
    sde: Any,
    y0: Tensor,
    ts: Sequence[float] | Tensor,
    bm: Any,
    dt: float,
    names: dict[str, str] | None,
    logqp: bool,
    extra: bool,
    state: Any,
    entropy: int | None,
) -> Any:
    """By the reversible Heun method, with its state."""
    f, g, y0, times = _equation(sde, y0, ts, bm, names, logqp)
    ys, state = solve_with_state(
        at_a_time(f), at_a_time(g), y0, times, dt, sde.noise_type, bm, state, entropy
    )
    found = _parted(ys) if logqp else (ys,)
    return (*found, state) if extra else found if logqp else ys


def _parted(ys: Tensor) -> tuple[Tensor, Tensor]:
    """States, and increments of the log-ratio."""
    return ys[..., :-1], ys[..., -1].diff(dim=0)


def _equation(
    sde: Any,
    y0: Tensor,
    ts: Sequence[float] | Tensor,
    bm: Any,
    names: dict[str, str] | None,
    logqp: bool,
) -> tuple[Any, Any, Tensor, Tensor]:
    """f, g, y0, with one more element for logqp, and the times."""
    if not isinstance(y0, Tensor) or y0.ndim != 2 or not len(y0):
        raise ValueError("y0: expected a tensor [batch, channels] with a sample or more")
    times = as_numbers("ts", ts).detach()
    if not bool((times.diff() > 0).all()):
        raise ValueError(f"ts: expected strictly increasing times, got {ts}")
    f, g, h = functions_of(sde, names, logqp, bm)
    if logqp:
        widened = WithRatio(sde.noise_type == "diagonal", f, g, h)
        y0 = torch.cat([y0, y0.new_zeros(len(y0), 1)], 1)
        f, g = widened.f, widened.g
    return f, g, y0, times


def _check_log_ode(sde: Any, bm: Any) -> None:
    area = getattr(bm, "levy_area_approximation", AREAS[0])
    if sde.sde_type != "stratonovich" or area not in AREAS:
        raise ValueError(
            f"method='log_ode': is of Stratonovich equations and motions with areas {AREAS}, got "
            f"sde_type={sde.sde_type!r} and levy_area_approximation={area!r}"
        )


def check_types(sde: Any) -> None:
    """Raise a ValueError for kinds of noise or of equations that there are not."""
    for name, known in (("noise_type", NOISE_TYPES), ("sde_type", SDE_TYPES)):
        value = getattr(sde, name, None)
        if value not in known:
            raise ValueError(f"sde.{name}={value!r}: {nearest(str(value), known)}")


def functions_of(
    sde: Any, names: dict[str, str] | None, logqp: bool, bm: Any
) -> tuple[Any, Any, Any]:
    """F, g and h under their own names or others, or from products with them."""
    names = names or {}
    for name in names:
        if name not in NAMES:
            raise ValueError(f"names[{name!r}]: {nearest(name, NAMES)}")
    f, g = (getattr(sde, names.get(k, d), None) for k, d in (("drift", "f"), ("diffusion", "g")))
    both = getattr(sde, names.get("drift_and_diffusion", "f_and_g"), None)
    if both is not None:
        f = f or (lambda t, y: both(t, y)[0])
        g = g or (lambda t, y: both(t, y)[1])
    f_and_product = getattr(sde, names.get("drift_and_diffusion_prod", "f_and_g_prod"), None)
    product = getattr(sde, names.get("diffusion_prod", "g_prod"), None)
    if f_and_product is not None:
        f = f or (lambda t, y: f_and_product(t, y, _directions(sde, y, bm)[0])[0])
        product = product or (lambda t, y, v: f_and_product(t, y, v)[1])
    if g is None and product is not None:
        g = _from_products(sde, product, bm)
    h = getattr(sde, names.get("prior_drift", "h"), None)
    for name, function, wanted in (("drift", f, True), ("diffusion", g, True), ("h", h, logqp)):
        if wanted and function is None:
            raise ValueError(
                f"sde: has no {name}; define f and g, f_and_g, or g_prod (h too for logqp), "
                "or say their names in `names`"
            )
    return f, g, h


def _directions(sde: Any, y: Tensor, bm: Any) -> list[Tensor]:
    """Noises whose products with g are its columns, or its diagonal."""
    if sde.noise_type == "diagonal":
        return [torch.ones_like(y)]
    width = 1 if sde.noise_type == "scalar" else None if bm is None else bm.shape[-1]
    if width is None:
        raise ValueError(
            f"sde: its diffusion is a product alone, and noise_type={sde.noise_type!r} does not "
            "say how many noises there are; give bm, or define g"
        )
    unit = torch.eye(width, dtype=y.dtype, device=y.device)
    return [row.expand(len(y), width) for row in unit]


def _from_products(
    sde: Any, product: Callable[..., Tensor], bm: Any
) -> Callable[[Tensor, Tensor], Tensor]:
    """G from its products with the unit noises."""

    def g(t: Tensor, y: Tensor) -> Tensor:
        columns = [product(t, y, v) for v in _directions(sde, y, bm)]
        return columns[0] if sde.noise_type == "diagonal" else torch.stack(columns, 2)

    return g


def method_of(
    sde: Any, method: str | None, bm: Any, adaptive: bool, options: dict[str, Any] | None
) -> str:
    """The method's name in fastgen."""
    if method is None:
        method = "midpoint" if sde.sde_type == "stratonovich" else "srk"
        if sde.sde_type == "ito" and sde.noise_type == "general":
            method = "euler"
    if method in REFUSED:
        raise ValueError(f"method={method!r}: {REFUSED[method]}")
    if method not in METHODS:
        raise ValueError(f"method={method!r}: {nearest(method, METHODS)}")
    options = dict(options or {})
    grad_free = options.pop("grad_free", False)
    if options or (grad_free and method != "milstein"):
        raise ValueError(
            f"options: expected grad_free for 'milstein', got {options or 'grad_free'}"
        )
    if adaptive and method == "euler" and sde.noise_type != "additive":
        warnings.warn(
            "adaptive Euler-Maruyama steps are not sure to converge to the solution for noise "
            "that is not additive",
            stacklevel=3,
        )
    if method not in METHODS_OF[sde.sde_type]:
        raise ValueError(
            f"method={method!r}: expected one of {', '.join(METHODS_OF[sde.sde_type])} for "
            f"sde_type={sde.sde_type!r}; fastgen.sdeint takes more of additive noise, whose two "
            "integrals are one"
        )
    chosen = METHODS[method]
    return "milstein_derivative_free" if grad_free else chosen


def at_a_time(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """With one time for all samples, as torchsde has it."""
    return lambda t, y: function(t[0], y)
