"""The methods by name; see `fastgen.common.tableau` for what the numbers mean."""

from __future__ import annotations

from fastgen.common.errors import nearest
from fastgen.common.tableau import Tableau, hermite
from fastgen.ode.high_order import DOPRI8, TSIT5

DOPRI5 = Tableau(
    name="dopri5",
    order=5,
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    error=(
        71 / 57600,
        0.0,
        -71 / 16695,
        71 / 1920,
        -17253 / 339200,
        22 / 525,
        -1 / 40,
    ),
    dense=(
        (
            1.0,
            -8048581381 / 2820520608,
            8663915743 / 2820520608,
            -12715105075 / 11282082432,
        ),
        (0.0, 0.0, 0.0, 0.0),
        (
            0.0,
            131558114200 / 32700410799,
            -68118460800 / 10900136933,
            87487479700 / 32700410799,
        ),
        (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
        (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
        (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
        (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
    dense_order=4,
    source="Dormand and Prince 1980; interpolant of Shampine 1986",
)

BOSH3 = Tableau(
    name="bosh3",
    order=3,
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    dense=hermite((2 / 9, 1 / 3, 4 / 9, 0.0)),
    dense_order=3,
    source="Bogacki and Shampine 1989",
)

ADAPTIVE_HEUN = Tableau(
    name="adaptive_heun",
    order=2,
    c=(0.0, 1.0, 1.0),
    a=((), (1.0,), (1 / 2, 1 / 2)),
    error=(1 / 2, -1 / 2, 0.0),
    dense=hermite((1 / 2, 1 / 2, 0.0)),
    dense_order=2,
    source="Heun's method with Euler's embedded",
)

FEHLBERG2 = Tableau(
    name="fehlberg2",
    order=2,
    c=(0.0, 1 / 2, 1.0, 1.0),
    a=((), (1 / 2,), (1 / 256, 255 / 256), (1 / 512, 255 / 256, 1 / 512)),
    error=(-1 / 512, 0.0, 1 / 512, 0.0),
    dense=hermite((1 / 512, 255 / 256, 1 / 512, 0.0)),
    dense_order=2,
    source="Fehlberg 1969, RK1(2)",
)

FEHLBERG45 = Tableau(
    name="fehlberg45",
    order=5,
    c=(0.0, 1 / 4, 3 / 8, 12 / 13, 1.0, 1 / 2, 1.0),
    a=(
        (),
        (1 / 4,),
        (3 / 32, 9 / 32),
        (1932 / 2197, -7200 / 2197, 7296 / 2197),
        (439 / 216, -8.0, 3680 / 513, -845 / 4104),
        (-8 / 27, 2.0, -3544 / 2565, 1859 / 4104, -11 / 40),
        (16 / 135, 0.0, 6656 / 12825, 28561 / 56430, -9 / 50, 2 / 55),
    ),
    error=(1 / 360, 0.0, -128 / 4275, -2197 / 75240, 1 / 50, 2 / 55, 0.0),
    # Solved for here: all continuous order conditions up to 4 hold, value and slope at both ends
    # are those of the method, and the residual of order 5 is least.
    dense=(
        (1.0, -2.5786205252843266, 2.7275721002130404, -1.1266900319804922, 0.09625697557030076),
        (0.0, 0.0, 0.0, 0.0, 0.0),
        (0.0, 5.787797381310122, -10.537198217032921, 6.3059360640146, -1.0375488735159746),
        (0.0, -2.677531288438682, 6.36773889552779, -2.172226474029462, -1.0118496427176304),
        (0.0, 0.6339322179529112, -1.2948142117995212, -0.21216823025967257, 0.6930502241062855),
        (0.0, -2.6655777855401124, 6.736701433091719, -5.294851327744899, 1.2600913165569356),
        (0.0, 1.4999999999999996, -4.000000000000012, 2.500000000000017, 0.0),
    ),
    dense_order=4,
    source="Fehlberg 1969, RK4(5)",
)

EULER = Tableau(name="euler", order=1, c=(0.0,), a=((),), b=(1.0,), source="Euler 1768")
MIDPOINT = Tableau(
    name="midpoint", order=2, c=(0.0, 1 / 2), a=((), (1 / 2,)), b=(0.0, 1.0), source="Runge 1895"
)
HEUN = Tableau(
    name="heun", order=2, c=(0.0, 1.0), a=((), (1.0,)), b=(1 / 2, 1 / 2), source="Heun 1900"
)
RK4 = Tableau(
    name="rk4",
    order=4,
    c=(0.0, 1 / 3, 2 / 3, 1.0),
    a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    source="Kutta 1901, the 3/8 rule (torchdiffeq's rk4)",
)
RK4_CLASSIC = Tableau(
    name="rk4_classic",
    order=4,
    c=(0.0, 1 / 2, 1 / 2, 1.0),
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    source="Kutta 1901",
)

ADAPTIVE = {
    tableau.name: tableau
    for tableau in (DOPRI5, TSIT5, DOPRI8, BOSH3, FEHLBERG45, FEHLBERG2, ADAPTIVE_HEUN)
}
FIXED = {tableau.name: tableau for tableau in (EULER, MIDPOINT, HEUN, RK4, RK4_CLASSIC)}
# Linear multistep, without a tableau: see `fastgen.ode.fixed`.
EXPLICIT_ADAMS = "explicit_adams"
METHODS = (*ADAPTIVE, *FIXED, EXPLICIT_ADAMS)


def find(method: str) -> Tableau | None:
    """The tableau of a method, None for explicit Adams; a ValueError for an unknown name."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method={method!r}: {nearest(method, METHODS)}")
    return ADAPTIVE.get(method) or FIXED.get(method)
