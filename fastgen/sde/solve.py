"""`sdeint`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.checks import check_choice, check_number, known_arguments
from fastgen.common.derivatives import outside_inference_mode
from fastgen.common.padding import Padding
from fastgen.common.transforms import batched, check_not_batched, transforming
from fastgen.common.typed import check_argument
from fastgen.noise.brownian_path import BrownianPath
from fastgen.noise.keys import id_tensor, seed_tensor
from fastgen.sde import methods
from fastgen.sde.adaptive import Adaptive, Stepper, solve_adaptive
from fastgen.sde.compiled import check_compile
from fastgen.sde.equation import Equation, check_finite, parameters_of, times_of
from fastgen.sde.fixed import solve_fixed
from fastgen.sde.methods import NOISE_TYPES, SDE_TYPES
from fastgen.sde.motions import Motion, PathMotion, called
from fastgen.sde.recipe import recipe_of
from fastgen.sde.reversible import Leap, solve_reversible
from fastgen.sde.sources import (
    CallableIncrements,
    Draws,
    PathIncrements,
    Source,
    grid_of,
)

NOISES = ("draws", "brownian")
GRADIENTS = ("through", "adjoint", "none")
FAILURES = ("raise", "return")


@known_arguments(adaptive=Adaptive)
@outside_inference_mode
def sdeint(
    f: Callable[..., Tensor],
    g: Callable[..., Tensor],
    y0: Tensor,
    t: Sequence[float] | Tensor,
    *,
    method: str | None = None,
    noise_type: str = "diagonal",
    sde_type: str = "ito",
    steps: int | None = None,
    dt: float | None = None,
    adaptive: bool | Adaptive = False,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int | Sequence[int] | Tensor = 0,
    sample_ids: Sequence[int] | Tensor | None = None,
    noise: str | BrownianPath | Callable[..., Tensor] | None = None,
    gradient: str = "through",
    parameters: Iterable[Tensor] | nn.Module | None = None,
    mask: Tensor | None = None,
    on_failure: str = "raise",
    backend: str | None = None,
    compile: bool = False,
) -> Tensor:
    """Solve dy = f(t, y) dt + g(t, y) dW, y(t_0) = y0, and return y at all times t: [T, B, ...].

    What becomes of a sample is a function of its seed, its sample id and the equation: not, in a
    single bit, of what else is in the batch (where f and g treat samples separately).

    Diffusions by ``noise_type``:

        "diagonal"  g [B, ...] like y: element i has its own motion, and g_i reads only y_i
        "scalar"    g [B, ...] or [B, ..., 1]: one motion for all elements of a sample
        "additive"  g [B, ...] or [B, ..., m], a function of the time alone
        "general"   g [B, ..., m]: m motions for each sample

    Methods, with their strong orders (general noise in brackets): for Ito equations
    "euler_maruyama" 0.5 (0.5), for additive noise 1; "srk" 1.5 (not general). For both kinds
    "milstein" and "milstein_derivative_free" 1 (not general). For Stratonovich equations "heun",
    "euler_heun", "midpoint" 1 (0.5); "reversible_heun" 0.5 (0.5), for additive noise 1.
    `fastgen.sde.methods` has their formulas and sources.

    Args:
        f, g: called as f(t, y) with t [B] and y [B, ...]. The tensors are buffers: clone what is
            to be kept.
        y0: [B, ...], float32 or float64.
        t: T >= 2 times, strictly increasing or decreasing. Each is hit exactly. Backwards in time
            the motion's increments are those of the path run backwards; an Ito equation is then
            that of reversed time, with the drift -f.
        method: its name; None takes the highest strong order that the noise allows.
        noise_type, sde_type: see above; sde_type is "ito" or "stratonovich".
        steps: steps over the whole interval, each at most 1 / steps of it; or
        dt: the longest step. Steps between two times are of equal lengths.
        adaptive: True or `Adaptive`: error-controlled steps instead, along a Brownian path. Each
            sample has its own. Methods of strong order 1 or more converge to the equation's
            solution (Gaines and Lyons 1997), "euler_maruyama" does for additive noise, without
            guarantee for other. "srk" follows the motion with areas.
        rtol, atol: short for those of `Adaptive`, 1e-3 and 1e-4.
        seed: one 64-bit seed, or one per sample.
        sample_ids: B ids, 0 <= id < 2^48; the default is 0 .. B - 1.
        noise: "draws" (the default for fixed steps): step n has its draws, the cheapest way.
            "brownian" (for adaptive ones): increments of the motion of `fastgen.brownian` on the
            solve's interval, so that smaller steps follow the same path; for "srk" of the motion
            with space-time Levy areas, which is another one. A `BrownianPath` with shape [B, ...]
            or [B, m]: the same, on the interval of the path. Any function (s, t) of times s < t
            that returns W(t) - W(s). "srk" also needs its method ``with_area(s, t)``, which
            returns W(t) - W(s) and the space-time Levy area H. That is (1 / h) times the integral
            of W_u - W_s - (u - s) / h (W_t - W_s) over [s, t], h = t - s.
        gradient: "through" the steps by autograd; "adjoint" for "reversible_heun", in the memory
            of one step; or "none". Only where gradients are enabled and something needs them.
            Forward-mode derivatives and `torch.func` go "through".
        parameters: for the adjoint what f and g depend on, a module or tensors; those of modules
            are found.
        mask: for samples of different lengths, True where an element of y0 is live: any shape that
            broadcasts to it. Padding is 0, stays 0 and does not count in errors.
        on_failure: "raise" where a sample is not finite, or "return" it as it is.
        backend: "auto", "reference", "cpp" or "triton"; None reads FASTGEN_BACKEND.
        compile: for fixed steps without gradients evaluate f and g as code of `torch.compile`, one
            graph of those that nothing stands between, for any number of samples. It is compiled
            in the first solve, and again for other functions, dtypes or shapes of a sample; what f
            and g depend on is looked at once in a solve. They must do nothing but compute.

    Returns:
        The states, [T, B, ...]; the first is y0.

    Raises:
        TypeError, ValueError: naming the argument.
        RuntimeError: naming the first sample that failed, and its time.

    Example:
        >>> y0 = torch.zeros(10_000, 1)
        >>> y = fastgen.sdeint(  # dy = -y dt + sqrt(2) dW, whose law goes to N(0, 1)
        ...     lambda t, y: -y, lambda t, y: torch.full_like(y, 2**0.5), y0, [0.0, 5.0],
        ...     noise_type="additive", steps=100, seed=1,
        ... )
        >>> abs(y[-1].std().item() - 1) < 0.03
        True
    """
    check_choice("noise_type", noise_type, NOISE_TYPES)
    check_choice("sde_type", sde_type, SDE_TYPES)
    check_choice("gradient", gradient, GRADIENTS)
    check_choice("on_failure", on_failure, FAILURES)
    check_argument("compile", compile, bool)
    control = _control(adaptive, steps, dt, rtol, atol)
    if noise is None:
        noise = "draws" if control is None else "brownian"
    elif isinstance(noise, str):
        check_choice("noise", noise, NOISES)
    area = control is None and (noise == "draws" or _has_area(noise))
    chosen = methods.find(methods.default(noise_type, sde_type, area) if method is None else method)
    chosen.check(noise_type, sde_type)
    if chosen.area and not (noise in ("draws", "brownian") or _has_area(noise)):
        raise ValueError(
            f"method={chosen.name!r} reads the motion's space-time Levy area, which paths of W "
            "alone do not have: use noise='draws', 'brownian', a BrownianPath with "
            "levy_area=True or a noise with a method with_area(s, t); or "
            "method='milstein_derivative_free'"
        )
    if gradient == "adjoint" and (control is not None or chosen.formula is not None):
        raise ValueError(
            f"gradient='adjoint': is that of method='reversible_heun' with fixed steps, got "
            f"{chosen.name!r}; use gradient='through'"
        )
    if parameters is not None and gradient != "adjoint":
        raise ValueError(f"parameters: for gradient='adjoint', not for gradient={gradient!r}")
    forward = transforming()
    if forward:
        _check_transforms(gradient, control is not None, y0, t)
    times = times_of(t)
    equation = Equation(f, g, y0, noise_type)
    if mask is not None:
        joint = control is not None and control.step == "joint"
        equation.padding = Padding(mask, y0, joint)
        y0 = equation.padding.clear(y0)
    y0 = y0.clone()  # f and g are never handed the caller's own tensor
    needed = _probe(equation, times, y0, gradient, parameters)

    recipe = None
    if chosen.formula is not None:
        direction = 1.0 if times[-1] > times[0] else -1.0
        recipe = recipe_of(chosen.formula, noise_type, sde_type, direction, equation.matrix)
    if compile:
        masked, varying = mask is not None, control is not None
        check_compile(recipe, chosen.name, varying, masked, needed, forward)
    if control is not None:
        if recipe is None:
            raise ValueError(f"adaptive=True: takes a method of one state, not {chosen.name!r}")
        path = _path(noise, equation, times, seed, sample_ids, True, chosen.area)
        motion = _motion(path, equation, control, chosen.area)
        order = min(chosen.strong.values())
        with torch.set_grad_enabled(needed):
            step = Stepper(equation, recipe)
            result = solve_adaptive(equation, step, motion, times, y0, control, order).ys
    else:
        grid, places = grid_of(times, _longest(times, steps, dt))
        source = _source(noise, equation, grid, times, seed, sample_ids, chosen.area)
        if gradient == "adjoint":
            leap = Leap(equation, source, grid)
            result = solve_reversible(leap, y0, places, _parameters(f, g, parameters))
        elif recipe is None:
            with torch.set_grad_enabled(needed):
                result = Leap(equation, source, grid).run(y0, places)[0]
        else:
            with torch.set_grad_enabled(needed):
                recorded = needed or forward
                run = equation, recipe, source, grid, places, y0, recorded, backend
                result = solve_fixed(*run, compile)
    if gradient == "none":
        result = result.detach()
    if on_failure == "raise" and not batched(result):
        check_finite(result, times)
    return result


def _has_area(noise: Any) -> bool:
    return noise.levy_area if isinstance(noise, BrownianPath) else hasattr(noise, "with_area")


def _check_transforms(
    gradient: str, adaptive: bool, y0: Tensor, t: Sequence[float] | Tensor
) -> None:
    """Refuse what does not work in forward mode and inside of `torch.func`."""
    if gradient == "adjoint":
        raise ValueError(
            "gradient='adjoint': serves backward() alone, not forward-mode derivatives and "
            "torch.func; use gradient='through'"
        )
    call = "fastgen.sdeint"
    check_not_batched(call, "all members have the same times; give them outside", t=t)
    if adaptive:
        remedy = "steps of varying sizes cannot follow a batch axis that vmap hides; use steps="
        check_not_batched(call, remedy, y0=y0)


def _probe(
    equation: Equation,
    times: Tensor,
    y0: Tensor,
    gradient: str,
    parameters: Iterable[Tensor] | nn.Module | None,
) -> bool:
    """Whether the solve has to be differentiable; finds the noise's shape where g tells."""
    wanted = torch.is_grad_enabled() and gradient == "through"
    if torch.is_grad_enabled() and gradient == "adjoint" and parameters is None:
        _check_parameters(equation, times, y0)
    needed = wanted and (y0.requires_grad or bool(parameters_of(equation.f, equation.g)))
    start = times[:1].to(equation.dtype).to(equation.device).expand(equation.shape[0])
    look = wanted and not needed  # closures show in the values what they depend on
    if look or equation.noise_type in ("additive", "general"):
        with torch.set_grad_enabled(look):
            found = equation.probe(start, y0.detach(), drift=look)
        needed |= look and found
    return needed


