"""Error-controlled methods by name, with their options: what `odeint` and `sample` both take."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fastgen.common.options import Configurable, check_given_once

if TYPE_CHECKING:
    from fastgen.common.step_size import Controller

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, eq=False, repr=False)
class ErrorControlled(Configurable[P]):
    """A method whose step sizes follow from an error estimate, such as ``dopri5(rtol=1e-5)``.

    `fastgen.sample` and `fastgen.log_likelihood` take it for a name, and so does the ``method`` of
    `fastgen.odeint`, "dpm_adaptive" apart. Its options are arguments of a call, by name, as those
    of a solver are; what is None is the caller's default. Other arguments of those functions
    (gradient, mask, event ...) are theirs and are given to them.

    name, given, options: see `fastgen.common.options.Configurable`; build has the options and does
    nothing. order: of the steps that are kept. evaluations: per attempted step.
    """

    order: int
    evaluations: int
    source: str

    def __call__(self, *arguments: P.args, **options: P.kwargs) -> ErrorControlled[P]:
        """The method with these options, which are given by name."""
        return self.with_options(arguments, options)

    def __reduce__(self) -> Any:
        return _restored, (self.name, dict(self.given))

    def _names(self) -> dict[str, Any]:
        from fastgen.common.step_size import Controller  # which needs torch

        return {"Controller": Controller}

    def _remarks(self) -> str:
        return (
            f"order {self.order}, evaluations per attempted step: {self.evaluations}. "
            f"{self.source}."
        )


def name_and_options(
    method: ErrorControlled[...], given: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """A method's name, and the options that it has, for a call that was given others.

    Raises:
        TypeError: for an option that it has and that was given too.
    """
    check_given_once(method, given)
    return method.name, dict(method.given)


def method_by_name(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator for integrators: a ``method`` with options stands for its name and these.

    Raises:
        TypeError: for an option that the method has been given already.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        method = kwargs.get("method")
        if isinstance(method, ErrorControlled):
            if method.name == dpm_adaptive.name:
                raise ValueError(
                    f"method={method!r}: its steps are those of a diffusion; use fastgen.sample"
                )
            kwargs["method"], options = name_and_options(method, kwargs)
            kwargs.update(options)
        elif isinstance(method, Configurable):
            raise TypeError(
                f"method={method!r}: a {type(method).__name__} is for fastgen.plan and "
                "fastgen.sample; give the name of a method of odeint"
            )
        return function(*args, **kwargs)

    return called


def _runge_kutta(
    *,
    rtol: float | None = None,
    atol: float | None = None,
    step: str = "per_sample",
    controller: str | Controller = "pi",
    first_step: float | None = None,
    max_step: float | None = None,
    max_steps: int = 100_000,
) -> None:
    """An embedded Runge-Kutta method whose last stage is the first one of the next step.

    rtol, atol: tolerances of the state. step: "per_sample", or "joint", one size for the batch.
    controller: "i", "pi", "pid" or a `fastgen.ode.Controller`. first_step: None finds one.
    max_step: the longest. max_steps: most attempts of one sample.
    """


def _dpm(
    *,
    order: int = 3,
    rtol: float | None = None,
    atol: float | None = None,
    controller: str | Controller = "i",
    first_step: float | None = None,
    max_steps: int = 10_000,
) -> None:
    """DPM-Solver's embedded pairs, with steps in log(alpha / sigma); only for `fastgen.sample`.

    order: 2 (DPM-Solver-12) or 3 (-23). rtol, atol: tolerances of the state. controller: "i", "pi",
    "pid" or a `fastgen.ode.Controller`. first_step: in log(alpha / sigma), 0.05 by default.
    max_steps: most attempts of one sample.
    """


def _row(
    name: str, build: Callable[P, None], order: int, evaluations: int, source: str
) -> ErrorControlled[P]:
    return ErrorControlled(name, build, order, evaluations, source)


dopri5 = _row("dopri5", _runge_kutta, 5, 6, "Dormand and Prince 1980")
tsit5 = _row("tsit5", _runge_kutta, 5, 6, "Tsitouras 2011")
dopri8 = _row("dopri8", _runge_kutta, 8, 13, "Prince and Dormand 1981")
bosh3 = _row("bosh3", _runge_kutta, 3, 3, "Bogacki and Shampine 1989")
fehlberg45 = _row("fehlberg45", _runge_kutta, 5, 6, "Fehlberg 1969")
fehlberg2 = _row("fehlberg2", _runge_kutta, 2, 3, "Fehlberg 1969, RK1(2)")
adaptive_heun = _row("adaptive_heun", _runge_kutta, 2, 2, "Heun's method with Euler's embedded")
dpm_adaptive = _row("dpm_adaptive", _dpm, 3, 3, "Lu et al. 2022, arXiv 2206.00927, appendix C")

ROWS = {
    row.name: row
    for row in (dopri5, tsit5, dopri8, bosh3, fehlberg45, fehlberg2, adaptive_heun, dpm_adaptive)
}


def _restored(name: str, given: dict[str, Any]) -> ErrorControlled[...]:
    row: ErrorControlled[...] = ROWS[name]
    return row(**given)
