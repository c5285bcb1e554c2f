"""The methods, each as its formula: see `fastgen.sde.recipe.StepSymbols` for the symbols.

y: the state; f, g: drift and diffusion, f(x, c) at state x and time t + c h; h: the step; dW: the
motion's increment over it; I10: the integral of W_s - W_t over it. Products are per element for
diagonal noise; for a matrix g they are g dW.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastgen.common.errors import nearest
from fastgen.sde.expressions import Expression
from fastgen.sde.recipe import StepSymbols

NOISE_TYPES = ("diagonal", "scalar", "additive", "general")
SDE_TYPES = ("ito", "stratonovich")


@dataclass(frozen=True)
class Method:
    """A method and what it is good for.

    formula: None for `reversible_heun`, which carries more than a state. strong: its strong order
    for each noise type it solves. weak: its weak order. area: it reads I10.
    """

    name: str
    formula: Callable[[StepSymbols], Expression] | None
    sde_types: tuple[str, ...]
    strong: dict[str, float]
    weak: float
    area: bool = False

    def check(self, noise_type: str, sde_type: str) -> None:
        """Raise a ValueError where the method does not solve such equations."""
        if noise_type not in self.strong:
            raise ValueError(
                f"method={self.name!r} is for {', '.join(self.strong)} noise, not for "
                f"noise_type={noise_type!r}; use {_alternatives(noise_type, sde_type)}"
            )
        # With additive noise the two integrals are the same.
        if sde_type not in self.sde_types and noise_type != "additive":
            raise ValueError(
                f"method={self.name!r} converges to the {self.sde_types[0]} solution, not to that "
                f"of sde_type={sde_type!r}; use {_alternatives(noise_type, sde_type)}"
            )


def euler_maruyama(s: StepSymbols) -> Expression:
    """y' = y + h f + g dW.

    Maruyama 1955; Kloeden and Platen 1992, "Numerical solution of stochastic differential
    equations", section 10.2.
    """
    return s.y + s.h * s.f(s.y) + s.dW * s.g(s.y)


def milstein(s: StepSymbols) -> Expression:
    """y' = y + h f + g dW + (dg/dy) g (dW^2 - h) / 2; without - h for Stratonovich.

    Milstein 1974; Kloeden and Platen 1992, section 10.3. The derivative of g along g comes from
    automatic differentiation.
    """
    first = euler_maruyama(s)
    if s.noise_type == "additive":
        return first
    double = s.dW**2 - s.h if s.ito else s.dW**2
    return first + double * s.gdg(s.y) / 2


def milstein_derivative_free(s: StepSymbols) -> Expression:
    """y' = y + h f + g dW + (g(x) - g) (dW^2 - h) / (2 sqrt(h)),  x = y + h f + sqrt(h) g.

    Without - h, and with x = y + sqrt(h) g, for Stratonovich. Kloeden and Platen 1992, section
    11.1.
    """
    if s.noise_type == "additive":
        return euler_maruyama(s)
    f, g = s.f(s.y), s.g(s.y)
    ahead = s.y + s.sqrt_h * g
    change = s.g(ahead + s.h * f if s.ito else ahead) - g
    double = s.dW**2 - s.h if s.ito else s.dW**2
    return s.y + s.h * f + s.dW * g + change * double / (2 * s.sqrt_h)


def heun(s: StepSymbols) -> Expression:
    """y' = y + h (f + f(x)) / 2 + (g + g(x)) dW / 2,  x = y + h f + g dW, at time t + h.

    Stratonovich. Burrage, Burrage and Tian 2004, "Numerical methods for strong solutions of
    stochastic differential equations: an overview".
    """
    f, g = s.f(s.y), s.g(s.y)
    x = s.let(s.y + s.h * f + s.dW * g)
    return s.y + s.h * (f + s.f(x, 1)) / 2 + s.dW * (g + s.g(x, 1)) / 2


def euler_heun(s: StepSymbols) -> Expression:
    """y' = y + h f + (g + g(x)) dW / 2,  x = y + g dW, at time t + h.

    Stratonovich. Kloeden and Platen 1992, section 4.9 (the Heun method of the noise alone).
    """
    f, g = s.f(s.y), s.g(s.y)
    return s.y + s.h * f + s.dW * (g + s.g(s.y + s.dW * g, 1)) / 2


def midpoint(s: StepSymbols) -> Expression:
    """y' = y + h f(x) + g(x) dW,  x = y + h f / 2 + g dW / 2, at time t + h / 2.

    Stratonovich. Burrage, Burrage and Tian 2004.
    """
    x = s.let(s.y + s.h * s.f(s.y) / 2 + s.dW * s.g(s.y) / 2)
    return s.y + s.h * s.f(x, 0.5) + s.dW * s.g(x, 0.5)


def srk(s: StepSymbols) -> Expression:
    """Roessler's Runge-Kutta methods of strong order 1.5: SRA1 or SRI1 by the noise.

    Roessler 2010, "Runge-Kutta methods for the strong approximation of solutions of stochastic
    differential equations", SIAM J. Numer. Anal. 48.
    """
    return sra1(s) if s.noise_type == "additive" else sri1(s)


def sra1(s: StepSymbols) -> Expression:
    """y' = y + h (f + 2 f(H)) / 3 + g(t + h) (dW - I10 / h) + g(t) I10 / h.

    H = y + 3/4 h f + 3/2 g(t + h) I10 / h, at time t + 3/4 h. Additive noise; g is evaluated at y.
    """
    f, last = s.f(s.y), s.g(s.y, 1)
    H = s.let(s.y + 0.75 * s.h * f + 1.5 * (s.I10 / s.h) * last)
    drift = s.h * (f + 2 * s.f(H, 0.75)) / 3
    return s.y + drift + (s.dW - s.I10 / s.h) * last + (s.I10 / s.h) * s.g(s.y)


def sri1(s: StepSymbols) -> Expression:
    """SRI1W1: diagonal and scalar noise.

    y' = y + h (f_1 + 2 f_2) / 3
         + sum_i (b1_i dW + b2_i I11 / sqrt(h) + b3_i I10 / h + b4_i I111 / h) g_i,
    I11 = (dW^2 - h) / 2,  I111 = (dW^3 - 3 h dW) / 6,
    f_2 at y + 3/4 h f_1 + 3/2 g_1 I10 / h, time t + 3/4 h,
    g_2 at y + 1/4 h f_1 + 1/2 sqrt(h) g_1, time t + h / 4,
    g_3 at y + h f_1 - sqrt(h) g_1, time t + h,
    g_4 at y + 1/4 h f_1 + sqrt(h) (-5 g_1 + 3 g_2 + 1/2 g_3), time t + h / 4.
    """
    y, h, root = s.y, s.h, s.sqrt_h
    I11, I111 = (s.dW**2 - h) / 2, (s.dW**3 - 3 * h * s.dW) / 6
    f1, g1 = s.f(y), s.g(y)
    inner = s.let(y + 0.75 * h * f1 + 1.5 * (s.I10 / h) * g1)
    second = s.let(y + 0.25 * h * f1 + 0.5 * root * g1)
    third = s.let(y + h * f1 - root * g1)
    f2, g2, g3 = s.f(inner, 0.75), s.g(second, 0.25), s.g(third, 1)
    g4 = s.g(y + 0.25 * h * f1 + root * (-5 * g1 + 3 * g2 + 0.5 * g3), 0.25)
    single = s.dW * (-1 * g1 + 4 / 3 * g2 + 2 / 3 * g3)
    double = (I11 / root) * (-1 * g1 + 4 / 3 * g2 - 1 / 3 * g3)
    mixed = (s.I10 / h) * (2 * g1 - 4 / 3 * g2 - 2 / 3 * g3)
    triple = (I111 / h) * (-2 * g1 + 5 / 3 * g2 - 2 / 3 * g3 + g4)
    return y + h * (f1 + 2 * f2) / 3 + single + double + mixed + triple


def _all(order: float, general: float, additive: float) -> dict[str, float]:
    return {"diagonal": order, "scalar": order, "additive": additive, "general": general}


_COMMUTATIVE = {"diagonal": 1.0, "scalar": 1.0, "additive": 1.0}
METHODS = {
    method.name: method
    for method in (
        Method("euler_maruyama", euler_maruyama, ("ito",), _all(0.5, 0.5, 1.0), 1),
        Method("milstein", milstein, SDE_TYPES, _COMMUTATIVE, 1),
        Method("milstein_derivative_free", milstein_derivative_free, SDE_TYPES, _COMMUTATIVE, 1),
        Method("heun", heun, ("stratonovich",), _all(1.0, 0.5, 1.0), 1),
        Method("euler_heun", euler_heun, ("stratonovich",), _all(1.0, 0.5, 1.0), 1),
        Method("midpoint", midpoint, ("stratonovich",), _all(1.0, 0.5, 1.0), 1),
        Method("reversible_heun", None, ("stratonovich",), _all(0.5, 0.5, 1.0), 1),
        Method("srk", srk, ("ito",), dict.fromkeys(_COMMUTATIVE, 1.5), 1.5, area=True),
    )
}


def find(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: with the nearest names there are.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method={name!r}: {nearest(str(name), METHODS)}")
    return METHODS[name]


def default(noise_type: str, sde_type: str, area: bool) -> str:
    """The method of highest strong order for such an equation, by what the noise can give."""
    if sde_type == "stratonovich":
        return "heun"
    if noise_type == "general":
        return "euler_maruyama"
    return "srk" if area else "milstein_derivative_free"


def _alternatives(noise_type: str, sde_type: str) -> str:
    known = [m.name for m in METHODS.values() if noise_type in m.strong and sde_type in m.sde_types]
    return " or ".join(known)