def _check_parameters(equation: Equation, times: Tensor, y0: Tensor) -> None:
    """Refuse, for the adjoint, functions that need gradients of tensors that they do not show."""
    if parameters_of(equation.f, equation.g):
        return
    start = times[:1].to(equation.dtype).to(equation.device).expand(equation.shape[0])
    if equation.probe(start, y0.detach(), drift=True):
        raise ValueError(
            "f, g: depend on tensors that need gradients but are not modules; name these tensors: "
            "gradient='adjoint', parameters=(...)"
        )


def _longest(times: Tensor, steps: int | None, dt: float | None) -> float:
    if (steps is None) == (dt is None):
        raise ValueError(f"steps={steps}, dt={dt}: expected one of the two")
    span = float((times[-1] - times[0]).abs())
    if steps is not None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps={steps!r}: expected a positive integer")
        return span / steps
    assert dt is not None
    if not 0 < check_number("dt", dt) < math.inf:
        raise ValueError(f"dt={dt!r}: expected a positive number; backwards in time too")
    return float(dt)


def _control(
    adaptive: bool | Adaptive,
    steps: int | None,
    dt: float | None,
    rtol: float | None,
    atol: float | None,
) -> Adaptive | None:
    """The control of adaptive steps, None of fixed ones."""
    given: dict[str, Any] = {"rtol": rtol, "atol": atol}
    given = {name: value for name, value in given.items() if value is not None}
    if not adaptive:
        for name, value in given.items():
            raise ValueError(f"{name}={value!r}: the steps are fixed; use adaptive=True, or dt")
        return None
    if steps is not None or dt is not None:
        raise ValueError(
            f"steps={steps}, dt={dt}: adaptive steps take first_step and max_step of Adaptive"
        )
    return replace(adaptive if isinstance(adaptive, Adaptive) else Adaptive(), **given)


def _path(
    noise: Any,
    equation: Equation,
    times: Tensor,
    seed: int | Sequence[int] | Tensor,
    sample_ids: Sequence[int] | Tensor | None,
    adaptive: bool,
    area: bool,
) -> Any:
    low, high = sorted((float(times[0]), float(times[-1])))
    if noise == "brownian":
        return BrownianPath(
            equation.noise_shape,
            low,
            high,
            seed=seed,
            sample_ids=sample_ids,
            levy_area=area,
            dtype=equation.dtype,
            device=equation.device,
        )
    if noise == "draws" and adaptive:
        raise ValueError("noise='draws': has no values between steps; use noise='brownian'")
    if isinstance(noise, BrownianPath):
        if noise.shape != equation.noise_shape:
            raise ValueError(
                f"noise: expected a path of shape {tuple(equation.noise_shape)}, "
                f"got {tuple(noise.shape)}"
            )
        if not (noise.t0 <= low and high <= noise.t1):
            raise ValueError(
                f"noise: the path is on [{noise.t0}, {noise.t1}], t on [{low}, {high}]"
            )
    elif not callable(noise):
        raise TypeError(f"noise: expected a name, a path or a function (s, t), got {noise!r}")
    return noise


def _motion(path: Any, equation: Equation, control: Adaptive, area: bool) -> Motion:
    """What adaptive steps read of the noise."""
    if control.step == "joint":  # one time for all samples: a path is walked along in C++
        return called(path, equation.noise_shape, area)
    if isinstance(path, BrownianPath):
        return PathMotion(path, area)
    raise ValueError(
        "noise: a function (s, t) has one time for all samples; take Adaptive(step='joint'), or a "
        "BrownianPath for steps of each sample's own"
    )


def _source(
    noise: Any,
    equation: Equation,
    grid: Tensor,
    times: Tensor,
    seed: int | Sequence[int] | Tensor,
    sample_ids: Sequence[int] | Tensor | None,
    area: bool,
) -> Source:
    if noise == "draws":
        rows, device = equation.shape[0], equation.device
        seeds, ids = seed_tensor(seed, rows, device), id_tensor(sample_ids, rows, device)
        return Draws(equation.noise_shape, seeds, ids, equation.dtype)
    path = _path(noise, equation, times, seed, sample_ids, False, area)
    if isinstance(path, BrownianPath):
        return PathIncrements(path, grid, equation.dtype)
    like = torch.empty(0, dtype=equation.dtype, device=equation.device)
    return CallableIncrements(path, grid, equation.noise_shape, like)


def _parameters(f: Any, g: Any, parameters: Iterable[Tensor] | nn.Module | None) -> list[Tensor]:
    if parameters is None:
        return parameters_of(f, g)
    given = parameters.parameters() if isinstance(parameters, nn.Module) else parameters
    return [p for p in given if p.requires_grad]
